"""The client against real gRPC on loopback: errors, token, retries, broken streams and wrong bytes."""

import functools
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import empty_pb2

import fake_services as fake
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.base_models.v1 import base_models_pb2
from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client import client as client_module
from synthmix.client.adapter_imports import read_adapter
from synthmix.client.client import Client, GroupRule, PixelRule, Transfer, metadata_of, result_of
from synthmix.client.endpoints import default_home, find_endpoints
from synthmix.client.safetensors_files import numbers
from synthmix.client.transport import Service
from synthmix.service_kit import errors, operation_calls
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.transport import retry_waits_s, service_config

UNUSED_ADDRESS = "127.0.0.1:1"


@pytest.fixture
def services() -> Iterator[fake.FakeServices]:
    with fake.serving() as services:
        yield services


@pytest.fixture
def client(services: fake.FakeServices) -> Iterator[Client]:
    with Client.connect(addresses=services.address, token=fake.TOKEN) as client:
        yield client


def fails(error: errors.SynthMixError) -> fake.Handler:
    def handler(request: Any, context: Any) -> Any:
        raise error

    return handler


# Endpoints


def test_one_address_serves_all_services() -> None:
    endpoints = find_endpoints(addresses="synthmix.example:443", token="t")
    assert set(endpoints.addresses) == set(SERVICES)
    assert set(endpoints.addresses.values()) == {"synthmix.example:443"}
    assert not endpoints.tls


@pytest.mark.parametrize(
    ("address", "target", "tls"),
    [
        ("https://synthmix.example", "synthmix.example:443", True),
        ("https://synthmix.example:8443/", "synthmix.example:8443", True),
        ("http://synthmix.example", "synthmix.example:80", False),
        ("[::1]:50051", "[::1]:50051", False),
    ],
)
def test_schemes(address: str, target: str, tls: bool) -> None:
    endpoints = find_endpoints(addresses=address, token="t")
    assert endpoints.addresses["study-control"] == target
    assert endpoints.tls == tls


def test_addresses_by_service_as_text_and_from_the_environment() -> None:
    text = ",".join(f"{service}=127.0.0.1:{5000 + index}" for index, service in enumerate(SERVICES))
    endpoints = find_endpoints(environment={"SYNTHMIX_ADDRESS": text, "SYNTHMIX_TOKEN": "t"})
    assert endpoints.addresses == {service: f"127.0.0.1:{5000 + i}" for i, service in enumerate(SERVICES)}
    assert endpoints.token == "t"


@pytest.mark.parametrize(
    "address",
    [
        "nowhere",
        "host:port",
        ":50051",
        "host:70000",
        "ftp://host",
        "host:1/path",
        "study-control=host:1",
        "studies=h:1",
    ],
)
def test_addresses_that_cannot_be_used(address: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="cannot be used"):
        find_endpoints(addresses=address, token="t")


def test_an_address_needs_a_token() -> None:
    with pytest.raises(errors.Unauthenticated, match="SYNTHMIX_TOKEN"):
        find_endpoints(addresses="host:1", environment={})


def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from a file\n")
    environment = {"SYNTHMIX_ADDRESS": "host:1", "SYNTHMIX_TOKEN_FILE": str(file)}
    assert find_endpoints(environment=environment).token == "from a file"
    assert find_endpoints(environment=environment | {"SYNTHMIX_TOKEN": "t"}).token == "t"
    assert find_endpoints(token="given", environment=environment).token == "given"
    for content, said in ((b"\n", "holds no token"), (b"\xff\xfe", "holds no token"), (None, "No such file")):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(errors.InvalidArgument, match=f"{said}.*; check SYNTHMIX_TOKEN_FILE") as caught:
            find_endpoints(environment=environment)
        assert caught.value.reason == "TOKEN_FILE_UNREADABLE"


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(find_endpoints(addresses="host:1", token="secret"))


def test_tls_authorities_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="SYNTHMIX_TLS_CA"):
        Client.connect(addresses="host:1", token="t", tls_ca=tmp_path / "absent.pem")


def test_home_comes_from_the_environment(tmp_path: Path) -> None:
    assert default_home({"SYNTHMIX_HOME": str(tmp_path)}) == tmp_path
    assert default_home({}) == Path.home() / ".synthmix"


def test_no_stack_at_home(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match=r"no stack runs at .*; start one with `synthmix up`"):
        Client.connect(tmp_path)


