"""Optimizers of other packages: what they learn, what of them is stored, and interrupted to the same bytes.

A package that is not installed shows as a skip with its name; `pip install 'synthmix[optimizers]'` brings them all.
"""

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from synthmix.adapter_training import optimizers, planning, recipe, task
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.checkpoints import Checkpoint
from synthmix.adapter_training.optimizer_states import for_evaluation, for_training
from synthmix.adapter_training.optimizers import OPTIMIZERS
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.base_model import BUILTIN, resolve
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.errors import FailedPrecondition
from synthmix.service_kit.resource_names import OperationName
from tiny_adapters import resumed, trained

pytestmark = pytest.mark.usefixtures("one_thread")

OPERATION = OperationName("adapter-training", "0" * 32)
MODULES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}
HELD_OUT = [2, 3, 9]


def needing(optimizer: str, *values: Any) -> Any:
    """A test's parameters, where the optimizer's package is there."""
    module = MODULES.get(optimizer, "torch")
    missing = pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")
    return pytest.param(*(values or (optimizer,)), marks=missing, id=", ".join(map(str, values or (optimizer,))))


def settings_of(**options: Any) -> AdapterSettings:
    # Of a rank by which some factors have 4,096 weights, as many as adamw8bit has in 8 bits.
    given = AdapterSettings(rank=256, images_seen=48, batch_size=4, seed=3)
    if options.get("optimizer") != "prodigy":
        given.learning_rate = 1e-2
    given.MergeFrom(AdapterSettings(**options))
    base_model = resolve(BUILTIN, field="x", weights=False)  # any will do
    settings = planning.filled(given, base_model)
    planning.check_settings(settings, base_model)
    return settings


def test_every_optimizer_of_another_package_is_tested_here() -> None:
    assert set(MODULES) == {name for name, entry in OPTIMIZERS.items() if entry.package is not None}


@pytest.mark.parametrize("optimizer", [needing(optimizer) for optimizer in OPTIMIZERS])
def test_a_training_resumes_to_the_same_bytes(base: LatentDiffusion, optimizer: str) -> None:
    settings = settings_of(optimizer=optimizer, held_out=0.25, evaluations=6, patience=3)
    model, state = trained(base, settings, held_out=HELD_OUT)
    resumed_model, again = resumed(base, settings, 7, held_out=HELD_OUT)
    assert (again.losses, again.held_out) == (state.losses, state.held_out)
    assert adapter_files(resumed_model) == adapter_files(model)
    # Not only what decided about these bytes: what is the optimizer's is there to its last number.
    after, whole = (recipe.state_tensors(each) for each in (again, state))
    assert after.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) and value.dtype == whole[name].dtype for name, value in after.items())


@pytest.mark.parametrize("optimizer", [needing(optimizer) for optimizer in MODULES])
def test_an_optimizer_learns(base: LatentDiffusion, optimizer: str) -> None:
    options = {"rank": 16, "images_seen": 480, "held_out": 0.25, "evaluations": 12}
    _, state = trained(base, settings_of(optimizer=optimizer, **options), held_out=HELD_OUT)
    assert state.held_out[-1].loss < state.held_out[0].loss - 0.02
    if optimizer == "prodigy":
        [group] = state.optimizer.param_groups
        assert group["weight_decay"] == pytest.approx(0.01)
        assert group["d"] > 1000 * group["d0"], "it found a learning rate"
        assert recipe.state_tensors(state)["optimizer group.d.0"].item() == group["d"], "to its last digit"


@pytest.mark.parametrize("optimizer", [needing("adamw8bit")])
def test_moments_of_large_tensors_are_in_8_bits(base: LatentDiffusion, optimizer: str) -> None:
    _, state = trained(base, settings_of(optimizer=optimizer), 2)
    assert min(value.numel() for value in state.parameters.values()) >= 4096
    assert {state.optimizer.state[value]["state1"].dtype for value in state.parameters.values()} == {torch.uint8}


@pytest.mark.parametrize("optimizer", [needing("schedule_free")])
def test_schedule_free_keeps_the_average(base: LatentDiffusion, optimizer: str) -> None:
    """Equation 1 of the paper: gradients are taken at y = (1 - b) z + b x, and x is what is kept."""
    settings = settings_of(optimizer=optimizer)
    _, before_the_end = trained(base, settings, 12)
    _, state = trained(base, settings)
    (beta, _), differing = state.optimizer.param_groups[0]["betas"], 0
    for name, kept in state.parameters.items():
        gradients_at, sequence = before_the_end.parameters[name], state.optimizer.state[kept]["z"]
        torch.testing.assert_close((1 - beta) * sequence + beta * kept, gradients_at.data, rtol=1e-4, atol=1e-6)
        differing += not torch.equal(kept, gradients_at)
    assert differing > 10


@pytest.mark.parametrize("optimizer", [needing("schedule_free")])
def test_an_evaluation_changes_no_bit_of_a_training(base: LatentDiffusion, optimizer: str) -> None:
    often, once = (
        trained(base, settings_of(optimizer=optimizer, held_out=0.25, evaluations=count), held_out=HELD_OUT)
        for count in (12, 1)
    )
    assert often[1].losses == once[1].losses
    assert adapter_files(often[0]) == adapter_files(once[0])
    assert often[1].held_out[-1] == once[1].held_out[-1]


def test_a_worker_without_the_package_refuses_before_it_reads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(optimizers, "version", missing)
    monkeypatch.setattr(task, "open_object_store", lambda: pytest.fail("object storage was opened"))
    for optimizer in MODULES:
        request = {"settings": {"optimizer": optimizer}}
        with pytest.raises(FailedPrecondition, match=f"{optimizer}' needs the Python package {MODULES[optimizer]}"):
            task.train(str(OPERATION), "adapters/1", request, {}, lambda *report: None, 1)


def test_other_optimizers_have_no_second_weights(base: LatentDiffusion) -> None:
    _, state = trained(base, settings_of(rank=2), 3)
    before = {name: value.detach().clone() for name, value in state.parameters.items()}
    for_evaluation(state.optimizer)
    for_training(state.optimizer)
    assert all(torch.equal(value, before[name]) for name, value in state.parameters.items())


def test_a_checkpoint_that_an_earlier_version_wrote_is_gone_on_from(base: LatentDiffusion) -> None:
    """It has AdamW's moments under the names that they have had since then, and nothing of groups."""
    settings = settings_of(rank=2)
    model, _ = trained(base, settings)
    _, interrupted = trained(base, settings, 7)
    tensors = {
        name: value
        for name, value in recipe.state_tensors(interrupted).items()
        if name.partition(".")[0] in ("parameter", "optimizer")
    }
    assert {name.split(".")[1] for name in tensors if name.startswith("optimizer.")} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    resumed, _ = trained(base, settings, checkpoint=Checkpoint(28, tensors, interrupted.losses, 1))
    assert adapter_files(resumed) == adapter_files(model)
