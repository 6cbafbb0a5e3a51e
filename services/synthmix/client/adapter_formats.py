"""The forms in which a trained adapter leaves for other tools: files are read and written without torch.

What is stored: an adapter of LoRA's kind as one file, as diffusers reads it, any other as PEFT's folder. A form has
other names for the same tensors, and a few small tensors more.
"""

import json
import math
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from synthmix.api.adapters.v1.adapters_pb2 import Adapter, AdapterSettings
from synthmix.client.outputs import check_free
from synthmix.client.safetensors_files import Tensor, numbers, read_bytes, read_tensors, scalar, write_tensors
from synthmix.client.sdxl_names import own_name
from synthmix.service_kit.adapter_payloads import (
    CLASS_TOKENS,
    CLIP_PREFIX,
    LENGTHS,
    LORA_CONFIG,
    LORA_PREFIX,
    LORA_WEIGHTS,
    PEFT_CONFIG,
    PEFT_PREFIX,
    PEFT_WEIGHTS,
    TEXT_FOLDER,
    TEXT_LENGTHS,
    TEXT_PREFIX,
    UNET_CONFIG,
    UNET_WEIGHTS,
    WITHOUT_ADAPTER,
    json_object,
)
from synthmix.service_kit.errors import check_choice, invalid_field, missing_field
from synthmix.service_kit.quantities import listed, plural

KOHYA_PREFIX, KOHYA_TEXT_PREFIX = "lora_unet_", "lora_te_"

SUFFIX = ".safetensors"
# Of a sha256, where people are shown which image is meant.
SHOWN_DIGITS = 12
LORA_METHODS = ("lora", "rslora", "dora", "pissa", "olora")
LYCORIS_METHODS = ("loha", "lokr")
ROTATIONS = ("oft", "boft")

DOWN, UP = "lora_A.weight", "lora_B.weight"
# In files of recipe versions up to 2 beside PEFT's names, and in text encoders.
_OTHER_PARTS = {"lora.down.weight": DOWN, "lora.up.weight": UP, TEXT_LENGTHS: LENGTHS}
TEXTUAL_INVERSION = "textual-inversion"
ALL_METHODS = (*LORA_METHODS, *LYCORIS_METHODS, *ROTATIONS, *WITHOUT_ADAPTER)
# Of the names of tensors in a LoRA file.
TEXT_LORA_PREFIX = f"{TEXT_PREFIX}{CLIP_PREFIX}"
# What sd-scripts calls base models, and whether they are of version 2, by the width of what they read of a prompt.
_VERSIONS = {768: ("sd_v1", "False"), 1024: ("sd_v2", "True")}
_SDXL_VERSION = ("sdxl_base_v1-0", "False")
SDXL_PROMPT_WIDTH = 2048


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        files: Their paths.
        notes: Sentences on what some readers leave out.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """An adapter's files.

    Attributes:
        weights: The safetensors file.
        config: PEFT's configuration, in PEFT's words.
        layers: The tensors of each layer, by their names without the layer's.
        base_model: As its settings name it.
        text: The adapter in the text encoder, if there is one. Of LoRA's kind it is in the same file.
        has_tokens: Whether it has learned tokens of classes.
        is_sdxl: Whether the base model is an SDXL model.
    """

    weights: Path
    config: dict[str, Any]
    layers: dict[str, dict[str, Tensor]]
    base_model: str
    text: "Stored | None" = None
    has_tokens: bool = False
    is_sdxl: bool = False

    @property
    def kind(self) -> str:
        """As PEFT names it, such as LORA."""
        return str(self.config["peft_type"])

    @property
    def rank(self) -> int:
        return int(self.config["r"])

    @property
    def alpha(self) -> float:
        return float(self.config["lora_alpha" if self.kind == "LORA" else "alpha"])

    def rank_of(self, layer: str) -> int:
        """A layer's own: those of adapters that were imported may differ."""
        return int(self.config.get("rank_pattern", {}).get(layer, self.rank))

    def alpha_of(self, layer: str) -> float:
        return float(self.config.get("alpha_pattern", {}).get(layer, self.alpha))

    def scale_of(self, layer: str) -> float:
        """What a layer's update is multiplied with."""
        return self.alpha_of(layer) / self.rank_of(layer)


