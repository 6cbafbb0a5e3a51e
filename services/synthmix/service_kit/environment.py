"""The environment variables that configure a process: a laptop's children and a cluster's pods alike."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.tokens import StaticTokens, static_tokens

ADAPTER_TRAINING = "adapter-training"
IMAGE_SYNTHESIS = "image-synthesis"
CLASSIFIER_EVALUATION = "classifier-evaluation"
STUDY_CONTROL = "study-control"
WORKER_SERVICES = (ADAPTER_TRAINING, IMAGE_SYNTHESIS, CLASSIFIER_EVALUATION)
SERVICES = (*WORKER_SERVICES, STUDY_CONTROL)
TLS_CA_VARIABLE = "SYNTHMIX_TLS_CA"


@dataclass(frozen=True)
class ObjectStoreSettings:
    """Where object storage is.

    Attributes:
        endpoint_url: With the scheme: http://host:port or https://host.
        region: Requests are signed for it, and of AWS it is part of the host's name.
        ca: A PEM file of the authorities by which an https server is trusted; the system's if "".
        folder: Where the server keeps its objects, if it is one of this machine; "" if that is not known.
        compaction_address: The gRPC master of SeaweedFS, which gives back the room of deleted objects, or "".
        certificate: A PEM file with the key and the certificate that this master asks for, or "".
    """

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = "synthmix"
    region: str = "us-east-1"
    ca: str = ""
    folder: str = ""
    compaction_address: str = ""
    certificate: str = ""


_OBJECT_STORE_VARIABLES = {
    "endpoint_url": "SYNTHMIX_OBJECT_STORE_ENDPOINT",
    "access_key": "SYNTHMIX_OBJECT_STORE_ACCESS_KEY",
    "secret_key": "SYNTHMIX_OBJECT_STORE_SECRET_KEY",
    "bucket": "SYNTHMIX_OBJECT_STORE_BUCKET",
    "region": "SYNTHMIX_OBJECT_STORE_REGION",
    "ca": "SYNTHMIX_OBJECT_STORE_CA",
    "folder": "SYNTHMIX_OBJECT_STORE_FOLDER",
    "compaction_address": "SYNTHMIX_OBJECT_STORE_COMPACTION_ADDRESS",
    "certificate": "SYNTHMIX_OBJECT_STORE_CERTIFICATE",
}

_HUB_ENTRY = re.compile(r"\*|[\w.-]+/(\*|[\w.-]+(@[0-9a-f]{40})?)", re.ASCII)


@dataclass(frozen=True)
class WorkerSettings:
    """What one Ray task of a service is given, and how many may be wanted at once.

    Attributes:
        most_workers: That an autoscaler may start for the service; 0 where the workers are those that are there. Front
            ends alone are told, who tell the host.
    """

    cpus: float
    gpus: float
    most_workers: int = 0

    @property
    def most_tasks(self) -> int:
        """That so many workers run at once, if each has one GPU."""
        return self.most_workers * (int(1 / self.gpus) if 0 < self.gpus < 1 else 1)


@dataclass(frozen=True)
class SweepSettings:
    """How long object storage keeps what nothing needs.

    Attributes:
        grace_hours: A payload that no artifact names, since it was written and since its artifact was deleted. Longer
            than any work takes from its first payload to its manifest.
        upload_hours: A file that UploadFile stored, since it was sent last.
        checkpoint_hours: What an operation that has ended would go on from if it were started again.
        laid_aside_hours: What a sweep took, since then: a writer of the same artifact may want it back. Longer than it
            takes to write a manifest.
    """

    grace_hours: float = 24.0
    upload_hours: float = 7 * 24.0
    checkpoint_hours: float = 30 * 24.0
    laid_aside_hours: float = 1.0


@dataclass(frozen=True)
class HubSettings:
    """Which models of the hub requests may name, and how large these may be.

    Attributes:
        allowed: Each "*", owner/*, owner/name or owner/name@commit; none unless the operator says so.
        most_files: Of one model, counting what would be loaded.
        most_bytes: The size of these files together.
    """

    allowed: tuple[str, ...] = ()
    most_files: int = 100
    most_bytes: int = 16 << 30


@dataclass(frozen=True)
class OperationLimits:
    """How many operations of one kind a service runs at once; more wait for their turn.

    Attributes:
        at_once: In all. Each that runs has a thread in the service's host.
        at_once_each: Of one owner.
    """

    at_once: int = 256
    at_once_each: int = 128


@dataclass(frozen=True)
class KubernetesSettings:
    """What the Kubernetes API is used for: nothing, as on a single machine, where a field is empty.

    Attributes:
        namespace: SynthMix's own.
        audience: Callers may show tokens of the cluster that are meant for this audience.
        services_audience: The services show one another tokens of the cluster that are meant for this one.
        service_accounts: Whose tokens those are, as users of the cluster: they say for whom they ask; nobody else may.
        role_prefix: The ClusterRoles for callers are {role_prefix}-viewer, -editor and -admin.
        ray_cluster: The RayCluster whose worker groups `synthmix scale` changes.
        worker_deployment_prefix: Instead of a RayCluster, workers are the Deployments {prefix}-{service}.
    """

    namespace: str = ""
    audience: str = ""
    services_audience: str = ""
    service_accounts: frozenset[str] = frozenset()
    role_prefix: str = "synthmix"
    ray_cluster: str = ""
    worker_deployment_prefix: str = ""


@dataclass(frozen=True)
class ServerTls:
    """PEM files: the certificate that a front end shows, with what links it to its authority, and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class ServerSettings:
    """Where a front end listens (host:port), and how it knows its callers.

    Attributes:
        tls: Without it, what callers send can be read on its way.
        tokens: What any caller may show.
    """

    listen: str
    metrics_listen: str
    tokens: StaticTokens
    kubernetes: KubernetesSettings = KubernetesSettings()
    tls: ServerTls | None = None


def object_store_settings(environment: Mapping[str, str] = os.environ) -> ObjectStoreSettings:
    for name in ("endpoint_url", "access_key", "secret_key"):
        required(environment, _OBJECT_STORE_VARIABLES[name])
    given = {name: environment.get(variable, "") for name, variable in _OBJECT_STORE_VARIABLES.items()}
    return ObjectStoreSettings(**{name: value for name, value in given.items() if value})


def object_store_root(
    settings: ObjectStoreSettings, environment: Mapping[str, str] = os.environ
) -> ObjectStoreSettings | None:
    """The same server with the keys of its root user, if they are given: to the Job that makes its user alone."""
    access_key = environment.get("SYNTHMIX_OBJECT_STORE_ROOT_ACCESS_KEY", "")
    if not access_key:
        return None
    secret_key = required(environment, "SYNTHMIX_OBJECT_STORE_ROOT_SECRET_KEY")
    return replace(settings, access_key=access_key, secret_key=secret_key)


def object_store_variables(settings: ObjectStoreSettings) -> dict[str, str]:
    """The variables that object_store_settings reads the same settings from."""
    return {variable: getattr(settings, name) for name, variable in _OBJECT_STORE_VARIABLES.items()}


def server_settings(environment: Mapping[str, str] = os.environ) -> ServerSettings:
    return ServerSettings(
        listen=environment.get("SYNTHMIX_LISTEN", "0.0.0.0:50051"),
        metrics_listen=environment.get("SYNTHMIX_METRICS_LISTEN", "0.0.0.0:9090"),
        tokens=static_tokens(environment),
        kubernetes=kubernetes_settings(environment),
        tls=server_tls(environment),
    )


def server_tls(environment: Mapping[str, str] = os.environ) -> ServerTls | None:
    """Raises FailedPrecondition for a certificate without a key, or a key without a certificate."""
    names = ("SYNTHMIX_TLS_CERTIFICATE", "SYNTHMIX_TLS_KEY")
    if not any(environment.get(name) for name in names):
        return None
    certificate, key = (Path(required(environment, name)) for name in names)
    return ServerTls(certificate, key)


def tls_authorities(environment: Mapping[str, str] = os.environ) -> Path | None:
    """A PEM file of the authorities by which services trust one another; None where they use no TLS."""
    path = environment.get(TLS_CA_VARIABLE)
    return Path(path) if path else None


def kubernetes_settings(environment: Mapping[str, str] = os.environ) -> KubernetesSettings:
    """Raises FailedPrecondition for settings that contradict one another."""
    audience = environment.get("SYNTHMIX_KUBERNETES_AUDIENCE", "")
    ray_cluster = environment.get("SYNTHMIX_RAY_CLUSTER", "")
    worker_deployment_prefix = environment.get("SYNTHMIX_WORKER_DEPLOYMENT_PREFIX", "")
    if ray_cluster and worker_deployment_prefix:
        raise FailedPrecondition(
            f"SYNTHMIX_RAY_CLUSTER is {ray_cluster!r} and SYNTHMIX_WORKER_DEPLOYMENT_PREFIX is "
            f"{worker_deployment_prefix!r}; set the one that the workers are",
            reason="SETTING_INVALID",
        )
    if not (audience or ray_cluster or worker_deployment_prefix):
        return KubernetesSettings()
    return KubernetesSettings(
        namespace=required(environment, "SYNTHMIX_NAMESPACE"),
        audience=audience,
        services_audience=environment.get("SYNTHMIX_SERVICES_AUDIENCE", ""),
        service_accounts=frozenset(filter(None, environment.get("SYNTHMIX_SERVICE_ACCOUNTS", "").split(","))),
        role_prefix=environment.get("SYNTHMIX_ROLE_PREFIX") or KubernetesSettings.role_prefix,
        ray_cluster=ray_cluster,
        worker_deployment_prefix=worker_deployment_prefix,
    )


def worker_settings(service: str, environment: Mapping[str, str] = os.environ) -> WorkerSettings:
    prefix = variable_prefix(service)
    return WorkerSettings(
        cpus=_number(environment, f"{prefix}_CPUS", 1.0),
        gpus=_number(environment, f"{prefix}_GPUS", 0.0),
        most_workers=int(_number(environment, f"{prefix}_MOST_WORKERS", 0.0)),
    )


def sweep_settings(environment: Mapping[str, str] = os.environ) -> SweepSettings:
    defaults = SweepSettings()
    return SweepSettings(
        grace_hours=_number(environment, "SYNTHMIX_SWEEP_GRACE_HOURS", defaults.grace_hours),
        upload_hours=_number(environment, "SYNTHMIX_SWEEP_UPLOAD_HOURS", defaults.upload_hours),
        checkpoint_hours=_number(environment, "SYNTHMIX_SWEEP_CHECKPOINT_HOURS", defaults.checkpoint_hours),
        laid_aside_hours=_number(environment, "SYNTHMIX_SWEEP_LAID_ASIDE_HOURS", defaults.laid_aside_hours),
    )


def operation_limits(environment: Mapping[str, str] = os.environ) -> OperationLimits:
    defaults = OperationLimits()
    return OperationLimits(
        at_once=_count(environment, "SYNTHMIX_OPERATIONS_AT_ONCE", defaults.at_once),
        at_once_each=_count(environment, "SYNTHMIX_OPERATIONS_AT_ONCE_EACH", defaults.at_once_each),
    )


def service_address(service: str, environment: Mapping[str, str] = os.environ) -> str:
    """The gRPC target of a service, as host:port or any target that gRPC resolves."""
    return required(environment, f"{variable_prefix(service)}_ADDRESS")


def ray_address(environment: Mapping[str, str] = os.environ) -> str:
    """host:port of a Ray head on this machine, or ray://host:port of a Ray Client server."""
    return required(environment, "SYNTHMIX_RAY_ADDRESS")


def workers_are_here(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether all workers are on this machine: Ray's address is a loopback one."""
    return environment.get("SYNTHMIX_RAY_ADDRESS", "").startswith(("127.0.0.1:", "localhost:"))


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where this node keeps verified copies of payloads. May be emptied at any time."""
    return Path(environment.get("SYNTHMIX_CACHE_DIR") or Path(tempfile.gettempdir()) / "synthmix-cache")


def base_model_folders(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders below which a request may name base models, with links resolved; none unless the operator says so."""
    variable = "SYNTHMIX_BASE_MODEL_FOLDERS"
    folders = [Path(text) for text in environment.get(variable, "").split(os.pathsep) if text]
    for folder in folders:
        if not folder.is_absolute():
            raise FailedPrecondition(
                f"environment variable {variable} names {str(folder)!r}; use absolute paths, with {os.pathsep!r} "
                "between them",
                reason="SETTING_INVALID",
            )
    return [folder.resolve() for folder in folders]


def offered_folder(reference: str) -> Path | None:
    """The folder that a request means, if it is there and below one that the operator names; links are resolved.

    What lies elsewhere and what does not exist cannot be told apart by the answer: a caller cannot explore the server.
    """
    try:
        path = Path(reference).expanduser()
        if not path.is_absolute():
            return None  # whatever lies in the server's working directory
        folder = path.resolve()
        offered = any(folder.is_relative_to(place) for place in base_model_folders())
        return folder if offered and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long; a home that is not known, or links in a circle; a NUL
        return None


def hub_settings(environment: Mapping[str, str] = os.environ) -> HubSettings:
    """Raises FailedPrecondition for an entry that names no model, owner or commit."""
    variable = "SYNTHMIX_HUB_MODELS"
    allowed = tuple(environment.get(variable, "").split())
    for entry in allowed:
        if not _HUB_ENTRY.fullmatch(entry):
            raise FailedPrecondition(
                f"environment variable {variable} holds {entry!r}; use *, owner/*, owner/name or owner/name@commit, "
                "with spaces between them",
                reason="SETTING_INVALID",
            )
    defaults = HubSettings()
    return HubSettings(
        allowed,
        most_files=whole_number(environment, "SYNTHMIX_HUB_MODEL_MOST_FILES", defaults.most_files),
        most_bytes=whole_number(environment, "SYNTHMIX_HUB_MODEL_MOST_BYTES", defaults.most_bytes),
    )


def variable_prefix(service: str) -> str:
    return "SYNTHMIX_" + service.upper().replace("-", "_")


def required(environment: Mapping[str, str], variable: str) -> str:
    value = environment.get(variable, "")
    if not value:
        raise FailedPrecondition(
            f"environment variable {variable} is not set; set it, or start everything with `synthmix up`",
            reason="SETTING_MISSING",
        )
    return value


def whole_number(environment: Mapping[str, str], variable: str, default: int, *, least: int = 1) -> int:
    """A count or a size in bytes. Raises FailedPrecondition if the variable holds something else."""
    text = environment.get(variable, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise FailedPrecondition(
            f"environment variable {variable} is {text!r}; set it to a whole number of {least} or more",
            reason="SETTING_INVALID",
        )
    return int(text)


def _number(environment: Mapping[str, str], variable: str, default: float) -> float:
    text = environment.get(variable, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise FailedPrecondition(
            f"environment variable {variable} is {text!r}; set it to a number of 0 or more",
            reason="SETTING_INVALID",
        )
    return value


def _count(environment: Mapping[str, str], variable: str, default: int) -> int:
    value = _number(environment, variable, default)
    if value < 1 or value != int(value):
        raise FailedPrecondition(
            f"environment variable {variable} is {environment[variable]!r}; set it to a whole number of 1 or more",
            reason="SETTING_INVALID",
        )
    return int(value)
