"""What `models import` sends: the files of a base model in a folder or of the hub, with the headers of its weights.

Which files make a model is asked of latent_diffusion.model_folder, as the server asks it. Whether they make one that
can be used the service says by the small files and the headers, before the weights are sent.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from synthmix.latent_diffusion.model_folder import WEIGHTS, ModelFolder, file_names, is_hub_model, parts
from synthmix.latent_diffusion.model_kinds import DIFFUSERS_FOLDER, INDEX, no_model
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument, Unavailable, invalid_field
from synthmix.service_kit.extras import extra
from synthmix.service_kit.safetensors_header import LARGEST_HEADER_BYTES, LENGTH_BYTES, header_length

FIELD = "source"
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class SourceFile:
    """A file of a model.

    Attributes:
        path: In the diffusers layout.
        file: Where it is here.
        header: Of weights, what the file begins with, before the tensors; else b"".
    """

    path: str
    file: Path
    sha256: str
    size_bytes: int
    header: bytes = b""


@dataclass(frozen=True)
class ModelSource:
    """A model to be sent.

    Attributes:
        shown: What it is called in errors and lists.
    """

    shown: str
    files: tuple[SourceFile, ...]


def read_source(source: str, *, progress: Callable[[int, int], None]) -> ModelSource:
    """Finds a model and reads it.

    Args:
        source: A folder, or owner/name@revision of the hub, which is downloaded into the hub's cache on this machine.
        progress: Called with (bytes read, bytes in all).

    Raises:
        InvalidArgument: There is no such folder or model, or it is no base model.
        FailedPrecondition: A file cannot be read, or a package is not installed.
        Unavailable: The hub cannot be reached.
    """
    path = Path(source).expanduser()
    try:
        if source and path.is_dir():
            return _read(path.resolve().name or source, source, path, progress)
        if is_hub_model(source) and not path.exists():
            shown, folder = _download(source)
            return _read(shown, source, folder, progress)
    except OSError as error:
        raise FailedPrecondition(
            f"{error.filename or source}: {error.strerror or error}; check that it exists and that you may read it",
            reason="FILE_UNUSABLE",
        ) from error
    except ValueError:  # a NUL in it
        pass
    raise invalid_field(
        FIELD,
        source,
        "is neither a folder nor the name of a hub's model",
        f"give {DIFFUSERS_FOLDER}, or owner/name@revision; of a single-file checkpoint, diffusers' from_single_file "
        "and save_pretrained write one",
        reason="SOURCE_NOT_FOUND",
    )


def _read(shown: str, source: str, folder: Path, progress: Callable[[int, int], None]) -> ModelSource:
    names = file_names(folder)
    if INDEX not in names:
        raise no_model(ModelFolder(folder, FIELD, source), names)
    loaded = sorted([INDEX, *parts(names)])
    total = sum((folder / name).stat().st_size for name in loaded)
    files: list[SourceFile] = []
    done = 0
    for name in loaded:
        digest, size_bytes = hashlib.sha256(), 0
        with (folder / name).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                progress(done + size_bytes, total)
        done += size_bytes
        header = _header(folder / name) if name.endswith(WEIGHTS) else b""
        files.append(SourceFile(name, folder / name, digest.hexdigest(), size_bytes, header))
    return ModelSource(shown, tuple(files))


def _header(path: Path) -> bytes:
    """What a safetensors file begins with; of one that says that its header is too large, where it says that."""
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = header_length(start) - LENGTH_BYTES
        return start + (file.read(length) if length <= LARGEST_HEADER_BYTES else b"")


def _download(source: str) -> tuple[str, Path]:
    """A hub's model with its commit, and the folder that has what is loaded of it."""
    with extra("hub", "downloading a model of the hub"):
        from huggingface_hub import HfApi, snapshot_download
    name, _, revision = source.partition("@")
    try:
        info = HfApi().model_info(name, revision=revision or "main")
        names = [item.rfilename for item in info.siblings or ()]
        if INDEX not in names:
            raise no_model(ModelFolder(Path(), FIELD, source, names), names)
        wanted = [INDEX, *parts(names)]
        commit = str(info.sha)
        return f"{name}@{commit}", Path(snapshot_download(name, revision=commit, allow_patterns=_plain(wanted)))
    except InvalidArgument:
        raise
    except Exception as error:  # also whatever the hub's HTTP client raises
        if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403, 404):
            raise invalid_field(
                FIELD,
                source,
                f"is refused by the hub ({type(error).__name__})",
                "check name and revision, and set HF_TOKEN if the model asks for one; for a folder, write ./ before it",
                reason="SOURCE_NOT_FOUND",
            ) from error
        raise Unavailable(
            f"{FIELD}: {source!r} cannot be had from the hub ({type(error).__name__}); check the network and try again",
            reason="BASE_MODEL_HUB_UNAVAILABLE",
        ) from error


def _plain(names: Iterable[str]) -> list[str]:
    """Names that mean themselves where the hub's library takes patterns."""
    return [name for name in names if re.fullmatch(r"[\w./-]+", name, re.ASCII)]
