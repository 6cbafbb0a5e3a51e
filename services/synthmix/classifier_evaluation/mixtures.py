"""Mixtures: what a classifier trains on, and the grid of them that an evaluation asks for.

Imported by front ends: numpy, no torch.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from synthmix.api.evaluations.v1.evaluations_pb2 import MixtureSettings
from synthmix.image_data.image_counts import lacking_images
from synthmix.image_data.image_to_image import own_share
from synthmix.image_data.mixture_kinds import (
    CONTROLS,
    KINDS,
    OWN_CHILD,
    REAL,
    SYNTHETIC_ONLY,
    Taken,
    check_grows,
    classes_in_turn,
    least_synthetic,
    leaves_some_out,
    taken_by,
)
from synthmix.image_data.split_parts import TrainPart
from synthmix.image_data.synthetic_images import SyntheticImages
from synthmix.service_kit.errors import (
    Problems,
    check_choice,
    check_range,
    invalid_field,
    missing_field,
    unmet_precondition,
)
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.seeds import derived_seed


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture before any image is chosen for it.

    Attributes:
        kind: A name in KINDS.
        ratio: What it means is the kind's; 0 for the kinds that have none.
        image_set: Id of the image set that the synthetic images come from, or the autoencoder; None for other kinds.
        mode: Of a control that goes with a mode's mixtures: that mode; None for other kinds.
        soft_label_gamma: Of one that holds synthetic images, MixtureSettings.soft_label_gamma; None for hard labels.
    """

    kind: str
    ratio: float = 0.0
    image_set: str | None = None
    mode: str | None = None
    soft_label_gamma: float | None = None

    def __post_init__(self) -> None:
        kind = KINDS[self.kind]
        if self.soft_label_gamma is not None and not kind.holds_synthetic:
            raise ValueError(f"no mixture is {self}")
        given = (self.ratio > 0, self.image_set is not None, self.mode is not None)
        if given != (kind.has_ratio, kind.needs_image_set, kind.take_instead is not None):
            raise ValueError(f"no mixture is {self}")

    @property
    def key(self) -> str:
        """Unique within a grid, and fit for file names and tables."""
        return "-".join(str(part) for part in (self.kind, self.ratio, self.image_set) if part)

    @property
    def label(self) -> str:
        """What people call it. Where there are several image sets, whoever shows it names them beside it."""
        return KINDS[self.kind].label.format(percent=f"{100 * self.ratio:g}")

    def taken(self, class_counts: Sequence[int]) -> Taken:
        """What it takes, from the real train images of each class."""
        kind = KINDS[self.kind]
        if kind.take_instead is not None and self.mode is not None:
            return kind.take_instead(taken_by(KINDS[self.mode], self.ratio, class_counts))
        return taken_by(kind, self.ratio, class_counts)

    def needed(self, class_counts: Sequence[int]) -> tuple[int, ...]:
        """Images of each class that its image set has to have, at least."""
        return least_synthetic(KINDS[self.kind], self.taken(class_counts), class_counts)


@dataclass(frozen=True)
class TrialSpec:
    """One classifier: a mixture and a seed, counted from 0."""

    mixture: MixtureSpec
    seed: int


@dataclass(frozen=True, eq=False)
class Drawn:
    """Of a mixture that draws images anew: what may stand in the place of each real one.

    Attributes:
        probability: That one does, each time that the real image comes.
        first: Of each real image, where its candidates begin in the mixture's synthetic_rows, (R,) int64.
        count: How many follow there, (R,) int64, at least one.
    """

    probability: float
    first: np.ndarray = field(repr=False)
    count: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Of a mixture's synthetic images: how much of its label each one's own class is, and what the rest is.

    Attributes:
        own_shares: Of each of the mixture's synthetic_rows, (S,) float64, 0 to 1.
        others: The class that the rest of its label is, (S,) int64.
        class_count: Classes.
    """

    own_shares: np.ndarray = field(repr=False)
    others: np.ndarray = field(repr=False)
    class_count: int


@dataclass(frozen=True, eq=False)
class Mixture:
    """The images that one classifier trains on: rows of the train part, then rows of the image set.

    Attributes:
        real_rows: Positions in the train part, (R,) int64; a row that stands twice is seen twice as often.
        synthetic_rows: Positions in the image set, (S,) int64.
        labels: Class of each image in that order, (R + S,) int64; (R,) if images are drawn anew.
        drawn: How they are; None if each image comes in each pass.
        soft: What labels of synthetic images are besides their classes; None if they are these alone.
    """

    real_rows: np.ndarray = field(repr=False)
    synthetic_rows: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    drawn: Drawn | None = field(default=None, repr=False)
    soft: SoftLabels | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Images of a pass."""
        return len(self.labels)


