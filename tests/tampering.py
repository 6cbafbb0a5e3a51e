"""What whoever can write to the bucket could do."""

from synthmix.service_kit.artifacts import MANIFEST, Manifest, write_manifest
from synthmix.service_kit.object_store import ObjectStore


def replace_manifest(store: ObjectStore, manifest: Manifest) -> None:
    """Puts another manifest in the place of an artifact's."""
    store.delete(f"{manifest.name}/{MANIFEST}")
    write_manifest(store, manifest)
