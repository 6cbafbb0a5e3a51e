"""What a CreateBaseModel request means: its files, whether they make a base model, and which are yet to be sent.

The service looks at a model as planners do: its small files whole, and of weights the header. Before the weights are
sent, headers of their own stand for them; when they are there, their own beginnings do.
"""

import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmix.api.base_models.v1 import base_models_pb2
from synthmix.latent_diffusion.base_model import BaseModel, inspect
from synthmix.latent_diffusion.model_folder import WEIGHTS, ModelFolder, parts
from synthmix.latent_diffusion.model_kinds import INDEX, no_model
from synthmix.latent_diffusion.stored_models import write_outline
from synthmix.service_kit import model_names
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import find_manifest
from synthmix.service_kit.digests import digest_of, sha256_of_file
from synthmix.service_kit.environment import whole_number
from synthmix.service_kit.errors import (
    DataLoss,
    FieldViolation,
    NotFound,
    ResourceExhausted,
    invalid_field,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import byte_size
from synthmix.service_kit.resource_names import MODELS, ArtifactName, UploadName
from synthmix.service_kit.safetensors_header import LARGEST_HEADER_BYTES, LENGTH_BYTES
from synthmix.service_kit.storage_space import writing_to

FILES = "base_model.files"
SOURCE = "base_model.source"
DISPLAY_NAME = "base_model.display_name"
MOST_FILES = 100
# Besides the weights; the largest is a vocabulary, of 64 MiB at most.
MOST_SMALL_BYTES = 256 << 20
LONGEST_SOURCE = 200
LONGEST_PATH_BYTES = 200
LIMIT = "SYNTHMIX_MODEL_MOST_BYTES"
LIMIT_BYTES = 16 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ModelFile:
    """A file of the request.

    Attributes:
        path: In the diffusers layout.
        upload: What it is sent as.
        header: What stands for the weights until they are sent; None if there is none.
    """

    path: str
    upload: UploadName
    size_bytes: int
    header: UploadName | None

    @property
    def is_weights(self) -> bool:
        return self.path.endswith(WEIGHTS)

    def looked_at(self, missing: Collection[UploadName]) -> UploadName:
        """By what the file is checked: by itself, or by its header until it is sent."""
        return self.header if self.header is not None and self.upload in missing else self.upload


def plan(store: ObjectStore, request: base_models_pb2.CreateBaseModelRequest, owner: str) -> Planned:
    """Checks a request against what exists. Its plan says what is yet to be sent.

    Raises:
        InvalidArgument, Unimplemented: The files do not make a base model that can be used.
        AlreadyExists: The name is that of another model.
        NotFound: A file is not there, and the request is not to be validated only.
        ResourceExhausted: The model is larger than the operator allows.
    """
    model = request.base_model
    source = _source(model.source)
    files = _files(model.files, source)
    canonical = {file.path: file.upload.sha256 for file in files}
    target = ArtifactName(MODELS, digest_of(canonical))
    if model.display_name:
        model_names.check_free(
            store, owner, model.display_name, target, replace=request.replace_display_name, field=DISPLAY_NAME
        )
    names: dict[str, Any] = {"source": source, "sizes": {file.path: file.size_bytes for file in files}}
    if find_manifest(store, target) is not None:
        return Planned(canonical, names, base_models_pb2.BaseModelPlan(target=str(target), done=True, checked=True))
    missing = _missing(store, files, headers=request.validate_only)
    if missing and not request.validate_only:
        raise NotFound(
            f"{FILES}: {missing[0]} does not exist, one of {len(missing)} that are missing; send them with UploadFile "
            "first, or import the model again: what is there is not sent again",
            reason="UPLOAD_NOT_FOUND",
        )
    looked_at = [file.looked_at(missing) for file in files]
    checked = not any(upload in missing for upload in looked_at)
    if checked:
        names["image_size"] = _inspect(store, files, looked_at, source).image_size_px
    uploads = [str(upload) for upload in missing]
    planned = base_models_pb2.BaseModelPlan(target=str(target), missing_uploads=uploads, checked=checked)
    return Planned(canonical, names, planned)


def _source(text: str) -> str:
    """What a model is called in errors and lists. Raises InvalidArgument."""
    if not text.isprintable() or len(text) > LONGEST_SOURCE:
        raise invalid_field(
            SOURCE,
            text,
            "cannot be shown",
            f"use at most {LONGEST_SOURCE} characters that can be printed, such as owner/name@revision",
        )
    return text or "the model"


def _files(given: Sequence[base_models_pb2.BaseModelFile], source: str) -> list[ModelFile]:
    """The files that a request names, in the order of their paths. Raises InvalidArgument, ResourceExhausted."""
    if len(given) > MOST_FILES:
        raise invalid_field(
            FILES, f"{len(given):,} files", f"are more than {MOST_FILES}", "use another model", reason="OUT_OF_RANGE"
        )
    files: dict[str, ModelFile] = {}
    for index, item in enumerate(given):
        field = f"{FILES}[{index}]"
        if item.path in files:
            raise invalid_field(f"{field}.path", item.path, "is there twice", "leave one out", reason="DUPLICATE_VALUE")
        if not _SHA256.fullmatch(item.sha256):
            raise invalid_field(f"{field}.sha256", item.sha256, "is no sha256", "write it as 64 hexadecimal digits")
        if item.size_bytes < 0:
            raise invalid_field(f"{field}.size_bytes", item.size_bytes, "is negative", "use 0 or more")
        header = UploadName.parse(item.header_upload, field=f"{field}.header_upload") if item.header_upload else None
        files[item.path] = ModelFile(item.path, UploadName(item.sha256), item.size_bytes, header)
    if INDEX not in files:
        raise no_model(ModelFolder(Path(), SOURCE, source, list(files)), list(files))
    others = files.keys() - {INDEX, *filter(_can_be_written, parts(files))}
    if others:
        raise invalid_field(
            FILES,
            min(others),
            "is no file that is loaded of a base model",
            f"send {INDEX}, and of each component JSON, the tokenizer's texts and the safetensors without a variant, "
            "under names that can be printed",
        )
    _check_sizes(list(files.values()))
    return [files[path] for path in sorted(files)]


def _can_be_written(path: str) -> bool:
    """Whether a path, of which the folder is a component, is one on every machine."""
    return path.isprintable() and "\\" not in path and len(path.encode()) <= LONGEST_PATH_BYTES


def _check_sizes(files: Sequence[ModelFile]) -> None:
    small_bytes = sum(file.size_bytes for file in files if not file.is_weights)
    if small_bytes > MOST_SMALL_BYTES:
        raise invalid_field(
            FILES,
            byte_size(small_bytes),
            f"of files besides the weights are more than {byte_size(MOST_SMALL_BYTES)}",
            "use another model",
            reason="OUT_OF_RANGE",
        )
    limit_bytes = most_model_bytes(os.environ)
    size_bytes = sum(file.size_bytes for file in files)
    if size_bytes > limit_bytes:
        description = (
            f"a model of {byte_size(size_bytes)} is more than the {byte_size(limit_bytes)} that {LIMIT} allows; import "
            f"a smaller one, such as its fp16 variant, or raise {LIMIT} (the chart's baseModels.imported.size)"
        )
        raise ResourceExhausted(
            f"{FILES}: {description}",
            reason="IMPORT_BOUND_EXCEEDED",
            violations=[FieldViolation(FILES, description)],
            metadata={"setting": LIMIT, "limit": byte_size(limit_bytes)},
        )


def most_model_bytes(environment: Mapping[str, str]) -> int:
    """How many bytes a model may have."""
    return whole_number(environment, LIMIT, LIMIT_BYTES)


def _missing(store: ObjectStore, files: Sequence[ModelFile], *, headers: bool) -> list[UploadName]:
    """What is yet to be sent. Raises InvalidArgument for what is there and is not as large as the request says."""
    missing = []
    for file in files:
        if file.size_bytes and not _is_there(store, file.upload, file.size_bytes, file.size_bytes):
            missing.append(file.upload)
        most_bytes = LENGTH_BYTES + LARGEST_HEADER_BYTES
        if headers and file.header and not _is_there(store, file.header, 0, most_bytes):
            missing.append(file.header)
    return list(dict.fromkeys(missing))


def _is_there(store: ObjectStore, upload: UploadName, least_bytes: int, most_bytes: int) -> bool:
    found = store.stat(str(upload))
    if found is not None and not least_bytes <= found.size_bytes <= most_bytes:
        raise invalid_field(
            FILES,
            str(upload),
            f"has {found.size_bytes:,} bytes, which is not what the request says",
            "give each file's own sha256 and size",
        )
    return found is not None


def _inspect(store: ObjectStore, files: Sequence[ModelFile], looked_at: Sequence[UploadName], source: str) -> BaseModel:
    """What is said of the model by its small files and the headers of its weights.

    Args:
        looked_at: The upload of each file, or that of its header.

    Raises:
        InvalidArgument, Unimplemented: It is no base model that can be used.
    """
    folder = Path(tempfile.gettempdir())
    with writing_to(folder), tempfile.TemporaryDirectory(prefix="synthmix-model-") as scratch:
        for file, upload in zip(files, looked_at, strict=True):
            path = Path(scratch) / file.path
            path.parent.mkdir(exist_ok=True)
            if file.is_weights:
                write_outline(path, store.stream(str(upload)) if file.size_bytes else iter(()), file.size_bytes)
            elif file.size_bytes:
                store.get_file(str(upload), path)
                if sha256_of_file(path) != upload.sha256:
                    raise DataLoss(f"{upload} is not what was sent; send it again", reason="UPLOAD_CORRUPT")
            else:
                path.touch()
        return inspect(source, Path(scratch), SOURCE, sha256s={file.path: file.upload.sha256 for file in files})
