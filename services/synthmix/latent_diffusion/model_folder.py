"""A base model's folder as its checks read it: strict JSON, bounded, with errors that name file, value and remedy."""

import itertools
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from synthmix.service_kit.errors import InvalidArgument, invalid_field
from synthmix.service_kit.quantities import byte_size, shortened

NOT_FOUND = "BASE_MODEL_NOT_FOUND"
INCOMPLETE = "BASE_MODEL_INCOMPLETE"
UNSUPPORTED = "BASE_MODEL_UNSUPPORTED"
INCONSISTENT = "BASE_MODEL_INCONSISTENT"
NOT_ALLOWED = "BASE_MODEL_NOT_ALLOWED"
TOO_LARGE = "BASE_MODEL_TOO_LARGE"

# Of all kinds of models that are loaded; SDXL's alone have a second text encoder.
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
SMALL_FILES = (".json", ".txt", ".model")
WEIGHTS = ".safetensors"
FP16 = "fp16"

LARGEST_CONFIG_BYTES = 1 << 20
LARGEST_VOCABULARY_BYTES = 64 << 20
LONGEST_SHOWN = 80
MOST_NAMES = 2000
# owner/name, or owner/name@revision. What a revision may hold keeps it inside the hub's cache, whose files it names.
_HUB_MODEL = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(@\w[\w./-]{0,95})?", re.ASCII)


def is_hub_model(reference: str) -> bool:
    """Whether a hub's model may be called that: owner/name, or owner/name@revision."""
    return _HUB_MODEL.fullmatch(reference) is not None and ".." not in reference


def file_names(folder: Path) -> list[str]:
    """Relative paths of files in a folder and in its sub-folders: enough to tell what it is, however much it holds."""
    found = itertools.islice(itertools.chain(folder.glob("*"), folder.glob("*/*")), MOST_NAMES)
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


@dataclass(frozen=True)
class ModelFolder:
    """A folder that is to be a base model, and how its user named it.

    Attributes:
        path: The folder.
        field: The request's field.
        reference: As the user wrote it.
        elsewhere: Paths of files that only the hub has so far.
    """

    path: Path
    field: str
    reference: str
    elsewhere: Collection[str] = ()

    def fault(self, problem: str, remedy: str, reason: str = INCONSISTENT) -> InvalidArgument:
        """The error that says what is wrong with the model, as one sentence after its name."""
        return invalid_field(self.field, self.reference, problem, remedy, reason=reason)

    def json(self, name: str, *, largest_bytes: int = LARGEST_CONFIG_BYTES) -> dict[str, Any]:
        """A JSON object. Raises InvalidArgument if it is missing, too large, or anything else."""
        data = self.read(name, largest_bytes=largest_bytes)
        try:
            value = json.loads(
                data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
            )
        except UnicodeDecodeError as error:
            raise self.unreadable(name, f"is not UTF-8 text (byte {error.start})") from error
        except json.JSONDecodeError as error:
            what = f"is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"
            raise self.unreadable(name, what if data.strip() else "is empty") from error
        except RecursionError as error:
            raise self.unreadable(name, "is nested too deeply") from error
        except ValueError as error:  # of _object, _no_constant, _finite, or a number of too many digits
            raise self.unreadable(name, shortened(str(error), LONGEST_SHOWN)) from error
        if not isinstance(value, dict):
            raise self.unreadable(name, f"holds {_kind(value)} where a JSON object belongs")
        return value

    def read(self, name: str, *, largest_bytes: int) -> bytes:
        """A small file's bytes. Raises InvalidArgument if it can't be read, or is larger than such a file is."""
        path = self.path / name
        try:
            if not path.exists():
                raise self.fault(
                    f"has no {name}", "give a folder in the diffusers layout, with all of its files", INCOMPLETE
                )
            if not path.is_file():
                raise self.unreadable(name, "is not a file")
            with path.open("rb") as file:
                data = file.read(largest_bytes + 1)
        except OSError as error:
            raise self.unreadable(name, f"cannot be read ({error.strerror})") from error
        if len(data) > largest_bytes:
            raise self.unreadable(name, f"is larger than {byte_size(largest_bytes)}")
        return data

    def unreadable(self, name: str, problem: str) -> InvalidArgument:
        """The error for a file that is not what it should be."""
        return self.fault(
            f"cannot be used, since its {name} {problem}",
            f"copy {name} again from where the model came from",
            INCOMPLETE,
        )


def parts(paths: Iterable[str]) -> list[str]:
    """Those of a model's files, by their paths in the diffusers layout, that belong to a component as it is loaded.

    Hubs keep weights besides in other formats and as variants, which are named {name}.{variant}.safetensors. Of a
    component that has nothing else, the variant in float16 is loaded.
    """
    of_components: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder in COMPONENTS and name.endswith((*SMALL_FILES, WEIGHTS)):
            of_components.setdefault(folder, []).append(path)
    found = []
    for of_component in of_components.values():
        weights = [path for path in of_component if path.endswith(WEIGHTS)]
        chosen = [path for path in weights if not variant(path)] or [path for path in weights if variant(path) == FP16]
        found += [path for path in of_component if path in chosen or not path.endswith(WEIGHTS)]
    return found


def variant(path: str) -> str:
    """The variant that a weight file is, by its name; "" for none."""
    return path.rpartition("/")[2].removesuffix(WEIGHTS).partition(".")[2]


def variant_to_load(folder: Path, components: Collection[str] = COMPONENTS) -> str | None:
    """The variant that diffusers has to be asked for, of a folder that was checked; None if all weights are whole."""
    loaded = parts(str(path.relative_to(folder)) for component in components for path in (folder / component).glob("*"))
    return FP16 if any(path.endswith(WEIGHTS) and variant(path) for path in loaded) else None


def is_whole(value: object, low: int = 1, high: int = 1 << 31) -> bool:
    """Whether it is a whole number in the range. JSON's true and 64.0 aren't."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value of a file as JSON writes it, not at length."""
    return shortened(json.dumps(value, ensure_ascii=False), LONGEST_SHOWN)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {shown(twice)} twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"holds {name}, which is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"holds {shortened(text, LONGEST_SHOWN)}, which is no finite number")
    return value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    return "a list" if isinstance(value, list) else "a text" if isinstance(value, str) else "a number"
