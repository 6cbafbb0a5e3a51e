"""What a CreateImageSet request means: its defaults, its checks, its canonical form and its predicted time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.image_data.adapter_scale import check_scale
from synthmix.image_data.captions import adapter_captions
from synthmix.image_data.fused_adapters import check_fusion, is_fused
from synthmix.image_data.generators import (
    MORE_ADAPTERS,
    AdapterPart,
    adapter_parts,
    adapter_settings,
    classes_made,
    is_imported,
)
from synthmix.image_data.image_counts import COUNT_FIELDS, asked_images, check_balance, check_counts, check_labels
from synthmix.image_data.image_to_image import (
    SAME_CLASS,
    begins_from_images,
    is_inverted,
    is_of_any_class,
    is_of_pairs,
    of_class,
)
from synthmix.image_data.paired_sources import check_pairs
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.image_data.summed_adapters import check_number, check_summed
from synthmix.image_synthesis.guidance_options import check_guidance
from synthmix.image_synthesis.inverted_pairs import check_inversion, inversion_cost, sources_inverted
from synthmix.image_synthesis.latent_guidance_options import (
    check_classes_to_tell,
    check_latent_guidance,
    latent_guidance_cost,
)
from synthmix.image_synthesis.sampler_options import check_sampler, check_schedule, named_sampler
from synthmix.image_synthesis.shard_ranges import SHARD_IMAGES, shard_count
from synthmix.image_synthesis.source_images import (
    check_strength,
    check_train_split,
    mean_of_classes,
    mean_steps,
    relative_cost,
)
from synthmix.latent_diffusion.base_model import resolve, resolve_again
from synthmix.latent_diffusion.prompts import check_captioned, check_negative, check_prompt, check_tokens
from synthmix.latent_diffusion.tokens import PromptTokenizer
from synthmix.presets.preset_files import refuse as refuse_preset
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import Manifest, find_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import (
    NotFound,
    Problems,
    check_choice,
    check_range,
    invalid_field,
    unmet_precondition,
)
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings_messages import canonical, check, default_of, set_default, with_defaults

# Raised whenever the recipe's bytes change, or a declared default: an image set of another version is another one.
RECIPE_VERSION = 3

# Measured on one core of a server CPU with the built-in model, for one denoising step of one image with guidance.
SECONDS_PER_IMAGE_STEP = 0.023
START_SECONDS = 10.0
# Measured likewise, for putting another adapter into the base model that a worker keeps.
SECONDS_PER_ADAPTER = 0.5
PER_CLASS = 200
MOST_IMAGES_OF_A_CLASS = 1_000_000
_FUSION_WEIGHT = image_sets_pb2.SynthesisSettings.DESCRIPTOR.fields_by_name["fusion_weight"]


def plan(store: ObjectStore, image_set: image_sets_pb2.ImageSet, *, validate_only: bool) -> Planned:
    """Checks a request against what exists, without starting anything.

    A request that is only validated may name an adapter that isn't trained yet, if it gives prompt and classes.
    """
    name = ArtifactName.parse(image_set.adapter, field="image_set.adapter", collection=ADAPTERS)
    may_be_missing = bool(validate_only and image_set.settings.prompt and image_set.class_images)
    adapter = _find_adapter(store, name, field="image_set.adapter", may_be_missing=may_be_missing)
    settings = filled(image_set.settings, adapter)
    problems = Problems()
    more = _more_adapters(store, image_set, problems, validate_only=validate_only)
    check_number(image_set.settings, 1 + len(more), problems, field="image_set.settings")
    if adapter is not None and all(more.values()):
        _check_summed(settings, [adapter, *filter(None, more.values())], problems)
    check(settings, "image_set.settings", problems)
    refuse_preset(image_set.settings, problems, field="image_set.settings")
    if image_set.candidates:
        problem, remedy = "are images to choose among, and there is no selection", "set selection, or leave it out"
        problems.found.append(invalid_field("image_set.candidates", image_set.candidates, problem, remedy))
    check_strength(settings, problems, field="image_set.settings")
    check_inversion(settings, problems, field="image_set.settings")
    check_latent_guidance(settings, problems, field="image_set.settings")
    check_counts(image_set.settings, problems, field="image_set.settings", counted=bool(image_set.class_images))
    check_train_split(settings, image_set.train_split, problems, field="image_set.train_split")
    train, train_counts = None, Counter[str]()
    if (begins_from_images(settings) or settings.balance) and image_set.train_split:
        with problems:
            train = open_train_part(store, image_set.train_split, field="image_set.train_split")
            train_counts = Counter(train.class_names)
            if adapter is not None:
                _check_train_part(train, adapter)
            check_balance(settings, train_counts, problems, field="image_set.settings")
            if not begins_from_images(settings):  # it was there to be counted
                train = None
    # Whether an adapter that isn't trained yet will have captions, its own request says.
    has_captions = adapter is None or bool(adapter_settings(adapter).caption_column)
    _check_prompts(settings, problems, captions=has_captions)
    check_guidance(settings, problems, field="image_set.settings")
    check_sampler(settings, problems, field="image_set.settings")
    if adapter is not None:
        check_scale(settings, adapter_settings(adapter), problems, field="image_set.settings")
    warnings: list[str] = []
    if adapter is None and image_set.base_model:
        with problems:
            model = resolve(image_set.base_model, field="adapter.settings.base_model", weights=False, store=store)
            warnings += check_schedule(settings, model.schedule, problems, field="image_set.settings")
    check_classes(image_set.class_images, classes_made(adapter) if adapter else None, problems)
    images = {item.label: item.images for item in image_set.class_images}
    if not images and adapter is not None:
        check_labels(settings, classes_made(adapter), problems, field="image_set.settings")
        images = asked_images(
            image_set.settings, train_counts, dict.fromkeys(classes_made(adapter), settings.per_class)
        )
    parts = adapter_parts(adapter) if adapter is not None else []
    if train is not None:
        with problems:
            _check_sources(settings, train, images, parts)
        per = adapter_settings(adapter).per if adapter is not None else ""
        of_made = {label: train_counts[label] for label, count in images.items() if count}
        check_pairs(settings, per, of_made, problems, field="image_set.settings")
        check_classes_to_tell(settings, of_made, train_counts, problems, field="image_set.settings")
    _check_fusion(settings, adapter, parts, images, problems)
    problems.raise_if_any()
    request = canonical_request(
        settings,
        adapter_id=name.id,
        more_adapters=[item.id for item in more],
        class_images=images,
        train_digest="" if train is None else train.digest,
    )
    target = ArtifactName(IMAGE_SETS, digest_of(request))
    total = sum(images.values())
    done = total if find_manifest(store, target) is not None else 0
    if adapter is not None and not done:
        warnings += _check_base_model(store, adapter, settings)
    sampler = named_sampler(settings)
    cost = mean_of_classes(relative_cost, settings, images, train_counts)
    answers = total * cost * (1 if sampler is None else sampler.answers)
    inverted = sources_inverted(settings, images, train_counts)
    answers += inversion_cost(settings, inverted) + latent_guidance_cost(settings, total)
    seconds = START_SECONDS + answers * SECONDS_PER_IMAGE_STEP
    seconds += SECONDS_PER_ADAPTER * adapter_changes(settings, parts, images)
    return Planned(
        request,
        {} if train is None else {"train_split": str(train.name)},
        operations_pb2.Plan(
            target=str(target),
            total=total,
            done=done,
            unit="images",
            predicted_seconds=0.0 if done else seconds,
            tasks=0 if done else shard_count(total),
            warnings=warnings,
            quantities=_quantities(settings, images, train_counts, inverted),
        ),
    )


def _more_adapters(
    store: ObjectStore, image_set: image_sets_pb2.ImageSet, problems: Problems, *, validate_only: bool
) -> dict[ArtifactName, Manifest | None]:
    """The adapters whose changes are added to those of the first. Raises NotFound, and collects what is no adapter."""
    found: dict[ArtifactName, Manifest | None] = {}
    for index, text in enumerate(image_set.more_adapters):
        field = f"image_set.more_adapters[{index}]"
        with problems:
            name = ArtifactName.parse(text, field=field, collection=ADAPTERS)
            if name in found or text == image_set.adapter:
                raise invalid_field(
                    field, text, "is there twice", "leave one out, and add its weights up", reason="DUPLICATE_VALUE"
                )
            found[name] = _find_adapter(store, name, field=field, may_be_missing=validate_only)
    return found


def _find_adapter(store: ObjectStore, name: ArtifactName, *, field: str, may_be_missing: bool) -> Manifest | None:
    """None if it is not there, and may be. Raises NotFound if it may not."""
    adapter = find_manifest(store, name)
    if adapter is None and not may_be_missing:
        raise NotFound(
            f"{field}: {name} does not exist; create it first",
            reason="ARTIFACT_NOT_FOUND",
            metadata={"artifact": str(name)},
        )
    return adapter


def _check_summed(settings: image_sets_pb2.SynthesisSettings, adapters: Sequence[Manifest], problems: Problems) -> None:
    """Collects adapters that cannot be added up. Raises FailedPrecondition for those of different train parts."""
    first, *others = adapters
    for other in others:
        if other.inputs.get("train_split") != first.inputs.get("train_split"):
            raise unmet_precondition(
                "image_set.more_adapters",
                f"{other.name} was not trained on the train part of {first.name}, so that no split may use what both "
                "make; use adapters of one train part",
                reason="TRAIN_SPLITS_DIFFER",
                metadata={"artifact": str(other.name)},
            )
    of_each = [adapter_settings(item) for item in adapters]
    for own, item in zip(of_each, adapters, strict=True):
        own.base_model = item.inputs["base_model"]  # by its digest: it may have two names
    whats = [str(item.name) for item in adapters]
    check_summed(settings, of_each, problems, field="image_set.settings", whats=whats)


def _quantities(
    settings: image_sets_pb2.SynthesisSettings,
    images: Mapping[str, int],
    train_counts: Mapping[str, int],
    inverted: int,
) -> list[operations_pb2.Quantity]:
    """What a strength, by class if it goes by train images, or an inversion of so many of them comes to."""
    if not begins_from_images(settings):
        return []
    named = {"steps that an image goes through": mean_of_classes(mean_steps, settings, images, train_counts)}
    if settings.strengths_by_images:
        of_classes = {label: of_class(settings, train_counts[label]) for label in sorted(images)}
        named |= {f"strength of {label}": own.strength for label, own in of_classes.items()}
    if is_inverted(settings):
        named |= {"train images that are inverted": inverted, "steps of an inversion": settings.inversion_steps}
    return [operations_pb2.Quantity(name=name, value=value) for name, value in named.items()]


def _check_train_part(train: TrainPart, adapter: Manifest) -> None:
    """Raises FailedPrecondition for images that the adapter was not trained on: they may be any split's test images."""
    if adapter.inputs.get("train_split") != train.digest:
        raise unmet_precondition(
            "image_set.train_split",
            f"{train.name} is not what {adapter.name} was trained on, and its images may be test images of that split; "
            "use the adapter's own train part",
            reason="TRAIN_SPLITS_DIFFER",
            metadata={"artifact": str(adapter.name)},
        )


