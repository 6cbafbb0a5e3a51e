"""README's part on clusters, followed word for word."""

import functools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from chart.rendering import CHART, ROOT
from cluster.access import Cluster
from programs import BUILT
from synthmix.examples.simulated_cells import SimulatedCellsSettings, write_simulated_dataset
from tiny_base_model import write_tiny_base_model

NAMESPACE = "synthmix"
SECTION = re.compile(r"^## On a cluster$(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```console$(.*?)^```$", re.MULTILINE | re.DOTALL)
STUDY = """\
name: my-first-study
dataset: my-cells
split: {test: 0.25, validation: 0.15, seed: 7}
adapters: {rank: 4, images_seen: 320}
synthesis: {prompt: "a brightfield image of {label} cells", steps: 4}
mixtures: {ratios: [0, 0.25]}
classifier: {epochs: 1}
seeds: 1
"""


def commands() -> list[str]:
    section = SECTION.search((ROOT / "README.md").read_text())
    assert section
    lines = [line for block in BLOCK.findall(section[1]) for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def merge(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """As Helm merges files of values."""
    merged = dict(values)
    for key, value in others.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


def test_readme_leads_to_a_report(cluster: Cluster, values: list[Path], tmp_path: Path) -> None:
    """In a folder where `.venv` and `charts` are the repository's, and the reader's own files are small."""
    for name in (".venv", "charts"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_simulated_dataset(tmp_path / "images", SimulatedCellsSettings(images_per_class=32, chips=8))
    for image in list((tmp_path / "images").rglob("*.png")):
        image.rename(image.with_name(image.name.replace("chip-", "plate")))
    (tmp_path / "study.yaml").write_text(STUDY)
    write_tiny_base_model(tmp_path / "my-finetuned-sd")
    written = [yaml.safe_load(file.read_text()) for file in (CHART / "ci" / "small-values.yaml", *values)]
    (tmp_path / "my-values.yaml").write_text(yaml.safe_dump(functools.reduce(merge, written)))

    lines = commands()
    assert lines[0].startswith("helm install synthmix ")
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PATH": f"{BUILT}:{os.environ['PATH']}"}
    script = "\n".join(["set -e -o pipefail", *lines])
    try:
        result = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        print(result.stdout)
        assert result.returncode == 0, result.stdout + result.stderr
        assert (tmp_path / "report" / "report.html").exists()
    finally:
        cluster.helm("uninstall", "synthmix", f"--namespace={NAMESPACE}", check=False)
        cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
