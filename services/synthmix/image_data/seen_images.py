"""Which real images the generator of an imported image set saw.

    image-sets/{id}/seen.parquet  the sha256 of each one's file, and its fingerprint where a data set here has the image

It is what a user stated, and what the images' own metadata names as their sources.
"""

import io
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthmix.image_data.fingerprints import Fingerprint
from synthmix.image_data.generators import is_imported
from synthmix.image_data.image_table import FILE_SHA256, read_index
from synthmix.service_kit.artifacts import (
    Manifest,
    Payload,
    find_manifest,
    list_artifacts,
    open_payload,
    write_payload,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName

SEEN = "seen.parquet"
# In a summary: how many they are.
SEEN_COUNT = "seen_images"
_SCHEMA = pa.schema([("sha256", pa.string()), ("perceptual_hash", pa.uint64()), ("thumbnail", pa.binary(256))])


def write_seen(store: ObjectStore, artifact: ArtifactName, seen: Mapping[str, Fingerprint | None]) -> Payload:
    """Writes what was seen, by sha256, with fingerprints where they are known."""
    sha256s = sorted(seen)
    prints = [seen[sha256] for sha256 in sha256s]
    columns: list[list[Any]] = [
        sha256s,
        [None if item is None else item.perceptual_hash for item in prints],
        [None if item is None else item.thumbnail for item in prints],
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer, compression="zstd")
    return write_payload(store, artifact, SEEN, buffer.getvalue())


def read_seen(store: ObjectStore, image_set: Manifest) -> pa.Table:
    """sha256, perceptual_hash and thumbnail of each image that was seen; the latter two are null where unknown."""
    with open_payload(store, image_set, SEEN) as file:
        return pq.ParquetFile(file).read()


def own_files(store: ObjectStore, image_set: Manifest) -> list[str]:
    """The sha256s of the files that an imported image set's images were read from."""
    sha256s: list[str] = read_index(store, image_set, [FILE_SHA256])[FILE_SHA256].to_pylist()
    return sha256s


def sets_that_saw(store: ObjectStore, sha256s: Collection[str]) -> list[ArtifactName]:
    """The imported image sets whose generators saw any of these images, or that hold one of these files themselves."""
    wanted, found = set(sha256s), []
    for name in list_artifacts(store, IMAGE_SETS):
        image_set = find_manifest(store, name)
        if image_set is None or not is_imported(image_set):
            continue
        seen = read_seen(store, image_set)["sha256"].to_pylist()
        if not wanted.isdisjoint(seen) or not wanted.isdisjoint(own_files(store, image_set)):
            found.append(name)
    return found
