"""How the classifiers of an evaluation are trained: the request's fields, their defaults and their checks.

Imported by front ends: no torch.
"""

from dataclasses import dataclass

from classifier_evaluation.architectures import check_architecture
from service_kit.defaults import set_default
from service_kit.errors import check_choice, check_range
from synthmix_api.evaluations.v1 import evaluations_pb2

MATCH_STEPS = "steps"
MATCH_EPOCHS = "epochs"


@dataclass(frozen=True)
class ClassifierSettings:
    """The recipe's settings.

    Attributes:
        architecture: A name of timm's.
        pretrained: Whether to start from weights trained on ImageNet, or whatever timm's default weights were trained on.
        image_size_px: Side of the square images that the network sees.
        match: steps: every mixture gets the optimizer steps of real only; epochs: as many epochs over what it holds.
        epochs: Passes over the real train images (match: steps) or over the mixture (match: epochs).
        batch_size: Images of an optimizer step.
        learning_rate: AdamW's, at its peak.
        augmentation: Whether train images are flipped and turned.
    """

    architecture: str
    pretrained: bool
    image_size_px: int
    match: str
    epochs: int
    batch_size: int
    learning_rate: float
    augmentation: bool


def with_defaults(classifier: evaluations_pb2.Classifier) -> evaluations_pb2.Classifier:
    """A copy in which every field that a user may leave out has its value."""
    full = evaluations_pb2.Classifier()
    full.CopyFrom(classifier)
    set_default(full, "architecture", "tf_efficientnet_lite0")
    set_default(full, "pretrained", True)
    set_default(full, "image_size", 64)
    set_default(full, "match", MATCH_STEPS)
    set_default(full, "epochs", 10)
    set_default(full, "batch_size", 32)
    set_default(full, "learning_rate", 1e-3)
    set_default(full, "augmentation", True)
    return full


def checked_settings(classifier: evaluations_pb2.Classifier) -> ClassifierSettings:
    """The settings that a message with all its fields stands for. Raises InvalidArgument for the first that can't be."""
    settings = ClassifierSettings(
        architecture=classifier.architecture,
        pretrained=classifier.pretrained,
        image_size_px=classifier.image_size,
        match=classifier.match,
        epochs=classifier.epochs,
        batch_size=classifier.batch_size,
        learning_rate=classifier.learning_rate,
        augmentation=classifier.augmentation,
    )
    check_architecture(settings.architecture, pretrained=settings.pretrained)
    check_range("evaluation.classifier.image_size", settings.image_size_px, 16, 1024)
    check_choice("evaluation.classifier.match", settings.match, (MATCH_STEPS, MATCH_EPOCHS))
    check_range("evaluation.classifier.epochs", settings.epochs, 1, 10_000)
    check_range(
        "evaluation.classifier.batch_size", settings.batch_size, 2, 4096
    )  # batch normalisation needs two images
    check_range("evaluation.classifier.learning_rate", settings.learning_rate, 1e-8, 10.0)
    return settings


def steps_per_epoch(settings: ClassifierSettings, real_images: int, mixture_images: int) -> int:
    """Optimizer steps from one validation to the next; times epochs, of the whole training."""
    images = real_images if settings.match == MATCH_STEPS else mixture_images
    return -(-images // settings.batch_size)
