"""Images that another program made: they become an image set as they are, and none tests with what was seen."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_archives import dataset, encoded, noise, plates, zipped
from imported_image_sets import done, import_here, imported, made_files, request_of, saw, uploaded
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.evaluations.v1.evaluations_pb2 import Evaluation
from synthmix.api.image_sets.v1.image_sets_pb2 import (
    ClassImages,
    ImageSet,
    ImportedImages,
    SeenImages,
    SelectionSettings,
)
from synthmix.classifier_evaluation import planning
from synthmix.client import image_exports, image_set_imports
from synthmix.client.packing import pack
from synthmix.image_data import image_table
from synthmix.image_data.generators import image_set_names
from synthmix.image_data.image_table import SOURCES, ImageTableWriter, read_images, read_index
from synthmix.image_data.seen_images import sets_that_saw
from synthmix.image_data.sources.source_listing import ListingRequest
from synthmix.image_data.split_parts import TestPart, TrainPart, open_split
from synthmix.image_data.synthetic_images import open_image_set
from synthmix.image_synthesis import importing
from synthmix.image_synthesis.front_end import image_set_message
from synthmix.image_synthesis.selection_planning import plan_selection
from synthmix.service_kit.artifacts import Manifest, find_manifest, payload_key
from synthmix.service_kit.deletion import delete
from synthmix.service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SynthMixError,
)
from synthmix.service_kit.owners import EVERYONE
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control.split import create_split

pytestmark = pytest.mark.usefixtures("own_cache")

NO_ID = "0" * 32
SEEN = "image_set.imported.seen"


@pytest.fixture(autouse=True)
def imports_here(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import_here(store, monkeypatch)


def lines(*rows: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def real(store: MemoryObjectStore, folder: Path) -> tuple[TrainPart, Any, TestPart]:
    """The parts of a data set of 24 images."""
    split = create_split(store, dataset(store, folder), SplitSettings(test=0.3, validation=0.2, seed=1))
    return open_split(store, str(split), field="split")


# What is imported is what was exported


@pytest.mark.parametrize("form", ["imagefolder", "zip"])
def test_what_was_exported_is_imported_as_it_was(
    form: str, store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels, grey or in colour, and bytes; labels that no folder can have; prompts, seeds and sources."""
    monkeypatch.setattr(image_table, "SHARD_ROWS", 3)
    train, _, _ = real(store, tmp_path)
    name = ArtifactName("image-sets", "a" * 32)
    table = ImageTableWriter(store, name)
    labels = ["G1/S phase"] * 4 + ["flat"] * 3
    for number, label in enumerate(labels):
        pixels = noise(number, 32, 32) if label == "flat" else noise(number, 32, 32, 3)
        said: dict[str, Any] = {SOURCES: [train.sha256s[number]], "prompt": f"a {label} cell", "seed": number - 2**63}
        table.add(encoded(pixels), label=label, index=number, **said)
    folder = tmp_path / "stored"
    folder.mkdir()
    payloads = table.close()
    for payload in payloads:
        (folder / payload.name).write_bytes(store.get_bytes(payload_key(name, payload)))
    out = tmp_path / ("out.zip" if form == "zip" else "out")
    image_exports.write_images(form, folder, out)

    packed = pack(
        out, tmp_path / "packed.zip", progress=lambda *_: None, request=ListingRequest("source", made=True)
    ).path.read_bytes()
    seen = SeenImages(all_of=[str(train.name)])
    request = ImageSet(imported=ImportedImages(upload=uploaded(store, packed), seen=seen))
    made = done(store, importing.plan(store, request))
    index = read_index(store, made)
    before = Manifest(name, {}, {}, 1, tuple(payloads))
    for column in ("label", "prompt", "seed", SOURCES, "sha256", "index"):
        assert index[column].to_pylist() == read_index(store, before)[column].to_pylist(), column
    rows = range(len(labels))
    assert [data for _, data in read_images(store, made, rows)] == [
        data for _, data in read_images(store, before, rows)
    ]
    opened = open_image_set(store, str(made.name), classes=["G1/S phase", "flat"], field="image_sets")
    assert opened.sources == tuple((sha256,) for sha256 in train.sha256s[:7])
    assert made.request["class_images"] == {"G1/S phase": 4, "flat": 3}


