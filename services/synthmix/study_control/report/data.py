"""What a report says, as plain values: everything the pages need and nothing that has to be looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

MixtureKind = Literal["real", "mixed", "synthetic_only", "duplicated_real"]
VerdictKind = Literal["improves", "harms", "equivalent", "inconclusive"]
Mode = Literal["append", "share", "replace", "sample", "pretrain"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Study:
    """Whose report it is."""

    name: str
    # studies/{digest}
    id: str
    # With a time zone.
    created_at: datetime
    # The specification as its user would write it, defaults filled in.
    spec_yaml: str


@dataclass(frozen=True)
class SplitPart:
    """Real images of one part of the split."""

    name: Literal["train", "validation", "test"]
    groups: int
    # Images of each class.
    images: Mapping[str, int]


@dataclass(frozen=True)
class Dataset:
    """The real images."""

    display_name: str
    digest: str
    # Made by a simulator: said in a banner.
    simulated: bool
    # How groups are known, such as 'column "chip"'; None if the user stated that there are none.
    group_rule: str | None
    # train, validation, test
    parts: tuple[SplitPart, ...]
    # Of the import, such as near-duplicates.
    warnings: tuple[str, ...]
    # Files of the source that aren't images of the dataset: a sentence for each folder and reason.
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A digest that the results rest on."""

    # dataset, split, base model, adapter, image set, evaluation, ...
    kind: str
    name: str
    digest: str


@dataclass(frozen=True)
class LossPoint:
    """A point of a training's loss curve."""

    images_seen: int
    loss: float


@dataclass(frozen=True)
class Adapter:
    """One adapter's training."""

    name: str
    method: str
    rank: int
    targets: str
    images_seen: int
    parameter_count: int
    final_loss: float
    # In order of images seen; may be empty.
    loss_curve: tuple[LossPoint, ...]
    seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class ImageSet:
    """One set of synthetic images."""

    name: str
    # The adapter's name.
    adapter: str
    # Images of each class.
    images: Mapping[str, int]
    prompt: str
    steps: int
    guidance_scale: float
    seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class SyntheticExample:
    """A synthetic image beside the real train image that is nearest to it."""

    png: bytes
    nearest_real_png: bytes
    nearest_real_distance: float


@dataclass(frozen=True)
class Gallery:
    """Examples of one class from one image set."""

    # The image set's name.
    image_set: str
    class_name: str
    examples: tuple[SyntheticExample, ...]


@dataclass(frozen=True)
class Estimate:
    """A balanced accuracy (0 to 1) or a difference of two (-1 to 1), over seeds."""

    mean: float
    # (low, high); None if none could be computed.
    interval: tuple[float, float] | None
    per_seed: tuple[float, ...]
    # Share of the variance that comes from the seeds, 0 to 1; the rest is the test groups'.
    seed_share: float


@dataclass(frozen=True)
class MixtureIdentity:
    """Which mixture a key of the statistics means."""

    key: str
    # Such as "append 25 % with lora-r4".
    label: str
    kind: MixtureKind
    # None for synthetic_only, 0 for real.
    ratio: float | None
    # The image set's name; None for mixtures of real images only.
    image_set: str | None


@dataclass(frozen=True)
class Mixture:
    """A mixture and what it scored on the test part."""

    identity: MixtureIdentity
    validation_balanced_accuracy: float
    balanced_accuracy: Estimate
    # From real only, paired; None for real only itself.
    difference: Estimate | None


@dataclass(frozen=True)
class Verdict:
    """What the study claims."""

    kind: VerdictKind
    # Key of the mixture that validation chose.
    key: str
    sentence: str


@dataclass(frozen=True)
class Results:
    """Statistics over the grid."""

    mode: Mode
    # Key of real only.
    reference: str
    confidence: float
    margin: float
    seeds: int
    test_images: int
    test_groups: int
    resampled: Literal["group", "image"]
    resamples: int
    mixtures: tuple[Mixture, ...]
    verdict: Verdict | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ClassMetrics:
    """One class on the test part."""

    class_name: str
    # None if the class was never predicted.
    precision: float | None
    # None if the class has no test image.
    recall: float | None
    # Test images.
    support: int


