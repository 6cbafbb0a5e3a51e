"""Programs that the Makefile builds from source, and Go modules whose files the tests read."""

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synthmix" / "tools" / "bin"
"""Where the Makefile puts programs."""


def _pinned(variable: str) -> str:
    """A variable of the Makefile, which alone pins versions."""
    [value] = re.findall(rf"^{variable} := (\S+)$", (Path(__file__).parents[1] / "Makefile").read_text(), re.MULTILINE)
    return str(value)


KUBERAY = _pinned("KUBERAY")
KWOK = _pinned("KWOK")
"""Go modules, path@version."""


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