def test_the_resource_says_where_it_is_from_and_what_was_seen(store: MemoryObjectStore, tmp_path: Path) -> None:
    train, _, _ = real(store, tmp_path)
    listed = saw(store, "a" * 64, train.sha256s[0])
    seen = SeenImages(all_of=[str(train.name)], list_upload=listed.list_upload)
    shown = image_set_message(store, imported(store, seen=seen))
    assert (shown.adapter, shown.HasField("settings"), shown.imported_adapter) == ("", False, False)
    assert (shown.imported.origin, shown.imported.image_size, shown.image_count) == ("stylegan", 16, 12)
    assert list(shown.class_images) == [ClassImages(label="alpha", images=6), ClassImages(label="beta", images=6)]
    assert shown.imported.seen == SeenImages(
        all_of=[str(train.name)], list_upload=listed.list_upload, image_count=len(train) + 1
    )
    none = image_set_message(store, imported(store))
    assert none.imported.seen == SeenImages(none=True)
    assert none.name != shown.name, "another statement makes another image set"


def test_the_same_upload_with_the_same_statement_is_the_same_image_set(store: MemoryObjectStore) -> None:
    first = imported(store)
    planned = importing.plan(store, request_of(store, made_files()))
    assert planned.plan.done == planned.plan.total == 1 and planned.plan.target == str(first.name)
    assert "is the importer's statement" in planned.plan.warnings[0]
    assert done(store, planned) == first


def test_image_sets_are_named_by_where_they_are_from(store: MemoryObjectStore) -> None:
    one, two = imported(store), imported(store, made_files(4))
    assert image_set_names(store, [one]) == ["stylegan"]
    assert image_set_names(store, [one, two]) == [f"stylegan ({item.name.id[:8]})" for item in (one, two)]


def test_images_of_other_sizes_are_resized_if_a_size_is_said(store: MemoryObjectStore) -> None:
    files = {"a/wide.png": encoded(noise(0, 20, 40)), "b/small.jpg": encoded(noise(1, 24, 24, 3), "JPEG")}
    made = imported(store, files, image_size=16)
    sizes = [Image.open(io.BytesIO(data)).size for _, data in read_images(store, made, [0, 1])]
    assert sizes == [(16, 16)] * 2 and made.summary["image_size"] == 16


def test_metadata_says_the_class_where_the_folder_has_another_name(store: MemoryObjectStore) -> None:
    rows = [{"file_name": "x/1.png", "label": "G1/S", "score": 0.4}, {"file_name": "y/2.png", "seed": None}]
    files = {"x/1.png": encoded(noise(0)), "y/2.png": encoded(noise(1)), "metadata.jsonl": lines(*rows)}
    assert imported(store, files).request["class_images"] == {"G1/S": 1, "y": 1}


# What is refused


def two_of(store: MemoryObjectStore, *rows: dict[str, Any] | str, **fields: Any) -> ImageSet:
    """Two images with metadata."""
    files = {f"{label}/1.png": encoded(noise(number)) for number, label in enumerate(("a", "b"))}
    text = b"\n".join(row.encode() if isinstance(row, str) else lines(row) for row in rows)
    return request_of(store, files | {"metadata.jsonl": text}, **fields)


