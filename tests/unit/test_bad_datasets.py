"""Bad images, archives and manifests: each import is a clear error with field, value and remedy, and leaves nothing."""

import io
import re
import struct
import zipfile
import zlib
from typing import Any

import pytest
from PIL import Image

from bad_requests import BY_PLATE, DATASET, Act, Case, World, check_case, check_error, unfinished
from bad_requests import finished_world as finished_world
from bad_requests import world as world
from image_archives import picture, plates, zipped
from synthmix import GroupRule
from synthmix.api.datasets.v1 import datasets_pb2, datasets_pb2_grpc
from synthmix.service_kit.artifacts import find_manifest, list_artifacts
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import AlreadyExists, InvalidArgument, SynthMixError
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control.datasets import _name_key


def folder_of(files: dict[str, bytes], **options: Any) -> Act:
    """Imports a folder with these files."""

    def run(world: World) -> Any:
        source = world.folder / "images"
        for name, data in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        given = {"group": GroupRule(pattern=BY_PLATE)} | options
        return world.client.import_dataset(source, "bad", **given)

    return run


def archive_of(data: bytes, **dataset: Any) -> Act:
    """Imports a ZIP, past the client."""

    def run(world: World) -> Any:
        path = world.folder / "images.zip"
        path.write_bytes(data)
        return world.import_upload(path, **dataset)

    return run


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED, links: tuple[str, ...] = ()) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in links:
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, "/etc/passwd")
    return data.getvalue()


