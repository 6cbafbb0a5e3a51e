"""What the tests of bad requests share: services in this process, a finished study, and what an error must be."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from image_archives import dataset, plates
from local_services import LocalServices
from memory_object_store import MemoryObjectStore
from served import TOKEN, serving
from synthmix import Client
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.client import result_of
from synthmix.client.endpoints import Endpoints
from synthmix.client.transport import Channels, error_of
from synthmix.service_kit import open_operations
from synthmix.service_kit.artifacts import Manifest, write_manifest, write_payload
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    IMAGE_SYNTHESIS,
    SERVICES,
    STUDY_CONTROL,
    WORKER_SERVICES,
)
from synthmix.service_kit.errors import SynthMixError
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import find_result, read_record
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import OperationName
from synthmix.study_control import planning
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.steps import of_service

DATASET = "sim-few"
BY_PLATE = r"(?P<group>plate-\d+)"
NO_ID = "0" * 32
# What an error must leave as it was: artifacts, and the names that people gave to some.
KEPT = ("datasets/", "splits/", "adapters/", "image-sets/", "evaluations/", "trials/", "studies/")
NAMES = ("dataset-names/", "model-names/", "study-names/")
SPEC: dict[str, Any] = {
    "name": "bad",
    "dataset": DATASET,
    "split": {"test": 0.25, "validation": 0.15, "seed": 7},
    "adapters": {"rank": 4, "images_seen": 320},
    "synthesis": {"prompt": "a brightfield image of {label} cells", "steps": 4},
    "mixtures": {"ratios": [0, 0.25], "synthetic_only": True},
    "classifier": {"epochs": 1},
    "seeds": 1,
}

Act = Callable[["World"], Any]


@dataclass(frozen=True)
class World:
    """What a bad input is given to.

    Attributes:
        services: The address of each.
        study: A study of DATASET that is finished.
        folder: An empty folder.
    """

    services: dict[str, str]
    client: Client
    store: MemoryObjectStore
    study: studies_pb2.Study
    folder: Path

    def call(self, service: str, method: str, stub: Callable[[Any], Any], request: Any, token: str | None = "") -> Any:
        """One call past the client, whose own checks would come first; token None sends none."""
        metadata = () if token is None else (("authorization", f"Bearer {token or TOKEN}"),)
        address = self.services[service]
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                answer = getattr(stub(channel), method)(request, metadata=metadata, timeout=30)
                return answer if isinstance(answer, Message) else list(answer)
            except grpc.RpcError as error:
                raise error_of(error, service, address) from None

    def import_upload(self, archive: Path, **dataset: Any) -> Any:
        """Imports a ZIP past the client, which refuses some by itself."""
        described = {"display_name": "bad", "group_rule": {"pattern": BY_PLATE}} | dataset
        request = datasets_pb2.CreateDatasetRequest(
            upload=self.client.upload(archive).name,
            dataset=json_format.ParseDict(described, datasets_pb2.Dataset()),
        )
        operation = self.call(STUDY_CONTROL, "CreateDataset", datasets_pb2_grpc.DatasetServiceStub, request)
        return result_of(self.client.wait(operation.name), datasets_pb2.Dataset)


@dataclass(frozen=True)
class Case:
    """A bad input and the error that it deserves.

    Attributes:
        says: Patterns that the message has: the value, what is wrong with it, and the remedy.
        fields: Paths that BadRequest names.
    """

    name: str
    act: Act
    error: type[SynthMixError]
    reason: str
    says: tuple[str, ...]
    fields: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def finished_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHMIX_CACHE_DIR", str(folder / "cache"))
        store = MemoryObjectStore.created()
        claim_name(
            store, LOCAL, DATASET, dataset(store, folder, plates(plate_count=8)).name, account=None, replace=False
        )
        with serving(store) as addresses, Client(Channels(Endpoints(addresses, TOKEN))) as client:
            yield World(addresses, client, store, finished_study(store), folder)


@pytest.fixture
def world(finished_world: World, tmp_path: Path) -> World:
    return replace(finished_world, folder=tmp_path)


def finished_study(store: MemoryObjectStore) -> studies_pb2.Study:
    """A study whose artifacts are there."""
    services = LocalServices(store)
    laid_out = planning.lay_out(store, services, spec_of(SPEC | {"name": "finished"}), LOCAL)  # type: ignore[arg-type]
    for step in laid_out.steps:
        services.create(step.service, step.request)
    targets = {service: [step.target for step in of_service(laid_out.steps, service)] for service in WORKER_SERVICES}
    report = write_payload(store, laid_out.name, "report.html", b"<html>")
    write_manifest(store, Manifest(laid_out.name, {}, laid_out.record(), 1, (report,)))
    return studies_pb2.Study(
        name=str(laid_out.name),
        dataset=laid_out.dataset.name,
        split=laid_out.split.name,
        adapters=targets[ADAPTER_TRAINING],
        image_sets=targets[IMAGE_SYNTHESIS],
    )


def spec_of(value: dict[str, Any]) -> studies_pb2.StudySpec:
    """A specification from its JSON, in which a section of one settings needn't be a list."""
    lists = {key: [value[key]] for key in ("adapters", "synthesis", "selection") if isinstance(value.get(key), dict)}
    return json_format.ParseDict(value | lists, studies_pb2.StudySpec())


def check_error(error: SynthMixError, case: Case) -> None:
    assert type(error) is case.error, error.message
    assert error.reason == case.reason
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{2,62}", error.reason)
    assert {violation.field for violation in error.violations} >= set(case.fields)
    for pattern in case.says:
        assert re.search(pattern, error.message), f"{pattern!r} isn't in: {error.message}"
    for violation in error.violations:
        assert violation.field
        assert violation.description


def unfinished(store: ObjectStore) -> list[OperationName]:
    opened = [name for service in SERVICES for name in open_operations.names(store, service)]
    return [name for name in opened if find_result(store, read_record(store, name)) is None]


def kept(store: ObjectStore) -> set[str]:
    return {item.key for item in store.list("") if item.key.startswith((*KEPT, *NAMES))}


def check_nothing_is_half_written(store: ObjectStore, before: set[str]) -> None:
    assert kept(store) == before
    assert unfinished(store) == []


def check_case(case: Case, world: World) -> None:
    """Does what is bad; it has to fail as it should and to leave nothing behind."""
    before = kept(world.store)
    with pytest.raises(SynthMixError) as raised:
        case.act(world)
    check_error(raised.value, case)
    check_nothing_is_half_written(world.store, before)
