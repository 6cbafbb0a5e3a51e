"""What the report collects from the artifacts of a study."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from image_archives import encoded
from memory_object_store import MemoryObjectStore
from striped_study import CLASSES, split_of, striped_store, stripes, write_image_set
from synthmix.api.evaluations.v1.evaluations_pb2 import Fidelity, NearPair, SourceFidelity
from synthmix.image_data.split_parts import open_split
from synthmix.service_kit.adapter_payloads import in_folder, preview_file
from synthmix.service_kit.artifacts import Manifest, write_payload
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from synthmix.study_control.reporting import (
    GALLERY_IMAGES,
    PREVIEW_TIMES,
    PREVIEWS_SHOWN,
    gallery,
    near_pairs,
    near_source_warnings,
    previews,
)


def grey(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).convert("L").tobytes()


def test_a_copy_in_the_gallery_stands_beside_what_it_repeats(tmp_path: Path, own_cache: None) -> None:
    store = striped_store(tmp_path)
    train, _, _ = open_split(store, split_of(store), field="split")
    wide = CLASSES.index("wide")
    copies = [("wide", encoded(stripes(wide, 1000 * wide + 10 * plate))) for plate in range(8)]
    write_image_set(store, copies, "b" * 32)
    [shown], real = gallery(store, train, {"copied": f"image-sets/{'b' * 32}"})
    assert (shown.image_set, shown.class_name, len(shown.examples)) == ("copied", "wide", len(copies))
    repeated = [example for example in shown.examples if example.nearest_real_distance == 0]
    assert 0 < len(repeated) < len(copies), "those of the train part alone"
    assert all(grey(example.png) == grey(example.nearest_real_png) for example in repeated)
    assert {label: len(pngs) for label, pngs in real.items()} == dict.fromkeys(CLASSES, GALLERY_IMAGES)


def test_a_child_in_the_gallery_stands_under_its_source_and_over_another(tmp_path: Path, own_cache: None) -> None:
    store = striped_store(tmp_path)
    train, _, _ = open_split(store, split_of(store), field="split")
    labels = [train.classes[label] for label in train.labels]
    copies = list(zip(labels, train.images(), strict=True))
    write_image_set(store, copies, "b" * 32, sources=[[sha256] for sha256 in train.sha256s])
    galleries, _ = gallery(store, train, {"copied": f"image-sets/{'b' * 32}"})
    for example in (example for shown in galleries for example in shown.examples):
        [source] = example.source_pngs
        assert grey(source) == grey(example.png) != grey(example.nearest_real_png)
        assert example.nearest_real_distance > 0


def test_the_nearest_images_stand_beside_the_train_images_that_they_come_near(tmp_path: Path, own_cache: None) -> None:
    store = striped_store(tmp_path)
    train, _, _ = open_split(store, split_of(store), field="split")
    copies = list(zip([train.classes[label] for label in train.labels], train.images(), strict=True))
    write_image_set(store, copies, "b" * 32)
    rows = [5, 2, 5]
    source = SourceFidelity(
        image_set=f"image-sets/{'b' * 32}",
        nearest_pairs=[
            NearPair(image=train.sha256s[row], train_image=train.sha256s[row], class_name=copies[row][0], distance=row)
            for row in rows
        ],
    )
    real = SourceFidelity(label="real images")
    shown = near_pairs(store, train, Fidelity(sources=[real, source]), {source.image_set: "copied"})
    assert [(pair.image_set, pair.class_name, pair.distance) for pair in shown] == [
        ("copied", copies[row][0], row) for row in rows
    ]
    assert all(grey(pair.png) == grey(pair.real_png) for pair in shown)
    assert grey(shown[0].png) == grey(shown[2].png) != grey(shown[1].png)


def test_images_that_are_little_else_than_their_sources_are_warned_of() -> None:
    sources = [
        SourceFidelity(label="real images", near_copy_share=0.01),
        SourceFidelity(image_set="image-sets/1", near_source_share=0.5, source_distance=0.7),
        SourceFidelity(image_set="image-sets/2", near_source_share=0.62, source_distance=0.4),
    ]
    names = {"image-sets/1": "strength 0.5", "image-sets/2": "strength 0.2"}
    [warning] = near_source_warnings(Fidelity(sources=sources), names, {"image-sets/2"})
    assert warning.startswith("62 % of the images of strength 0.2 are near copies of the train image")
    assert warning.endswith("a greater strength leads away from it")
    [without] = near_source_warnings(Fidelity(sources=sources), names, set())
    assert warning.startswith(without) and "strength leads" not in without


def adapter_with_previews(store: MemoryObjectStore, labels: dict[str, list[str]], times: int) -> Manifest:
    """Of three pictures of 8 pixels a class, whose level says what they are of: 100 a row, 10 a column, and the time.

    Args:
        labels: The classes of each adapter, by its folder.
        times: How many sheets each has, after 50 images seen, 100, and so on.
    """
    name = ArtifactName(ADAPTERS, "a" * 32)
    payloads = []
    for folder, of_folder in labels.items():
        for time in range(times):
            levels = 100 * np.arange(len(of_folder))[:, None] + 10 * np.arange(3) + time
            sheet = np.repeat(np.kron(levels, np.ones((8, 8)))[..., None], 3, axis=-1).astype(np.uint8)
            file = in_folder(folder, preview_file(50 * (time + 1)))
            payloads.append(write_payload(store, name, file, encoded(sheet)))
    summary = {
        "base_model": "builtin",
        "adapters": [{"folder": folder, "labels": found} for folder, found in labels.items()],
    }
    return Manifest(name, {}, {"settings": {"image_size": 8}}, 3, tuple(payloads), summary)


def levels(png: bytes) -> set[int]:
    return set(np.asarray(Image.open(io.BytesIO(png))).ravel().tolist())


def test_pictures_of_a_training_are_cut_out_of_its_sheets_at_times_from_the_first_to_the_last() -> None:
    store = MemoryObjectStore.created()
    found = previews(store, adapter_with_previews(store, {"": ["round", "flat"]}, times=9))
    assert list(found) == ["round", "flat"]
    for row, shown in enumerate(found.values()):
        seen = [at.images_seen for at in shown]
        assert seen == sorted(set(seen))
        assert (len(seen), seen[0], seen[-1]) == (PREVIEW_TIMES, 50, 450)
        assert [[levels(png) for png in at.pngs] for at in shown] == [
            [{100 * row + 10 * column + at.images_seen // 50 - 1} for column in range(PREVIEWS_SHOWN)] for at in shown
        ]


def test_each_class_has_the_pictures_of_its_own_adapter_and_few_are_all_shown() -> None:
    store = MemoryObjectStore.created()
    found = previews(store, adapter_with_previews(store, {"class-0000": ["round"], "class-0001": ["flat"]}, times=2))
    assert {label: [at.images_seen for at in shown] for label, shown in found.items()} == {
        "round": [50, 100],
        "flat": [50, 100],
    }
    assert previews(store, adapter_with_previews(store, {"": []}, times=0)) == {}
