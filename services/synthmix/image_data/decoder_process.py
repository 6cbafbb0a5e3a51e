"""The decoder in a process of its own: without credentials, within limits, and its end is the file's fault.

The parent writes a line of JSON for each request, and the child answers by lines of JSON: nothing that comes from the
child is unpickled or otherwise believed beyond what it says of the images. The child's environment holds what Python
needs and nothing else, so that an image that takes the decoder over finds no key and no token there.
"""

import base64
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from google.rpc import status_pb2

from synthmix.image_data.decoder import DecoderHere, Inspected, ListingOptions, Squared
from synthmix.image_data.decoding import Brightness, ImageFacts, SquareImage
from synthmix.image_data.fingerprints import Fingerprint
from synthmix.image_data.pixel_rules import PixelRule
from synthmix.image_data.sources.archive import ArchiveLimits, open_archive
from synthmix.image_data.sources.source_account import from_json, to_json
from synthmix.image_data.sources.source_listing import ListedImage, Listing
from synthmix.service_kit.errors import Internal, InvalidArgument, SynthMixError, from_status, invalid_field, to_status
from synthmix.service_kit.quantities import byte_size, duration

Found = TypeVar("Found")

FILE_SECONDS = 120.0
"""For one file, or for the list of all."""
START_SECONDS = 120.0
MEMORY_BYTES = 3 * 1024**3
"""Beyond what the process has when it starts: the largest image of 16 bits and three channels takes about 2 GiB."""
MOST_ENDS = 20
"""How often a decoder may end before the rest of the archive is not looked at."""
_FILES_AT_ONCE = 64
_OPEN_FILES = 64
_LONGEST_LINE_BYTES = 256 * 1024 * 1024
_COMMAND = (sys.executable, "-P", "-m", __name__)


class DecoderProcess:
    """A decoder (image_data.decoder.Decoder) that is a process of its own. Use it as a context.

    Args:
        path: The archive, which open_archive has found whole and within its limits.
    """

    def __init__(self, path: Path):
        self._path = path
        self._child: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._ends = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def listing(self, options: ListingOptions) -> Listing:
        try:
            answer = self._ask({"listing": options.to_json()})
        except _EndedError as ended:
            raise invalid_field(
                options.field,
                "the list of the archive's files, or its manifest,",
                str(ended),
                "pack it again with fewer files, or with the manifest as CSV",
                reason="ARCHIVE_UNREADABLE",
            ) from None
        return Listing(
            images=tuple(
                ListedImage(entry, path, label, group, tuple(captions), known)
                for entry, path, label, group, captions, known in answer["images"]
            ),
            left_out=from_json(answer["left_out"]),
            manifest=answer["manifest"],
            layout_doubt=answer["layout_doubt"],
        )

    def inspect(self, entries: Sequence[str], rule: PixelRule) -> Iterator[Inspected | InvalidArgument]:
        return self._each("inspect", entries, {"rule": rule.to_json()}, _inspected)

    def squares(self, entries: Sequence[str], side_px: int) -> Iterator[Squared | InvalidArgument]:
        return self._each("squares", entries, {"side_px": side_px}, _squared)

    def _each(
        self,
        request: str,
        entries: Sequence[str],
        options: dict[str, Any],
        read: Callable[[dict[str, Any]], Found],
    ) -> Iterator[Found | InvalidArgument]:
        """What `read` makes of the answer about each file; where the child ends, that is said of the file."""
        waiting = list(entries)
        while waiting:
            asked, waiting = waiting[:_FILES_AT_ONCE], waiting[_FILES_AT_ONCE:]
            answered = 0
            try:
                self._send({request: asked} | options)
                for _ in asked:
                    found = self._receive()
                    answered += 1
                    yield _file_error(found) or read(found)
            except _EndedError as ended:
                self._ends += 1
                yield InvalidArgument(f"{ended}; save it again with another program", reason="IMAGE_UNREADABLE")
                waiting = [*asked[answered + 1 :], *waiting] if self._ends < MOST_ENDS else []

    def histograms(self) -> list[np.ndarray]:
        found = self._ask({"histograms": True})["histograms"]
        return [np.frombuffer(base64.b64decode(item), dtype=np.int64) for item in found]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._send(request)
        answer = self._receive()
        if "error" in answer:
            raise _error(answer["error"])
        return answer

    def _send(self, request: dict[str, Any]) -> None:
        if self._child is None:
            self._child = _started(self._path)
            try:
                self._receive(START_SECONDS)
            except _EndedError as ended:
                raise Internal(
                    f"the process that decodes images does not start: it {ended}; submit the import again, and report "
                    "it if it fails again",
                    reason="INTERNAL",
                ) from None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self, most_s: float | None = None) -> dict[str, Any]:
        assert self._child is not None and self._child.stdout is not None
        deadline_s = time.monotonic() + (most_s or FILE_SECONDS)
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                self._end()
                raise _EndedError(f"takes more than {duration(FILE_SECONDS)} to decode")
            chunk = os.read(self._child.stdout.fileno(), 1024 * 1024)
            if not chunk or len(self._unread) > _LONGEST_LINE_BYTES:
                raise self._ended()
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise self._ended() from None
        return answer

    def _ended(self) -> "_EndedError":
        code = self._end()
        if code is not None and code < 0 and -code == signal.SIGXCPU:
            return _EndedError(f"takes more than {duration(FILE_SECONDS)} to decode")
        how = f"signal {-code}" if code is not None and code < 0 else f"code {code}"
        return _EndedError(f"ends the process that decodes it ({how}), or takes more than {byte_size(MEMORY_BYTES)}")

    def _end(self) -> int | None:
        """Ends the child; returns by what it ended before, if it had."""
        child, self._child, self._unread = self._child, None, b""
        if child is None:
            return None
        try:
            code = child.wait(timeout=1.0) if _has_closed(child) else child.poll()
        except subprocess.TimeoutExpired:
            code = None
        child.kill()
        child.communicate()
        return code