@dataclass(frozen=True)
class Metrics:
    """One classifier on the test part."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    mcc: float
    # None if undefined: a class without test images.
    auroc: float | None
    ece: float
    brier: float
    nll: float
    # In the order of class_names.
    per_class: tuple[ClassMetrics, ...]
    # Test images by true class (row) and predicted class (column).
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Trial:
    """One classifier: a mixture and a seed."""

    mixture: str
    seed: int
    n_real: int
    n_synthetic: int
    optimizer_steps: int
    best_epoch: int
    metrics: Metrics


@dataclass(frozen=True)
class LeakageCheck:
    """One leakage rule, and whether it held."""

    statement: str
    held: bool


@dataclass(frozen=True)
class StepCost:
    """What one kind of step cost. Reused tasks were done before, and cost nothing here."""

    name: str
    tasks: int
    reused_tasks: int
    seconds: float
    gpu_seconds: float
    # None if it wasn't predicted.
    predicted_seconds: float | None


@dataclass(frozen=True)
class Provenance:
    """What the numbers were made from and with."""

    artifacts: tuple[Artifact, ...]
    # Recipe to version, such as "adapter training": "1".
    recipes: Mapping[str, str]
    # Package to version.
    software: Mapping[str, str]


@dataclass(frozen=True)
class ReportData:
    """Everything in a report."""

    study: Study
    dataset: Dataset
    class_names: tuple[str, ...]
    base_model: str
    adapters: tuple[Adapter, ...]
    image_sets: tuple[ImageSet, ...]
    galleries: tuple[Gallery, ...]
    # Real train images of each class as PNG, beside the galleries; classes may be absent.
    real_examples: Mapping[str, tuple[bytes, ...]]
    # What nearest_real_distance measures, such as "Euclidean distance of grey pixels".
    nearest_distance: str
    # Setting to value, such as "architecture": "tf_efficientnet_lite0".
    classifier: Mapping[str, str]
    results: Results
    trials: tuple[Trial, ...]
    leakage: tuple[LeakageCheck, ...]
    costs: tuple[StepCost, ...]
    provenance: Provenance
    # Of the study, beside the dataset's and the statistics' own.
    warnings: tuple[str, ...]


def results_from_statistics(
    statistics: Mapping[str, Any], identities: Sequence[MixtureIdentity], mode: Mode
) -> Results:
    """Reads the statistics that an evaluation stored.

    Args:
        statistics: The JSON of `synthmix.classifier_evaluation.paired_comparison.Comparison`.
        identities: Of exactly the mixtures that the statistics hold; the report shows them in this order.
        mode: How ratios were mixed.

    Returns:
        The same numbers, each mixture with its identity.

    Raises:
        ValueError: A field is missing, or identities and statistics don't hold the same keys.
    """
    try:
        rows = {row["key"]: row for row in statistics["mixtures"]}
        keys = [identity.key for identity in identities]
        if sorted(keys) != sorted(rows):
            raise ValueError(f"identities are of {sorted(keys)}, the statistics of {sorted(rows)}: give the same")
        verdict = statistics["verdict"]
        return Results(
            mode=mode,
            reference=statistics["reference"],
            confidence=statistics["confidence"],
            margin=statistics["margin"],
            seeds=statistics["seeds"],
            test_images=statistics["test_images"],
            test_groups=statistics["test_groups"],
            resampled=statistics["resampled"],
            resamples=statistics["resamples"],
            mixtures=tuple(
                Mixture(
                    identity=identity,
                    validation_balanced_accuracy=rows[identity.key]["validation_balanced_accuracy"],
                    balanced_accuracy=_estimate(rows[identity.key]["balanced_accuracy"]),
                    difference=None
                    if rows[identity.key]["difference"] is None
                    else _estimate(rows[identity.key]["difference"]),
                )
                for identity in identities
            ),
            verdict=None
            if verdict is None
            else Verdict(kind=verdict["kind"], key=verdict["key"], sentence=verdict["sentence"]),
            warnings=tuple(statistics["warnings"]),
        )
    except KeyError as error:
        raise ValueError(f"statistics lacks the field {error}: evaluate again with this version") from error


def check(data: ReportData) -> None:
    """Refuses data that don't fit together, before a page is made of them.

    Raises:
        ValueError: Naming what doesn't fit.
    """
    keys = [mixture.identity.key for mixture in data.results.mixtures]
    with_trials = {trial.mixture for trial in data.trials}
    for key in [*sorted(with_trials), data.results.reference, *_chosen(data.results)]:
        if key not in keys:
            raise ValueError(f"{key!r} is no mixture of results: use one of {', '.join(keys)}")
    for key in keys:
        if key not in with_trials:
            raise ValueError(f"trials has none of mixture {key!r}: give every trial of the grid")
    classes = len(data.class_names)
    for trial in data.trials:
        shape = [len(row) for row in trial.metrics.confusion]
        if shape != [classes] * classes or len(trial.metrics.per_class) != classes:
            raise ValueError(
                f"metrics of mixture {trial.mixture!r}, seed {trial.seed} have confusion rows of {shape} and "
                f"{len(trial.metrics.per_class)} classes: give {classes} by {classes} and {classes}"
            )
    image_sets = {image_set.name for image_set in data.image_sets}
    for gallery in data.galleries:
        if gallery.image_set not in image_sets or gallery.class_name not in data.class_names:
            raise ValueError(
                f"a gallery is of image set {gallery.image_set!r}, class {gallery.class_name!r}: use names "
                "in image_sets and class_names"
            )
    if data.study.created_at.tzinfo is None:
        raise ValueError(f"created_at is {data.study.created_at}, without a time zone: give one that has it")
    images = [png for pngs in data.real_examples.values() for png in pngs]
    for gallery in data.galleries:
        images += [png for example in gallery.examples for png in (example.png, example.nearest_real_png)]
    if not all(png.startswith(_PNG_SIGNATURE) for png in images):
        raise ValueError("an example image is no PNG: encode each as PNG")


def _chosen(results: Results) -> list[str]:
    """The key that the verdict is about, if there is a verdict."""
    return [results.verdict.key] if results.verdict else []


def _estimate(row: Mapping[str, Any]) -> Estimate:
    """Reads an estimate of the statistics."""
    return Estimate(
        mean=row["mean"],
        interval=(row["low"], row["high"]),
        per_seed=tuple(row["per_seed"]),
        seed_share=row["seed_share"],
    )