def expand_grid(settings: MixtureSettings, image_sets: Sequence[str], seeds: int) -> list[TrialSpec]:
    """Every trial of an evaluation, mixture by mixture, real only first.

    Real only, which is ratio 0 and always there, and the controls do not depend on the image set: they are
    trained once, whatever the number of image sets. The autoencoder of reconstructed_real is that of the first.

    Args:
        settings: With their defaults; the mode is one of MODES.
        image_sets: Ids of image sets; every ratio is evaluated with each.
        seeds: Number of seeds.

    Raises:
        InvalidArgument: Naming every field at fault.
    """
    _check_grid(settings, image_sets)
    mode, added = settings.mode, sorted(ratio for ratio in settings.ratios if ratio)
    gamma = settings.soft_label_gamma if settings.HasField("soft_label_gamma") else None
    mixtures = [MixtureSpec(REAL)]
    for control in (KINDS[name] for name in CONTROLS if name in settings.controls):
        if control.has_ratio:
            mixtures += [MixtureSpec(control.name, ratio, mode=mode) for ratio in added]
        else:
            mixtures.append(MixtureSpec(control.name, image_set=image_sets[0] if control.needs_image_set else None))
    for image_set in image_sets:
        mixtures += [MixtureSpec(mode, ratio, image_set, soft_label_gamma=gamma) for ratio in added]
        if settings.synthetic_only:
            mixtures.append(MixtureSpec(SYNTHETIC_ONLY, image_set=image_set, soft_label_gamma=gamma))
    return [TrialSpec(mixture, seed) for mixture in mixtures for seed in range(seeds)]


def check_ratios(mode: str, ratios: Sequence[float], train_class_counts: Mapping[str, int], *, field: str) -> list[str]:
    """Refuses a ratio that adds no image, or the very images of another; such a comparison could show no difference.

    Args:
        mode: How ratios are mixed.
        ratios: As the user listed them, in the mode's range, in any order.
        train_class_counts: Real train images of each class.
        field: The list's name, for errors.

    Returns:
        A warning for each ratio that leaves a class without an added image.

    Raises:
        InvalidArgument: Naming every ratio at fault, and the least that would do.
    """
    if KINDS[mode].drawn_from:  # by its probability, each image
        return []
    labels, counts = list(train_class_counts), list(train_class_counts.values())
    real = sum(counts)
    if any(ratios):
        check_grows(KINDS[mode], counts, field=f"{field.removesuffix('ratios')}mode")
    # Whether the mode adds images of a class at all.
    grows = [not KINDS[mode].fills_up or lacking > 0 for lacking in lacking_images(counts)]
    problems = Problems()
    warnings = []
    seen: dict[tuple[int, ...], float] = {}
    for index, ratio in sorted(enumerate(ratios), key=lambda item: item[1]):
        if not ratio:
            continue
        added = taken_by(KINDS[mode], ratio, counts).synthetic
        with problems:
            if not any(added):
                raise invalid_field(
                    f"{field}[{index}]",
                    ratio,
                    f"adds no image to the {real:,} real ones of the train part",
                    f"use at least {_least_ratio(mode, 1, counts)}, which adds one, or leave it out",
                    reason="RATIO_ADDS_NOTHING",
                )
            if added in seen:
                more = _least_ratio(mode, sum(added) + 1, counts)
                raise invalid_field(
                    f"{field}[{index}]",
                    ratio,
                    f"adds the same {sum(added):,} of {real:,} images as ratio {seen[added]:g}",
                    f"leave one of them out, or use at least {more}" if more else "leave one of them out",
                    reason="RATIO_ADDS_THE_SAME",
                )
            seen[added] = ratio
            without = [
                repr(label) for label, count, more in zip(labels, added, grows, strict=True) if more and not count
            ]
            if without:
                least = _least_ratio_of_every_class(mode, counts)
                warnings.append(
                    f"ratio {ratio:g} adds {sum(added):,} synthetic images, and none of {', '.join(without)}; "
                    f"{least} is the least ratio that adds one of each class"
                )
    problems.raise_if_any()
    return warnings


