"""What is found of a release in the cluster: its Services and their pods."""

import pytest

from fake_kubernetes import (
    NAMESPACE,
    FakeKubernetes,
    Json,
    release_services,
)
from release_lab import RELEASE, UNSCHEDULABLE, add_pod, connect, failure, get_study
from synthmix.client.client import Client
from synthmix.client.release.access import connect_as_caller
from synthmix.client.release.discovery import find_release, parse_name, ready_pods
from synthmix.service_kit import errors
from synthmix.service_kit.environment import STUDY_CONTROL


@pytest.mark.parametrize(
    "text", ["", "/", "a/b/c", "lab/", "/synthmix", "Lab/synthmix", "lab/syn_thmix", "lab synthmix"]
)
def test_names_that_no_release_has(text: str) -> None:
    error = failure(lambda: parse_name(text, "default"))
    assert (
        isinstance(error, errors.InvalidArgument) and repr(text) in error.message and "NAMESPACE/NAME" in error.message
    )


def test_names_that_a_release_may_have() -> None:
    assert parse_name(" lab/synthmix ", "default") == ("lab", "synthmix")
    assert parse_name("my-release", "default") == ("default", "my-release")


def test_a_release_that_is_not_there_and_the_nearest(lab: FakeKubernetes) -> None:
    for item in release_services("second", "second-synthmix"):
        lab.put("services", item)
    error = failure(lambda: Client.connect(release=f"{NAMESPACE}/sinthmix"))
    assert isinstance(error, errors.NotFound)
    assert "no SynthMix release 'sinthmix' in lab" in error.message
    assert "did you mean 'synthmix'? SynthMix's releases there: second, synthmix" in error.message


def test_a_namespace_that_is_not_there_and_where_the_release_is(lab: FakeKubernetes) -> None:
    error = failure(lambda: Client.connect(release="lap/synthmix"))
    assert isinstance(error, errors.NotFound) and "there is no namespace 'lap'" in error.message
    assert "did you mean 'lab/synthmix'?" in error.message
    lab.forbidden = {("list", "services")}
    assert "lab/" not in failure(lambda: Client.connect(release="lap/x")).message


def test_a_namespace_that_may_not_be_looked_at(lab: FakeKubernetes) -> None:
    lab.forbidden = {("get", "namespaces")}
    error = failure(lambda: Client.connect(release="lap/synthmix"))
    assert "no SynthMix release 'synthmix' in lap" in error.message


def test_a_release_of_somebody_elses_chart_is_none(kubernetes: FakeKubernetes) -> None:
    for item in release_services():
        item["metadata"]["labels"]["app.kubernetes.io/part-of"] = "other"
        kubernetes.put("services", item)
    assert isinstance(failure(connect), errors.NotFound)


@pytest.mark.parametrize("lacking", ["a Service", "annotations", "the port", "the selector"])
def test_a_release_of_another_version_of_the_chart(lab: FakeKubernetes, lacking: str) -> None:
    if lacking == "a Service":
        del lab.objects["services", NAMESPACE, "synthmix-image-synthesis"]
    for item in (value for (kind, _, _), value in lab.objects.items() if kind == "services"):
        if lacking == "annotations":
            item["metadata"]["annotations"] = {}
        elif lacking == "the port":
            item["spec"]["ports"].pop()
        elif lacking == "the selector":
            item["spec"]["selector"] = {}
    error = failure(connect)
    assert isinstance(error, errors.FailedPrecondition) and "`helm upgrade`" in error.message


def test_pods_that_are_not_ready_or_are_ending_are_left_alone(lab: FakeKubernetes) -> None:
    add_pod(lab, "study-control-b", STUDY_CONTROL, None, conditions=[{"type": "Ready", "status": "False"}])
    add_pod(lab, "study-control-c", STUDY_CONTROL, None)
    lab.objects["pods", NAMESPACE, "study-control-c"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    add_pod(lab, "other", STUDY_CONTROL, None, instance="another")
    access = connect_as_caller()
    assert ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL) == [("study-control-a", 50051)]


@pytest.mark.parametrize(("target", "expected"), [("grpc", 6000), (7000, 7000), (None, 50051)])
def test_the_port_is_the_one_that_the_service_leads_to(
    kubernetes: FakeKubernetes, target: int | str | None, expected: int
) -> None:
    for item in release_services():
        port = item["spec"]["ports"][1]
        port["targetPort"] = target
        kubernetes.put("services", item)
    add_pod(kubernetes, "a", STUDY_CONTROL, None, port=6000)
    access = connect_as_caller()
    assert ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL) == [("a", expected)]


WAITING = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/control"'}}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"containerStatuses": [{"name": "c", "state": WAITING}]}, 'ImagePullBackOff: Back-off pulling image "nowhere'),
        ({"containerStatuses": [{"name": "c", "state": {"waiting": {}}}]}, "it is pending and not ready yet"),
        (
            {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            "OOM",
        ),
        ({"initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, "CrashLoop"),
        ({"conditions": [UNSCHEDULABLE]}, "Unschedulable: 0/3 nodes fit"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "Evicted: low on disk"),
        ({}, "it is pending and not ready yet"),
    ],
)
def test_where_no_pod_is_ready_each_says_why(lab: FakeKubernetes, status: Json, said: str) -> None:
    add_pod(lab, "study-control-a", STUDY_CONTROL, None, **{"phase": "Pending", "conditions": [], **status})
    access = connect_as_caller()
    error = failure(lambda: ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL))
    assert isinstance(error, errors.Unavailable) and error.reason == "NO_POD_READY"
    assert f"no pod of study-control of release {RELEASE} is ready (study-control-a: " in error.message
    assert said in error.message and "kubectl --namespace lab describe pod study-control-a" in error.message


def test_of_many_pods_the_first_are_told(lab: FakeKubernetes) -> None:
    for number in range(40):
        add_pod(lab, f"study-control-{number:02}", STUDY_CONTROL, None, conditions=[], reason="x" * 1000)
    del lab.objects["pods", NAMESPACE, "study-control-a"]
    access = connect_as_caller()
    message = failure(lambda: ready_pods(access, find_release(access, RELEASE), STUDY_CONTROL)).message
    assert "study-control-04" in message and "study-control-05" not in message and "and 35 more" in message
    assert len(message) < 1500


def test_where_there_is_no_pod_at_all(lab: FakeKubernetes) -> None:
    del lab.objects["pods", NAMESPACE, "study-control-a"]
    assert "it has none; see `kubectl --namespace lab get deployments`" in failure(get_study).message
