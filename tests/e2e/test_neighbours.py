"""A caller of another namespace: an editor there is nobody here, and an editor here changes nothing of another's."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from accounts import Account, made_account
from kubernetes import client
from release import PREFIX, Release

from cluster.access import Cluster
from studies import FEW, import_simulated, reduced_study
from synthmix import Client, GroupRule
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.client import metadata_of
from synthmix.examples.simulated_cells import GROUP_PATTERN, SimulatedCellsSettings, write_simulated_dataset
from synthmix.service_kit.environment import ADAPTER_TRAINING, STUDY_CONTROL
from synthmix.service_kit.errors import PermissionDenied
from waiting import wait_until

NEIGHBOURS = "neighbours"
NAME = "of-the-owner"
# Longer than all that is tried meanwhile.
SPEC = reduced_study(NAME, FEW, adapters={"rank": 4, "images_seen": 64_000})


@pytest.fixture(scope="module")
def owner(release: Release) -> Iterator[Account]:
    with (
        made_account(release.cluster, release.namespace, "owner") as account,
        account.bound(release.role("editor"), release.namespace),
    ):
        yield account


@pytest.fixture(scope="module")
def neighbour(release: Release) -> Iterator[Account]:
    """Edits another namespace: by Kubernetes' own role for that, and by the release's."""
    cluster = release.cluster
    cluster.create_namespace(NEIGHBOURS)
    try:
        with (
            made_account(cluster, NEIGHBOURS, "neighbour") as account,
            account.bound("edit", NEIGHBOURS),
            account.bound(release.role("editor"), NEIGHBOURS),
        ):
            yield account
    finally:
        cluster.kubectl("delete", "namespace", NEIGHBOURS)


@pytest.fixture(scope="module")
def study(release: Release, owner: Account, tmp_path_factory: pytest.TempPathFactory) -> Iterator[studies_pb2.Study]:
    """The owner's. In the end they cancel and delete it, as only they may."""
    with release.client(owner.token()) as caller:
        import_simulated(caller, tmp_path_factory.mktemp("owners"))
        caller.submit_study(SPEC)
        study = caller.get_study(NAME)
        wait_until(lambda: bool(adapter_of(caller, owner)), "the adapter is asked for")
        yield study
        caller.cancel_study(study.name)
        caller.wait(study.operation, timeout_s=120)
        assert study.name in [item.name for item in caller.delete_study(study.name).deleted]


def adapter_of(caller: Client, owner: Account) -> str:
    """The operation of the owner's study's adapter, once there is one."""
    for operation in caller.list_operations(ADAPTER_TRAINING):
        if not operation.done and owner.user in metadata_of(operation).requested_by:
            return operation.name
    return ""


def refusals(attempts: Mapping[str, Callable[[], Any]]) -> dict[str, PermissionDenied]:
    """With what each attempt is refused."""
    found = {}
    for what, attempt in attempts.items():
        with pytest.raises(PermissionDenied) as refused:
            attempt()
            pytest.fail(f"{what} is not refused")
        found[what] = refused.value
    return found


def test_an_editor_of_another_namespace_asks_the_services_for_nothing(
    release: Release, neighbour: Account, study: studies_pb2.Study
) -> None:
    """Even where it reaches them."""
    with release.client(neighbour.token()) as caller:
        attempts = {
            "list studies": lambda: list(caller.list_studies()),
            "get the study": lambda: caller.get_study(study.name),
            "watch the study": lambda: next(caller.watch_study(study.name)),
            "submit the study": lambda: caller.submit_study(SPEC),
            "cancel the study": lambda: caller.cancel(study.operation),
            "delete the study": lambda: caller.delete_study(study.name),
            "list datasets": lambda: list(caller.list_datasets()),
            "get the dataset": lambda: caller.get_dataset(study.dataset),
            "delete the dataset": lambda: caller.delete_dataset(study.dataset, cascade=True),
            "list adapters": lambda: list(caller.adapters.list()),
            "list operations": lambda: list(caller.list_operations(ADAPTER_TRAINING)),
            "read the cluster": caller.get_cluster,
        }
        for what, refused in refusals(attempts).items():
            assert refused.reason == "RIGHT_MISSING", what
            assert refused.message.startswith(f"{neighbour.user} may not "), what


