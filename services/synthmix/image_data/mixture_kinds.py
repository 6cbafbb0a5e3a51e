"""The kinds of mixtures: mixing modes, controls, and the two that are neither. A new one is an entry of KINDS.

What a mixture needs of an image set, how long its trials take, which mixtures the verdict may be about and the words
of the report follow from the entry. Imported by front ends: no numpy, no torch.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.image_data.image_counts import images_to_compare, lacking_images
from synthmix.service_kit.errors import invalid_field
from synthmix.service_kit.settings_messages import set_default

REAL = "real"
APPEND = "append"
BALANCE = "balance"
SYNTHETIC_ONLY = "synthetic_only"
DUPLICATED_REAL = "duplicated_real"
RECONSTRUCTED_REAL = "reconstructed_real"
# What a mode that draws images anew puts in a real one's place.
OWN_CHILD, OF_CLASS = "own child", "of class"


@dataclass(frozen=True)
class Taken:
    """What a classifier trains on, in images of each class.

    Attributes:
        real: Of the train part; more than it has of a class means that some come twice or oftener.
        synthetic: Of the image set.
    """

    real: tuple[int, ...]
    synthetic: tuple[int, ...]

    @property
    def images(self) -> int:
        return sum(self.real) + sum(self.synthetic)


@dataclass(frozen=True)
class MixtureKind:
    """One way to put a training set together.

    Attributes:
        name: In requests and results.
        label: Of one of its mixtures; {percent} stands for its ratio.
        label_of_all: Of all its mixtures together, as a legend has it.
        sentence: What it does for N real images and ratio r. The report says it after the kind's name.
        take: What it takes, from the ratio (0 for kinds that have none) and the real images of each class.
        take_instead: Of a control that goes with every mixture of the mode, in place of `take`: what it takes, from
            what that mixture takes.
        largest_ratio: Of a mode; 0 for the other kinds.
        usual_ratios: Of a mode, those of a grid that is asked for without; () for those that are usual of modes.
        axis_title: What the ratio counts, of a mode.
        drawn_from: Of a mode that draws, each time an image comes, whether a synthetic one stands in its place:
            OWN_CHILD or OF_CLASS. What it takes is then what comes in the mean. "" for other kinds.
        fills_up: Of a mode, whether it adds images of the smaller classes alone. Other modes keep the classes' shares.
        control: Whether it is asked for as one of `mixtures.controls`.
        reconstructed: Whether its real images are taken as the base model's autoencoder restores them.
    """

    name: str
    label: str
    label_of_all: str
    sentence: str
    take: Callable[[float, tuple[int, ...]], Taken] | None = None
    take_instead: Callable[[Taken], Taken] | None = None
    largest_ratio: float = 0.0
    usual_ratios: tuple[float, ...] = ()
    axis_title: str = ""
    drawn_from: str = ""
    fills_up: bool = False
    control: bool = False
    reconstructed: bool = False

    @property
    def is_mode(self) -> bool:
        """Whether it is asked for as `mixtures.mode`; its mixtures are those that the verdict chooses among."""
        return self.largest_ratio > 0

    @property
    def has_ratio(self) -> bool:
        return self.is_mode or self.take_instead is not None

    @property
    def needs_image_set(self) -> bool:
        """Whether its mixtures name an image set: for its images, or for the autoencoder that it comes from."""
        return self.holds_synthetic or self.reconstructed

    @property
    def holds_synthetic(self) -> bool:
        """Whether its mixtures take images of an image set."""
        return self.is_mode or self.name == SYNTHETIC_ONLY


@lru_cache(maxsize=1024)  # a plan asks the same for every adapter and every trial
def stratified(share: Fraction, class_counts: tuple[int, ...]) -> tuple[int, ...]:
    """Divides round(share x N) images among the classes in proportion to their counts, by Webster's method.

    Largest remainders would do for one ratio, but can give a class fewer images of a larger total (the
    Alabama paradox; Balinski and Young, Fair Representation, 1982), and then a ratio's images would not be
    among the next one's. A divisor method cannot: its n-th image goes to the class with the largest count /
    (images it has + 1/2), whatever the total.
    """
    total = round(share * sum(class_counts))
    if len(class_counts) == 1:
        return (total,)
    shares = [0] * len(class_counts)
    for index in itertools.islice(classes_in_turn(class_counts), total):
        shares[index] += 1
    return tuple(shares)


def classes_in_turn(class_counts: Sequence[int]) -> Iterator[int]:
    """Yields the class of each added image, without end."""
    shares = [0] * len(class_counts)
    queue = [(-float(count), index) for index, count in enumerate(class_counts) if count]
    heapq.heapify(queue)
    while queue:
        index = queue[0][1]
        yield index
        shares[index] += 1
        heapq.heapreplace(queue, (-class_counts[index] / (2 * shares[index] + 1), index))


def _append(ratio: float, class_counts: tuple[int, ...]) -> Taken:
    return Taken(class_counts, stratified(_written(ratio), class_counts))


def _share(ratio: float, class_counts: tuple[int, ...]) -> Taken:
    share = _written(ratio)
    return Taken(class_counts, stratified(share / (1 - share), class_counts))


def _replace(ratio: float, class_counts: tuple[int, ...]) -> Taken:
    synthetic = stratified(_written(ratio), class_counts)
    return Taken(tuple(count - swapped for count, swapped in zip(class_counts, synthetic, strict=True)), synthetic)


def _balance(ratio: float, class_counts: tuple[int, ...]) -> Taken:
    return Taken(class_counts, tuple(round(_written(ratio) * lacking) for lacking in lacking_images(class_counts)))


def _real(ratio: float, class_counts: tuple[int, ...]) -> Taken:
    return Taken(class_counts, (0,) * len(class_counts))


def _synthetic_only(ratio: float, class_counts: tuple[int, ...]) -> Taken:
    return Taken((0,) * len(class_counts), class_counts)


def _duplicated(mixture: Taken) -> Taken:
    sizes = [real + synthetic for real, synthetic in zip(mixture.real, mixture.synthetic, strict=True)]
    return Taken(tuple(sizes), (0,) * len(sizes))


def _written(ratio: float) -> Fraction:
    """The decimal fraction that was written: 0.1 and not 0.1000000000000000055."""
    return Fraction(str(ratio))


KINDS = {
    kind.name: kind
    for kind in (
        MixtureKind(REAL, "real only", "real only", "is the N real train images alone.", take=_real),
        MixtureKind(
            APPEND,
            "append {percent} %",
            "append",
            "adds r·N synthetic images.",
            take=_append,
            largest_ratio=10.0,
            axis_title="synthetic added, % of real",
        ),
        MixtureKind(
            "share",
            "share {percent} %",
            "share",
            "adds synthetic images until they are a share r of the mixture, which are r·N / (1 − r).",
            take=_share,
            largest_ratio=0.9,
            axis_title="synthetic share, %",
        ),
        MixtureKind(
            "replace",
            "replace {percent} %",
            "replace",
            "keeps N images and swaps r·N real ones for synthetic ones.",
            take=_replace,
            largest_ratio=1.0,
            axis_title="real replaced by synthetic, %",
        ),
        MixtureKind(
            "sample_local",
            "sampled {percent} %, own children",
            "sampled, own children",
            "keeps N images; each time that one comes, it is with probability r a synthetic one that began from it.",
            take=_replace,
            largest_ratio=1.0,
            axis_title="real images that come as their own children, %",
            drawn_from=OWN_CHILD,
        ),
        MixtureKind(
            "sample_global",
            "sampled {percent} %, of the class",
            "sampled, of the class",
            "keeps N images; each time that one comes, it is with probability r any synthetic one of its class.",
            take=_replace,
            largest_ratio=1.0,
            axis_title="real images that come as synthetic ones, %",
            drawn_from=OF_CLASS,
        ),
        MixtureKind(
            BALANCE,
            "balanced {percent} %",
            "balanced",
            "adds to each class the share r of what it has fewer than the largest; with r = 1 all have as many images.",
            take=_balance,
            largest_ratio=1.0,
            usual_ratios=(0.0, 1.0),
            axis_title="made up of what classes have fewer than the largest, %",
            fills_up=True,
        ),
        MixtureKind(
            SYNTHETIC_ONLY,
            "synthetic only",
            "synthetic only",
            "is N synthetic images alone, as many of each class as there are real ones.",
            take=_synthetic_only,
        ),
        MixtureKind(
            DUPLICATED_REAL,
            "real duplicated {percent} %",
            "real images duplicated (control)",
            "is of the same size as the mixture of the same ratio, with real images repeated. It shows what size alone "
            "does: a gain that it has as well does not come from the synthetic images.",
            take_instead=_duplicated,
            control=True,
        ),
        MixtureKind(
            RECONSTRUCTED_REAL,
            "real reconstructed",
            "real images reconstructed (control)",
            "is the N real images after the base model's autoencoder. It tells a poor generator from an autoencoder "
            "that loses what the classifier needs: what this mixture loses, no generator of this base model can give.",
            take=_real,
            control=True,
            reconstructed=True,
        ),
    )
}
"""By name, in the order in which a grid has them."""

MODES = tuple(kind.name for kind in KINDS.values() if kind.is_mode)
CONTROLS = tuple(kind.name for kind in KINDS.values() if kind.control)


def leaves_some_out(kind: MixtureKind, taken: Taken, class_counts: Sequence[int]) -> bool:
    """Whether a mixture takes some of the real images and not others, so that synthetic ones may be a left-out one's.

    One without any real image is of the whole train part, and so is one that draws images anew.
    """
    left_out = any(real < count for real, count in zip(taken.real, class_counts, strict=True))
    return any(taken.real) and left_out and not kind.drawn_from


def least_synthetic(kind: MixtureKind, taken: Taken, class_counts: Sequence[int]) -> tuple[int, ...]:
    """Of each class the images that a mixture needs at least of an image set.

    That is a child of each real one, if it draws them, and besides what it takes some to compare, if it takes none of a
    class.
    """
    if kind.fills_up:
        return tuple(map(max, taken.synthetic, images_to_compare(class_counts)))
    return tuple(class_counts) if kind.drawn_from == OWN_CHILD else taken.synthetic


def fill_left_out(mixtures: evaluations_pb2.MixtureSettings) -> None:
    """Sets what is left out and depends on another field: ratios of a mode with its own, and synthetic only."""
    kind = KINDS.get(mixtures.mode)
    own_ratios = kind.usual_ratios if kind else ()
    set_default(mixtures, "synthetic_only", not mixtures.ratios and not own_ratios)
    if not mixtures.ratios:
        mixtures.ratios.extend(own_ratios)


def check_grows(kind: MixtureKind, class_counts: Sequence[int], *, field: str) -> None:
    """Raises InvalidArgument for a mode that adds no image to these, whatever the ratio."""
    if kind.fills_up and not any(lacking_images(class_counts)):
        raise invalid_field(
            field,
            kind.name,
            f"adds images of classes that have fewer than the largest, and all have {max(class_counts):,} train images",
            f"use another mode, such as {APPEND}",
            reason="CLASSES_BALANCED",
        )


def kind_message(kind: MixtureKind) -> evaluations_pb2.MixtureKind:
    """The entry's words, for those who read results."""
    return evaluations_pb2.MixtureKind(
        name=kind.name,
        label=kind.label_of_all,
        axis_title=kind.axis_title,
        sentence=kind.sentence,
        control=kind.control,
    )


def taken_by(kind: MixtureKind, ratio: float, class_counts: Sequence[int]) -> Taken:
    """What a kind takes by itself. Raises TypeError for a control that goes with a mode."""
    if kind.take is None:
        raise TypeError(f"{kind.name} takes images with a mode only")
    return kind.take(ratio, tuple(class_counts))
