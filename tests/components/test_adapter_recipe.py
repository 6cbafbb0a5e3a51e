"""The LoRA recipe on a tiny model: golden losses, resumption to the same bytes, what checkpoints and adapters hold."""

import copy
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors

from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import objective, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.checkpoints import (
    Checkpoint,
    delete_checkpoints,
    read_newest_checkpoint,
    write_checkpoint,
)
from synthmix.adapter_training.training_prompts import TrainingPrompts, encoded_once, prompt_embeddings
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_synthesis.adapted_models import check_adapter_has_effect
from synthmix.latent_diffusion.loading import LatentDiffusion, answers, load, probe
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.service_kit.settings_messages import with_defaults
from tiny_base_model import write_tiny_base_model

SETTINGS = with_defaults(
    AdapterSettings(
        method="lora",
        rank=4,
        alpha=4.0,
        targets="attention",
        images_seen=48,
        batch_size=4,
        learning_rate=1e-2,
        caption_dropout=0.25,
        learning_rate_schedule="cosine",
        seed=3,
    )
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8), np.arange(10) % 2


def prepared(folder: Path) -> tuple[LatentDiffusion, recipe.Latents, TrainingPrompts]:
    model = load(folder, CPU)
    latents = recipe.cache_latents(model, *images(), views=3)
    return model, latents, encoded_once(model, prompt_embeddings(model, ["a {label} cell"], ("round", "flat")))


def trained(folder: Path, stop_after: int | None = None) -> tuple[LatentDiffusion, recipe.TrainingState]:
    model, latents, prompts = prepared(folder)
    state = recipe.set_up(model, SETTINGS)

    class Stop(Exception):
        pass

    def after_step(state: recipe.TrainingState) -> None:
        if state.step == stop_after:
            raise Stop

    with suppress(Stop):
        recipe.train(model, state, SETTINGS, latents, prompts, after_step)
    return model, state


def test_golden_losses(folder: Path) -> None:
    _, state = trained(folder)
    assert len(state.losses) == recipe.training_steps(SETTINGS) == 12
    assert state.losses[:3] + state.losses[-1:] == pytest.approx([1.2285756, 1.0145822, 1.0746527, 1.1767516], rel=1e-5)


def test_a_resumed_training_gives_the_same_bytes(folder: Path) -> None:
    model, state = trained(folder)
    store, name = MemoryObjectStore.created(), OperationName("adapter-training", "0" * 32)
    _, interrupted = trained(folder, stop_after=5)
    write_checkpoint(
        store, name, Checkpoint(5 * SETTINGS.batch_size, recipe.state_tensors(interrupted), interrupted.losses, 2)
    )

    resumed_model, latents, prompts = prepared(folder)
    resumed = recipe.set_up(resumed_model, SETTINGS, read_newest_checkpoint(store, name))
    assert resumed.step == 5
    recipe.train(resumed_model, resumed, SETTINGS, latents, prompts, lambda state: None)
    assert resumed.losses == state.losses
    assert adapter_files(resumed_model) == adapter_files(model)


def test_only_the_newest_checkpoint_is_kept() -> None:
    store, name = MemoryObjectStore.created(), OperationName("adapter-training", "0" * 32)
    for images_seen in (8, 16, 1024):
        tensors = {"x": torch.tensor([float(images_seen)])}
        write_checkpoint(store, name, Checkpoint(images_seen, tensors, [0.5], 2))
    assert len(store.list("checkpoints/")) == 1
    newest = read_newest_checkpoint(store, name)
    assert newest is not None
    assert (newest.images_seen, newest.tensors["x"].item(), newest.losses, newest.threads) == (1024, 1024.0, [0.5], 2)
    delete_checkpoints(store, name)
    assert read_newest_checkpoint(store, name) is None


def test_only_the_adapter_is_trained_and_in_float32(folder: Path) -> None:
    model, latents, prompts = prepared(folder)
    frozen = copy.deepcopy(dict(model.unet.named_parameters()))
    state = recipe.set_up(model, SETTINGS)
    assert state.parameters
    assert {value.dtype for value in state.parameters.values()} == {torch.float32}
    assert all("lora" in name for name in state.parameters)
    recipe.train(model, state, SETTINGS, latents, prompts, lambda state: None)
    after = {
        name.replace(".base_layer", ""): value for name, value in model.unet.named_parameters() if "lora" not in name
    }
    assert after.keys() == frozen.keys()
    assert all(torch.equal(after[name], frozen[name]) for name in frozen)


def test_the_adapter_of_a_bfloat16_base_model_is_float32(folder: Path) -> None:
    model = load(folder, CPU)
    model.unet.to(torch.bfloat16)
    state = recipe.set_up(model, SETTINGS)
    assert {value.dtype for value in state.parameters.values()} == {torch.float32}
    assert model.unet.conv_in.weight.dtype == torch.bfloat16


def test_gradients_are_clipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exhausted iterator would clip nothing (the diffusers script's trap): the norm that AdamW sees is at most 1."""
    norms = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *arguments: object) -> object:
        gradients = [value.grad for group in self.param_groups for value in group["params"] if value.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients])).item())
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    monkeypatch.setattr(recipe, "GRADIENT_NORM", 1e-4)
    trained(folder)
    assert norms
    assert max(norms) <= 1e-4 * 1.001


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_target_follows_the_base_models_scheduler(tmp_path: Path, prediction_type: str) -> None:
    model = load(write_tiny_base_model(tmp_path, prediction_type), CPU)
    scheduler = objective.training_scheduler(model)
    clean, noise, timesteps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([10, 900])
    target = objective.prediction_target(scheduler, clean, noise, timesteps)
    alpha = scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - scheduler.alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
    expected = {"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - sigma * clean}[prediction_type]
    torch.testing.assert_close(target, expected)


def test_each_epoch_sees_every_image_once() -> None:
    settings = AdapterSettings(images_seen=60, batch_size=4)
    rows = torch.cat([recipe.batch_rows(settings, step, 10, 3)[0] for step in range(15)])
    for epoch in range(6):
        assert sorted(rows[epoch * 10 : epoch * 10 + 10].tolist()) == list(range(10))


def test_an_adapter_loads_into_diffusers_and_changes_the_output(folder: Path, tmp_path: Path) -> None:
    model, _ = trained(folder)
    [data] = adapter_files(model).values()
    assert all(key.startswith("unet.") for key in load_tensors(data))
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(data)
    fresh = load(folder, CPU)
    before = answers(fresh)
    fresh.pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    manifest = Manifest(ArtifactName("adapters", "0" * 32), {}, {}, 1, ())
    check_adapter_has_effect(fresh, before, manifest)
    torch.testing.assert_close(probe(fresh), probe(model))


def test_an_adapter_without_effect_is_refused(folder: Path) -> None:
    model = load(folder, CPU)
    with pytest.raises(DataLoss, match="changes nothing"):
        check_adapter_has_effect(model, answers(model), Manifest(ArtifactName("adapters", "0" * 32), {}, {}, 1, ()))
