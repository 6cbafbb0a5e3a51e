"""What a CreateAdapter request means: its defaults, its checks, its canonical form and its predicted time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from synthmix.adapter_training import image_options, methods, optimizers, prior_options
from synthmix.adapter_training.held_out_rows import MOST_IMAGES, NOISE_LEVELS
from synthmix.adapter_training.portions import Portion, portions
from synthmix.adapter_training.sampling_defaults import ANSWERS_PER_IMAGE
from synthmix.adapter_training.stopped import end_of, images_seen_before, steps_for
from synthmix.adapter_training.targets import TEXT_TARGETS, adapted_layers, adapted_text_layers
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.image_data.autoencoder_checks import (
    CheckRequest,
    check_warnings,
    find_check,
    not_checked_yet,
    stored_in_colour,
)
from synthmix.image_data.captions import CAPTION_ALONE, train_captions
from synthmix.image_data.generators import DATASET, IMAGE
from synthmix.image_data.image_table import read_index
from synthmix.image_data.split_parts import TrainPart, open_train_part
from synthmix.latent_diffusion.base_model import BUILTIN, BaseModel, resolve
from synthmix.latent_diffusion.model_kinds import STABLE_DIFFUSION
from synthmix.latent_diffusion.part_layers import EMBEDDING, TEXT_ENCODER, UNET, Layer, part_layers
from synthmix.latent_diffusion.prompts import check_captioned, check_class_words, check_prompt, check_tokens
from synthmix.presets.preset_files import refuse as refuse_preset
from synthmix.service_kit.adapter_payloads import FULL, NONE
from synthmix.service_kit.artifact_collection import Planned
from synthmix.service_kit.artifacts import find_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import Problems, invalid_field, missing_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from synthmix.service_kit.settings_messages import canonical, check, default_of, set_default, with_defaults

# Raised whenever the recipe's bytes change, or a declared default: an adapter of another version is another adapter.
RECIPE_VERSION = 3
# Raised where the bytes of trainings in bfloat16 on CPUs change. Which device a request will meet is not known: all
# that ask for bfloat16 get new addresses, on GPUs too.
BFLOAT16_VERSION = 2

# Measured on two cores of a server CPU for the built-in model; Stable Diffusion takes about 400 times the work.
SECONDS_PER_IMAGE_SEEN = {True: 0.028, False: 12.0}
START_SECONDS = 10.0
# Of textual inversion 5e-4: Gal et al. 2023 (arXiv:2208.01618), and diffusers' own script. The built-in model is small:
# tokens alone came to held-out losses of 0.2013 with 5e-4 and 0.1997 with 5e-3 (six phenotypes of nuclei, 960 images
# seen); beside an adapter it makes no difference (0.1986 to 0.1994 from 5e-4 to 2e-2).
CLASS_TOKEN_LEARNING_RATE = {True: 5e-3, False: 5e-4}
_EVALUATIONS = adapters_pb2.AdapterSettings.DESCRIPTOR.fields_by_name["evaluations"]
_PROMPT = adapters_pb2.AdapterSettings.DESCRIPTOR.fields_by_name["prompt"]
# Of what an image seen takes, without the backward pass.
FORWARD_SHARE = 1 / 3
# Of a step in which prompts are encoded, measured on the built-in base model.
TEXT_COST = 1.1


def filled(given: adapters_pb2.AdapterSettings, base_model: BaseModel) -> adapters_pb2.AdapterSettings:
    """A copy in which every field that a user may leave out has its value: declared, the method's, or the base model's.

    Args:
        given: With a method that there is, as check_method has found.

    Raises:
        InvalidArgument: The block size follows from the targets, which can't be carried out.
    """
    full = with_defaults(given)
    if full.caption_column and not given.HasField("prompt"):
        full.prompt = CAPTION_ALONE
    builtin = base_model.reference == BUILTIN
    methods.fill(full)
    optimizers.fill(full)
    if "block_size" in methods.fields_of(full.method) and not full.HasField("block_size"):
        full.block_size = methods.default_block_size(full, layers_of(full, base_model))
    if full.loraplus_ratio == 1:
        full.ClearField("loraplus_ratio")  # which is what it is without
    set_default(full, "images_seen", 4800 if builtin else 20000)
    set_default(full, "batch_size", 16 if builtin else 4)
    # A model of a few million parameters bears, and needs, a larger step than Stable Diffusion's 1e-4: 6e-3 learns
    # faster than 2e-3, and 12e-3 no longer does (decision 13).
    factor = methods.of_any(full.method).learning_rate_factor
    set_default(full, "learning_rate", (6e-3 if builtin else 1e-4) * factor)
    if full.text_encoder_targets:
        set_default(full, "text_encoder_learning_rate", full.learning_rate)
    if full.class_tokens:
        rate = full.learning_rate if full.optimizer == "prodigy" else CLASS_TOKEN_LEARNING_RATE[builtin]
        set_default(full, "class_token_learning_rate", rate)
    set_default(full, "image_size", base_model.image_size_px)
    if full.prior_preservation:
        # What the base model knows of a class has no caption.
        named = [prompt for prompt in (full.prompt, *full.more_prompts) if "{caption}" not in prompt]
        set_default(full, "prior_prompt", named[0] if named else default_of(_PROMPT))
    return full


def layers_of(settings: adapters_pb2.AdapterSettings, base_model: BaseModel) -> tuple[Layer, ...]:
    """The layers that are adapted: the UNet's, then the text encoder's.

    None, of no method. Raises SynthMixError if a set or an expression means none, or they can't be had.
    """
    if settings.method in methods.WITHOUT_ADAPTER:
        return ()
    field, of_text = "adapter.settings.base_model", settings.text_encoder_targets
    layers = adapted_layers(settings.targets, part_layers(base_model, UNET, field=field))
    if of_text in TEXT_TARGETS:  # another is a fault of its own
        layers += adapted_text_layers(of_text, part_layers(base_model, TEXT_ENCODER, field=field))
    return layers


def check_method(given: adapters_pb2.AdapterSettings) -> None:
    """Raises InvalidArgument for options that the method has not; for all faults, if there is no such method.

    Args:
        given: As the caller gave them, so that what was left out is known.
    """
    problems = Problems()
    settings = with_defaults(given)
    if settings.method in (*methods.METHODS, *methods.WITHOUT_ADAPTER):
        methods.check_options(settings, problems)
    else:
        check(settings, "adapter.settings", problems)
    problems.raise_if_any()


def check_settings(settings: adapters_pb2.AdapterSettings, base_model: BaseModel) -> None:
    """Raises InvalidArgument for every field that can't be carried out. `settings` are filled."""
    problems = Problems()
    check(settings, "adapter.settings", problems)
    sound = not problems.found
    refuse_preset(settings, problems, field="adapter.settings")
    with problems:
        layers = layers_of(settings, base_model)
        if sound:  # what a method can't do is told of a rank that there can be
            methods.check_layers(settings, layers)
    with problems:
        check_image_size(settings, base_model)
    with problems:
        if settings.least_noise >= settings.most_noise:
            raise invalid_field(
                "adapter.settings.least_noise",
                settings.least_noise,
                f"is not below most_noise, {settings.most_noise:g}",
                "lower it, or raise most_noise: what lies between them is trained",
                reason="OUT_OF_RANGE",
            )
    with problems:
        if settings.HasField("text_encoder_learning_rate") and not settings.text_encoder_targets:
            raise invalid_field(
                "adapter.settings.text_encoder_learning_rate",
                settings.text_encoder_learning_rate,
                "is of an adapter in the text encoder, and there is none",
                f"set text_encoder_targets, to {' or '.join(TEXT_TARGETS)}, or leave it out",
            )
    _check_text(settings, base_model, problems)
    _check_learned(settings, problems)
    if sound:  # by what a batch can be
        _check_stop(settings, problems)
    with problems:
        if settings.patience and not settings.held_out and settings.per != IMAGE:
            raise invalid_field(
                "adapter.settings.patience",
                settings.patience,
                "waits for the loss on held-out images, and none are held out",
                "set held_out, such as 0.1, or leave patience out",
            )
    with problems:
        nothing_is_evaluated = not (settings.held_out or settings.previews) and settings.per != IMAGE
        if settings.evaluations != default_of(_EVALUATIONS) and nothing_is_evaluated:
            raise invalid_field(
                "adapter.settings.evaluations",
                settings.evaluations,
                "says how often the loss on held-out images is measured and previews are made, and there are neither",
                "set held_out, such as 0.1, or previews, such as 4, or leave evaluations out",
            )
    optimizers.check_options(settings, problems)
    prior_options.check_options(settings, problems)
    image_options.check_options(settings, problems)
    for field, prompt in _prompts(settings):
        with problems:
            check_prompt(field, prompt, captions=bool(settings.caption_column))
            if prompt == settings.prompt and field != "adapter.settings.prompt":
                raise invalid_field(
                    field,
                    prompt,
                    "is the prompt itself",
                    "leave it out: all prompts are drawn as often",
                    reason="DUPLICATE_VALUE",
                )
    _check_captions(settings, problems)
    problems.raise_if_any()


