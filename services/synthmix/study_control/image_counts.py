"""Numbers of images that a study's user gives by class: classes that there are, and as many as its mixtures need."""

from collections.abc import Mapping

from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.image_counts import check_balance, check_counts, check_labels, images_to_balance
from synthmix.image_data.mixture_kinds import BALANCE, KINDS, check_grows
from synthmix.service_kit import settings_messages
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.study_control.specification import makes_children, needed_images, part_counts

_REASON = "TOO_FEW_SYNTHETIC_IMAGES"


def check_image_counts(spec: studies_pb2.StudySpec, split: datasets_pb2.Split, problems: Problems) -> None:
    """Collects what is wrong with numbers of images before there are requests, which have those of each class alone.

    Args:
        spec: With its defaults.
    """
    counts = part_counts(split, "train")
    kind = KINDS.get(spec.mixtures.mode)
    if kind is not None and any(spec.mixtures.ratios):
        with problems:
            check_grows(kind, list(counts.values()), field="mixtures.mode")
    for index, synthesis in enumerate(spec.synthesis):
        field = f"synthesis[{index}]"
        check_counts(synthesis, problems, field=field, counted=False)
        settings_messages.check(SynthesisSettings(class_images=synthesis.class_images), field, problems)
        check_labels(synthesis, list(counts), problems, field=field)
        check_balance(synthesis, counts, problems, field=field)
        of_kept_only = any(makes_children(adapter, synthesis) for adapter in spec.adapters)
        needed = needed_images(spec, counts, of_kept_only=of_kept_only)
        _check_class_images(synthesis, needed, problems, field=field)
        if synthesis.balance:
            _check_enough_to_balance(synthesis, needed, images_to_balance(counts), problems, field=field)


def _check_class_images(
    synthesis: SynthesisSettings, needed: Mapping[str, int], problems: Problems, *, field: str
) -> None:
    """Collects numbers of single classes that the largest mixture needs more than."""
    for label, images in sorted(synthesis.class_images.items()):
        if 0 < images < needed.get(label, 0):
            problem = "is too small for the largest mixture"
            remedy = f"use at least {needed[label]}, leave it out, or ask for smaller ratios"
            path = settings_messages.path_of_key(f"{field}.class_images", label)
            problems.found.append(invalid_field(path, images, problem, remedy, reason=_REASON))


def _check_enough_to_balance(
    synthesis: SynthesisSettings, needed: Mapping[str, int], made: Mapping[str, int], problems: Problems, *, field: str
) -> None:
    """Collects a balance that makes fewer images of some classes than the largest mixture needs."""
    short = [label for label, images in needed.items() if made.get(label, 0) < images]
    if short:
        classes = ", ".join(f"{label!r} (needs {needed[label]}, has {made.get(label, 0)})" for label in short)
        problem = f"makes too few images for the largest mixture, of {classes}"
        remedy = f"use the mode {BALANCE} for mixtures, without synthetic_only, or leave it out"
        problems.found.append(invalid_field(f"{field}.balance", synthesis.balance, problem, remedy, reason=_REASON))
