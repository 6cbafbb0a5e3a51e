"""Where the stack trace of our own fault stands: under its number, bounded, without secrets."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1.datasets_pb2 import DeleteDatasetRequest
from synthmix.local.home import Home
from synthmix.service_kit import audit, errors, incidents, open_operations
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.environment import STUDY_CONTROL, OperationLimits
from synthmix.service_kit.incidents import record
from synthmix.service_kit.operation_host import OperationHost
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import OperationName
from waiting import wait_until


def fault(message: str = "no such thing") -> Exception:
    try:
        raise KeyError(message)
    except KeyError as error:
        return error


def test_the_trace_stands_in_the_folder_under_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "incidents"
    incident = record("operations/adapter-training/1", fault(), {"SYNTHMIX_INCIDENTS_DIR": str(folder)})
    path = folder / f"{incident.number}.log"
    assert incident.place == f"in {path}"
    assert incident.metadata == {"incident": incident.number, "trace": incident.place}
    text = path.read_text()
    assert f"incident {incident.number} in operations/adapter-training/1" in text
    assert "Traceback" in text and "in fault" in text and "KeyError: 'no such thing'" in text
    assert path.stat().st_mode & 0o077 == 0


def test_a_home_keeps_them_among_its_logs(tmp_path: Path) -> None:
    assert Home(tmp_path).incidents.parent == Home(tmp_path).logs


def test_secrets_are_left_out(tmp_path: Path) -> None:
    secrets = {
        "SYNTHMIX_TOKEN": "t-0123456789",
        "SYNTHMIX_OBJECT_STORE_SECRET_KEY": "s-0123456789",
        "SYNTHMIX_OBJECT_STORE_ACCESS_KEY": "a-0123456789",
        "RAY_AUTH_TOKEN": "r-0123456789",
        "HF_TOKEN": "h-0123456789",
    }
    record("x", fault(" ".join(secrets.values())), secrets | {"SYNTHMIX_INCIDENTS_DIR": str(tmp_path)})
    [path] = tmp_path.iterdir()
    assert not any(secret in path.read_text() for secret in secrets.values())
    assert "[HF_TOKEN]" in path.read_text()


def test_size_and_number_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incidents, "MOST_FILES", 3)
    monkeypatch.setattr(incidents, "LONGEST_TRACE_CHARACTERS", 1000)
    numbers = []
    for index in range(6):
        numbers.append(record("x", fault("long " * 1000), {"SYNTHMIX_INCIDENTS_DIR": str(tmp_path)}).number)
        newest = tmp_path / f"{numbers[-1]}.log"
        os.utime(newest, ns=(index, index))
    assert {path.stem for path in tmp_path.iterdir()} == set(numbers[-3:])
    assert all(path.stat().st_size < 1200 for path in tmp_path.iterdir())
    assert "characters left out" in newest.read_text()


@pytest.mark.parametrize("text", ["\ud800 alone", "nul \x00", "日本"])
def test_no_text_keeps_an_incident_from_being_written(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    incident = record(text, fault(text), {"SYNTHMIX_INCIDENTS_DIR": str(tmp_path)})
    assert (tmp_path / f"{incident.number}.log").exists()
    assert caplog.text.encode(), "what is logged can be written to any log"


def test_a_folder_that_cannot_be_written_leaves_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    incident = record("x", fault(), {"SYNTHMIX_INCIDENTS_DIR": str(tmp_path / "file")})
    assert f"log of process {os.getpid()}" in incident.place
    assert "no such thing" in caplog.text and incident.number in caplog.text


def test_on_a_cluster_it_is_the_pod_s_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment = {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "SYNTHMIX_POD_NAME": "ray-head-0",
        "SYNTHMIX_NAMESPACE": "synthmix",
    }
    monkeypatch.setattr(incidents, "CONTAINER_LOG", tmp_path / "container.log")
    (tmp_path / "container.log").write_text("")
    incident = record("x", fault(), environment)
    assert incident.place.endswith("kubectl --namespace synthmix logs ray-head-0 --all-containers")
    assert incident.number in (tmp_path / "container.log").read_text(), "Ray's workers write to files of their own"
    monkeypatch.setattr(incidents, "CONTAINER_LOG", tmp_path)
    assert "kubectl --namespace synthmix exec ray-head-0" in record("x", fault(), environment).place


def test_the_audit_of_ray_s_processes_is_in_the_pod_s_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(incidents, "CONTAINER_LOG", tmp_path / "container.log")
    (tmp_path / "container.log").write_text("ray started\n")
    logger = logging.Logger("audit")
    monkeypatch.setattr(audit, "log", logger)
    audit.log_from_host(STUDY_CONTROL)
    name = OperationName(STUDY_CONTROL, "a" * 32)
    record = records.OperationRecord(
        name, "datasets", "", {}, records.now(), requested_by=Requester("ada"), request_id="r-1"
    )
    with audit.change_by(record, DeleteDatasetRequest(name="datasets/x")):
        pass
    [handler] = logger.handlers
    handler.close()
    started, line = (tmp_path / "container.log").read_text().splitlines()
    assert started == "ray started"
    assert " study-control INFO audit {" in line
    said = json.loads(line.partition(" audit ")[2])
    assert said == {
        "caller": "ada",
        "operation": str(name),
        "resource": "datasets/x",
        "code": "OK",
        "request_id": "r-1",
    }
    monkeypatch.setattr(incidents, "CONTAINER_LOG", tmp_path)
    assert not isinstance(incidents.log_handler(), logging.FileHandler), "what is no log is not written to"


def fail(context: Any) -> str:
    """What an operation of the test below does: fails as the request says."""
    raise {"defect": KeyError("batch"), "input": errors.InvalidArgument("x: is wrong", reason="R")}[
        context.record.request["fails_by"]
    ]


def failure_of(fails_by: str) -> errors.SynthMixError:
    """The error that an operation ends with."""
    store, name = MemoryObjectStore.created(), OperationName("adapter-training", "a" * 32)
    record = records.OperationRecord(name, "adapters", "", {"fails_by": fails_by}, records.now())
    records.write_record(store, record)
    open_operations.add(store, record)
    functions = {"adapters": "test_incidents:fail"}
    host = OperationHost("adapter-training", store, functions, None, OperationLimits())
    host.look_once()
    wait_until(lambda: records.find_result(store, record) is not None, "its end", 10)
    result = records.find_result(store, record)
    assert result is not None
    return errors.from_json(result["error"])


def test_an_operation_s_error_says_where_the_trace_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHMIX_INCIDENTS_DIR", str(tmp_path))
    error = failure_of("defect")
    [path] = tmp_path.iterdir()
    assert error.metadata == {"incident": path.stem, "trace": f"in {path}"}
    assert f"incident {path.stem} is in {path}; submit it again" in error.message
    assert "KeyError: 'batch'" in path.read_text()
    assert failure_of("input").message == "x: is wrong"
    assert list(tmp_path.iterdir()) == [path], "a fault of the input is no incident"