def _check_captions(settings: adapters_pb2.AdapterSettings, problems: Problems) -> None:
    """Collects captions that would have no effect, or keep something else from having any."""
    prompts = _prompts(settings)
    with problems:
        if settings.caption_column and not any("{caption}" in prompt for _, prompt in prompts):
            raise invalid_field(
                "adapter.settings.prompt",
                settings.prompt,
                f"has no place for the captions of {settings.caption_column!r}",
                "put {caption} where they belong, such as 'a microscopy image of a {label} cell, {caption}', or leave "
                "the prompt out, to train with the captions alone",
                reason="PROMPT_WITHOUT_CAPTION",
            )
    for field, prompt in prompts:
        with problems:
            if settings.class_tokens and "{caption}" in prompt and "{label}" not in prompt:
                raise invalid_field(
                    field,
                    prompt,
                    "does not name the class, whose tokens would not be learned",
                    "put {label} into it, such as 'a {label} cell, {caption}', or leave class_tokens out",
                    reason="PROMPT_WITHOUT_LABEL",
                )
    with problems:
        if "{caption}" in settings.prior_prompt:
            raise invalid_field(
                "adapter.settings.prior_prompt",
                settings.prior_prompt,
                "has {caption}, and what the base model makes of a class has no caption",
                "leave {caption} out",
                reason="PROMPT_WITHOUT_CAPTIONS",
            )


