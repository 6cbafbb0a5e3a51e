"""What a base model's small files say, checked against what training and sampling need: without torch and weights.

Where a file leaves a key out, diffusers and transformers take their default, and so do the checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open

from synthmix.latent_diffusion.model_folder import (
    FP16,
    INCOMPLETE,
    LONGEST_SHOWN,
    UNSUPPORTED,
    WEIGHTS,
    ModelFolder,
    is_number,
    is_whole,
    shown,
)
from synthmix.latent_diffusion.model_kinds import INDEX, SDXL, USE, ModelKind, unsupported
from synthmix.latent_diffusion.schedulers import EPSILON, LEADING, SCHEDULERS, SPACINGS, NoiseSchedule
from synthmix.latent_diffusion.tokens import check_tokenizer
from synthmix.service_kit.quantities import listed, shortened
from synthmix.service_kit.safetensors_header import read_header

# The files that diffusers and transformers load a component's weights from; {name}.index.json if they are in shards.
WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
LIBRARIES = {
    "unet": "diffusers",
    "vae": "diffusers",
    "text_encoder": "transformers",
    "text_encoder_2": "transformers",
    "tokenizer": "transformers",
    "tokenizer_2": "transformers",
    "scheduler": "diffusers",
}
# What else the pipelines of Stable Diffusion and SDXL have. It is never loaded.
LEFT_OUT = {
    "safety_checker": (
        ["stable_diffusion", "StableDiffusionSafetyChecker"],
        ["stable_diffusion", "SafeStableDiffusionSafetyChecker"],
    ),
    "feature_extractor": (["transformers", "CLIPImageProcessor"], ["transformers", "CLIPFeatureExtractor"]),
    "image_encoder": (["transformers", "CLIPVisionModelWithProjection"],),
}
COMMON_SCHEDULER = "such as DDIMScheduler, PNDMScheduler or EulerDiscreteScheduler"
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
LARGEST_IMAGE_PX = 2048
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
# Of SDXL: sizes that its UNet is told of an image, and what its refiner is told, which has an aesthetic score for two.
TIME_IDS, REFINERS_TIME_IDS = 6, 5
# The text encoder that has a projection of a whole prompt.
PROJECTING = "text_encoder_2"


@dataclass(frozen=True)
class Sizes:
    """What the checks found.

    Attributes:
        image_size_px: The side of the square images that the model was trained for.
        latent_factor: Pixels of an image's side for each of its latents' side.
        schedule: What its scheduler says.
        kind: What parts the model has.
    """

    image_size_px: int
    latent_factor: int
    schedule: NoiseSchedule
    kind: ModelKind


def check_files(model: ModelFolder, index: Mapping[str, Any], kind: ModelKind) -> Sizes:
    """Checks all small files of a model of a kind. The folders of its components are there.

    Raises:
        InvalidArgument, Unimplemented: At the model's field, naming the file, its value and what to do.
    """
    names = {component: _class_of(model, index, component) for component in kind.components}
    _check_no_other(model, index, kind)
    unet = _config(model, "unet", names["unet"])
    latent_channels, factor = _check_autoencoder(_config(model, "vae", names["vae"]))
    _check_channels(unet, latent_channels)
    text = {encoder: _text_sizes(model, encoder) for encoder in kind.text_encoders}
    _check_conditions(unet, kind, text)
    _check_text_width(unet, {encoder: sizes["hidden_size"] for encoder, sizes in text.items()})
    schedule = _check_scheduler(model, names["scheduler"])
    _check_tokenizers(model, kind, text)
    size_px = _image_size(unet, factor)
    of_unet = {"conv_in.weight": (1, "in_channels", unet.get("in_channels", 4))}
    if kind is SDXL:
        _check_force_zeros(model, index)
        key = "projection_class_embeddings_input_dim"
        of_unet["add_embedding.linear_1.weight"] = (1, key, unet.get(key))
    _check_weights(
        model,
        {
            "unet": of_unet,
            "vae": {"decoder.conv_in.weight": (1, "latent_channels", latent_channels)},
            **{encoder: _text_tensors(encoder, sizes) for encoder, sizes in text.items()},
        },
    )
    return Sizes(size_px, factor, schedule, kind)


def _text_tensors(encoder: str, sizes: Mapping[str, int]) -> dict[str, tuple[int, str, int]]:
    """The tensors of a text encoder to compare, as `_check_weights` takes them."""
    keys = {
        "text_model.embeddings.token_embedding.weight": "vocab_size",
        "text_model.final_layer_norm.weight": "hidden_size",
    }
    if encoder == PROJECTING:
        keys["text_projection.weight"] = "projection_dim"
    return {tensor: (0, key, sizes[key]) for tensor, key in keys.items()}


def _class_of(model: ModelFolder, index: Mapping[str, Any], component: str) -> str:
    """The class that model_index.json names for a component."""
    entry = index.get(component)
    if entry is None or entry == [None, None]:
        raise model.fault(
            f"has no {component} by its {INDEX}", f"list the {component} there, or give a whole model", INCOMPLETE
        )
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(item, str) for item in entry)):
        raise model.fault(
            f"has {shown(entry)} for {component} in its {INDEX}, not a library and a class",
            f"copy {INDEX} again from where the model came from",
            INCOMPLETE,
        )
    library, name = entry
    if library != LIBRARIES[component]:
        raise _foreign(model, component, entry)
    if component == "scheduler":
        if name not in SCHEDULERS:
            raise _wrong_scheduler(model, name, INDEX)
    elif name not in CLASSES[component]:
        raise unsupported(model, f"has a {component} of the class {shown(name)} and not {CLASSES[component][0]}", USE)
    return str(name)


def _check_no_other(model: ModelFolder, index: Mapping[str, Any], kind: ModelKind) -> None:
    """Raises InvalidArgument if an index names a component that its kind has not, or another's class for it."""
    for component, entry in index.items():
        if component in kind.components or not isinstance(entry, (list, dict)) or entry == [None, None]:
            continue
        if component not in LEFT_OUT or entry not in LEFT_OUT[component]:
            raise _foreign(model, component, entry)


