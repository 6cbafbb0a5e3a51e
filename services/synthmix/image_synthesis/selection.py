"""Choosing among the images of an image set, by what a judge and distances say of each: on arrays alone.

The rules are those of others: a probability above a threshold or above chance (He et al. 2023, arXiv:2210.07574),
among the most probable classes (Michaeli and Fried 2024, SaSPA, arXiv:2406.14551), the least probable share (Wang et
al. 2024, Diff-Mix, arXiv:2403.19600), the nearest class centre.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from synthmix.api.image_sets.v1.image_sets_pb2 import SelectionSettings
from synthmix.image_data.selection_rules import NOT_NEEDED, rules_given

BEST = "best"


@dataclass(frozen=True)
class JudgedImages:
    """What is known of each of M images, in the order in which they were made.

    Attributes:
        labels: The class that was asked for, as a position among C classes, (M,).
        probabilities: Of each class, (M, C).
        centre_distances: To each class's centre, (M, C).
        train_distances: To the nearest train image that it is not a child of, in near-copy distances, (M,).
        features: (M, d), in near-copy distances.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    centre_distances: np.ndarray
    train_distances: np.ndarray
    features: np.ndarray

    @property
    def own_probabilities(self) -> np.ndarray:
        """Of the class that was asked for, (M,)."""
        found: np.ndarray = self.probabilities[np.arange(len(self.labels)), self.labels]
        return found


@dataclass(frozen=True)
class Choice:
    """What became of each of M images.

    Attributes:
        rules: The rule by which it was left out, "" if it is kept.
        scores: What that rule went by, NaN if it is kept.
    """

    rules: list[str]
    scores: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Rows of those that are kept, ascending."""
        return np.flatnonzero([not rule for rule in self.rules])


def choose(images: JudgedImages, wanted: Mapping[int, int], settings: SelectionSettings) -> Choice:
    """Keeps as many of each class as are wanted, or as pass.

    An image is left out by the first rule that it does not meet. Rules go by an image alone, but for drop_lowest and
    near_duplicates, which compare it with others of its class.

    Args:
        wanted: Images of each class, by its position.
    """
    choice = Choice([""] * len(images.labels), np.full(len(images.labels), np.nan))

    def leave_out(rule: str, failing: np.ndarray, scores: np.ndarray) -> None:
        for row in np.flatnonzero(failing):
            if not choice.rules[row]:
                choice.rules[row], choice.scores[row] = rule, scores[row]

    for rule in rules_given(settings):
        if rule in _OF_ONE:
            leave_out(rule, *_OF_ONE[rule](images, settings))
    if settings.HasField("drop_lowest"):
        leave_out("drop_lowest", _lowest(images, settings.drop_lowest), images.own_probabilities)
    for label in np.unique(images.labels):
        passing = [row for row in np.flatnonzero(images.labels == label).tolist() if not choice.rules[row]]
        if settings.keep == BEST:
            passing.sort(key=lambda row: (-images.own_probabilities[row], row))
        _keep(images, passing, wanted.get(int(label), 0), settings, choice)
    return choice


def _keep(images: JudgedImages, rows: list[int], wanted: int, settings: SelectionSettings, choice: Choice) -> None:
    """Of a class's images that pass, the first that are no near-duplicates of one another, as many as are wanted."""
    kept = np.empty((min(wanted, len(rows)), images.features.shape[1]))
    squares = np.empty(len(kept))
    count = 0
    for row in rows:
        if count == wanted:
            choice.rules[row], choice.scores[row] = NOT_NEEDED, images.own_probabilities[row]
            continue
        if settings.near_duplicates and count:
            # By products: differences would be as large as all that is kept, for each image anew.
            own = images.features[row]
            nearest = float((squares[:count] + own @ own - 2.0 * kept[:count] @ own).min())
            if nearest < 1:
                choice.rules[row], choice.scores[row] = "near_duplicates", np.sqrt(max(nearest, 0.0))
                continue
        kept[count] = images.features[row]
        squares[count] = kept[count] @ kept[count]
        count += 1


def _below_threshold(images: JudgedImages, settings: SelectionSettings) -> tuple[np.ndarray, np.ndarray]:
    own = images.own_probabilities
    return own < settings.class_consistency, own


def _beyond_first(images: JudgedImages, settings: SelectionSettings) -> tuple[np.ndarray, np.ndarray]:
    """By the place of the class among all, from 1."""
    places = 1 + (images.probabilities > images.own_probabilities[:, None]).sum(axis=1)
    return places > settings.top_k, places.astype(np.float64)


def _not_above_chance(images: JudgedImages, settings: SelectionSettings) -> tuple[np.ndarray, np.ndarray]:
    own = images.own_probabilities
    return own <= 1 / images.probabilities.shape[1], own


def _nearer_another(images: JudgedImages, settings: SelectionSettings) -> tuple[np.ndarray, np.ndarray]:
    """By how many times as far its own class's centre is as the nearest one."""
    own = images.centre_distances[np.arange(len(images.labels)), images.labels]
    nearest = images.centre_distances.min(axis=1)
    return own > nearest, own / np.maximum(nearest, np.finfo(np.float64).tiny)


def _near_train_image(images: JudgedImages, settings: SelectionSettings) -> tuple[np.ndarray, np.ndarray]:
    return images.train_distances < 1, images.train_distances


_OF_ONE = {
    "class_consistency": _below_threshold,
    "top_k": _beyond_first,
    "above_chance": _not_above_chance,
    "centroid": _nearer_another,
    "memorised": _near_train_image,
}


def _lowest(images: JudgedImages, share: float) -> np.ndarray:
    """Whether each is among this share of its class that is least probable, rounded down."""
    found = np.zeros(len(images.labels), dtype=bool)
    for label in np.unique(images.labels):
        rows = np.flatnonzero(images.labels == label)
        order = rows[np.argsort(images.own_probabilities[rows], kind="stable")]
        found[order[: int(round(share * len(rows), 9))]] = True
    return found
