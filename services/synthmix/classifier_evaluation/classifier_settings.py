"""How the classifiers of an evaluation are trained: the request's fields, their defaults and checks.

Imported by front ends: no torch.
"""

from dataclasses import dataclass

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.classifier_evaluation.architectures import check_architecture
from synthmix.service_kit.defaults import set_default
from synthmix.service_kit.errors import Problems, check_choice, check_range

MATCH_STEPS = "steps"
MATCH_EPOCHS = "epochs"


@dataclass(frozen=True)
class ClassifierSettings:
    """The recipe's settings.

    Attributes:
        architecture: A name of timm's.
        pretrained: Whether to start from timm's default weights, most of them trained on ImageNet.
        image_size_px: Side of the square images that the network sees.
        match: steps: every mixture gets the optimizer steps of real only; epochs: as many epochs of its own.
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
    """The settings that a message with all its fields stands for.

    Raises:
        InvalidArgument: Naming every field that can't be carried out.
    """
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
    problems = Problems()
    with problems:
        check_architecture(settings.architecture, pretrained=settings.pretrained)
    with problems:
        check_range("evaluation.classifier.image_size", settings.image_size_px, 16, 1024)
    with problems:
        check_choice("evaluation.classifier.match", settings.match, (MATCH_STEPS, MATCH_EPOCHS))
    with problems:
        check_range("evaluation.classifier.epochs", settings.epochs, 1, 10_000)
    with problems:  # batch normalisation needs two images
        check_range("evaluation.classifier.batch_size", settings.batch_size, 2, 4096)
    with problems:
        check_range("evaluation.classifier.learning_rate", settings.learning_rate, 1e-8, 10.0)
    problems.raise_if_any()
    return settings


def steps_per_epoch(settings: ClassifierSettings, real_images: int, mixture_images: int) -> int:
    """Optimizer steps from one validation to the next; times epochs, of the whole training."""
    images = real_images if settings.match == MATCH_STEPS else mixture_images
    return -(-images // settings.batch_size)
