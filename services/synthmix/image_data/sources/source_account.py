"""The account of a source: how many files of each class were not used, and why.

Bounded, whatever a source holds. The client imports it too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from synthmix.api.datasets.v1.datasets_pb2 import LeftOut
from synthmix.image_data.sources.file_kinds import is_system
from synthmix.service_kit.message_json import from_value
from synthmix.service_kit.quantities import plural

MOST_ROWS = 100
MOST_EXAMPLES = 3
LONGEST_TEXT = 200

REASONS = {
    "SYSTEM_FILE": "hidden, or an operating system's own",
    "NOT_AN_IMAGE": "not an image",
    "EMPTY_FOLDER": "a folder without files",
    "NOT_IN_MANIFEST": "not named in the manifest",
    "CLASS_NOT_CHOSEN": "of a class that was not chosen",
    "DUPLICATE": "identical to an image that is used",
    "FORMAT_NOT_DECODED": "of a format that is not decoded",
    "SPECIAL_FILE": "a pipe, socket or device",
    "BROKEN_LINK": "a link that leads nowhere",
    "UNREADABLE": "a file that may not be read",
    "FOLDER_UNREADABLE": "a folder that may not be read",
    "NAME_NOT_UTF8": "a name that is not UTF-8",
    "NAME_HAS_BACKSLASH": "a name with a backslash, which a ZIP takes for a folder",
    "MORE": "further rows of this account",
}
"""Each reason, and what a person reads."""


def account_of(files: Iterable[tuple[str, str, str]]) -> tuple[LeftOut, ...]:
    """The account of (folder, reason, path), in the order of folders and reasons."""
    return merged(
        LeftOut(folder=folder, reason=reason, count=0 if reason == "EMPTY_FOLDER" else 1, examples=[path])
        for folder, reason, path in sorted(files, key=lambda file: file[2])
    )


def merged(rows: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One row for each folder and reason; rows beyond MOST_ROWS become one."""
    found: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for row in rows:
        key = (row.folder[:LONGEST_TEXT], row.reason)
        count, examples = found.get(key, (0, []))
        if len(examples) < MOST_EXAMPLES:
            new = (shown(path) for path in row.examples)
            examples += [path for path in new if path not in examples][: MOST_EXAMPLES - len(examples)]
        found[key] = (count + row.count, examples)
    listed = [
        LeftOut(folder=folder, reason=reason, count=count, examples=examples)
        for (folder, reason), (count, examples) in sorted(found.items(), key=_place)
    ]
    if len(listed) > MOST_ROWS:
        rest = listed[MOST_ROWS - 1 :]
        more = LeftOut(reason="MORE", count=sum(row.count for row in rest), examples=rest[0].examples)
        listed = [*listed[: MOST_ROWS - 1], more]
    return tuple(listed)


def _place(item: tuple[tuple[str, str], object]) -> tuple[bool, tuple[str, str]]:
    return item[0][1] == "MORE", item[0]


def shown(path: str) -> str:
    """A path that any terminal and any message can carry."""
    text = repr(path)[1:-1] if not path.isprintable() else path
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 3] + "..."


def sentence(row: LeftOut) -> str:
    """A row for a person."""
    return f"{row.folder}: {_without_folder(row)}" if row.folder else _without_folder(row)


def _without_folder(row: LeftOut) -> str:
    why = REASONS.get(row.reason, row.reason)
    if row.reason == "EMPTY_FOLDER":
        return why
    more = ", ..." if row.count > len(row.examples) else ""
    return f"{plural(row.count, 'file')}, {why} ({', '.join(row.examples)}{more})"


def vanished(rows: Sequence[LeftOut], classes: Iterable[str]) -> list[str]:
    """A warning for each folder of the source that gave no image, though it may be meant as a class."""
    known = set(classes) | {row.folder for row in rows if row.reason == "CLASS_NOT_CHOSEN"}
    reasons: dict[str, list[LeftOut]] = {}
    for row in rows:
        if row.folder and row.folder not in known and not is_system(f"{row.folder}/file"):
            reasons.setdefault(row.folder, []).append(row)
    return [
        f"the folder {folder!r} is not a class of this dataset: " + "; ".join(map(_without_folder, found))
        for folder, found in sorted(reasons.items())
    ]


def to_json(rows: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """As manifests record it."""
    return [
        {"folder": row.folder, "reason": row.reason, "count": row.count, "examples": list(row.examples)} for row in rows
    ]


def from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[LeftOut, ...]:
    return tuple(from_value(row, LeftOut) for row in rows)
