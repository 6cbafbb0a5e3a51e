"""The UNet trained itself, the upper bound of what adapters reach: stored whole, and the kept base model untouched."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

from synthmix.adapter_training import planning, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.portions import Portion
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_synthesis.adapted_models import check_adapter_has_effect, make_ready
from synthmix.latent_diffusion.adapters import load_adapter
from synthmix.latent_diffusion.base_model import BUILTIN, BaseModel, resolve
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, answers, probe
from synthmix.service_kit.adapter_payloads import CLASS_TOKENS, UNET_CONFIG, UNET_WEIGHTS
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.resource_names import ArtifactName
from tiny_adapters import resumed, settings_of, trained, written

pytestmark = pytest.mark.usefixtures("one_thread")

MANIFEST = Manifest(ArtifactName("adapters", "0" * 32), {}, {}, 1, ())


@pytest.mark.parametrize("options", [{}, {"class_tokens": 1}, {"ema_decay": 0.9, "weight_decay": 0.0}], ids=str)
def test_all_weights_learn_resume_and_are_read_back(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    settings = settings_of(found, "full", "attention", **options)
    before = {name: value.clone() for name, value in base.unet.named_parameters()}
    without = answers(base)
    fresh = shared_copy(base)
    recipe.set_up(fresh, settings, classes=("round", "flat"))
    torch.testing.assert_close(probe(fresh), without["unet"], rtol=0, atol=0)

    model, state = trained(base, settings)
    resumed_model, again = resumed(base, settings, stop_after=2)
    files = adapter_files(model)
    assert again.losses == state.losses
    assert adapter_files(resumed_model) == files, "resumed to the same bytes"
    assert files.keys() == {UNET_WEIGHTS, UNET_CONFIG, *([CLASS_TOKENS] if "class_tokens" in options else [])}
    changed = [name for name, value in model.unet.named_parameters() if not torch.equal(value, before[name])]
    assert set(changed) == before.keys()

    answer = answers(model)
    assert (answer["unet"] - without["unet"]).abs().max() > 1e-3
    stored = written(files, tmp_path / "files")
    loaded = shared_copy(base)
    load_adapter(loaded, stored)
    check_adapter_has_effect(loaded, without, MANIFEST)
    make_ready(loaded, "automatic")
    torch.testing.assert_close(probe(loaded), answer["unet"], rtol=0, atol=5e-6)
    assert all(torch.equal(value, before[name]) for name, value in base.unet.named_parameters()), "the kept base model"

    theirs = UNet2DConditionModel.from_pretrained(stored / "unet").eval()
    random = torch.Generator().manual_seed(0)
    noise, text = torch.randn(1, 4, 4, 4, generator=random), torch.randn(1, 4, 16, generator=random)
    with torch.no_grad():
        expected = model.unet(noise, torch.tensor([500]), text).sample
        torch.testing.assert_close(theirs(noise, torch.tensor([500]), text).sample, expected, rtol=0, atol=0)


@pytest.mark.parametrize("change", ["lacks", "has what no layer takes", "of the shape"])
def test_weights_of_another_unet_are_refused(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, change: str
) -> None:
    tensors = load_tensors(adapter_files(trained(base, settings_of(found, "full", "attention"), 1)[0])[UNET_WEIGHTS])
    first = sorted(tensors)[0]
    if change == "lacks":
        del tensors[first]
    elif change == "of the shape":
        tensors[first] = torch.zeros(1, 2, 3)
    else:
        tensors["other"] = torch.zeros(1)
    (tmp_path / "unet").mkdir()
    save_file(tensors, tmp_path / UNET_WEIGHTS)
    with pytest.raises(ValueError, match=change):
        load_adapter(shared_copy(base), tmp_path)


def test_the_plan_counts_all_weights(base: LatentDiffusion, found: BaseModel) -> None:
    settings = settings_of(found, "full", "attention")
    counted = planning.quantities(settings, found, [Portion("", "", (0, 1), (), 12)], ("round", "flat"))
    values = {item.name: item.value for item in counted}
    assert values["parameters"] == sum(value.numel() for value in base.unet.parameters())
    assert values["adapted layers"] == len({name.rpartition(".")[0] for name, _ in base.unet.named_parameters()})


def test_its_learning_rate_is_a_tenth_of_loras() -> None:
    found = resolve(BUILTIN, field="adapter.settings.base_model")
    full, lora = (planning.filled(AdapterSettings(method=method), found) for method in ("full", "lora"))
    assert full.learning_rate == pytest.approx(lora.learning_rate / 10)
