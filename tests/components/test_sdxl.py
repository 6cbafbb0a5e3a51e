"""SDXL: what its UNet is told of prompts and images, adapters that are trained on it, and images as its pipeline's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig

from image_archives import dataset
from memory_object_store import MemoryObjectStore
from synthmix.adapter_training import methods, planning, recipe, task
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.front_end import adapter_message
from synthmix.adapter_training.methods import METHODS
from synthmix.adapter_training.training_prompts import encoded_once, prompt_embeddings
from synthmix.api.adapters.v1.adapters_pb2 import Adapter, AdapterSettings
from synthmix.api.datasets.v1.datasets_pb2 import SplitSettings
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_data.split_parts import open_train_part
from synthmix.image_synthesis import sampling
from synthmix.image_synthesis.adapted_models import make_ready
from synthmix.image_synthesis.sampling import synthesise
from synthmix.image_synthesis.shards import PlannedImage
from synthmix.latent_diffusion import autoencoder, loading
from synthmix.latent_diffusion.adapters import adapter_layers, load_adapter
from synthmix.latent_diffusion.base_model import BaseModel, resolve
from synthmix.latent_diffusion.conditions import Conditions
from synthmix.latent_diffusion.denoising import Guidance, decode, denoise, encoded
from synthmix.latent_diffusion.kept_models import shared_copy
from synthmix.latent_diffusion.loading import FIELD, LatentDiffusion, encode_prompts, load, probe
from synthmix.latent_diffusion.model_kinds import SDXL
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import InvalidArgument
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName, OperationName
from synthmix.service_kit.settings_messages import with_defaults
from synthmix.study_control.split import create_split
from tiny_adapters import pixels, resumed, settings_of, trained, written
from tiny_base_model import write_tiny_base_model, write_tiny_sdxl

pytestmark = pytest.mark.usefixtures("one_thread", "any_base_model")

CPU = torch.device("cpu")
PROMPTS = ["a round cell", "a microscopy image of a cell", "a round cell"]
SIZE_PX = 32
# A network of random weights makes more of every last bit in every step.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


def test_its_parts_are_found(found: BaseModel, base: LatentDiffusion) -> None:
    assert found.kind is SDXL
    assert (found.image_size_px, found.latent_factor, found.schedule.train_timesteps) == (32, 8, 1000)
    assert type(base.pipeline) is StableDiffusionXLPipeline
    assert [type(encoder).__name__ for encoder in base.text_encoders] == [
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
    ]


@pytest.mark.parametrize("name", ["text_encoder_2/config.json", "tokenizer_2/tokenizer_config.json"])
def test_the_second_text_encoder_is_in_the_digest(name: str, folder: Path, found: BaseModel, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "model"))
    assert resolve(str(copied), field=FIELD).digest == found.digest
    path = copied / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of": "another"}))
    assert resolve(str(copied), field=FIELD).digest != found.digest


@pytest.mark.parametrize("force_zeros", [True, False])
def test_prompts_are_to_the_unet_what_diffusers_makes_of_them(force_zeros: bool, tmp_path: Path) -> None:
    folder = write_tiny_sdxl(tmp_path, force_zeros_for_empty_prompt=force_zeros)
    model = load(folder, CPU)
    theirs = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    with torch.no_grad():
        embeddings, of_none, pooled, pooled_of_none = theirs.encode_prompt(PROMPTS, device=CPU)
    ours = encode_prompts(model, ["", *PROMPTS])
    torch.testing.assert_close(ours.embeddings, torch.cat([of_none[:1], embeddings]))
    torch.testing.assert_close(ours.pooled, torch.cat([pooled_of_none[:1], pooled]))
    assert ours.embeddings[0].any().item() is not force_zeros
    assert ours.embeddings.shape[2] == 40 and ours.pooled.shape[1] == 20
    copied = encode_prompts(shared_copy(model), ["", *PROMPTS])
    assert all(torch.equal(one, other) for one, other in zip(copied.tensors, ours.tensors, strict=True))


def test_a_unet_that_is_told_of_sizes_has_to_be(base: LatentDiffusion) -> None:
    conditions = encode_prompts(base, PROMPTS[:2])
    with pytest.raises(ValueError, match="call of_size first"):
        _ = conditions.added
    sized = conditions.to(CPU, torch.bfloat16).of_size(517, 1000)
    assert sized.added is not None
    assert sized.added["time_ids"].tolist() == [[517, 517, 0, 0, 1000, 1000]] * 2, "bfloat16 has no 517"
    assert sized.added["text_embeds"].dtype == sized.embeddings.dtype == torch.bfloat16
    without = Conditions(conditions.embeddings)
    assert without.of_size(517, 1000) is without and without.added is None


def test_the_autoencoder_is_in_float32_where_all_else_is_in_less(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside tests of the same on CUDA, which there is none of here."""
    for module in (loading, autoencoder):
        monkeypatch.setattr(module, "frozen_dtype", lambda device: torch.bfloat16)
    model = load(folder, CPU)
    assert {part.dtype for part in (model.unet, *model.text_encoders)} == {torch.bfloat16}
    assert model.vae.dtype == autoencoder.load_autoencoder(folder).dtype == torch.float32
    # As diffusers loads the same weights: nothing was rounded before.
    exact = autoencoder.AutoencoderKL.from_pretrained(folder, subfolder="vae").state_dict()
    assert all(torch.equal(value, exact[name]) for name, value in model.vae.state_dict().items())