def _check_sources(
    settings: image_sets_pb2.SynthesisSettings,
    train: TrainPart,
    images: Mapping[str, int],
    parts: Sequence[AdapterPart],
) -> None:
    """Raises InvalidArgument for a class whose images cannot begin from any, or not from those that are asked for."""
    if is_of_any_class(settings):
        if any(part.image for part in parts):
            raise invalid_field(
                "image_set.settings.source",
                settings.source,
                "may be another image than that of the adapter, and an adapter of one image goes on from this one",
                f"use {SAME_CLASS}, or an adapter with per: class",
            )
        return
    if is_of_pairs(settings):
        return
    there = Counter(train.class_names)
    without = [label for label, count in images.items() if count and not there[label]]
    if without:
        raise invalid_field(
            "image_set.class_images",
            without[0],
            "is a class without train images, and images with a strength begin from train images of their class",
            "leave the class out, or leave strength out",
        )


def _check_prompts(settings: image_sets_pb2.SynthesisSettings, problems: Problems, *, captions: bool) -> None:
    """Collects prompts that are there twice, and those with other places than the class's name.

    Args:
        captions: Whether {caption} may be one.
    """
    if settings.prompt in settings.more_prompts:
        place = list(settings.more_prompts).index(settings.prompt)
        problems.found.append(
            invalid_field(
                f"image_set.settings.more_prompts[{place}]",
                settings.prompt,
                "is the prompt too",
                "leave one of them out",
                reason="DUPLICATE_VALUE",
            )
        )
    for field, prompt in _prompts(settings):
        with problems:
            check_prompt(field, prompt, captions=captions)


