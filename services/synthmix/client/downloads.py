"""Writes an artifact's payloads to disk: whole and with the bytes that its manifest says, or not at all."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.storage_space import writing_to


@dataclass(frozen=True)
class Transfer:
    """How far an import or a download has come.

    Attributes:
        stage: packing, uploading, importing or downloading.
        unit: files, bytes or images.
    """

    stage: str
    done: int
    total: int
    unit: str


def reporter(progress: Callable[[Transfer], None] | None, stage: str, unit: str) -> Callable[[int, int], None]:
    """A function of (done, total) that reports a stage's transfers."""

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(Transfer(stage, done, total, unit))

    return report


def download_payloads(
    read: Callable[[str, str], Iterator[bytes]],
    artifact: str,
    payloads: Iterable[artifacts_pb2.Payload],
    folder: Path,
    *,
    only: Collection[str] | None = None,
    progress: Callable[[Transfer], None] | None = None,
) -> list[Path]:
    """Writes payloads below a folder, and returns their paths. Those that are there already are left alone.

    Args:
        read: Yields a payload's bytes by its artifact and its name.
        only: The payloads to write; all if None.

    Raises:
        NotFound: A payload of `only` is not the artifact's.
        DataLoss: What arrived is not what the manifest says. Nothing is left of that file.
    """
    by_name = {payload.name: payload for payload in payloads}
    absent = [item for item in only or () if item not in by_name]
    if absent:
        raise errors.NotFound(
            f"{artifact} has no payload {', '.join(absent)}; it has {', '.join(by_name) or 'none'}",
            reason="PAYLOAD_NOT_FOUND",
        )
    wanted = [payload for payload in by_name.values() if only is None or payload.name in only]
    report, total = reporter(progress, "downloading", "bytes"), sum(item.size_bytes for item in wanted)
    paths, before = [], 0
    for payload in wanted:
        path = _inside(folder, payload.name, artifact)
        if not _is_payload(path, payload):
            for received in _download(read(artifact, payload.name), artifact, payload, path):
                report(before + received, total)
        before += payload.size_bytes
        report(before, total)
        paths.append(path)
    return paths


def _download(chunks: Iterator[bytes], artifact: str, payload: artifacts_pb2.Payload, path: Path) -> Iterator[int]:
    """Writes a payload, and yields how many bytes of it have come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with writing_to(path.parent), partial.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                yield file.tell()
        if digest.hexdigest() != payload.sha256:
            raise errors.DataLoss(
                f"{artifact}/{payload.name} arrived with sha256 {digest.hexdigest()[:12]}… instead of "
                f"{payload.sha256[:12]}…; download it again, and if that does not help delete {artifact} "
                "and make it again",
                reason="PAYLOAD_CORRUPT",
                metadata={"artifact": artifact},
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _inside(folder: Path, payload: str, artifact: str) -> Path:
    path = folder / payload
    if not path.resolve().is_relative_to(folder.resolve()):
        raise errors.DataLoss(
            f"{artifact} has a payload {payload!r} outside of its folder; nothing of it is written",
            reason="PAYLOAD_NAME_UNSAFE",
        )
    return path


def _is_payload(path: Path, payload: artifacts_pb2.Payload) -> bool:
    if not path.is_file() or path.stat().st_size != payload.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == payload.sha256