A, B = {"file_name": "a/1.png"}, {"file_name": "b/1.png"}
WIDE = encoded(np.full((16, 16), 4000, np.uint16), "TIFF")
BAD_ARCHIVES: list[tuple[str, Callable[[MemoryObjectStore], ImageSet], str, str]] = [
    (
        "no folders",
        lambda store: request_of(store, {"1.png": encoded(noise(0))}),
        "NO_CLASS_FOLDERS",
        "lie in no class folder; make a folder for each class",
    ),
    (
        "no image",
        lambda store: request_of(store, made_files() | {"alpha/x.png": b"text"}),
        "IMAGE_UNREADABLE",
        "alpha/x.png is not a PNG, JPEG",
    ),
    (
        "deep images",
        lambda store: request_of(store, {"a/1.tif": WIDE}),
        "IMAGE_UNREADABLE",
        "a/1.tif has 16 bits a channel, .* save it with 8 bits",
    ),
    (
        "no squares",
        lambda store: request_of(store, {"a/1.png": encoded(noise(0, 20, 40))}),
        "IMAGE_UNREADABLE",
        "a/1.png has 40 x 20 pixels, .*--image-size",
    ),
    (
        "too small",
        lambda store: request_of(store, {"a/1.png": encoded(noise(0, 8, 8))}),
        "IMAGE_UNREADABLE",
        "a/1.png has 8 x 8 pixels, and images of a set are squares of 16 to 2048",
    ),
    (
        "several sides",
        lambda store: request_of(store, made_files() | made_files(2, 32)),
        "IMAGE_SIZES_DIFFER",
        "10 images are not of the side of the first, alpha/001.png, which is 32 pixels; say a side with --image-size",
    ),
    ("no ZIP", lambda store: _not_a_zip(store), "ARCHIVE_UNREADABLE", "not a whole ZIP archive"),
    (
        "a way out",
        lambda store: request_of(store, {"../x/1.png": encoded(noise(0))}),
        "ARCHIVE_UNSAFE",
        r"x/1.png leads out of the archive",
    ),
    (
        "parts of a split",
        lambda store: request_of(store, {f"{part}/1.png": encoded(noise(0)) for part in ("train", "test")}),
        "LAYOUT_DOUBTFUL",
        "named like parts of a split",
    ),
    ("no JSON", lambda store: two_of(store, A, "{"), "MANIFEST_UNREADABLE", "row 2 no JSON that can be read"),
    ("no row", lambda store: two_of(store, A), "METADATA_INVALID", "b/1.png has no row"),
    ("two rows", lambda store: two_of(store, A, B, A), "METADATA_INVALID", "rows 1 and 3 both name a/1.png"),
    ("no image", lambda store: two_of(store, A, B | {"file_name": "c.png"}), "METADATA_INVALID", "c.png is not in"),
    ("no name", lambda store: two_of(store, A, {"label": "b"}), "METADATA_INVALID", "row 2 has no file_name"),
    (
        "no sha256",
        lambda store: two_of(store, A, B | {"sources": ["abc"]}),
        "METADATA_INVALID",
        "row 2: b/1.png: sources is not a list of 1 to 64 sha256s",
    ),
    ("no seed", lambda store: two_of(store, A, B | {"seed": 2**63}), "METADATA_INVALID", "seed is not a whole number"),
    ("no prompt", lambda store: two_of(store, A, B | {"prompt": 3}), "METADATA_INVALID", "prompt is not a text"),
    ("no label", lambda store: two_of(store, A, B | {"label": ["b"]}), "METADATA_INVALID", "label is not a text"),
    (
        "an endless strength",
        lambda store: two_of(store, A, '{"file_name": "b/1.png", "strength": Infinity}'),
        "METADATA_INVALID",
        "strength is not a number above 0 and up to 1",
    ),
    (
        "a strength from nowhere",
        lambda store: two_of(store, A, B | {"strength": 0.5}),
        "METADATA_INVALID",
        "strength is there without sources",
    ),
    (
        "some prompts",
        lambda store: two_of(store, A, B | {"prompt": "x"}),
        "METADATA_INCOMPLETE",
        "'prompt' is said in metadata.jsonl of 1 of 2 images; say it of each image, or of none",
    ),
    (
        "labels spelt twice",
        lambda store: two_of(store, A | {"label": "Flat"}, B | {"label": "flat"}),
        "LABELS_DIFFER_IN_CASE",
        "differ in capital letters",
    ),
    (
        "metadata as CSV",
        lambda store: request_of(store, made_files() | {"metadata.csv": b"file_name,prompt\nalpha/001.png,x\n"}),
        "METADATA_FORMAT",
        "'metadata.csv' is not how .* write metadata.jsonl",
    ),
    (
        "sources that were not seen",
        lambda store: two_of(store, A | {"sources": ["a" * 64]}, B | {"sources": ["b" * 64]}),
        "SEEN_CONTRADICTED",
        "names sources of 2 images, such as a/1.png; say which it saw, by --saw or --saw-list",
    ),
    (
        "a list of something else",
        lambda store: request_of(store, made_files(), saw(store, "a" * 64, "alpha/1.png")),
        "SEEN_LIST_INVALID",
        "1 lines of the list begin with no sha256; write the sha256",
    ),
]


def _not_a_zip(store: MemoryObjectStore) -> ImageSet:
    request = request_of(store, {})
    request.imported.upload = uploaded(store, b"no ZIP")
    return request


