"""Is the built-in base model worth its bytes? Adapts it to images that it never saw, and measures what comes out.

Usage: ``python tests/benchmarks/base_model.py --out FOLDER [--dataset mitocheck] [--minutes 2 5 10]``.

For each dataset: what the autoencoder loses; and, of synthetic images, kernel inception distance to real test images,
the share that a classifier trained on real images only takes for the class asked for, and the share of near copies of
train images. Once for the base model as it is, and, after the same CPU minutes on the same train images, for adapters
of it ("adapted") and for the same UNet trained from nothing ("scratch"). Beside them real train images, as they are and
through the autoencoder: the second is about as near as what the base model makes can come. Features are those of an
ImageNet EfficientNet-Lite0, pooled. Two of the datasets are real and grey; the third is simulated and has colours.

Arms run two at a time on a thread each. OUT keeps each arm's images, so that a second run measures without training;
figures.json and a PNG an arm (a row a class), beside one of real train images, are the result.
"""

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from memory_object_store import MemoryObjectStore
from real_images import DATA, FIELD, MITOCHECK_SIX, PLATE
from stained_cells import SLIDE, TYPES, write_stained_cells
from synthmix.adapter_training import recipe
from synthmix.adapter_training.targets import TARGETS
from synthmix.adapter_training.training_prompts import encoded_once, prompt_embeddings
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings
from synthmix.classifier_evaluation.metrics import balanced_accuracy
from synthmix.classifier_evaluation.mixtures import Mixture
from synthmix.classifier_evaluation.recipe import TrainingImages, train_and_evaluate
from synthmix.client.packing import pack
from synthmix.image_data.pixel_cache import pixels
from synthmix.image_data.split_parts import open_split
from synthmix.image_features.distances import kernel_inception_distance, near_copy_distance, nearest_distances
from synthmix.image_features.features import compute_features
from synthmix.latent_diffusion.autoencoder import load_autoencoder, reconstruct
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from synthmix.latent_diffusion.prompts import prompt_for
from synthmix.service_kit.artifacts import read_manifest
from synthmix.service_kit.seeds import derived_seed
from synthmix.service_kit.settings_messages import with_defaults
from synthmix.study_control.image_import.importer import import_archive
from synthmix.study_control.split import create_split

NATIVE_PX = 64
SHOWN = 12
SPLIT = SplitSettings(test=0.25, validation=0.15, seed=7)
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class UnseenImages:
    """A dataset that the base model never saw."""

    group_pattern: str
    classes: tuple[str, ...]
    """Sorted, as a part's are."""
    prompt: str
    size_px: int
    """At which all is measured but the autoencoder's error, which is of native size."""
    grey: bool = True
    simulated: bool = False
    """Whether it is drawn by `stained_cells`, and not a folder of DATA."""


DATASETS = {
    "mitocheck": UnseenImages(PLATE, MITOCHECK_SIX, "a fluorescence image of a {label} nucleus", 64),
    "hek_ht1080": UnseenImages(FIELD, ("293A", "HT1080"), "a brightfield image of a {label} cell", 96),
    "stained": UnseenImages(SLIDE, tuple(sorted(TYPES)), "a stained image of a {label} cell", 64, False, True),
}


@dataclass(frozen=True)
class Arm:
    """One way to make synthetic images."""

    dataset: str
    kind: str
    """unadapted, adapted or scratch."""
    cpu_minutes: float
    """What the training may cost at most; 0 for unadapted."""
    targets: str = "attention+feedforward+convolution"
    rank: int = 16
    learning_rate: float = 6e-3
    guidance_scale: float = 2.0
    per_class: int = 50

    @property
    def name(self) -> str:
        if self.kind == "unadapted":
            return f"{self.dataset}-unadapted"
        return f"{self.dataset}-{self.kind}-{self.cpu_minutes:g}min"


