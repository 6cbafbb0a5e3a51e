"""One embedded stack for all integration tests that don't break it, and the reduced study that they run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from service_kit.object_store import ObjectStore
from synthmix import Client
from synthmix.embedded import Connection, embedded_stack
from synthmix_api.studies.v1 import studies_pb2

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MITOCHECK_SIX = ("Interphase", "Apoptosis", "Binuclear", "Polylobed", "Prometaphase", "OutOfFocus")
PLATE = r"(?P<group>[^/]+?)___"
FIELD = r"(?P<group>(293A|HT1080)-\d{6})"


def reduced_study(name: str, dataset: str, **changes: Any) -> studies_pb2.StudySpec:
    """A study that is whole in shape and small in everything: seconds of training, not minutes."""
    value: dict[str, Any] = {
        "name": name,
        "dataset": dataset,
        "split": {"test": 0.25, "validation": 0.15, "seed": 7},
        "adapters": {"rank": [4], "images_seen": [64]},
        "synthesis": {"prompt": "a brightfield image of {label} cells", "steps": 2},
        "mixtures": {"ratios": [0, 0.25], "synthetic_only": True},
        "classifier": {"epochs": 1},
        "seeds": 1,
    }
    return json_format.ParseDict(value | changes, studies_pb2.StudySpec())


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with embedded_stack(tmp_path_factory.mktemp("stack")) as connection:
        yield connection


@pytest.fixture(scope="session")
def client(stack: Connection) -> Iterator[Client]:
    with Client.connect(stack.home) as client:
        yield client


@pytest.fixture(scope="session")
def store(stack: Connection) -> ObjectStore:
    return ObjectStore(stack.object_store)