def _foreign(model: ModelFolder, component: str, entry: object) -> Exception:
    return model.fault(
        f"names {shown(entry)} for {shown(component)} in its {INDEX}, which is no class of those that are loaded, and "
        "code of a model is never run",
        USE,
        UNSUPPORTED,
    )


def _wrong_scheduler(model: ModelFolder, name: str, where: str) -> Exception:
    kind = (
        "is a flow-matching scheduler: adapters are trained, and images sampled, for noise that is added by steps"
        if name.startswith(("FlowMatch", "FlowMap", "LTXEuler", "Piflow"))
        else "is no scheduler that adapters can be trained and images sampled with"
    )
    return model.fault(
        f"names the scheduler {shown(name)} in its {where}, which {kind}",
        f"name one of the model's own kind there, {COMMON_SCHEDULER}, or {USE}",
        UNSUPPORTED,
    )


@dataclass(frozen=True)
class _Config:
    """What one of the model's JSON files says."""

    model: ModelFolder
    file: str
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def whole(self, key: str, default: int | None = None) -> int:
        """Raises InvalidArgument unless it is a whole number of 1 or more."""
        if not is_whole(self.get(key, default)):
            raise self.wrong(key, "it must be a whole number of 1 or more")
        return int(self.get(key, default))

    def wrong(self, key: str, remedy: str) -> Exception:
        """The error for a value that cannot be used."""
        return self.model.fault(f"says {key} {shown(self.get(key))} in its {self.file}", remedy)


def _config(model: ModelFolder, component: str, expected: str) -> _Config:
    config = _Config(model, f"{component}/config.json", model.json(f"{component}/config.json"))
    name = config.get("_class_name", expected)
    if name != expected:
        raise unsupported(model, f"has {shown(name)} in its {config.file} and not {expected}", USE)
    return config


def _check_autoencoder(vae: _Config) -> tuple[int, int]:
    """Latent channels, and pixels of a side for each latent of a side."""
    latent_channels = vae.whole("latent_channels", 4)
    for key in ("in_channels", "out_channels"):
        if vae.get(key, 3) != 3:
            raise vae.wrong(key, "the autoencoder must take and give images of 3 channels")
    blocks = vae.get("block_out_channels", [64])
    if not isinstance(blocks, list) or not blocks or len(blocks) > 8 or not all(is_whole(item) for item in blocks):
        raise vae.wrong("block_out_channels", "it must be a list of whole numbers, one a block")
    scaling = vae.get("scaling_factor", 0.18215)
    if not is_number(scaling) or not 0 < scaling < 1e6:
        raise vae.wrong("scaling_factor", "it must be a number above 0, such as 0.18215")
    if vae.get("shift_factor") not in (None, 0):
        raise vae.wrong("shift_factor", f"shifted latents belong to SD3 and FLUX models; {USE}")
    return latent_channels, 2 ** (len(blocks) - 1)


