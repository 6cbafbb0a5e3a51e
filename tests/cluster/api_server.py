"""A real Kubernetes API server with its etcd: it admits objects, and runs none."""

import secrets
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from built_tools import tool
from cluster.access import Cluster
from synthmix.local.children import Child, stop_children, wait_until_ready
from synthmix.local.ports import LOOPBACK, free_port

START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ApiServer:
    """A running API server, and its administrator's access."""

    url: str
    folder: Path
    cluster: Cluster

    @property
    def certificate(self) -> Path:
        """Of its own making, when it starts."""
        return _certificate(self.folder)


@contextmanager
def running_api_server(
    folder: Path,
    *,
    address: str = LOOPBACK,
    port: int | None = None,
    inside: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    users: Mapping[str, tuple[str, str]] | None = None,
) -> Iterator[ApiServer]:
    """An API server with RBAC and Kubernetes' own admission, for the length of a `with` block.

    Args:
        folder: For its state, and etcd's.
        address: Where both listen.
        port: The API server's; None: one that is free on this machine.
        inside: What comes before a command, such as that which runs it in a network namespace.
        options: Flags beside those that it needs.
        users: Beside the administrator: name and group by token.
    """
    taken: set[int] = set()
    etcd_port, peer_port, spare_port = (free_port(taken) for _ in range(3))
    port = port or spare_port
    url, token = f"https://{address}:{port}", secrets.token_hex(16)
    certificate = _certificate(folder)
    server = ApiServer(url, folder, Cluster(write_kubeconfig(folder / "kubeconfig", url, certificate, token)))
    known = {token: ("admin", "system:masters"), **(users or {})}
    (folder / "tokens.csv").write_text(
        "".join(f'{token},{name},{name},"{group}"\n' for token, (name, group) in known.items())
    )
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    etcd_url, peer_url = f"http://{address}:{etcd_port}", f"http://{address}:{peer_port}"
    etcd_options = {
        "data-dir": folder / "etcd",
        "listen-client-urls": etcd_url,
        "advertise-client-urls": etcd_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"default={peer_url}",
        "unsafe-no-fsync": "true",
    }
    issuer = "https://kubernetes.default.svc"
    server_options = {
        "etcd-servers": etcd_url,
        "bind-address": address,
        "secure-port": port,
        "cert-dir": certificate.parent,
        "service-account-key-file": key,
        "service-account-signing-key-file": key,
        "service-account-issuer": issuer,
        "api-audiences": issuer,
        "token-auth-file": folder / "tokens.csv",
        "authorization-mode": "RBAC",
        "service-cluster-ip-range": "10.96.0.0/16",
        **(options or {}),
    }
    with ExitStack() as stack:
        for name, program, flags, health in (
            ("etcd", tool("etcd"), etcd_options, f"{etcd_url}/health"),
            ("kube-apiserver", tool("kube-apiserver"), server_options, f"{url}/readyz"),
        ):
            command = [*inside, program, *(f"--{key}={value}" for key, value in flags.items())]
            child = Child(name, command, {"PATH": "/usr/bin:/bin"}, folder=folder, log=folder / f"{name}.log")
            child.start()
            stack.callback(stop_children, [child], 10.0)
            wait_until_ready(
                {child: lambda health=health: _answers(health, token, certificate)},
                timeout_s=START_TIMEOUT_S,
                say_ready=lambda child: None,
                check_stop=lambda: None,
            )
        yield server


def write_kubeconfig(path: Path, url: str, certificate: Path, token: str) -> Path:
    """A kubeconfig of whom the token belongs to."""
    cluster = {"server": url, "certificate-authority": str(certificate)}
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(configuration))
    return path


def _certificate(folder: Path) -> Path:
    return folder / "certificates" / "apiserver.crt"


def _answers(url: str, token: str, certificate: Path) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with suppress(OSError):  # also while there is no certificate yet
        context = ssl.create_default_context(cafile=certificate) if url.startswith("https:") else None
        with urllib.request.urlopen(request, timeout=2.0, context=context) as answer:
            return bool(answer.status == 200)
    return False
