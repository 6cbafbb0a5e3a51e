"""What tests do with a cluster: through the API, and by the programs that its users have."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from built_tools import tool


@cache
def _kubeconfigs() -> tempfile.TemporaryDirectory[str]:
    """Where those of others are, with their tokens, until this process ends."""
    return tempfile.TemporaryDirectory(prefix="kubeconfigs-")


@dataclass(frozen=True)
class Cluster:
    """A cluster, as the user of a kubeconfig."""

    kubeconfig: Path

    def kubeconfig_of(self, token: str) -> Path:
        """A kubeconfig of whom the token belongs to."""
        configuration = yaml.safe_load(self.kubeconfig.read_text())
        for user in configuration["users"]:
            user["user"] = {"token": token}
        with tempfile.NamedTemporaryFile("w", dir=_kubeconfigs().name, delete=False) as file:
            file.write(yaml.safe_dump(configuration))
        return Path(file.name)

    def api(self) -> Any:
        """A kubernetes.client.ApiClient."""
        configuration = client.Configuration()
        config.load_kube_config(str(self.kubeconfig), client_configuration=configuration)
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
        return self._run("helm", arguments, check=check)

    def kubectl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("kubectl", arguments, check=check)

    def create(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Creates objects of any kind, in their order."""
        self._run("kubectl", ("create", "--filename=-"), check=True, text=_as_list(objects))

    def delete(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Deletes what was created, if it is there, and waits until it is gone."""
        arguments = ("delete", "--ignore-not-found", "--wait", "--filename=-")
        self._run("kubectl", arguments, check=True, text=_as_list(objects))

    def _run(
        self, program: str, arguments: Sequence[str], *, check: bool, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [tool(program), f"--kubeconfig={self.kubeconfig}", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False, input=text)
        assert not check or result.returncode == 0, result.stderr
        return result


def _as_list(objects: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
