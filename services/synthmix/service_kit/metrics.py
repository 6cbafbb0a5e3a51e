"""Prometheus metrics of the front ends, and of the tasks that run on Ray workers.

Front ends serve theirs at http://{SYNTHMIX_METRICS_LISTEN}/metrics, and their health at /healthz. What a worker counts
goes through ray.util.metrics: Ray's agent of that node serves it, with the prefix `ray_`.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from synthmix.service_kit.check_health import HEALTH_PATH

if TYPE_CHECKING:
    from ray.util import metrics as ray_metrics

REGISTRY = CollectorRegistry()

REQUESTS = Counter("synthmix_requests", "gRPC requests finished.", ["service", "method", "code"], registry=REGISTRY)
REQUEST_SECONDS = Histogram(
    "synthmix_request_seconds",
    "Seconds from a gRPC request's arrival to its end.",
    ["service", "method"],
    registry=REGISTRY,
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
OPERATIONS = Gauge(
    "synthmix_operations",
    "Operations that have not ended, by state: running, queued, or waiting for what other operations make.",
    ["service", "state"],
    registry=REGISTRY,
)
UNREADABLE_RECORDS = Counter(
    "synthmix_unreadable_records",
    "Records that a list left out: of a newer version of SynthMix, or damaged.",
    registry=REGISTRY,
)
SWEPT_OBJECTS = Counter(
    "synthmix_swept_objects", "Objects that the sweep deleted from object storage.", registry=REGISTRY
)
SWEPT_BYTES = Counter(
    "synthmix_swept_bytes", "Bytes of the objects that the sweep deleted from object storage.", registry=REGISTRY
)
UNREADABLE_OPERATIONS = Gauge(
    "synthmix_unreadable_operations",
    "Open operations that are left alone: of a newer version of SynthMix, or damaged.",
    ["service"],
    registry=REGISTRY,
)
READY = Gauge("synthmix_ready", "1 while the server accepts requests.", ["service"], registry=REGISTRY)

WORKER_COUNTERS = {
    "synthmix_training_images": "Images seen in adapter training.",
    "synthmix_training_steps": "Optimizer steps of adapter training.",
    "synthmix_images": "Images synthesised.",
    "synthmix_classifier_steps": "Optimizer steps of classifier training.",
    "synthmix_trials": "Trials of a grid trained and evaluated.",
    "synthmix_operations_ended": "Operations that have ended, by how.",
    "synthmix_worker_seconds": "Seconds that workers spent in tasks.",
    "synthmix_gpu_seconds": "GPUs times seconds that workers spent in tasks.",
}
WORKER_HISTOGRAMS = {
    "synthmix_operation_queue_seconds": "Seconds from an operation's request to its first task's start.",
    "synthmix_operation_run_seconds": "Seconds from an operation's start to its end.",
}


def serve(listen: str, problem: Callable[[], str]) -> None:
    """Serves /metrics and /healthz on host:port from a daemon thread.

    Args:
        problem: Why the server behind it does not serve, or "". For probes that speak no gRPC, or no TLS.
    """
    host, _, port = listen.rpartition(":")
    server, _ = start_http_server(int(port), addr=host or "0.0.0.0", registry=REGISTRY)
    metrics_app = server.get_app()
    assert metrics_app is not None

    def app(environment: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environment["PATH_INFO"] != HEALTH_PATH:
            return metrics_app(environment, start_response)
        said = problem()
        status = "503 Service Unavailable" if said else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{said or 'ok'}\n".encode()]

    server.set_app(app)


@cache
def _worker_counter(name: str, tags: tuple[str, ...]) -> "ray_metrics.Counter":
    from ray.util import metrics as ray_metrics

    return ray_metrics.Counter(name, WORKER_COUNTERS[name], tag_keys=("service", *tags))


@cache
def _worker_histogram(name: str) -> "ray_metrics.Histogram":
    from ray.util import metrics as ray_metrics

    return ray_metrics.Histogram(
        name,
        WORKER_HISTOGRAMS[name],
        boundaries=[0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 43200],
        tag_keys=("service",),
    )


def count_on_worker(name: str, value: float, service: str, **tags: str) -> None:
    """Adds to a counter from inside a Ray task or actor. Adding zero makes the counter exist."""
    counter, tags = _worker_counter(name, tuple(tags)), {"service": service} | tags
    if value > 0:
        counter.inc(value, tags=tags)
    else:
        # Prometheus counts zero, and a dashboard of GPU seconds should show 0 for a node without GPUs; only Ray's
        # inc() insists on more.
        counter._record(0.0, tags=tags)


def observe_on_worker(name: str, seconds: float, service: str) -> None:
    _worker_histogram(name).observe(seconds, tags={"service": service})
