"""Studies of imported images, to their reports: alone, and beside images that the study makes."""

import json
from pathlib import Path

import pytest

from image_archives import BY_PLATE, dataset, encoded
from imported_image_sets import Files, import_here, imported, saw
from in_process_study import InProcessServices, run_study, workers_open
from memory_object_store import MemoryObjectStore
from striped_study import CLASSES, stripes
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.image_data.split_parts import open_split
from synthmix.service_kit.artifacts import read_payload
from synthmix.service_kit.requesters import LOCAL
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.split import create_split

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache", "nothing_kept", "any_base_model")

STUDY = """\
name: imported
dataset: cells
split: {{test: 0.25, validation: 0.25}}
image_sets: [{image_set}]
mixtures: {{ratios: [0.5], synthetic_only: true}}
classifier: {{architecture: mobilenetv3_small_050, pretrained: false, image_size: 32, epochs: 1, batch_size: 8}}
seeds: 1
"""
MADE = """\
adapters: {{base_model: {model}, images_seen: 8, batch_size: 4, image_size: 32}}
synthesis: {{prompt: "a {{label}} cell", steps: 4}}
"""


def striped(seed: int, names: str, count: int) -> Files:
    return {
        f"{name}/{names.format(number // 3)}_{number}.png": encoded(stripes(label, seed + 100 * label + number))
        for label, name in enumerate(CLASSES)
        for number in range(count)
    }


@pytest.mark.parametrize("beside", [False, True])
def test_a_study(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, beside: bool) -> None:
    store = MemoryObjectStore.created()
    cells = dataset(store, tmp_path, striped(1000, "plate-{}", 24), group_rule=BY_PLATE)
    claim_name(store, LOCAL, "cells", cells.name, account=None, replace=False)
    workers_open(store, monkeypatch)
    import_here(store, monkeypatch)
    split = create_split(store, cells, SplitSettings(test=0.25, validation=0.25))
    train, _, _ = open_split(store, str(split), field="split")
    # One source is a train image here, and the other an image that no dataset holds.
    files = striped(7000, "stripes-{}", 20)
    lines = [{"file_name": name, "sources": [train.sha256s[0], "f" * 64]} for name in files]
    metadata = "\n".join(json.dumps(line) for line in lines).encode()
    image_set = imported(store, files | {"metadata.jsonl": metadata}, saw(store, *train.sha256s))

    text = STUDY.format(image_set=image_set.name) + (MADE.format(model=folder) if beside else "")
    spec = parse_document(text, studies_pb2.StudySpec, "study.yaml").message
    study, context = run_study(store, InProcessServices(store), spec, monkeypatch)

    report = json.loads(read_payload(store, study, "report.json"))
    assert [line for line in report["leakage"] if line["status"] in ("broken", "unknown")] == []
    [line] = [line for line in report["leakage"] if line["statement"].startswith("Imported images")]
    assert f"0 of {len(train) + 1} images that were seen, and 0 of 40 imported files" in line["evidence"]
    *made, shown = report["image_sets"]
    assert (shown["name"], shown["adapter"], sum(shown["images"].values())) == ("stylegan", "", 40)
    assert shown["settings"]["Seen by its generator"] == f"{len(train) + 1} real images, as was stated"
    assert len(made) == len(report["adapters"]) == beside
    used = {trial["training"]["mixture"] for trial in report["trials"] if trial["training"]["synthetic_images"]}
    assert len(used) == 2 * (1 + beside)
    assert [item["name"] for item in report["provenance"]["artifacts"] if item["kind"] == "imported image set"] == [
        str(image_set.name)
    ]
    html = read_payload(store, study, "report.html").decode()
    assert "Imported from" in html and str(image_set.name) in html
    written = parse_document(report["study"]["spec_yaml"], studies_pb2.StudySpec, "study.yaml").message
    assert list(written.image_sets) == [str(image_set.name)] and bool(written.adapters) == beside
    sets = [value for key, value in study.inputs.items() if key.startswith("image-set-")]
    assert len(sets) == beside and str(image_set.name) not in sets
    assert context.record.request["spec"]["image_sets"] == [str(image_set.name)]
