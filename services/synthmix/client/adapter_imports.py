"""Adapters that other programs wrote, read into the form that this service stores: without torch, and without pickles.

Whose names they are is told by how they begin and end: kohya's sd-scripts' (`lora_unet_... .lora_down.weight`),
LyCORIS's beside them (`.hada_w1_a`, `.lokr_w1`), both of SDXL with the names of its own code (`lora_unet_input_blocks_
...`) or with diffusers', diffusers' (`unet. ... .lora_A.weight`, and its older
`.lora.down.weight` and `.processor.to_q_lora.down.weight`), and PEFT's (`base_model.model. ...`). Tensors keep their
bytes. A rank and an alpha that a layer has of its own go into PEFT's rank_pattern and alpha_pattern.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthmix.client.adapter_config import READ, check_config, options_of, pattern_value, patterns, rank_by_factors
from synthmix.client.adapter_formats import DOWN, KOHYA_PREFIX, SDXL_PROMPT_WIDTH, UP, Stored, prompt_width
from synthmix.client.adapter_source import SHOWN_KEYS, Source
from synthmix.client.safetensors_files import Tensor, numbers, read_tensors, write_tensors
from synthmix.client.sdxl_names import layer_of_own
from synthmix.service_kit.adapter_payloads import (
    LENGTHS,
    LORA_CONFIG,
    LORA_PREFIX,
    LORA_WEIGHTS,
    PEFT_CONFIG,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
    json_object,
)
from synthmix.service_kit.errors import InvalidArgument
from synthmix.service_kit.quantities import listed, shortened

LARGEST_CONFIG_BYTES = 1 << 20
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
ALPHA = "alpha"
_TYPES = ("F32", "F16", "BF16")

# What a tensor's name ends in, and the name of the part that it is.
_LORA_PARTS = {
    "lora_A.weight": DOWN,
    "lora_B.weight": UP,
    "lora.down.weight": DOWN,
    "lora.up.weight": UP,
    "lora_magnitude_vector": LENGTHS,
    "lora_magnitude_vector.weight": LENGTHS,
}
_KOHYA_PARTS = {"lora_down.weight": DOWN, "lora_up.weight": UP, "dora_scale": LENGTHS}
_LYCORIS_PARTS = {
    part: part
    for part in (
        *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    )
}
_ROTATION_PARTS = {part: part for part in ("oft_R.weight", "boft_R", "boft_s")}
_OLD_PROCESSOR = re.compile(r"\.processor\.(to_(?:q|k|v|out))_lora\.(down|up)\.weight$")
# What other programs add to layers, and has no form in PEFT's kinds.
_NOT_TAKEN = {
    "lora_mid.weight": "the core of a kernel's Tucker decomposition (LoCon with use_tucker or use_cp)",
    "diff": "a whole difference of weights (LyCORIS's full)",
    "diff_b": "a difference of biases",
    "w_norm": "weights of normalisations (train_norm)",
    "b_norm": "biases of normalisations (train_norm)",
    "scalar": "a trained scale (use_scalar)",
    "bias_indices": "biases",
    "bias_values": "biases",
    "bias_size": "biases",
    "oft_diag": "LyCORIS's rotations (diag-oft), which are not PEFT's",
    "oft_blocks": "LyCORIS's rotations (diag-oft, boft), which are not PEFT's",
    "on_input": "IA3's factors",
    "lora_B.bias": "a bias (lora_bias)",
    "a1.weight": "GLoRA's factors",
}
_TEXT_ENCODERS = ("lora_te", "text_encoder.", "text_encoder_2.", "base_model.model.text_model.")
# Names of diffusers' modules in a UNet that have `_` in them; others are a word, or a word and a digit.
_NAMES = (
    *("down_blocks", "mid_block", "up_blocks", "transformer_blocks", "time_embedding", "time_emb_proj", "time_proj"),
    *("conv_in", "conv_out", "conv_shortcut", "proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out", "linear_1"),
    *("linear_2", "cond_proj", "encoder_hid_proj", "class_embedding", "add_embedding", "add_k_proj", "add_v_proj"),
    "to_add_out",
)
_MODULE = re.compile(rf"({'|'.join(sorted(_NAMES, key=len, reverse=True))}|[a-z]+\d*|\d+)(?:_|$)")

# The parts of a layer, by the kind of adapter, and of which sets it needs one.
_KINDS = {
    "LORA": set(_LORA_PARTS.values()),
    "LOHA": {part for part in _LYCORIS_PARTS if part.startswith("hada_")},
    "LOKR": {part for part in _LYCORIS_PARTS if part.startswith("lokr_")},
    "OFT": {"oft_R.weight"},
    "BOFT": {"boft_R", "boft_s"},
}
_WHOLE = {
    "LORA": ({DOWN}, {UP}),
    "LOHA": ({"hada_w1_a"}, {"hada_w1_b"}, {"hada_w2_a"}, {"hada_w2_b"}),
    "LOKR": ({"lokr_w1", "lokr_w1_a"}, {"lokr_w1", "lokr_w1_b"}, {"lokr_w2", "lokr_w2_a"}, {"lokr_w2", "lokr_w2_b"}),
    "OFT": ({"oft_R.weight"},),
    "BOFT": ({"boft_R"}, {"boft_s"}),
}


def read_adapter(path: Path, *, field: str = "path") -> Stored:
    """An adapter of another program, or one that was exported or downloaded, with its base model if it says it.

    Args:
        path: A safetensors file, or a folder with PEFT's adapter_config.json and adapter_model.safetensors.
        field: What an error names.

    Raises:
        InvalidArgument: It cannot be read, has keys too many or too few, or is of a kind that is not taken.
    """
    source = Source(path, field, str(path))
    config: dict[str, Any] | None = None
    if path.is_dir():
        source, config = _folder(source)
    elif path.suffix in PICKLES:
        raise _pickle(source, path.name)
    elif not path.is_file():
        raise source.fault("is not there", "give a safetensors file, or a folder in PEFT's layout", "PATH_NOT_FOUND")
    try:
        tensors, metadata = read_tensors(source.path)
    except ValueError as error:
        raise source.fault(
            f"is not a safetensors file: {error}", "give the file as the program that trained the adapter wrote it"
        ) from error
    _check_types(source, tensors)
    _check_not_ours(source, tensors)
    names = [tensor.name for tensor in tensors]
    if any(name.startswith(KOHYA_PREFIX) for name in names):
        return _kohya(source, tensors, metadata)
    if any(name.startswith(PEFT_PREFIX) for name in names):
        if config is None:
            raise source.fault(
                f"is of PEFT ({names[0]}), whose scale is in {PEFT_CONFIG}", f"give the folder that has {PEFT_CONFIG}"
            )
        return _peft(source, tensors, PEFT_PREFIX, config)
    if any(name.startswith(LORA_PREFIX) for name in names):
        return _diffusers(source, tensors, metadata)
    raise source.fault(
        f"has no adapter under names that are known, but {listed(names, SHOWN_KEYS)}",
        f"give a file with names as of kohya ({KOHYA_PREFIX}...), diffusers ({LORA_PREFIX}...) or PEFT "
        f"({PEFT_PREFIX}...)",
        "ADAPTER_KEYS_UNKNOWN",
    )


def write_upload(stored: Stored, path: Path) -> None:
    """Writes an adapter as the one file that the service takes: with its configuration in the header's metadata."""
    if stored.kind == "LORA":
        prefix, key = LORA_PREFIX, LORA_CONFIG
        config = {f"{prefix}{name}": value for name, value in stored.config.items()}
    else:
        prefix, key, config = PEFT_PREFIX, PEFT_CONFIG, stored.config
    tensors = [
        replace(tensor, name=f"{prefix}{layer}.{part}")
        for layer, parts in sorted(stored.layers.items())
        for part, tensor in sorted(parts.items())
    ]
    write_tensors(path, tensors, {"format": "pt", key: json.dumps(config, indent=2, sort_keys=True)}, stored.weights)


