"""Which base model a request means: resolved to a folder and a digest, without importing torch."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from service_kit.digests import ID_LENGTH, canonical_json, sha256_of_file
from service_kit.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    Unimplemented,
    invalid_field,
    missing_field,
)

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHT_COMPONENTS = ("unet", "vae", "text_encoder")


@dataclass(frozen=True)
class BaseModel:
    """A base model that was found.

    Attributes:
        reference: As the user wrote it, with a hub model's revision made exact.
        folder: Its folder in the diffusers layout.
        digest: Of all files that make the model.
        image_size_px: The side of the square images that it was trained for.
    """

    reference: str
    folder: Path
    digest: str
    image_size_px: int


def resolve(reference: str, *, field: str) -> BaseModel:
    """Finds a base model: "embedded", a folder, or owner/name@revision of the hub (downloaded into the hub's cache).

    Raises:
        InvalidArgument: There is no such model, or it isn't in the diffusers layout with safetensors weights.
        Unimplemented: The layout is known and not supported yet (SDXL).
    """
    if not reference:
        raise missing_field(field, "use embedded, a folder in the diffusers layout, or owner/name@revision")
    if reference == EMBEDDED:
        return _inspect(reference, EMBEDDED_FOLDER, field)
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return _inspect(str(folder.resolve()), folder.resolve(), field)
    if folder.is_absolute() or reference.startswith((".", "~")) or reference.count("/") != 1:
        raise invalid_field(
            field,
            reference,
            "is not a folder here",
            "use embedded, a folder that the service and its workers can read, or owner/name@revision",
            reason="BASE_MODEL_NOT_FOUND",
        )
    name, _, revision = reference.partition("@")
    folder, revision = _download(name, revision or "main", field, reference)
    return _inspect(f"{name}@{revision}", folder, field)


def _download(name: str, revision: str, field: str, reference: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])
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
        raise invalid_field(
            field,
            reference,
            f"is no folder here and can't be had from the hub ({type(error).__name__})",
            "check the name and the network, or download it and give the folder",
            reason="BASE_MODEL_NOT_FOUND",
        ) from error
    return folder, folder.name  # the hub's cache names a snapshot's folder by its commit


def _inspect(reference: str, folder: Path, field: str) -> BaseModel:
    index = _json(folder / "model_index.json", field, reference)
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
    without = [component for component in WEIGHT_COMPONENTS if not list((folder / component).glob("*.safetensors"))]
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
    for component in WEIGHT_COMPONENTS:
        for weights in (folder / component).glob("*.safetensors"):
            _check_safetensors(weights, field, reference)
    files = tuple(
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for component in COMPONENTS
        for path in sorted((folder / component).rglob("*"))
        if path.is_file()
    )
    return BaseModel(reference, folder, _digest(folder, files), image_size_px)


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
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    # Sizes and times are part of the cache's key only: gigabytes are read once, and again if they changed.
    return hashlib.sha256(canonical_json({name: sha256_of_file(folder / name) for name, _, _ in files})).hexdigest()[
        :ID_LENGTH
    ]


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
