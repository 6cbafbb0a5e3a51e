"""What a folder is that isn't a base model which can be adapted: said by its name, with what to give instead."""

from collections.abc import Collection, Mapping
from typing import Any

from synthmix.latent_diffusion.model_folder import INCOMPLETE, UNSUPPORTED, ModelFolder, shown
from synthmix.service_kit.errors import FieldViolation, InvalidArgument, SynthMixError, Unimplemented

INDEX = "model_index.json"
USE = "use an SD 1.x or 2.x model, or builtin"
DIFFUSERS_FOLDER = "a folder in the diffusers layout (unet, vae, text_encoder, tokenizer, scheduler)"

# Pipelines whose parts are those of Stable Diffusion 1.x and 2.x: what the parts are decides.
STABLE_DIFFUSION = (
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
)


def check_pipeline(model: ModelFolder, index: Mapping[str, Any]) -> None:
    """Raises Unimplemented or InvalidArgument unless an index is that of a Stable Diffusion 1.x or 2.x model."""
    name = index.get("_class_name", STABLE_DIFFUSION[0])
    if not isinstance(name, str):
        raise model.fault(
            f"has a pipeline of its own ({INDEX} says _class_name {shown(name)}), and code of a model is never run",
            USE,
            UNSUPPORTED,
        )
    kind = None if name in STABLE_DIFFUSION else f"a model of the kind {shown(name)}"
    if kind is None and "text_encoder_2" in index:
        kind = "an SDXL model"
    elif kind is None and "transformer" in index:
        kind = "a model with a transformer in the UNet's place"
    if kind is not None:
        raise unsupported(model, f"is {kind}, which this version cannot adapt", USE)


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
