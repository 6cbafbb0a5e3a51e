"""A small study over the memory object store: striped pictures, an image set, and evaluations run in this process.

It takes the services' own code, and only Ray's place: tasks run one after the other where they are asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from image_archives import dataset, encoded, noise
from in_process_tasks import InProcessTasks
from memory_object_store import MemoryObjectStore
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings
from synthmix.classifier_evaluation import planning
from synthmix.classifier_evaluation.evaluation_operation import FIDELITY, TRIAL, TRY_NETWORK, run
from synthmix.classifier_evaluation.feature_networks import FeatureNetwork
from synthmix.classifier_evaluation.image_fidelity import measure_fidelity
from synthmix.classifier_evaluation.mixtures import TrialSpec
from synthmix.classifier_evaluation.network_features import try_network
from synthmix.classifier_evaluation.trials import evaluate_trial
from synthmix.image_data.image_table import SOURCES, ImageTableWriter
from synthmix.image_data.split_parts import open_split
from synthmix.latent_diffusion import base_model
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import MANIFEST, Manifest, list_artifacts, read_manifest, write_manifest
from synthmix.service_kit.environment import CLASSIFIER_EVALUATION
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.settings_messages import from_canonical
from synthmix.study_control.split import create_split

TINY = ClassifierSettings(
    architecture="test_efficientnet",
    pretrained=False,
    image_size=32,
    match="steps",
    epochs=3,
    batch_size=8,
    learning_rate=1e-3,
    augmentation=True,
)
ADAPTER, IMAGE_SET = "e" * 32, "a" * 32
CLASSES = ("narrow", "wide")


def stripes(label: int, seed: int, side: int = 32) -> np.ndarray:
    """A noisy picture of stripes, (side, side) uint8: wide ones are class 0, narrow ones class 1."""
    rows = np.arange(side) + seed % 7
    wave = 40 * np.sign(np.sin(2 * np.pi * rows / (16, 6)[label]))[:, None]
    return np.clip(128 + wave + noise(seed, side, side).astype(float) / 4 - 32, 0, 255).astype(np.uint8)


def striped_store(folder: Path) -> MemoryObjectStore:
    """A store with a split of striped pictures of eight plates, and an image set made for it."""
    store = MemoryObjectStore.created()
    files = {
        f"{name}/plate-{plate}_{number}.png": encoded(stripes(label, 1000 * label + 10 * plate + number))
        for label, name in enumerate(CLASSES)
        for plate in range(8)
        for number in range(3)
    }
    create_split(store, dataset(store, folder, files), SplitSettings(test=0.25, validation=0.25, seed=0))
    train, _, _ = open_split(store, split_of(store), field="split")
    inputs = {"train_split": train.digest, "base_model": base_model.resolve("builtin", field="base_model").digest}
    write_manifest(
        store,
        Manifest(
            ArtifactName("adapters", ADAPTER),
            inputs,
            {"settings": {"rank": 4}},
            1,
            (),
            summary={"base_model": "builtin", "grey": True},
        ),
    )
    pictures = [
        (name, encoded(stripes(label, 5000 + 100 * label + number)))
        for label, name in enumerate(CLASSES)
        for number in range(20)
    ]
    write_image_set(store, pictures)
    return store


def write_image_set(
    store: MemoryObjectStore,
    pictures: Sequence[tuple[str, bytes]],
    image_set: str = IMAGE_SET,
    *,
    sources: Sequence[Sequence[str]] | None = None,
) -> None:
    """Writes an image set of these labels and PNGs, in the place of one that is there.

    Args:
        sources: The sha256s of the train images that each is a child of.
    """
    name = ArtifactName("image-sets", image_set)
    store.delete(f"{name}/{MANIFEST}")
    table = ImageTableWriter(store, name)
    for index, (label, png) in enumerate(pictures):
        of_image = {} if sources is None else {SOURCES: list(sources[index])}
        table.add(png, label=label, prompt="", seed=0, index=index, **of_image)
    class_images = dict.fromkeys(CLASSES, len(pictures) // len(CLASSES))
    request = {"settings": {}, "adapter": ADAPTER, "class_images": class_images}
    summary = {} if sources is None else {SOURCES: True}
    write_manifest(store, Manifest(name, {"adapter": ADAPTER}, request, 1, tuple(table.close()), summary))


def split_of(store: MemoryObjectStore) -> str:
    [name] = list_artifacts(store, "splits")
    return str(name)


def run_trial(store: MemoryObjectStore, split: str, trial: TrialSpec, settings: dict[str, Any], gpus: float) -> str:
    classifier = from_canonical(settings, ClassifierSettings)
    return str(evaluate_trial(store, split, trial, classifier, report=lambda steps: None, threads=1, gpus=gpus))


def measure(store: MemoryObjectStore, split: str, image_sets: Sequence[str], network: FeatureNetwork) -> dict[str, Any]:
    return message_json.to_value(measure_fidelity(store, split, image_sets, network))


def trial_of_network(store: MemoryObjectStore, network: FeatureNetwork) -> None:
    try_network(network, lambda seen: None, 1)


TASKS: dict[str, Callable[..., Any]] = {TRIAL: run_trial, FIDELITY: measure, TRY_NETWORK: trial_of_network}


@dataclass
class InProcessContext:
    """An operation's context whose tasks run at once; it counts them, and what they are said to make."""

    store: MemoryObjectStore
    record: Any
    service: str = CLASSIFIER_EVALUATION
    tasks_run: list[str] = field(default_factory=list)
    makes: list[str] = field(default_factory=list)
    reused: int = 0
    worker_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def update(self, **fields: Any) -> None:
        pass

    def note_reused(self, units: int) -> None:
        self.reused = units

    def raise_if_cancelled(self) -> None:
        pass

    @contextmanager
    def tasks(self) -> Iterator[InProcessTasks]:
        yield InProcessTasks(self._run, self.makes)

    def _run(self, function: str, keywords: Mapping[str, Any]) -> Any:
        self.tasks_run.append(function)
        return TASKS[function](self.store, **keywords)


def evaluate(
    store: MemoryObjectStore,
    *,
    image_sets: Sequence[str] = (IMAGE_SET,),
    measures: Mapping[str, Any] | None = None,
    **mixtures: Any,
) -> tuple[Manifest, InProcessContext]:
    """Evaluates a grid of two seeds on the store's split, and returns the evaluation and what it ran."""
    request = evaluations_pb2.Evaluation(
        split=split_of(store),
        image_sets=[f"image-sets/{image_set}" for image_set in image_sets],
        mixtures=evaluations_pb2.MixtureSettings(**mixtures),
        classifier=evaluations_pb2.ClassifierSettings(
            architecture=TINY.architecture, pretrained=False, image_size=32, epochs=3, batch_size=8
        ),
        seeds=2,
        measures=evaluations_pb2.MeasureSettings(**(measures or {})),
    )
    planned = planning.plan(store, request, validate_only=False)
    record = SimpleNamespace(
        request={"request": planned.request, "names": planned.names}, target=f"evaluations/{planned.id}"
    )
    context = InProcessContext(store, record)
    return read_manifest(store, run(context)), context  # type: ignore[arg-type]
