"""Which base model a request means: resolved to a folder and a digest, without importing torch."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from service_kit.digests import ID_LENGTH, canonical_json, sha256_of_file
from service_kit.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    SynthMixError,
    Unavailable,
    Unimplemented,
    invalid_field,
    missing_field,
)
from service_kit.settings import base_model_folders

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHT_COMPONENTS = ("unet", "vae", "text_encoder")
INDEX = "model_index.json"
WEIGHTS = ".safetensors"
SMALL_FILES = (".json", ".txt", ".model")
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
    """

    reference: str
    folder: Path
    digest: str
    image_size_px: int


def resolve(reference: str, *, field: str, weights: bool = True) -> BaseModel:
    """Finds a base model: "embedded", a folder, or owner/name@revision of the hub (downloaded into the hub's cache).

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
        raise missing_field(field, "use embedded, a folder in the diffusers layout, or owner/name@revision")
    if reference == EMBEDDED:
        return _inspect(reference, EMBEDDED_FOLDER, field)
    folder = _allowed_folder(reference)
    if folder is not None:
        return _inspect(str(folder), folder, field)
    if not _HUB_MODEL.fullmatch(reference) or ".." in reference:
        places = " or ".join(map(str, base_model_folders()))
        raise invalid_field(
            field,
            reference,
            "is neither a folder that this server offers nor the name of a hub's model",
            f"use embedded, owner/name@revision{f', or a folder below {places}' if places else ''}; the operator says "
            "where folders may lie, by SYNTHMIX_BASE_MODEL_FOLDERS or the chart's baseModels.folders",
            reason="BASE_MODEL_NOT_FOUND",
        )
    name, _, revision = reference.partition("@")
    folder, remote = _download(name, revision or "main", field, reference, weights=weights)
    # The hub's cache names a snapshot's folder by its commit.
    return _inspect(f"{name}@{folder.name}", folder, field, remote)


def _allowed_folder(reference: str) -> Path | None:
    """The folder that a reference means, if it is there and below one that the operator names.

    What lies elsewhere and what doesn't exist can't be told apart by the answer: a caller can't explore the server.
    """
    try:
        folder = Path(reference).expanduser().resolve()
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


def _download(name: str, revision: str, field: str, reference: str, *, weights: bool) -> tuple[Path, dict[str, str]]:
    """The folder of a hub's model, and the sha256 of each weight file that it lacks, by path."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    endings = (*SMALL_FILES, WEIGHTS) if weights else SMALL_FILES
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[INDEX, *(f"{component}/*{ending}" for component in COMPONENTS for ending in endings)],
                ignore_patterns=["*/*.*" + WEIGHTS],  # variants
            )
        )
    except HFValidationError as error:
        raise invalid_field(
            field,
            reference,
            f"is neither a folder nor a hub model ({error})",
            "use embedded, a folder in the diffusers layout, or owner/name@revision",
            reason="BASE_MODEL_NOT_FOUND",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _not_to_be_had(field, reference, error) from error
    return folder, {} if weights else _weights_elsewhere(name, folder, field, reference)


def _weights_elsewhere(name: str, folder: Path, field: str, reference: str) -> dict[str, str]:
    """The sha256 of each weight file that the hub has and a snapshot lacks, by path."""
    try:
        weights = _weights_of_commit(name, folder.name)
    except Exception as error:  # also whatever the hub's HTTP client raises
        if all(
            any(_is_part(f"{component}/{path.name}") for path in (folder / component).glob("*" + WEIGHTS))
            for component in WEIGHT_COMPONENTS
        ):
            return {}  # without a network, what is in the cache is the model
        raise _not_to_be_had(field, reference, error) from error
    return {path: sha256 for path, sha256 in weights if not (folder / path).is_file()}


@lru_cache(maxsize=64)
def _weights_of_commit(name: str, commit: str) -> tuple[tuple[str, str], ...]:
    """Path and sha256 of each weight file. A commit doesn't change, so the hub is asked once."""
    from huggingface_hub import HfApi

    files = HfApi().model_info(name, revision=commit, files_metadata=True).siblings or ()
    return tuple(
        (item.rfilename, item.lfs.sha256)
        for item in files
        if item.lfs and item.rfilename.endswith(WEIGHTS) and _is_part(item.rfilename)
    )


def _not_to_be_had(field: str, reference: str, error: Exception) -> SynthMixError:
    """The hub's own refusal is the request's fault; that it can't be asked is not."""
    if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403, 404):
        return invalid_field(
            field,
            reference,
            f"is no folder here and the hub refuses it ({type(error).__name__})",
            "check name and revision, and set HF_TOKEN if the model asks for one",
            reason="BASE_MODEL_NOT_FOUND",
        )
    return Unavailable(
        f"{field}: {reference!r} is no folder here and can't be had from the hub ({type(error).__name__}); check the "
        "network and try again, or download it and give the folder",
        reason="BASE_MODEL_HUB_UNAVAILABLE",
    )