def prepare(name: str, path: Path) -> None:
    """Imports and splits a dataset as a study would, and writes its pixels and labels by part."""
    dataset, store = DATASETS[name], MemoryObjectStore.created()
    with tempfile.TemporaryDirectory() as folder:
        source = DATA / name
        if dataset.simulated:
            source = Path(folder) / name
            write_stained_cells(source, size_px=dataset.size_px)
        archive = pack(source, Path(folder) / "images.zip", progress=lambda done, total: None)
        imported = import_archive(
            store,
            archive.path,
            group_rule=datasets_pb2.GroupRule(pattern=dataset.group_pattern),
            classes=dataset.classes,
            simulated=dataset.simulated,
            progress=lambda done, total: None,
        )
    split = create_split(store, read_manifest(store, imported.name), SPLIT)
    arrays: dict[str, np.ndarray] = {}
    for kind, part in zip(PARTS, open_split(store, str(split), field="split"), strict=True):
        arrays[kind] = np.array(pixels(store, part, dataset.size_px))
        arrays[f"{kind}_native"] = np.array(pixels(store, part, NATIVE_PX))
        arrays[f"{kind}_labels"] = np.array(part.labels)
    np.savez(path, **arrays)


def run_arm(arm: Arm, data: Path, out: Path) -> None:
    """Trains, if the arm does, and samples; writes OUT/<name>.npz and OUT/<name>.json."""
    torch.set_num_threads(1)
    dataset, real = DATASETS[arm.dataset], np.load(data)
    model = load(BUILTIN_FOLDER, torch.device("cpu"))
    facts: dict[str, Any] = asdict(arm)
    if arm.kind != "unadapted":
        facts |= train_arm(arm, model, real["train"], real["train_labels"])
    prompts = [prompt_for(dataset.prompt, label) for label in dataset.classes for _ in range(arm.per_class)]
    images = []
    for start in range(0, len(prompts), 16):
        batch = prompts[start : start + 16]
        images.append(
            model.pipeline(
                batch,
                height=dataset.size_px,
                width=dataset.size_px,
                num_inference_steps=20,
                guidance_scale=arm.guidance_scale,
                generator=[
                    torch.Generator().manual_seed(derived_seed(0, "benchmark image", start + index))
                    for index in range(len(batch))
                ],
                output_type="np",
            ).images
        )
    made = np.concatenate(images)
    if dataset.grey:
        made = np.repeat(made.mean(axis=-1, keepdims=True), 3, axis=-1)
    levels = np.clip(np.rint(255 * made), 0, 255).astype(np.uint8)
    labels = np.repeat(np.arange(len(dataset.classes)), arm.per_class)
    np.savez(out / f"{arm.name}.npz", images=levels, labels=labels)
    show(levels, labels, out / f"{arm.name}.png")
    (out / f"{arm.name}.json").write_text(json.dumps(facts, indent=1))