def compose(mixture: MixtureSpec, train: TrainPart, synthetic: SyntheticImages | None, seed: int) -> Mixture:
    """Chooses the images of a mixture, with the train part's class proportions.

    With one seed the choice is nested: the images for ratio 0.10 are among those for 0.25, so that
    neighbouring ratios differ by what was added and by nothing else. There is no way to give this a
    validation or a test part: a synthetic image cannot get into either (leakage rule 4). Where some real images
    are left out and others are not, no child of one that is left out is taken (rule 5).

    Args:
        mixture: The mixture.
        train: The real images.
        synthetic: The image set that the mixture names; None if it names none.
        seed: The trial's.

    Raises:
        FailedPrecondition: The image set has too few images of a class, or too few that may be taken.
        TypeError: The images are not of a train part and of an image set.
        ValueError: The image set is not the mixture's.
    """
    if not isinstance(train, TrainPart) or not isinstance(synthetic, SyntheticImages | None):
        raise TypeError(
            f"a mixture is made of a train part and an image set, not of {type(train).__name__} and "
            f"{type(synthetic).__name__}"
        )
    kind = KINDS[mixture.kind]
    wanted = mixture.image_set if kind.holds_synthetic else None
    if wanted != (synthetic.manifest.name.id if synthetic else None):
        raise ValueError(f"{mixture} is not made of {synthetic}")
    labels = np.asarray(train.labels, dtype=np.int64)
    class_counts = np.bincount(labels, minlength=len(train.classes)).tolist()
    taken = mixture.taken(class_counts)
    if kind.drawn_from and synthetic is not None:
        return _drawn_anew(mixture, train, synthetic)
    real_rows = _real_rows(labels, taken.real, class_counts, seed)
    if synthetic is None:
        return Mixture(real_rows, np.arange(0), labels[real_rows])
    synthetic_labels = np.asarray(synthetic.labels, dtype=np.int64)
    allowed, what = np.ones(len(synthetic), dtype=bool), "images"
    if synthetic.sources is not None and leaves_some_out(kind, taken, class_counts):
        allowed = _has_all_parents(synthetic.sources, {train.sha256s[row] for row in real_rows})
        what = f"children of the real images that {mixture.label} keeps"
    made = np.bincount(synthetic_labels[allowed], minlength=len(train.classes)).tolist()
    check_enough(
        synthetic.manifest.name,
        dict(zip(train.classes, made, strict=True)),
        dict(zip(train.classes, taken.synthetic, strict=True)),
        field="evaluation.image_sets",
        what=what,
    )
    synthetic_rows = _draw(synthetic_labels, taken.synthetic, derived_seed(seed, "synthetic images"), allowed)
    return Mixture(
        real_rows,
        synthetic_rows,
        np.concatenate([labels[real_rows], synthetic_labels[synthetic_rows]]),
        soft=_soft_labels(mixture, synthetic, synthetic_rows),
    )