def _check_text(settings: adapters_pb2.AdapterSettings, base_model: BaseModel, problems: Problems) -> None:
    """Collects what is trained in a text encoder, where a base model has two: which of them, nobody could say yet."""
    for field in ("text_encoder_targets", "class_tokens"):
        with problems:
            if len(base_model.kind.text_encoders) > 1 and getattr(settings, field):
                raise invalid_field(
                    f"adapter.settings.{field}",
                    getattr(settings, field),
                    f"is of the one text encoder that a base model has, and {base_model.kind.name} has two, which stay "
                    "as they are",
                    f"leave it out, or use a base model of {STABLE_DIFFUSION.name}",
                    reason=methods.REASON,
                )


def _check_learned(settings: adapters_pb2.AdapterSettings, problems: Problems) -> None:
    """Collects options of class tokens where there are none, and of adapters where none is trained."""
    for field in ("class_token_word", "class_token_learning_rate", "class_token_images_seen"):
        with problems:
            if settings.HasField(field) and not settings.class_tokens:
                raise invalid_field(
                    f"adapter.settings.{field}",
                    getattr(settings, field),
                    "is of learned class tokens, and there are none",
                    f"set class_tokens, such as 1, or leave {field} out",
                )
    alone = settings.method == NONE
    with problems:
        if alone and not settings.class_tokens:
            raise invalid_field(
                "adapter.settings.method",
                settings.method,
                "leaves nothing to be learned without class_tokens",
                "set class_tokens, such as 1, or use a method that adapts layers",
            )
    for field in ("targets", "text_encoder_targets", "dropout"):
        with problems:
            value = getattr(settings, field)
            default = default_of(settings.DESCRIPTOR.fields_by_name[field])
            if settings.method in methods.WITHOUT_ADAPTER and value and value != default:
                raise invalid_field(
                    f"adapter.settings.{field}",
                    value,
                    f"is of layers that get an adapter, and {settings.method} "
                    f"{methods.of_any(settings.method).sentence}",
                    f"leave it out, or use one of: {', '.join(methods.METHODS)}",
                )
    with problems:
        if settings.class_token_images_seen and (alone or settings.class_token_images_seen >= settings.images_seen):
            raise invalid_field(
                "adapter.settings.class_token_images_seen",
                settings.class_token_images_seen,
                "leaves no images for an adapter" + (", and there is none" if alone else f" of {settings.images_seen}"),
                "leave it out" if alone else f"use less than images_seen, {settings.images_seen}",
                reason="OUT_OF_RANGE",
            )


