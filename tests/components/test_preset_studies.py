"""Each preset is a study that runs to its report on a few real cells: reduced in length, and in nothing else."""

import json
from itertools import islice
from pathlib import Path

import pytest

from image_archives import dataset
from in_process_study import InProcessServices, run_study, workers_open
from memory_object_store import MemoryObjectStore
from real_images import FIELD, real_images
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.presets import preset_files
from synthmix.service_kit.artifacts import read_payload
from synthmix.service_kit.requesters import LOCAL
from synthmix.study_control.datasets import claim_name

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "nothing_kept", "any_base_model")

CLASSES = ("293A", "HT1080")
IMAGES_OF_A_CLASS = 10
# Every preset, and of the benchmark's variants those that lack something of their paper's: a selection.
STUDIES = [
    *((name, preset_files.PAPER) for name in preset_files.names() if not preset_files.read(name).unavailable),
    ("diff-mix", preset_files.UNIDIFFDA),
    ("real-guidance", preset_files.UNIDIFFDA),
]
STUDY = """\
name: reduced
dataset: cells
preset: {preset}
variant: {variant}
adapters: {{base_model: {model}, images_seen: 8, batch_size: 4, image_size: 32}}
synthesis: {{prompt: "a {{label}} cell", steps: 8{synthesis}}}
mixtures: {{{mixtures}}}
classifier: {{architecture: mobilenetv3_small_050, pretrained: false, image_size: 32, epochs: 1, batch_size: 8}}
seeds: 1
"""


def few_cells() -> dict[str, bytes]:
    """Some of each class, by their names."""
    folder = real_images("hek_ht1080")
    return {
        f"{label}/{path.name}": path.read_bytes()
        for label in CLASSES
        for path in islice(sorted((folder / label).iterdir()), IMAGES_OF_A_CLASS)
    }


@pytest.mark.parametrize(("name", "variant"), STUDIES)
def test_a_reduced_study(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, variant: str
) -> None:
    store = MemoryObjectStore.created()
    cells = dataset(store, tmp_path, few_cells(), group_rule=datasets_pb2.GroupRule(pattern=FIELD))
    claim_name(store, LOCAL, "cells", cells.name, account=None, replace=False)
    workers_open(store, monkeypatch)
    text = STUDY.format(
        preset=name,
        variant=variant,
        model=folder,
        synthesis=", inversion_steps: 8" if name == "diff-ii" else "",
        # Of what a base model of random weights makes, a judge finds hardly any image to be of its class.
        mixtures="ratios: [0.2]" if (name, variant) == ("real-guidance", "paper") else "",
    )
    spec = parse_document(text, studies_pb2.StudySpec, "study.yaml").message
    study, _ = run_study(store, InProcessServices(store), spec, monkeypatch)
    report = json.loads(read_payload(store, study, "report.json"))
    assert [line for line in report["leakage"] if line["status"] in ("broken", "unknown")] == []
    [said] = report["presets"]
    assert (said["name"], said["variant"], len(said["image_sets"])) == (name, variant, 1)
    preset = preset_files.find(name, variant)
    assert said["deviations"] == list(preset.deviations)
    assert any("adapters[0].images_seen is 8" in sentence for sentence in said["changes"]) == (
        preset.sections["adapters"].HasField("images_seen")
    )
    html = read_payload(store, study, "report.html").decode()
    assert f"<strong>{name}</strong>, variant {variant}" in html
    assert any(trial["training"]["synthetic_images"] for trial in report["trials"])
