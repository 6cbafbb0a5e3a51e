"""What a folder is that isn't a base model which can be adapted: said by its name, with what to give instead."""

from collections.abc import Collection, Mapping
from typing import Any

from synthmix.latent_diffusion.model_folder import INCOMPLETE, UNSUPPORTED, ModelFolder, shown
from synthmix.service_kit.errors import FieldViolation, InvalidArgument, SynthMixError, Unimplemented

INDEX = "model_index.json"
USE = "use an SD 1.x or 2.x model, or builtin"

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

# What a pipeline's class is called where people speak of it: the first beginning that fits, longer ones first.
FAMILIES = (
    ("StableDiffusion3", "a Stable Diffusion 3 (SD3) model"),
    ("StableDiffusionXLInpaint", "an SDXL inpainting model"),
    ("StableDiffusionXLInstructPix2Pix", "an SDXL instruct-pix2pix model"),
    ("StableDiffusionXLImg2Img", "an SDXL refiner"),
    ("StableDiffusionXLControlNet", "an SDXL model with a ControlNet"),
    ("StableDiffusionXL", "an SDXL model"),
    ("StableDiffusionControlNet", "a Stable Diffusion model with a ControlNet"),
    ("StableDiffusionAdapter", "a Stable Diffusion model with a T2I adapter"),
    ("StableDiffusionUpscale", "a Stable Diffusion upscaler"),
    ("StableDiffusionLatentUpscale", "a Stable Diffusion upscaler"),
    ("StableDiffusionDepth2Img", "a Stable Diffusion depth-to-image model"),
    ("StableDiffusionImageVariation", "a Stable Diffusion image-variation model, without a text encoder"),
    ("StableDiffusionGLIGEN", "a GLIGEN model"),
    ("StableDiffusionLDM3D", "an LDM3D model"),
    ("StableUnCLIP", "a Stable unCLIP model"),
    ("StableCascade", "a Stable Cascade model"),
    ("StableVideoDiffusion", "a video model (Stable Video Diffusion)"),
    ("StableAudio", "an audio model (Stable Audio)"),
    ("LatentConsistencyModel", "a latent consistency model, distilled to sample in a few steps"),
    ("LDM", "an unconditional or original latent diffusion model"),
    ("LatentDiffusion", "an original latent diffusion model"),
    ("FluxControl", "a FLUX control model"),
    ("FluxKontext", "a FLUX Kontext model"),
    ("Flux2", "a FLUX.2 model"),
    ("Flux", "a FLUX model"),
    ("Chroma", "a Chroma model"),
    ("AuraFlow", "an AuraFlow model"),
    ("Lumina", "a Lumina model"),
    ("Sana", "a Sana model"),
    ("QwenImage", "a Qwen-Image model"),
    ("PixArtSigma", "a PixArt-Sigma model"),
    ("PixArt", "a PixArt model"),
    ("HunyuanVideo", "a video model (HunyuanVideo)"),
    ("HunyuanDiT", "a Hunyuan-DiT model"),
    ("Kandinsky", "a Kandinsky model"),
    ("Kolors", "a Kolors model"),
    ("Wuerstchen", "a Wuerstchen model"),
    ("IF", "a DeepFloyd IF model, which works on pixels"),
    ("DiT", "a DiT model, without a text encoder"),
    ("DDPM", "an unconditional pixel diffusion model"),
    ("DDIM", "an unconditional pixel diffusion model"),
    ("UnCLIP", "an unCLIP model"),
    ("AnimateDiff", "a video model (AnimateDiff)"),
    ("TextToVideo", "a video model"),
    ("VideoToVideo", "a video model"),
    ("I2VGen", "a video model (I2VGen-XL)"),
    ("CogVideo", "a video model (CogVideoX)"),
    ("CogView", "a CogView model"),
    ("Wan", "a video model (Wan)"),
    ("LTX", "a video model (LTX)"),
    ("Mochi", "a video model (Mochi)"),
    ("Allegro", "a video model (Allegro)"),
    ("AudioLDM", "an audio model (AudioLDM)"),
    ("Marigold", "a Marigold depth estimator"),
    ("Onnx", "a model in the ONNX format"),
    ("OnnxStableDiffusion", "a model in the ONNX format"),
    ("ORT", "a model in the ONNX format"),
    ("OVStableDiffusion", "a model in the OpenVINO format"),
    ("FlaxStableDiffusion", "a model with Flax weights"),
)

