"""`--release` as an option: what it may stand beside, what the command line says, and what doctor looks at."""

import json
from pathlib import Path
from typing import Any

import pytest

import fake_services as fake
import synthmix.cli
from fake_kubernetes import (
    FakeKubernetes,
)
from release_lab import RELEASE, UNSCHEDULABLE, add_pod, failure
from synthmix.client.endpoints import find_endpoints
from synthmix.service_kit import errors
from synthmix.service_kit.environment import SERVICES, STUDY_CONTROL


def test_a_release_comes_from_the_environment(lab: FakeKubernetes) -> None:
    found = find_endpoints(environment={"SYNTHMIX_RELEASE": RELEASE, "SYNTHMIX_HOME": "/nowhere"})
    assert found.release is not None and found.bearer() == fake.TOKEN
    assert fake.TOKEN not in repr(found)
    found.release.close()
    found.release.close()  # may be closed twice


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"release": "a/b", "addresses": "host:1"}, "--release"),
        ({"release": "a/b", "home": Path("/x")}, "a home"),
        ({"kube_context": "c", "environment": {}}, "--release"),
        ({"environment": {"SYNTHMIX_ADDRESS": "host:1", "SYNTHMIX_RELEASE": "a/b"}}, "unset one"),
    ],
)
def test_options_that_contradict_one_another(options: dict[str, Any], said: str) -> None:
    error = failure(lambda: find_endpoints(**options))
    assert isinstance(error, errors.InvalidArgument) and said in error.message


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"SYNTHMIX_RELEASE": "a/b", "SYNTHMIX_TOKEN": "t"}
    assert find_endpoints(addresses="host:1", environment=both).release is None
    assert isinstance(failure(lambda: find_endpoints(Path("/nowhere"), environment=both)), errors.Unavailable)


def run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = synthmix.cli.main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_command_line(lab: FakeKubernetes, services: fake.FakeServices, capsys: Any, place: str) -> None:
    words, option = ["studies", "show", "demo"], ["--release", RELEASE, "--kube-context", "fake"]
    code, out, err = run(capsys, *(option + words if place == "before" else words + option))
    assert code == 0 and fake.STUDY in out
    assert fake.TOKEN not in out + err


@pytest.mark.parametrize(
    ("release", "forbidden", "code", "said"),
    [
        ("lab/absent", set(), 3, "no SynthMix release 'absent'"),
        ("Lab", set(), 2, "is not a release's name"),
        (RELEASE, {("list", "services")}, 4, "you may not list services"),
        (RELEASE, {("get", "pods/portforward")}, 4, "you may not get pods/portforward"),
    ],
)
def test_errors_and_exit_codes(
    lab: FakeKubernetes, capsys: Any, release: str, forbidden: set[Any], code: int, said: str
) -> None:
    lab.forbidden = forbidden
    found, out, err = run(capsys, "--release", release, "studies", "list")
    assert (found, out) == (code, "") and err.startswith("error: ") and said in err


def test_doctor_looks_at_the_release(lab: FakeKubernetes, services: fake.FakeServices, capsys: Any) -> None:
    from google.longrunning import operations_pb2

    def no_cluster(request: Any, context: Any) -> Any:
        raise errors.FailedPrecondition("no cluster", reason="NO_CLUSTER")

    services.answers["GetCluster"] = no_cluster
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    add_pod(lab, "study-control-b", STUDY_CONTROL, None, conditions=[UNSCHEDULABLE])
    code, out, _ = run(capsys, "doctor", "--services", "--output", "json", "--release", RELEASE)
    checks = json.loads(out)["checks"]
    assert code == 0
    names = [item["name"] for item in checks]
    assert [name for name in names if name.endswith(f"(release {RELEASE})")] == [
        f"{service} (release {RELEASE})" for service in SERVICES
    ]
    pods = [(item["status"], item["found"]) for item in checks if item["name"] == "  its pods"]
    assert pods[:3] == [("ok", "1 of 1 ready")] * 3
    assert pods[3] == ("warn", "1 of 2 ready; study-control-b: Unschedulable: 0/3 nodes fit")


@pytest.mark.parametrize("fault", ["absent", "unreachable", "forbidden"])
def test_doctor_where_there_is_no_way_to_the_release(lab: FakeKubernetes, capsys: Any, fault: str) -> None:
    if fault == "unreachable":
        lab.failing = 503
    elif fault == "forbidden":
        lab.forbidden = {("list", "services")}
    name = "lab/other" if fault == "absent" else RELEASE
    code, out, _ = run(capsys, "doctor", "--services", "--output", "json", "--release", name)
    [check] = json.loads(out)["checks"]
    assert (code, check["status"]) == (1, "fail")
    assert {"absent": "no SynthMix release", "unreachable": "does not answer", "forbidden": "you may not"}[fault] in (
        check["found"]
    )