def show(images: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Writes some images (N, H, H, 3), uint8, of each class, a row a class."""
    rows = [np.hstack(list(images[labels == label][:SHOWN])) for label in range(labels.max() + 1)]
    Image.fromarray(np.vstack(rows)).save(path)


def train_arm(arm: Arm, model: LatentDiffusion, train: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Trains for the arm's CPU minutes, with latents included in them, and returns what that was."""
    prompt, classes = DATASETS[arm.dataset].prompt, DATASETS[arm.dataset].classes
    prompts = encoded_once(model, prompt_embeddings(model, [prompt], classes))
    started_s = time.process_time()
    latents = recipe.cache_latents(model, train, labels, 1)
    view_s = time.process_time() - started_s

    def settings(steps: int) -> AdapterSettings:
        return with_defaults(
            AdapterSettings(
                rank=arm.rank,
                alpha=arm.rank,
                targets=arm.targets,
                images_seen=16 * steps,
                batch_size=16,
                learning_rate=arm.learning_rate,
                learning_rate_schedule="cosine",
            )
        )

    ended_s: list[float] = []  # when each step did

    def train_steps(steps: int) -> recipe.TrainingState:
        if arm.kind == "adapted":
            state = recipe.set_up(model, settings(steps))
        else:
            torch.manual_seed(1)
            model.pipeline.unet = UNet2DConditionModel.from_config(model.unet.config)
            parameters = dict(model.unet.named_parameters())
            optimizer = torch.optim.AdamW(list(parameters.values()), lr=arm.learning_rate, betas=(0.9, 0.99))
            state = recipe.TrainingState(0, parameters, optimizer, [])
        recipe.train(model, state, settings(steps), latents, prompts, lambda state: ended_s.append(time.process_time()))
        return state

    # The learning rate's schedule needs the number of steps beforehand: a short training tells what one costs.
    # Its first steps take longer, and later ones vary by a tenth or two: so a tenth of the time is kept back.
    train_steps(70)
    step_s = (ended_s[-1] - ended_s[9]) / 60
    if arm.kind == "adapted":
        model.unet.delete_adapters(["default"])
    views, steps = views_and_steps(0.9 * 60 * arm.cpu_minutes, view_s, step_s, len(train))
    started_s = time.process_time()
    latents = recipe.cache_latents(model, train, labels, views)
    state = train_steps(steps)
    spent_s = time.process_time() - started_s
    return {
        "steps": steps,
        "views": views,
        "spent_cpu_minutes": spent_s / 60,
        "parameters": sum(value.numel() for value in state.parameters.values()),
        "loss": float(np.mean(state.losses[-100:])),
    }


def views_and_steps(budget_s: float, view_s: float, step_s: float, images: int) -> tuple[int, int]:
    """How many views to encode and steps of 16 to take in so many seconds; a view an epoch, as an adapter's task."""
    for views in range(1, recipe.MOST_VIEWS + 1):
        steps = math.floor((budget_s - views * view_s) / step_s)
        if 16 * steps <= views * images:
            break
    return views, steps


def autoencoder_figures(real: np.ndarray, through: np.ndarray) -> dict[str, float]:
    """Of images (N, H, H, 3), uint8, and what the autoencoder makes of them.

    Mean over images of the peak signal-to-noise ratio, dB: the autoencoder's, and that of the image's mean colour; and
    the mean chroma, which is the largest channel less the smallest, of 255.
    """

    def psnr_db(guess: np.ndarray) -> float:
        return float((10 * np.log10(255**2 / ((guess - real.astype(float)) ** 2).mean(axis=(1, 2, 3)))).mean())

    def chroma(images: np.ndarray) -> float:
        return float((images.max(axis=-1).astype(float) - images.min(axis=-1)).mean())

    return {
        "psnr_db": psnr_db(through),
        "psnr_of_mean_colour_db": psnr_db(real.mean(axis=(1, 2), keepdims=True)),
        "chroma": chroma(real),
        "chroma_through": chroma(through),
    }


def balanced_rows(labels: np.ndarray) -> np.ndarray:
    """Rows of which each class has as many as the rarest: synthetic images are balanced, and KID sees proportions."""
    count = np.bincount(labels).min()
    return np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(labels.max() + 1)])


def measure(name: str, data: Path, out: Path, arms: Sequence[Arm]) -> dict[str, Any]:
    """Figures of a dataset: of the autoencoder, of the real images, and of every arm."""
    torch.set_num_threads(2)
    real = np.load(data)
    test, test_labels = real["test"], real["test_labels"]
    show(real["train"], real["train_labels"], out / f"{name}-real.png")
    synthetic = {arm.name: np.load(out / f"{arm.name}.npz") for arm in arms}
    settings = with_defaults(ClassifierSettings(image_size=DATASETS[name].size_px))
    labels = real["train_labels"]
    nothing = np.empty(0, dtype=np.int64)
    made = [arrays["images"] for arrays in synthetic.values()]
    result = train_and_evaluate(
        settings,
        len(DATASETS[name].classes),
        TrainingImages(Mixture(np.arange(len(labels)), nothing, labels), real["train"], None),
        real["validation"],
        real["validation_labels"],
        lambda: np.concatenate([test, *made]),
        seed=0,
        threads=2,
        report=lambda steps: None,
    )
    probabilities = np.split(result.test_probabilities, np.cumsum([len(test), *map(len, made)])[:-1].tolist())
    predicted = [rows.argmax(axis=1) for rows in probabilities]
    train_features, test_features = compute_features(real["train"]), compute_features(test)
    reference = test_features[balanced_rows(test_labels)]
    train = real["train"][balanced_rows(labels)]
    autoencoder, grey = load_autoencoder(BUILTIN_FOLDER), DATASETS[name].grey
    native = np.concatenate([real[f"{part}_native"] for part in PARTS])
    accuracy = balanced_accuracy(probabilities[0], test_labels)
    near = near_copy_distance(nearest_distances(test_features, train_features), 1.0)
    figures: dict[str, Any] = {
        "images": {part: len(real[part]) for part in PARTS},
        "autoencoder": autoencoder_figures(native, reconstruct(autoencoder, native, grey=grey)),
        "real": {
            "balanced_accuracy": accuracy,
            "kid": kernel_inception_distance(train_features[balanced_rows(labels)], reference),
            "kid_through_autoencoder": kernel_inception_distance(
                compute_features(reconstruct(autoencoder, train, grey=grey)), reference
            ),
        },
    }
    for arm, answer in zip(arms, predicted[1:], strict=True):
        wanted, found = synthetic[arm.name]["labels"], compute_features(synthetic[arm.name]["images"])
        figures[arm.name] = json.loads((out / f"{arm.name}.json").read_text()) | {
            "kid": kernel_inception_distance(found, reference),
            "class_consistency": float((answer == wanted).mean()),
            "consistency_by_class": {
                label: float((answer[wanted == index] == index).mean())
                for index, label in enumerate(DATASETS[name].classes)
            },
            "memorised_share": float((nearest_distances(found, train_features) < near).mean()),
        }
    return figures


