"""Every adapter method in every set of layers: what it counts, how it begins, resumes, is stored and read by others."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from synthmix.adapter_training import methods, planning, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.fresh_adapters import add_fresh_adapter
from synthmix.adapter_training.methods import METHODS
from synthmix.image_synthesis import adapted_models
from synthmix.image_synthesis.adapted_models import make_ready
from synthmix.latent_diffusion.adapters import adapter_layers, load_adapter, weights
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, probe
from synthmix.service_kit.adapter_payloads import LORA_WEIGHTS, PEFT_WEIGHTS, divided
from synthmix.service_kit.errors import InvalidArgument
from tiny_adapters import CASES, ENDS, REFUSED, resumed, settings_of, trained, written

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.mark.parametrize(("method", "targets"), CASES)
def test_a_method_in_a_set_of_layers(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, method: str, targets: str
) -> None:
    # A scale of 2/3, since many mistakes are none with one of 1.
    settings = settings_of(found, method, targets, **({"alpha": 2.0} if "alpha" in METHODS[method].takes else {}))
    before = {name: value.clone() for name, value in base.unet.named_parameters()}
    without = probe(base)
    fresh = shared_copy(base)
    state = recipe.set_up(fresh, settings)
    torch.testing.assert_close(probe(fresh), without, rtol=0, atol=2e-6, msg="it begins as the base model")

    layers = planning.layers_of(settings, found)
    assert set(adapter_layers(fresh.unet)) == {layer.name for layer in layers}
    assert sum(value.numel() for value in state.parameters.values()) == methods.parameter_count(settings, layers)
    assert {value.dtype for value in state.parameters.values()} == {torch.float32}
    [scales] = {tuple(getattr(layer, "scaling", {"": 1.0}).values()) for layer in adapter_layers(fresh.unet).values()}
    assert scales == pytest.approx((methods.scale(settings),))

    model, state = trained(base, settings)
    resumed_model, again = resumed(base, settings, stop_after=2)
    files = adapter_files(model, state.first_factors)
    assert again.losses == state.losses
    assert adapter_files(resumed_model, again.first_factors) == files, "resumed to the same bytes"

    answer = probe(model)
    assert (answer - without).abs().max() > 1e-3
    loaded = shared_copy(base)
    load_adapter(loaded, written(files, tmp_path / "files"))
    torch.testing.assert_close(probe(loaded), answer, rtol=0, atol=2e-6)
    make_ready(loaded, "automatic")
    torch.testing.assert_close(probe(loaded), answer, rtol=0, atol=5e-6, msg="merged into the weights")
    assert all(torch.equal(value, before[name]) for name, value in base.unet.named_parameters()), "the kept base model"


@pytest.mark.parametrize("method", ["pissa", "dora", "loha", "lokr", "oft", "boft"])
def test_a_scale_goes_along_the_line_between_the_weights(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, method: str
) -> None:
    before = {name: value.clone() for name, value in base.unet.named_parameters()}
    model, state = trained(base, settings_of(found, method, "attention"), stop_after=2)
    folder = written(adapter_files(model, state.first_factors), tmp_path / "files")
    put_in = {}
    for scale in (0.0, 0.5, 1.0):
        copied = shared_copy(base)
        load_adapter(copied, folder)
        adapted_models._put_in(copied, weights(base), scale)
        put_in[scale] = dict(copied.unet.named_parameters())
    assert put_in[0.0].keys() == put_in[1.0].keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in put_in[0.0].items())
    changed = [name for name, value in put_in[1.0].items() if not torch.equal(value, before[name])]
    assert changed
    for name in changed:
        middle = (before[name] + put_in[1.0][name]) / 2
        torch.testing.assert_close(put_in[0.5][name], middle, rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in base.unet.named_parameters()), "the kept base model"


@pytest.mark.parametrize(("method", "targets"), sorted(REFUSED))
def test_a_method_refuses_layers_that_it_cannot_adapt(found: BaseModel, method: str, targets: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"adapter.settings.targets: '.*' has convolutions .*{method} cannot"):
        settings_of(found, method, targets)


@pytest.mark.parametrize("method", ["pissa", "olora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_first_factors_are_taken_off_the_same_way_when_a_training_goes_on(
    base: LatentDiffusion, found: BaseModel, method: str, dtype: torch.dtype
) -> None:
    settings = settings_of(found, method, "attention", alpha=2.0)
    begun, gone_on = shared_copy(base), shared_copy(base)
    for model in (begun, gone_on):
        model.unet.to(dtype)
    first_factors = add_fresh_adapter(begun, settings, {})
    assert {value.dtype for value in first_factors.values()} == {torch.float32}
    again = add_fresh_adapter(gone_on, settings, first_factors)
    assert all(torch.equal(again[name], value) for name, value in first_factors.items())
    for name, layer in adapter_layers(begun.unet).items():
        weight, original = layer.get_base_layer().weight, base.unet.get_submodule(name).weight
        assert torch.equal(weight, adapter_layers(gone_on.unet)[name].get_base_layer().weight)
        down, up = (first_factors[f"{name}.lora_{side}.default.weight"] for side in "AB")
        whole = weight.float() + methods.scale(settings) * up @ down
        torch.testing.assert_close(
            whole, original.to(dtype).float(), rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-3
        )


READ_BY_OTHERS = """
import sys, json
from pathlib import Path
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
torch.set_num_threads(1)
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
inputs = torch.load(out / "inputs.pt", weights_only=True)
for case in sorted(path for path in out.iterdir() if path.is_dir()):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    if (case / "adapter_config.json").exists():
        unet = PeftModel.from_pretrained(pipeline.unet, case)
    else:
        pipeline.load_lora_weights(case)
        unet = pipeline.unet
    with torch.no_grad():
        answer = unet.eval()(inputs["latents"], torch.tensor([500]), inputs["text"]).sample
    torch.save(answer, case / "answer.pt")
