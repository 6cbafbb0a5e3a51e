"""What object storage shows of the leakage rules: each line of the report is computed from what is stored, or says
that the types allow nothing else. A task on a worker runs it.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.image_data.generators import adapters_of, is_imported
from synthmix.image_data.image_table import SOURCE_LABEL, SOURCES, read_index
from synthmix.image_data.seen_images import own_files, read_seen
from synthmix.image_data.selection_rules import SELECTED
from synthmix.image_data.split_parts import TestPart, TrainPart, ValidationPart, open_split
from synthmix.image_data.trial_files import StoredTrial, read_trial
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import plural
from synthmix.service_kit.resource_names import TRIALS, ArtifactName
from synthmix.study_control.report.data import LeakageCheck

Parts = tuple[TrainPart, ValidationPart, TestPart]


def leakage_checks(
    store: ObjectStore,
    split: str,
    adapters: Sequence[Manifest],
    image_sets: Sequence[Manifest],
    comparison: evaluations_pb2.Comparison,
    results: evaluations_pb2.TrialResults,
    scores: Sequence[Manifest] = (),
) -> tuple[LeakageCheck, ...]:
    """A line for each rule.

    Args:
        scores: By which adapters were chosen, if they were.

    Raises:
        DataLoss: A stored file is not what was written.
    """
    parts = open_split(store, split, field="split")
    trials = [
        read_trial(store, read_manifest(store, ArtifactName.parse(result.trial, field="trial", collection=TRIALS)))
        for result in results.trials
    ]
    return (
        _groups(parts),
        _images(parts),
        _adapters(parts, adapters),
        _image_sets(adapters, image_sets, trials),
        _trials(parts, trials),
        _real_only(store, parts, image_sets, trials),
        *imported(store, parts, image_sets),
        *children(store, parts, image_sets),
        *selections(parts, image_sets),
        _test_reads(trials),
        _epochs(results),
        _choice(comparison, results),
        *([_scores(parts, scores)] if scores else ()),
        LeakageCheck(
            "A mixture takes the train part and an image set, and a generator takes a train part alone",
            "no function that builds either accepts another type",
            "by construction",
        ),
    )


def _groups(parts: Parts) -> LeakageCheck:
    statement = "Train, validation and test share no group"
    if parts[0].manifest.summary["group_rule"].get("none", False):
        return LeakageCheck(
            statement, "the dataset states no groups, so related images may be on both sides", "unknown"
        )
    return _disjoint(statement, [set(part.groups) for part in parts], "group")


def _images(parts: Parts) -> LeakageCheck:
    statement = "No image is in two parts, by sha256; near-duplicates are listed as warnings"
    return _disjoint(statement, [set(part.sha256s) for part in parts], "image")


def _disjoint(statement: str, sets: Sequence[set[str]], of: str) -> LeakageCheck:
    shared = len(set().union(*(one & other for one, other in combinations(sets, 2))))
    return _line(statement, shared == 0, f"{shared:,} of {plural(len(set().union(*sets)), of)} in two parts")


def _adapters(parts: Parts, adapters: Sequence[Manifest]) -> LeakageCheck:
    right = [adapter.inputs.get("train_split") == parts[0].digest for adapter in adapters]
    return _all("Adapters were trained on the train part", right, "adapter", "with its digest")


def _image_sets(
    adapters: Sequence[Manifest], image_sets: Sequence[Manifest], trials: Sequence[StoredTrial]
) -> LeakageCheck:
    known = {adapter.name.id for adapter in adapters}
    # Of one that was imported there are none.
    right = sum(known.issuperset(name.id for name in adapters_of(image_set)) for image_set in image_sets)
    using = [trial for trial in trials if "image_set" in trial.manifest.inputs]
    of_study = {image_set.name.id for image_set in image_sets}
    right_trials = sum(trial.manifest.inputs["image_set"] in of_study for trial in using)
    return _line(
        "Synthetic images come from these adapters"
        + (", or were imported" if any(map(is_imported, image_sets)) else ""),
        right == len(image_sets) and right_trials == len(using),
        f"{right:,} of {plural(len(image_sets), 'image set')}, and those of {right_trials:,} of "
        f"{plural(len(using), 'trial')} that use one",
    )


def _trials(parts: Parts, trials: Sequence[StoredTrial]) -> LeakageCheck:
    digests = {f"{part.part}_split": part.digest for part in parts}
    right = [digests.items() <= trial.manifest.inputs.items() for trial in trials]
    return _all(
        "Classifiers were trained, chosen and tested on these three parts", right, "trial", "with their digests"
    )


def _real_only(
    store: ObjectStore, parts: Parts, image_sets: Sequence[Manifest], trials: Sequence[StoredTrial]
) -> LeakageCheck:
    _, validation, test = parts
    rows, others = 0, 0
    for trial in trials:
        for predictions, part in ((trial.validation, validation), (trial.test, test)):
            rows += len(predictions.sha256s)
            others += len(set(predictions.sha256s) - set(part.sha256s)) + abs(len(predictions.sha256s) - len(part))
    held_out = {*validation.sha256s, *test.sha256s}
    synthetic = [
        sha256 for image_set in image_sets for sha256 in read_index(store, image_set, ["sha256"])["sha256"].to_pylist()
    ]
    found = sum(sha256 in held_out for sha256 in synthetic)
    return _line(
        "Validation and test hold real images only",
        others == 0 and found == 0,
        f"{others:,} of {plural(rows, 'prediction')} of other images than theirs, {found:,} of "
        f"{plural(len(synthetic), 'synthetic image')} among them",
    )


def imported(store: ObjectStore, parts: Parts, image_sets: Sequence[Manifest]) -> list[LeakageCheck]:
    """Of imported image sets: nothing held out was seen, as far as it was stated; nothing if none was imported."""
    _, validation, test = parts
    held_out = {*validation.sha256s, *test.sha256s}
    seen: set[str] = set()
    files: list[str] = []
    for image_set in image_sets:
        if is_imported(image_set):
            seen.update(read_seen(store, image_set)["sha256"].to_pylist())
            files += own_files(store, image_set)
    if not files:
        return []
    return [
        _line(
            "Imported images are none of the validation and test images, and their generators saw none, as was stated "
            "when they were imported",
            held_out.isdisjoint(seen) and held_out.isdisjoint(files),
            f"{len(held_out & seen):,} of {plural(len(seen), 'image')} that were seen, and "
            f"{len(held_out.intersection(files)):,} of {plural(len(files), 'imported file')}, are among them",
        )
    ]


def children(store: ObjectStore, parts: Parts, image_sets: Sequence[Manifest]) -> list[LeakageCheck]:
    """Of image sets made here that say which images each synthetic one is a child of; nothing if none does.

    The sources of imported images may be images of no dataset here; they count as seen.
    """
    classes = dict(zip(parts[0].sha256s, parts[0].class_names, strict=True))
    right = []
    for image_set in image_sets:
        if image_set.summary.get(SOURCES) and not is_imported(image_set):
            said = SOURCE_LABEL if image_set.summary.get(SOURCE_LABEL) else "label"
            index = read_index(store, image_set, [said, SOURCES])
            right += [
                bool(sources) and {classes.get(sha256) for sha256 in sources} == {label}
                for label, sources in zip(index[said].to_pylist(), index[SOURCES].to_pylist(), strict=True)
            ]
    statement = (
        "Synthetic images that begin from an image, or are made with an adapter of one, are children of train images "
        "of the class that is said"
    )
    return [_all(statement, right, "image", "have such parents alone")] if right else []


def selections(parts: Parts, image_sets: Sequence[Manifest]) -> list[LeakageCheck]:
    """Of image sets that were chosen from others; nothing if none was."""
    train, validation, test = (part.digest for part in parts)
    right = [
        item.inputs.get("train_split") == train and not {validation, test} & set(item.inputs.values())
        for item in image_sets
        if SELECTED in item.summary
    ]
    return [_all("Selections judged by the train part alone", right, "selection", "with its digest")] if right else []


def _test_reads(trials: Sequence[StoredTrial]) -> LeakageCheck:
    reads = [trial.training.test_reads for trial in trials]
    return _line(
        "The test part is read once for each classifier, after its last choice",
        all(count == 1 for count in reads),
        f"{plural(sum(reads), 'read')} by {plural(len(trials), 'trial')}",
    )


def _epochs(results: evaluations_pb2.TrialResults) -> LeakageCheck:
    right = [_kept_best_epoch(result) for result in results.trials]
    return _all("Epochs were chosen on validation", right, "trial", "kept the epoch that did best there")


def _kept_best_epoch(result: evaluations_pb2.TrialResult) -> bool:
    """Whether it is the best by the stored course, and the stored validation predictions are of it."""
    epochs = result.training.epochs
    scores = [(epoch.validation_balanced_accuracy, -epoch.validation_loss) for epoch in epochs]
    kept = result.training.best_epoch - 1
    return scores[kept] == max(scores) and math.isclose(
        epochs[kept].validation_balanced_accuracy, result.validation_metrics["balanced_accuracy"], abs_tol=1e-9
    )


def _choice(comparison: evaluations_pb2.Comparison, results: evaluations_pb2.TrialResults) -> LeakageCheck:
    statement = "The verdict's mixture was chosen on validation"
    if not comparison.candidates:
        return _line(statement, True, "0 mixtures to choose among")
    by_key: dict[str, list[float]] = {}
    for result in results.trials:
        by_key.setdefault(result.training.mixture, []).append(result.validation_metrics["balanced_accuracy"])
    scores = {key: fmean(of_seeds) for key, of_seeds in by_key.items()}
    best = max(scores[key] for key in comparison.candidates)
    chosen = scores[comparison.verdict.key]
    return _line(
        statement,
        comparison.verdict.key in comparison.candidates and math.isclose(chosen, best, abs_tol=1e-9),
        f"{100 * chosen:.1f} % there, {100 * best:.1f} % the best of {plural(len(comparison.candidates), 'mixture')}",
    )


def _scores(parts: Parts, scores: Sequence[Manifest]) -> LeakageCheck:
    train, validation, test = parts
    judges = {"train_split": train.digest, "validation_split": validation.digest}
    right = [judges.items() <= score.inputs.items() and test.digest not in score.inputs.values() for score in scores]
    return _all(
        "Adapters were chosen by train and validation images", right, "score", "with their digests, and not the test's"
    )


def _all(statement: str, right: Sequence[bool], of: str, evidence: str) -> LeakageCheck:
    return _line(statement, all(right), f"{sum(right):,} of {plural(len(right), of)} {evidence}")


def _line(statement: str, held: bool, evidence: str) -> LeakageCheck:
    return LeakageCheck(statement, evidence, "held" if held else "broken")
