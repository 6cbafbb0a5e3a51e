"""Programs that tests run, and Go modules whose files they read."""

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest

import programs


def tool(name: str) -> str:
    """A program that make has built, or that is installed."""
    found = programs.find(name)
    if found is None:
        pytest.fail(f"{name} is not there; README says under Tests where it comes from")
    return found


@cache
def module_folder(module: str) -> Path:
    """Where Go keeps a module, path@version; it downloads what is not there."""
    command = [programs.go(), "mod", "download", "-json", module]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    answer = json.loads(result.stdout or "{}")
    assert "Dir" in answer, f"{' '.join(command)}: {answer.get('Error') or result.stderr}"
    return Path(answer["Dir"])
