"""A base model's folder, put into object storage as an import puts it there."""

from pathlib import Path

from memory_object_store import MemoryObjectStore
from synthmix.latent_diffusion.model_folder import parts
from synthmix.latent_diffusion.model_kinds import INDEX
from synthmix.service_kit.artifacts import Manifest, write_manifest, write_payload
from synthmix.service_kit.digests import digest_of, sha256_of_file
from synthmix.service_kit.resource_names import MODELS, ArtifactName


def files_of(folder: Path) -> dict[str, Path]:
    """What makes the model in a folder, by path."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.glob("*/*"))]
    return {name: folder / name for name in (INDEX, *parts(names))}


def store_model(store: MemoryObjectStore, folder: Path) -> ArtifactName:
    """Writes the artifact, and returns its name."""
    files = files_of(folder)
    request = {name: sha256_of_file(path) for name, path in files.items()}
    model = ArtifactName(MODELS, digest_of(request))
    payloads = tuple(write_payload(store, model, name, path) for name, path in files.items())
    write_manifest(store, Manifest(model, {}, request, 1, payloads, {"source": folder.name}))
    return model
