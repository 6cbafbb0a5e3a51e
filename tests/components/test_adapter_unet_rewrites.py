"""A UNet that is rewritten for training predicts what it predicted, with the gradients that it had."""

import copy
import statistics
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from synthmix.adapter_training import unet_rewrites
from synthmix.adapter_training.targets import TARGETS
from synthmix.adapter_training.unet_rewrites import denoiser
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from synthmix.latent_diffusion.unet_modules import FoldedUpsampling
from tiny_base_model import write_tiny_base_model

ROWS = torch.tensor([0, 2, 1, 1, 0, 2])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def builtin() -> LatentDiffusion:
    return load(BUILTIN_FOLDER, torch.device("cpu"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return load(write_tiny_base_model(tmp_path_factory.mktemp("tiny")), torch.device("cpu"))


def adapted(unet: Any, targets: str = "attention") -> Any:
    """A copy with an adapter in the middle of its training."""
    torch.manual_seed(1)
    copied = copy.deepcopy(unet)
    copied.add_adapter(
        LoraConfig(r=4, lora_alpha=2, init_lora_weights="gaussian", target_modules=list(TARGETS[targets]))
    )
    for name, value in copied.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0.0, 0.05)
    return copied


def inputs(unet: Any, side: int) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(2)
    return (
        torch.randn(len(ROWS), unet.config.in_channels, side, side, generator=random),
        torch.randint(0, 1000, (len(ROWS),), generator=random),
        torch.randn(3, 7, unet.config.cross_attention_dim, generator=random),
        ROWS,
    )


def gradients(unet: Any, predicted: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = {name: value for name, value in unet.named_parameters() if value.requires_grad}
    return dict(zip(trained, torch.autograd.grad(predicted.square().mean(), list(trained.values())), strict=True))


def check_equal(unet: Any, side: int) -> None:
    latents, timesteps, prompts, rows = inputs(unet, side)
    expected = unet(latents, timesteps, prompts[rows]).sample
    predicted = denoiser(unet)(latents, timesteps, Conditions(prompts), rows)
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-5)
    ours, others = gradients(unet, predicted), gradients(unet, expected)
    assert ours.keys() == others.keys()
    largest = max(value.norm().item() for value in others.values())
    for name, value in others.items():
        assert (ours[name] - value).norm() <= 1e-4 * value.norm() + 1e-6 * largest, name


@pytest.mark.parametrize("targets", TARGETS)
def test_the_builtin_model_predicts_the_same_with_the_same_gradients(builtin: LatentDiffusion, targets: str) -> None:
    check_equal(adapted(builtin.unet, targets), 16)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("side", [4, 5])  # what is upsampled to 5 is not doubled
def test_convolutions_in_and_out_of_transformers_and_odd_sizes(tiny: LatentDiffusion, targets: str, side: int) -> None:
    check_equal(adapted(tiny.unet, targets), side)


def test_attention_with_a_bias(tiny: LatentDiffusion) -> None:
    unet = copy.deepcopy(tiny.unet)
    for module in unet.modules():
        for name in ("to_q", "to_k", "to_v"):
            if hasattr(module, name):
                layer = getattr(module, name)
                layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features), requires_grad=False)
    check_equal(adapted(unet), 4)


def test_the_unet_that_is_given_stays_as_it_is(builtin: LatentDiffusion) -> None:
    unet = adapted(builtin.unet)
    modules = {name: (module, type(module)) for name, module in unet.named_modules()}
    processors = dict(unet.attn_processors)
    denoiser(unet)
    assert {name: (module, type(module)) for name, module in unet.named_modules()} == modules
    assert unet.attn_processors == processors


