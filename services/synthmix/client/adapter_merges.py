"""Several adapters of a base model as one: the LoRA whose update is the weighted sum of theirs. With numpy, not torch.

An update is always at hand as two factors, B (outputs x rank) and A (rank x inputs): LoRA's are stored. LoHa's
element-wise product of (B1 A1) and (B2 A2) has for factors the products, row by row and column by column, of each pair
of their ranks (Khatri-Rao); LoKr's Kronecker product of W and B A has W (x) B and I (x) A. The factors of a sum are all
of these side by side. Its singular values and vectors are those of the small matrix that is left when both factors are
made orthonormal (QR), so that a layer's whole matrix is never made.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthmix.client.adapter_config import KERNELS_OF_NINE, kronecker_shapes, patterns
from synthmix.client.adapter_formats import (
    ADAPTER_FORMATS,
    DOWN,
    FORMATS,
    UP,
    Export,
    Stored,
    check_out,
    files_of,
    prompt_width,
    written,
)
from synthmix.client.adapter_imports import read_adapter
from synthmix.client.outputs import made_whole
from synthmix.client.safetensors_files import Tensor, read_bytes
from synthmix.service_kit.adapter_payloads import LENGTHS
from synthmix.service_kit.errors import InvalidArgument, check_choice, check_range, invalid_field, missing_field
from synthmix.service_kit.extras import extra
from synthmix.service_kit.quantities import listed

FIELD = "adapters"
LARGEST_RANK = 4096
LARGEST_WEIGHT = 1000.0
SHOWN = 4
# The kernels of proj_in and proj_out, by the numbers that a token of a prompt has: Stable Diffusion 1.x has
# convolutions of a pixel, and 2.x linear layers.
PROJECTIONS: dict[int | None, tuple[int, ...]] = {768: (1, 1), 1024: ()}
# Of the sum of squares of the updates that are added up: what rounding leaves of weights that take one another away.
NOTHING = 1e-12


@dataclass(frozen=True)
class Operand:
    """One of the adapters.

    Attributes:
        name: As the caller gave it.
        weight: What its update is multiplied with.
        is_of_service: Whether the service says its base model, not a file.
    """

    name: str
    stored: Stored
    weight: float
    is_of_service: bool


@dataclass(frozen=True)
class Merge:
    """What was written.

    Attributes:
        exported: The files, and sentences on what some readers leave out.
        rank: The largest of a layer.
        error: The share of the update, by the root of the sum of squares, that was left out to keep the rank: 0 to 1.
    """

    exported: Export
    rank: int
    error: float


def merge_adapters(
    adapters: Sequence[str | Path],
    weights: Sequence[float],
    out: Path,
    *,
    rank: int | None,
    format_name: str,
    fetch: Callable[[str, Path], Stored],
) -> Merge:
    """Reads adapters and merges them. Raises SynthMixError as `Client.merge_adapters` says.

    Args:
        adapters: Names of the service's, or paths of files and folders.
        fetch: Downloads an adapter of the service into a folder that does not exist yet.
    """
    _check(len(adapters), weights, rank, format_name, out)
    with extra("merge", "merging adapters"):
        import numpy  # noqa: F401
    with tempfile.TemporaryDirectory(prefix="synthmix-merge-") as scratch:
        operands = []
        for number, (adapter, weight) in enumerate(zip(adapters, weights, strict=True)):
            if isinstance(adapter, Path):
                stored = read_adapter(adapter, field=FIELD)
            else:
                stored = fetch(adapter, Path(scratch) / str(number))
            operands.append(Operand(str(adapter), stored, weight, is_of_service=not isinstance(adapter, Path)))
        return merge(operands, rank, format_name, out)


def _check(count: int, weights: Sequence[float], rank: int | None, format_name: str, out: Path) -> None:
    """Raises InvalidArgument or AlreadyExists for what cannot be merged, before anything is fetched.

    Args:
        count: Adapters.
        rank: None to add up the ranks.
    """
    if not count:
        raise missing_field(FIELD, "name adapters, or files of adapters")
    if len(weights) != count:
        raise invalid_field(
            "weights",
            ",".join(f"{weight:g}" for weight in weights),
            f"are {len(weights)} for {count} adapters",
            "give one for each, in their order",
        )
    for index, weight in enumerate(weights):
        if not math.isfinite(weight):
            raise invalid_field(f"weights[{index}]", weight, "is no number", "use one such as 0.5")
        check_range(f"weights[{index}]", weight, -LARGEST_WEIGHT, LARGEST_WEIGHT)
    if rank is not None:
        check_range("rank", rank, 1, LARGEST_RANK)
    check_choice("format", format_name, ADAPTER_FORMATS)
    check_out(format_name, out)


def merge(operands: Sequence[Operand], rank: int | None, format_name: str, out: Path) -> Merge:
    """Writes the LoRA whose update is the weighted sum of these adapters'.

    Args:
        rank: The largest of a layer; None for the sum of the ranks, which is exact and takes adapters of LoRA's kind.
        out: Where; nothing is there. Its folder is made.

    Raises:
        InvalidArgument: The adapters are of several base models, or of a kind that cannot be added up.
    """
    _check_kinds(operands, rank)
    base_model, notes = _base_model(operands)
    layers: dict[str, dict[str, Tensor]] = {}
    ranks: dict[str, int] = {}
    lost, whole, apart = 0.0, 0.0, 0.0
    for layer, shape in sorted(_shapes(operands).items()):
        of_layer = [(item, *_factors(item, layer, shape)) for item in operands if layer in item.stored.layers]
        weighted = [(item.weight * up, down) for item, up, down in of_layer]
        up, down = _side_by_side(weighted)
        squares = _sum_of_squares(up, down)
        whole, apart = whole + squares, apart + sum(_sum_of_squares(*factors) for factors in weighted)
        if rank is not None and len(down) > rank:
            up, down, left_out = _truncated(up, down, rank)
            lost += left_out
        ranks[layer] = len(down)
        kernel = shape[2:]
        layers[layer] = {
            DOWN: _tensor(down, (len(down), *shape[1:])),
            UP: _tensor(up, (shape[0], len(down), *(1 for _ in kernel))),
        }
    if whole <= NOTHING * apart:
        raise invalid_field(
            "weights",
            ",".join(f"{item.weight:g}" for item in operands),
            "make the updates add up to nothing",
            "give others",
            reason="ADAPTER_WITHOUT_EFFECT",
        )
    config: dict[str, Any] = {
        **patterns("LORA", ranks, {layer: float(of_layer) for layer, of_layer in ranks.items()}),
        "target_modules": sorted(layers),
    }
    is_sdxl = any(item.stored.is_sdxl for item in operands)
    stored = Stored(operands[0].stored.weights, config, layers, base_model, is_sdxl=is_sdxl)
    with made_whole(out) as made:
        notes += written(FORMATS[format_name], stored, made)
    return Merge(Export(files_of(out), tuple(notes)), max(ranks.values()), math.sqrt(lost / whole))


def _check_kinds(operands: Sequence[Operand], rank: int | None) -> None:
    for item in operands:
        stored = item.stored
        if stored.text is not None:
            raise _cannot(
                item,
                "adapts the text encoder as well, and merges are of the UNet alone",
                "merge adapters that were trained without text_encoder_targets",
            )
        if stored.has_tokens:
            raise _cannot(
                item,
                "has learned tokens of classes, which stand for their names in its prompts and are no update",
                "merge adapters that were trained without class_tokens",
            )
        if stored.kind not in ("LORA", "LOHA", "LOKR"):
            raise _cannot(
                item,
                f"is of {stored.kind}: it multiplies the base model's weights by rotations, which do not add up",
                "merge adapters of lora, loha or lokr",
            )
        if any(LENGTHS in parts for parts in stored.layers.values()):
            raise _cannot(
                item,
                "is of DoRA, whose lengths are of the base model's weights with the update: updates of several do not "
                "add up to one of theirs",
                "merge adapters of lora, loha or lokr",
            )
        if rank is None and stored.kind != "LORA":
            raise _cannot(
                item,
                f"is of {stored.kind.lower()}, whose update is a LoRA of a large rank only",
                "give the rank that the result shall have, such as --rank 32: what that leaves out is told",
            )


def _base_model(operands: Sequence[Operand]) -> tuple[str, list[str]]:
    """The base model of all, "" if it is not known, and a note if files name several.

    Raises:
        InvalidArgument: Adapters of the service are of several. Files of one base model may name it in many ways.
    """
    named = {item.stored.base_model: item for item in operands if item.stored.base_model}
    said = [f"{item.name} is of {base_model}" for base_model, item in named.items()]
    certain = {item.stored.base_model: item for item in operands if item.is_of_service}
    if len(certain) > 1:
        raise _cannot(
            next(iter(certain.values())),
            f"is merged with adapters of other base models: {listed(said, SHOWN)}",
            "merge adapters of one base model",
        )
    if len(named) < 2:
        return next(iter(named), ""), []
    note = f"the adapters name their base models differently: {listed(said, SHOWN)}; they have to be of the same one"
    return next(iter(certain), ""), [note]


def _shapes(operands: Sequence[Operand]) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's weights. Raises InvalidArgument if the adapters have them in several."""
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    for item in operands:
        for layer in item.stored.layers:
            shape = _shape(item, layer)
            known, first = shapes.setdefault(layer, (shape, item.name))
            if known != shape:
                raise _cannot(
                    item,
                    f"has {layer} in the shape {list(shape)}, and {first} in {list(known)}: they are of different base "
                    "models",
                    "merge adapters of one base model",
                )
    return {layer: shape for layer, (shape, _) in shapes.items()}