def _inspect(reference: str, folder: Path, field: str, remote: Mapping[str, str] = MappingProxyType({})) -> BaseModel:
    """Checks what is in a folder, and takes a hub's word for the sha256 of weights that are only there."""
    index = _json(folder / INDEX, field, reference)
    if "text_encoder_2" in index:
        description = (
            f"{reference!r} is an SDXL model, which this version can't adapt; use an SD 1.x or 2.x model, or embedded"
        )
        raise Unimplemented(
            f"{field}: {description}",
            reason="BASE_MODEL_UNSUPPORTED",
            violations=[FieldViolation(field, description)],
        )
    missing = [component for component in COMPONENTS if not (folder / component).is_dir()]
    if missing:
        raise invalid_field(
            field,
            reference,
            f"lacks {', '.join(missing)}",
            "give a folder in the diffusers layout (unet, vae, text_encoder, tokenizer, scheduler)",
            reason="BASE_MODEL_INCOMPLETE",
        )
    here = {
        str(path.relative_to(folder)): path
        for component in COMPONENTS
        for path in sorted((folder / component).rglob("*"))
        if path.is_file() and _is_part(str(path.relative_to(folder)))
    }
    without = [
        component
        for component in WEIGHT_COMPONENTS
        if not any(name.startswith(f"{component}/") and name.endswith(WEIGHTS) for name in (*here, *remote))
    ]
    if without and any(_is_variant(path.name) for path in (folder / without[0]).glob("*" + WEIGHTS)):
        raise invalid_field(
            field,
            reference,
            f"has only variants of the weights in {', '.join(without)}",
            "give a model whose weights are named without a variant, such as model.safetensors",
            reason="BASE_MODEL_INCOMPLETE",
        )
    if without:
        raise invalid_field(
            field,
            reference,
            f"has no safetensors weights in {', '.join(without)}",
            "convert them; pickled weights are never loaded",
            reason="BASE_MODEL_NOT_SAFETENSORS",
        )
    unet, vae = (_json(folder / component / "config.json", field, reference) for component in ("unet", "vae"))
    try:
        image_size_px = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(field, reference, folder / "unet" / "config.json", error) from error
    for name, path in here.items():
        if name.endswith(WEIGHTS):
            _check_safetensors(path, field, reference)
    files = tuple((name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in here.items())
    return BaseModel(reference, folder, _digest(folder, files, tuple(remote.items())), image_size_px)


def _check_safetensors(path: Path, field: str, reference: str) -> None:
    """Raises InvalidArgument unless the file begins with a header: eight bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            length_bytes = int.from_bytes(file.read(8), "little")
            if not 0 < length_bytes < path.stat().st_size:
                raise ValueError("no header")
            json.loads(file.read(length_bytes))
    except (OSError, ValueError) as error:
        raise _unreadable(field, reference, path, error) from error


@lru_cache(maxsize=16)
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...], remote: tuple[tuple[str, str], ...]) -> str:
    # Sizes and times are part of the cache's key only: gigabytes are read once, and again if they changed.
    digests = {name: sha256_of_file(folder / name) for name, _, _ in files} | dict(remote)
    return hashlib.sha256(canonical_json(digests)).hexdigest()[:ID_LENGTH]


def verify(model: BaseModel, digest: str) -> None:
    """Raises FailedPrecondition unless the model found here is the one that was asked for."""
    if model.digest != digest:
        raise FailedPrecondition(
            f"the base model {model.reference!r} on this worker isn't the one that the service saw "
            "(its files differ); give every node the same folder",
            reason="BASE_MODEL_DIFFERS",
        )


def _json(path: Path, field: str, reference: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except (OSError, ValueError) as error:
        raise _unreadable(field, reference, path, error) from error


def _unreadable(field: str, reference: str, path: Path, error: Exception) -> InvalidArgument:
    return invalid_field(
        field,
        reference,
        f"has no readable {path.parent.name}/{path.name} ({type(error).__name__})",
        "give a folder in the diffusers layout",
        reason="BASE_MODEL_INCOMPLETE",
    )