@pytest.mark.parametrize(
    ("method", "targets"),
    [*((method, "attention") for method in METHODS), ("lora", "all"), ("dora", "all"), ("lokr", "all")],
)
def test_every_method_is_trained_resumed_stored_and_loaded(
    base: LatentDiffusion, found: BaseModel, tmp_path: Path, method: str, targets: str
) -> None:
    settings = settings_of(found, method, targets, **({"alpha": 2.0} if "alpha" in METHODS[method].takes else {}))
    without = probe(base)
    fresh = shared_copy(base)
    state = recipe.set_up(fresh, settings)
    torch.testing.assert_close(probe(fresh), without, rtol=0, atol=2e-6, msg="it begins as the base model")
    layers = planning.layers_of(settings, found)
    assert set(adapter_layers(fresh.unet)) == {layer.name for layer in layers}
    assert sum(value.numel() for value in state.parameters.values()) == methods.parameter_count(settings, layers)

    model, state = trained(base, settings)
    again_model, again = resumed(base, settings, stop_after=2)
    files = adapter_files(model, state.first_factors)
    assert again.losses == state.losses
    assert adapter_files(again_model, again.first_factors) == files, "resumed to the same bytes"
    answer = probe(model)
    assert (answer - without).abs().max() > 1e-4
    loaded = shared_copy(base)
    load_adapter(loaded, written(files, tmp_path / "files"))
    torch.testing.assert_close(probe(loaded), answer, rtol=0, atol=2e-6)
    make_ready(loaded, "automatic")
    torch.testing.assert_close(probe(loaded), answer, rtol=0, atol=5e-6, msg="merged into the weights")
    assert torch.equal(probe(base), without), "the kept base model"


def test_the_whole_unet_is_trained_too(base: LatentDiffusion, found: BaseModel, tmp_path: Path) -> None:
    model, state = trained(base, settings_of(found, "full", "attention"))
    assert any(name.startswith("add_embedding.") for name in state.parameters)
    loaded = shared_copy(base)
    load_adapter(loaded, written_all(adapter_files(model), tmp_path))
    # The same weights lie elsewhere in memory, which on some processors decides about last bits.
    torch.testing.assert_close(probe(loaded), probe(model), rtol=0, atol=2e-6)


def written_all(files: dict[str, bytes], folder: Path) -> Path:
    return written(files, folder / "files")


def test_the_first_loss_is_that_of_diffusers_own_step(base: LatentDiffusion, found: BaseModel) -> None:
    """With the noise of the scheduler's own betas, and all that SDXL's UNet is told."""
    settings = settings_of(found, "lora", "attention", caption_dropout=0.5)
    model = shared_copy(base)
    latents = recipe.cache_latents(model, pixels(10), np.arange(10) % 2, views=2)
    state = recipe.set_up(model, settings)
    prompts = encoded_once(model, prompt_embeddings(model, ["a {label} cell"], ("round", "flat")))
    recipe.train(model, state, settings, latents, prompts, lambda state: None, original_px=20)

    rows, views = recipe.batch_rows(settings, 0, 10, 2)
    scheduler = recipe.objective.training_scheduler(base)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod, torch.cumprod(1 - betas, dim=0))
    task = recipe.objective.draw(settings, scheduler, latents.values[views, rows], 0)
    texts = ["a round cell", "a flat cell"]
    embeddings, of_none, pooled, pooled_of_none = base.pipeline.encode_prompt(texts, device=CPU)
    labels, dropped = latents.labels[rows], task.dropped
    assert dropped.any() and not dropped.all()
    sizes = torch.tensor([[20.0, 20.0, 0.0, 0.0, 32.0, 32.0]] * 4)
    with torch.no_grad():
        predicted = base.unet(
            task.noisy,
            task.timesteps,
            torch.where(dropped[:, None, None], of_none[:1], embeddings[labels]),
            added_cond_kwargs={
                "text_embeds": torch.where(dropped[:, None], pooled_of_none[:1], pooled[labels]),
                "time_ids": sizes,
            },
        ).sample
    assert state.losses[0] == pytest.approx(torch.nn.functional.mse_loss(predicted, task.target).item(), rel=1e-5)
    # Told of another size, it is another loss.
    other = recipe.set_up(again := shared_copy(base), settings)
    recipe.train(again, other, settings, latents, prompts, lambda state: None)
    assert abs(other.losses[0] - state.losses[0]) > 1e-5


