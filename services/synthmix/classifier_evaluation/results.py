"""What an evaluation says of its grid, computed from the predictions that the trials stored. It trains nothing."""

from collections.abc import Mapping, Sequence

import numpy as np

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation import paired_comparison
from synthmix.classifier_evaluation.metrics import balanced_accuracy, class_results, compute_metrics, metric_messages
from synthmix.classifier_evaluation.mixtures import MixtureSpec, TrialSpec
from synthmix.image_data.generators import image_set_names
from synthmix.image_data.mixture_kinds import KINDS, REAL, SYNTHETIC_ONLY, kind_message
from synthmix.image_data.trial_files import StoredTrial
from synthmix.service_kit.artifacts import read_manifest
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import IMAGE_SETS, ArtifactName


def trial_results(trials: Sequence[StoredTrial]) -> evaluations_pb2.TrialResults:
    """Every metric of every trial."""
    return evaluations_pb2.TrialResults(
        metrics=metric_messages(),
        trials=[
            evaluations_pb2.TrialResult(
                trial=str(trial.manifest.name),
                training=trial.training,
                test_metrics=compute_metrics(trial.test.probabilities, trial.test.labels),
                validation_metrics=compute_metrics(trial.validation.probabilities, trial.validation.labels),
                classes=class_results(trial.test.probabilities, trial.test.labels, tuple(trial.training.classes)),
            )
            for trial in trials
        ],
    )


def compare_trials(
    store: ObjectStore, trials: Mapping[TrialSpec, StoredTrial], claim: evaluations_pb2.ClaimSettings
) -> evaluations_pb2.Comparison:
    """Every mixture against real only, and the verdict.

    Args:
        store: Object storage, where the image sets tell what they are.
        trials: The whole grid, mixture by mixture, in the order of seeds.
        claim: With its defaults.
    """
    mixtures = list(dict.fromkeys(trial.mixture for trial in trials))
    messages = mixture_messages(store, mixtures)
    first = next(iter(trials.values()))
    compared = []
    for mixture in mixtures:
        own = [stored for trial, stored in trials.items() if trial.mixture == mixture]
        if any(stored.test.sha256s != first.test.sha256s for stored in own):
            raise AssertionError(f"trials of {mixture.key} were evaluated on other test images")
        compared.append(
            paired_comparison.MixturePredictions(
                messages[mixture],
                np.stack([stored.test.predicted for stored in own]),
                np.array(
                    [balanced_accuracy(stored.validation.probabilities, stored.validation.labels) for stored in own]
                ),
            )
        )
    [reference] = [mixture.key for mixture in mixtures if mixture.kind == REAL]
    comparison = paired_comparison.compare(
        first.test.labels,
        first.test.groups,
        compared,
        reference=reference,
        candidates=[mixture.key for mixture in verdict_candidates(mixtures)],
        class_names=first.training.classes,
        confidence=claim.confidence,
        margin=claim.margin,
    )
    comparison.kinds.extend(kind_message(KINDS[name]) for name in dict.fromkeys(item.kind for item in mixtures))
    return comparison


def verdict_candidates(mixtures: Sequence[MixtureSpec]) -> list[MixtureSpec]:
    """The mixtures among which validation chooses the one that the verdict is about.

    Those of a mode, since the question is at which ratio synthetic images help; synthetic only, if there are none.
    """
    return [mixture for mixture in mixtures if KINDS[mixture.kind].is_mode] or [
        mixture for mixture in mixtures if mixture.kind == SYNTHETIC_ONLY
    ]


def mixture_messages(store: ObjectStore, mixtures: Sequence[MixtureSpec]) -> dict[MixtureSpec, evaluations_pb2.Mixture]:
    """The mixtures as results name them; where there are several image sets, with what tells theirs apart."""
    image_sets = dict.fromkeys(item.image_set for item in mixtures if item.image_set)
    manifests = [read_manifest(store, ArtifactName(IMAGE_SETS, image_set)) for image_set in image_sets]
    names = dict(zip(image_sets, image_set_names(store, manifests), strict=True))
    messages = {}
    for mixture in mixtures:
        message = evaluations_pb2.Mixture(key=mixture.key, label=mixture.label, kind=mixture.kind)
        if KINDS[mixture.kind].has_ratio or mixture.kind == REAL:
            message.ratio = mixture.ratio
        if KINDS[mixture.kind].holds_synthetic and mixture.image_set:
            message.image_set = str(ArtifactName(IMAGE_SETS, mixture.image_set))
            message.image_set_label = names[mixture.image_set]
            if len(names) > 1:
                message.label = f"{mixture.label} with {message.image_set_label}"
        messages[mixture] = message
    return messages