def _check_channels(unet: _Config, latent_channels: int) -> None:
    into, out = (unet.whole(key, 4) for key in ("in_channels", "out_channels"))
    autoencoder = f"an autoencoder of {latent_channels} latent channels (vae/config.json, latent_channels)"
    if into != latent_channels:
        kind = {
            2 * latent_channels + 1: "an inpainting model",
            2 * latent_channels: "a model that edits images (instruct-pix2pix) or estimates from them",
            latent_channels + 1: "a depth-to-image model",
            latent_channels + 3: "an upscaler",
        }.get(into, "a model that takes more than a noisy image, or another model's autoencoder")
        raise unet.model.fault(
            f"has a UNet of {into} input channels ({unet.file}, in_channels) and {autoencoder}, as {kind} has",
            "use the text-to-image model of its kind, whose numbers are equal",
        )
    if out != latent_channels:
        raise unet.model.fault(
            f"has a UNet of {out} output channels ({unet.file}, out_channels) and {autoencoder}",
            "use a model whose numbers are equal",
        )


def _check_conditions(unet: _Config, kind: ModelKind, text: Mapping[str, Mapping[str, int]]) -> None:
    """A UNet that wants more than its kind's gets nothing of it from training or sampling.

    Args:
        text: Sizes of each text encoder.
    """
    if kind is SDXL:
        _check_added(unet, text[PROJECTING]["projection_dim"])
    for key in ("addition_embed_type", "class_embed_type", "num_class_embeds"):
        if unet.get(key) is not None and not (kind is SDXL and key == "addition_embed_type"):
            raise unet.model.fault(
                f"has a UNet that wants more than {kind.name}'s, which reads a prompt"
                f"{' and sizes' if kind is SDXL else ', as SDXL does'} ({unet.file} says {key} {shown(unet.get(key))})",
                USE,
                UNSUPPORTED,
            )
    if unet.get("encoder_hid_dim_type") not in (None, "text_proj"):
        raise unet.wrong("encoder_hid_dim_type", f"prompts alone are given; {USE}")
    lists = [unet.get(key) for key in ("down_block_types", "up_block_types", "block_out_channels")]
    given = [value for value in lists if value is not None]
    if not all(isinstance(value, list) and value for value in given) or len({len(value) for value in given}) > 1:
        raise unet.model.fault(
            f"does not list as many down_block_types as up_block_types and block_out_channels in its {unet.file}",
            f"copy {unet.file} again from where the model came from",
        )


def _check_added(unet: _Config, pooled: int) -> None:
    """Raises InvalidArgument unless SDXL's UNet takes what it is told besides: a prompt's summary, and six sizes.

    Args:
        pooled: How many numbers the summary has.
    """
    kind = unet.get("addition_embed_type")
    if kind != "text_time":
        raise unet.model.fault(
            f"is SDXL by its {INDEX}, whose UNet is told the sizes of images, and says addition_embed_type "
            f"{shown(kind)} in its {unet.file}, not text_time",
            "give index and UNet of the same model",
        )
    width, inputs = unet.whole("addition_time_embed_dim"), unet.whole("projection_class_embeddings_input_dim")
    if inputs == REFINERS_TIME_IDS * width + pooled:
        raise unsupported(
            unet.model,
            f"has the UNet of SDXL's refiner, which is told an aesthetic score ({unet.file}, "
            f"projection_class_embeddings_input_dim {inputs})",
            "use SDXL's base model",
        )
    if inputs != TIME_IDS * width + pooled:
        raise unet.model.fault(
            f"has a UNet made for {inputs} numbers beside a prompt's embeddings ({unet.file}, "
            f"projection_class_embeddings_input_dim), which would get {TIME_IDS * width + pooled}: {TIME_IDS} times "
            f"{width} of an image's sizes (addition_time_embed_dim) and {pooled} of the prompt "
            "(text_encoder_2/config.json, projection_dim)",
            "give the text encoder that the UNet was trained with",
        )


def _check_force_zeros(model: ModelFolder, index: Mapping[str, Any]) -> None:
    key = "force_zeros_for_empty_prompt"
    if not isinstance(index.get(key, True), bool):
        raise model.fault(
            f"says {key} {shown(index[key])} in its {INDEX}", "it must be true or false, true for SDXL's base model"
        )