def table(name: str, figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    real, autoencoder = figures["real"], figures["autoencoder"]
    lines = [
        f"{name}: autoencoder {autoencoder['psnr_db']:.1f} dB "
        f"(mean colour {autoencoder['psnr_of_mean_colour_db']:.1f} dB), "
        f"chroma {autoencoder['chroma']:.1f} to {autoencoder['chroma_through']:.1f}; "
        f"classifier's balanced accuracy {real['balanced_accuracy']:.3f}; "
        f"real train to real test images: KID {real['kid']:.4f}, "
        f"through the autoencoder {real['kid_through_autoencoder']:.4f}",
        "",
        "| images | steps | KID | class consistency | of real accuracy | memorised |",
        "|---|---|---|---|---|---|",
    ]
    for arm, row in figures.items():
        if arm.startswith(name):
            consistency, of_real = row["class_consistency"], real["balanced_accuracy"]
            lines.append(
                f"| {arm.removeprefix(name + '-')} | {row.get('steps', '')} | {row['kid']:.4f} | {consistency:.3f} | "
                f"{consistency / of_real:.2f} | {row['memorised_share']:.1%} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", choices=DATASETS, nargs="+", default=list(DATASETS))
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5, 10], help="CPU minutes of each training")
    parser.add_argument("--kind", choices=("adapted", "scratch"), nargs="*", default=["adapted", "scratch"])
    parser.add_argument("--targets", choices=TARGETS, default=Arm.targets)
    parser.add_argument("--rank", type=int, default=Arm.rank)
    parser.add_argument("--learning-rate", type=float, default=Arm.learning_rate, help="of adapters")
    parser.add_argument("--scratch-learning-rate", type=float, default=1e-3, help="of the UNet trained from nothing")
    parser.add_argument("--guidance-scale", type=float, default=Arm.guidance_scale)
    parser.add_argument("--per-class", type=int, default=Arm.per_class)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    arms = [
        Arm(
            dataset,
            kind,
            minutes,
            arguments.targets,
            arguments.rank,
            arguments.scratch_learning_rate if kind == "scratch" else arguments.learning_rate,
            arguments.guidance_scale,
            arguments.per_class,
        )
        for dataset in arguments.dataset
        for kind, minutes in [
            ("unadapted", 0.0),
            *((kind, minutes) for minutes in sorted(arguments.minutes, reverse=True) for kind in arguments.kind),
        ]
    ]
    for dataset in arguments.dataset:
        if not (out / f"{dataset}.npz").exists():
            prepare(dataset, out / f"{dataset}.npz")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        running = {
            arm.name: processes.submit(run_arm, arm, out / f"{arm.dataset}.npz", out)
            for arm in arms
            if not (out / f"{arm.name}.json").exists()
        }
        for done, (name, future) in enumerate(running.items()):
            future.result()
            print(f"{done + 1}/{len(running)} {name}", flush=True)
    results = {}
    for dataset in arguments.dataset:
        own = [arm for arm in arms if arm.dataset == dataset]
        results[dataset] = measure(dataset, out / f"{dataset}.npz", out, own)
        print(f"\n{table(dataset, results[dataset])}", flush=True)
        (out / "figures.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
