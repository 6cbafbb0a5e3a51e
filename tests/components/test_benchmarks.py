"""The scripts of tests/benchmarks run for an hour and seldom: what they use of the package has to be there."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from synthmix.adapter_training import task

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# What the others of its folder share is imported by each of them.
SCRIPTS = sorted({*FOLDER.glob("*.py"), *FOLDER.glob("performance/*.py")} - {FOLDER / "performance/side_by_side.py"})


def loaded(script: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(script.parent))
    specification = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_script_imports_is_there(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(loaded(script, monkeypatch).main)


def test_a_timed_worker_makes_adapters(
    own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It calls the task of adapter training as Ray does."""
    monkeypatch.setattr(task, "open_object_store", task.open_object_store)  # the script replaces it
    timed, worker = (
        loaded(FOLDER / f"performance/{name}.py", monkeypatch) for name in ("adapter_training", "adapter_worker")
    )
    images = np.random.default_rng(0).integers(0, 256, (32, 64, 64, 3), dtype=np.uint8)
    store = timed.stored_split(tmp_path / "store.zip", tmp_path, images)
    monkeypatch.setattr("sys.argv", ["adapter_worker.py", str(store), "2", "4", "bfloat16"])
    worker.main()
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert 0 < first[0] < second[0]