def _check_tokenizers(model: ModelFolder, kind: ModelKind, text: Mapping[str, Mapping[str, int]]) -> None:
    """Raises InvalidArgument unless each text encoder's tokenizer can be used, and all keep as many tokens."""
    longest = {
        tokenizer: check_tokenizer(
            model,
            vocabulary_size=text[encoder]["vocab_size"],
            positions=text[encoder]["max_position_embeddings"],
            tokenizer=tokenizer,
            encoder=encoder,
        )
        for tokenizer, encoder in zip(kind.tokenizers, kind.text_encoders, strict=True)
    }
    if len(set(longest.values())) > 1:
        said = " and ".join(f"{count} ({tokenizer}/tokenizer_config.json)" for tokenizer, count in longest.items())
        raise model.fault(
            f"has tokenizers that keep different numbers of tokens, model_max_length {said}, and what its text "
            "encoders answer is joined token by token",
            "write the same number into both, 77 for CLIP",
        )


def _text_sizes(model: ModelFolder, component: str) -> dict[str, int]:
    """Sizes of a text encoder: vocab_size, hidden_size, max_position_embeddings, and projection_dim if it projects."""
    file = f"{component}/config.json"
    values = model.json(file)
    if values.get("model_type") == "clip" and isinstance(values.get("text_config"), dict):
        values = values["text_config"]
    kind = values.get("model_type", "clip_text_model")
    if kind != "clip_text_model":
        raise unsupported(
            model, f"has a text encoder of the kind {shown(kind)} and not CLIP's ({file}, model_type)", USE
        )
    config = _Config(model, file, values)
    defaults = {"vocab_size": 49408, "hidden_size": 512, "max_position_embeddings": 77}
    if component == PROJECTING:
        defaults["projection_dim"] = 512
    return {key: config.whole(key, default) for key, default in defaults.items()}


def _check_text_width(unet: _Config, hidden_sizes: Mapping[str, int]) -> None:
    """Raises InvalidArgument unless the UNet reads what the text encoders' answers are together."""
    key = "cross_attention_dim" if unet.get("encoder_hid_dim") is None else "encoder_hid_dim"
    value = unet.get(key, 1280)
    widths = value if isinstance(value, list) and value else [value]
    if not all(is_whole(item) for item in widths):
        raise unet.wrong(key, "it must be a whole number, the text encoder's hidden_size")
    if set(widths) != {sum(hidden_sizes.values())}:
        encoders = " and ".join(
            f"a text encoder of width {size} ({component}/config.json, hidden_size)"
            for component, size in hidden_sizes.items()
        )
        raise unet.model.fault(
            f"has a UNet made for text of width {shown(value)} ({unet.file}, {key}) and {encoders}",
            "give the text encoder that the UNet was trained with",
        )


def _check_scheduler(model: ModelFolder, name: str) -> NoiseSchedule:
    """Returns what it says of the noise that the model was trained with."""
    config = _Config(model, SCHEDULER_CONFIG, model.json(SCHEDULER_CONFIG))
    own = config.get("_class_name", name)
    if own not in SCHEDULERS:
        raise _wrong_scheduler(model, str(own), SCHEDULER_CONFIG)

    def choice(key: str, default: str, choices: tuple[str, ...]) -> None:
        if config.get(key, default) not in choices:
            raise config.wrong(key, f"{name} knows {', '.join(choices)}")

    choice("prediction_type", EPSILON, SCHEDULERS[name].prediction_types)
    choice("timestep_spacing", LEADING, SPACINGS)
    steps = config.get("num_train_timesteps", 1000)
    if not is_whole(steps, 1, 100_000):
        raise config.wrong("num_train_timesteps", "it must be a whole number of 1 or more, 1000 in most models")
    schedule = NoiseSchedule(
        name,
        config.get("prediction_type", EPSILON),
        int(steps),
        zero_terminal_snr=SCHEDULERS[name].zero_terminal_snr and config.get("rescale_betas_zero_snr") is True,
    )
    betas = config.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list) or len(betas) != steps or not all(map(_is_beta, betas)):
            raise config.wrong("trained_betas", f"it must be null, or {steps} numbers between 0 and 1")
        return schedule
    choice("beta_schedule", "linear", BETA_SCHEDULES)
    first, last = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    for key, value in (("beta_start", first), ("beta_end", last)):
        if not _is_beta(value):
            raise config.wrong(key, "it must be a number between 0 and 1")
    if first > last:
        raise model.fault(
            f"says beta_start {first} and beta_end {last} in its {config.file}", "beta_start must not be above beta_end"
        )
    return schedule


