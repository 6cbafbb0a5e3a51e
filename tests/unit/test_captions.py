"""Captions: kept at import, read of train images alone, checked in plans, and drawn for images that are made."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_archives import BY_PLATE, dataset, imported, plates, zipped
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning as adapters
from synthmix.adapter_training.portions import portions
from synthmix.api.adapters.v1.adapters_pb2 import Adapter, AdapterSettings
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import ClassImages, ImageSet, SynthesisSettings
from synthmix.api.studies.v1.studies_pb2 import StudySpec
from synthmix.client.packing import FIELD, pack
from synthmix.image_data.captions import adapter_captions, captions_file, train_captions
from synthmix.image_data.generators import AdapterPart
from synthmix.image_data.image_table import read_index
from synthmix.image_data.sources.archive import open_archive
from synthmix.image_data.sources.manifests import Columns, check_caption_columns
from synthmix.image_data.sources.source_listing import ListingRequest, list_images
from synthmix.image_data.split_parts import TrainPart, open_split, open_train_part
from synthmix.image_synthesis import planning as image_sets
from synthmix.image_synthesis.shards import planned_images
from synthmix.latent_diffusion.base_model import resolve
from synthmix.service_kit.adapter_payloads import CAPTIONS_FILE
from synthmix.service_kit.artifacts import Manifest, write_manifest, write_payload
from synthmix.service_kit.errors import InvalidArgument, Problems
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control import specification
from synthmix.study_control.datasets import import_request
from synthmix.study_control.image_import.importer import import_archive
from synthmix.study_control.image_removal import plan_removal, write
from synthmix.study_control.split import create_split

pytestmark = pytest.mark.usefixtures("own_cache")

ADAPTER = ArtifactName("adapters", "e" * 32)
FILES = plates()
CAPTIONS = {name: f"a {name.split('/')[0]} cell, number {number}" for number, name in enumerate(FILES)}
COLUMN = "adapter.settings.caption_column"
PROMPT = "adapter.settings.prompt"


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore.created()


def manifest(captions: dict[str, str], kind: str = "csv", **names: str) -> bytes:
    """A table of all files with their labels and captions."""
    path, label, text = (names.get(column, column) for column in ("path", "label", "text"))
    rows = [{path: name, label: name.split("/")[0], text: caption} for name, caption in captions.items()]
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    lines = [",".join((path, label, text)), *(f'{row[path]},{row[label]},"{row[text]}"' for row in rows)]
    return "\n".join(lines).encode()


def with_captions(
    store: MemoryObjectStore, folder: Path, captions: dict[str, str] = CAPTIONS, column: str = "text"
) -> Manifest:
    files = FILES | {"manifest.csv": manifest(captions)}
    return dataset(store, folder, files, caption_columns=[column])


def captions_of(store: MemoryObjectStore, found: Manifest) -> dict[str, list[str]]:
    index = read_index(store, found, ["path", "captions"])
    return dict(zip(index["path"].to_pylist(), index["captions"].to_pylist(), strict=True))


def train_part(store: MemoryObjectStore, found: Manifest) -> TrainPart:
    split = create_split(store, found, SplitSettings(test=0.3, validation=0.2, seed=1))
    return open_train_part(store, f"{split}/parts/train", field="x")


def planned(store: MemoryObjectStore, found: Manifest, **fields: Any) -> Any:
    settings = AdapterSettings(**({"caption_column": "text", "image_size": 16} | fields))
    request = Adapter(train_split=str(train_part(store, found).name), settings=settings)
    return adapters.plan(store, request)


def refused(act: Any, *arguments: Any, **options: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        act(*arguments, **options)
    return caught.value


# Import


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_s_column_is_kept(kind: str, store: MemoryObjectStore, tmp_path: Path) -> None:
    files = FILES | {f"manifest.{kind}": manifest(CAPTIONS, kind, text="Text")}
    found = dataset(store, tmp_path, files, caption_columns=["text"])
    assert captions_of(store, found) == {name: [caption] for name, caption in CAPTIONS.items()}
    assert found.summary["caption_columns"] == ["text"]
    without = dataset(store, tmp_path, files)
    assert "captions" not in read_index(store, without).column_names
    assert without.name == dataset(store, tmp_path).name, "a dataset without captions is what it always was"
    assert found.name != without.name


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("top", ["", "images/"])
def test_metadata_beside_class_folders_says_captions(
    kind: str, top: str, store: MemoryObjectStore, tmp_path: Path
) -> None:
    """As Hugging Face's ImageFolder has it."""
    named = {name: caption for name, caption in CAPTIONS.items() if not name.endswith("plate-0_0.png")}
    files = {top + name: data for name, data in FILES.items()}
    files[f"{top}metadata.{kind}"] = manifest(named, kind, path="file_name")
    request = ListingRequest(FIELD, Columns(captions=("text",)))
    source = tmp_path / "source"
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    packed = pack(source, tmp_path / "packed.zip", progress=lambda done, total: None, request=request)
    assert not packed.left_out
    with open_archive(packed.path) as archive:
        listing = list_images(archive, request)
    assert {image.path: image.captions for image in listing.images} == {name: (named.get(name, ""),) for name in FILES}
    assert {image.label for image in listing.images} == {"alpha", "beta"}
    assert not listing.left_out

    taken = import_archive(
        store,
        packed.path,
        group_rule=BY_PLATE,
        classes=[],
        simulated=False,
        progress=lambda done, total: None,
        caption_columns=["text"],
    )
    [warning] = taken.warnings
    assert warning.startswith("2 of 24 images have no text in the caption column 'text'; no adapter can be trained")


