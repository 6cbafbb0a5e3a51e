"""The audit: one line for each call that may change something, whoever made it and however it ended."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from image_archives import plates, zipped
from memory_object_store import MemoryObjectStore
from served import TOKEN, serving
from synthmix.api.adapters.v1 import adapters_pb2, adapters_pb2_grpc
from synthmix.api.artifacts.v1 import artifacts_pb2_grpc
from synthmix.api.clusters.v1 import clusters_pb2, clusters_pb2_grpc
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.api.studies.v1 import studies_pb2, studies_pb2_grpc
from synthmix.client.client import Client, GroupRule
from synthmix.client.endpoints import Endpoints
from synthmix.client.transport import Channels
from synthmix.service_kit.authentication import Identity
from synthmix.service_kit.environment import ADAPTER_TRAINING, STUDY_CONTROL
from synthmix.service_kit.errors import PermissionDenied, SynthMixError
from synthmix.service_kit.owners import Fixed
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.transport import error_of
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("own_cache")

CONTROL = "system:serviceaccount:lab:synthmix-study-control"
STUDY = f"studies/{'a' * 32}"


class Users:
    """Stands for the cluster: a token is its user's name. Mallory may do nothing."""

    async def check(self, token: str, method: str) -> Identity:
        if token == "mallory":
            raise PermissionDenied("mallory may not; ask", reason="RIGHT_MISSING")
        return Identity(token, names_others=token == CONTROL, administration=Fixed(False))


@pytest.fixture
def services(caplog: pytest.LogCaptureFixture) -> Iterator[dict[str, str]]:
    caplog.set_level(logging.INFO, "synthmix.service_kit.audit")
    with serving(MemoryObjectStore.created(), Users()) as addresses:
        yield addresses


Lines = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """So many lines, and no more, since it was asked for last; that of an error comes behind the answer."""

    def read(count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(texts()) >= count, "the lines are written", 10.0)
        found = texts()
        caplog.clear()
        assert len(found) == count and not [text for text in found if "\n" in text]
        return [json.loads(text.removeprefix("audit ")) for text in found]

    def texts() -> list[str]:
        return [item.getMessage() for item in list(caplog.records) if item.name == "synthmix.service_kit.audit"]

    return read


def call(address: str, stub: Any, method: str, request: Any, *metadata: tuple[str, Any], user: str = "ada") -> Any:
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        shown = (("authorization", f"Bearer {user}"),) if user else ()
        try:
            return getattr(stub(channel), method)(request, metadata=(*shown, *metadata), timeout=30)
        except grpc.RpcError as error:
            raise error_of(error, "a service", address) from None


def test_what_changes_something_leaves_one_line_each(services: dict[str, str], lines: Lines, tmp_path: Path) -> None:
    with Client(Channels(Endpoints(services, "ada"))) as client:
        archive = zipped(tmp_path / "cells.zip", plates())
        dataset = client.import_dataset(archive, "cells", group=GroupRule(none=True))
        upload, imported = lines(2)
        assert upload["method"] == "/synthmix.artifacts.v1.ArtifactService/UploadFile"
        assert upload["resource"].startswith("uploads/")
        assert imported["method"] == "/synthmix.datasets.v1.DatasetService/CreateDataset"
        assert imported["resource"].startswith("operations/study-control/"), "which dataset it is, only the work tells"
        split = client.create_split("cells", test=0.25, validation=0.15)
        settings = adapters_pb2.AdapterSettings(prompt="{label}", rank=4)
        adapter = adapters_pb2.Adapter(train_split=f"{split.name}/parts/train", settings=settings)
        client.adapters.plan(adapter)
        operation = client.adapters.create(adapter)
        client.cancel(operation.name)
        made, planned, created, cancelled = lines(4)
        assert made["resource"] == split.name
        assert planned["validate_only"] is True and "validate_only" not in created
        assert created["resource"] == f"adapters/{operation.name.rpartition('/')[2]}"
        assert cancelled["resource"] == operation.name
        for line in (upload, imported, made, planned, created, cancelled):
            assert (line["caller"], line["code"], "owner" in line) == ("ada", "OK", False)
            assert line["request_id"]
    with Client(Channels(Endpoints(services, "bob"))) as client:
        other = client.import_dataset(
            zipped(tmp_path / "o.zip", plates(plate_count=5)), "mine", group=GroupRule(none=True)
        )
        lines(2)
        left = client.remove_images("mine", images=["alpha/plate-1_0.png"], validate_only=True)
        [removal] = lines(1)
        assert (removal["resource"], removal["named"]) == (left.name, "datasets/mine")
        client.delete_dataset("mine")
        [deleted] = lines(1)
        assert (deleted["resource"], deleted["deleted"]) == ("datasets/mine", [other.name])
        assert dataset.name not in str(deleted)


def test_reads_and_probes_leave_none(services: dict[str, str], lines: Lines, tmp_path: Path) -> None:
    control = services[STUDY_CONTROL]
    with Client(Channels(Endpoints(services, "ada"))) as client:
        list(client.list_datasets())
        list(client.list_operations(STUDY_CONTROL))
        client.check_health(STUDY_CONTROL)
    call(control, health_pb2_grpc.HealthStub, "Check", health_pb2.HealthCheckRequest(), user="")
    with pytest.raises(SynthMixError):
        call(control, studies_pb2_grpc.StudyServiceStub, "GetStudy", studies_pb2.GetStudyRequest(), user="mallory")
    assert lines(0) == []