@dataclass(frozen=True)
class Format:
    """An entry.

    Attributes:
        sentence: What it is, for who chooses.
        methods: The methods whose adapters it can hold.
        is_file: Whether it is one safetensors file, not a folder.
        write: Writes an adapter to a path, and returns the notes. None for what is no adapter.
        copy: Writes what is in the folder of stored files to a path, and returns the notes; None for adapters.
    """

    sentence: str
    methods: tuple[str, ...]
    is_file: bool
    write: Callable[[Stored, Path], list[str]] | None = None
    copy: Callable[[Path, Path], list[str]] | None = None


def check_export(format_name: str, settings: AdapterSettings, out: Path) -> None:
    """Raises InvalidArgument or AlreadyExists for what cannot be exported, or not to there, before it is fetched."""
    check_choice("format", format_name, FORMATS)
    form, method = FORMATS[format_name], settings.method
    others = [name for name, other in FORMATS.items() if method in other.methods and name != TEXTUAL_INVERSION]
    if settings.class_tokens:
        others.append(TEXTUAL_INVERSION)
    if method not in form.methods:
        raise invalid_field(
            "format",
            format_name,
            f"cannot hold an adapter of the method {method}, only of {', '.join(form.methods)}",
            f"use one of: {', '.join(others)}",
            reason="FORMAT_CANNOT",
        )
    if format_name == TEXTUAL_INVERSION and not settings.class_tokens:
        raise invalid_field(
            "format",
            format_name,
            "holds learned tokens of classes, and this adapter has none",
            f"use one of: {', '.join(others)}",
            reason="FORMAT_CANNOT",
        )
    check_out(format_name, out)


def check_out(format_name: str, out: Path) -> None:
    """Raises InvalidArgument or AlreadyExists for a path that a format is not written to."""
    form = FORMATS[format_name]
    if form.is_file != (out.suffix == SUFFIX):
        raise invalid_field(
            "out",
            str(out),
            f"is not named as a safetensors file, which {format_name} is"
            if form.is_file
            else f"is named as a file, and {format_name} is a folder",
            f"use {out.name}{SUFFIX}" if form.is_file else f"use {out.stem}",
        )
    check_free(out)


def has_several(adapter: Adapter) -> str:
    """What an artifact has an adapter for each of, "class" or "image"; "" if it has one."""
    if not adapter.class_adapters:
        return ""
    return "image" if adapter.class_adapters[0].image else "class"


def folder_of(adapter: Adapter, label: str = "", image: str = "") -> str:
    """Where the files of the adapter that is meant are among the payloads; "" for the only one.

    Args:
        label: The class that it is for.
        image: The image that it was trained on: its path in the dataset, the path's last part, or the beginning of its
            sha256.

    Raises:
        InvalidArgument: There are several and none of them is named, or one is named that is not there, or for nothing.
    """
    if has_several(adapter) == "image":
        return _folder_of_image(adapter, label, image)
    if image:
        what = "is for each class" if adapter.class_adapters else "is for all classes"
        raise invalid_field("image", image, f"is not to be chosen: {adapter.name} {what}", "leave it out")
    folders = {item.label: item.folder for item in adapter.class_adapters}
    if folders and not label:
        raise missing_field("class", f"{adapter.name} has an adapter for each class: name one of {listed([*folders])}")
    if folders:
        check_choice("class", label, folders)
        return folders[label]
    if label:
        raise invalid_field("class", label, f"is not to be chosen: {adapter.name} is for all classes", "leave it out")
    return ""


def _folder_of_image(adapter: Adapter, label: str, image: str) -> str:
    each = f"{adapter.name} has an adapter for each of {plural(len(adapter.class_adapters), 'image')}"
    example = adapter.class_adapters[0]
    names = f"{example.path} or {example.image[:SHOWN_DIGITS]}"
    remedy = f"name the image by its path or by the beginning of its sha256, such as {names}"
    if label:
        raise invalid_field("class", label, f"is not to be chosen: {each}", f"leave it out, and {remedy}")
    if not image:
        raise missing_field("image", f"{each}: {remedy}")
    found = [item for item in adapter.class_adapters if item.path == image] or [
        item
        for item in adapter.class_adapters
        if PurePosixPath(item.path).name == image or item.image.startswith(image.lower())
    ]
    if len(found) != 1:
        several = f"means {plural(len(found), 'image')}: {listed([item.path for item in found], 3)}"
        problem = several if found else "is none of its images"
        raise invalid_field("image", image, f"{problem}; {each}", remedy, reason="NOT_ONE_IMAGE")
    return found[0].folder