@pytest.mark.parametrize(
    ("ask", "reason", "says"), [case[1:] for case in BAD_ARCHIVES], ids=[c[0] for c in BAD_ARCHIVES]
)
def test_uploads_that_cannot_be_image_sets(
    ask: Callable[[MemoryObjectStore], ImageSet], reason: str, says: str, store: MemoryObjectStore
) -> None:
    planned = importing.plan(store, ask(store))
    with pytest.raises(InvalidArgument, match=says) as caught:
        done(store, planned)
    assert caught.value.reason == reason
    assert {item.field for item in caught.value.violations} <= {
        "image_set.imported.upload",
        f"{SEEN}.none",
        f"{SEEN}.list_upload",
    }
    assert caught.value.violations and find_manifest(store, ArtifactName("image-sets", planned.id)) is None


BAD_REQUESTS: list[tuple[ImageSet, type[SynthMixError], str, str]] = [
    (ImageSet(adapter=f"adapters/{NO_ID}"), InvalidArgument, "IMPORTED_ALREADY", "image_set.adapter: 'adapters/0"),
    (ImageSet(train_split="splits/x"), InvalidArgument, "IMPORTED_ALREADY", "image_set.train_split: .*leave it out"),
    (ImageSet(class_images=[ClassImages(label="a")]), InvalidArgument, "IMPORTED_ALREADY", "image_set.class_images"),
    (
        ImageSet(imported=ImportedImages(upload="uploads/x")),
        InvalidArgument,
        "INVALID_RESOURCE_NAME",
        "image_set.imported.upload: 'uploads/x' is not an upload",
    ),
    (
        ImageSet(imported=ImportedImages(upload=f"uploads/{'0' * 64}")),
        NotFound,
        "UPLOAD_NOT_FOUND",
        "send the file with UploadFile first",
    ),
    (
        ImageSet(imported=ImportedImages(image_size=8)),
        InvalidArgument,
        "OUT_OF_RANGE",
        "image_set.imported.image_size: 8 is out of range; use a value between 16 and 2048",
    ),
    (
        ImageSet(imported=ImportedImages(origin="a\nb")),
        InvalidArgument,
        "INVALID_FIELD",
        r"image_set.imported.origin: 'a\\nb' cannot be shown; use at most 200",
    ),
    (
        ImageSet(imported=ImportedImages(seen=SeenImages(all_of=["models/x"]))),
        InvalidArgument,
        "SEVERAL_FIELDS",
        r"seen.all_of\[0\]: 'models/x' has no images .* use splits/\{digest\}/parts/train",
    ),
    (
        ImageSet(imported=ImportedImages(seen=SeenImages(list_upload=f"uploads/{'a' * 64}"))),
        InvalidArgument,
        "SEEN_CONTRADICTED",
        "seen.none: True says that the generator saw no real image, and .* leave one of them out",
    ),
]


@pytest.mark.parametrize(("change", "error", "reason", "says"), BAD_REQUESTS)
def test_requests_that_cannot_be_imports(
    change: ImageSet, error: type[SynthMixError], reason: str, says: str, store: MemoryObjectStore
) -> None:
    request = request_of(store, made_files())
    request.MergeFrom(change)
    with pytest.raises(error, match=says) as caught:
        importing.plan(store, request)
    assert caught.value.reason == reason


def test_what_the_generator_saw_has_to_be_said(store: MemoryObjectStore) -> None:
    request = request_of(store, made_files())
    request.imported.ClearField("seen")
    with pytest.raises(InvalidArgument, match=r"seen is required; say which .*--saw.*--saw-list.*--saw-none") as caught:
        importing.plan(store, request)
    assert [item.field for item in caught.value.violations] == [SEEN]
    for name in (f"splits/{NO_ID}/parts/train", f"datasets/{NO_ID}"):
        with pytest.raises(NotFound, match="does not exist"):
            importing.plan(store, request_of(store, made_files(), SeenImages(all_of=[name])))


