"""A study's specification: its defaults, its checks, and the requests that it expands into."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.mixture_kinds import MODES, added_share
from synthmix.service_kit.defaults import set_default
from synthmix.service_kit.errors import (
    FieldViolation,
    Problems,
    SynthMixError,
    Unimplemented,
    check_range,
    invalid_field,
    missing_field,
)
from synthmix.service_kit.resource_names import check_display_name

# Raised whenever the report's payloads change: a study of another version is another study.
RECIPE_VERSION = 1

DEFAULT_PROMPT = "a microscopy image of a {label} cell"
DEFAULT_RATIOS = (0.0, 0.10, 0.25, 0.50, 0.75)
LARGEST_RATIO = 10.0
MOST_ADAPTERS = 256
# Of adapters: a list expands to one adapter for each value.
LISTED_FIELDS = ("method", "rank", "alpha", "targets", "images_seen", "learning_rate")
# Where a service names a field of its own request, the study's user wrote another one.
FIELD_NAMES = (
    ("adapter.prompt", "synthesis.prompt"),
    ("adapter.", "adapters."),
    ("image_set.labels", "dataset"),
    ("image_set.", "synthesis."),
    ("evaluation.", ""),
    ("split.dataset", "dataset"),
)


def with_defaults(spec: studies_pb2.StudySpec) -> studies_pb2.StudySpec:
    """A copy in which every field that a user may leave out, and that belongs to the study itself, has its value.

    What belongs to an adapter, an image set or an evaluation is defaulted by its own service.
    """
    full = studies_pb2.StudySpec()
    full.CopyFrom(spec)
    set_default(full.split, "test", 0.25)
    set_default(full.split, "validation", 0.15)
    set_default(full.adapters, "base_model", "builtin")
    if not full.mixtures.ratios:
        full.mixtures.ratios.extend(DEFAULT_RATIOS)
        set_default(full.mixtures, "synthetic_only", True)
    set_default(full.mixtures, "mode", "append")
    set_default(full.synthesis, "prompt", DEFAULT_PROMPT)
    set_default(full, "seeds", 5)
    return full


def check(spec: studies_pb2.StudySpec, problems: Problems) -> None:
    """Collects the fields at fault. Raises Unimplemented for what this version can't do."""
    if spec.HasField("selection") and spec.selection.HasField("class_consistency"):
        description = "isn't available in this version; leave `selection` out"
        raise Unimplemented(
            f"selection.class_consistency {description}",
            reason="SELECTION_UNAVAILABLE",
            violations=[FieldViolation("selection.class_consistency", description)],
        )
    with problems:
        if not spec.name:
            raise missing_field("name", "name the study with lower-case letters, digits and hyphens")
        check_display_name("name", spec.name)
    with problems:
        if not spec.dataset:
            raise missing_field("dataset", "name a dataset; `synthmix datasets list` shows them")
    for part in ("test", "validation"):
        with problems:
            check_range(f"split.{part}", getattr(spec.split, part), 0.0, 1.0, exclusive=True)
    with problems:
        if spec.split.test + spec.split.validation >= 1:
            raise invalid_field(
                "split.test",
                spec.split.test,
                f"and validation {spec.split.validation:g} leave nothing to train on",
                "make their sum smaller than 1",
                reason="OUT_OF_RANGE",
            )
    for index, ratio in enumerate(spec.mixtures.ratios):
        with problems:
            check_range(f"mixtures.ratios[{index}]", ratio, 0.0, LARGEST_RATIO)
    for field in LISTED_FIELDS:
        seen = set()
        for index, value in enumerate(getattr(spec.adapters, field)):
            with problems:
                is_new = value not in seen
                seen.add(value)
                if not is_new:
                    raise invalid_field(
                        f"adapters.{field}[{index}]",
                        value,
                        "stands twice in the list",
                        "remove one of them",
                        reason="DUPLICATE_VALUE",
                    )
    combinations = math.prod(max(1, len(getattr(spec.adapters, field))) for field in LISTED_FIELDS)
    with problems:
        if combinations > MOST_ADAPTERS:
            raise invalid_field(
                "adapters",
                combinations,
                "are too many combinations",
                f"shorten the lists to at most {MOST_ADAPTERS}",
                reason="OUT_OF_RANGE",
            )


def check_enough_images(spec: studies_pb2.StudySpec, split: datasets_pb2.Split, problems: Problems) -> None:
    """Collects a per_class that the largest mixture needs more than."""
    needed = largest_need(spec, part_counts(split, "train"))
    with problems:
        if spec.synthesis.HasField("per_class") and needs_images(spec) and 0 < spec.synthesis.per_class < needed:
            raise invalid_field(
                "synthesis.per_class",
                spec.synthesis.per_class,
                "is too small for the largest mixture",
                f"use at least {needed}, leave it out, or ask for smaller ratios",
                reason="TOO_FEW_SYNTHETIC_IMAGES",
            )


