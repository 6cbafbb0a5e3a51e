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
from synthmix.latent_diffusion.model_kinds import INDEX, USE, unsupported
from synthmix.latent_diffusion.tokens import check_tokenizer
from synthmix.service_kit.quantities import listed, shortened
from synthmix.service_kit.safetensors_header import read_header

# The files that diffusers and transformers load a component's weights from; {name}.index.json if they are in shards.
WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
LIBRARIES = {
    "unet": "diffusers",
    "vae": "diffusers",
    "text_encoder": "transformers",
    "tokenizer": "transformers",
    "scheduler": "diffusers",
}
# What else the pipelines of Stable Diffusion have. It is never loaded.
LEFT_OUT = {
    "safety_checker": (
        ["stable_diffusion", "StableDiffusionSafetyChecker"],
        ["stable_diffusion", "SafeStableDiffusionSafetyChecker"],
    ),
    "feature_extractor": (["transformers", "CLIPImageProcessor"], ["transformers", "CLIPFeatureExtractor"]),
    "image_encoder": (["transformers", "CLIPVisionModelWithProjection"],),
}
# What adapters are trained for and images are sampled with: tried one by one with diffusers 0.42. Others sample on
# noise levels of their own (EDM, flow matching, consistency models), need more than latents, or run backwards.
EPSILON, VELOCITY, SAMPLE = "epsilon", "v_prediction", "sample"
ANY = (EPSILON, VELOCITY, SAMPLE)
SCHEDULERS = {
    "DDIMScheduler": ANY,
    "DDIMParallelScheduler": ANY,
    "DDPMScheduler": ANY,
    "DDPMParallelScheduler": ANY,
    "DEISMultistepScheduler": ANY,
    "DPMSolverMultistepScheduler": ANY,
    "DPMSolverSinglestepScheduler": ANY,
    "EulerDiscreteScheduler": ANY,
    "EulerAncestralDiscreteScheduler": (EPSILON, VELOCITY),
    "HeunDiscreteScheduler": ANY,
    "KDPM2DiscreteScheduler": (EPSILON, VELOCITY),
    "KDPM2AncestralDiscreteScheduler": (EPSILON, VELOCITY),
    "LCMScheduler": ANY,
    "LMSDiscreteScheduler": ANY,
    "PNDMScheduler": (EPSILON, VELOCITY),
    "SASolverScheduler": ANY,
    "TCDScheduler": ANY,
    "UniPCMultistepScheduler": ANY,
}
COMMON_SCHEDULER = "such as DDIMScheduler, PNDMScheduler or EulerDiscreteScheduler"
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SPACINGS = ("leading", "linspace", "trailing")
LARGEST_IMAGE_PX = 2048
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Sizes:
    """What the checks found.

    Attributes:
        image_size_px: The side of the square images that the model was trained for.
        latent_factor: Pixels of an image's side for each of its latents' side.
        train_timesteps: Noise levels; sampling can't take more steps.
    """

    image_size_px: int
    latent_factor: int
    train_timesteps: int


def check_files(model: ModelFolder, index: Mapping[str, Any]) -> Sizes:
    """Checks all small files of a Stable Diffusion 1.x or 2.x model. The folders of its components are there.

    Raises:
        InvalidArgument, Unimplemented: At the model's field, naming the file, its value and what to do.
    """
    names = {component: _class_of(model, index, component) for component in (*CLASSES, "scheduler")}
    _check_no_other(model, index)
    unet = _config(model, "unet", names["unet"])
    latent_channels, factor = _check_autoencoder(_config(model, "vae", names["vae"]))
    _check_channels(unet, latent_channels)
    _check_conditions(unet)
    text = _text_sizes(model)
    _check_text_width(unet, text["hidden_size"])
    train_timesteps = _check_scheduler(model, names["scheduler"])
    check_tokenizer(model, vocabulary_size=text["vocab_size"], positions=text["max_position_embeddings"])
    size_px = _image_size(unet, factor)
    _check_weights(
        model,
        {
            "unet": {"conv_in.weight": (1, "in_channels", unet.get("in_channels", 4))},
            "vae": {"decoder.conv_in.weight": (1, "latent_channels", latent_channels)},
            "text_encoder": {
                "text_model.embeddings.token_embedding.weight": (0, "vocab_size", text["vocab_size"]),
                "text_model.final_layer_norm.weight": (0, "hidden_size", text["hidden_size"]),
            },
        },
    )
    return Sizes(size_px, factor, train_timesteps)


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


