"""What a user says of images that another program made: which real ones its generator saw, and where they are from."""

from collections.abc import Sequence
from pathlib import Path

from synthmix.api.image_sets.v1.image_sets_pb2 import ImageSet, SeenImages
from synthmix.image_data.sources.seen_list import LARGEST_BYTES, read_seen_list, seen_name
from synthmix.service_kit.errors import invalid_field, missing_field
from synthmix.service_kit.quantities import byte_size, shortened
from synthmix.service_kit.resource_names import SPLITS, PartName, collection_of

LIST = "saw_list"
LONGEST_ORIGIN = 200


def statement(saw: Sequence[str], saw_list: Path | None, saw_none: bool) -> SeenImages:
    """What a request says of it, without the list. Raises InvalidArgument before anything is packed or sent.

    It is refused if nothing is said, if what is said contradicts itself, and if the list cannot be read.
    """
    if not saw and saw_list is None and not saw_none:
        raise missing_field(
            "saw",
            "say which real images the generator saw, since no study may test with one of them: --saw "
            "splits/{digest}/parts/train or --saw datasets/{digest} for all of their images, --saw-list FILE for a "
            "list of the sha256s of images' files, or --saw-none if it saw no image of your data sets",
        )
    if saw_none and (saw or saw_list is not None):
        raise invalid_field(
            "saw_none",
            saw_none,
            f"says that the generator saw no real image, and {'saw' if saw else LIST} that it saw some",
            "leave one of them out",
            reason="SEEN_CONTRADICTED",
        )
    for index, text in enumerate(saw):
        seen_name(text, field=f"saw[{index}]")
    if saw_list is not None:
        _read_list(saw_list)
    return SeenImages(none=saw_none, all_of=saw)


def write_list(path: Path, out: Path) -> None:
    """Writes a user's list as it is sent: sha256s alone, in order, so that an equal list is the same upload."""
    out.write_text("".join(f"{sha256}\n" for sha256 in sorted(_read_list(path))), "ascii")


def origin_of(path: Path) -> str:
    """What imported images are said to be from if nothing else is said."""
    name = path.resolve().name
    return shortened(name if name.isprintable() else repr(name)[1:-1], LONGEST_ORIGIN).strip()


def split_of(image_set: ImageSet) -> str:
    """The split whose train part the generator of imported images is said to have seen. Raises InvalidArgument."""
    for name in image_set.imported.seen.all_of:
        if collection_of(name) == SPLITS and name.endswith("/parts/train"):
            return str(PartName.parse_train(name, field="image_set.imported.seen.all_of").split)
    raise missing_field(
        "split",
        f"{image_set.name} was imported, and no split's train part is said to be what its generator saw; say by which "
        "split it is to be judged (--split splits/{digest})",
    )


def _read_list(path: Path) -> list[str]:
    try:
        is_file, size_bytes = path.is_file(), path.stat().st_size
        if is_file and size_bytes <= LARGEST_BYTES:
            return read_seen_list(path.read_bytes(), path.name, field=LIST)
    except OSError as error:
        raise invalid_field(
            LIST,
            str(path),
            f"cannot be read ({error.strerror})",
            "check the path and that you may read it",
            reason="FILE_UNREADABLE",
        ) from None
    except ValueError:  # a NUL
        raise invalid_field(LIST, str(path), "is no path", "give one without NUL", reason="FILE_UNREADABLE") from None
    if not is_file:
        raise invalid_field(LIST, str(path), "is not a file", "give a text file", reason="FILE_UNREADABLE")
    raise invalid_field(
        LIST,
        str(path),
        f"has {byte_size(size_bytes)}, and a list at most {byte_size(LARGEST_BYTES)}",
        "write the sha256s alone, a line each",
        reason="FILE_TOO_LARGE",
    )