def _check_tokens_first(settings: adapters_pb2.AdapterSettings, adapters: Sequence[Portion]) -> None:
    """Raises InvalidArgument if the class tokens' turn leaves none of the images that each of several adapters sees."""
    each = adapters[0].images_seen
    if settings.class_token_images_seen >= each and len(adapters) > 1:
        raise invalid_field(
            "adapter.settings.class_token_images_seen",
            settings.class_token_images_seen,
            f"leaves no images for an adapter: each of {len(adapters):,} sees {each:,} of {settings.images_seen:,}",
            f"use less than {each:,}, or raise images_seen",
            reason="OUT_OF_RANGE",
        )


def _check_stop(settings: adapters_pb2.AdapterSettings, problems: Problems) -> None:
    """Collects an end before which nothing was learned, or that is none before the training's own."""
    if not settings.HasField("stop_at"):
        return
    with problems:
        if settings.stop_at >= settings.images_seen:
            raise invalid_field(
                "adapter.settings.stop_at",
                settings.stop_at,
                f"is not below images_seen, {settings.images_seen}, with which the training ends in any case",
                "lower it, or leave it out",
                reason="OUT_OF_RANGE",
            )
    with problems:
        if settings.per != DATASET:
            raise invalid_field(
                "adapter.settings.stop_at",
                settings.stop_at,
                f"ends one training, and each {settings.per} has one of its own",
                "leave it out, or use per: dataset",
            )
    with problems:
        of_tokens = steps_for(settings.class_token_images_seen, settings)
        if settings.class_token_images_seen and steps_for(settings.stop_at, settings) <= of_tokens:
            raise invalid_field(
                "adapter.settings.stop_at",
                settings.stop_at,
                "ends the training while class tokens alone are learned, before the adapter is",
                f"use more than {of_tokens * settings.batch_size}, or a lower class_token_images_seen",
                reason="OUT_OF_RANGE",
            )


def check_image_size(settings: adapters_pb2.AdapterSettings, base_model: BaseModel) -> None:
    """Raises InvalidArgument for a side that the base model's latents do not divide. `settings` have one."""
    multiple_px = max(8, base_model.latent_factor)  # 8 is diffusers' own rule; factors are powers of 2
    if settings.image_size % multiple_px:
        raise invalid_field(
            "adapter.settings.image_size",
            settings.image_size,
            f"is not a multiple of {multiple_px}",
            f"use {base_model.image_size_px} or another multiple of {multiple_px}",
            reason="OUT_OF_RANGE",
        )


def _prompts(settings: adapters_pb2.AdapterSettings) -> list[tuple[str, str]]:
    """Each prompt with its field."""
    more = [(f"adapter.settings.more_prompts[{index}]", prompt) for index, prompt in enumerate(settings.more_prompts)]
    return [("adapter.settings.prompt", settings.prompt), *more]