def _check_no_other(model: ModelFolder, index: Mapping[str, Any]) -> None:
    """Raises InvalidArgument if an index names a component that Stable Diffusion has not, or another's class for it."""
    for component, entry in index.items():
        if component in LIBRARIES or not isinstance(entry, (list, dict)) or entry == [None, None]:
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


def _check_conditions(unet: _Config) -> None:
    """A UNet that wants more than a prompt gets nothing of it from training or sampling."""
    for key in ("addition_embed_type", "class_embed_type", "num_class_embeds"):
        if unet.get(key) is not None:
            raise unet.model.fault(
                f"has a UNet that wants more than a prompt, as SDXL's does ({unet.file} says {key} "
                f"{shown(unet.get(key))})",
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


def _text_sizes(model: ModelFolder) -> dict[str, int]:
    """Sizes of the text encoder: vocab_size, hidden_size, max_position_embeddings."""
    file = "text_encoder/config.json"
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
    return {key: config.whole(key, default) for key, default in defaults.items()}


def _check_text_width(unet: _Config, hidden_size: int) -> None:
    key = "cross_attention_dim" if unet.get("encoder_hid_dim") is None else "encoder_hid_dim"
    value = unet.get(key, 1280)
    widths = value if isinstance(value, list) and value else [value]
    if not all(is_whole(item) for item in widths):
        raise unet.wrong(key, "it must be a whole number, the text encoder's hidden_size")
    if set(widths) != {hidden_size}:
        raise unet.model.fault(
            f"has a UNet made for text of width {shown(value)} ({unet.file}, {key}) and a text encoder of width "
            f"{hidden_size} (text_encoder/config.json, hidden_size)",
            "give the text encoder that the UNet was trained with",
        )


def _check_scheduler(model: ModelFolder, name: str) -> int:
    """Returns how many noise levels the model was trained with."""
    config = _Config(model, SCHEDULER_CONFIG, model.json(SCHEDULER_CONFIG))
    own = config.get("_class_name", name)
    if own not in SCHEDULERS:
        raise _wrong_scheduler(model, str(own), SCHEDULER_CONFIG)

    def choice(key: str, default: str, choices: tuple[str, ...]) -> None:
        if config.get(key, default) not in choices:
            raise config.wrong(key, f"{name} knows {', '.join(choices)}")

    choice("prediction_type", EPSILON, SCHEDULERS[name])
    choice("timestep_spacing", "leading", SPACINGS)
    steps = config.get("num_train_timesteps", 1000)
    if not is_whole(steps, 1, 100_000):
        raise config.wrong("num_train_timesteps", "it must be a whole number of 1 or more, 1000 in most models")
    betas = config.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list) or len(betas) != steps or not all(map(_is_beta, betas)):
            raise config.wrong("trained_betas", f"it must be null, or {steps} numbers between 0 and 1")
        return int(steps)
    choice("beta_schedule", "linear", BETA_SCHEDULES)
    first, last = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    for key, value in (("beta_start", first), ("beta_end", last)):
        if not _is_beta(value):
            raise config.wrong(key, "it must be a number between 0 and 1")
    if first > last:
        raise model.fault(
            f"says beta_start {first} and beta_end {last} in its {config.file}", "beta_start must not be above beta_end"
        )
    return int(steps)


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
    for component in WEIGHT_FILES:
        shapes: dict[str, tuple[int, ...]] = {}
        for name in weight_files(model, component):
            if name not in model.elsewhere:
                shapes |= tensor_shapes(model, name)
        for tensor, (axis, key, value) in sizes[component].items():
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