def write_adapter(
    format_name: str, folder: Path, out: Path, base_model: str, *, is_sdxl: bool = False, original_px: int = 0
) -> Export:
    """Writes the adapter whose stored files are in a folder in a form that `check_export` takes.

    Args:
        original_px: Of SDXL, the side that the UNet was told its train images had before they were resized; 0 if that
            is not known.

    Raises:
        ValueError: The files are not those of an adapter. It says what is wrong.
        InvalidArgument: The form has no names for its layers.
    """
    form = FORMATS[format_name]
    if form.copy is not None:
        notes = form.copy(folder, out)
    else:
        stored = read_stored(folder, base_model, is_sdxl=is_sdxl)
        notes = written(form, stored, out)
        if stored.has_tokens:
            notes.append(
                "prompts name classes by learned tokens, which are not in it: export them as well, in the format "
                f"{TEXTUAL_INVERSION}"
            )
    if original_px:
        notes.append(
            f"it was trained with an original size of {original_px} x {original_px} pixels: images are sampled as here "
            f"if their pipeline is given that (diffusers: original_size=({original_px}, {original_px}))"
        )
    return Export(files_of(out), tuple(notes))


def written(form: Format, stored: Stored, out: Path) -> list[str]:
    """Writes an adapter in a form of adapters, and returns the notes."""
    if form.write is None:
        raise TypeError("this form is of no adapter")
    return form.write(stored, out)


def files_of(out: Path) -> tuple[Path, ...]:
    """What an export has written."""
    return (out,) if out.is_file() else tuple(sorted(path for path in out.rglob("*") if path.is_file()))


def read_stored(folder: Path, base_model: str, *, is_sdxl: bool = False) -> Stored:
    """The adapter whose stored files are in a folder. Raises ValueError for files that are not an adapter's."""
    has_tokens = (folder / CLASS_TOKENS).is_file()
    if (folder / LORA_WEIGHTS).is_file():
        stored = _read_lora(folder / LORA_WEIGHTS, base_model)
    elif (folder / PEFT_WEIGHTS).is_file() and (folder / PEFT_CONFIG).is_file():
        text = folder / TEXT_FOLDER
        of_text = _read_peft(text, base_model) if (text / PEFT_CONFIG).is_file() else None
        stored = replace(_read_peft(folder, base_model), text=of_text)
    else:
        raise ValueError(f"it has neither {LORA_WEIGHTS} nor {PEFT_WEIGHTS} with {PEFT_CONFIG}")
    return replace(stored, has_tokens=has_tokens, is_sdxl=is_sdxl)


def _read_lora(weights: Path, base_model: str) -> Stored:
    tensors, metadata = read_tensors(weights)
    said = json_object(metadata.get(LORA_CONFIG, ""), f"metadata {LORA_CONFIG}")
    of_text = {key.removeprefix(TEXT_PREFIX): value for key, value in said.items() if key.startswith(TEXT_PREFIX)}
    config = {key.removeprefix(LORA_PREFIX): value for key, value in said.items() if not key.startswith(TEXT_PREFIX)}
    text = None
    if of_text:
        own = [tensor for tensor in tensors if tensor.name.startswith(TEXT_PREFIX)]
        text = _stored(weights, of_text, own, TEXT_LORA_PREFIX, base_model)
        tensors = [tensor for tensor in tensors if not tensor.name.startswith(TEXT_PREFIX)]
    return replace(_stored(weights, config, tensors, LORA_PREFIX, base_model), text=text)


def _read_peft(folder: Path, base_model: str) -> Stored:
    weights = folder / PEFT_WEIGHTS
    config = json_object((folder / PEFT_CONFIG).read_text(encoding="utf-8"), PEFT_CONFIG)
    return _stored(weights, config, read_tensors(weights)[0], PEFT_PREFIX, base_model)


def _stored(weights: Path, config: dict[str, Any], tensors: list[Tensor], prefix: str, base_model: str) -> Stored:
    if config.get("peft_type") not in _KINDS:
        raise ValueError(f"it is of a kind {config.get('peft_type')!r}, which is none of {', '.join(_KINDS)}")
    return Stored(weights, config, _by_layer(tensors, prefix, _KINDS[config["peft_type"]]), base_model)