def canonical_request(
    settings: adapters_pb2.AdapterSettings,
    *,
    train_digest: str,
    base_model_digest: str,
    captions: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What an adapter's digest is of. `settings` are filled; the base model counts by its content, not by its name.

    Args:
        captions: Of each train image, of an adapter with captions.
    """
    request = {
        "settings": canonical(settings, without=["base_model"]),
        "train_split": train_digest,
        "base_model": base_model_digest,
        "recipe_version": RECIPE_VERSION,
    }
    if captions is not None:
        request["captions"] = digest_of(captions)
    if settings.precision == "bfloat16":
        request["bfloat16_version"] = BFLOAT16_VERSION
    return request


def quantities(
    settings: adapters_pb2.AdapterSettings,
    base_model: BaseModel,
    adapters: Sequence[Portion],
    classes: Sequence[str],
) -> list[operations_pb2.Quantity]:
    """What is known of an artifact before it is trained, so that a sweep can be laid out at equal parameters."""
    layers = layers_of(settings, base_model)
    adapted, parameters = len(layers), methods.parameter_count(settings, layers)
    if settings.method == FULL:
        unet = part_layers(base_model, UNET, field="adapter.settings.base_model")
        adapted, parameters = len(unet.adaptable) + len(unet.others), unet.parameters
    vectors = settings.class_tokens * len(classes)
    if vectors:
        parameters += vectors * _text_width(base_model)
    values = {
        "adapters": len(adapters),
        "scale": methods.scale(settings),
        "adapted layers": adapted,
        "parameters": len(adapters) * parameters,
        "held-out images": sum(len(item.held_out) for item in adapters),
    }
    if vectors:
        values["class tokens"] = vectors
    if settings.per == IMAGE:
        values["stored MiB"] = round(image_options.stored_bytes(settings, values["parameters"]) / 2**20, 1)
    return [operations_pb2.Quantity(name=name, value=value) for name, value in values.items()]


def cost(settings: adapters_pb2.AdapterSettings) -> float:
    """Of an image seen, times that of lora in the UNet. `settings` are filled."""
    encodes = settings.text_encoder_targets or settings.class_tokens or settings.caption_column
    of_text = TEXT_COST if encodes else 1.0
    return methods.of_any(settings.method).cost * of_text


def _text_width(base_model: BaseModel) -> int:
    """How many numbers a token's embedding has."""
    layers = part_layers(base_model, TEXT_ENCODER, field="adapter.settings.base_model").adaptable
    [width] = [layer.inputs for layer in layers if layer.name == EMBEDDING]
    return width


def enlarged_images(store: ObjectStore, train: TrainPart, image_size_px: int) -> list[str]:
    """A warning if train images are smaller than what the adapter is trained on."""
    index = read_index(store, train.manifest, ["width_px", "height_px"])
    sides_px = np.minimum(index["width_px"].to_numpy(), index["height_px"].to_numpy())[list(train.index_rows)]
    small_px = sides_px[sides_px < image_size_px]
    if not len(small_px):
        return []
    return [
        f"{len(small_px)} of {len(train)} train images have a side below {image_size_px} pixels (the smallest "
        f"{small_px.min()}) and are enlarged for the adapter, which learns the blur; a base model that was made for "
        "smaller images would not"
    ]


def shown_by_base_model(
    store: ObjectStore, train: TrainPart, base_model: BaseModel, image_size_px: int, *, done: bool
) -> list[str]:
    """Warnings if the base model cannot show the train images, or if that is in doubt and not known yet.

    Args:
        done: Whether the adapter is there, so that nothing will be measured for it any more.
    """
    known = find_check(store, CheckRequest(base_model.digest, train.digest, image_size_px))
    if known is not None:
        return check_warnings(known, base_model=base_model.reference, image_size=image_size_px)
    if done:
        return []
    modes = read_index(store, train.manifest, ["mode"])["mode"].take(list(train.index_rows)).to_pylist()
    in_colour = stored_in_colour(modes, train.pixel_rule.channels)
    return not_checked_yet(in_colour, len(train), base_model=base_model.reference)


def plan(store: ObjectStore, adapter: adapters_pb2.Adapter) -> Planned:
    """Checks a request against what exists, without starting anything. Raises SynthMixError."""
    if not adapter.train_split:
        raise missing_field(
            "adapter.train_split", "use splits/{id}/parts/train, or import an adapter with `synthmix adapters import`"
        )
    reference = with_defaults(adapter.settings).base_model
    base_model = resolve(reference, field="adapter.settings.base_model", weights=False, store=store)
    check_method(adapter.settings)
    settings = filled(adapter.settings, base_model)
    check_settings(settings, base_model)
    missing = optimizers.check_package(settings)
    train = open_train_part(store, adapter.train_split, field="adapter.train_split")
    captions = None
    if settings.caption_column:
        captions = train_captions(store, train, settings.caption_column, field="adapter.settings.caption_column")
    tokenizers = base_model.tokenizers()
    warnings = []
    for field, prompt in _prompts(settings):
        if captions is not None and "{caption}" in prompt:
            captioned = list(zip(train.class_names, captions, strict=True))
            warnings += check_captioned(
                field, prompt, captioned, train.classes, tokenizers, class_tokens=settings.class_tokens
            )
        else:
            warnings += check_tokens(field, prompt, train.classes, tokenizers, class_tokens=settings.class_tokens)
    if settings.class_tokens:
        words = {label: settings.class_token_word or label for label in train.classes}
        check_class_words("adapter.settings.class_token_word", words, tokenizers[0])
    if "{label}" in settings.prior_prompt and settings.prior_prompt != settings.prompt:
        warnings += check_tokens("adapter.settings.prior_prompt", settings.prior_prompt, train.classes, tokenizers)
    image_options.check_adapters(settings, len(train))
    adapters = portions(train, settings)
    _check_tokens_first(settings, adapters)
    known = quantities(settings, base_model, adapters, train.classes)
    [parameters] = [item.value for item in known if item.name == "parameters"]
    image_options.check_bytes(settings, parameters, len(adapters))
    warnings += image_options.said_of(settings, adapters, parameters)
    warnings += [*enlarged_images(store, train, settings.image_size), *missing]
    request = canonical_request(
        settings, train_digest=train.digest, base_model_digest=base_model.digest, captions=captions
    )
    names = {"train_split": str(train.name), "base_model": base_model.reference}
    target = ArtifactName(ADAPTERS, digest_of(request))
    done = find_manifest(store, target) is not None
    warnings += shown_by_base_model(store, train, base_model, settings.image_size, done=done)
    scale = (settings.image_size / base_model.image_size_px) ** 2
    builtin = base_model.reference == BUILTIN
    image_seconds = SECONDS_PER_IMAGE_SEEN[builtin] * base_model.kind.work * cost(settings)
    measured = settings.evaluations * NOISE_LEVELS * sum(min(MOST_IMAGES, len(item.held_out)) for item in adapters)
    of_prior, forward = prior_options.work(settings, len(set(train.labels)))
    shown = settings.evaluations * settings.previews * len(set(train.labels)) * ANSWERS_PER_IMAGE
    end = end_of(settings)
    left = (end - min(images_seen_before(store, request), end)) / settings.images_seen
    learned, seconds_besides = image_options.work(settings, adapters, builtin=builtin)
    images = left * (learned + of_prior + FORWARD_SHARE * (measured + shown)) + FORWARD_SHARE * forward
    seconds = START_SECONDS + seconds_besides + images * image_seconds * scale
    return Planned(
        request,
        names,
        operations_pb2.Plan(
            target=str(target),
            total=end,
            done=end if done else 0,
            unit="images seen",
            predicted_seconds=0.0 if done else seconds,
            tasks=0 if done else 1,
            warnings=warnings,
            quantities=known,
        ),
    )