@pytest.mark.parametrize(
    ("files", "options", "problem"),
    [
        (
            {"manifest.csv": manifest(CAPTIONS)},
            {"caption_columns": ["test"]},
            "dataset.caption_columns: 'test' is not a column of manifest.csv; did you mean 'text'? add it; the columns "
            "are path, label, text",
        ),
        ({}, {"caption_columns": ["text"]}, "has no manifest; add manifest.csv, manifest.jsonl or manifest.parquet at"),
        (
            {"metadata.csv": b"file_name,text\nalpha/plate-9_9.png,a cell\nnotes.txt,words\n", "notes.txt": b"words"},
            {"caption_columns": ["text"]},
            "2 rows of metadata.csv are unusable; fix metadata.csv: paths are relative",
        ),
        (
            {"metadata.csv": b"file_name,text\n", "metadata.jsonl": b"{}"},
            {"caption_columns": ["text"]},
            "'metadata.csv and metadata.jsonl' are both there",
        ),
        ({"manifest.jsonl": b'{"path": 1}\n["a"]\n'}, {}, "holds in row 2 JSON that is no object"),
        ({"manifest.jsonl": b'{"path": 1, "path": 2}\n'}, {}, "no JSON that can be read (a name is there twice)"),
        ({"manifest.jsonl": b'{"path": "a", "label": ["x"]}\n'}, {}, "holds in row 1 of manifest.jsonl a list"),
        ({"manifest.jsonl": b"\xff"}, {}, "is not in UTF-8 (byte 0)"),
        ({"manifest.jsonl": b"\n"}, {}, "is empty"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_columns_and_metadata_that_do_not_fit(
    files: dict[str, bytes], options: dict[str, Any], problem: str, store: MemoryObjectStore, tmp_path: Path
) -> None:
    assert problem in refused(dataset, store, tmp_path, FILES | files, **options).message


def test_a_caption_is_kept_without_line_breaks_and_a_missing_one_is_empty(
    store: MemoryObjectStore, tmp_path: Path
) -> None:
    first, second, third, *others = CAPTIONS
    told = {first: " two\u00a0 lines\n of\ttext ", second: "NA", third: ""} | dict.fromkeys(others, "x")
    found = with_captions(store, tmp_path, told)
    assert [captions_of(store, found)[name] for name in (first, second, third)] == [["two lines of text"], [""], [""]]


@pytest.mark.parametrize(
    ("columns", "field", "problem"),
    [
        (["text", " TEXT "], "dataset.caption_columns[1]", "is there twice"),
        ([""], "dataset.caption_columns[0]", "cannot be a column's name"),
        (["x" * 101], "dataset.caption_columns[0]", "use 1 to 100 printable characters"),
        ([str(number) for number in range(17)], "dataset.caption_columns", "name at most 16 columns"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_names_that_cannot_be_caption_columns(columns: list[str], field: str, problem: str) -> None:
    error = refused(check_caption_columns, columns)
    assert error.violations[0].field == field and problem in error.message


def test_an_import_without_captions_is_asked_for_as_it_always_was() -> None:
    def request(**fields: Any) -> dict[str, Any]:
        named = datasets_pb2.Dataset(display_name="cells", group_rule=BY_PLATE, **fields)
        return import_request(datasets_pb2.CreateDatasetRequest(dataset=named, upload=f"uploads/{'0' * 64}"), "local")

    assert "caption_columns" not in request()
    assert request(caption_columns=[" text"]) == request() | {"caption_columns": ["text"]}


def test_what_a_removal_leaves_has_the_captions_of_the_others(store: MemoryObjectStore, tmp_path: Path) -> None:
    found = with_captions(store, tmp_path)
    gone = next(iter(CAPTIONS))
    left = write(store, plan_removal(store, found, [gone], []), lambda done, total: None)
    others = {name: caption for name, caption in CAPTIONS.items() if name != gone}
    assert captions_of(store, left) == {name: [caption] for name, caption in others.items()}
    files = {name: data for name, data in FILES.items() if name != gone} | {"manifest.csv": manifest(others)}
    again = imported(store, zipped(tmp_path / "others.zip", files), caption_columns=["text"])
    assert left.name == again


# Plans


def test_captions_alone_are_the_prompt_unless_there_is_another(store: MemoryObjectStore, tmp_path: Path) -> None:
    found = with_captions(store, tmp_path)
    plan = planned(store, found, caption_column=" TEXT ")
    assert plan.request["settings"]["prompt"] == "{caption}"
    template = planned(store, found, prompt="a {label} nucleus, {caption}")
    assert template.request["settings"]["prompt"] == "a {label} nucleus, {caption}"
    assert len({plan.plan.target, template.plan.target}) == 2
    assert "captions" not in planned(store, found, caption_column="").request
    assert plan.plan.predicted_seconds > planned(store, found, caption_column="").plan.predicted_seconds


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"caption_column": "test"}, COLUMN, "did you mean 'text'? use one of: text"),
        ({"prompt": "a {label} cell"}, PROMPT, "has no place for the captions of 'text'; put {caption} where they"),
        (
            {"caption_column": "", "prompt": "{caption}"},
            PROMPT,
            "has {caption}, and there are no captions; set the adapter's caption_column",
        ),
        (
            {"more_prompts": ["a cell"]},
            "adapter.settings.more_prompts[0]",
            "does not name the class; put {label} where the class belongs",
        ),
        ({"class_tokens": 1}, PROMPT, "does not name the class, whose tokens would not be learned; put {label} into"),
        (
            {"prior_preservation": 1.0, "prior_prompt": "{label}, {caption}"},
            "adapter.settings.prior_prompt",
            "what the base model makes of a class has no caption; leave {caption} out",
        ),
    ],
    ids=str,
)
def test_refusals_of_a_plan(
    fields: dict[str, Any], field: str, problem: str, store: MemoryObjectStore, tmp_path: Path
) -> None:
    error = refused(planned, store, with_captions(store, tmp_path), **fields)
    assert [item.field for item in error.violations] == [field]
    assert problem in error.message


def test_a_dataset_without_captions_says_how_to_get_them(store: MemoryObjectStore, tmp_path: Path) -> None:
    error = refused(planned, store, dataset(store, tmp_path))
    assert error.violations[0].field == COLUMN
    assert "has none; import the dataset again with --caption-column" in error.message


def test_the_prior_s_prompt_is_the_first_without_captions(store: MemoryObjectStore, tmp_path: Path) -> None:
    found = with_captions(store, tmp_path)

    def prior_prompt(**fields: Any) -> str:
        request = planned(store, found, prior_preservation=1.0, **fields).request
        return str(request["settings"]["prior_prompt"])

    assert prior_prompt() == "a microscopy image of a {label} cell"
    assert prior_prompt(more_prompts=["drawn {label}"]) == "drawn {label}"


def parts(store: MemoryObjectStore, found: Manifest) -> tuple[set[str], set[str]]:
    """Paths of train images, and of all others."""
    split = create_split(store, found, SplitSettings(test=0.3, validation=0.2, seed=1))
    train, *others = open_split(store, str(split), field="x")
    paths = read_index(store, found, ["path"])["path"].to_pylist()
    return {paths[row] for row in train.index_rows}, {paths[row] for part in others for row in part.index_rows}


def test_captions_of_validation_and_test_images_are_nothing_to_an_adapter(
    store: MemoryObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leakage rule 3: whatever they say, and if they say nothing, the adapter is the same one."""
    found = with_captions(store, tmp_path)
    train, others = parts(store, found)
    expected, part = planned(store, found).plan, train_part(store, found)

    def target(captions: dict[str, str]) -> str:
        """The adapter of the same rows of a dataset with other captions; it would be split in another way."""
        changed = with_captions(store, tmp_path, captions)
        assert changed.name != found.name
        same_rows = replace(part, manifest=changed)
        assert same_rows.digest == part.digest
        with monkeypatch.context() as patch:
            patch.setattr(adapters, "open_train_part", lambda *given, **named: same_rows)
            return str(planned(store, changed).plan.target)

    assert target(CAPTIONS | dict.fromkeys(others, "another text")) == expected.target
    assert target(CAPTIONS | dict.fromkeys(others, "")) == expected.target
    assert target(CAPTIONS | {min(train): "a cell of its own"}) != expected.target
    read = train_captions(store, part, "text", field="x")
    assert sorted(read) == sorted(CAPTIONS[name] for name in train)


def test_train_images_without_a_caption_are_named(store: MemoryObjectStore, tmp_path: Path) -> None:
    of_beta = [name for name in CAPTIONS if name.startswith("beta")]
    found = with_captions(store, tmp_path, CAPTIONS | dict.fromkeys(of_beta, ""))
    train = parts(store, found)[0]
    missing = sorted(train & set(of_beta))
    error = refused(planned, store, found)
    assert error.reason == "CAPTION_MISSING" and error.violations[0].field == COLUMN
    listed = f"{', '.join(missing[:3])} and {len(missing) - 3} more"
    assert f"has no text for {len(missing)} of {len(train)} train images ({listed})" in error.message


def test_how_many_captions_are_cut(store: MemoryObjectStore, tmp_path: Path) -> None:
    long = {name: f"{CAPTIONS[name]} {'word ' * 60}" for name in CAPTIONS if name.startswith("beta")}
    found = with_captions(store, tmp_path, CAPTIONS | long)
    train = parts(store, found)[0]
    [warning] = planned(store, found).plan.warnings
    cut = f"the prompts of {len(train & long.keys())} of {len(train)} train images have more than the 48 tokens that"
    assert warning.startswith(cut)
    assert "the rest is cut off, such as" in warning and warning.endswith("shorten the captions")


def test_captions_that_do_not_tell_classes_apart_are_refused(store: MemoryObjectStore, tmp_path: Path) -> None:
    found = with_captions(store, tmp_path, dict.fromkeys(CAPTIONS, "A cell"))
    error = refused(planned, store, found)
    assert error.reason == "PROMPTS_EQUAL"
    assert "of the classes 'alpha' and 'beta', of the caption 'A cell'" in error.message
    assert list(planned(store, found, prompt="{label}, {caption}").plan.warnings) == []
    behind = refused(planned, store, found, prompt="{caption}" + " word" * 60 + " {label}")
    assert behind.reason == "PROMPTS_EQUAL" and "whose rest is cut off" in behind.message


def test_a_caption_may_name_its_class(store: MemoryObjectStore, tmp_path: Path) -> None:
    found = with_captions(store, tmp_path, dict.fromkeys(CAPTIONS, "a small {label}"))
    assert list(planned(store, found).plan.warnings) == []


# Images


def trained(store: MemoryObjectStore, part: TrainPart, captions: Sequence[str], **settings: Any) -> Manifest:
    """An adapter with captions, without weights."""
    payload = write_payload(store, ADAPTER, CAPTIONS_FILE, captions_file(part, captions))
    return write_manifest(
        store,
        Manifest(
            ADAPTER,
            {"base_model": resolve("builtin", field="x").digest},
            {"settings": {"prompt": "{caption}", "caption_column": "text"} | settings},
            1,
            (payload,),
            summary={"base_model": "builtin", "classes": list(part.classes)},
        ),
    )


def image_set(store: MemoryObjectStore, **fields: Any) -> dict[str, Any]:
    images = [ClassImages(label="alpha", images=40), ClassImages(label="beta", images=30)]
    request = ImageSet(adapter=str(ADAPTER), settings=SynthesisSettings(**fields), class_images=images)
    return image_sets.plan(store, request, validate_only=False).request


def test_images_get_captions_of_train_images_of_their_class(store: MemoryObjectStore, tmp_path: Path) -> None:
    part = train_part(store, with_captions(store, tmp_path))
    captions = train_captions(store, part, "text", field="x")
    adapter = trained(store, part, captions)
    known = adapter_captions(store, adapter)
    assert {label: Counter(of_class) for label, of_class in known.items()} == {
        label: Counter(text for text, name in zip(captions, part.class_names, strict=True) if name == label)
        for label in ("alpha", "beta")
    }
    request = image_set(store, seed=5)
    images = planned_images(request, range(70), captions=known)
    assert all(image.prompt == image.caption and image.caption in known[image.label] for image in images)
    for label, of_class in known.items():
        assert {image.caption for image in images if image.label == label} == set(of_class), "all are drawn"
    # Whichever shard an image is of, and however many others there are, its caption is the same.
    assert planned_images(request, range(33, 50), captions=known) == images[33:50]
    fewer = planned_images(request | {"class_images": {"alpha": 7, "beta": 30}}, range(37), captions=known)
    assert [image.caption for image in fewer] == [image.caption for image in [*images[:7], *images[40:]]]
    other = planned_images(image_set(store, seed=6), range(70), captions=known)
    assert [image.caption for image in other] != [image.caption for image in images]
    plain = planned_images(image_set(store, prompt="a {label} cell"), range(70), captions=known)
    assert {image.prompt for image in plain} == {"a alpha cell", "a beta cell"}
    several = image_set(store, prompt="a {label} cell", more_prompts=["one {label}", "{label}, {caption}"])
    images = planned_images(several, range(70), captions=known)
    drawn = Counter(image.template for image in images)
    assert sorted(drawn) == ["a {label} cell", "one {label}", "{label}, {caption}"]
    assert min(drawn.values()) > 12, "each as often as any other"
    assert all((image.caption != "") == ("{caption}" in image.template) for image in images)
    fewer = planned_images(several | {"class_images": {"alpha": 7, "beta": 30}}, range(37), captions=known)
    assert [image.prompt for image in fewer] == [image.prompt for image in [*images[:7], *images[40:]]]


def test_what_an_images_own_adapter_makes_has_its_caption(store: MemoryObjectStore, tmp_path: Path) -> None:
    part = train_part(store, with_captions(store, tmp_path))
    captions = train_captions(store, part, "text", field="x")
    own = dict(zip(part.sha256s, captions, strict=True))
    of_images = [
        AdapterPart(portion.folder, portion.label, portion.image)
        for portion in portions(part, AdapterSettings(per="image", images_seen=len(part)))
    ]
    known = adapter_captions(store, trained(store, part, captions))
    images = planned_images(image_set(store, seed=5), range(70), of_images, known)
    assert all(image.caption == own[image.sources[0]] for image in images)
    assert {image.sources[0] for image in images} == set(part.sha256s), "each has its turn"


def test_prompts_of_images_that_cannot_have_captions(store: MemoryObjectStore, tmp_path: Path) -> None:
    part = train_part(store, with_captions(store, tmp_path))
    trained(store, part, ["a cell"] * len(part))
    assert refused(image_set, store).reason == "PROMPTS_EQUAL"
    assert image_set(store, prompt="{label}: {caption}")
    other = MemoryObjectStore.created()
    trained(other, replace(part, class_names=("alpha",) * len(part)), ["a cell"] * len(part))
    error = refused(image_set, other)
    assert "was trained on no images of the class 'beta'" in error.message
    assert error.violations[0].field == "image_set.settings.prompt"


def test_an_adapter_without_captions_makes_no_images_with_them(store: MemoryObjectStore, tmp_path: Path) -> None:
    part = train_part(store, with_captions(store, tmp_path))
    trained(store, part, ["a cell"] * len(part), caption_column="", prompt="a {label}")
    error = refused(image_set, store, prompt="{label}, {caption}")
    assert error.reason == "PROMPT_WITHOUT_CAPTIONS"


# Studies


def test_a_study_asks_for_images_as_its_adapter_was_trained() -> None:
    spec = StudySpec(adapters=[AdapterSettings(caption_column="text"), AdapterSettings()])
    full = specification.with_defaults(spec)
    assert [item.prompt for item in full.adapters] == ["{caption}", "a microscopy image of a {label} cell"]


def test_a_study_s_images_with_captions_need_adapters_with_captions() -> None:
    spec = StudySpec(adapters=[AdapterSettings(caption_column="text"), AdapterSettings()])
    spec.synthesis.add(prompt="{label}, {caption}")
    problems = Problems()
    specification.check_captions(specification.with_defaults(spec), spec, problems)
    [error] = problems.found
    assert error.violations[0].field == "synthesis[0].prompt" and "adapters[1] has no captions" in error.message
    del spec.adapters[1]
    problems = Problems()
    specification.check_captions(specification.with_defaults(spec), spec, problems)
    assert not problems.found