def _by_layer(tensors: list[Tensor], prefix: str, parts: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        name = tensor.name.removeprefix(prefix)
        found = next((part for part in (*parts, *_OTHER_PARTS) if name.endswith(f".{part}")), None)
        if name == tensor.name or found is None:
            raise ValueError(f"it has a tensor {tensor.name}, which is no adapter's")
        layers.setdefault(name.removesuffix(f".{found}"), {})[_OTHER_PARTS.get(found, found)] = tensor
    if not layers:
        raise ValueError("it has no tensors")
    for layer, found_parts in layers.items():
        for factor in _FACTORS:
            if any(part.startswith(factor) for part in parts) and not (
                factor in found_parts or {f"{factor}_a", f"{factor}_b"} <= found_parts.keys()
            ):
                raise ValueError(f"it lacks {factor} of {layer}")
    return layers


# The names that the tensors of a layer may have, of each of PEFT's kinds.
_KINDS = {
    "LORA": (DOWN, UP, LENGTHS),
    "LOHA": tuple(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    "LOKR": tuple(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    "OFT": ("oft_R.weight",),
    "BOFT": ("boft_R", "boft_s"),
}
# Those whose inputs, multiplied, are the layer's.
_INPUT_FACTORS = {"LORA": (DOWN,), "LOHA": ("hada_w1",), "LOKR": ("lokr_w1", "lokr_w2")}
# What a layer must have, whole or as a product of two.
_FACTORS = (DOWN, UP, "hada_w1", "hada_w2", "lokr_w1", "lokr_w2", "oft_R.weight", "boft_R", "boft_s")


def _renamed(stored: Stored, prefix: str) -> list[Tensor]:
    return [
        replace(tensor, name=f"{prefix}{layer}.{part}")
        for layer, parts in stored.layers.items()
        for part, tensor in parts.items()
    ]


def _write_diffusers(stored: Stored, out: Path) -> list[str]:
    said = {f"{LORA_PREFIX}{key}": value for key, value in stored.config.items()}
    tensors = _renamed(stored, LORA_PREFIX)
    if stored.text is not None:
        said |= {f"{TEXT_PREFIX}{key}": value for key, value in stored.text.config.items()}
        tensors += [
            replace(tensor, name=tensor.name.replace(LENGTHS, TEXT_LENGTHS))
            for tensor in _renamed(stored.text, TEXT_LORA_PREFIX)
        ]
    metadata = {"format": "pt", LORA_CONFIG: json.dumps(said, indent=2, sort_keys=True)}
    write_tensors(out, _in_place(tensors), metadata, stored.weights)
    scales = sorted({stored.scale_of(layer) for layer in stored.layers})
    if scales == [1.0]:
        return []
    shown = f"{scales[0]:g}" if len(scales) == 1 else f"{scales[0]:g} to {scales[-1]:g}"
    return [
        f"that the update is scaled by {shown} (alpha / rank) is in the file's metadata "
        f"({LORA_CONFIG}): a reader that leaves these out scales it by 1; the format kohya has alpha beside each layer"
    ]


def _write_peft(stored: Stored, out: Path) -> list[str]:
    """A folder for the UNet, and in it one for the text encoder."""
    out.mkdir()
    notes: list[str] = []
    if stored.text is not None:
        _write_peft(stored.text, out / TEXT_FOLDER)
        notes.append(f"the text encoder's adapter is in the folder {TEXT_FOLDER}: PEFT reads one model's at once")
    if stored.kind != "LORA":
        for name in (PEFT_WEIGHTS, PEFT_CONFIG):
            shutil.copyfile(stored.weights.with_name(name), out / name)
        return notes
    tensors = _in_place(_renamed(stored, PEFT_PREFIX))
    write_tensors(out / PEFT_WEIGHTS, tensors, {"format": "pt"}, stored.weights)
    # What the factors began with is of no use: a reader would factor weights for it.
    config = stored.config | {"inference_mode": True, "init_lora_weights": True}
    (out / PEFT_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    return notes


def _write_kohya(stored: Stored, out: Path) -> list[str]:
    """As kohya's sd-scripts, and LyCORIS beside them, name tensors.

    The layers' names are those of diffusers, and of SDXL those of its own code.
    """
    tensors = _kohya_tensors(stored, KOHYA_PREFIX)
    if stored.text is not None:
        of_text = _kohya_tensors(stored.text, f"{KOHYA_TEXT_PREFIX}{CLIP_PREFIX}")
        if stored.text.weights != stored.weights:  # a file of its own, whose bytes are read
            of_text = [replace(item, data=read_bytes(item, stored.text.weights)) for item in of_text]
        tensors += of_text
    write_tensors(out, _in_place(tensors), _kohya_metadata(stored), stored.weights)
    notes = []
    if _has(stored, LENGTHS):
        notes.append(
            "diffusers leaves out dora_scale, and ComfyUI divides it by the lengths of the base model's weights, not "
            "the adapted ones': to both this is another adapter. LyCORIS reads it as it was trained; for diffusers "
            "use the format diffusers"
        )
    if len({stored.alpha_of(layer) for layer in stored.layers}) > 1:
        # diffusers 0.42 keeps them under its old names for attention layers, by which PEFT finds none.
        notes.append(
            "its layers have several alphas, of which diffusers gives attention layers the most frequent one: to it "
            "this is another adapter; for diffusers use the format diffusers"
        )
    if _has(stored, "lokr_t2"):
        notes.append(
            "LyCORIS's own loader fails on lokr_t2, the core of kernels of more than one pixel; a program that "
            "multiplies the tensors by their names reads it"
        )
    if stored.kind != "LORA":
        notes.append(f"diffusers does not read {stored.kind.lower()} in this format; PEFT does in the format peft")
    width = prompt_width(stored)
    if width is not None and width not in ([SDXL_PROMPT_WIDTH] if stored.is_sdxl else _VERSIONS):
        others = "not SDXL's 2048" if stored.is_sdxl else "neither Stable Diffusion 1.x (768) nor 2.x (1024)"
        notes.append(
            f"the base model {stored.base_model} reads prompts of {plural(width, 'number')} a token, which is "
            f"{others}: programs for these cannot use it"
        )
    return notes


def kohya_name(layer: str, prefix: str = KOHYA_PREFIX, *, is_sdxl: bool = False) -> str:
    """What kohya's files call a layer. Raises InvalidArgument for one that SDXL has not, of an adapter of SDXL."""
    name = own_name(layer) if is_sdxl else layer
    if name is None:
        raise invalid_field(
            "format",
            "kohya",
            f"has no name for {layer}, which SDXL's UNet has not",
            "use the format diffusers or peft",
            reason="FORMAT_CANNOT",
        )
    return f"{prefix}{name}".replace(".", "_")


def _kohya_tensors(stored: Stored, prefix: str) -> list[Tensor]:
    to_layer = _kohya_lora if stored.kind == "LORA" else _kohya_lycoris
    return [
        tensor
        for layer, parts in stored.layers.items()
        for tensor in to_layer(stored, layer, kohya_name(layer, prefix, is_sdxl=stored.is_sdxl), parts)
    ]


def _kohya_lora(stored: Stored, layer: str, name: str, parts: Mapping[str, Tensor]) -> list[Tensor]:
    down, up = parts[DOWN], parts[UP]
    tensors = [
        replace(down, name=f"{name}.lora_down.weight"),
        replace(up, name=f"{name}.lora_up.weight"),
        scalar(f"{name}.alpha", stored.alpha_of(layer)),
    ]
    if LENGTHS in parts:
        # One for each output, as a column that the layer's weights can be multiplied with. PEFT has it as (out,), and
        # of a convolution as (1, out, 1, 1).
        shape = (up.shape[0], *(1 for _ in down.shape[1:]))
        tensors.append(replace(parts[LENGTHS], name=f"{name}.dora_scale", shape=shape))
    return tensors


def _kohya_lycoris(stored: Stored, layer: str, name: str, parts: Mapping[str, Tensor]) -> list[Tensor]:
    """LyCORIS has PEFT's shapes.

    For a Kronecker product of two full factors it has no alpha (lycoris/modules/lokr.py): there the scale is put into
    the small one.
    """
    rank, alpha = stored.rank_of(layer), stored.alpha_of(layer)
    if {"lokr_w1", "lokr_w2"} <= parts.keys() and alpha != rank:
        parts = {**parts, "lokr_w1": _times(parts["lokr_w1"], alpha / rank, stored.weights)}
        alpha = rank
    return [
        *(replace(tensor, name=f"{name}.{part}") for part, tensor in parts.items()),
        scalar(f"{name}.alpha", alpha),
    ]


def _times(tensor: Tensor, factor: float, source: Path) -> Tensor:
    values = [factor * value for value in numbers(tensor, source)]
    return replace(tensor, dtype="F32", data=struct.pack(f"<{len(values)}f", *values))


def _kohya_metadata(stored: Stored) -> dict[str, str]:
    """What sd-scripts want to know of a file (SS_METADATA_MINIMUM_KEYS), as text."""
    rank, alpha = str(stored.rank), f"{stored.alpha:.9g}"
    arguments: dict[str, str] = {}
    if any(len(tensor.shape) == 4 for parts in stored.layers.values() for tensor in parts.values()):
        arguments |= {"conv_dim": rank, "conv_alpha": alpha}
    if stored.kind != "LORA" or _has(stored, LENGTHS):
        arguments["algo"] = stored.kind.lower()
    if _has(stored, LENGTHS):
        arguments["dora_wd"] = "True"
    if _has(stored, "hada_t1", "lokr_t2"):
        arguments["use_tucker"] = "True"
    if stored.kind == "LOKR":
        arguments["factor"] = str(stored.config["decompose_factor"])
    metadata = {
        "ss_network_module": "lycoris.kohya" if "algo" in arguments else "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_network_args": json.dumps(arguments, sort_keys=True),
        "ss_sd_model_name": stored.base_model,
    }
    width = prompt_width(stored)
    if width is not None or stored.is_sdxl:
        known = _SDXL_VERSION if stored.is_sdxl else _VERSIONS.get(width or 0, (stored.base_model, "False"))
        metadata |= dict(zip(("ss_base_model_version", "ss_v2"), known, strict=True))
    return metadata


def prompt_width(stored: Stored) -> int | None:
    """How many numbers a token has for the UNet.

    None if the layers that read prompts are not adapted, or by a rotation.
    """
    if stored.kind not in _INPUT_FACTORS:
        return None
    for layer, parts in stored.layers.items():
        if layer.endswith((".attn2.to_k", ".attn2.to_v")):
            factors = (parts.get(name) or parts[f"{name}_b"] for name in _INPUT_FACTORS[stored.kind])
            return math.prod(factor.shape[1] for factor in factors)
    return None


def _has(stored: Stored, *names: str) -> bool:
    return any(name in parts for parts in stored.layers.values() for name in names)


def _copy_tokens(folder: Path, out: Path) -> list[str]:
    """A file a class, since diffusers' loader takes one token of each file."""
    tensors, _ = read_tensors(folder / CLASS_TOKENS)
    out.mkdir()
    for number, tensor in enumerate(sorted(tensors, key=lambda tensor: tensor.name)):
        own = replace(tensor, data=read_bytes(tensor, folder / CLASS_TOKENS))
        write_tensors(out / f"class-{number:04d}{SUFFIX}", [own], {"format": "pt"}, folder / CLASS_TOKENS)
    tokens = [tensor.name for tensor in sorted(tensors, key=lambda tensor: tensor.name)]
    return [
        f"the classes' tokens are {listed(tokens, 3)}: write them in prompts for the classes' names; diffusers itself "
        "writes out the others of several vectors (maybe_convert_prompt)"
    ]


def _copy_unet(folder: Path, out: Path) -> list[str]:
    if not (folder / UNET_WEIGHTS).is_file():  # the training ended early, before the UNet's turn
        raise ValueError(f"it has no {UNET_WEIGHTS}")
    out.mkdir()
    for name in (UNET_WEIGHTS, UNET_CONFIG):
        shutil.copyfile(folder / name, out / Path(name).name)
    return []


def _in_place(tensors: list[Tensor]) -> list[Tensor]:
    """In the order of their bytes in the file that they are from, and new ones behind them."""
    return sorted(tensors, key=lambda tensor: (1, 0) if isinstance(tensor.data, bytes) else (0, tensor.data.begin))


FORMATS: dict[str, Format] = {
    "diffusers": Format(
        sentence="one file that diffusers' load_lora_weights reads",
        methods=LORA_METHODS,
        is_file=True,
        write=_write_diffusers,
    ),
    "peft": Format(
        sentence="a folder that PEFT's PeftModel.from_pretrained(unet, folder) reads",
        methods=(*LORA_METHODS, *LYCORIS_METHODS, *ROTATIONS),
        is_file=False,
        write=_write_peft,
    ),
    "kohya": Format(
        sentence="one file under the names of kohya's sd-scripts and of LyCORIS, as most other programs read it",
        methods=(*LORA_METHODS, *LYCORIS_METHODS),
        is_file=True,
        write=_write_kohya,
    ),
    "unet": Format(
        sentence="of method full: a folder that diffusers' UNet2DConditionModel.from_pretrained reads",
        methods=("full",),
        is_file=False,
        copy=_copy_unet,
    ),
    TEXTUAL_INVERSION: Format(
        sentence="learned tokens: a folder with a file for each class, as diffusers' load_textual_inversion reads it",
        methods=ALL_METHODS,
        is_file=False,
        copy=_copy_tokens,
    ),
}
# Those of adapters: what others are merged into.
ADAPTER_FORMATS = tuple(name for name, form in FORMATS.items() if form.write is not None)