@dataclass(frozen=True)
class AdapterStep:
    """An adapter of the study's grid, and what tells it from the others, such as "lora rank 16 attention"."""

    adapter: adapters_pb2.Adapter
    display_name: str


def needs_images(spec: studies_pb2.StudySpec) -> bool:
    return spec.mixtures.synthetic_only or any(ratio > 0 for ratio in spec.mixtures.ratios)


def adapter_steps(spec: studies_pb2.StudySpec, split: datasets_pb2.Split) -> list[AdapterStep]:
    """One adapter for each combination of the lists; none if no mixture needs synthetic images."""
    if not needs_images(spec):
        return []
    lists = {field: list(getattr(spec.adapters, field)) for field in LISTED_FIELDS}
    given = {field: values for field, values in lists.items() if values}
    steps = []
    for values in itertools.product(*given.values()):
        chosen = dict(zip(given, values, strict=True))
        adapter = adapters_pb2.Adapter(
            train_split=f"{split.name}/parts/train",
            base_model=spec.adapters.base_model,
            prompt=spec.synthesis.prompt,
            seed=spec.adapters.seed,
            **chosen,
        )
        for field in ("batch_size", "caption_dropout", "image_size"):
            if spec.adapters.HasField(field):
                setattr(adapter, field, getattr(spec.adapters, field))
        differing = " ".join(
            f"{field.replace('_', ' ')} {chosen[field]:g}"
            if isinstance(chosen[field], (int, float))
            else str(chosen[field])
            for field in chosen
            if len(lists[field]) > 1 or field in ("method", "rank")
        )
        steps.append(AdapterStep(adapter, differing or "lora"))
    return steps


def image_set(
    spec: studies_pb2.StudySpec, split: datasets_pb2.Split, adapter: adapters_pb2.Adapter
) -> image_sets_pb2.ImageSet:
    """The image set of one adapter. `adapter` carries its name and its prompt."""
    train = part_counts(split, "train")
    request = image_sets_pb2.ImageSet(
        adapter=adapter.name,
        prompt=adapter.prompt,
        labels=sorted(train),
        seed=spec.synthesis.seed,
        per_class=spec.synthesis.per_class if spec.synthesis.HasField("per_class") else default_per_class(spec, train),
    )
    for field in ("steps", "guidance_scale"):
        if spec.synthesis.HasField(field):
            setattr(request, field, getattr(spec.synthesis, field))
    return request


def added_shares(spec: studies_pb2.StudySpec) -> list[float]:
    """Synthetic images for each real one, at each ratio."""
    mode = spec.mixtures.mode
    if mode not in MODES:
        return list(spec.mixtures.ratios)  # the evaluation refuses the mode, at its own field
    return [added_share(mode, ratio) for ratio in spec.mixtures.ratios]


def largest_need(spec: studies_pb2.StudySpec, train_counts: dict[str, int]) -> int:
    """Images that the largest mixture takes of the largest class; one more for its rounding."""
    share = max([*added_shares(spec), 1.0 if spec.mixtures.synthetic_only else 0.0])
    return math.ceil(share * max(train_counts.values())) + 1


def default_per_class(spec: studies_pb2.StudySpec, train_counts: dict[str, int]) -> int:
    """Images of each class if the user doesn't say: enough for ratio 1, or 2, 4, 8, ... if a larger one is asked for.

    In coarse steps, so that a study enlarged by a ratio keeps its image set, and with it all trials that are done.
    """
    steps = 2 ** math.ceil(math.log2(max([1.0, *added_shares(spec)])))
    return int(steps) * max(train_counts.values()) + 1


def evaluation(
    spec: studies_pb2.StudySpec, split: datasets_pb2.Split, image_sets: Sequence[str]
) -> evaluations_pb2.Evaluation:
    return evaluations_pb2.Evaluation(
        split=split.name,
        image_sets=image_sets,
        mixtures=spec.mixtures,
        classifier=spec.classifier,
        seeds=spec.seeds,
        claim=spec.claim,
    )


def part_counts(split: datasets_pb2.Split, part: str) -> dict[str, int]:
    """Images of each class in a part."""
    [found] = [item for item in split.part_counts if item.part == part]
    return {item.label: item.images for item in found.class_counts}


def in_study_terms(error: SynthMixError) -> SynthMixError:
    """The error with fields named as the study's user wrote them."""
    message = error.message
    violations = []
    for violation in error.violations:
        field = next(
            (new + violation.field[len(old) :] for old, new in FIELD_NAMES if violation.field.startswith(old)),
            violation.field,
        )
        message = message.replace(violation.field, field)
        violations.append(FieldViolation(field, violation.description))
    return type(error)(message, reason=error.reason, violations=violations, metadata=error.metadata)
