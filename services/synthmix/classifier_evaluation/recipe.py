"""The recipe of one trial: train on a mixture, choose the epoch on validation, read the test once.

AdamW (Loshchilov and Hutter, arXiv:1711.05101) with a linear warmup and half a cosine down to zero,
cross-entropy, and the eight symmetries of the square as augmentation. Imported by workers only.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings, Epoch
from synthmix.classifier_evaluation.kept_classifiers import untrained_classifier
from synthmix.classifier_evaluation.metrics import balanced_accuracy, negative_log_likelihood
from synthmix.classifier_evaluation.mixtures import Drawn, Mixture, SoftLabels
from synthmix.classifier_evaluation.trial_requests import steps_per_epoch
from synthmix.image_features.preprocessing import Preprocessing
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.seeds import derived_seed
from synthmix.training.freed_memory import freed_memory_kept
from synthmix.training.learning_rates import learning_rate_share
from synthmix.training.symmetries import symmetries

WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.05

# The symmetry that mirroring (from left to right), flipping (from top to bottom) and transposing make, in this order.
_VIEWS = np.array([[[0, 7], [6, 3]], [[4, 1], [2, 5]]])


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """A mixture's images.

    Attributes:
        mixture: Which rows are trained on.
        real: The train part's pixels, (N, S, S, 3) uint8.
        synthetic: The image set's, or None if the mixture takes none.
    """

    mixture: Mixture
    real: np.ndarray = field(repr=False)
    synthetic: np.ndarray | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a trained classifier says.

    Attributes:
        epochs: In order.
        best_epoch: The one that was kept, counted from 1.
        steps: Optimizer steps in all.
        validation_probabilities: (images, classes) float32, of the kept epoch.
        test_probabilities: Likewise.
    """

    epochs: tuple[Epoch, ...]
    best_epoch: int
    steps: int
    validation_probabilities: np.ndarray = field(repr=False)
    test_probabilities: np.ndarray = field(repr=False)