def bomb_header() -> bytes:
    """A PNG of 60,000 x 60,000 pixels that its few bytes do not hold."""
    data = io.BytesIO()
    Image.new("L", (1, 1)).save(data, "PNG")
    whole = data.getvalue()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    return whole[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def manifest(rows: list[str], header: str = "path,label,plate") -> dict[str, bytes]:
    """Images beside a manifest of these rows, after those of whole ones."""
    images = plates()
    described = [f"{name},{name.split('/')[0]},{name.split('/')[1].split('_')[0]}" for name in images]
    return {"manifest.csv": "\n".join([header, *described, *rows]).encode(), **images}


def split_parts() -> dict[str, bytes]:
    """A dataset that somebody has split already."""
    return {
        f"{part}/{label}/plate-{plate}.png": picture(900 + 10 * plate + 3 * first + second)
        for first, part in enumerate(("train", "test"))
        for second, label in enumerate(("alpha", "beta"))
        for plate in range(3)
    }


def group_rule(rule: dict[str, Any]) -> Act:
    return archive_of(zip_of(plates()), group_rule=rule)


def taken_name(world: World) -> Any:
    """Other images under the name of DATASET."""
    source = zipped(world.folder / "images.zip", plates(plate_count=7))
    return world.client.import_dataset(source, DATASET, group=GroupRule(pattern=BY_PLATE))


GROUP_FIELD = "dataset.group_rule.pattern"
FIRST = "alpha/plate-0_0.png"

DATASETS = [
    Case(
        "a class that is not there",
        folder_of(plates(), classes=["alpha", "betta"]),
        InvalidArgument,
        "UNKNOWN_CHOICE",
        ("'betta'", "did you mean 'beta'?"),
        ("dataset.classes[1]",),
    ),
    Case(
        "a class of one image",
        folder_of(plates() | {"gamma/plate-0_0.png": picture(1000)}),
        InvalidArgument,
        "CLASS_TOO_SMALL",
        ("gamma has 1 images in 1 groups", "at least 3 groups", "add images"),
        ("upload",),
    ),
    Case(
        "a single class",
        folder_of(plates(("alpha",))),
        InvalidArgument,
        "SINGLE_CLASS",
        ("alpha", "at least two"),
        ("dataset.classes",),
    ),
    Case(
        "no group rule",
        folder_of(plates(), group=GroupRule()),
        InvalidArgument,
        "FIELD_MISSING",
        ("is required", "a pattern .*, or a column, or none"),
        ("dataset.group_rule",),
    ),
    Case(
        "none that is not stated",
        group_rule({"none": False}),
        InvalidArgument,
        "FIELD_MISSING",
        ("is required", "none: true"),
        ("dataset.group_rule",),
    ),
    Case(
        "a pattern that does not compile",
        group_rule({"pattern": "(?P<group>"}),
        InvalidArgument,
        "INVALID_PATTERN",
        (re.escape("'(?P<group>'"), "not a regular expression", "named group"),
        (GROUP_FIELD,),
    ),
    Case(
        "a pattern without a named group",
        group_rule({"pattern": r"(plate-\d+)"}),
        InvalidArgument,
        "INVALID_PATTERN",
        ("has no named group", re.escape("(?P<group>[^/]+)_")),
        (GROUP_FIELD,),
    ),
    Case(
        "a pattern that does not match",
        group_rule({"pattern": r"(?P<group>well-\d+)"}),
        InvalidArgument,
        "PATTERN_UNMATCHED",
        ("24 of 24 images get no group", re.escape(FIRST), "matches the path of every image"),
        (GROUP_FIELD,),
    ),
    Case(
        "a corrupt PNG",
        folder_of(plates() | {FIRST: picture(0)[:60]}),
        InvalidArgument,
        "IMAGE_UNREADABLE",
        (re.escape(FIRST), "damaged", "leave them out"),
        ("upload",),
    ),
    Case(
        "a text that calls itself PNG",
        folder_of(plates() | {FIRST: b"no image"}),
        InvalidArgument,
        "IMAGE_UNREADABLE",
        (re.escape(FIRST), "is not a PNG, JPEG, TIFF, BMP or WebP image", "convert it"),
        ("upload",),
    ),
    Case(
        "a decompression bomb of an image",
        folder_of(plates() | {FIRST: bomb_header()}),
        InvalidArgument,
        "IMAGE_UNREADABLE",
        (re.escape(FIRST), "larger than 64 megapixels", "smaller fields"),
        ("upload",),
    ),
    Case(
        "a truncated ZIP",
        archive_of(zip_of(plates())[:-500]),
        InvalidArgument,
        "ARCHIVE_UNREADABLE",
        ("not a whole ZIP archive", "pack and upload it again"),
        ("upload",),
    ),
    Case(
        "a ZIP without its beginning",
        archive_of(zip_of(plates())[500:]),
        InvalidArgument,
        "ARCHIVE_UNREADABLE",
        ("not a whole ZIP archive", "pack and upload it again"),
        ("upload",),
    ),
    Case(
        "not a ZIP",
        archive_of(b"no archive" * 100),
        InvalidArgument,
        "ARCHIVE_UNREADABLE",
        ("not a whole ZIP archive", "pack and upload it again"),
        ("upload",),
    ),
    Case(
        "a ZIP of nothing",
        archive_of(zip_of({})),
        InvalidArgument,
        "NO_IMAGES",
        ("hold no class folder", "one folder for each class"),
        ("upload",),
    ),
    *(
        Case(
            f"a path traversal by {name}",
            archive_of(zip_of(plates() | {name: picture(1000)})),
            InvalidArgument,
            "ARCHIVE_UNSAFE",
            (problem, "without links, passwords or absolute paths"),
            ("upload",),
        )
        for name, problem in (
            ("alpha/../../escaped.png", "leads out of the archive"),
            ("..\\escaped.png", "leads out of the archive"),
            ("/escaped.png", "is an absolute path"),
        )
    ),
    Case(
        "a symbolic link",
        archive_of(zip_of(plates(), links=("alpha/plate-0_9.png",))),
        InvalidArgument,
        "ARCHIVE_UNSAFE",
        (re.escape("alpha/plate-0_9.png is a symbolic link"), "without links"),
        ("upload",),
    ),
    Case(
        "a decompression bomb of a ZIP",
        archive_of(zip_of(plates() | {"alpha/bomb.png": bytes(80 * 2**20)}, zipfile.ZIP_DEFLATED)),
        InvalidArgument,
        "ARCHIVE_TOO_LARGE",
        ("80 MiB", "more than 200 times its own size", "fewer or smaller images"),
        ("upload",),
    ),
    Case(
        "one image in two groups",
        folder_of(plates() | {"alpha/plate-9_0.png": picture(0)}),
        InvalidArgument,
        "DUPLICATE_ACROSS_GROUPS",
        (re.escape(FIRST), re.escape("alpha/plate-9_0.png"), "keep one of each"),
        ("upload",),
    ),
    Case(
        "one image in two classes",
        folder_of(plates() | {"beta/plate-0_9.png": picture(0)}),
        InvalidArgument,
        "DUPLICATE_LABELS",
        (re.escape(FIRST), re.escape("beta/plate-0_9.png"), "keep each image in one class"),
        ("upload",),
    ),
    Case(
        "a manifest without labels",
        archive_of(zip_of(manifest([], "path,class,plate")), group_rule={"column": "plate"}),
        InvalidArgument,
        "MANIFEST_COLUMN_MISSING",
        (r"'label' is not a column of manifest\.csv", "the columns are path, class, plate"),
        ("upload",),
    ),
    Case(
        "a manifest without the group's column",
        folder_of(manifest([]), group=GroupRule(column="chip")),
        InvalidArgument,
        "MANIFEST_COLUMN_MISSING",
        (r"'chip' is not a column of manifest\.csv", "the columns are path, label, plate"),
        ("dataset.group_rule.column",),
    ),
    Case(
        "a manifest's image that is not in the archive",
        archive_of(zip_of(manifest(["alpha/lost.png,alpha,plate-1"])), group_rule={"column": "plate"}),
        InvalidArgument,
        "MANIFEST_INVALID",
        (r"row 26: alpha/lost\.png is not in the source", "fix the manifest"),
        ("upload",),
    ),
    Case(
        "a manifest's image that is not in the folder",
        folder_of(manifest(["alpha/lost.png,alpha,plate-1"]), group=GroupRule(column="plate")),
        InvalidArgument,
        "MANIFEST_INVALID",
        (r"row 26: alpha/lost\.png", "relative to its folder"),
        ("source",),
    ),
    Case(
        "parts of a split as classes, in a folder",
        folder_of(split_parts()),
        InvalidArgument,
        "LAYOUT_DOUBTFUL",
        ("'test', 'train' are named like parts of a split", "whose sub-folders are the classes", "--yes"),
        ("source",),
    ),
    Case(
        "an account of what was left out that is longer than any",
        lambda world: world.call(
            STUDY_CONTROL,
            "CreateDataset",
            datasets_pb2_grpc.DatasetServiceStub,
            datasets_pb2.CreateDatasetRequest(
                upload=f"uploads/{'0' * 64}",
                dataset=datasets_pb2.Dataset(display_name="bad", group_rule=GroupRule(none=True)),
                left_out=[datasets_pb2.LeftOut(reason="NOT_AN_IMAGE")] * 101,
            ),
        ),
        InvalidArgument,
        "INVALID_FIELD",
        ("101 entries", "more than 100"),
        ("left_out",),
    ),
    Case(
        "a folder that is not there",
        lambda world: world.client.import_dataset(world.folder / "nothing", "bad", group=GroupRule(none=True)),
        InvalidArgument,
        "SOURCE_NOT_FOUND",
        ("nothing' does not exist", "folder of class folders"),
        ("source",),
    ),
    Case(
        "a dataset's name that cannot be one",
        lambda world: world.client.import_dataset(world.folder, "Bad Name", group=GroupRule(none=True)),
        InvalidArgument,
        "INVALID_NAME",
        ("'Bad Name'", "lower-case letters"),
        ("name",),
    ),
]


@pytest.mark.parametrize("case", DATASETS, ids=lambda case: case.name)
def test_it_is_a_clear_error_and_leaves_nothing(case: Case, world: World) -> None:
    check_case(case, world)


def test_a_name_that_is_taken_stays_until_it_is_moved(world: World) -> None:
    """The images are imported by then: what is refused is the name, and moving it costs nothing more."""
    before = {item.key: item.size_bytes for item in world.store.list("dataset-names/")}
    held = world.client.get_dataset(DATASET).name
    with pytest.raises(SynthMixError) as raised:
        taken_name(world)
    check_error(
        raised.value,
        Case(
            "",
            taken_name,
            AlreadyExists,
            "DISPLAY_NAME_TAKEN",
            (repr(DATASET), held, "choose another name, .*--replace"),
        ),
    )
    assert {item.key: item.size_bytes for item in world.store.list("dataset-names/")} == before
    assert world.client.get_dataset(DATASET).name == held
    assert unfinished(world.store) == []
    for name in {ArtifactName("datasets", item.key.split("/")[1]) for item in world.store.list("datasets/")}:
        assert find_manifest(world.store, name) is not None  # whole, or not there

    with pytest.raises(AlreadyExists):  # again, and not because the first refusal is remembered
        taken_name(world)
    count = len(list_artifacts(world.store, "datasets"))
    try:
        moved = world.client.import_dataset(
            world.folder / "images.zip", DATASET, group=GroupRule(pattern=BY_PLATE), replace=True
        )
        assert world.client.get_dataset(DATASET).name == moved.name != held
        assert len(list_artifacts(world.store, "datasets")) == count
    finally:
        world.store.put_json(_name_key(LOCAL, DATASET), {"dataset": held})


def test_what_was_left_out_is_said_each_time_under_each_name(world: World) -> None:
    source = world.folder / "images"
    for name, data in (plates() | {"alpha/notes.txt": b"x", "gamma/readme.txt": b"x"}).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    before = {item.key for item in world.store.list("")}

    def imported(name: str, *paths: str) -> None:
        dataset = world.client.import_dataset(source, name, group=GroupRule(pattern=BY_PLATE))
        assert dataset == world.client.get_dataset(name)
        assert dataset.display_name == name
        assert [path for row in dataset.left_out for path in row.examples] == list(paths)
        assert [("'gamma' is not a class" in warning) for warning in dataset.warnings] == [True]

    try:
        imported("left-out", "alpha/notes.txt", "gamma/readme.txt")
        imported("left-out", "alpha/notes.txt", "gamma/readme.txt")
        (source / "alpha" / "notes.txt").unlink()
        imported("left-out", "gamma/readme.txt")  # the same upload from another source
        imported("left-out-too", "gamma/readme.txt")
        names = world.client.get_dataset("left-out").display_names
        assert {"left-out", "left-out-too"} <= set(names)
    finally:
        for key in {item.key for item in world.store.list("")} - before:
            world.store.delete(key)


def test_a_layout_that_was_refused_is_imported_once_it_is_accepted(world: World) -> None:
    archive = zipped(world.folder / "images.zip", split_parts())
    before = {item.key for item in world.store.list("")}
    given: dict[str, Any] = {"group": GroupRule(pattern=r"(?P<group>[^/]+/plate-\d+)")}
    try:
        with pytest.raises(InvalidArgument, match="parts of a split"):
            world.client.import_dataset(archive, "parts", **given)
        accepted = world.client.import_dataset(archive, "parts", **given, accept_layout=True)
        assert [item.label for item in accepted.class_counts] == ["test", "train"]
        with pytest.raises(InvalidArgument, match="parts of a split"):
            world.import_upload(archive, display_name="parts", group_rule={"pattern": given["group"].pattern})
    finally:
        for key in {item.key for item in world.store.list("")} - before:
            world.store.delete(key)
