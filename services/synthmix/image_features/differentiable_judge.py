"""The judge of features with the network before it, as one function of pixels through which gradients go."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline

from synthmix.image_features.features import feature_network, features_of


@dataclass(frozen=True)
class DifferentiableJudge:
    """What classes images are, by a logistic regression on their features.

    Attributes:
        network: As `feature_network` returns it, frozen.
        weights: (classes, features), of features as they are, not standardised.
        biases: (classes,).
        classes: The label of each.
    """

    network: Any
    weights: torch.Tensor
    biases: torch.Tensor
    classes: tuple[int, ...]

    def log_probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """(images, classes), of pixels (images, 3, S, S) of 0 to 255."""
        return torch.log_softmax(features_of(self.network, pixels) @ self.weights.T + self.biases, dim=1)


def differentiable(judge: Pipeline, device: torch.device) -> DifferentiableJudge:
    """A judge that `train_judge` returned, on a device.

    Raises:
        FailedPrecondition: The network's weights are not there.
    """
    scaler, regression = judge[0], judge[-1]
    weights, biases = np.asarray(regression.coef_), np.asarray(regression.intercept_)
    if len(biases) == 1:  # of two classes scikit-learn has the second's alone, the first's being 0
        weights, biases = np.concatenate([np.zeros_like(weights), weights]), np.concatenate([[0.0], biases])
    weights = weights / scaler.scale_
    biases = biases - weights @ scaler.mean_
    return DifferentiableJudge(
        feature_network().requires_grad_(False).to(device),
        torch.tensor(weights, dtype=torch.float32, device=device),
        torch.tensor(biases, dtype=torch.float32, device=device),
        tuple(int(label) for label in regression.classes_),
    )