class _EndedError(Exception):
    """A decoder ended, or was ended, at what it was asked: what is said of the file."""


def _has_closed(child: "subprocess.Popen[bytes]") -> bool:
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], 0)
    return bool(ready)


def _started(path: Path) -> "subprocess.Popen[bytes]":
    packages = [str(Path(__file__).resolve().parents[2]), *(entry for entry in sys.path if entry)]
    return subprocess.Popen(
        [*_COMMAND, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        close_fds=True,
        cwd="/",
        start_new_session=True,
        env={
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(packages)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )


def _file_error(answer: dict[str, Any]) -> InvalidArgument | None:
    """What is wrong with a file, if anything is."""
    if "error" not in answer:
        return None
    error = _error(answer["error"])
    if not isinstance(error, InvalidArgument):
        raise error
    return error


def _squared(answer: dict[str, Any]) -> Squared:
    """Pixels are the only bytes that are taken over: as many as the shape says, of which any is an image."""
    side_px, grey, data = int(answer["side_px"]), bool(answer["grey"]), base64.b64decode(answer["pixels"])
    pixels = np.frombuffer(data, np.uint8).reshape((side_px, side_px) if grey else (side_px, side_px, 3))
    found = Fingerprint(int(answer["perceptual_hash"]), base64.b64decode(answer["thumbnail"]))
    return Squared(str(answer["sha256"]), SquareImage(pixels, found))


def _inspected(answer: dict[str, Any]) -> Inspected:
    facts = answer["facts"]
    return Inspected(
        str(answer["sha256"]),
        ImageFacts(
            **facts
            | {
                "brightness": tuple(Brightness(**item) for item in facts["brightness"]),
                "thumbnail": base64.b64decode(facts["thumbnail"]),
            }
        ),
    )


def _error(text: str) -> SynthMixError:
    return from_status(status_pb2.Status.FromString(base64.b64decode(text)))


# The child


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _said(error: SynthMixError) -> dict[str, Any]:
    return {"error": base64.b64encode(to_status(error).SerializeToString()).decode()}


def _limit() -> None:
    """Bounds what this process may take: memory, files that it writes and opens, and no core of what it holds."""
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MEMORY_BYTES, used_bytes + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


class _TimeLimit:
    """Bounds the processor's time of what comes next. It is set once a second, as small images take less than that."""

    def __init__(self) -> None:
        self._set_at_s = -1.0

    def renew(self) -> None:
        used_s = time.process_time()
        if used_s > self._set_at_s + 1.0 or self._set_at_s < 0:
            resource.setrlimit(resource.RLIMIT_CPU, (int(used_s + FILE_SECONDS) + 2, resource.RLIM_INFINITY))
            self._set_at_s = used_s


def main() -> None:
    """Answers requests from standard input until it ends."""
    import pyarrow.parquet  # noqa: F401  before the limit: libraries take room of their own
    import tifffile  # noqa: F401

    with open_archive(Path(sys.argv[1]), ArchiveLimits()) as archive:
        decoder = DecoderHere(archive)
        _limit()
        limit = _TimeLimit()
        _answer({"ready": True})
        for line in sys.stdin:
            limit.renew()
            _serve(decoder, json.loads(line), limit)


def _serve(decoder: DecoderHere, request: dict[str, Any], limit: _TimeLimit) -> None:
    try:
        if "listing" in request:
            listing = decoder.listing(ListingOptions(**request["listing"]))
            _answer(
                {
                    "images": [
                        [item.entry, item.path, item.label, item.group, item.captions, dict(item.known)]
                        for item in listing.images
                    ],
                    "left_out": to_json(listing.left_out),
                    "manifest": listing.manifest,
                    "layout_doubt": listing.layout_doubt,
                }
            )
        elif "squares" in request:
            for squared in decoder.squares(request["squares"], request["side_px"]):
                _answer(_said(squared) if isinstance(squared, InvalidArgument) else _pixels(squared))
                limit.renew()
        elif "inspect" in request:
            for found in decoder.inspect(request["inspect"], PixelRule.from_json(request["rule"])):
                _answer(_said(found) if isinstance(found, InvalidArgument) else _facts(found))
                limit.renew()
        else:
            _answer({"histograms": [base64.b64encode(item.tobytes()).decode() for item in decoder.histograms()]})
    except SynthMixError as error:
        _answer(_said(error))


def _pixels(found: Squared) -> dict[str, Any]:
    pixels, fingerprint = found.image.pixels, found.image.fingerprint
    return {
        "sha256": found.sha256,
        "side_px": pixels.shape[0],
        "grey": pixels.ndim == 2,
        "pixels": base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode(),
        "perceptual_hash": fingerprint.perceptual_hash,
        "thumbnail": base64.b64encode(fingerprint.thumbnail).decode(),
    }


def _facts(found: Inspected) -> dict[str, Any]:
    facts = found.facts
    values = vars(facts) | {  # asdict, which copies all it finds, takes as long as decoding a small image
        "brightness": [vars(item) for item in facts.brightness],
        "thumbnail": base64.b64encode(facts.thumbnail).decode(),
    }
    return {"sha256": found.sha256, "facts": values}


if __name__ == "__main__":
    main()