"""


def test_other_libraries_read_adapters_as_they_were_trained(
    base: LatentDiffusion, found: BaseModel, folder: Path, tmp_path: Path
) -> None:
    """In a process without our code, by diffusers' and PEFT's own loaders, which drop what they don't know."""
    random = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 4, 4, 4, generator=random), torch.randn(1, 4, 16, generator=random)
    torch.save({"latents": latents, "text": text}, tmp_path / "inputs.pt")
    expected = {}
    for method, targets in ENDS:
        model, state = trained(base, settings_of(found, method, targets), stop_after=2)
        case = f"{method} {targets}"
        written(adapter_files(model, state.first_factors), tmp_path / case)
        with torch.no_grad():
            expected[case] = model.unet(latents, torch.tensor([500]), text).sample
    without_ours = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", READ_BY_OTHERS, str(folder), str(tmp_path)],
        check=True,
        env=without_ours | {"HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
    )
    for case, answer in expected.items():
        found_answer = torch.load(tmp_path / case / "answer.pt", weights_only=True)
        torch.testing.assert_close(found_answer, answer, rtol=0, atol=2e-6, msg=case)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"oft"}))
def test_dropout_is_drawn_from_the_seed_and_the_step(base: LatentDiffusion, found: BaseModel, method: str) -> None:
    settings = settings_of(found, method, "attention", dropout=0.15 if method == "loha" else 0.5)
    _, state = trained(base, settings)
    _, without = trained(base, settings_of(found, method, "attention"))
    assert state.losses != without.losses
    torch.manual_seed(99)
    assert resumed(base, settings, stop_after=2)[1].losses == state.losses


GOLDEN_LOSSES = {
    "lora": 1.0737196,
    "rslora": 1.0710168,
    "dora": 1.0739355,
    "pissa": 1.0738188,
    "olora": 1.0733984,
    "loha": 1.0709426,
    "lokr": 1.0749329,
    "oft": 1.0709776,
    "boft": 1.0742644,
}


def test_golden_losses(base: LatentDiffusion, found: BaseModel) -> None:
    """The last of three steps. The first is the base model's, and the same for all."""
    losses = {method: trained(base, settings_of(found, method, "attention"))[1].losses for method in METHODS}
    assert {method: of_method[-1] for method, of_method in losses.items()} == pytest.approx(GOLDEN_LOSSES, rel=1e-4)
    assert [of_method[0] for of_method in losses.values()] == pytest.approx([losses["lora"][0]] * len(losses), rel=1e-5)


def cayley(blocks: torch.Tensor) -> torch.Tensor:
    """(1 - Q) / (1 + Q) of each skew-symmetric Q: Liu et al. 2024, section 3.1."""
    one = torch.eye(blocks.shape[-1])
    return torch.stack([(one - block) @ torch.linalg.inv(one + block) for block in blocks])


def skew(vectors: torch.Tensor, side: int) -> torch.Tensor:
    matrices = torch.zeros(len(vectors), side, side)
    rows, columns = torch.triu_indices(side, side, 1)
    matrices[:, rows, columns] = vectors
    return matrices - matrices.transpose(1, 2)


