"""Ray as plain Deployments, for clusters without the KubeRay operator."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from release import Release, running_release

from cluster.access import Cluster
from studies import FEW, import_simulated, reduced_study, run_study
from waiting import wait_until

NAMESPACE = "without-operator"
GROUPS = ("adapterTraining", "imageSynthesis", "classifierEvaluation")
# They share the node with another release, whose pods, and the one of this `helm test`, have to find room beside them.
SMALL = {"resources": {"requests": {"cpu": "100m"}}}
VALUES = {
    "ray": {"operator": False},
    "workers": {"studyControl": SMALL} | {group: {"max": 2} | SMALL for group in GROUPS},
}
START_TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def plain(cluster: Cluster, values: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("plain")
    path = folder / "plain.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    with running_release(cluster, [*values, path], folder, NAMESPACE) as release:
        yield release


def test_a_study_ends_and_workers_are_scaled_by_hand(plain: Release, tmp_path: Path) -> None:
    plain.helm("test")
    with plain.client() as client:
        import_simulated(client, tmp_path)
        assert run_study(client, reduced_study("on-deployments", FEW)).verdict
    plain.synthmix("scale", "image-synthesis", "--max", "2")
    wait_until(
        lambda: len(plain.pods("image-synthesis-worker")) == 2 and plain.are_ready("image-synthesis-worker"),
        "a second synthesis worker is ready",
        START_TIMEOUT_S,
    )
    assert len(plain.pods("adapter-training-worker")) == 1
