"""How the classifiers of an evaluation are trained, as far as front ends have to know. No torch."""

from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings as ClassifierSettings

MATCH_STEPS = "steps"


def steps_per_epoch(settings: ClassifierSettings, real_images: int, mixture_images: int) -> int:
    """Optimizer steps from one validation to the next; times epochs, of the whole training."""
    images = real_images if settings.match == MATCH_STEPS else mixture_images
    return -(-images // settings.batch_size)