def test_a_prompt_is_projected_once_for_all_of_its_images(
    builtin: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = adapted(builtin.unet)
    latents, timesteps, prompts, rows = inputs(unet, 16)
    product, batches = unet_rewrites.product, []

    def recorded(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        batches.append(len(values) if values.shape[1] == prompts.shape[1] else 0)
        return product(values, weight, bias)

    monkeypatch.setattr(unet_rewrites, "product", recorded)
    predict = denoiser(unet)
    predict(latents, timesteps, Conditions(prompts), rows)
    crossing = sum(name.endswith("attn2") for name, _ in unet.named_modules())
    assert batches.count(len(prompts)) >= crossing > 0
    assert set(batches) == {0, len(prompts)}


def of_both(
    unet: Any, side: int, monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool = True
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What a UNet predicts in bfloat16, where this processor multiplies in it or not, and the gradients."""
    monkeypatch.setattr(unet_rewrites, "multiplies_in_bfloat16", lambda: True)
    latents, timesteps, prompts, rows = inputs(unet, side)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        predicted = denoiser(unet, bfloat16=bfloat16)(latents, timesteps, Conditions(prompts), rows).float()
    return predicted, gradients(unet, predicted)


def near(ours: torch.Tensor, others: torch.Tensor) -> float:
    """The cosine between two of a shape."""
    return torch.nn.functional.cosine_similarity(ours.flatten(), others.flatten(), dim=0).item()


@pytest.mark.parametrize("most_keys", [unet_rewrites.MOST_KEYS, 0])
@pytest.mark.parametrize("targets", TARGETS)
def test_in_bfloat16_predictions_and_gradients_stay_near(
    builtin: LatentDiffusion, targets: str, most_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way attention goes: by products of matrices, or by torch's own in float32."""
    monkeypatch.setattr(unet_rewrites, "MOST_KEYS", most_keys)
    unet = adapted(builtin.unet, targets)
    predicted, ours = of_both(unet, 16, monkeypatch)
    expected, others = of_both(unet, 16, monkeypatch, bfloat16=False)
    assert (predicted - expected).norm() < 0.02 * expected.norm() and not torch.equal(predicted, expected)
    assert ours.keys() == others.keys()
    assert {value.dtype for value in ours.values()} == {torch.float32}
    together = [torch.cat([value.flatten() for value in each.values()]) for each in (ours, others)]
    # The smallest gradients are what is left of large ones in bfloat16: PEFT's own are as far from those in float32.
    assert near(*together) > 0.99
    assert statistics.median(near(ours[name], others[name]) for name in others) > 0.97


def test_other_methods_attend_so_in_bfloat16_as_well(builtin: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_float32_alone(query: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        assert query.dtype == torch.float32
        return fused(query, *given, **named)

    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", in_float32_alone)
    torch.manual_seed(1)
    unet = copy.deepcopy(builtin.unet)
    unet.add_adapter(LoraConfig(r=4, use_dora=True, target_modules=list(TARGETS["attention"])))
    modules = {name: type(module) for name, module in unet.named_modules()}
    predicted, ours = of_both(unet, 16, monkeypatch)
    assert {name: type(module) for name, module in unet.named_modules()} == modules
    expected, others = of_both(unet, 16, monkeypatch, bfloat16=False)
    assert (predicted - expected).norm() < 0.02 * expected.norm()
    assert near(*(torch.cat([value.flatten() for value in each.values()]) for each in (ours, others))) > 0.999


def test_a_processor_without_bfloat16_has_the_unet_as_it_is(
    builtin: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its oneDNN has no products in it."""
    monkeypatch.setattr(unet_rewrites, "multiplies_in_bfloat16", lambda: False)
    for name in ("_rewritten", "_copied", "Bfloat16Attention"):
        monkeypatch.setattr(unet_rewrites, name, None)
    unet = adapted(builtin.unet)
    latents, timesteps, prompts, rows = inputs(unet, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = denoiser(unet, bfloat16=True)(latents, timesteps, Conditions(prompts), rows)
    expected = unet(latents, timesteps, prompts[rows]).sample
    assert (predicted - expected).norm() < 0.02 * expected.norm()


def test_in_bfloat16_factors_are_added_before_weights_are_rounded(builtin: LatentDiffusion) -> None:
    """Of a small step, rounded factors would have nothing left."""
    unet = adapted(builtin.unet)
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn1.to_q"))
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    rewritten = unet_rewrites.AdaptedLinear(layer, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = rewritten.weight
    added = layer.scaling["default"] * up @ down
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), layer.base_layer.weight + added, rtol=2**-8, atol=0.0)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_is_left_out_is_left_out_in_training_alone(
    builtin: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, bfloat16: bool
) -> None:
    monkeypatch.setattr(unet_rewrites, "multiplies_in_bfloat16", lambda: True)
    unet = copy.deepcopy(builtin.unet).train()
    unet.add_adapter(
        LoraConfig(r=4, lora_dropout=0.5, init_lora_weights=False, target_modules=list(TARGETS["attention"]))
    )
    unet.train()
    predict = denoiser(unet, bfloat16=bfloat16)
    latents, timesteps, prompts, rows = inputs(unet, 4)

    def twice() -> list[torch.Tensor]:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return [predict(latents, timesteps, Conditions(prompts), rows) for _ in range(2)]

    assert not torch.equal(*twice())
    unet.eval()
    assert torch.equal(*twice())
    unet.train()
    assert not torch.equal(*twice())


def test_upsampling_is_folded_with_its_gradient(builtin: LatentDiffusion) -> None:
    upsampling = next(module for name, module in builtin.unet.named_modules() if name.endswith("upsamplers.0"))
    folded = FoldedUpsampling(upsampling)
    values = torch.randn(2, upsampling.channels, 3, 5, requires_grad=True)
    weights = torch.randn(2, upsampling.out_channels, 6, 10)
    results = []
    for module in (upsampling, folded):
        answer = module(values)
        results.append((answer, *torch.autograd.grad((answer * weights).sum(), values)))
    for ours, others in zip(*results, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-4)


def test_a_unet_that_attends_in_another_way_is_left_alone() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "AttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    ).requires_grad_(False)
    check_equal(adapted(unet), 4)