# Single parts, by the `_class_name` of a config.json at the top of a folder.
PARTS = (
    ("ControlNet", "a ControlNet by itself"),
    ("FluxControlNet", "a ControlNet by itself"),
    ("T2IAdapter", "a T2I adapter by itself"),
    ("MotionAdapter", "a motion adapter of a video model"),
    ("UNet3D", "the UNet of a video model by itself"),
    ("UNet", "a UNet by itself"),
    ("Autoencoder", "an autoencoder by itself"),
    ("VQ", "an autoencoder by itself"),
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
    family = family_of(name)
    if name in STABLE_DIFFUSION and "text_encoder_2" in index:
        family = "an SDXL model"
    if name in STABLE_DIFFUSION and "transformer" in index:
        family = "a model whose denoiser is a transformer, not a UNet,"
    if family is None and name not in STABLE_DIFFUSION:
        family = f"a model of the kind {shown(name)}"
    if family is not None:
        raise unsupported(
            model, f"is {family}{'' if family.endswith(',') else ','} which this version can't adapt", USE
        )


def family_of(pipeline: str) -> str | None:
    """What a pipeline's class is called; None for Stable Diffusion 1.x and 2.x, and for a class nobody here knows."""
    if pipeline in STABLE_DIFFUSION:
        return None
    fitting = [(beginning, name) for beginning, name in FAMILIES if pipeline.startswith(beginning)]
    return max(fitting)[1] if fitting else None


def unsupported(model: ModelFolder, problem: str, remedy: str) -> SynthMixError:
    description = f"{model.reference!r} {problem}; {remedy}"
    return Unimplemented(
        f"{model.field}: {description}",
        reason=UNSUPPORTED,
        violations=[FieldViolation(model.field, description)],
    )


def no_model(model: ModelFolder, names: Collection[str]) -> InvalidArgument:
    """What a folder without model_index.json is.

    Args:
        names: Paths of files in it, relative, down to its sub-folders' own files; of a hub's model, of all that the
            hub has.
    """
    top = {name for name in names if "/" not in name}
    folders = {name.split("/")[0] for name in names if "/" in name}
    inner = sorted(name for name in names if name.endswith("/" + INDEX))
    convert = (
        "write it in the diffusers layout with diffusers' from_single_file and save_pretrained, and give that folder"
    )
    if inner:
        return model.fault(
            f"has no {INDEX}, but its sub-folder has", f"give {inner[0].rpartition('/')[0]!r} in it", INCOMPLETE
        )
    if not names:
        return model.fault(
            f"is an empty folder: it has no {INDEX}", "give a folder in the diffusers layout", INCOMPLETE
        )
    if "adapter_config.json" in top or any("lora" in name.lower() and name.endswith(".safetensors") for name in top):
        return model.fault(
            f"is an adapter (LoRA), not a base model: it has no {INDEX}",
            "give the base model that it was trained on",
            INCOMPLETE,
        )
    if any(name.startswith("learned_embeds") for name in top):
        return model.fault(
            f"is a textual inversion, not a base model: it has no {INDEX}", "give a base model", INCOMPLETE
        )
    if any(name.endswith((".onnx", ".ort")) for name in names):
        return model.fault(
            f"is in the ONNX format and has no {INDEX}", "give the model that it was exported from", INCOMPLETE
        )
    if "config.json" in top and (model.path / "config.json").is_file():
        return _single_part(model, names)
    if {"unet", "vae"} <= folders:
        return model.fault(
            f"has no {INDEX}, which says what its parts are", "copy it from where the model came from", INCOMPLETE
        )
    single = sorted(name for name in top if name.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".gguf")))
    if single:
        return model.fault(f"holds a single-file checkpoint ({shown(single[0])}) and no {INDEX}", convert, INCOMPLETE)
    return model.fault(
        f"isn't a base model: it has no {INDEX}",
        "give a folder in the diffusers layout (unet, vae, text_encoder, tokenizer, scheduler)",
        INCOMPLETE,
    )


def _single_part(model: ModelFolder, names: Collection[str]) -> InvalidArgument:
    config = model.json("config.json")
    name = config.get("_class_name")
    if isinstance(name, str):
        part = next((what for beginning, what in PARTS if name.startswith(beginning)), f"a {shown(name)} by itself")
        return model.fault(
            f"is {part}, not a whole base model: it has no {INDEX}", f"give the folder that has {INDEX}", INCOMPLETE
        )
    architectures = config.get("architectures")
    kind = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
    return model.fault(
        f"is a folder of the transformers library{f' ({shown(kind)})' if kind else ''}, not a diffusion model: it has "
        f"no {INDEX}",
        "give a folder in the diffusers layout",
        INCOMPLETE,
    )
