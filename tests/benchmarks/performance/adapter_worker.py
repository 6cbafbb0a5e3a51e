"""A worker's process that trains adapters one after the other.

Usage: ``python adapter_worker.py STORE ADAPTERS IMAGES_SEEN PRECISION``.

STORE is a ZIP archive of the objects of a store that has one split. Standard output gets a line of JSON when an adapter
is stored: seconds of this process's processor time, and of the clock since 1970. Ray and object storage are left out: a
store in memory takes their place.
"""

import json
import sys
import time
import zipfile

from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import planning, task
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.split_parts import open_train_part
from synthmix.latent_diffusion.base_model import BUILTIN, resolve
from synthmix.service_kit.artifacts import list_artifacts
from synthmix.service_kit.resource_names import ADAPTERS, SPLITS, ArtifactName, OperationName


def opened(path: str) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            store.put_bytes(name, archive.read(name))
    return store


def main() -> None:
    _, path, adapters, images_seen, precision = sys.argv
    store = opened(path)
    task.open_object_store = lambda: store  # type: ignore[assignment]
    [split] = list_artifacts(store, SPLITS)
    name = f"{split}/parts/train"
    for number in range(int(adapters)):
        found = resolve(BUILTIN, field="base_model")
        settings = planning.filled(
            AdapterSettings(images_seen=int(images_seen), seed=number, precision=precision), found
        )
        digest = open_train_part(store, name, field="train_split").digest
        task.train(
            str(OperationName("adapter-training", f"{number:032x}")),
            str(ArtifactName(ADAPTERS, f"{number:032x}")),
            planning.canonical_request(settings, train_digest=digest, base_model_digest=found.digest),
            {"train_split": name, "base_model": BUILTIN},
            lambda seen, total, message: None,
            threads=1,
        )
        print(json.dumps([time.process_time(), time.time()]), flush=True)


if __name__ == "__main__":
    main()
