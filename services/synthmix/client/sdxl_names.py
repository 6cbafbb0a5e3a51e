"""What kohya's sd-scripts call the layers of SDXL's UNet: by their places in SDXL's own code (sgm), not in diffusers'.

The table is that of their library/sdxl_model_util.py, for the three levels of two layers each that SDXL has.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

LEVELS, LAYERS = 3, 2
# The layers that are in no block.
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNETS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _blocks() -> dict[str, str]:
    """What diffusers' blocks are in SDXL's code, which counts the layers of all levels."""
    blocks = {"mid_block.attentions.0": "middle_block.1"}
    blocks |= {f"mid_block.resnets.{layer}": f"middle_block.{2 * layer}" for layer in range(2)}
    for level in range(LEVELS):
        first = (LAYERS + 1) * level
        for layer in range(LAYERS):
            blocks[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{first + layer + 1}.0"
            blocks[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{first + layer + 1}.1"
        for layer in range(LAYERS + 1):
            blocks[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            blocks[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        blocks[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + LAYERS + 1}.0.op"
        blocks[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{first + LAYERS}.2"
    return blocks


BLOCKS: Mapping[str, str] = MappingProxyType(_blocks())


def own_name(layer: str) -> str | None:
    """What SDXL's own code calls a layer of diffusers' UNet. None if its UNet has no such layer.

    Args:
        layer: The module's name, with dots.
    """
    if layer in _OUTSIDE:
        return _OUTSIDE[layer]
    block = next((name for name in BLOCKS if layer == name or layer.startswith(f"{name}.")), None)
    if block is None:
        return None
    inner = layer.removeprefix(block).removeprefix(".")
    if ".resnets." in block:
        if inner not in _IN_RESNETS:
            return None
        inner = _IN_RESNETS[inner]
    return f"{BLOCKS[block]}.{inner}" if inner else BLOCKS[block]


def layer_of_own(name: str, layer_of: Callable[[str], str | None]) -> str | None:
    """The layer of diffusers' UNet that SDXL's own code calls by this name, with `_` for `.`. None if it has none such.

    Args:
        layer_of: The same for names within a transformer, which are those of diffusers.
    """
    if name in _FLAT_OUTSIDE:
        return _FLAT_OUTSIDE[name]
    own = next((flat for flat in _FLAT_BLOCKS if name == flat or name.startswith(f"{flat}_")), None)
    if own is None:
        return None
    block, inner = _FLAT_BLOCKS[own], name.removeprefix(own).removeprefix("_")
    if not inner:
        return block if block.endswith(".conv") else None
    found = _FLAT_IN_RESNETS.get(inner) if ".resnets." in block else layer_of(inner)
    return None if found is None else f"{block}.{found}"


def _flat(names: Mapping[str, str]) -> dict[str, str]:
    return {own.replace(".", "_"): layer for layer, own in names.items()}


_FLAT_OUTSIDE, _FLAT_IN_RESNETS, _FLAT_BLOCKS = _flat(_OUTSIDE), _flat(_IN_RESNETS), _flat(BLOCKS)
