"""The kinds of base models, and what a folder is that is of none: said by its name, with what to give instead."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmix.latent_diffusion.model_folder import INCOMPLETE, UNSUPPORTED, ModelFolder, shown
from synthmix.service_kit.adapter_payloads import SDXL_KIND
from synthmix.service_kit.errors import FieldViolation, InvalidArgument, SynthMixError, Unimplemented

INDEX = "model_index.json"
USE = "use an SD 1.x, SD 2.x or SDXL model, or builtin"
DIFFUSERS_FOLDER = "a folder in the diffusers layout (unet, vae, text_encoder, tokenizer, scheduler)"


@dataclass(frozen=True)
class ModelKind:
    """An entry.

    Attributes:
        name: For who reads.
        pipelines: diffusers' classes with these parts, that which is loaded first. What the parts are decides, not the
            task that a class is for.
        text_encoders: The components whose answers for a prompt are joined, in order.
        tokenizers: Of each.
        autoencoder_in_float32: Whether the autoencoder is never computed in less.
        work: Of the UNet for an image of the size that it was made for, times that of Stable Diffusion 1.5's (0.80e12
            floating-point operations, by torch's FlopCounterMode), for predicted times.
    """

    name: str
    pipelines: tuple[str, ...]
    text_encoders: tuple[str, ...]
    tokenizers: tuple[str, ...]
    autoencoder_in_float32: bool
    work: float

    @property
    def components(self) -> tuple[str, ...]:
        """Folders that a model has to have."""
        return ("unet", "vae", *self.text_encoders, *self.tokenizers, "scheduler")


STABLE_DIFFUSION = ModelKind(
    name="Stable Diffusion 1.x or 2.x",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInpaintPipelineLegacy",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionPipelineSafe",
        "StableDiffusionSAGPipeline",
        "StableDiffusionAttendAndExcitePipeline",
        "StableDiffusionPanoramaPipeline",
        "CycleDiffusionPipeline",
        "AltDiffusionPipeline",
    ),
    text_encoders=("text_encoder",),
    tokenizers=("tokenizer",),
    autoencoder_in_float32=False,
    work=1.0,
)
SDXL = ModelKind(
    name=SDXL_KIND,
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    # What its layers answer is beyond float16's range, for which its config.json has force_upcast. bfloat16 has the
    # range, and of numbers that large eight bits: images are encoded once and decoded once, so that float32 costs
    # little. (Stable Diffusion's config.json may have force_upcast too, as diffusers' default: it decides nothing.)
    autoencoder_in_float32=True,
    work=8.4,
)
KINDS = (STABLE_DIFFUSION, SDXL)


def kind_of(model: ModelFolder, index: Mapping[str, Any]) -> ModelKind:
    """The kind of model whose index it is. Raises Unimplemented or InvalidArgument if it is of none of KINDS."""
    name = index.get("_class_name", STABLE_DIFFUSION.pipelines[0])
    if not isinstance(name, str):
        raise model.fault(
            f"has a pipeline of its own ({INDEX} says _class_name {shown(name)}), and code of a model is never run",
            USE,
            UNSUPPORTED,
        )
    kind = next((item for item in KINDS if name in item.pipelines), None)
    if kind is None or "transformer" in index:
        what = (
            f"a model of the kind {shown(name)}" if kind is None else "a model with a transformer in the UNet's place"
        )
        raise unsupported(model, f"is {what}, which this version cannot adapt", USE)
    has = [encoder for encoder in SDXL.text_encoders if index.get(encoder) not in (None, [None, None])]
    if kind is SDXL and has == ["text_encoder_2"]:
        raise unsupported(
            model,
            f"is SDXL's refiner (its {INDEX} has no text_encoder), which goes on with images that the base model "
            "began, and makes none by itself",
            "use SDXL's base model",
        )
    if kind is STABLE_DIFFUSION and "text_encoder_2" in has:
        raise model.fault(
            f"has a text_encoder_2, as SDXL has, and is a {name} by its {INDEX}",
            f"write {SDXL.pipelines[0]} there if it is SDXL",
        )
    return kind


def kind_of_folder(folder: Path) -> ModelKind:
    """The kind of a model that was checked."""
    model = ModelFolder(folder, "base_model", str(folder))
    return kind_of(model, model.json(INDEX))


def unsupported(model: ModelFolder, problem: str, remedy: str) -> SynthMixError:
    description = f"{model.reference!r} {problem}; {remedy}"
    return Unimplemented(
        f"{model.field}: {description}",
        reason=UNSUPPORTED,
        violations=[FieldViolation(model.field, description)],
    )


def no_model(model: ModelFolder, names: Collection[str]) -> InvalidArgument:
    """The error for a folder without model_index.json, which says what the folder is.

    Args:
        names: Paths of files in it, relative, down to its sub-folders' own files; of a hub's model, of all that the
            hub has, which are `elsewhere`.
    """
    problem, remedy = _what_it_is(model, names)
    return model.fault(problem, remedy, INCOMPLETE)


def _what_it_is(model: ModelFolder, names: Collection[str]) -> tuple[str, str]:
    """What is wrong with a folder without model_index.json, and what to do."""
    top = {name for name in names if "/" not in name}
    folders = {name.split("/")[0] for name in names if "/" in name}
    inner = sorted(name for name in names if name.endswith("/" + INDEX))
    single = sorted(name for name in top if name.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".gguf")))
    if inner:
        return f"has no {INDEX}, but its sub-folder has", f"give {inner[0].rpartition('/')[0]!r} in it"
    if not names:
        return f"is an empty folder: it has no {INDEX}", f"give {DIFFUSERS_FOLDER}"
    if "adapter_config.json" in top or any("lora" in name.lower() and name.endswith(".safetensors") for name in top):
        return f"is an adapter (LoRA), not a base model: it has no {INDEX}", "give the model that it was trained on"
    if any(name.startswith("learned_embeds") for name in top):
        return f"is a textual inversion, not a base model: it has no {INDEX}", "give a base model"
    if any(name.endswith((".onnx", ".ort")) for name in names):
        return f"is in the ONNX format and has no {INDEX}", "give the model that it was exported from"
    if "config.json" in top and "config.json" not in model.elsewhere:
        return _single_part(model.json("config.json"))
    if {"unet", "vae"} <= folders:
        return f"has no {INDEX}, which says what its parts are", "copy it from where the model came from"
    if single:
        return (
            f"holds a single-file checkpoint ({shown(single[0])}) and no {INDEX}",
            "write it in the diffusers layout with diffusers' from_single_file and save_pretrained, and give that",
        )
    return f"is not a base model: it has no {INDEX}", f"give {DIFFUSERS_FOLDER}"


def _single_part(config: Mapping[str, Any]) -> tuple[str, str]:
    """As `_what_it_is`, of a folder whose config.json lies at its top."""
    name = config.get("_class_name")
    if isinstance(name, str):
        return (
            f"is {shown(name)} by itself, not a whole base model: it has no {INDEX}",
            f"give the folder that has {INDEX}",
        )
    architectures = config.get("architectures")
    kind = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
    library = f"the transformers library{f' ({shown(kind)})' if kind else ''}"
    return f"is a folder of {library}, not a diffusion model: it has no {INDEX}", f"give {DIFFUSERS_FOLDER}"