def _prompts(settings: image_sets_pb2.SynthesisSettings) -> list[tuple[str, str]]:
    """Each prompt with its field."""
    more = [(f"image_set.settings.more_prompts[{index}]", prompt) for index, prompt in enumerate(settings.more_prompts)]
    return [("image_set.settings.prompt", settings.prompt), *more]


def _check_fusion(
    settings: image_sets_pb2.SynthesisSettings,
    adapter: Manifest | None,
    parts: Sequence[AdapterPart],
    images: Mapping[str, int],
    problems: Problems,
) -> None:
    """Collects what two adapters of images cannot be fused for, as far as the adapter is known."""
    field = "image_set.settings"
    with problems:
        if settings.fusion_weight != default_of(_FUSION_WEIGHT) and not is_fused(settings):
            raise invalid_field(
                f"{field}.fusion_weight",
                settings.fusion_weight,
                "is of two adapters that are fused, and there is one",
                "set fused_adapters: 2, or leave fusion_weight out",
            )
    if adapter is not None:
        of_classes = {label: sum(part.label == label for part in parts) for label in images}
        check_fusion(settings, adapter_settings(adapter), of_classes, problems, field=field)


def adapter_changes(
    settings: image_sets_pb2.SynthesisSettings, parts: Sequence[AdapterPart], images: Mapping[str, int]
) -> int:
    """How often a worker puts another adapter into the base model, at most, where each train image has one.

    In a shard each adapter comes once, for all images that are made with it.

    Args:
        parts: The adapters.
        images: Of each class.
    """
    changes = 0
    for label, count in images.items():
        own = sum(bool(part.image) and part.label == label for part in parts)
        different = own * (own - 1) if is_fused(settings) else own
        changes += min(count, shard_count(count) * min(different, SHARD_IMAGES))
    return changes


