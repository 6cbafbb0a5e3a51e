"""A real Kubernetes API server with its etcd, on loopback: it admits objects, and runs none."""

import secrets
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from rendering import tool
from schemas import DEFINITIONS, Loader, module_folder

from synthmix.embedded.children import Child, stop_children, wait_until_ready
from synthmix.embedded.ports import LOOPBACK, free_port

START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ApiServer:
    """A running API server."""

    url: str
    admin_token: str
    folder: Path

    @property
    def certificate(self) -> Path:
        """Of its own making, when it starts."""
        return self.folder / "certificates" / "apiserver.crt"

    def kubeconfig(self, token: str | None = None) -> Path:
        """A kubeconfig of the administrator, or of whom the token belongs to."""
        path = self.folder / f"kubeconfig-{secrets.token_hex(4)}"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {"server": self.url, "certificate-authority": str(self.certificate)},
                        }
                    ],
                    "users": [{"name": "test", "user": {"token": token or self.admin_token}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "current-context": "test",
                }
            )
        )
        return path

    def api(self, token: str | None = None) -> Any:
        """A kubernetes.client.ApiClient."""
        configuration = client.Configuration()
        config.load_kube_config(str(self.kubeconfig(token)), client_configuration=configuration)
        return client.ApiClient(configuration)

    def create_namespace(self, name: str) -> None:
        """A namespace that admits only what the level "restricted" allows, and warns of the rest."""
        levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        client.CoreV1Api(self.api()).create_namespace({"metadata": {"name": name, "labels": levels}})

    def token_of(self, account: str, namespace: str, audience: str | None = None) -> str:
        """A service account's token: for the API server itself unless an audience is given."""
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[audience] if audience else [])
        )
        answer = client.CoreV1Api(self.api()).create_namespaced_service_account_token(account, namespace, request)
        return str(answer.status.token)

    def helm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [tool("helm"), f"--kubeconfig={self.kubeconfig()}", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not check or result.returncode == 0, result.stderr
        return result


@contextmanager
def running_api_server(folder: Path) -> Iterator[ApiServer]:
    """An API server with RBAC and Kubernetes' own admission, for the length of a `with` block."""
    taken: set[int] = set()
    etcd_port, peer_port, port = (free_port(taken) for _ in range(3))
    server = ApiServer(f"https://{LOOPBACK}:{port}", secrets.token_hex(16), folder)
    (folder / "tokens.csv").write_text(f'{server.admin_token},admin,admin,"system:masters"\n')
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    etcd_url, peer_url = f"http://{LOOPBACK}:{etcd_port}", f"http://{LOOPBACK}:{peer_port}"
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
        "bind-address": LOOPBACK,
        "secure-port": port,
        "cert-dir": server.certificate.parent,
        "service-account-key-file": key,
        "service-account-signing-key-file": key,
        "service-account-issuer": issuer,
        "api-audiences": issuer,
        "token-auth-file": folder / "tokens.csv",
        "authorization-mode": "RBAC",
        "service-cluster-ip-range": "10.96.0.0/16",
    }
    with ExitStack() as stack:
        for name, program, options, url in (
            ("etcd", tool("etcd"), etcd_options, f"{etcd_url}/health"),
            ("kube-apiserver", tool("kube-apiserver"), server_options, f"{server.url}/readyz"),
        ):
            command = [program, *(f"--{key}={value}" for key, value in options.items())]
            child = Child(name, command, {"PATH": "/usr/bin:/bin"}, folder=folder, log=folder / f"{name}.log")
            child.start()
            stack.callback(stop_children, [child], 10.0)
            wait_until_ready(
                {child: lambda url=url: _answers(server, url)},
                timeout_s=START_TIMEOUT_S,
                say_ready=lambda child: None,
                check_stop=lambda: None,
            )
        yield server


def install_definitions(server: ApiServer) -> None:
    """The kinds of KubeRay, Prometheus' operator, cert-manager and the Gateway API."""
    definitions = client.ApiextensionsV1Api(server.api())
    for module, pattern in DEFINITIONS.values():
        for path in module_folder(module).glob(pattern):
            definition = yaml.load(path.read_text(), Loader=Loader)
            definition["metadata"].pop("labels", None)  # cert-manager's are a template's
            definitions.create_custom_resource_definition(definition)


def _answers(server: ApiServer, url: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {server.admin_token}"})
    with suppress(OSError):  # also while there is no certificate yet
        context = ssl.create_default_context(cafile=server.certificate) if url.startswith("https:") else None
        with urllib.request.urlopen(request, timeout=2.0, context=context) as answer:
            return bool(answer.status == 200)
    return False
