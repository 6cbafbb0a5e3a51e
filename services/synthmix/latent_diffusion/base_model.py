"""Which base model a request means: resolved to a folder and a digest, without importing torch."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from synthmix.latent_diffusion.base_model_files import WEIGHT_FILES, Sizes, check_files
from synthmix.latent_diffusion.hub import download
from synthmix.latent_diffusion.model_folder import (
    COMPONENTS,
    FP16,
    INCOMPLETE,
    NOT_FOUND,
    WEIGHTS,
    ModelFolder,
    file_names,
    is_hub_model,
    parts,
)
from synthmix.latent_diffusion.model_kinds import DIFFUSERS_FOLDER, INDEX, ModelKind, kind_of, no_model
from synthmix.latent_diffusion.schedulers import NoiseSchedule
from synthmix.latent_diffusion.stored_models import StoredModel, open_model
from synthmix.latent_diffusion.tokens import PromptTokenizer, prompt_tokenizer
from synthmix.service_kit.artifacts import find_manifest
from synthmix.service_kit.digests import digest_of, sha256_of_file
from synthmix.service_kit.environment import base_model_folders, offered_folder
from synthmix.service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    missing_field,
)
from synthmix.service_kit.model_names import is_stored
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import MODELS, ArtifactName
from synthmix.service_kit.s3_object_store import open_object_store

BUILTIN = "builtin"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")


@dataclass(frozen=True)
class BaseModel:
    """A base model that was found.

    Attributes:
        reference: As the user wrote it, with a hub model's revision and a stored model's name made exact.
        folder: Its folder in the diffusers layout, without weights if they weren't asked for.
        digest: Of all files that make the model.
        image_size_px: The side of the square images that it was trained for.
        latent_factor: Pixels of an image's side for each of its latents' side.
        schedule: What its scheduler says.
        kind: What parts it has.
        elsewhere: Paths of weight files that only the hub has so far.
    """

    reference: str
    folder: Path
    digest: str
    image_size_px: int
    latent_factor: int
    schedule: NoiseSchedule
    kind: ModelKind
    elsewhere: tuple[str, ...] = ()

    def tokenizers(self) -> list[PromptTokenizer]:
        """Of each of its text encoders, as front ends have them."""
        return [prompt_tokenizer(self.folder, self.digest, name) for name in self.kind.tokenizers]


def resolve(reference: str, *, field: str, weights: bool = True, store: ObjectStore | None = None) -> BaseModel:
    """Finds a base model: "builtin", models/{name} of object storage, a folder, or owner/name@revision of the hub.

    A folder must lie below one that the operator names (SYNTHMIX_BASE_MODEL_FOLDERS), and a hub's model be one that
    the operator allows (SYNTHMIX_HUB_MODELS). What is fetched from object storage or from the hub stays in the node's
    cache for as long as anybody has what is returned.

    Args:
        weights: False for who plans only: of a hub's model that isn't in the cache, nothing but its small files is
            downloaded then, and the hub says the digests of its weights; of a stored one, the weights are holes.
        store: Object storage; what the environment names, if it is not given.

    Raises:
        InvalidArgument: There is no such model, or it isn't in the diffusers layout with safetensors weights.
        DataLoss: A file of a stored model is not what was imported.
        Unavailable: The hub or object storage can't be reached.
        Unimplemented: The layout is known and not supported, such as that of SDXL's refiner.
    """
    if not reference:
        raise missing_field(
            field, "use builtin, models/{name}, a folder in the diffusers layout, or owner/name@revision"
        )
    if reference == BUILTIN:
        return inspect(reference, BUILTIN_FOLDER, field)
    named = ModelFolder(Path(), field, reference)
    if reference.endswith(SINGLE_FILES):
        raise named.fault(
            "is a single file by its name",
            "give a folder in the diffusers layout: diffusers' from_single_file and save_pretrained write one",
            NOT_FOUND,
        )
    if is_stored(reference):
        stored = open_model(store or open_object_store(), named, weights=weights)
        model = inspect(stored.reference, stored.folder, field, sha256s=stored.sha256s)
        weakref.finalize(model, _let_go, stored)
        return model
    if reference.startswith(("./", "../")):  # to what, only the client knows
        raise named.fault(
            "is a relative path, and services and workers stand in other folders",
            "write the absolute path; a study's file may name a folder relative to its own, such as ./models/x",
            NOT_FOUND,
        )
    folder = offered_folder(reference)  # owner/name is the hub's, whatever lies in the working directory
    if folder is not None:
        return inspect(str(folder), folder, field)
    if not is_hub_model(reference):
        raise _not_found(named)
    name, _, revision = reference.partition("@")
    found = download(named, name, revision or "main", weights=weights)
    # The hub's cache names a snapshot's folder by its commit.
    model = inspect(f"{name}@{found.folder.name}", found.folder, field, found.remote)
    if found.hold is not None:
        weakref.finalize(model, found.hold.close)
    return model


def _let_go(stored: StoredModel) -> None:
    """Of a model that nobody has any more: until then its folder was there."""


def _not_found(named: ModelFolder) -> InvalidArgument:
    folders = base_model_folders()
    if Path("/") in folders:
        return named.fault(
            "is neither a folder here nor the name of a hub's model",
            "use builtin, models/{name}, the absolute path of a folder in the diffusers layout, or owner/name@revision",
            NOT_FOUND,
        )
    places = f", or a folder below {' or '.join(map(str, folders))}" if folders else ""
    return named.fault(
        "is neither a folder that this server offers nor the name of a hub's model",
        f"use builtin, models/{{name}}, owner/name@revision{places}; the operator says where folders may lie, by "
        "SYNTHMIX_BASE_MODEL_FOLDERS or the chart's baseModels.folders",
        NOT_FOUND,
    )


def inspect(
    reference: str,
    folder: Path,
    field: str,
    remote: Mapping[str, str] = MappingProxyType({}),
    *,
    sha256s: Mapping[str, str] = MappingProxyType({}),
) -> BaseModel:
    """Checks what is in a folder.

    Args:
        remote: The sha256 of each weight file that only a hub has, by its word.
        sha256s: Of each file of the model, where they are known and need not be read for it.
    """
    model = ModelFolder(folder, field, reference, tuple(remote))
    try:
        if not (folder / INDEX).exists():
            raise no_model(model, file_names(folder))
        files = (_stamp(folder, folder / INDEX), *_files(folder))
        sizes = _checked(model, files)
        digest = digest_of(dict(sha256s)) if sha256s else _digest(folder, files, tuple(remote.items()))
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        raise model.fault(
            f"cannot be read ({name}: {error.strerror})",
            "give a folder that the service and its workers can read",
            INCOMPLETE,
        ) from error
    return BaseModel(
        reference,
        folder,
        digest,
        sizes.image_size_px,
        sizes.latent_factor,
        sizes.schedule,
        sizes.kind,
        elsewhere=tuple(remote),
    )


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What makes a component: path, size and time of each file, in the order of their paths."""
    paths = (path for component in COMPONENTS for path in sorted((folder / component).rglob("*")) if path.is_file())
    return tuple(_stamp(folder, folder / name) for name in parts(str(path.relative_to(folder)) for path in paths))


