"""What only a worker can find wrong with a base model is told at its field, by what is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler
from safetensors.torch import load_file, save_file

from synthmix.api.image_sets.v1.image_sets_pb2 import SynthesisSettings
from synthmix.image_synthesis.sampling import synthesise
from synthmix.image_synthesis.shards import PlannedImage
from synthmix.latent_diffusion.base_model import resolve
from synthmix.latent_diffusion.loading import FIELD, LatentDiffusion, load
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from synthmix.service_kit.memory_errors import memory_told_at
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.settings_messages import with_defaults
from tiny_base_model import write_tiny_base_model

pytestmark = pytest.mark.usefixtures("any_base_model")

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base_model(tmp_path_factory.mktemp("tiny"))


def weights(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return apply


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (weights(UNET, lambda tensors: tensors["conv_out.weight"].fill_(float("nan"))), "its UNet answers"),
        (weights(UNET, lambda tensors: tensors.update({"conv_out.bias": torch.zeros(9)})), "cannot be loaded"),
        (weights(UNET, lambda tensors: tensors.pop("time_embedding.linear_1.weight")), "cannot be loaded"),
        (weights(VAE, lambda tensors: tensors["quant_conv.bias"].fill_(float("inf"))), "its autoencoder answers"),
        (weights(TEXT, lambda tensors: [value.fill_(float("nan")) for value in tensors.values()]), "its text encoder"),
    ],
)
def test_weights_that_cannot_be_used(change: Callable[[Path], None], said: str, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    change(folder)
    resolve(str(folder), field=FIELD)  # the small files say nothing of it
    with pytest.raises(InvalidArgument, match=said) as raised:
        load(folder, torch.device("cpu"))
    assert [item.field for item in raised.value.violations] == [FIELD]
    assert len(raised.value.message) < 800


def synthesised(model: LatentDiffusion, steps: int) -> list[bytes]:
    adapter = Manifest(
        ArtifactName("adapters", "e" * 32),
        {},
        {"settings": {"image_size": 32}},
        1,
        (),
        summary={"grey": False, "base_model": "tiny"},
    )
    settings = with_defaults(SynthesisSettings(steps=steps, guidance_scale=2.0))
    return next(synthesise(model, adapter, settings, [PlannedImage(0, "round", "a round cell", 0)]))


def test_steps_that_the_base_model_s_scheduler_cannot_take(tiny: Path) -> None:
    model = load(tiny, torch.device("cpu"))
    model.pipeline.scheduler = PNDMScheduler(skip_prk_steps=False)
    with pytest.raises(InvalidArgument, match="3 cannot be taken with PNDMScheduler") as raised:
        synthesised(model, steps=3)
    assert [item.field for item in raised.value.violations] == ["image_set.settings.steps"]
    assert len(synthesised(model, steps=5)) == 1


def test_images_that_are_no_numbers_are_not_stored(tiny: Path) -> None:
    model = load(tiny, torch.device("cpu"))
    model.unet.conv_out.weight.fill_(float("nan"))
    with pytest.raises(FailedPrecondition, match="makes images that are no numbers"):
        synthesised(model, steps=2)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_is_not_enough_is_told_at_a_field(error: Exception) -> None:
    with (
        pytest.raises(
            FailedPrecondition, match="is not enough for batches of 16 images; lower it, or use a GPU"
        ) as raised,
        memory_told_at("adapter.batch_size", "batches of 16 images", "lower it"),
    ):
        raise error
    assert [item.field for item in raised.value.violations] == ["adapter.batch_size"]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), KeyError("x"), InvalidArgument("y")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, memory_told_at("adapter.batch_size", "", ""):
        raise error
    assert raised.value is error
