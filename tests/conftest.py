"""What the tests of every tier share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from synthmix.service_kit.kept_values import give_back

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core; torch's threads, one a core in each, would be in their way
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Of `--numprocesses=auto`, for tests that wait at times: one process more than there are processors."""
    return (os.cpu_count() or 1) + 1 if config.option.numprocesses == "auto" else None


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that no other test has filled."""
    monkeypatch.setenv("SYNTHMIX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    """Memory that no other test has filled, and what the test keeps in it goes."""
    give_back()
    yield
    give_back()


@pytest.fixture
def any_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any folder and any model of the hub, as on one machine."""
    monkeypatch.setenv("SYNTHMIX_BASE_MODEL_FOLDERS", "/")
    monkeypatch.setenv("SYNTHMIX_HUB_MODELS", "*")
