"""Several adapters at once: the weighted sum of what each changes, whatever their methods; and studies of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from image_archives import BY_PLATE, dataset, plates
from in_process_study import InProcessServices, run_study, workers_open
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.image_synthesis import adapted_models
from synthmix.image_synthesis.adapted_models import adapted_model, make_ready, summed_model
from synthmix.latent_diffusion.adapters import PARTS, load_adapter, weights
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.kept_models import lend, shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, answers
from synthmix.service_kit.artifacts import Manifest, read_manifest, read_payload, write_manifest, write_payload
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from synthmix.study_control.datasets import claim_name
from tiny_adapters import pixels, settings_of, trained, written

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "nothing_kept")

# Of other methods, layers and parts, each with its options.
PAIRS: list[list[tuple[str, str, dict[str, Any]]]] = [
    [("lora", "attention", {}), ("lora", "all", {"alpha": 1.0})],
    [("lora", "attention", {"text_encoder_targets": "attention"}), ("dora", "attention+feedforward", {})],
    [("oft", "attention", {"block_size": 4}), ("loha", "attention+feedforward+convolution", {})],
]
FACTORS, SCALE = (0.5, -0.75), 0.5
STUDY = """\
name: summed
dataset: cells
adapters: {{base_model: {model}, rank: [2, 4], alpha: 2, images_seen: 8, batch_size: 4, image_size: 32}}
synthesis:
  - {{prompt: "a {{label}} cell", steps: 4}}
  - {{prompt: "a {{label}} cell", steps: 4, adapter_weights: [0.75, 0.5]}}
selection: [none, {{drop_lowest: 0.1}}]
mixtures: {{ratios: [0.25]}}
classifier: {{architecture: mobilenetv3_small_050, pretrained: false, image_size: 32, epochs: 1, batch_size: 8}}
seeds: 1
"""


def adapter_with(
    store: MemoryObjectStore, number: int, files: dict[str, bytes], found: BaseModel, settings: Any
) -> ArtifactName:
    name = ArtifactName(ADAPTERS, f"{number:032x}")
    payloads = tuple(write_payload(store, name, file, data) for file, data in files.items())
    request = planning.canonical_request(settings, train_digest="1" * 32, base_model_digest=found.digest)
    summary = {"grey": False, "base_model": str(found.folder), "classes": ["flat", "round"]}
    write_manifest(store, Manifest(name, {"base_model": found.digest}, request, 3, payloads, summary))
    return name


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_changes_are_added_up(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, pair: list[tuple[str, str, dict[str, Any]]]
) -> None:
    store = MemoryObjectStore.created()
    before = {part: {name: value.clone() for name, value in of_part.items()} for part, of_part in weights(base).items()}
    names, changed = [], []
    for number, (method, targets, others) in enumerate(pair):
        settings = settings_of(found, method, targets, **others)
        model, state = trained(base, settings, stop_after=2, images=np.roll(pixels(10), 40 * number))
        files = adapter_files(model, state.first_factors)
        names.append(adapter_with(store, number, files, found, settings))
        alone = shared_copy(base)
        load_adapter(alone, written(files, tmp_path / f"{number}"))
        adapted_models._merge(alone)
        merged = weights(alone)
        changed.append(
            {part: {name: merged[part][name] - value for name, value in before[part].items()} for part in PARTS}
        )

    expected = shared_copy(base)
    for part in PARTS:
        for name, value in getattr(expected, part).named_parameters():
            first, second = (of_adapter[part][name] for of_adapter in changed)
            value.data = value.data + SCALE * (FACTORS[0] * first + FACTORS[1] * second)
    make_ready(expected, "automatic")
    both = answers(summed_model(store, tuple(names), "automatic", FACTORS, SCALE))
    for part, answer in answers(expected).items():
        torch.testing.assert_close(both[part], answer, rtol=0, atol=1e-5)
    alone_answer = answers(adapted_model(store, names[1], "automatic"))
    assert any((both[part] - alone_answer[part]).abs().max() > 1e-3 for part in both)
    of_one = answers(summed_model(store, tuple(names), "automatic", (0.0, 1.0), 1.0))
    for part, answer in alone_answer.items():
        torch.testing.assert_close(of_one[part], answer, rtol=0, atol=1e-5)
    kept = weights(lend(found))
    assert all(torch.equal(kept[part][name], value) for part, of in before.items() for name, value in of.items())


@pytest.mark.usefixtures("any_base_model")
def test_a_study_of_two_adapters_and_both(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryObjectStore.created()
    cells = dataset(store, tmp_path, plates(plate_count=12), group_rule=BY_PLATE)
    claim_name(store, LOCAL, "cells", cells.name, account=None, replace=False)
    workers_open(store, monkeypatch)
    spec = parse_document(STUDY.format(model=folder), studies_pb2.StudySpec, "study.yaml").message
    study, _ = run_study(store, InProcessServices(store), spec, monkeypatch)

    report = json.loads(read_payload(store, study, "report.json"))
    assert [line for line in report["leakage"] if line["status"] in ("broken", "unknown")] == []
    shown = {item["name"]: item["adapter"] for item in report["image_sets"]}
    assert shown == {
        "rank 2": "rank 2",
        "rank 2, drop lowest 0.1": "rank 2",
        "rank 4": "rank 4",
        "rank 4, drop lowest 0.1": "rank 4",
        "adapter weights 0.75; 0.5": "rank 2; rank 4",
        "adapter weights 0.75; 0.5, drop lowest 0.1": "rank 2; rank 4",
    }
    sets = [
        read_manifest(store, ArtifactName.parse(value, field="image_set"))
        for key, value in study.inputs.items()
        if key.startswith("image-set-")
    ]
    adapters = [ArtifactName.parse(study.inputs[f"adapter-{number}"], field="adapter").id for number in (0, 1)]
    assert [[item.inputs[key] for key in ("adapter", "adapter-1") if key in item.inputs] for item in sets] == [
        [adapters[0]],
        [adapters[0]],
        [adapters[1]],
        [adapters[1]],
        adapters,
        adapters,
    ]
    images = [[payload.sha256 for payload in item.payloads] for item in sets]
    assert len({str(item) for item in images}) == len(images)
