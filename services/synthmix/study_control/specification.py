"""A study's specification: its defaults, its checks, and the requests that its steps are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.captions import CAPTION_ALONE
from synthmix.image_data.generators import IMAGE
from synthmix.image_data.image_counts import asked_images, images_to_balance
from synthmix.image_data.image_to_image import begins_from_images, images_of_sources, is_of_any_class
from synthmix.image_data.mixture_kinds import (
    KINDS,
    MODES,
    Taken,
    fill_left_out,
    least_synthetic,
    leaves_some_out,
    taken_by,
)
from synthmix.image_data.selection_rules import OVERSAMPLE, check_selection, is_selection, oversampled
from synthmix.image_data.summed_adapters import FIELD as WEIGHTS
from synthmix.image_data.summed_adapters import is_summed
from synthmix.presets.preset_files import without_preset
from synthmix.service_kit import settings_messages
from synthmix.service_kit.errors import (
    FieldViolation,
    InvalidArgument,
    Problems,
    SynthMixError,
    invalid_field,
    missing_field,
)
from synthmix.service_kit.quantities import plural
from synthmix.service_kit.resource_names import ArtifactName, PartName, check_display_name

# Raised whenever the report's payloads change: a study of another version is another study.
RECIPE_VERSION = 1

E = TypeVar("E", bound=SynthMixError)

MOST_ADAPTERS = 256
MOST_IMAGE_SETS = 256


def with_defaults(spec: studies_pb2.StudySpec) -> studies_pb2.StudySpec:
    """A copy in which every field that a user may leave out has its value.

    What depends on the base model or on the dataset is left to the step's own service.
    """
    full = studies_pb2.StudySpec()
    full.CopyFrom(spec)
    if makes_its_own(full):
        if not full.adapters:
            full.adapters.add()
        if not full.synthesis:
            full.synthesis.add()
    _share_prompt(full)
    for item in full.adapters:
        if item.caption_column:
            settings_messages.set_default(item, "prompt", CAPTION_ALONE)
    fill_left_out(full.mixtures)
    settings_messages.set_default(
        full, "seeds", settings_messages.default_of(evaluations_pb2.Evaluation.DESCRIPTOR.fields_by_name["seeds"])
    )
    for _, settings in selections(full):
        settings_messages.set_default(settings, "oversample", OVERSAMPLE)
    return settings_messages.with_defaults(full)


def _share_prompt(spec: studies_pb2.StudySpec) -> None:
    """Adapters train with the prompt of the synthesis unless they have their own: what was trained is asked for."""
    prompts = {item.prompt for item in spec.synthesis if item.HasField("prompt")}
    if len(prompts) == 1:
        for adapter in spec.adapters:
            settings_messages.set_default(adapter, "prompt", *prompts)


def check(spec: studies_pb2.StudySpec, problems: Problems) -> None:
    """Collects faults of what no other service checks.

    Args:
        spec: With its defaults.
    """
    with problems:
        if not spec.name:
            raise missing_field("name", "name the study with lower-case letters, digits and hyphens")
        check_display_name("name", spec.name)
    with problems:
        if not spec.dataset:
            raise missing_field("dataset", "name a dataset; `synthmix datasets list` shows them")
    settings_messages.check(spec.mixtures, "mixtures", problems)
    if spec.HasField("search"):
        _check_search(spec, problems)
    for field, count, most in (
        ("adapters", len(spec.adapters), MOST_ADAPTERS),
        ("synthesis", len(makers(spec)) * (1 + len(selections(spec))), MOST_IMAGE_SETS),
    ):
        with problems:
            if count > most:
                raise invalid_field(
                    field,
                    count,
                    "are too many combinations",
                    f"shorten the lists to at most {most}",
                    reason="OUT_OF_RANGE",
                )


def _check_search(spec: studies_pb2.StudySpec, problems: Problems) -> None:
    search = spec.search
    settings_messages.check(search, "search", problems)
    with problems:
        if not search.HasField("budget_seconds"):
            raise missing_field(
                "search.budget_seconds", "say how many seconds of worker time it may take, such as 7200"
            )
    with problems:
        if search.keep >= len(spec.adapters):
            raise invalid_field(
                "search.keep",
                search.keep,
                f"leaves nothing to choose: `adapters` makes {plural(len(spec.adapters), 'combination')}",
                "give lists with more values, keep fewer, or leave `search` out to train all of them",
                reason="OUT_OF_RANGE",
            )
    for place, item in enumerate(spec.synthesis):
        with problems:
            if is_summed(item):
                raise invalid_field(
                    f"synthesis[{place}].{WEIGHTS}",
                    list(item.adapter_weights),
                    "are of all adapters, and a search goes on with some of them",
                    "leave it out, or leave `search` out",
                )
    with problems:
        if not needs_images(spec):
            description = (
                "chooses adapters, and the mixtures take no synthetic images; leave it out, or give ratios above 0"
            )
            raise InvalidArgument(
                f"search: {description}",
                reason="SEARCH_WITHOUT_IMAGES",
                violations=[FieldViolation("search", description)],
            )


def check_prompts(given: studies_pb2.StudySpec, problems: Problems) -> None:
    """Collects adapters without a prompt where the synthesis has several: which one they train with is not said."""
    prompts = {item.prompt for item in given.synthesis if item.HasField("prompt")}
    if len(prompts) < 2:
        return
    for index, adapter in enumerate(given.adapters or [adapters_pb2.AdapterSettings()]):
        with problems:
            if not adapter.HasField("prompt"):
                raise missing_field(
                    f"adapters[{index}].prompt", "the synthesis has several prompts: say which one to train with"
                )


def check_captions(spec: studies_pb2.StudySpec, given: studies_pb2.StudySpec, problems: Problems) -> None:
    """Collects prompts of the synthesis that ask for captions of adapters without any.

    Args:
        spec: With its defaults.
        given: As the user wrote it.
    """
    without = [index for index, adapter in enumerate(spec.adapters) if not adapter.caption_column]
    for number, item in enumerate(given.synthesis):
        more = [(f"more_prompts[{place}]", text) for place, text in enumerate(item.more_prompts)]
        for name, text in [("prompt", item.prompt), *more]:
            if "{caption}" in text and without:
                problems.found.append(
                    invalid_field(
                        f"synthesis[{number}].{name}",
                        text,
                        f"has {{caption}}, and adapters[{without[0]}] has no captions",
                        "set its caption_column to a caption column of the dataset, or leave {caption} out",
                        reason="PROMPT_WITHOUT_CAPTIONS",
                    )
                )


def check_enough_images(spec: studies_pb2.StudySpec, split: datasets_pb2.Split, problems: Problems) -> None:
    """Collects a per_class or images_per_source that the largest mixture needs more than."""
    counts = part_counts(split, "train")
    for index, synthesis in enumerate(spec.synthesis):
        of_kept_only = any(makes_children(adapter, synthesis) for adapter in spec.adapters)
        of_classes = needed_images(spec, counts, of_kept_only=of_kept_only)
        needed = max((images for label, images in of_classes.items() if label not in synthesis.class_images), default=0)
        with problems:
            of_each = _least_of_each_source(synthesis, of_classes, counts)
            if 0 < synthesis.images_per_source < of_each:
                raise invalid_field(
                    f"synthesis[{index}].images_per_source",
                    synthesis.images_per_source,
                    "is too small for the largest mixture",
                    f"use at least {of_each}, leave it out, or ask for smaller ratios",
                    reason="TOO_FEW_SYNTHETIC_IMAGES",
                )
        if synthesis.images_per_source:
            _check_enough_pass(spec, synthesis, of_classes, counts, problems)
        with problems:
            if synthesis.HasField("per_class") and 0 < synthesis.per_class < needed:
                raise invalid_field(
                    f"synthesis[{index}].per_class",
                    synthesis.per_class,
                    "is too small for the largest mixture",
                    f"use at least {needed}, leave it out, or ask for smaller ratios",
                    reason="TOO_FEW_SYNTHETIC_IMAGES",
                )


def _check_enough_pass(
    spec: studies_pb2.StudySpec,
    synthesis: image_sets_pb2.SynthesisSettings,
    needed: Mapping[str, int],
    train_counts: Mapping[str, int],
    problems: Problems,
) -> None:
    """Collects selections that leave fewer of the images that begin from each source than the largest mixture needs."""
    made = images_of_sources(synthesis, train_counts)
    factors = [made[label] / images for label, images in needed.items() if images and label in made]
    for place, settings in selections(spec):
        if factors and min(factors) >= 1:  # or there are too few with any selection
            check_selection(settings, problems, field=f"selection[{place}]", oversample=min(factors))


def _least_of_each_source(
    synthesis: image_sets_pb2.SynthesisSettings, needed: Mapping[str, int], train_counts: Mapping[str, int]
) -> int:
    """Images that have to begin from each train image, so that each class has as many as are needed."""
    if is_of_any_class(synthesis):
        there = [count for count in train_counts.values() if count]
        return math.ceil(max(needed.values()) * len(there) / sum(there))
    return max((math.ceil(images / train_counts[label]) for label, images in needed.items() if images), default=0)


def adapter_prompt_field(given: studies_pb2.StudySpec, index: int) -> str:
    """Where the user wrote the prompt that an adapter trains with."""
    own = index < len(given.adapters) and given.adapters[index].HasField("prompt")
    shared = [f"synthesis[{number}].prompt" for number, item in enumerate(given.synthesis) if item.HasField("prompt")]
    return shared[0] if shared and not own else f"adapters[{index}].prompt"


def synthesis_prompt_field(given: studies_pb2.StudySpec, adapter_index: int, index: int) -> str:
    """Where the user wrote the prompt that images are asked for with."""
    own = index < len(given.synthesis) and given.synthesis[index].HasField("prompt")
    return f"synthesis[{index}].prompt" if own else adapter_prompt_field(given, adapter_index)


def needs_images(spec: studies_pb2.StudySpec) -> bool:
    return spec.mixtures.synthetic_only or any(ratio > 0 for ratio in spec.mixtures.ratios)


def makes_its_own(spec: studies_pb2.StudySpec) -> bool:
    """Whether it has images made, and does not only take those that it names."""
    return not spec.image_sets or bool(spec.adapters or spec.synthesis) or spec.HasField("search")


def adapter(spec: studies_pb2.StudySpec, split: datasets_pb2.Split, index: int) -> adapters_pb2.Adapter:
    """The request for the adapter of these settings."""
    return adapters_pb2.Adapter(train_split=str(_train_part(split)), settings=without_preset(spec.adapters[index]))


def image_set(
    spec: studies_pb2.StudySpec,
    split: datasets_pb2.Split,
    adapter_index: int,
    synthesis_index: int,
    adapter_name: str,
    more_adapters: Sequence[str] = (),
) -> image_sets_pb2.ImageSet:
    """The request for the images that an adapter makes with these settings, or several at once."""
    settings = without_preset(spec.synthesis[synthesis_index])
    settings_messages.set_default(settings, "prompt", spec.adapters[adapter_index].prompt)
    train = part_counts(split, "train")
    images = oversampled(_wanted(spec, train, adapter_index, settings), largest_oversample(spec))
    begun = begins_from_images(settings)
    if begun and settings.HasField("images_per_source"):
        images = images_of_sources(settings, train)
    for name in ("class_images", "balance", *(["images_per_source"] if begun else [])):  # which else is refused
        settings.ClearField(name)
    return image_sets_pb2.ImageSet(
        adapter=adapter_name,
        more_adapters=more_adapters,
        settings=settings,
        class_images=[image_sets_pb2.ClassImages(label=label, images=count) for label, count in sorted(images.items())],
        train_split=str(_train_part(split)) if begun else "",
        base_model=spec.adapters[adapter_index].base_model,
    )


def _wanted(
    spec: studies_pb2.StudySpec,
    train_counts: Mapping[str, int],
    adapter_index: int,
    settings: image_sets_pb2.SynthesisSettings,
) -> dict[str, int]:
    """Images of each class that mixtures are to take from: as many as the user says, or as is usual."""
    asked = image_sets_pb2.SynthesisSettings()
    asked.CopyFrom(settings)
    asked.ClearField("images_per_source")  # which says among how many they are chosen
    children = makes_children(spec.adapters[adapter_index], settings)
    images = asked_images(asked, train_counts, default_images(spec, train_counts, of_kept_only=children))
    return {label: count for label, count in images.items() if count}


def selections(spec: studies_pb2.StudySpec) -> list[tuple[int, image_sets_pb2.SelectionSettings]]:
    """What chooses among images, each with its position in the specification."""
    return [(index, settings) for index, settings in enumerate(spec.selection) if is_selection(settings)]


def keeps_unselected(spec: studies_pb2.StudySpec) -> bool:
    """Whether images are evaluated as they are made: without a selection, or to compare with."""
    return not spec.selection or not all(map(is_selection, spec.selection))


def largest_oversample(spec: studies_pb2.StudySpec) -> float:
    """How many times as many images are made as are wanted. All selections choose among the same."""
    return max((settings.oversample for _, settings in selections(spec)), default=1.0)


def selection(
    spec: studies_pb2.StudySpec,
    split: datasets_pb2.Split,
    candidates: image_sets_pb2.ImageSet,
    candidates_name: str,
    adapter_index: int,
    synthesis_index: int,
    selection_index: int,
) -> image_sets_pb2.ImageSet:
    """The request for the images that a selection keeps of those that an adapter makes.

    Args:
        candidates: The request for those.
    """
    wanted = _wanted(spec, part_counts(split, "train"), adapter_index, spec.synthesis[synthesis_index])
    settings = without_preset(spec.selection[selection_index])
    if spec.synthesis[synthesis_index].HasField("images_per_source"):
        settings.ClearField("oversample")  # all of them are chosen among, and all that pass are kept
        wanted = {item.label: item.images for item in candidates.class_images}
    return image_sets_pb2.ImageSet(
        selection=settings,
        candidates=candidates_name,
        class_images=[
            image_sets_pb2.ClassImages(label=label, images=images) for label, images in sorted(wanted.items())
        ],
        train_split=str(_train_part(split)),
    )


def check_selections(given: studies_pb2.StudySpec, problems: Problems) -> None:
    """Collects selections that no image passes, or none is left out by, as far as the specification shows it.

    Args:
        given: As the user wrote it.
    """
    of_sources = any(item.HasField("images_per_source") for item in given.synthesis)
    for index, settings in enumerate(given.selection):
        field = f"selection[{index}]"
        if not settings.ListFields():
            continue
        settings_messages.check(settings, field, problems)
        factor = settings.oversample if settings.HasField("oversample") else OVERSAMPLE
        check_selection(settings, problems, field=field, oversample=None if of_sources else factor)
        if of_sources and settings.HasField("oversample"):
            problems.found.append(
                invalid_field(
                    f"{field}.oversample",
                    settings.oversample,
                    "says how many images are made, and so does images_per_source",
                    "leave one of the two out",
                )
            )
    if [bool(settings.ListFields()) for settings in given.selection].count(False) > 1:
        problems.found.append(
            invalid_field("selection", "none", "is there twice", "leave one out", reason="DUPLICATE_VALUE")
        )
    if any(map(is_selection, given.selection)) and not needs_images(with_defaults(given)):
        description = "chooses among synthetic images, and the mixtures take none; leave it out, or give ratios above 0"
        problems.found.append(
            InvalidArgument(
                f"selection: {description}",
                reason="SELECTION_WITHOUT_IMAGES",
                violations=[FieldViolation("selection", description)],
            )
        )


def makers(spec: studies_pb2.StudySpec) -> list[tuple[tuple[int, ...], int]]:
    """The adapters that each image set is made with, and its settings of the synthesis, by their positions.

    One adapter each, in the order of the adapters; then all of them at once, where the settings give weights for it.
    """
    alone = [place for place, item in enumerate(spec.synthesis) if not is_summed(item)]
    summed = [place for place, item in enumerate(spec.synthesis) if is_summed(item)]
    everyone = tuple(range(len(spec.adapters)))
    return [((index,), place) for index in everyone for place in alone] + [(everyone, place) for place in summed]


def makes_children(adapter: adapters_pb2.AdapterSettings, synthesis: image_sets_pb2.SynthesisSettings) -> bool:
    """Whether each synthetic image is a child of one train image or more: made with its adapter, or begun from it."""
    return adapter.per == IMAGE or begins_from_images(synthesis)


def _train_part(split: datasets_pb2.Split) -> PartName:
    return PartName(ArtifactName.parse(split.name, field="split"), "train")


def taken_by_ratios(spec: studies_pb2.StudySpec, train_counts: Mapping[str, int]) -> list[tuple[float, Taken]]:
    """What each ratio takes; the evaluation refuses ratios beyond the mode."""
    mode, counts = spec.mixtures.mode, list(train_counts.values())
    largest = KINDS[mode].largest_ratio if mode in MODES else 0.0
    return [(ratio, taken_by(KINDS[mode], ratio, counts)) for ratio in spec.mixtures.ratios if 0 < ratio <= largest]


def needed_images(
    spec: studies_pb2.StudySpec, train_counts: Mapping[str, int], *, of_kept_only: bool = False
) -> dict[str, int]:
    """Synthetic images that are enough of each class for every mixture.

    Args:
        of_kept_only: Whether each is a child of train images. A mixture that leaves real images out then takes children
            of those alone that it keeps, and each has as many of all as any other.
    """
    counts = list(train_counts.values())
    needed = dict.fromkeys(train_counts, 0)
    for _, taken in taken_by_ratios(spec, train_counts):
        kind = KINDS[spec.mixtures.mode]
        left_out = of_kept_only and leaves_some_out(kind, taken, counts)
        least = least_synthetic(kind, taken, counts)
        for label, count, real, synthetic in zip(train_counts, counts, taken.real, least, strict=True):
            of_each = -(-synthetic // real) if left_out and real else 0
            needed[label] = max(needed[label], synthetic, of_each * count)
    if spec.mixtures.synthetic_only:
        needed = {label: max(count, train_counts[label]) for label, count in needed.items()}
    return needed


def default_images(
    spec: studies_pb2.StudySpec, train_counts: Mapping[str, int], *, of_kept_only: bool = False
) -> dict[str, int]:
    """Images of each class if the user does not say: as many as real ones, or 2, 4, 8, ... times as many if needed.

    In coarse steps, so that a study enlarged by a ratio keeps its image set, and with it all trials that are done. To
    fill up the smaller classes it is what they need to be as large as the largest, whatever the ratio.
    """
    needed, times = needed_images(spec, train_counts, of_kept_only=of_kept_only), 1
    kind = KINDS.get(spec.mixtures.mode)
    if kind is not None and kind.fills_up:
        lacking = images_to_balance(train_counts)
        return {label: max(images, lacking.get(label, 0)) for label, images in needed.items()}
    while any(needed[label] > times * count for label, count in train_counts.items()):
        times *= 2
    return {label: times * count for label, count in train_counts.items()}


def evaluation(
    spec: studies_pb2.StudySpec, split: datasets_pb2.Split, image_sets: Sequence[str]
) -> evaluations_pb2.Evaluation:
    return evaluations_pb2.Evaluation(
        split=split.name,
        image_sets=image_sets,
        mixtures=without_preset(spec.mixtures),
        classifier=spec.classifier,
        seeds=spec.seeds,
        claim=spec.claim,
        measures=spec.measures,
    )


def part_counts(split: datasets_pb2.Split, part: str) -> dict[str, int]:
    """Images of each class in a part."""
    [found] = [item for item in split.part_counts if item.part == part]
    return {item.label: item.images for item in found.class_counts}


@contextmanager
def study_terms(fields: Mapping[str, str]) -> Iterator[None]:
    """Errors come out as `in_study_terms` says them."""
    try:
        yield
    except SynthMixError as error:
        raise in_study_terms(error, fields) from None


def in_study_terms(error: E, fields: Mapping[str, str]) -> E:
    """The error with fields named as the study's user wrote them.

    Args:
        fields: Of a step: beginnings of its request's fields, and what they are in the specification.
    """
    message = error.message
    violations = []
    for violation in error.violations:
        field = study_field(violation.field, fields)
        message = message.replace(violation.field, field)
        violations.append(FieldViolation(field, violation.description))
    return type(error)(message, reason=error.reason, violations=violations, metadata=error.metadata)


def study_field(field: str, fields: Mapping[str, str]) -> str:
    for old, new in fields.items():
        if field == old or field.startswith(f"{old}."):
            return f"{new}{field[len(old) :]}".removeprefix(".")
    return field


def canonical(spec: studies_pb2.StudySpec, dataset: str) -> dict[str, object]:
    """The specification as its record has it: without defaults, and with the dataset by its digest."""
    exact = studies_pb2.StudySpec()
    exact.CopyFrom(spec)
    exact.dataset = dataset
    return settings_messages.canonical(exact)