@pytest.mark.parametrize(
    ("user", "caller", "code"),
    [("mallory", "", "PERMISSION_DENIED"), ("", "", "UNAUTHENTICATED"), ("ada", "ada", "NOT_FOUND")],
)
def test_what_is_refused_leaves_a_line_as_well(
    user: str, caller: str, code: str, services: dict[str, str], lines: Lines
) -> None:
    request = studies_pb2.DeleteStudyRequest(name=STUDY)
    with pytest.raises(SynthMixError) as refused:
        call(services[STUDY_CONTROL], studies_pb2_grpc.StudyServiceStub, "DeleteStudy", request, user=user)
    [line] = lines(1)
    assert (line["caller"], line["code"], line["resource"]) == (caller, code, STUDY)
    assert line["request_id"] == refused.value.metadata["request_id"], "the caller can say which line is theirs"


def test_what_no_method_takes_leaves_a_line(services: dict[str, str], lines: Lines) -> None:
    with grpc.insecure_channel(services[STUDY_CONTROL], [("grpc.enable_http_proxy", 0)]) as channel:
        method = channel.unary_unary("/synthmix.studies.v1.StudyService/DeleteStudy")
        with pytest.raises(grpc.RpcError):
            method(b"\xff\xff", metadata=(("authorization", "Bearer ada"),), timeout=30)
    [line] = lines(1)
    assert (line["caller"], line["code"], line["resource"]) == ("ada", "INVALID_ARGUMENT", "")


def test_a_service_is_told_from_whom_it_asks_for(services: dict[str, str], lines: Lines) -> None:
    request = adapters_pb2.DeleteAdapterRequest(name=f"adapters/{'b' * 32}")
    with pytest.raises(SynthMixError):
        call(
            services[ADAPTER_TRAINING],
            adapters_pb2_grpc.AdapterServiceStub,
            "DeleteAdapter",
            request,
            *Requester("ada", STUDY).metadata(),
            user=CONTROL,
        )
    [line] = lines(1)
    assert (line["caller"], line["owner"]) == (CONTROL, "ada")


def test_one_request_id_goes_through_study_control(services: dict[str, str], lines: Lines) -> None:
    request = operations_pb2.CancelOperationRequest(name=f"operations/adapter-training/{'c' * 32}")
    for given, used in (("mine-7", True), ("with spaces", False), ("x" * 65, False)):
        with pytest.raises(SynthMixError) as refused:
            call(
                services[STUDY_CONTROL],
                operations_pb2_grpc.OperationsStub,
                "CancelOperation",
                request,
                ("x-request-id", given),
            )
        passed_on, asked = lines(2)
        assert passed_on["request_id"] == asked["request_id"] == refused.value.metadata["request_id"]
        assert (asked["request_id"] == given) is used
        assert passed_on["caller"] == asked["caller"] == "ada"


def test_a_line_holds_no_break_and_no_secret(services: dict[str, str], lines: Lines) -> None:
    name = 'x\n{"caller": "root"}\x1b[2J' + "y" * 1000
    with pytest.raises(SynthMixError):
        call(
            services[STUDY_CONTROL],
            studies_pb2_grpc.StudyServiceStub,
            "DeleteStudy",
            studies_pb2.DeleteStudyRequest(name=name),
            user=TOKEN,
        )
    [line] = lines(1)
    assert line["caller"] == "local" and TOKEN not in str(line)
    assert "\n" not in line["resource"] and "\x1b" not in line["resource"] and len(line["resource"]) < 250


@pytest.mark.parametrize(
    ("stub", "method", "request_", "resource"),
    [
        (
            clusters_pb2_grpc.ClusterServiceStub,
            "ScaleWorkerGroup",
            clusters_pb2.ScaleWorkerGroupRequest(worker_group="image-synthesis", max_workers=1),
            "image-synthesis",
        ),
        (
            studies_pb2_grpc.StudyServiceStub,
            "CreateStudy",
            studies_pb2.CreateStudyRequest(spec=studies_pb2.StudySpec(name="first")),
            "first",
        ),
        (
            datasets_pb2_grpc.DatasetServiceStub,
            "CreateDataset",
            datasets_pb2.CreateDatasetRequest(dataset=datasets_pb2.Dataset(display_name="cells")),
            "cells",
        ),
        (artifacts_pb2_grpc.ArtifactServiceStub, "UploadFile", iter([]), ""),
    ],
)
def test_what_a_refused_change_was_about(
    stub: Any,
    method: str,
    request_: Any,
    resource: str,
    services: dict[str, str],
    lines: Lines,
) -> None:
    with pytest.raises(SynthMixError):
        call(services[STUDY_CONTROL], stub, method, request_)
    [line] = lines(1)
    assert line["resource"] == resource and line["code"] not in ("OK", "INTERNAL", "UNKNOWN")