def updated(method: str, weight: torch.Tensor, tensors: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
    """A linear layer's weights with an adapter, by its paper's formula, from what is stored of it."""
    if method in ("lora", "rslora", "dora", "pissa", "olora"):
        # What is stored is plain LoRA of alpha equal to rank, or of the scale that it was trained with.
        low_rank = weight + (1.0 if method == "rslora" else scale) * tensors["lora_B.weight"] @ tensors["lora_A.weight"]
        if method != "dora":
            return low_rank
        return tensors["lora_magnitude_vector"][:, None] * low_rank / low_rank.norm(dim=1, keepdim=True)
    if method == "loha":
        one, other = (tensors[f"hada_w{n}_a"] @ tensors[f"hada_w{n}_b"] for n in (1, 2))
        return weight + scale * one * other
    if method == "lokr":
        large = tensors["lokr_w2"] if "lokr_w2" in tensors else tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
        return weight + scale * torch.kron(tensors["lokr_w1"], large)
    if method == "oft":
        blocks = tensors["oft_R.weight"]
        turned = skew(blocks, weight.shape[1] // len(blocks))
        # The series that PEFT takes for (1 + Q) / (1 - Q), Qiu et al. 2025 (arXiv:2506.19847), to its fifth term.
        one = torch.eye(turned.shape[-1])
        series = one + 2 * turned + 2 * turned @ turned + 2 * turned @ turned @ turned
        return weight @ torch.block_diag(*(series + turned @ turned @ turned @ turned)).T
    blocks = tensors["boft_R"][0]
    rotation = torch.block_diag(*cayley(0.5 * (blocks - blocks.transpose(1, 2))))
    return (rotation @ weight.T).T * tensors["boft_s"]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_is_the_papers_formula(base: LatentDiffusion, found: BaseModel, method: str) -> None:
    settings = settings_of(found, method, "attention")
    if "alpha" in METHODS[method].takes:
        settings.alpha = 1.5
    model, state = trained(base, settings)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    files = adapter_files(model, state.first_factors)
    stored = load_tensors(files.get(LORA_WEIGHTS) or files[PEFT_WEIGHTS])
    tensors = {key.rpartition(f"{name}.")[2]: value for key, value in stored.items() if f"{name}." in key}
    layer, before = adapter_layers(model.unet)[name], base.unet.get_submodule(name)
    values = torch.randn(5, before.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = updated(method, before.weight, tensors, methods.scale(settings))
        torch.testing.assert_close(layer(values), values @ weights.T, rtol=1e-4, atol=1e-5)
        assert (layer(values) - before(values)).abs().max() > 1e-3


def test_an_adapter_that_lacks_weights_or_has_too_many_is_refused(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path
) -> None:
    """Diffusers and PEFT load both without an error, and leave a part of the adapter out."""

    def without_one(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[min(tensors)]

    def with_another(tensors: dict[str, torch.Tensor]) -> None:
        tensors["nothing"] = torch.zeros(1)

    changes: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
        "it lacks": without_one,
        "it has what no layer takes: nothing": with_another,
    }
    for number, method in enumerate(("lora", "lokr")):
        model, _ = trained(base, settings_of(found, method, "attention"), stop_after=1)
        for said, change in changes.items():
            files = adapter_files(model)
            [weights] = files.keys() & {LORA_WEIGHTS, PEFT_WEIGHTS}
            length = int.from_bytes(files[weights][:8], "little")
            metadata = json.loads(files[weights][8 : 8 + length]).get("__metadata__")
            tensors = load_tensors(files[weights])
            change(tensors)
            broken = written(files | {weights: save_tensors(tensors, metadata)}, tmp_path / f"{number} {said[:8]}")
            with pytest.raises(ValueError, match=said):
                load_adapter(shared_copy(base), broken)


def test_files_of_earlier_versions_are_read_whole(base: LatentDiffusion, found: BaseModel, tmp_path: Path) -> None:
    """Up to recipe version 2, factors of attention had diffusers' names and those of convolutions PEFT's."""
    model, _ = trained(base, settings_of(found, "lora", "attention+feedforward+convolution"))
    [data] = adapter_files(model).values()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    old = {
        key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
        if ".attn" in key or ".ff." in key
        else key: value
        for key, value in load_tensors(data).items()
    }
    loaded = shared_copy(base)
    load_adapter(loaded, written({LORA_WEIGHTS: save_tensors(old, metadata)}, tmp_path / "old"))
    torch.testing.assert_close(probe(loaded), probe(model), rtol=0, atol=0)


@pytest.mark.parametrize("side", [1, 7, 8, 12, 16, 30, 64, 97, 176, 320, 352, 1280])
@pytest.mark.parametrize("factor", [-1, 1, 2, 3, 4, 8, 16, 100, 1024])
def test_the_sides_of_lokrs_factors_are_pefts(side: int, factor: int) -> None:
    from peft.tuners.lokr.layer import factorization

    assert divided(side, factor) == factorization(side, factor)


def test_pefts_oft_changes_a_convolution_before_it_has_learned_anything() -> None:
    """Why oft refuses convolutions of more than one pixel. When this fails, they need not be refused any more."""
    convolution = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    values = torch.randn(1, 4, 8, 8)
    before = convolution(values)
    peft.inject_adapter_in_model(peft.OFTConfig(r=0, oft_block_size=4, target_modules=["0"]), convolution)
    assert (convolution(values) - before).abs().max() > 0.1


def test_pefts_oft_leaves_out_nothing() -> None:
    """Why oft refuses dropout. When this fails, it need not be refused any more."""
    layer = nn.Sequential(nn.Linear(64, 4))
    peft.inject_adapter_in_model(
        peft.OFTConfig(r=0, oft_block_size=4, module_dropout=0.9, init_weights=False, target_modules=["0"]), layer
    )
    values = torch.randn(1, 64)
    torch.testing.assert_close(layer.train()(values), layer.eval()(values))
