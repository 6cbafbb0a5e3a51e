"""Which base model a request means: resolved to a folder and a digest, without importing torch."""

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from synthmix.latent_diffusion.base_model_files import WEIGHT_FILES, WEIGHTS, Sizes, check_files
from synthmix.latent_diffusion.model_folder import INCOMPLETE, NOT_FOUND, ModelFolder
from synthmix.latent_diffusion.model_kinds import DIFFUSERS_FOLDER, INDEX, check_pipeline, no_model
from synthmix.service_kit.digests import ID_LENGTH, canonical_json, sha256_of_file
from synthmix.service_kit.environment import base_model_folders
from synthmix.service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    SynthMixError,
    Unavailable,
    missing_field,
)

BUILTIN = "builtin"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SMALL_FILES = (".json", ".txt", ".model")
MOST_NAMES = 2000
SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
FOLDER_HINT = "for a folder, write its absolute path, or ./ before a path that is relative to the study's file"
# owner/name, or owner/name@revision. What a revision may hold keeps it inside the hub's cache, whose files it names.
_HUB_MODEL = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(@\w[\w./-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class BaseModel:
    """A base model that was found.

    Attributes:
        reference: As the user wrote it, with a hub model's revision made exact.
        folder: Its folder in the diffusers layout, without weights if they weren't asked for.
        digest: Of all files that make the model.
        image_size_px: The side of the square images that it was trained for.
        latent_factor: Pixels of an image's side for each of its latents' side.
        train_timesteps: Noise levels; sampling can't take more steps.
    """

    reference: str
    folder: Path
    digest: str
    image_size_px: int
    latent_factor: int
    train_timesteps: int


def resolve(reference: str, *, field: str, weights: bool = True) -> BaseModel:
    """Finds a base model: "builtin", a folder, or owner/name@revision of the hub (downloaded into the hub's cache).

    A folder must lie below one that the operator names (SYNTHMIX_BASE_MODEL_FOLDERS).

    Args:
        weights: False for who plans only: of a hub's model that isn't in the cache, nothing but its small files is
            downloaded then, and the hub says the digests of its weights.

    Raises:
        InvalidArgument: There is no such model, or it isn't in the diffusers layout with safetensors weights.
        Unavailable: The hub can't be reached.
        Unimplemented: The layout is known and not supported yet (SDXL).
    """
    if not reference:
        raise missing_field(field, "use builtin, a folder in the diffusers layout, or owner/name@revision")
    if reference == BUILTIN:
        return _inspect(reference, BUILTIN_FOLDER, field)
    named = ModelFolder(Path(), field, reference)
    if reference.endswith(SINGLE_FILES):
        raise named.fault(
            "is a single file by its name",
            "give a folder in the diffusers layout: diffusers' from_single_file and save_pretrained write one",
            NOT_FOUND,
        )
    if reference.startswith(("./", "../")):  # to what, only the client knows
        raise named.fault(
            "is a relative path, and services and workers stand in other folders",
            "write the absolute path; a study's file may name a folder relative to its own, such as ./models/x",
            NOT_FOUND,
        )
    folder = _allowed_folder(reference)
    if folder is not None:
        return _inspect(str(folder), folder, field)
    if not _HUB_MODEL.fullmatch(reference) or ".." in reference:
        raise _not_found(named)
    name, _, revision = reference.partition("@")
    folder, remote = _download(named, name, revision or "main", weights=weights)
    if not (folder / INDEX).exists():
        raise no_model(ModelFolder(folder, field, reference), [path for path, _ in _files_of_commit(name, folder.name)])
    # The hub's cache names a snapshot's folder by its commit.
    return _inspect(f"{name}@{folder.name}", folder, field, remote)


def _not_found(named: ModelFolder) -> InvalidArgument:
    folders = base_model_folders()
    if Path("/") in folders:
        return named.fault(
            "is neither a folder here nor the name of a hub's model",
            "use builtin, the absolute path of a folder in the diffusers layout, or owner/name@revision",
            NOT_FOUND,
        )
    places = f", or a folder below {' or '.join(map(str, folders))}" if folders else ""
    return named.fault(
        "is neither a folder that this server offers nor the name of a hub's model",
        f"use builtin, owner/name@revision{places}; the operator says where folders may lie, by "
        "SYNTHMIX_BASE_MODEL_FOLDERS or the chart's baseModels.folders",
        NOT_FOUND,
    )


def _allowed_folder(reference: str) -> Path | None:
    """The folder that a reference means, if it is there and below one that the operator names.

    What lies elsewhere and what doesn't exist can't be told apart by the answer: a caller can't explore the server.
    """
    try:
        path = Path(reference).expanduser()
        if not path.is_absolute():
            return None  # owner/name is the hub's, whatever lies in the server's working directory
        folder = path.resolve()
        allowed = any(folder.is_relative_to(place) for place in base_model_folders())
        return folder if allowed and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long; a home that isn't known, or links in a circle; a NUL
        return None


def _is_part(path: str) -> bool:
    """Whether a file, by its path in the diffusers layout, belongs to the model as it is loaded.

    Hubs keep weights besides in other formats and as variants, which are named {name}.{variant}.safetensors.
    """
    folder, _, name = path.rpartition("/")
    return folder in COMPONENTS and (name.endswith(SMALL_FILES) or (name.endswith(WEIGHTS) and not _is_variant(name)))


def _is_variant(name: str) -> bool:
    return "." in name.removesuffix(WEIGHTS)


def _download(named: ModelFolder, name: str, revision: str, *, weights: bool) -> tuple[Path, dict[str, str]]:
    """The folder of a hub's model, and the sha256 of each weight file that it lacks, by path."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    endings = (*SMALL_FILES, WEIGHTS) if weights else SMALL_FILES
    patterns = [INDEX, *(f"{component}/*{ending}" for component in COMPONENTS for ending in endings)]
    variants = ["*/*.*" + WEIGHTS]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=variants))
    except HFValidationError as error:
        raise _not_found(named) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _not_to_be_had(named, error) from error
    return folder, {} if weights else _weights_elsewhere(named, name, folder)


def _weights_elsewhere(named: ModelFolder, name: str, folder: Path) -> dict[str, str]:
    """The sha256 of each weight file that the hub has and a snapshot lacks, by path."""
    try:
        files = _files_of_commit(name, folder.name)
    except Exception as error:  # also whatever the hub's HTTP client raises
        if all(
            any(_is_part(f"{component}/{path.name}") for path in (folder / component).glob("*" + WEIGHTS))
            for component in WEIGHT_FILES
        ):
            return {}  # without a network, what is in the cache is the model
        raise _not_to_be_had(named, error) from error
    return {
        path: sha256
        for path, sha256 in files
        if sha256 and path.endswith(WEIGHTS) and _is_part(path) and not (folder / path).is_file()
    }


@lru_cache(maxsize=64)
def _files_of_commit(name: str, commit: str) -> tuple[tuple[str, str], ...]:
    """Path, and sha256 of the large ones, of each file. A commit doesn't change, so the hub is asked once."""
    from huggingface_hub import HfApi

    files = HfApi().model_info(name, revision=commit, files_metadata=True).siblings or ()
    return tuple((item.rfilename, item.lfs.sha256 if item.lfs else "") for item in files)


def _not_to_be_had(named: ModelFolder, error: Exception) -> SynthMixError:
    """The hub's own refusal is the request's fault; that it cannot be asked is not."""
    if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403, 404):
        return named.fault(
            f"is taken for a model of the hub, which refuses it ({type(error).__name__})",
            f"check name and revision, and set HF_TOKEN if the model asks for one; {FOLDER_HINT}",
            NOT_FOUND,
        )
    return Unavailable(
        f"{named.field}: {named.reference!r} is taken for a model of the hub and cannot be had from there "
        f"({type(error).__name__}); check the network and try again, or download it; {FOLDER_HINT}",
        reason="BASE_MODEL_HUB_UNAVAILABLE",
    )


def _inspect(reference: str, folder: Path, field: str, remote: Mapping[str, str] = MappingProxyType({})) -> BaseModel:
    """Checks what is in a folder, and takes a hub's word for the sha256 of weights that are only there."""
    model = ModelFolder(folder, field, reference, tuple(remote))
    try:
        if not (folder / INDEX).exists():
            raise no_model(model, _names(model))
        files = _files(folder)
        sizes = _checked(model, (_stamp(folder, folder / INDEX), *files))
        digest = _digest(folder, files, tuple(remote.items()))
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        raise model.fault(
            f"cannot be read ({name}: {error.strerror})",
            "give a folder that the service and its workers can read",
            INCOMPLETE,
        ) from error
    return BaseModel(reference, folder, digest, sizes.image_size_px, sizes.latent_factor, sizes.train_timesteps)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What makes the model: path, size and time of each file, in the order of their paths."""
    return tuple(
        _stamp(folder, path)
        for component in COMPONENTS
        for path in sorted((folder / component).rglob("*"))
        if path.is_file() and _is_part(str(path.relative_to(folder)))
    )


def _stamp(folder: Path, path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.relative_to(folder)), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)  # each adapter of a grid asks
def _checked(model: ModelFolder, files: tuple[tuple[str, int, int], ...]) -> Sizes:
    """Checks a folder as it is at these sizes and times of its files. Raises SynthMixError."""
    index = model.json(INDEX)
    check_pipeline(model, index)
    missing = [component for component in COMPONENTS if not (model.path / component).is_dir()]
    if missing:
        raise model.fault(f"lacks {', '.join(missing)}", f"give {DIFFUSERS_FOLDER}", INCOMPLETE)
    _check_weights_are_safetensors(model, [*(name for name, _, _ in files), *model.elsewhere])
    return check_files(model, index)


def _names(model: ModelFolder) -> list[str]:
    """Relative paths of files in a folder and in its sub-folders: enough to tell what it is, however much it holds."""
    found = itertools.islice(itertools.chain(model.path.glob("*"), model.path.glob("*/*")), MOST_NAMES)
    return [str(path.relative_to(model.path)) for path in found if path.is_file()]


def _check_weights_are_safetensors(model: ModelFolder, names: Sequence[str]) -> None:
    """Raises InvalidArgument for a component that has no weights, or has them in a form that isn't loaded."""
    without = [
        component
        for component in WEIGHT_FILES
        if not any(name.startswith(f"{component}/") and name.endswith(WEIGHTS) for name in names)
    ]
    if without and any(_is_variant(path.name) for path in (model.path / without[0]).glob("*" + WEIGHTS)):
        raise model.fault(
            f"has only variants of the weights in {', '.join(without)}",
            "give a model whose weights are named without a variant, such as model.safetensors",
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
    return hashlib.sha256(canonical_json(digests)).hexdigest()[:ID_LENGTH]


def verify(model: BaseModel, digest: str) -> None:
    """Raises FailedPrecondition unless the model found here is the one that was asked for."""
    if model.digest != digest:
        raise FailedPrecondition(
            f"the base model {model.reference!r} on this worker is not the one that the service saw "
            "(its files differ); give every node the same folder",
            reason="BASE_MODEL_DIFFERS",
        )
