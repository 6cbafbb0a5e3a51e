"""Resource names (AIP-122). They are parsed here and nowhere else."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from synthmix.service_kit.errors import InvalidArgument, invalid_field

_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SERVICE = re.compile(r"[a-z][a-z-]{0,62}")
_DISPLAY_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

DATASETS = "datasets"
MODELS = "models"
SPLITS = "splits"
ADAPTERS = "adapters"
IMAGE_SETS = "image-sets"
TRIALS = "trials"
RECONSTRUCTIONS = "reconstructions"
FEATURES = "features"
IMAGE_SET_SCORES = "image-set-scores"
AUTOENCODER_CHECKS = "autoencoder-checks"
EVALUATIONS = "evaluations"
STUDIES = "studies"
COLLECTIONS = (
    DATASETS,
    MODELS,
    SPLITS,
    AUTOENCODER_CHECKS,
    ADAPTERS,
    IMAGE_SETS,
    TRIALS,
    RECONSTRUCTIONS,
    FEATURES,
    IMAGE_SET_SCORES,
    EVALUATIONS,
    STUDIES,
)
PARTS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")


@dataclass(frozen=True, order=True)
class ArtifactName:
    """`{collection}/{id}`: also the artifact's prefix in object storage."""

    collection: str
    id: str

    def __str__(self) -> str:
        return f"{self.collection}/{self.id}"

    @classmethod
    def parse(cls, text: str, *, field: str, collection: str | None = None) -> Self:
        """Raises InvalidArgument naming the field."""
        found, _, artifact_id = text.partition("/")
        allowed = (collection,) if collection else COLLECTIONS
        if found not in allowed or not _ID.fullmatch(artifact_id):
            remedy = f"use {' or '.join(allowed)}/ followed by 32 hexadecimal digits"
            raise _invalid_name(field, text, "is not a resource name", remedy)
        return cls(found, artifact_id)


@dataclass(frozen=True)
class PartName:
    """`splits/{id}/parts/{train|validation|test}`"""

    split: ArtifactName
    part: str

    def __str__(self) -> str:
        return f"{self.split}/parts/{self.part}"

    @classmethod
    def parse(cls, text: str, *, field: str) -> Self:
        split, _, part = text.partition("/parts/")
        if part not in PARTS:
            remedy = f"use splits/{{id}}/parts/ followed by one of {', '.join(PARTS)}"
            raise _invalid_name(field, text, "is not a part of a split", remedy)
        return cls(ArtifactName.parse(split, field=field, collection=SPLITS), part)

    @classmethod
    def parse_train(cls, text: str, *, field: str) -> Self:
        """The name of a train part; any other is refused (leakage rule 3). Raises InvalidArgument."""
        if collection_of(text) == DATASETS:
            problem = "is a whole dataset: validation and test images must not reach a generator"
        elif collection_of(text) == SPLITS and "/parts/" not in text:
            problem = "is a whole split: validation and test images must not reach a generator"
        elif text.endswith(("/parts/validation", "/parts/test")):
            problem = "is held out: its images must not reach a generator"
        else:
            return cls.parse(text, field=field)
        raise invalid_field(field, text, problem, "use splits/{id}/parts/train", reason="TRAIN_SPLIT_REQUIRED")


@dataclass(frozen=True)
class UploadName:
    """`uploads/{sha256}`"""

    sha256: str

    def __str__(self) -> str:
        return f"uploads/{self.sha256}"

    @classmethod
    def parse(cls, text: str, *, field: str) -> Self:
        collection, _, sha256 = text.partition("/")
        if collection != "uploads" or not _SHA256.fullmatch(sha256):
            remedy = "upload the file first and use the name that UploadFile returns"
            raise _invalid_name(field, text, "is not an upload", remedy)
        return cls(sha256)


@dataclass(frozen=True)
class OperationName:
    """`operations/{service}/{id}`: also the operation's prefix in object storage, and its actor's name."""

    service: str
    id: str

    def __str__(self) -> str:
        return f"operations/{self.service}/{self.id}"

    @property
    def checkpoints(self) -> str:
        """The prefix in object storage of what its unfinished work needs to go on."""
        return f"checkpoints/{self}/"

    @classmethod
    def parse(cls, text: str, *, field: str = "name") -> Self:
        head, _, rest = text.partition("/")
        service, _, operation_id = rest.partition("/")
        if head != "operations" or not _SERVICE.fullmatch(service) or not _ID.fullmatch(operation_id):
            remedy = (
                "use operations/{service}/ followed by 32 hexadecimal digits; `synthmix operations list` shows them"
            )
            raise _invalid_name(field, text, "is not an operation", remedy)
        return cls(service, operation_id)

    @classmethod
    def of_key(cls, key: str) -> tuple[Self, str]:
        """The operation that an object belongs to, and the object's own name, by its key in object storage."""
        _, service, operation_id, leaf = key.split("/", 3)
        return cls(service, operation_id), leaf


def operations_of(service: str) -> str:
    """The parent of a service's operations."""
    return f"operations/{service}"


def service_of_parent(parent: str) -> str:
    """The service whose operations these are, or "" if the parent names none."""
    return parent.removeprefix("operations/")


def collection_of(name: str) -> str:
    """What stands before the first slash: of a well-formed name its collection."""
    return name.partition("/")[0]


def qualified(collection: str, name: str) -> str:
    """A name with its collection, which a person may leave out."""
    return name if "/" in name else f"{collection}/{name}"


def unqualified(collection: str, name: str) -> str:
    """A name without its collection, which a person may write."""
    return name.removeprefix(f"{collection}/")


def is_id(text: str) -> bool:
    """Whether it is an artifact's id, rather than a name that a person gave."""
    return _ID.fullmatch(text) is not None


def check_display_name(field: str, value: str) -> None:
    """Raises InvalidArgument unless value can be both a name a person types and a part of an object's key."""
    if not _DISPLAY_NAME.fullmatch(value) or _ID.fullmatch(value):
        remedy = "use 1 to 63 lower-case letters, digits and hyphens, such as six-phenotypes"
        raise invalid_field(field, value, "is not a valid name", remedy, reason="INVALID_NAME")


def _invalid_name(field: str, text: str, problem: str, remedy: str) -> InvalidArgument:
    return invalid_field(field, text, problem, remedy, reason="INVALID_RESOURCE_NAME")