def _is_beta(value: object) -> bool:
    return is_number(value) and 0 < value < 1


def _image_size(unet: _Config, factor: int) -> int:
    """The side of the images that the UNet was trained for, of latents as config.json has it: a number, or a pair."""
    key, size = "sample_size", unet.get("sample_size")
    example = f"write the side of its latents there, such as 64 for images of {64 * factor} pixels"
    if size is None:
        raise unet.model.fault(f"does not say what images it was trained for ({unet.file} has no {key})", example)
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if not all(is_whole(side) for side in sides):
        raise unet.wrong(key, example)
    if len(set(sides)) > 1:
        raise unet.wrong(key, "images are square here; use a model that was trained on squares")
    size_px = int(sides[0]) * factor
    if size_px > LARGEST_IMAGE_PX:
        raise unet.wrong(key, f"images of at most {LARGEST_IMAGE_PX} pixels are made; {USE}")
    return size_px


def _check_weights(model: ModelFolder, sizes: Mapping[str, Mapping[str, tuple[int, str, int]]]) -> None:
    """Each component's weights are where they are loaded from, are whole, and are of the size that its config says.

    Args:
        sizes: For each component the tensors to compare, with the axis, the config's key and its value.
    """
    for component, compared in sizes.items():
        shapes: dict[str, tuple[int, ...]] = {}
        for name in weight_files(model, component):
            if name not in model.elsewhere:
                shapes |= tensor_shapes(model, name)
        for tensor, (axis, key, value) in compared.items():
            shape = shapes.get(tensor)
            if shape is not None and (len(shape) <= axis or shape[axis] != value):
                raise model.fault(
                    f"says {key} {value} in its {component}/config.json, and its weights have {tensor} of the shape "
                    f"{list(shape)}",
                    "give config and weights of the same model",
                )


def weight_files(model: ModelFolder, component: str) -> list[str]:
    """Paths of a component's weight files: one, or the shards that its index names."""
    file = WEIGHT_FILES[component]
    whole, variant = f"{component}/{file}", f"{component}/{file.removesuffix(WEIGHTS)}.{FP16}{WEIGHTS}"
    if (model.path / whole).is_file() or whole in model.elsewhere:
        return [whole]
    if not (model.path / f"{whole}.index.json").exists() and (
        (model.path / variant).is_file() or variant in model.elsewhere
    ):
        return [variant]
    index = f"{whole}.index.json"
    if not (model.path / index).exists():
        others = sorted(path.name for path in (model.path / component).glob("*" + WEIGHTS))
        raise model.fault(
            f"has {', '.join(map(shown, others[:3])) or 'no weights'} in {component}, where {file} belongs",
            f"name the weights {file}",
            INCOMPLETE,
        )
    weight_map = model.json(index, largest_bytes=16 << 20).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(_is_name(item) for item in weight_map.values()):
        raise model.fault(f"has no weight_map of files in its {index}", "copy it again", INCOMPLETE)
    names = [f"{component}/{shard}" for shard in sorted(set(weight_map.values()))]
    missing = [name for name in names if name not in model.elsewhere and not (model.path / name).is_file()]
    if missing:
        lacking = listed([shown(name) for name in missing], 1)
        raise model.fault(f"lacks {lacking}, which its {index} names", "copy the missing files too", INCOMPLETE)
    return names


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.endswith(WEIGHTS) and "/" not in value and "\\" not in value


def tensor_shapes(model: ModelFolder, name: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a weight file. Raises InvalidArgument unless its header and length agree."""
    path = model.path / name
    try:
        read_header(path)
        with safe_open(path, framework="np") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except OSError as error:
        raise model.unreadable(name, f"cannot be read ({error})") from error
    except (SafetensorError, ValueError) as error:
        said = shortened(str(error).removeprefix("Error while deserializing header: "), LONGEST_SHOWN)
        with path.open("rb") as file:
            is_pointer = file.read(8) == b"version "
        problem = "is a pointer of Git LFS" if is_pointer else f"is not a whole safetensors file ({said})"
        raise model.unreadable(name, problem) from error
    if not shapes:
        raise model.unreadable(name, "holds no tensors")
    return shapes