@freed_memory_kept()
def train_and_evaluate(
    settings: ClassifierSettings,
    class_count: int,
    train: TrainingImages,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    open_test: Callable[[], np.ndarray],
    *,
    seed: int,
    threads: int,
    report: Callable[[int], None],
) -> TrainingResult:
    """Trains the classifier of one trial and evaluates the epoch that did best on validation.

    On a CPU the same arguments give the same bytes, whatever ran in the process before.

    Args:
        settings: The recipe's.
        class_count: Number of classes.
        train: The mixture and its pixels.
        validation: (V, S, S, 3) uint8.
        validation_labels: (V,) int64.
        open_test: Returns the test pixels, (T, S, S, 3) uint8. Called once, after the last choice was made
            (leakage rule 5); the test labels are not needed here at all.
        seed: The trial's.
        threads: CPU threads to use.
        report: Called with the optimizer steps done, after each validation.

    Raises:
        FailedPrecondition: The training diverged, or the pretrained weights cannot be had.
        InvalidArgument: The architecture cannot see images of this size.
    """
    _make_reproducible(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, preprocessing = untrained_classifier(
        settings.architecture,
        class_count,
        pretrained=settings.pretrained,
        image_size_px=settings.image_size,
        seed=seed,
    )
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=settings.learning_rate, fused=True)
    interval_steps = steps_per_epoch(settings, len(train.real), len(train.mixture))
    total_steps = settings.epochs * interval_steps

    epochs: list[Epoch] = []
    losses: list[torch.Tensor] = []
    best_score, best_epoch, best_state = (-math.inf, -math.inf), 0, model.state_dict()
    best_probabilities = np.empty((0, class_count), np.float32)
    warmup_steps = max(1, round(WARMUP_SHARE * total_steps))
    for step in range(total_steps):
        images, labels = training_batch(train, settings, seed, step)
        share = learning_rate_share(step, total_steps, warmup_steps=warmup_steps, decline_from=warmup_steps - 1)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
        model.train()
        torch.manual_seed(derived_seed(seed, "dropout", step))
        with _autocast(device):
            logits = model(preprocessing.normalise(images.to(device)))
        loss = functional.cross_entropy(logits.float(), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

        if (step + 1) % interval_steps == 0:
            probabilities = predict(model, preprocessing, validation, settings.batch_size)
            epoch = _epoch(settings, losses, probabilities, validation_labels)
            epochs.append(epoch)
            losses.clear()
            score = (epoch.validation_balanced_accuracy, -epoch.validation_loss)
            if score > best_score:
                best_score, best_epoch, best_probabilities = score, len(epochs), probabilities
                best_state = {name: value.clone() for name, value in model.state_dict().items()}
            report(step + 1)

    model.load_state_dict(best_state)
    return TrainingResult(
        tuple(epochs),
        best_epoch,
        total_steps,
        best_probabilities,
        predict(model, preprocessing, open_test(), settings.batch_size),
    )


def training_batch(
    train: TrainingImages, settings: ClassifierSettings, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of one step: (B, 3, S, S) uint8, and labels. It depends on seed and step alone.

    Labels are (B,) int64, or (B, classes) float32 of soft ones, which add up to 1.
    """
    mixture = train.mixture
    positions = batch_positions(len(mixture), settings.batch_size, seed, step)
    # Of each image its place among the synthetic ones, negative if it is real.
    places = positions - len(mixture.real_rows)
    if mixture.drawn is not None:
        first = step * settings.batch_size
        passes = np.arange(first, first + settings.batch_size) // len(mixture)
        places = drawn_places(mixture.drawn, positions, passes, seed)
    pixels = np.empty((len(positions), *train.real.shape[1:]), np.uint8)
    is_real = places < 0
    pixels[is_real] = train.real[mixture.real_rows[positions[is_real]]]
    if train.synthetic is not None:
        pixels[~is_real] = train.synthetic[mixture.synthetic_rows[places[~is_real]]]
    if settings.augmentation:
        pixels = augment(pixels, torch.Generator().manual_seed(derived_seed(seed, "augmentation", step)))
    labels = torch.from_numpy(mixture.labels[positions])
    if mixture.soft is not None:
        labels = soft_targets(mixture.soft, labels.numpy(), places)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), labels


def soft_targets(soft: SoftLabels, labels: np.ndarray, places: np.ndarray) -> torch.Tensor:
    """What each image of a batch is to be taken for, (B, classes) float32.

    Args:
        labels: Their own classes, (B,).
        places: Their places among the mixture's synthetic images, (B,), negative for real ones.
    """
    targets = np.zeros((len(labels), soft.class_count))
    shares = np.where(places < 0, 1.0, soft.own_shares[np.maximum(places, 0)])
    others = np.where(places < 0, labels, soft.others[np.maximum(places, 0)])
    rows = np.arange(len(labels))
    targets[rows, labels] += shares
    targets[rows, others] += 1.0 - shares
    return torch.from_numpy(targets.astype(np.float32))


def batch_positions(image_count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Which of image_count images a step trains on, (batch_size,): the next of endless shuffled passes.

    Batches run on from one pass into the next. All have the same size, so that none leaves batch
    normalisation with one image, and every image comes equally often.
    """
    first = step * batch_size
    passes = range(first // image_count, (first + batch_size - 1) // image_count + 1)
    order = np.concatenate(
        [np.random.default_rng(derived_seed(seed, "order", number)).permutation(image_count) for number in passes]
    )
    start = first - passes[0] * image_count
    return order[start : start + batch_size]


def drawn_places(drawn: Drawn, positions: np.ndarray, passes: np.ndarray, seed: int) -> np.ndarray:
    """Which synthetic image stands in the place of each real one this time, (B,); -1 where none does.

    An image that is drawn with one probability is drawn with every larger one as well, so that neighbouring ratios
    differ by what is drawn more and by nothing else.

    Args:
        positions: Of the real images, (B,).
        passes: In which pass through them each of these is, (B,).
    """
    places = np.full(len(positions), -1)
    for number in np.unique(passes):
        chance, choice = np.random.default_rng(derived_seed(seed, "drawn", int(number))).random((2, len(drawn.first)))
        at = np.flatnonzero(passes == number)
        at = at[chance[positions[at]] < drawn.probability]
        rows = positions[at]
        places[at] = drawn.first[rows] + (choice[rows] * drawn.count[rows]).astype(np.int64)
    return places


def augment(pixels: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Each image in one of the square's eight symmetries, (B, S, S, 3) to the same."""
    mirror, flip, transpose = torch.randint(2, (3, len(pixels)), generator=generator).numpy()
    return symmetries(pixels, _VIEWS[mirror, flip, transpose])


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases and normalisation do not."""
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.inference_mode()
def predict(model: nn.Module, preprocessing: Preprocessing, pixels: np.ndarray, batch_size: int) -> np.ndarray:
    """Class probabilities, (images, classes) float32, of (images, S, S, 3) uint8 pixels, in order."""
    model.eval()
    device = next(model.parameters()).device
    probabilities = []
    for start in range(0, len(pixels), batch_size):
        images = torch.from_numpy(np.array(pixels[start : start + batch_size])).permute(0, 3, 1, 2)
        with _autocast(device):
            logits = model(preprocessing.normalise(images.to(device)))
        probabilities.append(logits.float().softmax(1).cpu())
    return torch.cat(probabilities).numpy()


def _epoch(
    settings: ClassifierSettings, losses: list[torch.Tensor], probabilities: np.ndarray, labels: np.ndarray
) -> Epoch:
    """Mean train loss up to a validation, in nats, and how that went. Raises FailedPrecondition if it diverged."""
    # Once an epoch: looking at a loss makes the CPU wait for the GPU.
    train_loss = torch.stack(losses).double().mean().item()
    if not math.isfinite(train_loss) or not np.isfinite(probabilities).all():
        raise FailedPrecondition(
            f"the training diverged (loss {train_loss}); lower classifier.learning_rate "
            f"(it was {settings.learning_rate:g})",
            reason="TRAINING_DIVERGED",
        )
    return Epoch(
        train_loss=train_loss,
        validation_balanced_accuracy=balanced_accuracy(probabilities, labels),
        validation_loss=negative_log_likelihood(probabilities, labels),
    )


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _make_reproducible(threads: int) -> None:
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it cuBLAS may vary
    # Some operations have no deterministic form on a GPU: a warning will do, as bytes are promised on CPUs.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Costs time, and nothing here reads such memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