def test_a_stack_at_home_says_its_addresses_and_token(services: fake.FakeServices, tmp_path: Path) -> None:
    services.answers["GetStudy"] = lambda request, context: fake.study()
    with fake.stack_at(tmp_path, services), Client.connect(tmp_path) as client:
        assert client.get_study("demo").name == fake.STUDY


# Calls and errors


def test_the_token_is_sent_and_refused(services: fake.FakeServices) -> None:
    services.answers["GetStudy"] = lambda request, context: fake.study()
    with Client.connect(addresses=services.address, token=fake.TOKEN) as client:
        assert client.get_study("demo").name == fake.STUDY
    with (
        Client.connect(addresses=services.address, token="wrong") as client,
        pytest.raises(errors.Unauthenticated, match="not this server's"),
    ):
        client.get_study("demo")


def test_a_servers_error_arrives_whole(services: fake.FakeServices, client: Client) -> None:
    sent = errors.invalid_field("spec.mixtures.ratios[2]", -1.0, "is out of range", "use 0 to 10")
    services.answers["CreateStudy"] = fails(sent)
    with pytest.raises(errors.InvalidArgument) as caught:
        client.submit_study(studies_pb2.StudySpec(name="demo"))
    assert caught.value.message == sent.message
    assert caught.value.reason == sent.reason
    assert caught.value.violations == sent.violations


def test_a_status_without_details_is_mapped(services: fake.FakeServices, client: Client) -> None:
    with pytest.raises(errors.Internal, match=r"adapter-training at 127\.0\.0\.1:\d+ answers UNKNOWN"):
        client.adapters.get(f"adapters/{fake.ID}")  # no answer is set: the handler raises KeyError


def test_a_service_that_cannot_be_reached_is_named() -> None:
    with (
        Client.connect(addresses=UNUSED_ADDRESS, token="t") as client,
        pytest.raises(errors.Unavailable, match=f"study-control at {UNUSED_ADDRESS} cannot be reached") as caught,
    ):
        client.get_study("demo")
    assert "synthmix doctor" in caught.value.message


