"""Reads adapters as other programs do, and writes what the UNet answers with them. No code of SynthMix is imported.

    python adapter_readers.py BASE_MODEL FOLDER

FOLDER has inputs.pt and jobs.json: lists of a reader (diffusers, peft or formula), an adapter's path, and the path for
the answer. Where a reader raises, the answer is the error's first line, as text, at the path with .txt.
"""

import json
import multiprocessing
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

# What a file's layers begin with, kohya's word for the UNet.
PREFIX = "lora_unet_"
NOTHING = "no error, and nothing was read"
SDXL_NAMES = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
    "downsamplers_0_op": "downsamplers_0_conv",
    "input_blocks_0_0": "conv_in",
    "unet_out_2": "unet_conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "input_blocks": "down_blocks",
    "middle_block": "mid_block",
    "output_blocks": "up_blocks",
}


def with_diffusers(pipeline: Any, path: Path) -> Any:
    if path.is_dir():
        pipeline.load_lora_weights(str(path), weight_name="adapter_model.safetensors")
    else:
        pipeline.load_lora_weights(str(path))
    if not pipeline.get_list_adapters():
        raise ValueError(NOTHING)
    return pipeline.unet


def with_peft(pipeline: Any, path: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(pipeline.unet, path)


def by_formula(pipeline: Any, path: Path) -> Any:
    """The update of each layer as LyCORIS documents it: docs/Algo-Details.md, and get_weight of its modules."""
    from safetensors.torch import load_file

    modules = {PREFIX + name.replace(".", "_"): module for name, module in pipeline.unet.named_modules()}
    layers: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    tensors = load_file(path)
    names = diffusers_names(sorted({key.partition(".")[0] for key in tensors}), pipeline.unet)
    for key, value in tensors.items():
        layer, _, part = key.partition(".")
        layers[names[layer]][part] = value.float()
    for layer, parts in layers.items():
        weight = modules[layer].weight
        alpha = parts.pop("alpha")
        assert alpha.shape == ()
        lengths = parts.pop("dora_scale", None)
        new = weight.data + update(parts, float(alpha)).reshape(weight.shape)
        if lengths is not None:
            assert lengths.shape == (len(weight), *[1] * (weight.dim() - 1))
            new = lengths * new / new.flatten(1).norm(dim=1).reshape(lengths.shape)
        assert not parts, f"{layer} has {sorted(parts)}, which no formula takes"
        weight.data = new
    return pipeline.unet


def diffusers_names(layers: list[str], unet: Any) -> dict[str, str]:
    """What layers are called by diffusers' names, of which some have those of SDXL's own code."""
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    # Which block is which, diffusers knows by the UNet's configuration.
    numbered = {f"{layer}.weight": number for number, layer in enumerate(layers)}
    mapped = _maybe_map_sgm_blocks_to_diffusers(numbered, unet.config)
    names = {layers[number]: key.removesuffix(".weight") for key, number in mapped.items()}
    for own, other in SDXL_NAMES.items():
        names = {layer: name.replace(own, other) for layer, name in names.items()}
    return names


def answer_of(unet: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    added = {key: inputs[key] for key in ("text_embeds", "time_ids") if key in inputs}
    answer: torch.Tensor = unet(inputs["latents"], torch.tensor([500]), inputs["text"], added_cond_kwargs=added).sample
    return answer


def update(parts: dict[str, torch.Tensor], alpha: float) -> torch.Tensor:
    """What is added to a layer's weights. Takes the tensors out of `parts`."""
    if "lora_down.weight" in parts:
        down, up = parts.pop("lora_down.weight"), parts.pop("lora_up.weight")
        return alpha / len(down) * up.flatten(1) @ down.flatten(1)
    if "hada_w1_a" in parts:
        rank = len(parts["hada_w1_b"])
        products = [product(parts, "hada_w1", "hada_t1"), product(parts, "hada_w2", "hada_t2")]
        return alpha / rank * products[0] * products[1]
    low_rank = "lokr_w2_b" in parts
    scale = alpha / len(parts["lokr_w2_b"]) if low_rank else 1.0
    small = parts.pop("lokr_w1")
    large = product(parts, "lokr_w2", "lokr_t2") if low_rank else parts.pop("lokr_w2")
    return scale * torch.kron(small.reshape(*small.shape, *[1] * (large.dim() - 2)), large.contiguous())


def product(parts: dict[str, torch.Tensor], name: str, core: str) -> torch.Tensor:
    """Of two factors; those of a kernel have a core tensor between them (Tucker's decomposition)."""
    one, other = parts.pop(f"{name}_a"), parts.pop(f"{name}_b")
    if core in parts:
        return torch.einsum("ij...,ip,jr->pr...", parts.pop(core), one, other)
    return one @ other


READERS = {"diffusers": with_diffusers, "peft": with_peft, "formula": by_formula}


def loaded(base_model: str, inputs: dict[str, torch.Tensor]) -> Any:
    """The base model's pipeline."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if "time_ids" in inputs:
        return StableDiffusionXLPipeline.from_pretrained(base_model, add_watermarker=False)
    return StableDiffusionPipeline.from_pretrained(base_model, safety_checker=None, requires_safety_checker=False)


def read(pipeline: Any, inputs: dict[str, torch.Tensor], reader: str, path: Path, answer: str) -> None:
    try:
        unet = READERS[reader](pipeline, path)
    except Exception as error:
        Path(f"{answer}.txt").write_text(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return
    with torch.no_grad():
        torch.save(answer_of(unet.eval(), inputs), answer)


def main(base_model: str, folder: Path) -> None:
    """Reads each adapter in a process of its own, which begins with the base model loaded and nothing else done."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    # Each by its name: their packages import them no sooner.
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from peft import PeftModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    assert not any(name.partition(".")[0] == "synthmix" for name in sys.modules)
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    pipeline = loaded(base_model, inputs)
    for reader, path, answer in json.loads((folder / "jobs.json").read_text()):
        process = multiprocessing.get_context("fork").Process(
            target=read, args=(pipeline, inputs, reader, Path(path), answer)
        )
        process.start()
        process.join()
        assert process.exitcode == 0, f"{reader} of {path} ended with {process.exitcode}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