def _stamp(folder: Path, path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.relative_to(folder)), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)  # each adapter of a grid asks
def _checked(model: ModelFolder, files: tuple[tuple[str, int, int], ...]) -> Sizes:
    """Checks a folder as it is at these sizes and times of its files. Raises SynthMixError."""
    index = model.json(INDEX)
    kind = kind_of(model, index)
    missing = [component for component in kind.components if not (model.path / component).is_dir()]
    if missing:
        raise model.fault(f"lacks {', '.join(missing)}", f"give {DIFFUSERS_FOLDER}", INCOMPLETE)
    _check_weights_are_safetensors(model, kind, [*(name for name, _, _ in files), *model.elsewhere])
    return check_files(model, index, kind)


def _check_weights_are_safetensors(model: ModelFolder, kind: ModelKind, names: Sequence[str]) -> None:
    """Raises InvalidArgument for a component that has no weights, or has them in a form that isn't loaded."""
    without = [
        component
        for component in kind.components
        if component in WEIGHT_FILES
        and not any(name.startswith(f"{component}/") and name.endswith(WEIGHTS) for name in names)
    ]
    if without and any((model.path / without[0]).glob("*" + WEIGHTS)):
        raise model.fault(
            f"has only variants of the weights in {', '.join(without)}, and not {FP16}",
            f"give a model whose weights are named without a variant, such as model{WEIGHTS}, or model.{FP16}{WEIGHTS}",
            INCOMPLETE,
        )
    if without:
        raise model.fault(
            f"has no safetensors weights in {', '.join(without)}",
            "convert them; pickled weights are never loaded",
            "BASE_MODEL_NOT_SAFETENSORS",
        )


@lru_cache(maxsize=16)
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...], remote: tuple[tuple[str, str], ...]) -> str:
    # Sizes and times are part of the cache's key only: gigabytes are read once, and again if they changed.
    digests = {name: sha256_of_file(folder / name) for name, _, _ in files} | dict(remote)
    return digest_of(digests)


def resolve_again(
    reference: str, digest: str, *, field: str, weights: bool = True, store: ObjectStore | None = None
) -> BaseModel:
    """The base model of this digest: by what it was asked for as, or from object storage if it is there only by now.

    Args:
        reference: As `resolve` had it, maybe on another node.

    Raises:
        SynthMixError: As `resolve` and `verify` do.
    """
    store = store or open_object_store()
    try:
        model = resolve(reference, field=field, weights=weights, store=store)
        verify(model, digest)
        return model
    except (InvalidArgument, FailedPrecondition, Unavailable):
        stored = ArtifactName(MODELS, digest)
        if reference == str(stored) or find_manifest(store, stored) is None:
            raise
        return resolve(str(stored), field=field, weights=weights, store=store)


def verify(model: BaseModel, digest: str) -> None:
    """Raises FailedPrecondition unless the model found here is the one that was asked for."""
    if model.digest != digest:
        raise FailedPrecondition(
            f"the base model {model.reference!r} on this worker is not the one that the service saw "
            "(its files differ); give every node the same folder",
            reason="BASE_MODEL_DIFFERS",
        )
