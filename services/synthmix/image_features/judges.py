"""Classifiers of features, by which synthetic images are judged: cheap, and the same each time."""

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
    image is judged by the judge of all folds without those of its parents; one without parents by that of all images,
    and so is one that has parents in every fold, as each judge has seen one.

    Args:
        features: Of the train images, (N, d).
        labels: Theirs, (N,), as positions among the classes.
        groups: Theirs. Where a class has images of one group alone, each image is a group of its own: else nothing
            could judge that group's children.
        classes: How many there are.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, groups: Sequence[str], classes: int):
        self._features = features
        self._labels = labels
        self._classes = classes
        self._folds = _folds(labels, groups)
        self._judges: dict[frozenset[int], Pipeline] = {}

    def probabilities(self, queries: np.ndarray, parents: Sequence[Sequence[int]] | None) -> np.ndarray:
        """Of each class, for each query (M, d), as (M, classes). 0 for a class that its judge has seen no image of.

        Args:
            parents: For each query the rows of the train images that it is a child of; None if there are no parents.
        """
        left_out = [frozenset(self._folds[list(rows)].tolist()) for rows in parents or [()] * len(queries)]
        everything = frozenset(self._folds.tolist())
        left_out = [frozenset() if folds == everything else folds for folds in left_out]
        found = np.zeros((len(queries), self._classes))
        for folds in dict.fromkeys(left_out):
            rows = np.array([index for index, own in enumerate(left_out) if own == folds])
            seen = ~np.isin(self._folds, list(folds))
            if len(np.unique(self._labels[seen])) == 1:  # there is nothing to tell it from
                found[rows, self._labels[seen][0]] = 1.0
                continue
            judge = self._judge(folds)
            found[np.ix_(rows, judge.classes_)] = judge.predict_proba(queries[rows].astype(np.float64))
        return found

    def fold_of(self, row: int) -> int:
        """The fold of a train image, from 0."""
        return int(self._folds[row])

    def _judge(self, left_out: frozenset[int]) -> Pipeline:
        if left_out not in self._judges:
            seen = ~np.isin(self._folds, list(left_out))
            self._judges[left_out] = train_judge(self._features[seen], self._labels[seen])
        return self._judges[left_out]


def _folds(labels: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The fold of each train image, from 0."""
    _, own = np.unique(np.asarray(groups), return_inverse=True)
    fewest = min(len(np.unique(own[labels == label])) for label in np.unique(labels))
    found = np.zeros(len(labels), dtype=np.int64)
    if fewest > 1:
        folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=0).split(labels, labels, own)
    else:
        of_each = int(np.bincount(labels)[np.unique(labels)].min())
        folds = StratifiedKFold(max(2, min(FOLDS, of_each)), shuffle=True, random_state=0).split(labels, labels)
    for number, (_, rows) in enumerate(folds):
        found[rows] = number
    return found