def filled(given: image_sets_pb2.SynthesisSettings, adapter: Manifest | None) -> image_sets_pb2.SynthesisSettings:
    """A copy in which every field that a user may leave out has its value: the declared one, or the adapter's."""
    full = with_defaults(given)
    set_default(full, "per_class", PER_CLASS)
    if adapter is not None:
        set_default(full, "prompt", adapter_settings(adapter).prompt)
    return full


def check_classes(
    class_images: Sequence[image_sets_pb2.ClassImages], known: Sequence[str] | None, problems: Problems
) -> None:
    """Collects classes that the adapter hasn't, that are there twice, or of which too few or too many are asked."""
    labels = [item.label for item in class_images]
    for index, item in enumerate(class_images):
        field = f"image_set.class_images[{index}]"
        with problems:
            if known is not None:
                check_choice(f"{field}.label", item.label, known)
        with problems:
            if item.label in labels[:index]:
                raise invalid_field(
                    f"{field}.label", item.label, "is there twice", "leave one out", reason="DUPLICATE_VALUE"
                )
        with problems:
            check_range(f"{field}.images", item.images, 1, MOST_IMAGES_OF_A_CLASS)


def canonical_request(
    settings: image_sets_pb2.SynthesisSettings,
    *,
    adapter_id: str,
    class_images: Mapping[str, int],
    more_adapters: Sequence[str] = (),
    train_digest: str = "",
) -> dict[str, Any]:
    """What an image set's digest is of. `settings` are filled.

    Args:
        more_adapters: The ids of those whose changes are added.
        class_images: Images of each class.
        train_digest: Of the train part whose images others begin from; "" if none do.
    """
    # Inversions are of pairs, whether that is said or not.
    implied = ["source"] if is_inverted(settings) else []
    return {
        "settings": canonical(settings, without=[*COUNT_FIELDS, *implied]),
        "adapter": adapter_id,
        "class_images": dict(sorted(class_images.items())),
        "recipe_version": RECIPE_VERSION,
        # What came later, and is not there, leaves addresses as they are.
        **({MORE_ADAPTERS: list(more_adapters)} if more_adapters else {}),
        **({"train_split": train_digest} if train_digest else {}),
    }


def _check_base_model(store: ObjectStore, adapter: Manifest, settings: image_sets_pb2.SynthesisSettings) -> list[str]:
    """What the adapter's base model makes of prompts, steps and sampler. Returns warnings, raises InvalidArgument."""
    model = resolve_again(
        adapter.summary["base_model"],
        adapter.inputs["base_model"],
        field="adapter.settings.base_model",
        weights=False,
        store=store,
    )
    problems = Problems()
    warnings = check_schedule(settings, model.schedule, problems, field="image_set.settings")
    problems.raise_if_any()
    # All of the adapter's classes, also those that the set leaves out: an image of one might be any other's.
    classes = adapter.summary["classes"]
    tokenizers = model.tokenizers()
    for field, prompt in _prompts(settings):
        warnings += _check_prompt_tokens(store, adapter, field, prompt, classes, tokenizers)
    warnings += check_negative(settings.negative_prompt, classes, tokenizers)
    if is_imported(adapter):
        warnings.append(
            f"{adapter.name} was imported: it is not known on which images it was trained, so that evaluations and "
            "studies refuse this image set"
        )
    return warnings


def _check_prompt_tokens(
    store: ObjectStore,
    adapter: Manifest,
    field: str,
    prompt: str,
    classes: Sequence[str],
    tokenizers: Sequence[PromptTokenizer],
) -> list[str]:
    """What a text encoder gets of each class's prompt, or of each caption's that may be drawn."""
    learned = adapter_settings(adapter).class_tokens
    if "{caption}" not in prompt:
        return check_tokens(field, prompt, classes, tokenizers, class_tokens=learned)
    captions = adapter_captions(store, adapter)
    without = [label for label in classes_made(adapter) if label not in captions]
    if without:
        raise invalid_field(
            field,
            prompt,
            f"has {{caption}}, and the adapter was trained on no images of the class {without[0]!r}, whose captions "
            "could be asked for",
            "write a prompt with {label} alone",
            reason="PROMPT_WITHOUT_CAPTIONS",
        )
    images = [(label, caption) for label, of_class in captions.items() for caption in of_class]
    return check_captioned(field, prompt, images, classes, tokenizers, class_tokens=learned)