def _soft_labels(mixture: MixtureSpec, synthetic: SyntheticImages, rows: np.ndarray) -> SoftLabels | None:
    if mixture.soft_label_gamma is None or synthetic.begun is None:
        return None
    shares = [own_share(synthetic.begun.strengths[row], mixture.soft_label_gamma) for row in rows]
    others = np.asarray(synthetic.begun.labels, np.int64)[rows]
    return SoftLabels(np.array(shares, np.float64), others, len(synthetic.classes))


def _drawn_anew(mixture: MixtureSpec, train: TrainPart, synthetic: SyntheticImages) -> Mixture:
    """All real images, each with the synthetic ones that may stand in its place: its children, or its class's."""
    own = KINDS[mixture.kind].drawn_from == OWN_CHILD
    # What a row may stand for: any image of its class, or those alone that it is a child of.
    of_rows: Sequence[Sequence[str]] = [[""]] * len(synthetic)
    if own:
        of_rows = synthetic.sources or [()] * len(synthetic)
    by_key: dict[tuple[int, str], list[int]] = {}
    for row, (label, sha256s) in enumerate(zip(synthetic.labels, of_rows, strict=True)):
        for sha256 in sha256s:
            by_key.setdefault((label, sha256), []).append(row)
    keys = [(label, sha256 if own else "") for label, sha256 in zip(train.labels, train.sha256s, strict=True)]
    without = sum(key not in by_key for key in keys)
    if without:
        raise unmet_precondition(
            "evaluation.image_sets",
            f"{synthetic.manifest.name} has no {'child' if own else 'image of the class'} of {without:,} of the "
            f"{len(train):,} train images, and {mixture.label} has one for each; make a larger image set"
            + (" whose images begin from train images (strength), or use the mode sample_global" if own else ""),
            reason="TOO_FEW_SYNTHETIC_IMAGES",
            metadata={"artifact": str(synthetic.manifest.name)},
        )
    rows = np.fromiter(itertools.chain.from_iterable(by_key.values()), np.int64)
    ends = itertools.accumulate((len(candidates) for candidates in by_key.values()), initial=0)
    firsts = dict(zip(by_key, ends, strict=False))
    return Mixture(
        np.arange(len(train)),
        rows,
        np.asarray(train.labels, dtype=np.int64),
        Drawn(
            mixture.ratio,
            np.array([firsts[key] for key in keys], np.int64),
            np.array([len(by_key[key]) for key in keys], np.int64),
        ),
        _soft_labels(mixture, synthetic, rows),
    )


def _has_all_parents(sources: Sequence[Sequence[str]], kept: set[str]) -> np.ndarray:
    """Whether each image's sources are all among the kept ones, (images,) bool."""
    return np.array([kept.issuperset(parents) for parents in sources], dtype=bool)


def _real_rows(labels: np.ndarray, taken: Sequence[int], class_counts: Sequence[int], seed: int) -> np.ndarray:
    """Positions of the real images: what is kept, in order, then what comes again."""
    kept = [min(count, wanted) for count, wanted in zip(class_counts, taken, strict=True)]
    again = [wanted - count for count, wanted in zip(kept, taken, strict=True)]
    rows = np.arange(len(labels))
    if kept != list(class_counts):
        rows = np.sort(_draw(labels, kept, derived_seed(seed, "kept real")))
    return np.concatenate([rows, _draw(labels, again, derived_seed(seed, "duplicated real"))])


def _total_of_every_class(class_counts: Sequence[int]) -> int:
    """The least number of added images of which each class has one."""
    left = {index for index, count in enumerate(class_counts) if count}
    for total, index in enumerate(classes_in_turn(class_counts), start=1):
        left.discard(index)
        if not left:
            return total
    return 0


def _least_ratio_of_every_class(mode: str, class_counts: Sequence[int]) -> str | None:
    """The least ratio by which a mode adds an image of each class that it adds any of."""
    if not KINDS[mode].fills_up:
        return _least_ratio(mode, _total_of_every_class(class_counts), class_counts)
    largest = max(class_counts)
    nearest = max(count for count in class_counts if count < largest)  # which lacks the fewest
    return _least_ratio(mode, 1, (largest, nearest))


