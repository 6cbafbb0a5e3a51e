"""Classifiers of features, by which synthetic images are judged: cheap, and the same each time."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

# The inverse of the penalty's weight, in scikit-learn's terms. Measured on the six largest classes of the tests' HeLa
# nuclei, on plates that were not trained on: balanced accuracies of 0.777, 0.809, 0.818, 0.815 and 0.803 with 1e-4,
# 1e-3, 1e-2, 0.1 and 1.
PENALTY_INVERSE = 0.01
MOST_ITERATIONS = 1000
# Of images that are left out of a judge, at most.
FOLDS = 5


def train_judge(features: np.ndarray, labels: np.ndarray) -> Pipeline:
    """A multinomial logistic regression on standardised features, in which each class counts as much.

    It has one optimum, which L-BFGS comes to from zero: nothing is drawn.

    Args:
        features: (images, width).
        labels: (images,), of two classes or more.
    """
    regression = LogisticRegression(C=PENALTY_INVERSE, class_weight="balanced", max_iter=MOST_ITERATIONS)
    judge: Pipeline = make_pipeline(StandardScaler(), regression).fit(features.astype(np.float64), labels)
    return judge


def class_consistency(judge: Pipeline, features: np.ndarray, labels: np.ndarray) -> float:
    """The share of images in which the judge sees their class: the mean over the classes of `labels`."""
    right = judge.predict(features.astype(np.float64)) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


class FoldJudges:
    """Judges of images that are children of train images: none has seen a parent of what it judges, or its group.

    The train images are divided into folds of whole groups, in which each class is spread as evenly as groups allow. An
    image is judged by the judge of all folds without those of its parents, and one without parents by that of all
    images. Where a class would have no image left, as its groups are few, the folds are of single images, so that no
    parent is seen, but others of its group are; and where that leaves none either, the judge is that of all.

    Args:
        features: Of the train images, (N, d).
        labels: Theirs, (N,), as positions among the classes.
        groups: Theirs.
        classes: How many there are.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, groups: Sequence[str], classes: int):
        self._features = features
        self._labels = labels
        self._classes = classes
        self._divisions = (_folds_of_groups(labels, groups), _folds_of_images(labels))
        self._judges: dict[tuple[int, frozenset[int]], Pipeline] = {}

    def probabilities(self, queries: np.ndarray, parents: Sequence[Sequence[int]] | None) -> np.ndarray:
        """Of each class, for each query (M, d), as (M, classes). 0 for a class without train images.

        Args:
            parents: For each query the rows of the train images that it is a child of; None if there are no parents.
        """
        left_out = [self._left_out(rows) for rows in parents or [()] * len(queries)]
        found = np.zeros((len(queries), self._classes))
        for key in dict.fromkeys(left_out):
            rows = np.array([index for index, own in enumerate(left_out) if own == key])
            seen = self._seen(*key)
            if len(np.unique(self._labels[seen])) == 1:  # there is nothing to tell it from
                found[rows, self._labels[seen][0]] = 1.0
                continue
            if key not in self._judges:
                self._judges[key] = train_judge(self._features[seen], self._labels[seen])
            judge = self._judges[key]
            found[np.ix_(rows, judge.classes_)] = judge.predict_proba(queries[rows].astype(np.float64))
        return found

    def seen_by_judge_of(self, parents: Sequence[int]) -> list[int]:
        """The rows that the judge of an image with these parents was trained on."""
        rows: list[int] = np.flatnonzero(self._seen(*self._left_out(parents))).tolist()
        return rows

    def _left_out(self, parents: Sequence[int]) -> tuple[int, frozenset[int]]:
        """A division, and the folds of it that a judge must not see."""
        for division, folds in enumerate(self._divisions):
            own = frozenset(folds[list(parents)].tolist())
            if len(np.unique(self._labels[self._seen(division, own)])) == len(np.unique(self._labels)):
                return division, own
        return 0, frozenset()

    def _seen(self, division: int, left_out: frozenset[int]) -> np.ndarray:
        seen: np.ndarray = ~np.isin(self._divisions[division], list(left_out))
        return seen


def _folds_of_groups(labels: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The fold of each train image, from 0; one fold where a class has images of one group alone."""
    _, own = np.unique(np.asarray(groups), return_inverse=True)
    fewest = min(len(np.unique(own[labels == label])) for label in np.unique(labels))
    if fewest < 2:
        return np.zeros(len(labels), dtype=np.int64)
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    return _numbered([rows for _, rows in folds.split(labels, labels, own)])


def _folds_of_images(labels: np.ndarray) -> np.ndarray:
    """Likewise, with images for groups; one fold where each class has a single image."""
    counts = np.bincount(labels)
    if counts.max() < 2:
        return np.zeros(len(labels), dtype=np.int64)
    of_each = int(counts[counts > 1].min())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with a single image, which is in one fold
        folds = StratifiedKFold(min(FOLDS, of_each), shuffle=True, random_state=0)
        return _numbered([rows for _, rows in folds.split(labels, labels)])


def _numbered(folds: Sequence[np.ndarray]) -> np.ndarray:
    found = np.zeros(sum(map(len, folds)), dtype=np.int64)
    for number, rows in enumerate(folds):
        found[rows] = number
    return found
