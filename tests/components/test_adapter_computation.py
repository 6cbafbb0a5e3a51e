"""How a training step computes: recomputation changes no byte, bfloat16 changes losses little, attention is fused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synthmix.adapter_training import recipe, unet_rewrites
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.computation import prepared_denoiser
from synthmix.latent_diffusion import loading
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from tiny_adapters import resumed, settings_of, trained

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("method", "targets", "options"),
    [
        ("lora", "all", {}),
        ("lora", "attention", {"dropout": 0.5}),  # what is left out must be left out the second time, too
        ("dora", "attention+feedforward", {}),
        ("lora", "attention", {"precision": "bfloat16"}),
    ],
)
def test_recomputing_changes_no_byte(
    base: LatentDiffusion, found: BaseModel, method: str, targets: str, options: dict[str, Any]
) -> None:
    model, state = trained(base, settings_of(found, method, targets, **options))
    again, other = trained(base, settings_of(found, method, targets, gradient_checkpointing=True, **options))
    assert other.losses == state.losses
    assert adapter_files(again) == adapter_files(model)
    assert not base.unet.is_gradient_checkpointing, "it is the copy that recomputes"
    assert again.unet.is_gradient_checkpointing


@pytest.mark.parametrize("method", ["lora", "dora"])  # in the rewritten UNet, and in the UNet itself
def test_recomputing_keeps_less_for_the_backward_pass(base: LatentDiffusion, found: BaseModel, method: str) -> None:
    """Tensors that autograd holds on to besides weights, each counted once."""

    def kept_bytes(**options: Any) -> int:
        settings = settings_of(found, method, "attention", **options)
        model = shared_copy(base)
        recipe.set_up(model, settings)
        model.unet.train()
        weights = {value.untyped_storage().data_ptr() for value in model.unet.parameters()}
        kept: dict[int, int] = {}

        def pack(value: torch.Tensor) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        denoise = prepared_denoiser(model, settings)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            prompts = Conditions(torch.randn(2, 8, 16))
            answer = denoise(torch.randn(4, 4, 16, 16), torch.arange(4), prompts, torch.arange(4) % 2)
        answer.square().mean().backward()
        return sum(kept.values())

    assert kept_bytes(gradient_checkpointing=True) < 0.5 * kept_bytes()


def test_float32_is_what_a_cpu_computes_in(base: LatentDiffusion, found: BaseModel) -> None:
    model, _ = trained(base, settings_of(found, "lora", "attention"))
    same, _ = trained(base, settings_of(found, "lora", "attention", precision="float32"))
    assert adapter_files(same) == adapter_files(model)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_bfloat16_changes_losses_a_little_and_is_reproducible(
    base: LatentDiffusion, found: BaseModel, method: str
) -> None:
    _, state = trained(base, settings_of(found, method, "attention"))
    settings = settings_of(found, method, "attention", precision="bfloat16")
    model, other = trained(base, settings)
    assert other.losses != state.losses
    assert other.losses == pytest.approx(state.losses, rel=0.01)
    assert {value.dtype for value in other.parameters.values()} == {torch.float32}
    assert adapter_files(resumed(base, settings, stop_after=2)[0]) == adapter_files(model)


def test_float32_on_weights_in_bfloat16(folder: Path, found: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU has them: they are raised in the copy that is trained, and stay as they are in the one that is kept."""
    monkeypatch.setattr(loading, "frozen_dtype", lambda device: torch.bfloat16)
    kept = load(folder, torch.device("cpu"))
    model, state = trained(kept, settings_of(found, "lora", "attention", precision="float32"))
    assert {value.dtype for value in model.unet.parameters()} == {torch.float32}
    assert {value.dtype for value in kept.unet.parameters()} == {torch.bfloat16}
    of_bfloat16, _ = trained(kept, settings_of(found, "lora", "attention", precision="bfloat16"))
    assert {value.dtype for value in of_bfloat16.unet.parameters()} == {torch.float32, torch.bfloat16}
    computed = dict(model.unet.named_parameters())
    for name, value in kept.unet.named_parameters():
        layer, _, kind = name.rpartition(".")
        raised = computed[name] if name in computed else computed[f"{layer}.base_layer.{kind}"]
        assert torch.equal(raised, value.float()), name
    assert np.isfinite(state.losses).all()


@pytest.mark.parametrize(("method", "precision"), [("lora", "float32"), ("dora", "float32"), ("lora", "bfloat16")])
def test_attention_is_torchs_fused_one(
    base: LatentDiffusion, found: BaseModel, method: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(found, method, "attention", precision=precision)
    model = shared_copy(base)
    recipe.set_up(model, settings)
    denoise, calls = prepared_denoiser(model, settings), []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*given: Any, **named: Any) -> torch.Tensor:
        calls.append(given[0].shape)
        return fused(*given, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(unet_rewrites, "MOST_KEYS", 0)  # in bfloat16, where it is not small
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        denoise(torch.randn(4, 4, 4, 4), torch.arange(4), Conditions(torch.randn(2, 8, 16)), torch.arange(4) % 2)
    layers = [name for name, _ in model.unet.named_modules() if name.endswith((".attn1", ".attn2"))]
    assert len(calls) == len(layers) > 2
