"""What a real Prometheus sees of the stack: every service, and what Ray's workers count."""

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from built_tools import tool
from synthmix import Client
from synthmix.api.studies.v1 import studies_pb2
from synthmix.local import Connection
from synthmix.local.children import Child, stop_children, wait_until_ready
from synthmix.local.ports import LOOPBACK, free_port
from synthmix.service_kit.environment import (
    ADAPTER_TRAINING,
    CLASSIFIER_EVALUATION,
    IMAGE_SYNTHESIS,
    SERVICES,
    STUDY_CONTROL,
)
from synthmix.service_kit.errors import NotFound
from waiting import wait_until

START_TIMEOUT_S = 60.0
STOP_GRACE_S = 10.0
# A scrape a second, Ray's report a second, a front end's look at its operations every ten.
SEEN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus server's HTTP API."""

    address: str

    def get(self, path: str, **parameters: str) -> Any:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"http://{self.address}{path}{query}", timeout=10) as answer:
            return answer.read()

    def is_ready(self) -> bool:
        try:
            self.get("/-/ready")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an expression gives now."""
        answer = json.loads(self.get("/api/v1/query", query=expression))
        return [(item["metric"], float(item["value"][1])) for item in answer["data"]["result"]]

    def by(self, label: str, expression: str) -> dict[str, float]:
        return {labels[label]: value for labels, value in self.query(f"sum by ({label}) ({expression})")}


@pytest.fixture(scope="module")
def prometheus(stack: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    targets = [{"targets": [address], "labels": {"name": name}} for name, address in stack.metrics.items()]
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "synthmix", "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
    server = Prometheus(f"{LOOPBACK}:{free_port(set())}")
    child = Child(
        "prometheus",
        [
            tool("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={server.address}",
            "--log.level=warn",
        ],
        os.environ,
        folder=folder,
        log=folder / "prometheus.log",
    )
    child.start()
    try:
        wait_until_ready(
            {child: server.is_ready}, timeout_s=START_TIMEOUT_S, say_ready=lambda _: None, check_stop=lambda: None
        )
        yield server
    finally:
        stop_children([child], STOP_GRACE_S)


@pytest.fixture(scope="module")
def worked(client: Client, finished: studies_pb2.Study) -> None:
    """Something to count: a study through all services, and an error."""
    with pytest.raises(NotFound):
        client.get_dataset("nobody-imported-this")


def test_every_target_is_up(stack: Connection, prometheus: Prometheus) -> None:
    assert set(stack.metrics) == {*SERVICES, "ray-node"}
    wait_until(
        lambda: prometheus.by("name", "up") == dict.fromkeys(stack.metrics, 1.0),
        "every target up",
        timeout_s=SEEN_TIMEOUT_S,
    )
    instances = {labels["instance"] for labels, _ in prometheus.query("up")}
    assert instances == set(stack.metrics.values())


def test_every_service_says_that_it_is_ready(prometheus: Prometheus) -> None:
    wait_until(
        lambda: prometheus.by("service", "synthmix_ready") == dict.fromkeys(SERVICES, 1.0),
        "every service ready",
        timeout_s=SEEN_TIMEOUT_S,
    )


@pytest.mark.usefixtures("worked")
def test_requests_are_counted_by_service_method_and_code(prometheus: Prometheus) -> None:
    refused = (
        'synthmix_requests_total{service="study-control", code="NOT_FOUND", '
        'method="/synthmix.datasets.v1.DatasetService/GetDataset"}'
    )
    wait_until(lambda: len(prometheus.query(refused)) == 1, "the refused request", timeout_s=SEEN_TIMEOUT_S)
    assert prometheus.query(refused)[0][1] >= 1

    def answered() -> dict[str, float]:
        return prometheus.by("service", 'synthmix_requests_total{code="OK"}')

    wait_until(lambda: set(answered()) == set(SERVICES), "answers of every service", timeout_s=SEEN_TIMEOUT_S)
    assert min(answered().values()) >= 1
    codes = set(prometheus.by("code", "synthmix_requests_total"))
    assert {"OK", "NOT_FOUND"} <= codes


@pytest.mark.usefixtures("worked")
def test_requests_are_timed(prometheus: Prometheus) -> None:
    wait_until(
        lambda: set(prometheus.by("service", "synthmix_request_seconds_count > 0")) == set(SERVICES),
        "times of every service's requests",
        timeout_s=SEEN_TIMEOUT_S,
    )
    seconds = prometheus.by("service", "synthmix_request_seconds_sum")
    assert all(value > 0 for value in seconds.values())
    fastest = prometheus.query("histogram_quantile(0.5, sum by (le) (synthmix_request_seconds_bucket))")
    assert 0 < fastest[0][1] < 600


@pytest.mark.usefixtures("worked")
def test_operations_are_counted_by_state(prometheus: Prometheus) -> None:
    def finished() -> bool:
        succeeded = prometheus.by("service", 'ray_synthmix_operations_ended_total{state="succeeded"}')
        # The import and the study are study-control's both.
        return set(succeeded) == set(SERVICES) and min(succeeded.values()) >= 1 and succeeded[STUDY_CONTROL] >= 2

    wait_until(finished, "the finished operations of every service", timeout_s=SEEN_TIMEOUT_S)
    expected = {(service, state) for service in SERVICES for state in ("queued", "running", "waiting")}

    def found() -> set[tuple[str, str]]:
        return {(labels["service"], labels["state"]) for labels, _ in prometheus.query("synthmix_operations")}

    wait_until(lambda: found() == expected, "the open operations of every service", timeout_s=SEEN_TIMEOUT_S)
    ended = prometheus.query("ray_synthmix_operations_ended_total")
    states = {(labels["service"], labels["state"]) for labels, _ in ended if labels["service"] in SERVICES}
    assert states == {(service, state) for service in SERVICES for state in ("succeeded", "failed", "cancelled")}


@pytest.mark.usefixtures("worked")
@pytest.mark.parametrize(
    ("counter", "service", "at_least"),
    [
        ("training_images", ADAPTER_TRAINING, 64),
        ("training_steps", ADAPTER_TRAINING, 4),
        ("images", IMAGE_SYNTHESIS, 3),
        ("trials", CLASSIFIER_EVALUATION, 3),
        ("classifier_steps", CLASSIFIER_EVALUATION, 6),
        ("worker_seconds", ADAPTER_TRAINING, 0.1),
        ("worker_seconds", IMAGE_SYNTHESIS, 0.1),
        ("worker_seconds", CLASSIFIER_EVALUATION, 0.1),
        ("worker_seconds", STUDY_CONTROL, 0.1),
        ("gpu_seconds", ADAPTER_TRAINING, 0),
        ("gpu_seconds", IMAGE_SYNTHESIS, 0),
        ("gpu_seconds", CLASSIFIER_EVALUATION, 0),
    ],
)
def test_work_is_counted(prometheus: Prometheus, counter: str, service: str, at_least: float) -> None:
    metric = f"ray_synthmix_{counter}_total"

    def counted() -> bool:
        return prometheus.by("service", metric).get(service, -1.0) >= at_least

    wait_until(counted, f"{metric} of {service} at {at_least}", timeout_s=SEEN_TIMEOUT_S)


@pytest.mark.usefixtures("worked")
@pytest.mark.parametrize("name", ["queue", "run"])
def test_operations_are_timed(prometheus: Prometheus, name: str) -> None:
    metric = f"ray_synthmix_operation_{name}_seconds"

    def observed() -> bool:
        return set(prometheus.by("service", f"{metric}_count >= 1")) == set(SERVICES)

    wait_until(observed, f"{metric} of every service", timeout_s=SEEN_TIMEOUT_S)
    for service, seconds in prometheus.by("service", f"{metric}_sum").items():
        assert seconds >= 0, service
    assert set(prometheus.by("service", f'{metric}_bucket{{le="+Inf"}}')) == set(SERVICES)


@pytest.mark.usefixtures("worked")
def test_a_training_step_has_as_many_images_as_its_batch(prometheus: Prometheus) -> None:
    ratio = "sum(ray_synthmix_training_images_total) / sum(ray_synthmix_training_steps_total)"
    wait_until(lambda: [value for _, value in prometheus.query(ratio)] == [16.0], "whole batches", SEEN_TIMEOUT_S)