def _least_ratio(mode: str, total: int, class_counts: Sequence[int]) -> str | None:
    """The least ratio, of three digits or of more if it takes them, by which a mode adds `total` images to real ones.

    None if the mode's largest ratio adds fewer. A mode that fills classes up may add to several at once, and then more.
    """
    kind = KINDS[mode]
    # A mode that keeps the classes' shares adds as many to one class of all images, which is counted at once.
    counts = class_counts if kind.fills_up else (sum(class_counts),)

    def added(ratio: float) -> int:
        return sum(taken_by(kind, ratio, counts).synthetic)

    if added(kind.largest_ratio) < total:
        return None
    for digits in itertools.count(1):
        scale = 10**digits
        candidates = range(int(scale * kind.largest_ratio) + 1)
        step = bisect.bisect_left(candidates, total, key=lambda step: added(step / scale))
        if step >= 100 and step in candidates and (kind.fills_up or added(step / scale) == total):
            return f"{step / scale:.{digits}f}".rstrip("0").rstrip(".")
    raise AssertionError  # never: the steps become as fine as is needed


def _draw(labels: np.ndarray, counts: Sequence[int], seed: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """Draws counts[c] rows of each class c, in class order; none comes twice before all have come once.

    Args:
        allowed: Whether a row may be drawn, (rows,) bool; all may if it is None.
    """
    drawn = []
    for label, count in enumerate(counts):
        rows = np.flatnonzero(labels == label)
        order = np.random.default_rng(derived_seed(seed, "class", label)).permutation(rows)
        drawn.append(np.resize(order if allowed is None else order[allowed[order]], count))
    return np.concatenate(drawn)


def check_enough(
    image_set: ArtifactName,
    made: Mapping[str, int],
    needed: Mapping[str, int],
    *,
    field: str,
    what: str = "images",
    remedy: str = "make a larger image set",
) -> None:
    """Raises FailedPrecondition if an image set has fewer images of a class than are needed.

    Args:
        what: What those images are that count.
        remedy: How there will be more.
    """
    short = {label: count for label, count in needed.items() if count > made.get(label, 0)}
    if short:
        classes = ", ".join(f"{label!r} (needs {count}, has {made.get(label, 0)})" for label, count in short.items())
        raise unmet_precondition(
            field,
            f"{image_set} has too few {what} for the grid, of {classes}; {remedy}, or ask for smaller ratios",
            reason="TOO_FEW_SYNTHETIC_IMAGES",
            metadata={"artifact": str(image_set)},
        )


def _check_grid(settings: MixtureSettings, image_sets: Sequence[str]) -> None:
    """What the fields' own rules do not say."""
    mode = settings.mode
    problems = Problems()
    for index, ratio in enumerate(settings.ratios):
        with problems:
            check_range(f"evaluation.mixtures.ratios[{index}]", ratio, 0.0, KINDS[mode].largest_ratio)
    for index, control in enumerate(settings.controls):
        with problems:
            check_choice(f"evaluation.mixtures.controls[{index}]", control, CONTROLS)
            _check_control(f"evaluation.mixtures.controls[{index}]", control, mode)
    with problems:
        reconstructed = any(name in KINDS and KINDS[name].needs_image_set for name in settings.controls)
        if not image_sets and (settings.synthetic_only or any(settings.ratios) or reconstructed):
            raise missing_field(
                "evaluation.image_sets",
                "ratios above 0, synthetic only and reconstructed_real are made of an image set: name one or more, or "
                "ask for ratio 0 alone",
            )
    problems.raise_if_any()


def _check_control(field: str, control: str, mode: str) -> None:
    """Refuses a control whose mixtures would be real only."""
    instead, real = KINDS[control].take_instead, (1000, 500)
    if instead is not None and instead(taken_by(KINDS[mode], 0.5, real)).real == real:
        raise invalid_field(
            field,
            control,
            f"is the same as real only where the mode is {mode}, which keeps the number of images",
            "leave it out",
            reason="CONTROL_WITHOUT_EFFECT",
        )