def test_a_service_that_does_not_answer_in_time(
    services: fake.FakeServices, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    services.answers["GetStudy"] = lambda request, context: released.wait(10)
    monkeypatch.setattr(Service, "call", functools.partialmethod(Service.call, timeout_s=0.2))
    with pytest.raises(errors.Unavailable, match="did not answer in time"):
        client.get_study("demo")
    released.set()


def test_unavailable_is_tried_again_where_that_is_safe(services: fake.FakeServices, client: Client) -> None:
    def second_time(request: Any, context: Any) -> Any:
        if len(services.requests["CreateStudy"]) == 1:
            raise errors.Unavailable("starting", reason="NOT_SERVING")
        return fake.operation(fake.STUDY_OPERATION, target=fake.STUDY)

    services.answers["CreateStudy"] = second_time
    client.submit_study(studies_pb2.StudySpec(name="demo"))
    assert len(services.requests["CreateStudy"]) == 2


def test_an_upload_is_not_sent_again_by_grpc(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"abc")
    services.answers["UploadFile"] = fails(errors.Unavailable("down", reason="STORE_DOWN"))
    with pytest.raises(errors.Unavailable):
        client.upload(tmp_path / "a.zip")
    assert len(services.requests["UploadFile"]) == 1


def test_grpc_asks_every_method_again_but_streams() -> None:
    """One that is asked again while a server starts may wait for ever, and an upload would have to be kept."""
    [every, exception] = json.loads(service_config())["methodConfig"]
    assert every["name"] == [{}]  # gRPC's default entry
    assert every["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert "retryPolicy" not in exception
    files = (
        adapters_pb2,
        artifacts_pb2,
        base_models_pb2,
        clusters_pb2,
        datasets_pb2,
        evaluations_pb2,
        image_sets_pb2,
        studies_pb2,
    )
    streams = [
        {"service": service.full_name, "method": method.name}
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.client_streaming or method.server_streaming
    ]
    assert sorted(exception["name"], key=str) == sorted(streams, key=str)


def test_a_download_is_asked_for_again_until_its_first_chunk(services: fake.FakeServices, client: Client) -> None:
    down = errors.Unavailable("starting", reason="NOT_SERVING")

    def third_time(request: Any, context: Any) -> Iterator[Any]:
        if len(services.requests["DownloadPayload"]) < 3:
            raise down
        yield artifacts_pb2.DownloadPayloadResponse(chunk=b"abc")

    services.answers["DownloadPayload"] = third_time
    assert list(client._read_payload(fake.STUDY, "report.html")) == [b"abc"]
    assert len(services.requests["DownloadPayload"]) == 3


def test_a_download_is_given_up_after_as_many_attempts_as_grpc_has(services: fake.FakeServices, client: Client) -> None:
    services.answers["DownloadPayload"] = fails(errors.Unavailable("down", reason="STORE_DOWN"))
    with pytest.raises(errors.Unavailable, match="down"):
        list(client._read_payload(fake.STUDY, "report.html"))
    policy = json.loads(service_config())["methodConfig"][0]["retryPolicy"]
    assert len(services.requests["DownloadPayload"]) == policy["maxAttempts"] == len(retry_waits_s()) + 1


def test_a_download_that_nothing_comes_of_ends(
    services: fake.FakeServices, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not one whose reader takes its time."""
    monkeypatch.setattr(client_module, "LONGEST_SILENCE_S", 0.3)
    goes_on = threading.Event()

    def stalled(request: Any, context: Any) -> Iterator[Any]:
        yield artifacts_pb2.DownloadPayloadResponse(chunk=b"abc")
        yield artifacts_pb2.DownloadPayloadResponse(chunk=b"def")
        goes_on.wait(30)

    services.answers["DownloadPayload"] = stalled
    chunks = client._read_payload(fake.STUDY, "report.html")
    try:
        assert next(chunks) == b"abc"
        time.sleep(0.6)
        assert next(chunks) == b"def"
        with pytest.raises(errors.Unavailable, match="did not answer in time") as caught:
            next(chunks)
    finally:
        goes_on.set()
    assert caught.value.reason == "DEADLINE_EXCEEDED"


def test_a_download_that_breaks_off_is_not_begun_again(services: fake.FakeServices, client: Client) -> None:
    """Its bytes would be written twice."""

    def broken(request: Any, context: Any) -> Iterator[Any]:
        yield artifacts_pb2.DownloadPayloadResponse(chunk=b"abc")
        raise errors.Unavailable("stopping", reason="NOT_SERVING")

    services.answers["DownloadPayload"] = broken
    with pytest.raises(errors.Unavailable, match="stopping"):
        list(client._read_payload(fake.STUDY, "report.html"))
    assert len(services.requests["DownloadPayload"]) == 1


def test_health(services: fake.FakeServices, client: Client) -> None:
    client.check_health("image-synthesis")


# Resources


def test_listings_follow_page_tokens(services: fake.FakeServices, client: Client) -> None:
    pages = {"": (["a", "b"], "1"), "1": ([], "2"), "2": (["c"], "")}

    def page(request: datasets_pb2.ListDatasetsRequest, context: Any) -> datasets_pb2.ListDatasetsResponse:
        names, token = pages[request.page_token]
        return datasets_pb2.ListDatasetsResponse(
            datasets=[datasets_pb2.Dataset(display_name=name) for name in names], next_page_token=token
        )

    services.answers["ListDatasets"] = page
    assert [item.display_name for item in client.list_datasets()] == ["a", "b", "c"]


def test_short_names_are_qualified(services: fake.FakeServices, client: Client) -> None:
    services.answers["GetDataset"] = lambda request, context: datasets_pb2.Dataset(name=request.name)
    assert client.get_dataset("mitocheck-six").name == "datasets/mitocheck-six"
    assert client.get_dataset(f"datasets/{fake.ID}").name == f"datasets/{fake.ID}"


def test_plans_come_from_validate_only(services: fake.FakeServices, client: Client) -> None:
    services.answers["CreateStudy"] = lambda request, context: fake.operation(
        "", response=studies_pb2.StudyPlan(name=fake.STUDY, predicted_seconds=12.5)
    )
    services.answers["CreateAdapter"] = lambda request, context: fake.operation(
        "", response=progress_pb2.Plan(total=4800)
    )
    assert client.plan_study(studies_pb2.StudySpec(name="demo")).predicted_seconds == 12.5
    assert client.adapters.plan(adapters_pb2.Adapter()).total == 4800
    assert services.requests["CreateStudy"][0].validate_only
    assert services.requests["CreateAdapter"][0].validate_only


def test_import_packs_uploads_and_waits(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "chip-1.png").write_bytes(b"\x89PNG" + bytes(3_000_000))
    made = datasets_pb2.Dataset(name=f"datasets/{fake.ID}", display_name="cells", image_count=2)
    services.answers["UploadFile"] = fake.upload
    services.answers["CreateDataset"] = lambda request, context: fake.operation(fake.STUDY_OPERATION, total=2)
    services.answers["WaitOperation"] = lambda request, context: fake.operation(
        fake.STUDY_OPERATION, response=made, done=2, total=2, unit="images"
    )
    seen: list[Transfer] = []
    dataset = client.import_dataset(
        tmp_path,
        "cells",
        group=GroupRule(pattern=r"chip-(?P<group>\d)"),
        classes=["a", "b"],
        pixels=PixelRule(channels=[3], plane=2),
        progress=seen.append,
    )
    assert dataset == made
    request = services.requests["CreateDataset"][0]
    assert request.upload.startswith("uploads/")
    assert request.dataset.group_rule.pattern == r"chip-(?P<group>\d)"
    assert list(request.dataset.classes) == ["a", "b"]
    assert request.dataset.pixels == PixelRule(channels=[3], plane=2)
    stages = list(dict.fromkeys(item.stage for item in seen))
    assert stages == ["packing", "uploading", "importing"]
    assert all(item.done <= item.total for item in seen if item.total)


def test_an_upload_that_arrives_changed_is_noticed(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"abc")

    def other(request: Iterator[Any], context: Any) -> artifacts_pb2.Upload:
        return fake.upload(iter([*request, artifacts_pb2.UploadFileRequest(chunk=b"!")]), context)

    services.answers["UploadFile"] = other
    with pytest.raises(errors.DataLoss, match="is not what was sent"):
        client.upload(tmp_path / "a.zip")


def test_import_refuses_a_bad_name_before_packing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="lower-case letters"):
        client.import_dataset(tmp_path / "absent", "Bad Name", group=GroupRule(none=True))


# Downloads

PAYLOADS = {
    "report.html": b"<html>",
    "report.json": b"{}",
    "results.csv": b"a,b\n",
    "extra.bin": b"0123456789",
}


def test_a_report_is_written_and_checked(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    services.answers["GetStudy"] = lambda request, context: fake.study(payloads=PAYLOADS)
    services.answers["DownloadPayload"] = fake.download_of(PAYLOADS)
    paths = client.download_report("demo", tmp_path / "report")
    assert [path.name for path in paths] == ["report.html", "report.json", "results.csv"]
    assert {path.name: path.read_bytes() for path in paths} == {key: PAYLOADS[key] for key in list(PAYLOADS)[:3]}
    assert services.requests["DownloadPayload"][0].artifact == fake.STUDY

    client.download_report("demo", tmp_path / "report")
    assert len(services.requests["DownloadPayload"]) == 3, "what is there already isn't fetched again"


def test_wrong_bytes_leave_nothing(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    services.answers["GetStudy"] = lambda request, context: fake.study(payloads=PAYLOADS)
    services.answers["DownloadPayload"] = fake.download_of(PAYLOADS | {"report.html": b"<hacked>"})
    with pytest.raises(errors.DataLoss, match=r"report\.html arrived with sha256"):
        client.download_report("demo", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_leaves_nothing(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    def broken(request: Any, context: Any) -> Iterator[Any]:
        yield artifacts_pb2.DownloadPayloadResponse(chunk=b"<ht")
        raise errors.Unavailable("object storage is down", reason="STORE_DOWN")

    services.answers["GetStudy"] = lambda request, context: fake.study(payloads=PAYLOADS)
    services.answers["DownloadPayload"] = broken
    with pytest.raises(errors.Unavailable, match="object storage is down"):
        client.download_report("demo", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt"])
def test_a_payload_never_leaves_its_folder(
    name: str, services: fake.FakeServices, client: Client, tmp_path: Path
) -> None:
    adapter = adapters_pb2.Adapter(name=f"adapters/{fake.ID}", payloads=[fake.payload(name, b"x")])
    services.answers["GetAdapter"] = lambda request, context: adapter
    with pytest.raises(errors.DataLoss, match="outside of its folder"):
        client.download(adapter.name, tmp_path / "here")


def test_payloads_may_lie_in_folders(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    adapter = adapters_pb2.Adapter(name=f"adapters/{fake.ID}", payloads=[fake.payload("unet/weights", b"12345678")])
    services.answers["GetAdapter"] = lambda request, context: adapter
    services.answers["DownloadPayload"] = fake.download_of({"unet/weights": b"12345678"})
    assert client.download(adapter.name, tmp_path) == [tmp_path / "unet" / "weights"]


def test_no_report_yet(services: fake.FakeServices, client: Client, tmp_path: Path) -> None:
    services.answers["GetStudy"] = lambda request, context: fake.study("STATE_RUNNING")
    with pytest.raises(errors.FailedPrecondition, match="is running and has no report; follow it"):
        client.download_report("demo", tmp_path)
    services.answers["GetStudy"] = lambda request, context: fake.study("STATE_CANCELLED")
    with pytest.raises(errors.FailedPrecondition, match="is cancelled and has no report; submit it again"):
        client.download_report("demo", tmp_path)


def test_what_cannot_be_downloaded(client: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument, match="has nothing to download"):
        client.download("splits/abc", tmp_path)


def lora_file(up: Sequence[float]) -> bytes:
    """A stored LoRA of rank 1 in one layer of two outputs and an input, scaled by 1."""
    header = {
        "__metadata__": {"lora_adapter_metadata": '{"unet.peft_type": "LORA", "unet.r": 1, "unet.lora_alpha": 1}'},
        "unet.to_q.lora_A.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]},
        "unet.to_q.lora_B.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [4, 12]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<3f", 1.0, *up)


def test_adapters_of_the_service_and_files_are_merged(
    services: fake.FakeServices, client: Client, tmp_path: Path
) -> None:
    stored = {"pytorch_lora_weights.safetensors": lora_file([1.0, 2.0])}
    adapter = adapters_pb2.Adapter(
        name=f"adapters/{fake.ID}",
        settings=adapters_pb2.AdapterSettings(base_model="sd/one"),
        payloads=[fake.payload(name, data) for name, data in stored.items()],
    )
    services.answers |= {"GetAdapter": lambda request, context: adapter, "DownloadPayload": fake.download_of(stored)}
    file, out = tmp_path / "a.safetensors", tmp_path / "new" / "out.safetensors"
    file.write_bytes(lora_file([10.0, 20.0]))
    made = client.merge_adapters([adapter.name, file], [0.5, 2.0], out)
    assert (made.rank, made.error, made.exported.files) == (2, 0.0, (out,))
    read = read_adapter(out)
    assert numbers(read.layers["to_q"]["lora_B.weight"], out) == [0.5, 20.0, 1.0, 40.0]
    made = client.merge_adapters([adapter.name, file], [0.5, 2.0], tmp_path / "cut.safetensors", rank=1)
    assert made.error < 1e-7  # both are multiples of one matrix

    adapter.class_adapters.add(label="round", folder="class-0000")
    with pytest.raises(errors.InvalidArgument, match="has an adapter for each class; write those that are meant"):
        client.merge_adapters([adapter.name], [1.0], tmp_path / "other.safetensors")
    adapter.class_adapters[0].image = "1" * 64
    with pytest.raises(errors.InvalidArgument, match=r"for each image; write .* export --image`, and merge"):
        client.merge_adapters([adapter.name], [1.0], tmp_path / "other.safetensors")
    adapter.ClearField("class_adapters")
    adapter.settings.method = "full"
    with pytest.raises(errors.InvalidArgument, match="is of the method full, and is no adapter; merge adapters of"):
        client.merge_adapters([adapter.name], [1.0], tmp_path / "other.safetensors")
    adapter.settings.method = "lora"
    stored["pytorch_lora_weights.safetensors"] = b"no adapter"
    adapter.payloads[0].CopyFrom(fake.payload("pytorch_lora_weights.safetensors", b"no adapter"))
    with pytest.raises(errors.DataLoss, match="delete it and train it again"):
        client.merge_adapters([adapter.name], [1.0], tmp_path / "other.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "cut.safetensors", "new"]


# Operations


def test_operations_are_asked_of_the_service_in_their_name(tmp_path: Path) -> None:
    with fake.serving() as training, fake.serving() as others:
        training.answers["GetOperation"] = lambda request, context: fake.operation(request.name)
        addresses = dict.fromkeys(SERVICES, others.address) | {"adapter-training": training.address}
        with Client.connect(addresses=addresses, token=fake.TOKEN) as client:
            assert client.get_operation(fake.ADAPTER_OPERATION).name == fake.ADAPTER_OPERATION
        assert others.requests == {}


@pytest.mark.parametrize("name", ["operations/nobody/" + fake.ID, "operations/study-control/1", "demo"])
def test_operation_names_are_checked(name: str, client: Client) -> None:
    with pytest.raises(errors.InvalidArgument):
        client.cancel(name)


def test_waiting_reports_progress_and_ends(services: fake.FakeServices, client: Client) -> None:
    states: Iterator[dict[str, Any]] = iter(
        [{"done": 1}, {"done": 2, "response": adapters_pb2.Adapter(name="adapters/x")}]
    )
    services.answers["WaitOperation"] = lambda request, context: fake.operation(fake.ADAPTER_OPERATION, **next(states))
    seen: list[int] = []
    done = client.wait(fake.operation(fake.ADAPTER_OPERATION), progress=lambda metadata: seen.append(metadata.done))
    assert result_of(done, adapters_pb2.Adapter).name == "adapters/x"
    assert seen == [0, 1, 2]


def test_waiting_ends_at_its_timeout(services: fake.FakeServices, client: Client) -> None:
    services.answers["WaitOperation"] = lambda request, context: fake.operation(fake.ADAPTER_OPERATION)
    start_s = time.monotonic()
    assert not client.wait(fake.operation(fake.ADAPTER_OPERATION), timeout_s=0.3).done
    assert time.monotonic() - start_s < 5
    assert len(services.requests["WaitOperation"]) < 5, "a server that answers at once isn't asked in a busy loop"


def test_waiting_survives_a_service_that_restarts(services: fake.FakeServices, client: Client) -> None:
    def after_a_while(request: Any, context: Any) -> Any:
        if len(services.requests["WaitOperation"]) <= 5:  # more than gRPC's own four attempts
            raise errors.Unavailable("restarting", reason="NOT_SERVING")
        return fake.operation(fake.ADAPTER_OPERATION, response=adapters_pb2.Adapter())

    services.answers["WaitOperation"] = after_a_while
    assert client.wait(fake.operation(fake.ADAPTER_OPERATION)).done


def test_results_of_operations_that_made_none() -> None:
    with pytest.raises(errors.Cancelled, match="was cancelled"):
        result_of(
            fake.operation("o", error=errors.Cancelled("was cancelled", reason="CANCELLED")),
            adapters_pb2.Adapter,
        )
    with pytest.raises(errors.FailedPrecondition, match="is not finished"):
        result_of(fake.operation("o"), adapters_pb2.Adapter)
    with pytest.raises(errors.Internal, match="of the same version"):
        result_of(fake.operation("o", response=empty_pb2.Empty()), adapters_pb2.Adapter)


def test_cancelling_a_study_cancels_its_operation(services: fake.FakeServices, client: Client) -> None:
    services.answers["GetStudy"] = lambda request, context: fake.study("STATE_RUNNING")
    services.answers["ListStudies"] = lambda request, context: studies_pb2.ListStudiesResponse()
    services.answers["CancelOperation"] = fake.cancelled
    assert client.cancel_study("demo") == fake.STUDY_OPERATION
    assert services.requests["CancelOperation"][0].name == fake.STUDY_OPERATION
    assert client.cancel_study(fake.STUDY) == fake.STUDY_OPERATION
    assert len(services.requests["ListStudies"]) == 1  # a digest means one study whatever else goes on


def others(*digits: str) -> studies_pb2.ListStudiesResponse:
    """Unfinished studies named demo."""
    found = []
    for digit in digits:
        study = fake.study("STATE_RUNNING")
        study.name, study.operation = f"studies/{digit * 32}", f"operations/study-control/{digit * 32}"
        study.create_time.FromJsonString(f"2026-01-0{digit}T10:30:00Z")
        found.append(study)
    return studies_pb2.ListStudiesResponse(studies=found)


def test_a_name_that_one_unfinished_study_has_means_that_one(services: fake.FakeServices, client: Client) -> None:
    services.answers["ListStudies"] = lambda request, context: others("2")
    services.answers["CancelOperation"] = fake.cancelled
    assert client.cancel_study("demo") == f"operations/study-control/{'2' * 32}"
    [request] = services.requests["ListStudies"]
    assert (request.spec_name, request.unfinished_only) == ("demo", True)


def test_a_name_that_several_unfinished_studies_have_stops_none(services: fake.FakeServices, client: Client) -> None:
    services.answers["ListStudies"] = lambda request, context: others("3", "2")
    services.answers["GetStudy"] = lambda request, context: fake.study("STATE_RUNNING")
    services.answers["CancelOperation"] = fake.cancelled
    with pytest.raises(errors.InvalidArgument) as caught:
        client.cancel_study("studies/demo")
    assert caught.value.reason == "STUDY_NAME_AMBIGUOUS"
    assert str(caught.value).splitlines() == [
        "name: 2 studies named 'demo' are not finished; say which one by its studies/{digest}, or stop them all with "
        "`synthmix studies cancel demo --all`",
        f"  studies/{'3' * 32}, submitted 2026-01-03 10:30 UTC, running",
        f"  studies/{'2' * 32}, submitted 2026-01-02 10:30 UTC, running",
    ]
    assert "CancelOperation" not in services.requests
    assert client.cancel_studies("demo") == [f"operations/study-control/{digit * 32}" for digit in "32"]
    assert len(services.requests["CancelOperation"]) == 2


@pytest.mark.parametrize("name", ["", "studies/", "../x", "UPPER", "a" * 64, "operations/study-control/" + "a" * 32])
def test_cancelling_what_is_no_name_stops_nothing(name: str, services: fake.FakeServices, client: Client) -> None:
    services.answers["ListStudies"] = lambda request, context: others("2")  # of every name, were none given
    for cancel in (client.cancel_study, client.cancel_studies):
        with pytest.raises(errors.InvalidArgument, match="is not a valid name"):
            cancel(name)
    assert "CancelOperation" not in services.requests


def test_listing_studies_of_a_name(services: fake.FakeServices, client: Client) -> None:
    services.answers["ListStudies"] = lambda request, context: others("3", "2")
    assert [study.name[-1] for study in client.list_studies("demo", unfinished=True)] == ["3", "2"]
    assert [study.name[-1] for study in client.list_studies()] == ["3", "2"]
    first, second = services.requests["ListStudies"]
    assert (first.spec_name, first.unfinished_only) == ("demo", True)
    assert (second.spec_name, second.unfinished_only) == ("", False)


def test_scaling_sends_what_was_given_and_no_more(services: fake.FakeServices, client: Client) -> None:
    services.answers["ScaleWorkerGroup"] = lambda request, context: clusters_pb2.WorkerGroup(name=request.worker_group)
    client.scale_worker_group("image-synthesis", min_workers=0)
    client.scale_worker_group("image-synthesis", max_workers=3, validate_only=True)
    first, second = services.requests["ScaleWorkerGroup"]
    assert (first.HasField("min_workers"), first.HasField("max_workers"), first.validate_only) == (True, False, False)
    assert (second.HasField("min_workers"), second.max_workers, second.validate_only) == (False, 3, True)


def test_a_caller_without_a_right_learns_which(services: fake.FakeServices, client: Client) -> None:
    sent = errors.PermissionDenied("ada may not list studies.synthmix.io in namespace lab", reason="RIGHT_MISSING")
    services.answers["GetStudy"] = fails(sent)
    with pytest.raises(errors.PermissionDenied, match="ada may not list") as caught:
        client.get_study("demo")
    assert caught.value.reason == "RIGHT_MISSING"


def test_metadata_of_an_operation() -> None:
    assert metadata_of(fake.operation("o", done=7, unit="trials")).done == 7


# Watching


def test_watching_goes_on_where_the_stream_broke(services: fake.FakeServices, client: Client) -> None:
    first, second = fake.watch_of(("a", "1"), ("b", "2"))

    def stream(request: studies_pb2.WatchStudyRequest, context: Any) -> Iterator[Any]:
        attempt = len(services.requests["WatchStudy"])
        if attempt == 1:
            yield first
            raise errors.Unavailable("draining", reason="NOT_SERVING")
        if attempt == 2:
            yield second
            return  # a server that stops may also end its streams in peace
        yield studies_pb2.WatchStudyResponse(study=fake.study(), resume_marker="3")

    services.answers["WatchStudy"] = stream
    events = list(client.watch_study("demo"))
    assert [item.progress.message for item in events] == ["a", "b", ""]
    assert events[-1].study.name == fake.STUDY
    assert [item.resume_marker for item in services.requests["WatchStudy"]] == ["", "1", "2"]


def test_watching_survives_a_server_that_is_gone_for_a_while() -> None:
    [first] = fake.watch_of(("a", "1"))
    hang = threading.Event()

    def waits(request: Any, context: Any) -> Iterator[Any]:
        yield first
        hang.wait(10)

    with fake.serving() as services:
        services.answers["WatchStudy"] = waits
        client = Client.connect(addresses=services.address, token=fake.TOKEN)
        events = client.watch_study("demo")
        assert next(events).progress.message == "a"
    hang.set()
    again = fake.FakeServices(
        answers={"WatchStudy": lambda request, context: iter([studies_pb2.WatchStudyResponse(study=fake.study())])}
    )
    with fake.serving(services.address, again), client:
        assert next(events).study.name == fake.STUDY
    assert again.requests["WatchStudy"][0].resume_marker == "1"


def test_watching_gives_up(services: fake.FakeServices, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_calls, "PATIENCE_S", 0.3)
    [first] = fake.watch_of(("a", "1"))

    def once(request: Any, context: Any) -> Iterator[Any]:
        if not request.resume_marker:
            yield first
        raise errors.Unavailable("gone", reason="NOT_SERVING")

    services.answers["WatchStudy"] = once
    events = client.watch_study("demo")
    next(events)
    with pytest.raises(errors.Unavailable, match="gone"):
        next(events)


def test_watching_what_does_not_exist_fails_at_once(services: fake.FakeServices, client: Client) -> None:
    def absent(request: Any, context: Any) -> Iterator[Any]:
        yield fake.not_found(request, context)

    services.answers["WatchStudy"] = absent
    with pytest.raises(errors.NotFound, match="studies/nothing does not exist"):
        next(client.watch_study("nothing"))


# Every method is spelled as the protos spell it


@pytest.mark.parametrize(
    ("method", "answer", "call"),
    [
        ("ListAdapters", adapters_pb2.ListAdaptersResponse(), lambda c: list(c.adapters.list())),
        ("ListImageSets", image_sets_pb2.ListImageSetsResponse(), lambda c: list(c.image_sets.list())),
        ("ListEvaluations", evaluations_pb2.ListEvaluationsResponse(), lambda c: list(c.evaluations.list())),
        ("ListStudies", studies_pb2.ListStudiesResponse(), lambda c: list(c.list_studies())),
        ("ListBaseModels", base_models_pb2.ListBaseModelsResponse(), lambda c: list(c.models.list())),
        ("GetAdapter", adapters_pb2.Adapter(), lambda c: c.adapters.get(fake.ID)),
        ("GetBaseModel", base_models_pb2.BaseModel(), lambda c: c.models.get(fake.ID)),
        ("GetImageSet", image_sets_pb2.ImageSet(), lambda c: c.image_sets.get(fake.ID)),
        ("GetEvaluation", evaluations_pb2.Evaluation(), lambda c: c.evaluations.get(fake.ID)),
        ("GetSplit", datasets_pb2.Split(), lambda c: c.get_split(fake.ID)),
        ("CreateSplit", datasets_pb2.Split(), lambda c: c.create_split("d", test=0.2, validation=0.1)),
        ("CreateAdapter", fake.operation("o"), lambda c: c.adapters.create(adapters_pb2.Adapter())),
        ("CreateImageSet", fake.operation("o"), lambda c: c.image_sets.create(image_sets_pb2.ImageSet())),
        (
            "CreateEvaluation",
            fake.operation("o"),
            lambda c: c.evaluations.create(evaluations_pb2.Evaluation()),
        ),
        ("DeleteDataset", artifacts_pb2.Deletion(), lambda c: c.delete_dataset("d")),
        ("DeleteAdapter", artifacts_pb2.Deletion(), lambda c: c.adapters.delete(fake.ID)),
        ("DeleteBaseModel", artifacts_pb2.Deletion(), lambda c: c.models.delete("tiny")),
        (
            "DeleteDatasetImages",
            fake.operation("o", response=datasets_pb2.Dataset()),
            lambda c: c.remove_images("d", images=["a"]),
        ),
        ("Sweep", artifacts_pb2.SweepResponse(), lambda c: c.sweep()),
        ("DeleteImageSet", artifacts_pb2.Deletion(), lambda c: c.image_sets.delete(fake.ID)),
        ("DeleteEvaluation", artifacts_pb2.Deletion(), lambda c: c.evaluations.delete(fake.ID)),
        ("DeleteStudy", artifacts_pb2.Deletion(), lambda c: c.delete_study("demo")),
        ("GetCluster", clusters_pb2.Cluster(), lambda c: c.get_cluster()),
        ("ScaleWorkerGroup", clusters_pb2.WorkerGroup(), lambda c: c.scale_worker_group("g", max_workers=2)),
    ],
)
def test_methods(
    method: str, answer: Any, call: Callable[[Client], Any], services: fake.FakeServices, client: Client
) -> None:
    services.answers[method] = lambda request, context: answer
    call(client)
    assert list(services.requests) == [method]


@pytest.mark.parametrize("cascade", [False, True])
def test_deleting_says_what_goes_with_it(cascade: bool, services: fake.FakeServices, client: Client) -> None:
    gone = artifacts_pb2.Deletion(deleted=[artifacts_pb2.DeletedResource(name=fake.STUDY, size_bytes=7)], size_bytes=7)
    services.answers["DeleteStudy"] = lambda request, context: gone
    assert client.delete_study("demo", cascade=cascade, validate_only=True) == gone
    [request] = services.requests["DeleteStudy"]
    assert (request.name, request.force, request.validate_only) == ("studies/demo", cascade, True)