def layer_of(name: str) -> str | None:
    """The layer that kohya's files call by this name without its prefix: `_` stands for `.` and for itself.

    None if it is none of diffusers' UNet.
    """
    words, at = [], 0
    while at < len(name):
        found = _MODULE.match(name, at)
        if found is None:
            return None
        words.append(found[1])
        at = found.end()
    return ".".join(words) if words and not name.endswith("_") else None


def _folder(source: Source) -> tuple[Source, dict[str, Any] | None]:
    """The weights in a folder, and PEFT's configuration."""
    folder = source.path
    if (folder / LORA_WEIGHTS).is_file():
        return replace(source, path=folder / LORA_WEIGHTS), None
    weights, config = folder / PEFT_WEIGHTS, folder / PEFT_CONFIG
    if not weights.is_file():
        pickles = sorted(item.name for item in folder.iterdir() if item.suffix in PICKLES)
        if pickles:
            raise _pickle(source, pickles[0])
        raise source.fault(
            f"has neither {PEFT_WEIGHTS} nor {LORA_WEIGHTS}", "give a folder in PEFT's layout, or a safetensors file"
        )
    if not config.is_file():
        raise source.fault(
            f"lacks {PEFT_CONFIG}, which says the scale", "copy it beside the weights", "ADAPTER_KEYS_MISSING"
        )
    if config.stat().st_size > LARGEST_CONFIG_BYTES:
        raise source.fault(f"has more than {LARGEST_CONFIG_BYTES:,} bytes of {PEFT_CONFIG}", "give PEFT's own file")
    try:
        text = config.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise source.fault(f"has a {PEFT_CONFIG} that is not text", "give PEFT's own file") from error
    return replace(source, path=weights), _object(source, text, PEFT_CONFIG)


