"""Image sets that are imported in this process, in the place of what clients and workers do."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from image_archives import encoded, noise
from memory_object_store import MemoryObjectStore
from served import DecoderWithoutProcess
from synthmix.api.image_sets.v1.image_sets_pb2 import ImageSet, ImportedImages, SeenImages
from synthmix.image_synthesis import image_set_operation, import_task, importing
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.resource_names import OperationName

Files = dict[str, bytes]


def import_here(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets an import's task use this store, and decode in this process, which takes no time to start."""
    monkeypatch.setattr(import_task, "open_object_store", lambda: store)
    monkeypatch.setattr(import_task, "DecoderProcess", DecoderWithoutProcess)


def made_files(count: int = 12, side: int = 16) -> Files:
    """As a generator made them: as many of alpha as of beta."""
    return {
        f"{'alpha' if number % 2 else 'beta'}/{number:03}.png": encoded(noise(1000 + number, side, side))
        for number in range(count)
    }


def uploaded(store: MemoryObjectStore, data: bytes) -> str:
    name = f"uploads/{hashlib.sha256(data).hexdigest()}"
    store.put_bytes(name, data)
    return name


def zip_of(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # of no time: the same files are the same upload
    return buffer.getvalue()


def request_of(store: MemoryObjectStore, files: Files, seen: SeenImages | None = None, **fields: Any) -> ImageSet:
    return ImageSet(
        imported=ImportedImages(
            upload=uploaded(store, zip_of(files)), seen=seen or SeenImages(none=True), origin="stylegan", **fields
        )
    )


class Context(SimpleNamespace):
    """Of an operation whose task runs here."""

    def update(self, **fields: Any) -> None:
        self.progress = getattr(self, "progress", {}) | fields

    def run_tasks(self, function: str, calls: Sequence[dict[str, Any]]) -> list[Any]:
        assert function == "synthmix.image_synthesis.import_task:import_images"
        return [import_task.import_images(**call, report=lambda *_: None, threads=1) for call in calls]


def done(store: MemoryObjectStore, planned: Planned) -> Manifest:
    record = SimpleNamespace(
        name=OperationName("image-synthesis", planned.id),
        target=f"image-sets/{planned.id}",
        request={"request": planned.request, "names": planned.names},
    )
    context: Any = Context(store=store, record=record, worker_seconds=1.0, gpu_seconds=0.0)
    manifest = read_manifest(store, image_set_operation.run(context))
    assert context.progress["done"] == context.progress["total"] == manifest.summary["image_count"]
    return manifest


def imported(
    store: MemoryObjectStore, files: Files | None = None, seen: SeenImages | None = None, **fields: Any
) -> Manifest:
    request = request_of(store, made_files() if files is None else files, seen, **fields)
    return done(store, importing.plan(store, request))


def saw(store: MemoryObjectStore, *sha256s: str) -> SeenImages:
    return SeenImages(list_upload=uploaded(store, "\n".join(sha256s).encode()))
