"""Base models that stay in memory: loaded once, lent as copies that an adapter cannot damage, and forgotten."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from synthmix.latent_diffusion import kept_models
from synthmix.latent_diffusion.base_model import BaseModel, resolve
from synthmix.latent_diffusion.kept_models import KEPT_SHARE
from synthmix.latent_diffusion.loading import FIELD, LatentDiffusion, load, probe
from tiny_base_model import write_tiny_base_model

pytestmark = pytest.mark.usefixtures("any_base_model", "nothing_kept")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    folders: list[Path] = []

    def counted(folder: Path, device: torch.device) -> LatentDiffusion:
        folders.append(folder)
        return load(folder, device)

    monkeypatch.setattr(kept_models, "load", counted)
    return folders


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[BaseModel]:
    """Three base models that differ."""
    kinds = ("epsilon", "v_prediction", "sample")
    folders = [write_tiny_base_model(tmp_path_factory.mktemp(kind), kind) for kind in kinds]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHMIX_BASE_MODEL_FOLDERS", "/")
        return [resolve(str(folder), field=FIELD) for folder in folders]


def test_a_base_model_is_loaded_once(found: list[BaseModel], loaded: list[Path]) -> None:
    first, second = kept_models.lend(found[0]), kept_models.lend(found[0])
    assert loaded == [found[0].folder]
    assert torch.equal(probe(first), probe(second))
    weights = zip(first.unet.parameters(), second.unet.parameters(), strict=True)
    assert all(one is not other and one.data_ptr() == other.data_ptr() for one, other in weights)


def test_an_adapter_in_one_copy_leaves_the_base_model_and_other_copies_as_they_are(found: list[BaseModel]) -> None:
    before = {name: value.clone() for name, value in kept_models.lend(found[0]).unet.named_parameters()}
    other, changed = kept_models.lend(found[0]), kept_models.lend(found[0])
    answer = probe(other)
    changed.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "conv1"]))
    trained = [value for value in changed.unet.parameters() if value.requires_grad]
    probed = changed.unet(torch.randn(1, 4, 4, 4), torch.tensor(1), torch.randn(1, 4, 16)).sample
    probed.square().mean().backward()
    torch.optim.AdamW(trained, lr=0.1).step()
    changed.unet.fuse_lora(safe_fusing=True)
    assert not torch.equal(probe(changed), answer)
    assert torch.equal(probe(other), answer)
    again = kept_models.lend(found[0])
    after = dict(again.unet.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) and not after[name].requires_grad for name in before)
    changed.unet.to(torch.bfloat16)
    assert again.unet.dtype == other.unet.dtype == torch.float32


def test_schedulers_are_not_shared(found: list[BaseModel]) -> None:
    first, second = kept_models.lend(found[1]), kept_models.lend(found[1])
    first.pipeline.scheduler.set_timesteps(7)
    assert len(second.pipeline.scheduler.timesteps) == 1000
    assert second.pipeline.scheduler.config == first.pipeline.scheduler.config


def test_the_one_lent_the_longest_ago_goes_when_memory_is_short(
    found: list[BaseModel], loaded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = found
    kept_models.lend(first)
    room = 1.5 * kept_models.MODELS.bytes
    assert room > 10_000
    monkeypatch.setattr(kept_models, "free_memory_bytes", lambda device: room / KEPT_SHARE - kept_models.MODELS.bytes)
    for model in (second, first, third):
        kept_models.lend(model)
    assert len(loaded) == 3
    kept_models.lend(first)
    assert len(loaded) == 3
    kept_models.lend(second)
    assert len(loaded) == 4