def _pickle(source: Source, name: str) -> InvalidArgument:
    return source.fault(
        f"has pickled weights ({name}), which run code when they are read, and are never read here",
        "save them as safetensors where you trust them: "
        "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'adapter.safetensors')",
        "ADAPTER_PICKLED",
    )


def _object(source: Source, text: str, what: str) -> dict[str, Any]:
    try:
        return json_object(text, what)
    except ValueError as error:
        raise source.fault(f"cannot be read: {error}", "give the file as its program wrote it") from error


def _check_types(source: Source, tensors: Sequence[Tensor]) -> None:
    wrong = [f"{item.name} ({item.dtype})" for item in tensors if item.shape and item.dtype not in _TYPES]
    if wrong:
        raise source.fault(
            f"has weights of other types than {', '.join(_TYPES)}: {listed(wrong, SHOWN_KEYS)}",
            "save them in float32",
            "ADAPTER_UNSUPPORTED",
        )


def _check_not_ours(source: Source, tensors: Sequence[Tensor]) -> None:
    """Raises InvalidArgument for what is not the UNet's."""
    text = [tensor.name for tensor in tensors if tensor.name.startswith(_TEXT_ENCODERS)]
    if text:
        raise source.fault(
            f"adapts the text encoder too ({listed(text, SHOWN_KEYS)}), and only the UNet's layers are taken",
            "without the others it would be another adapter; train one of the UNet alone (sd-scripts: "
            "--network_train_unet_only)",
            "ADAPTER_TEXT_ENCODER",
        )


