"""Which file of the source each row of a manifest names.

Only the standard library: the client imports it too.
"""

import re
import unicodedata
import urllib.parse
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from synthmix.image_data.sources.manifests import Row
from synthmix.image_data.sources.source_account import shown
from synthmix.image_data.sources.user_text import compared

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|(data|file|https?):", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def find_files(rows: Sequence[Row], top: str, files: Collection[str]) -> tuple[list[tuple[Row, str]], list[str]]:
    """The file of each row.

    Args:
        rows: From read_rows.
        top: The manifest's folder, with a slash, or "": what paths are relative to.
        files: The paths of all files, in Unicode's composed form.

    Returns:
        (row, path): the path in Unicode's composed form, relative, with single slashes. And the problems, each
        beginning with its row's number: paths that are no relative ones, that name no file, or another row's.
    """
    found: list[tuple[Row, str]] = []
    problems: list[str] = []
    first: dict[str, Row] = {}
    alike = _Alike(top, files)
    for row in rows:
        path = str(PurePosixPath(unicodedata.normalize("NFC", row.path.replace("\\", "/"))))
        problem = _unusable(row.path, path) or ("" if top + path in files else alike.not_there(path))
        if problem:
            problems.append(f"row {row.number}: {problem}")
            continue
        other = first.setdefault(path, row)
        if other is row:
            found.append((row, path))
            continue
        labels = "" if other.label == row.label else f", with the labels {other.label!r} and {row.label!r}"
        problems.append(f"rows {other.number} and {row.number} both name {shown(path)}{labels}")
    return found, problems


def _unusable(written: str, path: str) -> str:
    if _URL.match(written):
        return f"{shown(written)} is an address, not a file: download it, and name it relative to the manifest's folder"
    if path.startswith("/") or path[1:2] == ":":
        return f"{shown(written)} leads out of the manifest's folder: it is an absolute path"
    if path == "~" or path.startswith("~/"):
        return f"{shown(written)} leads out of the manifest's folder: it begins with your home folder"
    if ".." in PurePosixPath(path).parts:
        return f"{shown(written)} leads out of the manifest's folder"
    if _CONTROL.search(path):
        return f"{shown(written)} holds control characters or line breaks: check the quotation marks of that row"
    return ""


class _Alike:
    """What else a path may mean. Made when the first path is not there: most manifests never need it."""

    def __init__(self, top: str, files: Collection[str]):
        self._top, self._files = top, files
        self._by_form: dict[str, str] | None = None
        self._folders: set[str] = set()

    def not_there(self, path: str) -> str:
        if self._by_form is None:
            below = [file.removeprefix(self._top) for file in self._files if file.startswith(self._top)]
            self._by_form = {compared(file): file for file in below}
            self._folders = {str(parent) for file in below for parent in PurePosixPath(file).parents}
        if path in self._folders:
            return f"{shown(path)} is a folder, not a file"
        decoded = unicodedata.normalize("NFC", urllib.parse.unquote(path))
        near = self._by_form.get(compared(path))
        if near is None and decoded != path:
            near = self._by_form.get(compared(decoded))
            if near is not None:
                return f"did you mean {near!r}? {shown(path)} is percent-encoded, and not in the source"
        return f"{f'did you mean {near!r}? ' if near else ''}{shown(path)} is not in the source"
