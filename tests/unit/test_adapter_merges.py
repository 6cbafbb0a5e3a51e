"""Merged adapters, compared with the sums of whole matrices; and what cannot be merged."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmix.client.adapter_formats import ADAPTER_FORMATS, FORMATS, Stored, written
from synthmix.client.adapter_imports import read_adapter
from synthmix.client.adapter_merges import Merge, merge_adapters
from synthmix.client.safetensors_files import Tensor, numbers, read_tensors, write_tensors
from synthmix.service_kit.errors import AlreadyExists, InvalidArgument

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "up_blocks.1.resnets.0.conv1"
PROJECTION = "mid_block.attentions.0.proj_in"


def kohya(path: Path, layers: dict[str, dict[str, tuple[int, ...]]], seed: int, alpha: float = 3.0) -> Path:
    """A file under kohya's names, with random numbers."""
    random = np.random.default_rng(seed)
    tensors = []
    for layer, parts in layers.items():
        name = f"lora_unet_{layer.replace('.', '_')}"
        for part, shape in parts.items():
            data = random.standard_normal(shape).astype("<f4").tobytes()
            tensors.append(Tensor(f"{name}.{part}", "F32", shape, data))
        tensors.append(Tensor(f"{name}.alpha", "F32", (), np.float32(alpha).tobytes()))
    path.touch()
    source = path.with_suffix(".none")
    source.touch()
    write_tensors(path, tensors, {}, source)
    return path


def lora(rank: int, outputs: int = 6, inputs: int = 8, kernel: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    return {
        "lora_down.weight": (rank, inputs, *kernel),
        "lora_up.weight": (outputs, rank, *(1 for _ in kernel)),
    }


def loha(rank: int, outputs: int = 6, inputs: int = 8) -> dict[str, tuple[int, ...]]:
    return {
        f"hada_w{number}_{side}": (outputs, rank) if side == "a" else (rank, inputs)
        for number in (1, 2)
        for side in "ab"
    }


# 6 x 8 as (2 x 2) and (3 x 4).
LOKR_FULL = {"lokr_w1": (2, 2), "lokr_w2": (3, 4)}
LOKR_LOW = {"lokr_w1": (2, 2), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 4)}
# A convolution of 6 outputs and 8 inputs.
LOHA_CORE = {
    **{f"hada_w{number}_a": (2, 6) for number in (1, 2)},
    **{f"hada_w{number}_b": (2, 8) for number in (1, 2)},
    **{f"hada_t{number}": (2, 2, 3, 3) for number in (1, 2)},
}
LOKR_CORE = {"lokr_w1": (2, 2), "lokr_w2_a": (1, 3), "lokr_w2_b": (1, 4), "lokr_t2": (1, 1, 3, 3)}
LOKR_KERNEL = {"lokr_w1": (2, 2), "lokr_w2": (3, 4, 3, 3)}
LOKR_FLAT_KERNEL = {"lokr_w1": (2, 2), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 36)}