def _kohya(source: Source, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> Stored:
    known = {**_KOHYA_PARTS, **_LYCORIS_PARTS, ALPHA: ALPHA}
    layers: dict[str, dict[str, Tensor]] = {}
    unknown, is_sdxl = [], False
    for tensor in tensors:
        name, _, ending = tensor.name.partition(".")
        layer = None
        if name.startswith(KOHYA_PREFIX):
            flat = name.removeprefix(KOHYA_PREFIX)
            of_sdxl = layer_of_own(flat, layer_of)
            is_sdxl = is_sdxl or of_sdxl is not None
            layer = of_sdxl or layer_of(flat)
        if ending in _NOT_TAKEN:
            raise _not_taken(source, tensor.name, ending)
        if layer is None or ending not in known:
            unknown.append(tensor.name)
            continue
        _put(source, layers, layer, known[ending], tensor)
    _refuse_unknown(source, unknown)
    alphas = _alphas(source, layers)
    kind = _kind(source, layers)
    layers = {layer: _dora_as_peft(source, layer, parts) for layer, parts in layers.items()}
    _check_whole(source, kind, layers)
    ranks = {layer: rank_by_factors(source, kind, layer, parts) for layer, parts in layers.items()}
    scales = {
        # LyCORIS has no alpha for a Kronecker product of two full factors (lycoris/modules/lokr.py).
        layer: float(ranks[layer]) if {"lokr_w1", "lokr_w2"} <= parts.keys() else alphas.get(layer, float(ranks[layer]))
        for layer, parts in layers.items()
    }
    config = patterns(kind, ranks, scales) | options_of(source, kind, layers, ranks)
    return _stored(source, config, layers, metadata.get("ss_sd_model_name", ""), is_sdxl=is_sdxl)


def _diffusers(source: Source, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> Stored:
    if LORA_CONFIG in metadata:
        said = _object(source, metadata[LORA_CONFIG], f"metadata {LORA_CONFIG}")
        config = {key.removeprefix(LORA_PREFIX): value for key, value in said.items() if key.startswith(LORA_PREFIX)}
        return _peft(source, tensors, LORA_PREFIX, {"peft_type": "LORA"} | config)
    layers = _by_layer(source, tensors, LORA_PREFIX, {**_LORA_PARTS, ALPHA: ALPHA})
    alphas = _alphas(source, layers)
    kind = _kind(source, layers)
    _check_whole(source, kind, layers)
    ranks = {layer: rank_by_factors(source, kind, layer, parts) for layer, parts in layers.items()}
    # What diffusers takes where nothing is said (get_peft_kwargs): alpha is the rank.
    scales = {layer: alphas.get(layer, float(rank)) for layer, rank in ranks.items()}
    config = patterns(kind, ranks, scales) | options_of(source, kind, layers, ranks)
    return _stored(source, config, layers, "")


def _peft(source: Source, tensors: Sequence[Tensor], prefix: str, config: Mapping[str, Any]) -> Stored:
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in READ:
        raise source.fault(
            f"is of PEFT's kind {shortened(repr(kind), 40)}", f"use one of {', '.join(READ)}", "ADAPTER_UNSUPPORTED"
        )
    check_config(source, kind, config)
    parts = {**_LORA_PARTS, **_LYCORIS_PARTS, **_ROTATION_PARTS}
    layers = _by_layer(source, tensors, prefix, {name: part for name, part in parts.items() if part in _KINDS[kind]})
    _check_whole(source, kind, layers)
    base_model = config.get("base_model_name_or_path")
    said = str(base_model) if isinstance(base_model, str) else ""
    if kind in ("OFT", "BOFT"):
        own = {key: value for key, value in config.items() if key in READ[kind]}
        return _stored(source, {"peft_type": kind, **own}, layers, said)
    alpha_key = "lora_alpha" if kind == "LORA" else "alpha"
    ranks, scales = {}, {}
    for layer, of_layer in layers.items():
        rank = pattern_value(source, config, "rank_pattern", layer, config.get("r", 8), whole=True)
        found = rank_by_factors(source, kind, layer, of_layer, said=int(rank))
        if found != rank:
            raise source.fault(
                f"has {layer} in the rank {found}, and its configuration says {rank:g}",
                "give weights and configuration of the same adapter",
            )
        alpha = pattern_value(source, config, "alpha_pattern", layer, config.get(alpha_key, 8))
        # rsLoRA's scale is alpha over the root of the rank, and plain LoRA's alpha over the rank.
        ranks[layer] = found
        scales[layer] = alpha * math.sqrt(found) if config.get("use_rslora") else float(alpha)
    has_lengths = any(LENGTHS in of_layer for of_layer in layers.values())
    if kind == "LORA" and bool(config.get("use_dora", has_lengths)) != has_lengths:
        raise source.fault(
            f"has {'lengths of DoRA' if has_lengths else 'no lengths of DoRA'}, and its configuration says use_dora "
            f"{config.get('use_dora')}",
            "give weights and configuration of the same adapter",
            "ADAPTER_KEYS_MISSING",
        )
    new = patterns(kind, ranks, scales) | options_of(source, kind, layers, ranks, said=config)
    return _stored(source, new, layers, said)


def _stored(
    source: Source,
    config: Mapping[str, Any],
    layers: dict[str, dict[str, Tensor]],
    base_model: str,
    *,
    is_sdxl: bool = False,
) -> Stored:
    stored = Stored(source.path, {**config, "target_modules": sorted(layers)}, layers, base_model)
    return replace(stored, is_sdxl=is_sdxl or prompt_width(stored) == SDXL_PROMPT_WIDTH)


def _by_layer(
    source: Source, tensors: Sequence[Tensor], prefix: str, known: Mapping[str, str]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer, by the names of their parts. Raises InvalidArgument for what is none."""
    layers: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for tensor in tensors:
        name = _OLD_PROCESSOR.sub(_new_name, tensor.name)
        ending = next((part for part in sorted(known, key=len, reverse=True) if name.endswith(f".{part}")), None)
        other = next((part for part in _NOT_TAKEN if name.endswith(f".{part}")), None)
        if other is not None:
            raise _not_taken(source, tensor.name, other)
        if not name.startswith(prefix) or ending is None:
            unknown.append(tensor.name)
            continue
        layer = name.removeprefix(prefix).removesuffix(f".{ending}")
        _put(source, layers, layer, known[ending], tensor)
    _refuse_unknown(source, unknown)
    return layers


def _new_name(found: re.Match[str]) -> str:
    """What an attention processor's own layer of diffusers up to 0.20 is called since."""
    layer = "to_out.0" if found[1] == "to_out" else found[1]
    return f".{layer}.lora.{found[2]}.weight"


def _put(source: Source, layers: dict[str, dict[str, Tensor]], layer: str, part: str, tensor: Tensor) -> None:
    parts = layers.setdefault(layer, {})
    if part in parts:
        raise source.fault(
            f"has {layer} twice: {parts[part].name} and {tensor.name}", "leave one of them out", "ADAPTER_KEYS_UNKNOWN"
        )
    parts[part] = tensor


def _not_taken(source: Source, name: str, ending: str) -> InvalidArgument:
    return source.fault(
        f"has {name}: {_NOT_TAKEN[ending]}",
        "train it without, or use an adapter of LoRA, DoRA, LoHa or LoKr",
        "ADAPTER_UNSUPPORTED",
    )


def _refuse_unknown(source: Source, names: Sequence[str]) -> None:
    if names:
        raise source.fault(
            f"has keys that belong to no layer's adapter: {listed(names, SHOWN_KEYS)} ({len(names)} in all)",
            "give an adapter of a UNet as diffusers names its layers",
            "ADAPTER_KEYS_UNKNOWN",
        )


def _alphas(source: Source, layers: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    """The alpha of each layer that has one, taken out of the layers."""
    alphas = {}
    for layer, parts in layers.items():
        tensor = parts.pop(ALPHA, None)
        if tensor is None:
            continue
        if math.prod(tensor.shape) != 1:
            raise source.fault(f"has {tensor.name} of the shape {list(tensor.shape)}", "alpha is one number")
        try:
            [alphas[layer]] = numbers(tensor, source.path)
        except ValueError as error:
            raise source.fault(f"has {tensor.name} of {tensor.dtype}", "save alpha as float32") from error
        if not math.isfinite(alphas[layer]):
            raise source.fault(f"has {tensor.name} that is no number", "give the adapter as it was trained")
    lone = [layer for layer, parts in layers.items() if not parts]
    if lone:
        raise source.fault(
            f"has an alpha and nothing else of {listed(lone, SHOWN_KEYS)} ({len(lone)} in all)",
            "give the whole file",
            "ADAPTER_KEYS_MISSING",
        )
    return alphas


def _kind(source: Source, layers: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The kind that all layers are of."""
    found: dict[str, str] = {}
    for layer, parts in layers.items():
        for kind, names in _KINDS.items():
            if not names.isdisjoint(parts):
                found.setdefault(kind, layer)
    if "LORA" in found and len(found) > 1:
        other = next(kind for kind in found if kind != "LORA")
        lengths = [layer for layer, parts in layers.items() if LENGTHS in parts and DOWN not in parts]
        if lengths:
            raise source.fault(
                f"has dora_scale beside the factors of {other} ({lengths[0]}), and PEFT has DoRA for LoRA alone",
                f"train {other.lower()} without dora_wd",
                "ADAPTER_UNSUPPORTED",
            )
    if len(found) != 1:
        said = ", ".join(f"{kind} ({layer})" for kind, layer in found.items())
        raise source.fault(
            f"has layers of several kinds: {said}" if found else "has no factors of any layer",
            "PEFT adapts all layers of an adapter in one way; use one that was trained so",
            "ADAPTER_UNSUPPORTED",
        )
    return next(iter(found))


def _check_whole(source: Source, kind: str, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raises InvalidArgument for layers that lack a part, or have parts that exclude one another."""
    missing = [
        f"{' or '.join(sorted(any_of))} of {layer}"
        for layer, parts in layers.items()
        for any_of in _WHOLE[kind]
        if any_of.isdisjoint(parts)
    ]
    lengths = [layer for layer, parts in layers.items() if LENGTHS in parts]
    if lengths and len(lengths) < len(layers):
        missing += [f"dora_scale of {layer}" for layer, parts in layers.items() if LENGTHS not in parts]
    if missing:
        raise source.fault(
            f"lacks {listed(missing, SHOWN_KEYS)} ({len(missing)} in all)",
            "give the whole file",
            "ADAPTER_KEYS_MISSING",
        )
    for layer, parts in layers.items():
        both = [name for name in ("lokr_w1", "lokr_w2") if name in parts and f"{name}_a" in parts]
        if both:
            raise source.fault(
                f"has {both[0]} of {layer} whole and as a product", "leave one of them out", "ADAPTER_KEYS_UNKNOWN"
            )


def _dora_as_peft(source: Source, layer: str, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """PEFT has a length for each output as (out,), and of a convolution as (1, out, 1, 1)."""
    lengths = parts.get(LENGTHS)
    if lengths is None or DOWN not in parts or UP not in parts:
        return parts
    outputs, down = parts[UP].shape[0], parts[DOWN]
    ones = (1,) * (len(down.shape) - 1)
    if lengths.shape not in ((outputs, *ones), (outputs,)):
        by_input = lengths.shape == (1, *down.shape[1:2], *ones[1:])
        raise source.fault(
            f"has {lengths.name} of the shape {list(lengths.shape)}"
            + (", a length for each input," if by_input else "")
            + f" where DoRA has one for each of the {outputs} outputs of {layer}",
            "train it with lengths of outputs (LyCORIS: wd_on_output; OneTrainer: decompose output axis): no other "
            "reader than the program that trained it has them of inputs",
            "DORA_AXIS",
        )
    shape = (1, outputs, 1, 1) if len(down.shape) == 4 else (outputs,)
    return {**parts, LENGTHS: replace(lengths, shape=shape)}
