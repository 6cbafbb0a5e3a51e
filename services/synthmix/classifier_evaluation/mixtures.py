"""Mixtures: what a classifier trains on, and the grid of them that an evaluation asks for.

Imported by front ends: numpy, no torch.
"""

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from synthmix.image_data.split_parts import TrainPart
from synthmix.image_data.synthetic_images import SyntheticImages
from synthmix.service_kit.digests import derived_seed
from synthmix.service_kit.errors import (
    FailedPrecondition,
    FieldViolation,
    Problems,
    check_choice,
    check_range,
    invalid_field,
    missing_field,
)

REAL = "real"
APPEND = "append"
SYNTHETIC_ONLY = "synthetic_only"
DUPLICATED_REAL = "duplicated_real"

CONTROLS = (DUPLICATED_REAL,)
LARGEST_RATIO = 10.0
MOST_SEEDS = 1000

# Of each kind: whether it has a ratio, and whether it holds synthetic images.
_KINDS = {
    REAL: (False, False),
    APPEND: (True, True),
    SYNTHETIC_ONLY: (False, True),
    DUPLICATED_REAL: (True, False),
}


@dataclass(frozen=True)
class MixtureSpec:
    """A mixture before any image is chosen for it.

    Attributes:
        kind: real, append, synthetic_only or duplicated_real.
        ratio: Images added to N real ones, as a share of N; 0 for the kinds that add none.
        image_set: Id of the image set that the synthetic images come from; None for the kinds that hold none.
    """

    kind: str
    ratio: float = 0.0
    image_set: str | None = None

    def __post_init__(self) -> None:
        has_ratio, has_image_set = _KINDS[self.kind]
        if (self.ratio > 0) != has_ratio or (self.image_set is not None) != has_image_set:
            raise ValueError(f"no mixture is {self}")

    @property
    def key(self) -> str:
        """Unique within a grid, and fit for file names and tables."""
        return "-".join(str(part) for part in (self.kind, self.ratio, self.image_set) if part)

    @property
    def label(self) -> str:
        """What people call it. Where there are several image sets, whoever shows it names them beside it."""
        percent = f"{100 * self.ratio:g} %"
        return {
            REAL: "real only",
            APPEND: f"append {percent}",
            SYNTHETIC_ONLY: "synthetic only",
            DUPLICATED_REAL: f"real duplicated {percent}",
        }[self.kind]


@dataclass(frozen=True)
class TrialSpec:
    """One classifier: a mixture and a seed, counted from 0."""

    mixture: MixtureSpec
    seed: int


@dataclass(frozen=True, eq=False)
class Mixture:
    """The images that one classifier trains on: rows of the train part, then rows of the image set.

    Attributes:
        real_rows: Positions in the train part, (R,) int64; a row that stands twice is seen twice as often.
        synthetic_rows: Positions in the image set, (S,) int64.
        labels: Class of each image in that order, (R + S,) int64.
    """

    real_rows: np.ndarray = field(repr=False)
    synthetic_rows: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)


def expand_grid(
    ratios: Sequence[float],
    synthetic_only: bool,
    controls: Sequence[str],
    image_sets: Sequence[str],
    seeds: int,
) -> list[TrialSpec]:
    """Every trial of an evaluation, mixture by mixture, real only first.

    Real only, which is ratio 0 and always there, and the duplicated control don't depend on the image set:
    they are trained once, whatever the number of image sets.

    Args:
        ratios: Synthetic ratios, 0 to 10, in any order.
        synthetic_only: Whether to train on synthetic images alone too.
        controls: duplicated_real, or nothing.
        image_sets: Ids of image sets; every ratio is evaluated with each.
        seeds: Number of seeds.

    Raises:
        InvalidArgument: Naming every field at fault.
    """
    _check_grid(ratios, synthetic_only, controls, image_sets, seeds)
    added = sorted(float(ratio) for ratio in ratios if ratio)
    mixtures = [MixtureSpec(REAL)]
    if DUPLICATED_REAL in controls:
        mixtures += [MixtureSpec(DUPLICATED_REAL, ratio) for ratio in added]
    for image_set in image_sets:
        mixtures += [MixtureSpec(APPEND, ratio, image_set) for ratio in added]
        if synthetic_only:
            mixtures.append(MixtureSpec(SYNTHETIC_ONLY, image_set=image_set))
    return [TrialSpec(mixture, seed) for mixture in mixtures for seed in range(seeds)]