def dense(stored: Stored) -> dict[str, np.ndarray]:
    """The update of each layer by the formulas of the papers, (outputs, inputs times the kernel's pixels)."""
    found = {}
    for layer, tensors in stored.layers.items():
        parts = {name: np.array(numbers(item, stored.weights)).reshape(item.shape) for name, item in tensors.items()}
        if stored.kind == "LORA":
            up, down = parts["lora_B.weight"], parts["lora_A.weight"]
            update = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
        elif stored.kind == "LOHA":
            one, other = (_product(parts, f"hada_w{number}", f"hada_t{number}") for number in (1, 2))
            update = (one * other).reshape(len(one), -1)
        else:
            large = parts["lokr_w2"] if "lokr_w2" in parts else _product(parts, "lokr_w2", "lokr_t2")
            pixels = {4: large[0, 0].size if large.ndim == 4 else 1}.get(large.ndim, large.size // 12)
            large = large.reshape(3, 4, pixels)
            update = np.einsum("ab,cdp->acbdp", parts["lokr_w1"], large).reshape(6, -1)
        found[layer] = stored.scale_of(layer) * update
    return found


def _product(parts: dict[str, np.ndarray], name: str, core: str) -> Any:
    one, other = parts[f"{name}_a"], parts[f"{name}_b"]
    if core in parts:
        return np.einsum("ijkl,ip,jr->prkl", parts[core], one, other)
    return one @ other


def merged(paths: Sequence[Path], weights: Sequence[float], out: Path, rank: int | None = None) -> tuple[Merge, Stored]:
    def fetch(name: str, folder: Path) -> Stored:
        raise AssertionError

    made = merge_adapters(paths, weights, out, rank=rank, format_name="diffusers", fetch=fetch)
    return made, read_adapter(out)


def summed(paths: Sequence[Path], weights: Sequence[float]) -> dict[str, np.ndarray]:
    total: dict[str, Any] = {}
    for path, weight in zip(paths, weights, strict=True):
        for layer, update in dense(read_adapter(path)).items():
            total[layer] = total.get(layer, 0.0) + weight * update
    return total


def test_loras_are_merged_exactly(tmp_path: Path) -> None:
    both = {TO_K: lora(2), CONVOLUTION: lora(2, kernel=(3, 3))}
    paths = [
        kohya(tmp_path / "a.safetensors", both, 1),
        kohya(tmp_path / "b.safetensors", {TO_K: lora(3), TO_Q: lora(3)}, 2, alpha=1.5),
    ]
    made, stored = merged(paths, [0.75, -2.0], tmp_path / "out.safetensors")
    assert (made.error, made.rank) == (0.0, 5)
    assert {layer: stored.rank_of(layer) for layer in stored.layers} == {TO_K: 5, CONVOLUTION: 2, TO_Q: 3}
    assert {stored.scale_of(layer) for layer in stored.layers} == {1.0}
    expected = summed(paths, [0.75, -2.0])
    for layer, update in dense(stored).items():
        np.testing.assert_allclose(update, expected[layer], atol=1e-5)
    down = stored.layers[TO_K]["lora_A.weight"]
    first = read_adapter(paths[0]).layers[TO_K]["lora_A.weight"]
    assert numbers(down, stored.weights)[:16] == numbers(
        first, paths[0]
    )  # the inputs' factors as they were, bit for bit


@pytest.mark.parametrize("form", ADAPTER_FORMATS)
def test_a_merge_is_the_same_in_every_form(form: str, tmp_path: Path) -> None:
    paths = [
        kohya(tmp_path / f"{seed}.safetensors", {TO_K: lora(seed), CONVOLUTION: lora(1, kernel=(3, 3))}, seed)
        for seed in (1, 2)
    ]
    out = tmp_path / ("out.safetensors" if FORMATS[form].is_file else "out")
    merge_adapters(paths, [1.0, 1.0], out, rank=None, format_name=form, fetch=lambda name, folder: read_adapter(folder))
    expected = summed(paths, [1.0, 1.0])
    for layer, update in dense(read_adapter(out)).items():
        np.testing.assert_allclose(update, expected[layer], atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_sum_cut_to_a_rank_is_the_nearest_and_says_how_near(rank: int, tmp_path: Path) -> None:
    layers = {TO_K: lora(4), CONVOLUTION: lora(4, kernel=(3, 3))}
    paths = [kohya(tmp_path / f"{seed}.safetensors", layers, seed) for seed in (1, 2)]
    made, stored = merged(paths, [1.0, 0.5], tmp_path / "out.safetensors", rank)
    expected = summed(paths, [1.0, 0.5])
    values = {layer: np.linalg.svd(update, compute_uv=False) for layer, update in expected.items()}
    lost = sum(float((item[rank:] ** 2).sum()) for item in values.values())
    whole = sum(float((item**2).sum()) for item in values.values())
    assert made.error == pytest.approx(math.sqrt(lost / whole), rel=1e-6)
    assert made.error > 0.01
    difference = sum(float(((dense(stored)[layer] - update) ** 2).sum()) for layer, update in expected.items())
    assert math.sqrt(difference / whole) == pytest.approx(made.error, rel=1e-4)
    assert {stored.rank_of(layer) for layer in stored.layers} == {rank}


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        (TO_K, loha(2)),
        (TO_K, LOKR_FULL),
        (TO_K, LOKR_LOW),
        (CONVOLUTION, LOHA_CORE),
        (CONVOLUTION, loha(2, inputs=72)),
        (CONVOLUTION, LOKR_CORE),
        (CONVOLUTION, LOKR_KERNEL),
        (CONVOLUTION, LOKR_FLAT_KERNEL),
    ],
    ids=["loha", "lokr full", "lokr low", "loha core", "loha kernel", "lokr core", "lokr kernel", "lokr flat kernel"],
)
def test_every_kind_is_a_lora_of_a_large_enough_rank(layer: str, parts: Any, tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", {layer: parts}, 3, alpha=0.5)
    kernel = (3, 3) if layer == CONVOLUTION else ()
    other = kohya(tmp_path / "b.safetensors", {layer: lora(1, kernel=kernel)}, 4)
    made, stored = merged([path, other], [2.0, 1.0], tmp_path / "out.safetensors", rank=8)
    assert made.error < 1e-7
    assert stored.layers[layer]["lora_A.weight"].shape[1:] == (8, *kernel)
    np.testing.assert_allclose(dense(stored)[layer], summed([path, other], [2.0, 1.0])[layer], atol=1e-4)


@pytest.mark.parametrize(("width", "kernel"), [(768, (1, 1)), (1024, ())])
def test_a_projection_is_a_convolution_in_stable_diffusion_1(width: int, kernel: Any, tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", {TO_K: loha(1, inputs=width), PROJECTION: loha(1)}, 3)
    _, stored = merged([path], [1.0], tmp_path / "out.safetensors", rank=1)
    assert stored.layers[PROJECTION]["lora_A.weight"].shape == (1, 8, *kernel)


def test_a_projection_of_another_model_is_refused(tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", {TO_K: loha(1), PROJECTION: loha(1)}, 3)
    said = refused([path], [1.0], tmp_path, rank=1)
    assert f"adapts {PROJECTION} by loha, which does not tell whether that is a convolution" in said


def refused(paths: Sequence[Path], weights: Sequence[float], tmp_path: Path, rank: int | None = None) -> str:
    out = tmp_path / "out.safetensors"
    with pytest.raises(InvalidArgument) as caught:
        merged(paths, weights, out, rank)
    assert caught.value.violations[0].field
    assert "; " in caught.value.message
    assert not out.exists()
    return caught.value.message


def test_kinds_that_do_not_add_up(tmp_path: Path) -> None:
    plain = kohya(tmp_path / "a.safetensors", {TO_K: lora(2)}, 1)
    dora = kohya(tmp_path / "b.safetensors", {TO_K: lora(2) | {"dora_scale": (6, 1)}}, 1)
    assert "whose lengths are of the base model's weights with the update" in refused([plain, dora], [1, 1], tmp_path)
    assert "of a large rank only; give the rank" in refused(
        [plain, kohya(tmp_path / "c.safetensors", {TO_K: loha(2)}, 1)], [1, 1], tmp_path
    )
    rotation = tmp_path / "oft"
    rotation.mkdir()
    name = f"base_model.model.{TO_K}.oft_R.weight"
    write_tensors(rotation / "adapter_model.safetensors", [Tensor(name, "F32", (2, 6), bytes(48))], {}, plain)
    (rotation / "adapter_config.json").write_text(
        '{"peft_type": "OFT", "r": 0, "oft_block_size": 4, "use_cayley_neumann": false}'
    )
    assert "rotations, which do not add up" in refused([rotation, plain], [1, 1], tmp_path)


def test_adapters_of_different_base_models(tmp_path: Path) -> None:
    one = kohya(tmp_path / "a.safetensors", {TO_K: lora(2)}, 1)
    other = kohya(tmp_path / "b.safetensors", {TO_K: lora(2, inputs=10)}, 1)
    said = refused([one, other], [1, 1], tmp_path)
    assert f"has {TO_K} in the shape [6, 10], and {one} in [6, 8]: they are of different base models" in said


@pytest.mark.parametrize("is_of_service", [True, False])
def test_adapters_that_name_different_base_models(is_of_service: bool, tmp_path: Path) -> None:
    """The service knows; files of one base model name it by what their program called it."""
    path = kohya(tmp_path / "a.safetensors", {TO_K: lora(2)}, 1)
    base_models = iter(["sd/one", "sd/two"])

    def fetch(name: str, folder: Path) -> Stored:
        return replace(read_adapter(path), base_model=next(base_models))

    if is_of_service:
        with pytest.raises(InvalidArgument, match=r"other base models: one is of sd/one, two is of sd/two; merge"):
            merge_adapters(
                ["one", "two"], [1, 1], tmp_path / "out.safetensors", rank=None, format_name="kohya", fetch=fetch
            )
        return
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file, name in zip(files, base_models, strict=True):
        written(FORMATS["kohya"], replace(read_adapter(path), base_model=name), file)
    made, _ = merged(files, [1, 1], tmp_path / "out.safetensors")
    assert "name their base models differently" in made.exported.notes[0]


@pytest.mark.parametrize(
    "parts",
    [
        loha(2) | {"hada_w2_a": (5, 2)},
        loha(2) | {"hada_w2_b": (2, 9)},
        lora(2) | {"lora_up.weight": (6, 2, 3, 3)},
    ],
)
def test_factors_that_do_not_fit_together(parts: Any, tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", {TO_K: parts}, 1)
    assert f"has factors of {TO_K} that do not fit together" in refused([path], [1.0], tmp_path, rank=2)


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", {TO_K: lora(2)}, 1)
    data = path.read_bytes()
    path.write_bytes(data[:-8] + np.float32("nan").tobytes() * 2)
    tensors, _ = read_tensors(path)
    assert tensors[-1].name.endswith("alpha")
    with pytest.raises(InvalidArgument, match="alpha that is no number"):
        read_adapter(path)
    at = data.index(np.float32(3.0).tobytes())
    path.write_bytes(data[: at - 4] + np.float32("inf").tobytes() + data[at:])
    assert "weights that are no numbers (NaN or infinite) in" in refused([path], [1.0], tmp_path)


def test_weights_that_leave_nothing(tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", {TO_K: lora(2)}, 1)
    assert "add up to nothing" in refused([path, path], [0.7, -0.7], tmp_path)
    assert "add up to nothing" in refused([path], [0.0], tmp_path)


@pytest.mark.parametrize(
    ("weights", "rank", "said"),
    [
        ([1.0], None, "are 1 for 2 adapters"),
        ([1.0, float("nan")], None, "weights[1]: nan is no number"),
        ([1.0, 1e9], None, "weights[1]"),
        ([1.0, 1.0], 0, "rank: 0"),
    ],
)
def test_what_is_refused_before_anything_is_read(
    weights: list[float], rank: int | None, said: str, tmp_path: Path
) -> None:
    assert said in refused([tmp_path / "none.safetensors"] * 2, weights, tmp_path, rank)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = kohya(tmp_path / "a.safetensors", {TO_K: lora(2)}, 1)
    with pytest.raises(AlreadyExists):
        merged([path], [1.0], path)
    with pytest.raises(InvalidArgument, match=r"use out\.safetensors"):
        merged([path], [1.0], tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "said"), [("text", "adapts the text encoder as well"), ("has_tokens", "learned tokens of classes")]
)
def test_what_is_not_of_the_unet_alone_is_refused(part: str, said: str, tmp_path: Path) -> None:
    stored = read_adapter(kohya(tmp_path / "a.safetensors", {TO_K: lora(2)}, 1))
    other = replace(stored, **{part: stored if part == "text" else True})
    operands = iter([stored, other])
    with pytest.raises(InvalidArgument, match=rf"two.* {said}"):
        merge_adapters(
            ["one", "two"],
            [1, 1],
            tmp_path / "out.safetensors",
            rank=None,
            format_name="diffusers",
            fetch=lambda name, folder: next(operands),
        )
