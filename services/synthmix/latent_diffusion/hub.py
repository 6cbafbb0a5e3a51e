"""A hub's model: whether the operator allows it, what it would take, and its download, in this order.

Nothing of a model is downloaded but what is loaded: its index, and of each component JSON, the tokenizer's texts and
safetensors.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from synthmix.latent_diffusion.base_model_files import WEIGHT_FILES
from synthmix.latent_diffusion.model_folder import (
    NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    WEIGHTS,
    ModelFolder,
    parts,
)
from synthmix.latent_diffusion.model_kinds import INDEX, no_model
from synthmix.service_kit import hub_cache
from synthmix.service_kit.environment import HubSettings, cache_folder, hub_settings
from synthmix.service_kit.errors import SynthMixError, Unavailable
from synthmix.service_kit.node_cache import BUDGET_VARIABLE, cache_budget_bytes, room
from synthmix.service_kit.quantities import byte_size, listed

TIMEOUT_SECONDS = 10.0
# Of what has weights, what every model has.
REQUIRED = ("unet", "vae", "text_encoder")
# Of the small files, which front ends download; the largest is a vocabulary, of 64 MiB at most.
MOST_SMALL_BYTES = 256 << 20
FOLDER_HINT = "for a folder, write its absolute path, or ./ before a path that is relative to the study's file"
# Of a path that is given to the library as a pattern: no character that means more than itself.
_PLAIN_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class HubFile:
    """A file of a hub's model.

    Attributes:
        path: In the model's folder.
        size_bytes: None if the hub doesn't say it.
        sha256: Of what the hub keeps outside of git, as it does weights, and else "".
    """

    path: str
    size_bytes: int | None
    sha256: str


@dataclass(frozen=True)
class Downloaded:
    """A model in the hub's cache.

    Attributes:
        folder: Its folder, named by its commit.
        remote: The sha256 of each weight file that the folder lacks, by path.
        hold: Keeps the model in the node's cache until it is closed; None where nothing is deleted.
    """

    folder: Path
    remote: dict[str, str]
    hold: BinaryIO | None


def download(named: ModelFolder, name: str, revision: str, *, weights: bool) -> Downloaded:
    """Downloads a model into the hub's cache, or finds it there where the hub can't be asked.

    Args:
        named: How the request names it.
        name: owner/name.
        revision: A commit, branch or tag.
        weights: False for the small files alone.

    Raises:
        InvalidArgument: The operator doesn't allow the model, it is too large, the hub refuses it, or it is no model.
        ResourceExhausted: Others use so much of the node's cache that it doesn't fit.
        Unavailable: The hub can't be asked, and the cache doesn't have it.
    """
    from huggingface_hub import resolve_revision, snapshot_download
    from huggingface_hub.errors import HFValidationError

    settings = hub_settings()
    _check_allowed(named, name, None, settings)
    try:
        commit = resolve_revision(name, revision=revision).resolved
    except HFValidationError as error:
        raise named.fault("is no name that a hub's model can have", "write owner/name@revision", NOT_FOUND) from error
    except Exception as error:  # also whatever the hub's HTTP client raises
        raise _not_to_be_had(named, error) from error
    _check_allowed(named, name, commit, settings)
    try:
        files = _files_of_commit(name, commit)
    except Exception as error:  # as above
        hold = hub_cache.hold(name)
        return Downloaded(_cached(named, name, commit, because=error), {}, hold)
    loaded = _parts(named, files)
    _check_size(named, loaded, settings)
    wanted = [file for file in loaded if weights or not _is_elsewhere(file)]
    _check_fits(named, wanted)
    try:
        hold = _hold_with_room(wanted, name, commit)
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=[file.path for file in wanted]))
    except SynthMixError:
        raise
    except Exception as error:  # as above
        raise _not_to_be_had(named, error) from error
    remote = {file.path: file.sha256 for file in loaded if _is_elsewhere(file) and not (folder / file.path).is_file()}
    return Downloaded(folder, remote, hold)


def remote_shapes(named: ModelFolder, path: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a weight file that the hub has, by its header alone.

    Args:
        named: A model whose reference has its commit.

    Raises:
        InvalidArgument: The hub refuses, or the file is no safetensors.
        Unavailable: The hub can't be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    name, _, commit = named.reference.partition("@")
    try:
        header = HfApi().parse_safetensors_file_metadata(name, path, revision=commit)
    except SafetensorsParsingError as error:
        raise named.unreadable(path, "is no safetensors file") from error
    except Exception as error:  # also whatever the hub's HTTP client raises
        raise _not_to_be_had(named, error) from error
    return {key: tuple(tensor.shape) for key, tensor in header.tensors.items()}


def _check_allowed(named: ModelFolder, name: str, commit: str | None, settings: HubSettings) -> None:
    """Raises InvalidArgument unless the operator allows a model at a commit; None is one that isn't known yet."""
    owner = name.partition("/")[0]
    commits = [entry.partition("@")[2] for entry in settings.allowed if entry.startswith(f"{name}@")]
    if {"*", f"{owner}/*", name} & set(settings.allowed) or (commits if commit is None else commit in commits):
        return
    where = "the operator says which may be used, by SYNTHMIX_HUB_MODELS or the chart's baseModels.hub.models"
    if commits:
        raise named.fault(
            f"is the hub's commit {commit}, and of this model other commits are allowed",
            f"write {name}@{' or @'.join(commits[:3])}; {where}",
            NOT_ALLOWED,
        )
    allowed = listed(settings.allowed, 8)
    raise named.fault(
        f"is taken for a model of the hub, and is not among those that are allowed ({allowed})",
        f"use builtin or an allowed one; {where}; {FOLDER_HINT}",
        NOT_ALLOWED,
    )


