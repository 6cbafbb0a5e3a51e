"""Which datasets and studies the callers ask for. The same seed gives the same ones, so that they can be repeated."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_archives import BY_PLATE, picture
from studies import reduced_study
from synthmix import Client
from synthmix.api.studies.v1 import studies_pb2

CLASSES = ("alpha", "beta")
PLATES = 8
IMAGES_PER_PLATE = 2
SHARED_DATASETS = 2
# Callers choose from few settings, so that several want the same work, also at the same time.
SETTINGS = 12
STUDIES_EACH = 8
OWN_SHARE = 0.25


@dataclass(frozen=True)
class Request:
    """A study that one caller asks for. What it is made of, others' studies may need as well.

    Attributes:
        caller: Its owner's number.
        dataset: The name of its dataset.
    """

    caller: int
    dataset: str
    spec: studies_pb2.StudySpec

    @property
    def name(self) -> str:
        return self.spec.name


def shared_dataset(number: int) -> str:
    """The name of a dataset that all callers use and none deletes."""
    return f"shared-{number}"


def own_dataset(caller: int) -> str:
    """The name of a dataset that one caller uses, and deletes now and then."""
    return f"own-{caller}"


def dataset_names(callers: int) -> list[str]:
    return [*map(shared_dataset, range(SHARED_DATASETS)), *map(own_dataset, range(callers))]


def requests_of(seed: int, caller: int, base_model: Path, count: int = STUDIES_EACH) -> list[Request]:
    """The studies of a caller: tiny ones, most of which consist of what other callers' studies consist of as well.

    Only the claim's margin is a caller's own, and with it the evaluation and the study.
    """
    rng = random.Random(f"{seed} requests {caller}")
    found = []
    for number in rng.sample(range(SETTINGS), min(count, SETTINGS)):
        own = rng.random() < OWN_SHARE
        settings = _settings(seed, number, base_model)
        dataset = own_dataset(caller) if own else shared_dataset(number % SHARED_DATASETS)
        settings["claim"] = {"margin": round(0.02 + 0.001 * caller, 3)}
        found.append(Request(caller, dataset, reduced_study(f"soak-{caller}-{number}", dataset, **settings)))
    return found


def _settings(seed: int, number: int, base_model: Path) -> dict[str, Any]:
    """One of the settings that studies choose from; their adapters and image sets are fewer."""
    rng = random.Random(f"{seed} settings {number}")
    return {
        "split": {"test": 0.25, "validation": 0.25, "seed": rng.randrange(2)},
        "adapters": {
            "base_model": str(base_model),
            "rank": rng.choice((2, 4)),
            "images_seen": 64,
            "batch_size": 8,
            "image_size": 32,
        },
        "synthesis": {"prompt": "an image of {label} cells", "steps": 2, "seed": rng.randrange(2)},
        "mixtures": {"ratios": [0, rng.choice((0.25, 0.5))]},
        "classifier": {
            "architecture": "test_efficientnet",
            "pretrained": False,
            "image_size": 32,
            "epochs": 1,
            # No two have the same: each number is another study.
            "learning_rate": 1e-3 * (1 + number),
            "batch_size": 8,
        },
        "seeds": 1,
    }


def write_images(folder: Path, name: str) -> Path:
    """The images of the dataset of that name, as a folder of class folders. No two datasets have one in common."""
    rng = random.Random(f"images of {name}")
    for label in CLASSES:
        (folder / name / label).mkdir(parents=True, exist_ok=True)
        for plate in range(PLATES):
            for number in range(IMAGES_PER_PLATE):
                path = folder / name / label / f"plate-{plate}_{number}.png"
                path.write_bytes(picture(rng.getrandbits(32)))
    return folder / name


def import_images(client: Client, folder: Path, name: str) -> str:
    """Imports the dataset of that name, from what write_images wrote, and returns what it is called in storage."""
    return str(client.import_dataset(folder / name, name, group=BY_PLATE, simulated=True).name)
