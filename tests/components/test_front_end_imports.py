"""Front ends and operations start without what only workers need. Modules are looked at, not seconds."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SERVICES_FOLDER = Path(__file__).resolve().parents[2] / "services"
PACKAGES = ("adapter_training", "image_synthesis", "classifier_evaluation", "study_control")
FRONT_ENDS = tuple(f"synthmix.{package}.front_end" for package in PACKAGES)
# What hosts run. They hold no GPU and little memory: what they call on workers is imported there.
OPERATIONS = (
    "synthmix.adapter_training.adapter_operation",
    "synthmix.adapter_training.model_operation",
    "synthmix.image_synthesis.image_set_operation",
    "synthmix.classifier_evaluation.evaluation_operation",
    "synthmix.classifier_evaluation.score_operation",
    "synthmix.study_control.study_operation",
    "synthmix.study_control.image_import.import_operation",
)
FOR_WORKERS = {
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "timm",
    "peft",
    "accelerate",
    "tifffile",
    "imagecodecs",
    "optuna",
}
REPORT = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"


@cache
def imported(module: str) -> set[str]:
    """What is imported, at the top level, once the module is."""
    result = subprocess.run(
        [sys.executable, "-c", REPORT, module],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(SERVICES_FOLDER)},
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.partition(".")[0] for name in json.loads(result.stdout)}


@pytest.mark.parametrize("module", [*FRONT_ENDS, *OPERATIONS])
def test_it_starts_without_what_workers_need(module: str) -> None:
    modules = imported(module)
    assert module.partition(".")[0] in modules
    assert not modules & FOR_WORKERS


@pytest.mark.parametrize("module", [*FRONT_ENDS, *OPERATIONS])
def test_the_kubernetes_library_is_imported_only_on_kubernetes(module: str) -> None:
    """It costs more than a second, and on a single machine nothing uses it."""
    assert "kubernetes" not in imported(module)


@pytest.mark.parametrize("module", FRONT_ENDS)
def test_the_tokenizer_is_imported_with_the_first_prompt(module: str) -> None:
    assert not {"tokenizers", "huggingface_hub"} & imported(module)


def test_ray_is_imported_once_there_is_something_to_start() -> None:
    """Ray costs half a second, which a front end spends after its server is up."""
    for module in FRONT_ENDS:
        assert "ray" not in imported(module), module