def _parts(named: ModelFolder, files: Collection[HubFile]) -> list[HubFile]:
    """The files that would be loaded. Raises InvalidArgument if there is no index among what the hub lists."""
    names = [file.path for file in files]
    if INDEX not in names:
        raise no_model(replace(named, elsewhere=names), names)
    loaded = {INDEX, *parts(name for name in names if _PLAIN_NAME.fullmatch(name.rpartition("/")[2]))}
    return [file for file in files if file.path in loaded]


def _check_size(named: ModelFolder, loaded: Collection[HubFile], settings: HubSettings) -> None:
    """Raises InvalidArgument if a model has too many files, or too large ones."""
    if len(loaded) > settings.most_files:
        raise named.fault(
            f"has {len(loaded):,} files to download, more than {settings.most_files:,}",
            "use another; the operator sets the limit by SYNTHMIX_HUB_MODEL_MOST_FILES or the chart's "
            "baseModels.hub.files",
            TOO_LARGE,
        )
    unknown = [file.path for file in loaded if file.size_bytes is None]
    if unknown:
        raise Unavailable(
            f"{named.field}: the hub does not say how large {listed(unknown, 3)} of {named.reference!r} are; "
            "try again, or download the model and name its folder",
            reason="BASE_MODEL_HUB_UNAVAILABLE",
        )
    size_bytes = sum(file.size_bytes or 0 for file in loaded)
    if size_bytes > settings.most_bytes:
        raise named.fault(
            f"has {byte_size(size_bytes)} to download, more than {byte_size(settings.most_bytes)}",
            "use another; the operator sets the limit by SYNTHMIX_HUB_MODEL_MOST_BYTES or the chart's "
            "baseModels.hub.size",
            TOO_LARGE,
        )
    small_bytes = sum(file.size_bytes or 0 for file in loaded if not _is_elsewhere(file))
    if small_bytes > MOST_SMALL_BYTES:
        raise named.fault(
            f"has {byte_size(small_bytes)} of files besides its weights, more than {byte_size(MOST_SMALL_BYTES)}",
            "use another",
            TOO_LARGE,
        )


def _check_fits(named: ModelFolder, files: Collection[HubFile]) -> None:
    """Raises InvalidArgument if these files don't fit into the node's cache even when nothing else is in it."""
    size_bytes = sum(file.size_bytes or 0 for file in files)
    if hub_cache.hub_folder() is not None and size_bytes > cache_budget_bytes():
        raise named.fault(
            f"has {byte_size(size_bytes)} to download, more than the {byte_size(cache_budget_bytes())} that the cache "
            f"{cache_folder()} may hold",
            f"use another; the operator sets the limit by {BUDGET_VARIABLE} or the chart's workers.*.cache, of which "
            "it is 90 %",
            TOO_LARGE,
        )


def _hold_with_room(files: Collection[HubFile], name: str, commit: str) -> BinaryIO | None:
    """Makes room in the node's cache for what is not there yet, and keeps the model there, as hub_cache.hold does.

    Raises ResourceExhausted if there is no room. It is not kept: what is written counts as it grows.
    """
    from huggingface_hub import try_to_load_from_cache

    hold = hub_cache.hold(name)
    if hold is None:
        return None
    missing = [file for file in files if not isinstance(try_to_load_from_cache(name, file.path, revision=commit), str)]
    if not missing:
        return hold
    hold.close()  # other revisions of it may have to go
    with room(sum(file.size_bytes or 0 for file in missing)):
        return hub_cache.hold(name)


def _is_elsewhere(file: HubFile) -> bool:
    """Whether it is a weight file whose sha256 the hub says, so that who plans need not download it."""
    return file.path.endswith(WEIGHTS) and bool(file.sha256)


@lru_cache(maxsize=64)
def _files_of_commit(name: str, commit: str) -> tuple[HubFile, ...]:
    """What the hub has of a model. A commit doesn't change, so the hub is asked once.

    Raises what the hub's library and its HTTP client raise.
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(name, revision=commit, files_metadata=True, timeout=TIMEOUT_SECONDS)
    return tuple(
        HubFile(item.rfilename, item.size, item.lfs.sha256 if item.lfs else "") for item in info.siblings or ()
    )


def _cached(named: ModelFolder, name: str, commit: str, *, because: Exception) -> Path:
    """A model's folder in the cache, with its weights. Raises what `because` means if it isn't there.

    The library's snapshot_download would miss what was never downloaded: variants, and folders of no component.
    """
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, INDEX, revision=commit)
    if not isinstance(index, str):
        raise _not_to_be_had(named, because)
    folder = Path(index).parent
    loaded = parts(str(path.relative_to(folder)) for path in folder.glob("*/*"))
    with_weights = {path.partition("/")[0] for path in loaded if path.endswith(WEIGHTS)}
    # A planner has downloaded the small files of a second text encoder, if the model has one.
    if not with_weights >= {part for part in WEIGHT_FILES if part in REQUIRED or (folder / part).is_dir()}:
        raise _not_to_be_had(named, because)
    return folder


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
