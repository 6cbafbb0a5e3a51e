"""The scripts of tests/benchmarks run for an hour and seldom: what they import from the package has to be there."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# What the others of its folder share is imported by each of them.
SCRIPTS = sorted({*FOLDER.glob("*.py"), *FOLDER.glob("performance/*.py")} - {FOLDER / "performance/side_by_side.py"})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_script_imports_is_there(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    specification = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert callable(module.main)
