"""What a worker does for images that another program made: it reads them, and which real ones their generator saw."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from synthmix.image_data.decoder_process import DecoderProcess
from synthmix.image_data.fingerprints import Fingerprint
from synthmix.image_data.image_table import read_index
from synthmix.image_data.import_bounds import import_bounds
from synthmix.image_data.sources.seen_list import read_seen_list, seen_name
from synthmix.image_data.split_parts import open_split
from synthmix.image_synthesis.imported_images import read_images
from synthmix.image_synthesis.importing import FIELD, LIST, SEEN
from synthmix.service_kit.artifacts import IMPORTED, Manifest, read_manifest
from synthmix.service_kit.digests import sha256_of_file
from synthmix.service_kit.errors import DataLoss, NotFound
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName, PartName, UploadName
from synthmix.service_kit.s3_object_store import open_object_store
from synthmix.service_kit.storage_space import writing_to


def import_images(
    operation: str,
    target: str,
    request: dict[str, Any],
    names: dict[str, Any],
    report: Callable[[int, int | None, str], None],
    threads: int,
) -> dict[str, Any]:
    """Reads an upload of images and writes their payloads.

    Returns:
        The payloads, the summary and the images of each class for the manifest, which the operation writes.

    Raises:
        InvalidArgument: The archive, its metadata, an image or the list of images that were seen cannot be used.
        NotFound: An upload is gone, or what the generator saw.
    """
    store, imported = open_object_store(), request[IMPORTED]
    with writing_to(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="synthmix-import-") as folder:
        archive, listed = Path(folder) / "upload.zip", Path(folder) / "seen.txt"
        _fetch(store, UploadName(imported["upload"]), archive, FIELD)
        seen = seen_in(store, names["all_of"])
        if "list" in imported["seen"]:
            _fetch(store, UploadName(imported["seen"]["list"]), listed, LIST)
            for sha256 in read_seen_list(listed.read_bytes(), "the list", field=LIST):
                seen.setdefault(sha256, None)
        read = read_images(
            store,
            ArtifactName.parse(target, field="target"),
            archive,
            seen=seen,
            image_size=imported.get("image_size", 0),
            accept_layout=names["accept_layout"],
            limits=import_bounds().of_archives,
            decoder=lambda path, _: DecoderProcess(path),
            report=lambda done, total: report(done, total, "importing"),
        )
    return {
        "payloads": [asdict(payload) for payload in read.payloads],
        "summary": read.summary,
        "class_images": read.class_images,
    }


def seen_in(store: ObjectStore, names: list[str]) -> dict[str, Fingerprint | None]:
    """The fingerprint of each image of parts of splits and of data sets, by sha256. Raises NotFound."""
    found: dict[str, Fingerprint | None] = {}
    for index, text in enumerate(names):
        name = seen_name(text, field=f"{SEEN}.all_of[{index}]")
        rows = None
        if isinstance(name, PartName):
            [part] = [part for part in open_split(store, str(name.split), field=SEEN) if part.name == name]
            dataset: Manifest = part.manifest
            rows = list(part.index_rows)
        else:
            dataset = read_manifest(store, name)
        table = read_index(store, dataset, ["sha256", "perceptual_hash", "thumbnail"])
        table = table if rows is None else table.take(rows)
        columns = (table[column].to_pylist() for column in ("sha256", "perceptual_hash", "thumbnail"))
        found |= {sha256: Fingerprint(bits, thumbnail) for sha256, bits, thumbnail in zip(*columns, strict=True)}
    return found


def _fetch(store: ObjectStore, upload: UploadName, path: Path, field: str) -> None:
    try:
        store.get_file(str(upload), path)
    except NotFound as error:
        raise NotFound(f"{field}: {upload} is gone; send the file again", reason="UPLOAD_NOT_FOUND") from error
    if sha256_of_file(path) != upload.sha256:
        raise DataLoss(f"{upload} is not what was sent; send the file again", reason="UPLOAD_CORRUPT")