def _shape(item: Operand, layer: str) -> tuple[int, ...]:
    """Outputs and inputs, and of a convolution the sides of its kernel."""
    stored, parts = item.stored, item.stored.layers[layer]
    if stored.kind == "LORA":
        return (parts[UP].shape[0], *parts[DOWN].shape[1:])
    core = next((parts[name] for name in ("hada_t1", "lokr_t2") if name in parts), parts.get("lokr_w2"))
    kernel = core.shape[2:] if core is not None else _kernel(item, layer)
    if stored.kind == "LOKR":
        (outputs, inputs), (more_outputs, more_inputs) = kronecker_shapes(layer, parts)
        return (outputs * more_outputs, inputs * more_inputs, *kernel)
    up, down = parts["hada_w1_a"], parts["hada_w1_b"]
    if "hada_t1" in parts:
        return (up.shape[1], down.shape[1], *kernel)
    return (up.shape[0], down.shape[1] // math.prod(kernel), *kernel)


def _kernel(item: Operand, layer: str) -> tuple[int, ...]:
    """Of a layer whose factors are flat, so that the base model or the layer's name tells.

    Raises:
        InvalidArgument: The layer is a convolution in some base models, and which this one is is not known.
    """
    name, stored = layer.rpartition(".")[2], item.stored
    if name in KERNELS_OF_NINE:
        return (3, 3)
    if name == "conv_shortcut":
        return (1, 1)
    if name not in ("proj_in", "proj_out") or stored.base_model == "builtin" or stored.is_sdxl:
        return ()
    width = prompt_width(stored)
    if width not in PROJECTIONS:
        raise _cannot(
            item,
            f"adapts {layer} by {stored.kind.lower()}, which does not tell whether that is a convolution, and is of "
            "neither Stable Diffusion 1.x nor 2.x",
            "merge adapters without proj_in and proj_out, or of lora",
        )
    return PROJECTIONS[width]


def _factors(item: Operand, layer: str, shape: Sequence[int]) -> tuple[Any, Any]:
    """A layer's update as two factors, (outputs, rank) and (rank, inputs times the kernel's pixels), in float64.

    Raises:
        InvalidArgument: They are not of the layer's shape, or have what are no numbers.
    """
    import numpy as np

    try:
        up, down = _by_kind(item.stored, layer)
    except ValueError as error:  # numpy's, of arrays that cannot be multiplied
        raise _cannot(item, f"has factors of {layer} that do not fit together ({error})", "leave it out") from error
    if (len(up), up.shape[1], down.shape[1]) != (shape[0], len(down), math.prod(shape[1:])):
        raise _cannot(
            item,
            f"has factors of {layer} that do not fit together, of {list(up.shape)} and {list(down.shape)}",
            "leave it out",
        )
    if not (np.isfinite(up).all() and np.isfinite(down).all()):
        raise _cannot(item, f"has weights that are no numbers (NaN or infinite) in {layer}", "leave it out")
    return up, down


def _by_kind(stored: Stored, layer: str) -> tuple[Any, Any]:
    arrays = {part: _array(tensor, stored.weights) for part, tensor in stored.layers[layer].items()}
    scale = stored.scale_of(layer)
    if stored.kind == "LORA":
        return scale * _flat(arrays[UP]), _flat(arrays[DOWN])
    if stored.kind == "LOHA":
        up, down = _product(arrays, "hada_w1", "hada_t1")
        other_up, other_down = _product(arrays, "hada_w2", "hada_t2")
        rows = scale * up[:, :, None] * other_up[:, None, :]
        columns = down[:, None, :] * other_down[None, :, :]
        return rows.reshape(len(up), -1), columns.reshape(-1, down.shape[1])
    return _kronecker(arrays, scale)


def _kronecker(arrays: Mapping[str, Any], scale: float) -> tuple[Any, Any]:
    import numpy as np

    small = arrays["lokr_w1"] if "lokr_w1" in arrays else arrays["lokr_w1_a"] @ arrays["lokr_w1_b"]
    if "lokr_w2" in arrays:
        large = _flat(arrays["lokr_w2"])
        outputs, inputs = large.shape
        up, down = (np.eye(outputs), large) if outputs <= inputs else (large, np.eye(inputs))
    else:
        up, down = _product(arrays, "lokr_w2", "lokr_t2")
    return scale * np.kron(small, up), np.kron(np.eye(small.shape[1]), down)


def _product(arrays: Mapping[str, Any], name: str, core: str) -> tuple[Any, Any]:
    """Two factors of a product. A kernel's core between them (Tucker's decomposition) goes to the inputs'."""
    import numpy as np

    one, other = arrays[f"{name}_a"], arrays[f"{name}_b"]
    if core not in arrays:
        return one, other
    return one.T, _flat(np.einsum("ijkl,jr->irkl", arrays[core], other))


def _side_by_side(factors: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The factors of a sum of updates."""
    import numpy as np

    ups, downs = zip(*factors, strict=True)
    return np.concatenate(ups, axis=1), np.concatenate(downs, axis=0)


def _truncated(up: Any, down: Any, rank: int) -> tuple[Any, Any, float]:
    """The nearest product of this rank (Eckart and Young 1936), and the sum of squares of what it leaves out."""
    import numpy as np

    left, of_left = np.linalg.qr(up)
    right, of_right = np.linalg.qr(down.T)
    vectors, values, others = np.linalg.svd(of_left @ of_right.T, full_matrices=False)
    roots = np.sqrt(values[:rank])
    new_up, new_down = (left @ vectors[:, :rank]) * roots, (roots[:, None] * others[:rank]) @ right.T
    return new_up, new_down, float(np.sum(values[rank:] ** 2))


def _sum_of_squares(up: Any, down: Any) -> float:
    """Of all numbers of a product, without it."""
    return float(((up.T @ up) * (down @ down.T)).sum())


def _array(tensor: Tensor, path: Path) -> Any:
    """A tensor in float64."""
    import numpy as np

    data = read_bytes(tensor, path)
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[tensor.dtype])
    return values.astype(np.float64).reshape(tensor.shape)


def _flat(array: Any) -> Any:
    return array.reshape(len(array), -1)


def _tensor(array: Any, shape: tuple[int, ...]) -> Tensor:
    """In float32, by no name yet."""
    return Tensor("", "F32", shape, array.astype("<f4").tobytes())


def _cannot(item: Operand, problem: str, remedy: str) -> InvalidArgument:
    return invalid_field(FIELD, item.name, problem, remedy, reason="MERGE_CANNOT")