READ_BY_OTHERS = """
import sys
from pathlib import Path
import torch
from diffusers import StableDiffusionXLPipeline
from peft import PeftModel
torch.set_num_threads(1)
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
inputs = torch.load(out / "inputs.pt", weights_only=True)
for case in sorted(path for path in out.iterdir() if path.is_dir()):
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    if (case / "adapter_config.json").exists():
        unet = PeftModel.from_pretrained(pipeline.unet, case)
    else:
        pipeline.load_lora_weights(case)
        unet = pipeline.unet
    with torch.no_grad():
        answer = unet.eval()(
            inputs["latents"], torch.tensor([500]), inputs["text"], added_cond_kwargs=inputs["added"]
        ).sample
    torch.save(answer, case / "answer.pt")
"""


def test_other_libraries_read_adapters_as_they_were_trained(
    base: LatentDiffusion, found: BaseModel, folder: Path, tmp_path: Path
) -> None:
    """In a process without our code, by the loaders of diffusers' SDXL pipeline and of PEFT."""
    random = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 4, 4, 4, generator=random), torch.randn(1, 4, 40, generator=random)
    sizes = torch.tensor([[96.0, 96.0, 0.0, 0.0, 32.0, 32.0]])
    added = {"text_embeds": torch.randn(1, 20, generator=random), "time_ids": sizes}
    torch.save({"latents": latents, "text": text, "added": added}, tmp_path / "inputs.pt")
    expected = {}
    for method in METHODS:
        model, state = trained(base, settings_of(found, method, "attention"), stop_after=2)
        written(adapter_files(model, state.first_factors), tmp_path / method)
        with torch.no_grad():
            expected[method] = model.unet(latents, torch.tensor([500]), text, added_cond_kwargs=added).sample
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


def calm(model: LatentDiffusion) -> LatentDiffusion:
    """A copy that says less of everything: a network of random weights makes more of every last bit in every step."""
    copied = shared_copy(model)
    copied.unet.conv_out.weight = torch.nn.Parameter(0.1 * model.unet.conv_out.weight, requires_grad=False)
    return copied


def with_adapter(model: LatentDiffusion) -> LatentDiffusion:
    copied = calm(model)
    torch.manual_seed(1)
    copied.unet.add_adapter(LoraConfig(r=4, init_lora_weights="gaussian", target_modules=["to_q", "to_k", "to_v"]))
    for name, value in copied.unet.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0.0, 0.1)
    copied.unet.requires_grad_(False)
    return copied


def ready(model: LatentDiffusion) -> LatentDiffusion:
    copied = with_adapter(model)
    make_ready(copied, "automatic")
    return copied


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(len(PROMPTS))]


def ours(model: LatentDiffusion, guidance_scale: float, original_px: int | None = None) -> np.ndarray:
    conditions = encoded(model, PROMPTS)
    latents = denoise(
        model,
        [conditions[prompt] for prompt in PROMPTS],
        [conditions[""]] * len(PROMPTS),
        generators(),
        size_px=SIZE_PX,
        steps=6,
        guidance=Guidance(guidance_scale),
        original_px=original_px,
    )
    return np.asarray(decode(model, latents).clamp(0, 1))


def stock(model: LatentDiffusion, guidance_scale: float, original_px: int | None = None) -> np.ndarray:
    images: np.ndarray = model.pipeline(
        PROMPTS,
        height=SIZE_PX,
        width=SIZE_PX,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        generator=generators(),
        output_type="np",
        original_size=original_px and (original_px, original_px),
    ).images
    return images


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("original_px", [None, 96])
def test_images_are_those_of_diffusers_pipeline(
    base: LatentDiffusion, name: str, guidance_scale: float, original_px: int | None
) -> None:
    model = shared_copy(base)
    model.pipeline.scheduler = getattr(diffusers, name).from_config(model.pipeline.scheduler.config)
    expected = stock(with_adapter(model), guidance_scale, original_px)
    np.testing.assert_allclose(ours(ready(model), guidance_scale, original_px), expected, atol=TOLERANCE)


