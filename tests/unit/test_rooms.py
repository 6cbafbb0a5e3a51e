"""Which package may import which: the arrows between the rooms of services/synthmix."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

SERVICES_FOLDER = Path(__file__).resolve().parents[2] / "services"
ROOMS_FOLDER = SERVICES_FOLDER / "synthmix"

# What services and users' side both stand on.
COMMON = {"api", "service_kit"}
MAY_IMPORT = {
    "api": set(),
    "service_kit": {"api"},
    "training": set(),
    "presets": COMMON,
    "image_data": COMMON,
    "image_features": {"service_kit"},
    "latent_diffusion": COMMON,
    "adapter_training": COMMON | {"image_data", "image_features", "latent_diffusion", "presets", "training"},
    "image_synthesis": COMMON | {"image_data", "image_features", "latent_diffusion", "presets"},
    "classifier_evaluation": COMMON | {"image_data", "image_features", "latent_diffusion", "presets", "training"},
    "study_control": COMMON | {"image_data", "presets"},
    "examples": {"service_kit"},
    "local": COMMON,
    "client": COMMON | {"image_data", "latent_diffusion", "local"},
    "cli": COMMON | {"image_data", "local", "client", "examples", "presets"},
}
LEARNING = {"torch", "torchvision", "diffusers", "transformers", "timm", "peft", "scipy", "sklearn", "safetensors"}
WORK_BY_NAME = re.compile(r"\bsynthmix(?:\.\w+)+:\w+")


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(module: Path) -> Iterator[tuple[int, str]]:
    """The line and the full name of each import of a module, those inside functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: import by the full name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def place(module: Path, line: int) -> str:
    return f"{module.relative_to(SERVICES_FOLDER)}:{line}"


def test_every_package_is_a_room() -> None:
    packages = {
        path.relative_to(ROOMS_FOLDER).parts[0] for path in modules(ROOMS_FOLDER) if path.parent != ROOMS_FOLDER
    }
    assert packages == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_those_below_it(room: str) -> None:
    wrong = [
        f"{place(module, line)} imports {name}"
        for module in modules(ROOMS_FOLDER / room)
        for line, name in imports(module)
        if name.startswith("synthmix.") and name.split(".")[1] not in MAY_IMPORT[room] | {room}
    ]
    assert not wrong


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_room_imports_what_is_not_shipped(room: str) -> None:
    """The pretraining of the base model is outside the wheel, and so are the tests."""
    unshipped = {"pretraining", *(path.stem for path in modules(SERVICES_FOLDER.parent / "tests"))}
    assert not [
        f"{place(module, line)} imports {name}"
        for module in modules(ROOMS_FOLDER / room)
        for line, name in imports(module)
        if name.partition(".")[0] in unshipped
    ]


@pytest.mark.parametrize("room", ["service_kit", "training", "client", "cli", "local"])
def test_these_rooms_know_no_machine_learning(room: str) -> None:
    assert not [
        f"{place(module, line)} imports {name}"
        for module in modules(ROOMS_FOLDER / room)
        for line, name in imports(module)
        if name.partition(".")[0] in LEARNING
    ]


def test_work_that_is_named_by_text_is_there() -> None:
    """Ray's actors and tasks get their functions as "module:name", which no import checks."""
    named = {name for module in modules(ROOMS_FOLDER) for name in WORK_BY_NAME.findall(module.read_text())}
    assert len(named) > 5
    for name in sorted(named):
        module, _, function = name.partition(":")
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None, name
        defined = {
            node.name for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert function in defined, name
