"""Rows of the report's tables, worked out from the trials."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from synthmix.api.evaluations.v1.evaluations_pb2 import (
    Fidelity,
    FidelityMeasure,
    MeasuredValue,
    Metric,
    MixtureResult,
    SourceFidelity,
    TrialResult,
)
from synthmix.study_control.report.data import ReportData

# Of the measures of fidelity, those that stand beside the kernel distance and the near copies. The others are folded.
SHOWN_MEASURES = ("precision", "recall", "class_consistency")


@dataclass(frozen=True)
class Spread:
    """A metric over seeds; None where a seed has no value, the deviation also where there is one seed."""

    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class MixtureRow:
    """One row of the table of mixtures."""

    result: MixtureResult
    real_images: int
    synthetic_images: int
    # Those of `other_metrics`, in their order.
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
    images: int
    real: float | None
    chosen: float | None


@dataclass(frozen=True)
class MeasuredRow:
    """A source's values, of all images or of a class, in the order of the measures; None of too few images."""

    source: str
    # Empty for all.
    class_name: str
    values: tuple[MeasuredValue | None, ...]


def synthetic_images(data: ReportData) -> int:
    """How many images there are, made or imported. What a selection keeps is not made anew."""
    return sum(sum(image_set.images.values()) for image_set in data.image_sets if image_set.selection is None)


def mixture_rows(data: ReportData) -> list[MixtureRow]:
    """One row a mixture, in the order of the comparison."""
    rows = []
    for result in data.comparison.mixtures:
        trials = trials_of(data, result.mixture.key)
        rows.append(
            MixtureRow(
                result=result,
                real_images=trials[0].training.real_images,
                synthetic_images=trials[0].training.synthetic_images,
                metrics=tuple(
                    spread([trial.test_metrics.get(metric.name) for trial in trials]) for metric in other_metrics(data)
                ),
            )
        )
    return rows


def other_metrics(data: ReportData) -> list[Metric]:
    """All but balanced accuracy, which the comparison tells with its interval."""
    return [metric for metric in data.metrics if metric.name != "balanced_accuracy"]


def trials_of(data: ReportData, key: str) -> list[TrialResult]:
    """A mixture's trials by seed."""
    own = [trial for trial in data.trials if trial.training.mixture == key]
    return sorted(own, key=lambda trial: trial.training.seed)


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and standard deviation (n - 1) over seeds."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Spread(None, None)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def confusion_rows(data: ReportData, key: str) -> list[ConfusionRow]:
    """A mixture's confusion matrix, summed over its seeds."""
    trials = trials_of(data, key)
    rows = []
    for index, class_name in enumerate(data.class_names):
        of_seeds = (trial.classes[index].predicted_as for trial in trials)
        counts = tuple(sum(column) for column in zip(*of_seeds, strict=True))
        total = max(sum(counts), 1)
        rows.append(ConfusionRow(class_name, counts, tuple(value / total for value in counts)))
    return rows


def recall_rows(data: ReportData, chosen: str) -> list[RecallRow]:
    """Recall of each class with real only and with the chosen mixture."""

    def recall(trials: Sequence[TrialResult], index: int) -> float | None:
        results = [trial.classes[index] for trial in trials]
        return spread([result.recall if result.HasField("recall") else None for result in results]).mean

    real_trials, chosen_trials = trials_of(data, data.comparison.reference), trials_of(data, chosen)
    return [
        RecallRow(
            class_name=class_name,
            images=real_trials[0].classes[index].images,
            real=recall(real_trials, index),
            chosen=recall(chosen_trials, index),
        )
        for index, class_name in enumerate(data.class_names)
    ]


def controls_of(data: ReportData, chosen: MixtureResult) -> list[MixtureResult]:
    """The controls that were run beside the chosen mixture: of its ratio, or without one."""
    controls = {kind.name for kind in data.comparison.kinds if kind.control}
    return [
        result
        for result in data.comparison.mixtures
        if result.mixture.kind in controls
        and (not result.mixture.HasField("ratio") or result.mixture.ratio == chosen.mixture.ratio)
    ]


def kind_label(data: ReportData, result: MixtureResult) -> str:
    """What all mixtures of its kind are called."""
    return next(kind.label for kind in data.comparison.kinds if kind.name == result.mixture.kind)


def source_name(data: ReportData, source: SourceFidelity) -> str:
    """What a row of the table of fidelity is of."""
    labels = {result.mixture.image_set: result.mixture.image_set_label for result in data.comparison.mixtures}
    return labels[source.image_set] if source.image_set else str(source.label)


def has_sources(source: SourceFidelity) -> bool:
    """Whether its images are children of train images."""
    return bool(source.HasField("near_source_share"))


def any_has_sources(fidelity: Fidelity | None) -> bool:
    """Whether an image set's images are."""
    return fidelity is not None and any(has_sources(source) for source in fidelity.sources)


def shown_measures(fidelity: Fidelity) -> list[FidelityMeasure]:
    """Those of SHOWN_MEASURES that some source has a value of."""
    measured = {value.name for source in fidelity.sources for of in source.measured for value in of.values}
    return [of for of in fidelity.measures if of.name in SHOWN_MEASURES and of.name in measured]


def value_of(source: SourceFidelity, measure: FidelityMeasure, class_name: str = "") -> MeasuredValue | None:
    """A source's value of a measure, of all images or of a class; None of too few images."""
    values = (value for of in source.measured if of.class_name == class_name for value in of.values)
    return next((value for value in values if value.name == measure.name), None)


def measured_rows(data: ReportData) -> list[MeasuredRow]:
    """Every source that was measured, first of all images, then class by class, so that the like stand together."""
    if data.fidelity is None:
        return []
    return [
        MeasuredRow(
            source_name(data, source),
            class_name,
            tuple(value_of(source, measure, class_name) for measure in data.fidelity.measures),
        )
        for class_name in ("", *data.class_names)
        for source in data.fidelity.sources
        if any(of.class_name == class_name for of in source.measured)
    ]