def needed_per_class(mixture: MixtureSpec, train_class_counts: Sequence[int]) -> tuple[int, ...]:
    """How many synthetic images of each class a mixture takes.

    Args:
        mixture: The mixture.
        train_class_counts: Real train images of each class.
    """
    if mixture.kind == APPEND:
        return _stratified(mixture.ratio, train_class_counts)
    return tuple(train_class_counts) if mixture.kind == SYNTHETIC_ONLY else (0,) * len(train_class_counts)


def check_ratios(ratios: Sequence[float], train_class_counts: Mapping[str, int], *, field: str) -> list[str]:
    """Refuses a ratio that adds no image, or the very images of another; such a comparison could show no difference.

    Args:
        ratios: As the user listed them, 0 to 10, in any order.
        train_class_counts: Real train images of each class.
        field: The list's name, for errors.

    Returns:
        A warning for each ratio that leaves a class without an added image.

    Raises:
        InvalidArgument: Naming every ratio at fault, and the least that would do.
    """
    labels, counts = list(train_class_counts), list(train_class_counts.values())
    real = sum(counts)
    problems = Problems()
    warnings = []
    seen: dict[tuple[int, ...], float] = {}
    for index, ratio in sorted(enumerate(ratios), key=lambda item: item[1]):
        if not ratio:
            continue
        added = _stratified(ratio, counts)
        with problems:
            if not any(added):
                raise invalid_field(
                    f"{field}[{index}]",
                    ratio,
                    f"adds no image to the {real:,} real ones of the train part",
                    f"use at least {_least_ratio(1, real)}, which adds one, or leave it out",
                    reason="RATIO_ADDS_NOTHING",
                )
            if added in seen:
                raise invalid_field(
                    f"{field}[{index}]",
                    ratio,
                    f"adds the same {sum(added):,} of {real:,} images as ratio {seen[added]:g}",
                    f"leave one of them out, or use at least {_least_ratio(sum(added) + 1, real)}",
                    reason="RATIO_ADDS_THE_SAME",
                )
            seen[added] = ratio
            without = [repr(label) for label, count in zip(labels, added, strict=True) if not count]
            if without:
                least = _least_ratio(_total_of_every_class(counts), real)
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
    validation or a test part: a synthetic image can't get into either (leakage rule 4).

    Args:
        mixture: The mixture.
        train: The real images.
        synthetic: The image set that the mixture names; None if it names none.
        seed: The trial's.

    Raises:
        FailedPrecondition: The image set has too few images of a class.
        TypeError: The images aren't of a train part and of an image set.
        ValueError: The image set isn't the mixture's.
    """
    if not isinstance(train, TrainPart) or not isinstance(synthetic, SyntheticImages | None):
        raise TypeError(
            f"a mixture is made of a train part and an image set, not of {type(train).__name__} and "
            f"{type(synthetic).__name__}"
        )
    if mixture.image_set != (synthetic.manifest.name.id if synthetic else None):
        raise ValueError(f"{mixture} isn't made of {synthetic}")
    labels = np.asarray(train.labels, dtype=np.int64)
    class_counts = np.bincount(labels, minlength=len(train.classes)).tolist()
    real_rows = np.arange(len(labels)) if mixture.kind != SYNTHETIC_ONLY else np.arange(0)
    if mixture.kind == DUPLICATED_REAL:
        copies = _draw(labels, _stratified(mixture.ratio, class_counts), derived_seed(seed, "duplicated real"))
        real_rows = np.concatenate([real_rows, copies])
    if synthetic is None:
        return Mixture(real_rows, np.arange(0), labels[real_rows])
    synthetic_labels = np.asarray(synthetic.labels, dtype=np.int64)
    needed = needed_per_class(mixture, class_counts)
    _check_enough(mixture, train, synthetic, needed)
    synthetic_rows = _draw(synthetic_labels, needed, derived_seed(seed, "synthetic images"))
    return Mixture(real_rows, synthetic_rows, np.concatenate([labels[real_rows], synthetic_labels[synthetic_rows]]))


def _stratified(ratio: float, class_counts: Sequence[int]) -> tuple[int, ...]:
    """Shares round(ratio x N) images among the classes in proportion to their counts, by Webster's method.

    Largest remainders would do for one ratio, but can give a class fewer images of a larger total (the
    Alabama paradox; Balinski and Young, Fair Representation, 1982), and then a ratio's images wouldn't be
    among the next one's. A divisor method can't: its n-th image goes to the class with the largest count /
    (images it has + 1/2), whatever the total.
    """
    shares = [0] * len(class_counts)
    for index in itertools.islice(_in_turn(class_counts), _total(ratio, sum(class_counts))):
        shares[index] += 1
    return tuple(shares)


def _in_turn(class_counts: Sequence[int]) -> Iterator[int]:
    """Yields the class of each added image, without end."""
    shares = [0] * len(class_counts)
    queue = [(-float(count), index) for index, count in enumerate(class_counts) if count]
    heapq.heapify(queue)
    while queue:
        index = queue[0][1]
        yield index
        shares[index] += 1
        heapq.heapreplace(queue, (-class_counts[index] / (2 * shares[index] + 1), index))


def _total(ratio: float, real: int) -> int:
    """Images that a ratio adds to `real` ones."""
    # The decimal fraction that was written: 0.1 and not 0.1000000000000000055.
    return round(Fraction(str(ratio)) * real)


def _total_of_every_class(class_counts: Sequence[int]) -> int:
    """The least number of added images of which each class has one."""
    left = {index for index, count in enumerate(class_counts) if count}
    for total, index in enumerate(_in_turn(class_counts), start=1):
        left.discard(index)
        if not left:
            return total
    return 0


def _least_ratio(total: int, real: int) -> str:
    """The least ratio of three significant digits, or of more if it takes them, that adds `total` images to `real`."""
    exact = (Fraction(total) - Fraction(1, 2)) / real
    for digits in itertools.count(max(1, 3 - math.ceil(math.log10(exact)))):
        below = math.floor(exact * 10**digits)
        for steps in (below, below + 1):  # half an image rounds to the even number: `exact` itself may fall short
            text = f"{float(Fraction(steps, 10**digits)):.{digits}f}".rstrip("0").rstrip(".")
            if _total(float(text), real) == total:
                return text
    raise AssertionError  # never: the steps become as fine as is needed


def _draw(labels: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Draws counts[c] rows of each class c, in class order; none comes twice before all have come once."""
    drawn = []
    for label, count in enumerate(counts):
        rows = np.flatnonzero(labels == label)
        order = np.random.default_rng(derived_seed(seed, "class", label)).permutation(rows)
        drawn.append(np.resize(order, count))
    return np.concatenate(drawn)


