"""Generation scales apart from training."""

from pathlib import Path

from release import Release

from cluster.prometheus import Prometheus
from studies import FEW, import_simulated, reduced_study, run_study
from waiting import wait_until

SYNTHESIS, TRAINING = "image-synthesis-worker", "adapter-training-worker"
START_TIMEOUT_S = 300.0


def test_a_second_synthesis_worker_starts_and_is_used(release: Release, prometheus: Prometheus, tmp_path: Path) -> None:
    """Images of several shards; their adapter is trained before the group is given another bound."""
    with release.client() as client:
        import_simulated(client, tmp_path)
        run_study(client, reduced_study("before-scaling", FEW))
        release.synthmix("scale", "image-synthesis", "--max", "2")
        wait_until(lambda: not release.pods(TRAINING), "no training worker is left", START_TIMEOUT_S)
        synthesis = {"prompt": "a brightfield image of {label} cells", "steps": 30, "per_class": 320}
        client.submit_study(reduced_study("after-scaling", FEW, synthesis=synthesis))
        trained_meanwhile = []

        def two_work() -> bool:
            trained_meanwhile.extend(release.pods(TRAINING))
            series = prometheus.query("sum by (pod) (ray_synthmix_images_total) > 0")
            running = {pod.metadata.name for pod in release.pods(SYNTHESIS)}
            return len({labels["pod"] for labels, _ in series} & running) == 2

        wait_until(two_work, "two synthesis workers have made images", START_TIMEOUT_S, poll_s=1.0)
        client.cancel_study("after-scaling")
    assert trained_meanwhile == []
    release.synthmix("scale", "image-synthesis", "--max", "1")
