"""Programs that the Makefile builds from source, and Go modules whose files the tests read."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synthmix" / "tools" / "bin"
"""Where the Makefile puts programs."""

KUBERAY = "github.com/ray-project/kuberay/ray-operator@v1.6.0"
KWOK = "sigs.k8s.io/kwok@v0.8.0"
"""Modules of the versions that the Makefile builds."""


def tool(name: str) -> str:
    """A program that make has built, or that is installed."""
    found = shutil.which(name, path=os.pathsep.join([str(TOOLS), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        pytest.fail(f"{name} isn't there; README says under Tests where it comes from")
    return found


@cache
def module_folder(module: str) -> Path:
    """Where Go keeps a module, path@version; it downloads what isn't there."""
    command = ["go", "mod", "download", "-json", module]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    answer = json.loads(result.stdout or "{}")
    assert "Dir" in answer, f"{' '.join(command)}: {answer.get('Error') or result.stderr}"
    return Path(answer["Dir"])
