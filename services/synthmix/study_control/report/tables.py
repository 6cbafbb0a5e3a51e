"""Rows of the report's tables, worked out from the trials."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from synthmix.study_control.report.data import Mixture, ReportData, Trial

# Metrics of the table of mixtures, beside balanced accuracy: field and heading.
METRICS = (
    ("accuracy", "Accuracy"),
    ("macro_f1", "Macro F1"),
    ("mcc", "MCC"),
    ("auroc", "AUROC"),
    ("ece", "ECE"),
    ("brier", "Brier"),
    ("nll", "NLL"),
)


@dataclass(frozen=True)
class Spread:
    """A metric over seeds; None where a seed has no value, the deviation also where there is one seed."""

    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class MixtureRow:
    """One row of the table of mixtures."""

    mixture: Mixture
    n_real: int
    n_synthetic: int
    seeds: int
    # In the order of METRICS.
    metrics: tuple[Spread, ...]


@dataclass(frozen=True)
class ConfusionRow:
    """A true class: counts over all seeds, and their shares of the row (0 for a class without images)."""

    class_name: str
    counts: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class RecallRow:
    """A class's mean recall over seeds, with real only and with the chosen mixture; None if untested."""

    class_name: str
    support: int
    real: float | None
    chosen: float | None


def synthetic_images(data: ReportData) -> int:
    """How many images all image sets hold."""
    return sum(sum(image_set.images.values()) for image_set in data.image_sets)


def mixture_rows(data: ReportData) -> list[MixtureRow]:
    """One row a mixture, in the order of the results."""
    rows = []
    for mixture in data.results.mixtures:
        trials = trials_of(data, mixture.identity.key)
        rows.append(
            MixtureRow(
                mixture=mixture,
                n_real=trials[0].n_real,
                n_synthetic=trials[0].n_synthetic,
                seeds=len(trials),
                metrics=tuple(spread([getattr(trial.metrics, name) for trial in trials]) for name, _ in METRICS),
            )
        )
    return rows


def trials_of(data: ReportData, key: str) -> list[Trial]:
    """A mixture's trials by seed."""
    return sorted((trial for trial in data.trials if trial.mixture == key), key=lambda trial: trial.seed)


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and standard deviation (n - 1) over seeds."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Spread(None, None)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def confusion_rows(data: ReportData, key: str) -> list[ConfusionRow]:
    """A mixture's confusion matrix, summed over its seeds."""
    matrices = [trial.metrics.confusion for trial in trials_of(data, key)]
    rows = []
    for index, class_name in enumerate(data.class_names):
        counts = tuple(sum(column) for column in zip(*(matrix[index] for matrix in matrices), strict=True))
        total = max(sum(counts), 1)
        rows.append(ConfusionRow(class_name, counts, tuple(value / total for value in counts)))
    return rows


def recall_rows(data: ReportData, chosen: str) -> list[RecallRow]:
    """Recall of each class with real only and with the chosen mixture."""
    real_trials, chosen_trials = trials_of(data, data.results.reference), trials_of(data, chosen)
    return [
        RecallRow(
            class_name=class_name,
            support=real_trials[0].metrics.per_class[index].support,
            real=spread([trial.metrics.per_class[index].recall for trial in real_trials]).mean,
            chosen=spread([trial.metrics.per_class[index].recall for trial in chosen_trials]).mean,
        )
        for index, class_name in enumerate(data.class_names)
    ]


def control_of(data: ReportData, chosen: Mixture) -> Mixture | None:
    """The control of real images duplicated to the chosen mixture's size, if it was run."""
    return next(
        (
            mixture
            for mixture in data.results.mixtures
            if mixture.identity.kind == "duplicated_real" and mixture.identity.ratio == chosen.identity.ratio
        ),
        None,
    )
