"""Adapters in the text encoder beside the UNet's: what they count, how they begin, learn, resume, and are read."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel

from synthmix.adapter_training import methods, planning, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.methods import METHODS
from synthmix.adapter_training.targets import TEXT_TARGETS
from synthmix.image_synthesis.adapted_models import check_adapter_has_effect, make_ready
from synthmix.latent_diffusion.adapters import adapter_layers, load_adapter
from synthmix.latent_diffusion.base_model import BUILTIN, BaseModel, resolve
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import LatentDiffusion, answers
from synthmix.latent_diffusion.part_layers import TEXT_ENCODER, UNET
from synthmix.service_kit.adapter_payloads import LORA_WEIGHTS, TEXT_FOLDER
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.resource_names import ArtifactName
from tiny_adapters import resumed, settings_of, trained, written

pytestmark = pytest.mark.usefixtures("one_thread")

MANIFEST = Manifest(ArtifactName("adapters", "0" * 32), {}, {}, 1, ())
TOLERANCE = 5e-6
CASES = [*((method, "attention+feedforward") for method in METHODS), ("lora", "attention")]


def assert_equal(answer: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], says: str = "") -> None:
    for part, value in expected.items():
        torch.testing.assert_close(answer[part], value, rtol=0, atol=TOLERANCE, msg=f"{part} {says}" if says else None)


@pytest.mark.parametrize(("method", "targets"), CASES)
def test_a_method_in_the_text_encoder(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, method: str, targets: str
) -> None:
    settings = settings_of(found, method, "attention", text_encoder_targets=targets)
    before = {name: value.clone() for name, value in base.text_encoder.named_parameters()}
    without = answers(base)
    fresh = shared_copy(base)
    state = recipe.set_up(fresh, settings)
    assert_equal(answers(fresh), without, "begins as the base model's")
    layers = planning.layers_of(settings, found)
    placed = {*adapter_layers(fresh.unet), *adapter_layers(fresh.text_encoder)}
    assert placed == {layer.name for layer in layers}
    assert len(adapter_layers(fresh.text_encoder)) == len(TEXT_TARGETS[targets])
    assert sum(value.numel() for value in state.parameters.values()) == methods.parameter_count(settings, layers)
    assert {value.dtype for value in state.parameters.values()} == {torch.float32}

    model, state = trained(base, settings)
    resumed_model, again = resumed(base, settings, stop_after=2)
    files = adapter_files(model, state.first_factors)
    assert again.losses == state.losses
    assert adapter_files(resumed_model, again.first_factors) == files, "resumed to the same bytes"

    answer = answers(model)
    for part in (UNET, TEXT_ENCODER):
        assert (answer[part] - without[part]).abs().max() > 1e-3
    loaded = shared_copy(base)
    load_adapter(loaded, written(files, tmp_path / "files"))
    check_adapter_has_effect(loaded, without, MANIFEST)
    assert_equal(answers(loaded), answer)
    make_ready(loaded, "automatic")
    assert not adapter_layers(loaded.text_encoder)
    assert_equal(answers(loaded), answer, "merged into the weights")
    assert all(torch.equal(value, before[name]) for name, value in base.text_encoder.named_parameters())


@pytest.mark.parametrize("method", ["lora", "dora", "rslora", "pissa"])
def test_diffusers_reads_both_adapters_from_the_one_file(
    base: LatentDiffusion, found: BaseModel, folder: Path, tmp_path: Path, method: str
) -> None:
    settings = settings_of(found, method, "attention", text_encoder_targets="attention+feedforward", alpha=2.0)
    model, state = trained(base, settings, stop_after=2)
    written(adapter_files(model, state.first_factors), tmp_path / "files")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipeline.load_lora_weights(str(tmp_path / "files"), weight_name=LORA_WEIGHTS)
    assert_equal(answers(LatentDiffusion(pipeline, base.device, base.dtype)), answers(model))


def test_peft_reads_the_text_encoders_adapter_from_its_own_folder(
    base: LatentDiffusion, found: BaseModel, folder: Path, tmp_path: Path
) -> None:
    model, _ = trained(base, settings_of(found, "loha", "attention", text_encoder_targets="attention"), stop_after=2)
    files = written(adapter_files(model), tmp_path / "files")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    PeftModel.from_pretrained(pipeline.unet, str(files))
    PeftModel.from_pretrained(pipeline.text_encoder, str(files / TEXT_FOLDER))
    assert_equal(answers(LatentDiffusion(pipeline, base.device, base.dtype)), answers(model))


def test_an_adapters_bytes_do_not_know_where_the_base_model_was(
    base: LatentDiffusion, found: BaseModel, folder: Path
) -> None:
    for method in ("lora", "lokr"):
        model, _ = trained(base, settings_of(found, method, "attention", text_encoder_targets="attention"), 1)
        assert not [name for name, data in adapter_files(model).items() if str(folder).encode() in data]


def test_the_text_encoder_learns_at_a_rate_of_its_own(base: LatentDiffusion, found: BaseModel) -> None:
    def how_far(rate: float) -> dict[str, float]:
        settings = settings_of(
            found, "lora", "attention", text_encoder_targets="attention", text_encoder_learning_rate=rate
        )
        model, _ = trained(base, settings, stop_after=1)
        return {part: float((answers(model)[part] - without[part]).abs().max()) for part in without}

    without = answers(base)
    slow, fast = how_far(1e-5), how_far(1e-2)
    # The first step of Adam is as long as the learning rate.
    assert fast[TEXT_ENCODER] / slow[TEXT_ENCODER] == pytest.approx(1000, rel=0.3)
    assert fast[UNET] == pytest.approx(slow[UNET], rel=0.3)


def test_what_is_left_out_is_the_unets_rate_and_no_rate_without_an_adapter(found: BaseModel) -> None:
    assert settings_of(found, "lora", "attention", text_encoder_targets="attention").text_encoder_learning_rate == 1e-2
    assert not settings_of(found, "lora", "attention").HasField("text_encoder_learning_rate")


def test_an_average_and_held_out_images_are_of_both(base: LatentDiffusion, found: BaseModel) -> None:
    options = {"ema_decay": 0.9, "held_out": 0.25, "evaluations": 3}
    settings = settings_of(found, "lora", "attention", text_encoder_targets="attention", **options)
    model, state = trained(base, settings, held_out=[2, 3])
    assert len(state.held_out) == 3
    plain, _ = trained(base, settings_of(found, "lora", "attention", text_encoder_targets="attention"))
    assert not torch.equal(answers(model)[TEXT_ENCODER], answers(plain)[TEXT_ENCODER])
    assert all(torch.equal(value, state.parameters[name]) for name, value in state.averages.items())


def test_a_part_whose_adapter_changes_nothing_is_refused(base: LatentDiffusion, found: BaseModel) -> None:
    model, state = trained(base, settings_of(found, "lora", "attention", text_encoder_targets="attention"))
    with torch.no_grad():
        for name, value in state.parameters.items():
            if name.startswith("text_encoder.") and ".lora_B." in name:
                value.zero_()
    with pytest.raises(DataLoss, match="changes nothing in the text_encoder"):
        check_adapter_has_effect(model, answers(base), MANIFEST)


def test_the_builtin_base_models_text_encoder_is_adapted() -> None:
    found = resolve(BUILTIN, field="adapter.settings.base_model")
    for targets, names in TEXT_TARGETS.items():
        settings = settings_of(found, "lora", "attention", text_encoder_targets=targets)
        own = [layer for layer in planning.layers_of(settings, found) if layer.name.startswith("encoder.layers.")]
        assert len(own) == 3 * len(names)
