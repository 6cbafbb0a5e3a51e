"""Our loop of steps gives the stock pipeline's images, each the same in any company, and computes nothing twice."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from PIL import Image

from memory_object_store import MemoryObjectStore
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_synthesis import adapted_models, batch_size, sampling
from synthmix.image_synthesis.adapted_models import adapted_model, make_ready
from synthmix.image_synthesis.batch_size import images_at_once
from synthmix.image_synthesis.sampling import sampler_of, synthesise
from synthmix.image_synthesis.shards import PlannedImage
from synthmix.image_synthesis.unet_rewrites import (
    FoldedUpsampling,
    GatedLinear,
    OneDnnLinear,
    PromptAttention,
    rewrite_for_sampling,
)
from synthmix.latent_diffusion import autoencoder, kept_models
from synthmix.latent_diffusion.adapters import adapter_layers, add_up, scale_layers, weights
from synthmix.latent_diffusion.base_model import BUILTIN_FOLDER, resolve
from synthmix.latent_diffusion.class_tokens import add_class_tokens
from synthmix.latent_diffusion.denoising import Guidance, LaterPrompts, Sampler, decode, denoise, encoded
from synthmix.latent_diffusion.kept_models import lend, shared_copy
from synthmix.latent_diffusion.loading import FIELD, LatentDiffusion, load, probe
from synthmix.latent_diffusion.schedulers import SCHEDULERS
from synthmix.service_kit.adapter_payloads import CLASS_TOKENS, LORA_WEIGHTS
from synthmix.service_kit.artifacts import Manifest, write_manifest, write_payload
from synthmix.service_kit.errors import DataLoss
from synthmix.service_kit.kept_values import give_back
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from synthmix.service_kit.settings_messages import with_defaults
from tiny_base_model import write_tiny_base_model

CPU = torch.device("cpu")
PROMPTS = ["a round cell", "a microscopy image of a cell", "a round cell"]
SIZE_PX = 32
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    model = load(write_tiny_base_model(tmp_path_factory.mktemp("tiny")), CPU)
    # A network of random weights makes more of every last bit in every step; one that says less of everything does not.
    model.unet.conv_out.weight.data *= 0.1
    return model


def with_adapter(model: LatentDiffusion, seed: int = 1) -> LatentDiffusion:
    """A copy with an adapter that changes what comes out, beside the weights."""
    copied = shared_copy(model)
    torch.manual_seed(seed)
    copied.unet.add_adapter(
        LoraConfig(r=4, init_lora_weights="gaussian", target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    for name, value in copied.unet.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0.0, 0.1)
    copied.unet.requires_grad_(False)
    return copied


def ready(model: LatentDiffusion, precision: str = "automatic") -> LatentDiffusion:
    copied = with_adapter(model)
    make_ready(copied, precision)
    return copied


def with_scheduler(model: LatentDiffusion, name: str, prediction_type: str) -> LatentDiffusion:
    copied = shared_copy(model)
    config = copied.pipeline.scheduler.config
    kind = getattr(diffusers, name)
    copied.pipeline.scheduler = kind.from_config(config, prediction_type=prediction_type, steps_offset=1)
    return copied


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


def ours(
    model: LatentDiffusion,
    steps: int,
    guidance_scale: float,
    size_px: int = SIZE_PX,
    negative: str = "",
    sampler: Sampler | None = None,
    **guidance: float,
) -> np.ndarray:
    embeddings = encoded(model, [*PROMPTS, negative])
    latents = denoise(
        model,
        [embeddings[prompt] for prompt in PROMPTS],
        [embeddings[negative]] * len(PROMPTS),
        generators(len(PROMPTS)),
        size_px=size_px,
        steps=steps,
        guidance=Guidance(guidance_scale, **guidance),
        sampler=sampler,
    )
    return np.asarray(decode(model, latents).clamp(0, 1))


def stock(
    model: LatentDiffusion, steps: int, guidance_scale: float, size_px: int = SIZE_PX, **options: Any
) -> np.ndarray:
    images: np.ndarray = model.pipeline(
        PROMPTS,
        height=size_px,
        width=size_px,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=generators(len(PROMPTS)),
        output_type="np",
        **options,
    ).images
    return images


@pytest.mark.parametrize(
    ("name", "prediction_type"),
    [(name, kind) for name, scheduler in SCHEDULERS.items() for kind in scheduler.prediction_types],
)
def test_images_are_those_of_the_stock_pipeline(tiny: LatentDiffusion, name: str, prediction_type: str) -> None:
    model = with_scheduler(tiny, name, prediction_type)
    expected = stock(with_adapter(model), 6, 2.0)
    np.testing.assert_allclose(ours(ready(model), 6, 2.0), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("options", "of_diffusers", "eta"),
    [
        ({"sampler": "DPMSolverMultistepScheduler"}, {}, 0.0),
        (
            {"sampler": "DPMSolverMultistepScheduler", "solver_order": 1, "solver_algorithm": "sde-dpmsolver++"},
            {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"},
            0.0,
        ),
        ({"sampler": "EulerDiscreteScheduler", "sigma_spacing": "karras"}, {"use_karras_sigmas": True}, 0.0),
        (
            {"sampler": "HeunDiscreteScheduler", "sigma_spacing": "exponential"},
            {"use_exponential_sigmas": True},
            0.0,
        ),
        (
            {"sampler": "DDIMScheduler", "timestep_spacing": "linspace", "eta": 0.7},
            {"timestep_spacing": "linspace"},
            0.7,
        ),
        ({"sampler": "PNDMScheduler"}, {"skip_prk_steps": True}, 0.0),
    ],
)
def test_images_of_a_sampler_that_is_named_are_the_stock_pipelines(
    tiny: LatentDiffusion, options: dict[str, Any], of_diffusers: dict[str, Any], eta: float
) -> None:
    settings = SynthesisSettings(**options)
    model = ready(tiny)
    made = ours(model, 7, 2.0, sampler=sampler_of(model, settings))
    assert type(model.pipeline.scheduler) is type(tiny.pipeline.scheduler), "the base model's own stays"
    peer = with_adapter(tiny)
    kind = getattr(diffusers, settings.sampler)
    peer.pipeline.scheduler = kind.from_config(tiny.pipeline.scheduler.config, **of_diffusers)
    np.testing.assert_allclose(made, stock(peer, 7, 2.0, eta=eta), atol=TOLERANCE)
    assert np.abs(made - ours(model, 7, 2.0)).max() > 2 * TOLERANCE


def test_the_adapter_and_guidance_are_in_what_is_compared(tiny: LatentDiffusion) -> None:
    expected = stock(with_adapter(tiny), 6, 2.0)
    assert np.abs(expected - stock(tiny, 6, 2.0)).max() > 10 * TOLERANCE
    without = stock(with_adapter(tiny), 6, 1.0)
    assert np.abs(expected - without).max() > 10 * TOLERANCE
    np.testing.assert_allclose(ours(ready(tiny), 6, 1.0), without, atol=TOLERANCE)


def test_steps_of_pndm_that_warm_it_up(tiny: LatentDiffusion) -> None:
    model = with_scheduler(tiny, "PNDMScheduler", "epsilon")
    model.pipeline.scheduler = diffusers.PNDMScheduler.from_config(tiny.pipeline.scheduler.config, skip_prk_steps=False)
    np.testing.assert_allclose(ours(ready(model), 9, 2.0), stock(with_adapter(model), 9, 2.0), atol=TOLERANCE)


def test_images_of_a_size_that_the_unet_cannot_halve(tiny: LatentDiffusion) -> None:
    """Latents of 5 x 5: what is upsampled is not doubled."""
    np.testing.assert_allclose(ours(ready(tiny), 3, 2.0, 40), stock(with_adapter(tiny), 3, 2.0, 40), atol=TOLERANCE)


def test_a_unet_that_knows_the_guidance_scale(tiny: LatentDiffusion) -> None:
    torch.manual_seed(0)
    model = shared_copy(tiny)
    model.pipeline.unet = UNet2DConditionModel.from_config(dict(tiny.unet.config), time_cond_proj_dim=8).eval()
    model.unet.time_embedding.cond_proj.weight.data.normal_()
    model.unet.requires_grad_(False)
    expected = stock(with_adapter(model), 4, 3.0)
    np.testing.assert_allclose(ours(ready(model), 4, 3.0), expected, atol=TOLERANCE)
    assert np.abs(stock(with_adapter(model), 4, 8.0) - expected).max() > 1e-3


def test_images_of_the_builtin_model_are_those_of_the_stock_pipeline() -> None:
    model = load(BUILTIN_FOLDER, CPU)
    expected = stock(with_adapter(model), 8, 2.0, 64)
    np.testing.assert_allclose(ours(ready(model), 8, 2.0, 64), expected, atol=TOLERANCE)
    assert any(isinstance(module, FoldedUpsampling) for module in ready(model).unet.modules())
    assert {type(processor) for processor in ready(model).unet.attn_processors.values()} == {PromptAttention}


def test_images_in_bfloat16_are_near(tiny: LatentDiffusion) -> None:
    model = load(BUILTIN_FOLDER, CPU)
    half = ready(model, "bfloat16")
    assert half.unet.dtype == torch.bfloat16
    # Few steps: where the processor has no products in bfloat16, each takes seconds.
    difference = np.abs(ours(half, 3, 2.0, 64) - ours(ready(model), 3, 2.0, 64))
    assert 0 < difference.mean() < 2 / 255


def test_a_processor_without_products_in_bfloat16_has_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapted_models, "multiplies_in_bfloat16", lambda: False)
    half = ready(load(BUILTIN_FOLDER, CPU), "bfloat16")
    assert half.unet.dtype == torch.bfloat16
    assert not any(isinstance(module, OneDnnLinear | GatedLinear) for module in half.unet.modules())
    assert np.isfinite(ours(half, 1, 2.0, 64)).all()
    whole = ready(load(BUILTIN_FOLDER, CPU))
    assert any(isinstance(module, OneDnnLinear) for module in whole.unet.modules()), "float32 is as everywhere"


def test_an_adapter_that_is_not_fused_cannot_be_rewritten(tiny: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="fuse the adapter"):
        rewrite_for_sampling(with_adapter(tiny).unet)


def test_prompts_are_encoded_once_and_so_are_their_keys_and_values(tiny: LatentDiffusion) -> None:
    model = ready(tiny)
    calls: dict[str, list[int]] = {"text": [], "unet": [], "keys": []}
    attention = next(module for name, module in model.unet.named_modules() if name.endswith("attn2"))
    for name, module in {"text": model.pipeline.text_encoder, "unet": model.unet, "keys": attention.to_k}.items():
        module.register_forward_hook(
            lambda module, given, output, name=name: calls[name].append(len(output[0])), always_call=True
        )
    ours(model, 5, 2.0)
    assert calls["text"] == [3]  # the empty prompt and two that differ
    assert len(calls["unet"]) == 5
    assert len(calls["keys"]) == 1
    for called in calls.values():
        called.clear()
    embeddings = encoded(model, PROMPTS)
    rows: list[int] = []
    model.unet.conv_in.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    for guidance_scale in (2.0, 1.0):
        arguments: dict[str, Any] = {"size_px": SIZE_PX, "steps": 2, "guidance": Guidance(guidance_scale)}
        denoise(model, [embeddings[PROMPTS[0]]], [embeddings[""]], generators(1), **arguments)
    assert rows == [2, 2, 1, 1]


@pytest.mark.parametrize("negative", ["", "a flat cell"])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_is_the_stock_pipelines(tiny: LatentDiffusion, negative: str, rescale: float) -> None:
    expected = stock(with_adapter(tiny), 6, 3.0, negative_prompt=[negative] * len(PROMPTS), guidance_rescale=rescale)
    if negative:
        assert np.abs(expected - stock(with_adapter(tiny), 6, 3.0)).max() > 20 * TOLERANCE
    np.testing.assert_allclose(ours(ready(tiny), 6, 3.0, negative=negative, rescale=rescale), expected, atol=TOLERANCE)


@pytest.mark.parametrize("rescale", [0.0, 0.25, 1.0])
def test_rescaled_guidance_by_hand(rescale: float) -> None:
    others, prompts = torch.randn((2, 3, 4, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Guidance(4.0, rescale=rescale).of(others, prompts).numpy()
    for image, other, prompt in zip(found, others.numpy(), prompts.numpy(), strict=True):
        guided = other + 4 * (prompt - other)
        deviation = rescale * prompt.std(ddof=1) + (1 - rescale) * guided.std(ddof=1)
        np.testing.assert_allclose(image, guided * deviation / guided.std(ddof=1), rtol=1e-12)


def test_a_later_prompt_takes_over_below_its_noise_level(tiny: LatentDiffusion) -> None:
    model = ready(tiny)
    embeddings = encoded(model, PROMPTS)
    first, second = ([embeddings[prompt]] for prompt in PROMPTS[:2])
    told: list[bool] = []
    model.unet.register_forward_pre_hook(
        lambda module, given: told.append(torch.equal(given[2][-1], first[0].embeddings[0]))
    )

    def made(prompts: Any, later: LaterPrompts | None) -> torch.Tensor:
        told.clear()
        arguments: dict[str, Any] = {"size_px": SIZE_PX, "steps": 10, "guidance": Guidance(2.0)}
        return denoise(model, prompts, [embeddings[""]], generators(1), later=later, **arguments)

    switched = made(first, LaterPrompts(second, 0.3))
    assert told == [float(timestep) >= 700 for timestep in model.pipeline.scheduler.timesteps]
    assert 0 < sum(told) < 10
    assert torch.equal(made(first, LaterPrompts(second, 1.0)), made(first, None))
    assert torch.equal(made(first, LaterPrompts(second, 1e-4)), made(second, None))
    assert not torch.equal(switched, made(first, None)) and not torch.equal(switched, made(second, None))


def test_guidance_is_at_the_noise_levels_that_are_asked_for(tiny: LatentDiffusion) -> None:
    model = ready(tiny)
    rows: list[int] = []
    model.unet.conv_in.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    plain = ours(model, 10, 3.0)
    timesteps = [float(timestep) for timestep in model.pipeline.scheduler.timesteps]
    assert rows == [6] * 10
    for least, most in ((0.0, 1.0), (0.2, 0.7), (0.5, 1.0), (0.995, 1.0)):
        rows.clear()
        made = ours(model, 10, 3.0, least_noise=least, most_noise=most)
        assert rows == [6 if least <= timestep / 999 <= most else 3 for timestep in timesteps]
        assert np.array_equal(made, plain) == (len(set(rows)) == 1 and rows[0] == 6)
    assert np.array_equal(made, ours(model, 10, 1.0)), "no step is at a noise level of the last range"


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_a_scaled_adapter_is_the_stock_pipelines(tiny: LatentDiffusion, scale: float) -> None:
    expected = stock(with_adapter(tiny), 6, 2.0, cross_attention_kwargs={"scale": scale})
    assert np.abs(expected - stock(with_adapter(tiny), 6, 2.0)).max() > 20 * TOLERANCE
    scaled = with_adapter(tiny)
    make_ready(scaled, "automatic", weights(tiny), scale)
    np.testing.assert_allclose(ours(scaled, 6, 2.0), expected, atol=TOLERANCE)
    beside = with_adapter(tiny)
    assert add_up(list(adapter_layers(beside.unet).values()))
    scale_layers(beside, scale)
    np.testing.assert_allclose(ours(beside, 6, 2.0), expected, atol=TOLERANCE)
    if not scale:
        np.testing.assert_allclose(ours(shared_copy(tiny), 6, 2.0), expected, atol=TOLERANCE)


ADAPTER = Manifest(
    ArtifactName(ADAPTERS, "e" * 32),
    {},
    {"settings": {"image_size": SIZE_PX}},
    1,
    (),
    summary={"grey": False, "base_model": "tiny", "classes": ["round"]},
)
SETTINGS = with_defaults(SynthesisSettings(steps=4))


def planned(count: int) -> list[PlannedImage]:
    return [PlannedImage(index, "round", PROMPTS[index % 2], 100 + index) for index in range(count)]


def pixels(batches: Iterator[list[bytes]]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) for batch in batches for data in batch]).astype(int)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_an_image_does_not_depend_on_its_company(
    tiny: LatentDiffusion, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ready(with_scheduler(tiny, name, "epsilon"))
    images = []
    for at_once in (7, 3, 1):
        monkeypatch.setattr(sampling, "images_at_once", lambda model, size_px, at_once=at_once: at_once)
        images.append(pixels(synthesise(model, ADAPTER, SETTINGS, planned(7))))
    images.append(pixels(synthesise(model, ADAPTER, SETTINGS, planned(7)[5:])))
    whole, by_three, alone, of_another_shard = images
    assert np.abs(whole[0] - whole[2]).max() > 20  # of one prompt
    for others in (by_three, alone):
        assert np.abs(whole - others).max() <= 1
    assert np.abs(whole[5:] - of_another_shard).max() <= 1


def test_memory_decides_how_many_are_made_at_once(tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    one = batch_size.image_bytes(tiny, SIZE_PX)
    for images, expected in ((0.1, 1), (5.5, 5), (10_000, 16)):
        free = int(images * one / batch_size.MEMORY_SHARE)
        monkeypatch.setattr(batch_size, "free_memory_bytes", lambda device, free=free: free)
        assert images_at_once(tiny, SIZE_PX) == expected
    assert batch_size.image_bytes(tiny, 2 * SIZE_PX) == 4 * one


def test_memory_decides_how_many_are_restored_at_once(tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    counts: list[int] = []
    decode_some = tiny.vae.decode

    def counted(latents: torch.Tensor) -> Any:
        counts.append(len(latents))
        return decode_some(latents)

    monkeypatch.setattr(tiny.vae, "decode", counted)
    one = autoencoder.autoencoder_bytes(tiny.vae, SIZE_PX)
    restored = []
    for room, expected in ((0.1, [1] * 7), (3.5, [3, 3, 1]), (1000, [7])):
        free = int(room * one / autoencoder.MEMORY_SHARE)
        monkeypatch.setattr(autoencoder, "free_memory_bytes", lambda device, free=free: free)
        counts.clear()
        restored.append(autoencoder.reconstruct(tiny.vae, images, grey=False).astype(int))
        assert counts == expected
    assert max(np.abs(other - restored[0]).max() for other in restored) <= 1


@pytest.mark.usefixtures("any_base_model")
def test_an_adapters_tokens_stand_for_the_names_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_back()
    store = MemoryObjectStore.created()
    folder = write_tiny_base_model(tmp_path)
    found = resolve(str(folder), field=FIELD)
    base = load(folder, CPU)
    with_tokens = shared_copy(base)
    vectors = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    add_class_tokens(with_tokens, ["flat", "round"], vectors)
    name = ArtifactName(ADAPTERS, "e" * 32)
    payload = write_payload(store, name, CLASS_TOKENS, adapter_files(with_tokens)[CLASS_TOKENS])
    summary = {"grey": False, "base_model": str(folder), "classes": ["flat", "round"]}
    request = {"settings": {"image_size": SIZE_PX, "method": "none", "class_tokens": 2}}
    manifest = Manifest(name, {"base_model": found.digest}, request, 3, (payload,), summary)
    write_manifest(store, manifest)
    model = adapted_model(store, name, "automatic")
    settings = with_defaults(SynthesisSettings(steps=2, prompt="a {label} cell"))

    def made(model: LatentDiffusion, label: str) -> bytes:
        image = PlannedImage(0, label, "a {label} cell", 7)
        return next(synthesise(model, manifest, settings, [image]))[0]

    flat, curved = made(model, "flat"), made(model, "round")
    assert flat != curved
    assert flat != made(base, "flat")
    # The same vectors under the other's name.
    swapped = shared_copy(base)
    add_class_tokens(swapped, ["round", "flat"], vectors)
    make_ready(swapped, "automatic")
    assert made(swapped, "round") == flat
    with pytest.raises(DataLoss, match="has learned tokens of classes, and none of 'other'"):
        made(model, "other")
    give_back()


def stored_adapter(store: MemoryObjectStore, number: int, data: bytes, inputs: dict[str, str], base: str) -> Manifest:
    name = ArtifactName(ADAPTERS, f"{number:032x}")
    summary = {"grey": False, "base_model": base, "classes": ["round"]}
    payload = write_payload(store, name, LORA_WEIGHTS, data)
    manifest = Manifest(name, inputs, {"settings": {"image_size": SIZE_PX}}, 1, (payload,), summary)
    write_manifest(store, manifest)
    return manifest


@pytest.mark.usefixtures("any_base_model")
def test_adapters_are_swapped_on_a_base_model_that_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_back()
    store = MemoryObjectStore.created()
    folder = write_tiny_base_model(tmp_path)
    found = resolve(str(folder), field=FIELD)
    base = load(folder, CPU)
    inputs = {"base_model": found.digest}
    manifests = [
        stored_adapter(store, seed, adapter_files(with_adapter(base, seed))[LORA_WEIGHTS], inputs, str(folder))
        for seed in (1, 2)
    ]
    before = {name: value.clone() for name, value in lend(found).unet.named_parameters()}
    # Nothing is loaded any more.
    monkeypatch.setattr(kept_models, "load", None)
    for seed, manifest in ((1, manifests[0]), (2, manifests[1]), (1, manifests[0])):
        torch.testing.assert_close(
            probe(adapted_model(store, manifest.name, "automatic")), probe(with_adapter(base, seed))
        )
    after = dict(lend(found).unet.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)

    # Of an artifact with an adapter of each class, the one that is asked for.
    name = ArtifactName(ADAPTERS, f"{9:032x}")
    payloads = tuple(
        write_payload(
            store, name, f"class-000{seed}/{LORA_WEIGHTS}", adapter_files(with_adapter(base, seed))[LORA_WEIGHTS]
        )
        for seed in (1, 2)
    )
    summary = {"grey": False, "base_model": str(folder), "classes": ["flat", "round"]}
    write_manifest(store, Manifest(name, inputs, {"settings": {"image_size": SIZE_PX}}, 1, payloads, summary))
    for seed in (1, 2, 1):
        of_class = adapted_model(store, name, "automatic", (f"class-000{seed}",))
        torch.testing.assert_close(probe(of_class), probe(with_adapter(base, seed)))

    for number, value, said in ((3, 0.0, "changes nothing"), (4, float("nan"), "no numbers")):
        useless = with_adapter(base)
        for name, weight in useless.unet.named_parameters():
            if "lora_B" in name:
                weight.fill_(value)
        manifest = stored_adapter(store, number, adapter_files(useless)[LORA_WEIGHTS], inputs, str(folder))
        with pytest.raises(DataLoss, match=said):
            adapted_model(store, manifest.name, "automatic")
    give_back()