def _check_enough(mixture: MixtureSpec, train: TrainPart, synthetic: SyntheticImages, needed: Sequence[int]) -> None:
    found = np.bincount(np.asarray(synthetic.labels, dtype=np.int64), minlength=len(needed)).tolist()
    short = [index for index, count in enumerate(needed) if found[index] < count]
    if not short:
        return
    classes = ", ".join(f"{train.classes[index]!r} (needs {needed[index]}, has {found[index]})" for index in short)
    name = synthetic.manifest.name
    description = (
        f"{name} has too few images for {mixture.label}, of {classes}; make an image set of at least "
        f"{max(needed)} images a class, or ask for smaller ratios"
    )
    raise FailedPrecondition(
        f"evaluation.image_sets: {description}",
        reason="TOO_FEW_SYNTHETIC_IMAGES",
        violations=[FieldViolation("evaluation.image_sets", description)],
        metadata={"artifact": str(name), "needed_per_class": str(max(needed))},
    )


def _check_grid(
    ratios: Sequence[float],
    synthetic_only: bool,
    controls: Sequence[str],
    image_sets: Sequence[str],
    seeds: int,
) -> None:
    problems = Problems()
    for index, ratio in enumerate(ratios):
        with problems:
            check_range(f"evaluation.mixtures.ratios[{index}]", ratio, 0.0, LARGEST_RATIO)
    for index, control in enumerate(controls):
        with problems:
            check_choice(f"evaluation.mixtures.controls[{index}]", control, CONTROLS)
    with problems:
        check_range("evaluation.seeds", seeds, 1, MOST_SEEDS)
    _check_distinct("evaluation.mixtures.ratios", ratios, problems)
    _check_distinct("evaluation.mixtures.controls", controls, problems)
    _check_distinct("evaluation.image_sets", image_sets, problems)
    with problems:
        if not image_sets and (synthetic_only or any(ratios)):
            raise missing_field(
                "evaluation.image_sets",
                "ratios above 0 and synthetic only are made of an image set: name one or more, or ask for "
                "ratio 0 alone",
            )
    problems.raise_if_any()


def _check_distinct(field: str, values: Sequence[float] | Sequence[str], problems: Problems) -> None:
    for index, value in enumerate(values):
        with problems:
            if value in values[:index]:
                raise invalid_field(
                    f"{field}[{index}]",
                    value,
                    "is there twice",
                    "leave one of them out",
                    reason="DUPLICATE_VALUE",
                )