def test_an_editor_of_another_namespace_gets_nothing_of_the_release_by_kubernetes(
    release: Release, neighbour: Account, owner: Account
) -> None:
    kubeconfig = release.cluster.kubeconfig_of(neighbour.token(None))
    cluster, here = Cluster(kubeconfig), f"--namespace={release.namespace}"
    assert cluster.kubectl("get", "secrets", f"--namespace={NEIGHBOURS}").stderr.startswith("No resources found")
    attempts = (
        ("get", "secrets"),
        ("get", "secret", f"{PREFIX}-token"),
        ("get", "rayclusters.ray.io"),
        ("get", "raycluster.ray.io", f"{PREFIX}-ray"),
        ("patch", "raycluster.ray.io", f"{PREFIX}-ray", "--type=merge", '--patch={"spec": {"suspend": true}}'),
        ("get", "pods"),
        ("create", "token", owner.name),
        ("create", "rolebinding", "mine", f"--clusterrole={release.role('admin')}", f"--user={neighbour.user}"),
    )
    for attempt in attempts:
        result = cluster.kubectl(*attempt, here, check=False)
        assert result.returncode != 0 and "forbidden" in result.stderr.lower(), (attempt, result)
    for part in ("pods/exec", "pods/portforward", "serviceaccounts/token"):
        assert cluster.kubectl("auth", "can-i", "create", part, here, check=False).stdout == "no\n", part
    with patch.dict(os.environ, {"KUBECONFIG": str(kubeconfig)}), pytest.raises(PermissionDenied) as refused:
        Client.connect(release=release.name)
    assert refused.value.reason == "RBAC_RIGHT_MISSING"


def test_an_editor_of_the_release_too_changes_nothing_of_anothers(
    release: Release, neighbour: Account, owner: Account, study: studies_pb2.Study, tmp_path: Path
) -> None:
    """It sees whose things are. The dataset may be others' as well, who imported the same images."""
    with neighbour.bound(release.role("editor"), release.namespace), release.client(neighbour.token()) as caller:
        wait_until(lambda: may_list(caller), "the release knows of the neighbour's right", poll_s=1.0)
        [seen] = [item for item in caller.list_studies() if item.name == study.name]
        assert (list(seen.requested_by), seen.requested_by_me) == ([owner.user], False)
        adapter = adapter_of(caller, owner)
        attempts = {
            "cancel the study": lambda: caller.cancel_study(study.name),
            "cancel its adapter": lambda: caller.cancel(adapter),
            "delete the study": lambda: caller.delete_study(study.name, cascade=True),
            "delete the dataset": lambda: caller.delete_dataset(study.dataset, cascade=True),
            "remove images": lambda: caller.remove_images(study.dataset, groups=["00"], cascade=True),
        }
        for what, refused in refusals(attempts).items():
            assert refused.reason == "NOT_OWNER", what
            assert owner.user in refused.message and f"you are {neighbour.user}" in refused.message, what
            assert f"--clusterrole {release.role('admin')} --user {neighbour.user}" in refused.message, what

        write_simulated_dataset(tmp_path, SimulatedCellsSettings(images_per_class=16, chips=8))
        rule = GroupRule(pattern=GROUP_PATTERN)
        taken = caller.import_dataset(tmp_path, FEW, group=rule, simulated=True, replace=True)
        of_name = metadata_of(caller.submit_study(SPEC)).target
        assert (taken.name != study.dataset, of_name != study.name) == (True, True), "its own of these names"
        caller.cancel_study(of_name)
    with release.client(owner.token()) as caller:
        assert caller.get_dataset(FEW).name == study.dataset
        assert caller.get_study(NAME).name == study.name
        assert not metadata_of(caller.get_operation(study.operation)).cancel_requested
        assert adapter_of(caller, owner) == adapter
    said = {(line["method"].rpartition("/")[2], line["code"]) for line in audit_of(release, neighbour)}
    assert said >= {("DeleteStudy", "PERMISSION_DENIED"), ("CancelOperation", "PERMISSION_DENIED")}
    assert ("CreateDataset", "OK") in said


def may_list(caller: Client) -> bool:
    try:
        list(caller.list_studies())
    except PermissionDenied:
        return False
    return True


def audit_of(release: Release, account: Account) -> list[dict[str, Any]]:
    """What study-control's log says that an account changed, or wanted to."""
    core = client.CoreV1Api(release.cluster.api())
    logs = [
        core.read_namespaced_pod_log(pod.metadata.name, release.namespace, _preload_content=False).data.decode()
        for pod in release.pods(STUDY_CONTROL)
    ]
    lines = [json.loads(text) for log in logs for text in re.findall(r"audit (\{.*\})$", log, re.MULTILINE)]
    return [line for line in lines if line["caller"] == account.user]