def test_imports_are_bounded_by_the_operator_s_settings(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = importing.plan(store, request_of(store, made_files()))
    monkeypatch.setenv("SYNTHMIX_IMPORT_MOST_FILES", "11")
    with pytest.raises(ResourceExhausted, match="12 files and folders, and SYNTHMIX_IMPORT_MOST_FILES allows 11"):
        done(store, planned)
    monkeypatch.setenv("SYNTHMIX_IMPORT_MOST_BYTES", "100")
    with pytest.raises(ResourceExhausted, match="100 B that SYNTHMIX_IMPORT_MOST_BYTES allows"):
        importing.plan(store, request_of(store, made_files()))


def test_the_client_asks_for_a_statement_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# seen\n\n" + "A" * 64 + "  a name.png\n\\" + "b" * 64 + " *b\\\\.png\n" + "a" * 64)
    image_set_imports.write_list(tmp_path / "list", tmp_path / "sent")
    assert (tmp_path / "sent").read_text() == f"{'a' * 64}\n{'b' * 64}\n"
    (tmp_path / "empty").write_text("\n")
    part = f"splits/{NO_ID}/parts/train"
    assert list(image_set_imports.statement([part], None, False).all_of) == [part]
    for saw_what, saw_list, saw_none, said in (
        ([], None, False, "saw is required; say which real images the generator saw"),
        ([part], None, True, "saw_none: True says that the generator saw no real image, and saw that it saw some"),
        ([], tmp_path / "list", True, "and saw_list that it saw some; leave one of them out"),
        ([f"splits/{NO_ID}"], None, False, r"saw\[0\]: .* use splits/\{digest\}/parts/train"),
        (["datasets/x"], None, False, r"saw\[0\]: 'datasets/x' is not a resource name"),
        ([], tmp_path / "empty", False, "saw_list: 'empty' lists no image; use none .--saw-none."),
        ([], tmp_path / "none", False, "saw_list: .* cannot be read .No such file or directory.; check the path"),
        ([], tmp_path, False, "saw_list: .* is not a file; give a text file"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            image_set_imports.statement(saw_what, saw_list, saw_none)


# What an evaluation makes of it


def evaluated(store: MemoryObjectStore, image_set: Manifest, split: str, *, validate_only: bool = True) -> Any:
    request = Evaluation(split=split, image_sets=[str(image_set.name)], seeds=1)
    request.mixtures.ratios.append(0.25)
    request.classifier.pretrained = False
    return planning.plan(store, request, validate_only=validate_only).plan


@pytest.mark.parametrize("validate_only", [True, False])
@pytest.mark.parametrize("part", [1, 2], ids=["validation", "test"])
def test_an_evaluation_with_images_that_were_seen_is_refused(
    part: int, validate_only: bool, store: MemoryObjectStore, tmp_path: Path
) -> None:
    parts = real(store, tmp_path)
    split, held_out = str(parts[0].name.split), parts[part]
    count = len(parts[1]) + len(parts[2])
    path = read_index(store, held_out.manifest)["path"][held_out.index_rows[1]].as_py()
    image_set = imported(store, seen=saw(store, parts[0].sha256s[0], held_out.sha256s[1]))
    with pytest.raises(FailedPrecondition) as caught:
        evaluated(store, image_set, split, validate_only=validate_only)
    assert caught.value.reason == "HELD_OUT_IMAGES_SEEN" and caught.value.metadata["images"] == "1"
    assert [item.field for item in caught.value.violations] == ["evaluation.image_sets[0]"]
    assert f"saw 1 of the {count} validation and test images of {split}, such as {path} ({held_out.part})" in str(
        caught.value
    )
    assert "use a split whose train part holds what it saw" in caught.value.message


def test_train_images_may_be_seen_and_sources_count_as_seen(store: MemoryObjectStore, tmp_path: Path) -> None:
    train, _, test = real(store, tmp_path)
    split = str(train.name.split)
    assert not evaluated(store, imported(store, seen=SeenImages(all_of=[str(train.name)])), split).warnings
    assert not evaluated(store, imported(store), split).warnings
    for held_out in (SeenImages(all_of=[str(test.name)]), SeenImages(all_of=[str(train.manifest.name)])):
        with pytest.raises(FailedPrecondition, match="validation and test images"):
            evaluated(store, imported(store, seen=held_out), split)
    rows = [{"file_name": name, "sources": [test.sha256s[0]]} for name in made_files()]
    image_set = imported(
        store, made_files() | {"metadata.jsonl": lines(*rows)}, seen=SeenImages(all_of=[str(train.name)])
    )
    assert image_set.summary["seen_images"] == len(train) + 1
    with pytest.raises(FailedPrecondition, match="saw 1 of the"):
        evaluated(store, image_set, split)


def test_test_images_themselves_are_found_and_copies_of_them_are_told(store: MemoryObjectStore, tmp_path: Path) -> None:
    train, _, test = real(store, tmp_path)
    split = str(train.name.split)
    copied = next(test.images())
    with pytest.raises(FailedPrecondition, match=r"which was imported, holds 1 of the .* import the images that were"):
        evaluated(store, imported(store, made_files() | {"alpha/copy.png": copied}), split)
    bitmap = encoded(Image.open(io.BytesIO(copied)), "BMP")
    [warning] = evaluated(store, imported(store, made_files() | {"alpha/copy.bmp": bitmap}), split).warnings
    assert "1 pairs of validation or test images and images of image-sets/" in warning and "(test)" in warning


def test_what_was_seen_and_looks_like_test_images_is_told(store: MemoryObjectStore, tmp_path: Path) -> None:
    """The same pictures in another form are another data set, by whose sha256s nothing is found."""
    train, _, _ = real(store, tmp_path)
    others = {
        name.replace(".png", ".bmp"): encoded(Image.open(io.BytesIO(data)), "BMP") for name, data in plates().items()
    }
    (tmp_path / "others").mkdir()
    again = dataset(store, tmp_path / "others", others)
    image_set = imported(store, seen=SeenImages(all_of=[str(again.name)]))
    [warning] = evaluated(store, image_set, str(train.name.split)).warnings
    assert f"and images that the generator of {image_set.name} saw are near duplicates" in warning


def test_a_control_of_the_base_model_is_refused(store: MemoryObjectStore, tmp_path: Path) -> None:
    train, _, _ = real(store, tmp_path)
    request = Evaluation(split=str(train.name.split), image_sets=[str(imported(store).name)], seeds=1)
    request.classifier.pretrained = False
    request.mixtures.ratios.append(0.25)
    request.mixtures.controls.append("reconstructed_real")
    with pytest.raises(FailedPrecondition, match="leave that control out") as caught:
        planning.plan(store, request, validate_only=True)
    assert caught.value.reason == "NO_BASE_MODEL"


def test_a_selection_does_not_choose_among_imported_images(store: MemoryObjectStore, tmp_path: Path) -> None:
    """What it kept would say nothing of what was seen."""
    train, _, _ = real(store, tmp_path)
    request = ImageSet(
        candidates=str(imported(store).name),
        train_split=str(train.name),
        selection=SelectionSettings(class_consistency=0.5, oversample=2),
    )
    with pytest.raises(InvalidArgument, match="was imported, and a selection is of images that were made") as caught:
        plan_selection(store, request, validate_only=True)
    assert caught.value.reason == "IMPORTED_CANDIDATES"


# What goes with it, and with what it goes


def test_an_image_set_refers_to_what_its_generator_saw(store: MemoryObjectStore, tmp_path: Path) -> None:
    train, _, _ = real(store, tmp_path)
    one = imported(store, seen=SeenImages(all_of=[str(train.name)]))
    two = imported(store, seen=SeenImages(all_of=[str(train.manifest.name)]))
    with pytest.raises(FailedPrecondition, match="still used") as caught:
        delete(store, train.manifest.name, caller=EVERYONE, force=False, validate_only=False)
    assert caught.value.metadata["references"] == "2"
    gone = delete(store, train.manifest.name, caller=EVERYONE, force=True, validate_only=False).names
    assert {one.name, two.name} <= set(gone)
    assert find_manifest(store, one.name) is None


def test_the_sets_that_saw_an_image_are_found(store: MemoryObjectStore) -> None:
    listed = imported(store, seen=saw(store, "a" * 64))
    files = made_files()
    imported(store)
    assert sets_that_saw(store, ["a" * 64, "b" * 64]) == [listed.name]
    own = hashlib.sha256(next(iter(files.values()))).hexdigest()
    assert len(sets_that_saw(store, [own])) == 2, "they hold the file itself"
    assert sets_that_saw(store, ["c" * 64]) == []


def test_an_upload_that_is_gone_is_said(store: MemoryObjectStore) -> None:
    request = request_of(store, made_files())
    planned = importing.plan(store, request)
    store.delete(request.imported.upload)
    with pytest.raises(NotFound, match="is gone; send the file again"):
        done(store, planned)


def test_a_manifest_s_labels_are_taken(store: MemoryObjectStore, tmp_path: Path) -> None:
    files = {"images/1.png": encoded(noise(0)), "images/2.png": encoded(noise(1))}
    table = b"path,label\nimages/1.png,flat\nimages/2.png,round\n"
    archive = zipped(tmp_path / "images.zip", files | {"manifest.csv": table})
    request = request_of(store, {})
    request.imported.upload = uploaded(store, archive.read_bytes())
    assert done(store, importing.plan(store, request)).request["class_images"] == {"flat": 1, "round": 1}