def test_adapter_guidance_and_sizes_are_in_what_is_compared(base: LatentDiffusion) -> None:
    expected = stock(with_adapter(base), 5.0)
    for other in (stock(calm(base), 5.0), stock(with_adapter(base), 1.0), stock(with_adapter(base), 5.0, 1024)):
        assert np.abs(expected - other).max() > 10 * TOLERANCE


def test_a_model_without_zeros_for_the_empty_prompt_is_guided_away_from_its_words(tmp_path: Path) -> None:
    model = load(write_tiny_sdxl(tmp_path / "words", force_zeros_for_empty_prompt=False), CPU)
    expected = stock(with_adapter(model), 5.0)
    np.testing.assert_allclose(ours(ready(model), 5.0), expected, atol=TOLERANCE)
    zeros = load(write_tiny_sdxl(tmp_path / "zeros"), CPU)
    assert np.abs(stock(with_adapter(zeros), 5.0) - expected).max() > 10 * TOLERANCE


@pytest.mark.usefixtures("own_cache", "nothing_kept")
def test_images_are_sampled_as_of_the_size_that_train_images_had(
    folder: Path, found: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryObjectStore.created()
    monkeypatch.setattr(task, "open_object_store", lambda: store)
    split = create_split(store, dataset(store, tmp_path), SplitSettings(test=0.3, validation=0.2, seed=1))
    part = open_train_part(store, f"{split}/parts/train", field="adapter.train_split")
    told: list[int | None] = []
    train, of_prior = recipe.train, task.base_models_latents

    def recorded_train(*given: Any) -> None:
        told.append(given[-1])
        train(*given)

    def recorded_prior(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        told.append(given[-1])
        return of_prior(*given)

    monkeypatch.setattr(recipe, "train", recorded_train)
    monkeypatch.setattr(task, "base_models_latents", recorded_prior)
    settings = planning.filled(
        AdapterSettings(rank=2, images_seen=8, batch_size=4, prior_preservation=0.5, prior_images=1), found
    )
    made = task.train(
        str(OperationName("adapter-training", "1" * 32)),
        str(ArtifactName(ADAPTERS, "1" * 32)),
        planning.canonical_request(settings, train_digest=part.digest, base_model_digest=found.digest),
        {"train_split": f"{split}/parts/train", "base_model": str(folder)},
        lambda *report: None,
        1,
    )
    # Of the archive's images; they are resized to the base model's 32 pixels.
    assert made["summary"]["original_px"] == 16
    assert told == [16, 16]
    manifest = Manifest(
        ArtifactName(ADAPTERS, "1" * 32),
        {},
        planning.canonical_request(settings, train_digest=part.digest, base_model_digest=found.digest),
        1,
        (),
        {**made["summary"], "base_model": str(folder)},
    )
    message = adapter_message(store, manifest)
    assert (message.base_model_kind, message.original_size) == ("SDXL", 16)

    asked: list[int | None] = []

    def recorded_denoise(*given: Any, **named: Any) -> torch.Tensor:
        asked.append(named["original_px"])
        return denoise(*given, **named)

    monkeypatch.setattr(sampling, "denoise", recorded_denoise)
    model, planned = load(folder, CPU), [PlannedImage(0, "round", "a round cell", 7)]
    for summary in (made["summary"], {"grey": False}):  # an imported adapter's says nothing of it
        manifest = Manifest(ArtifactName(ADAPTERS, "1" * 32), {}, {"settings": {"image_size": 32}}, 1, (), summary)
        manifest.summary["base_model"] = str(folder)
        assert len(next(synthesise(model, manifest, with_defaults(SynthesisSettings(steps=2)), planned))) == 1
    assert asked == [16, None]


@pytest.mark.parametrize(("option", "value"), [("text_encoder_targets", "attention"), ("class_tokens", 2)])
def test_what_learns_in_a_text_encoder_is_refused_by_name(found: BaseModel, option: str, value: str | int) -> None:
    with pytest.raises(InvalidArgument, match=f"adapter.settings.{option}: .*SDXL has two.*Stable Diffusion 1.x"):
        settings_of(found, "lora", "attention", **{option: value})


@pytest.mark.usefixtures("own_cache")
def test_a_plan_knows_how_much_more_work_it_is(folder: Path, tmp_path: Path) -> None:
    store = MemoryObjectStore.created()
    split = create_split(store, dataset(store, tmp_path), SplitSettings(test=0.3, validation=0.2, seed=1))
    seconds = []
    for base_model in (folder, write_tiny_base_model(tmp_path / "sd")):
        settings = AdapterSettings(base_model=str(base_model), images_seen=1000)
        plan = planning.plan(store, Adapter(train_split=f"{split}/parts/train", settings=settings)).plan
        seconds.append(plan.predicted_seconds - planning.START_SECONDS)
    assert seconds[0] == pytest.approx(8.4 * seconds[1])
