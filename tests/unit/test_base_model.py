"""Which base model a reference means, and what can't be one."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from latent_diffusion.base_model import resolve, verify
from service_kit.errors import FailedPrecondition, InvalidArgument, Unimplemented
from tiny_base_model import write_tiny_base_model

FIELD = "adapter.base_model"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_the_embedded_model_is_there() -> None:
    model = resolve("embedded", field=FIELD)
    assert model.image_size_px == 64
    assert len(model.digest) == 32


def test_a_folder_is_addressed_by_its_content(tiny: Path, copied: Path) -> None:
    model = resolve(str(tiny), field=FIELD)
    assert model.image_size_px == 32
    assert resolve(str(copied), field=FIELD).digest == model.digest
    config = copied / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    changed = resolve(str(copied), field=FIELD)
    assert changed.digest != model.digest
    with pytest.raises(FailedPrecondition, match="files differ"):
        verify(changed, model.digest)


def test_a_hub_model_is_pinned_to_its_commit(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = Path(shutil.move(copied, tmp_path / commit))
    asked = {}

    def download(name: str, revision: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = resolve("owner/tiny@v1", field=FIELD)
    assert model.reference == f"owner/tiny@{commit}"
    assert (asked["name"], asked["revision"]) == ("owner/tiny", "v1")
    assert not any("bin" in pattern or "ckpt" in pattern for pattern in asked["patterns"])


def test_a_hub_model_that_cannot_be_had_is_an_error_of_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*arguments: object, **keywords: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    message = r"adapter\.base_model: 'owner/tiny' .* can't be had from the hub"
    with pytest.raises(InvalidArgument, match=message) as raised:
        resolve("owner/tiny", field=FIELD)
    assert raised.value.reason == "BASE_MODEL_NOT_FOUND"


@pytest.mark.parametrize("reference", ["", "embeded", "/no/such/folder", "./nothing", "a/b/c"])
def test_what_is_no_model_is_refused(reference: str) -> None:
    with pytest.raises(InvalidArgument, match=r"adapter\.base_model"):
        resolve(reference, field=FIELD)


def test_a_folder_without_a_part_names_it(copied: Path) -> None:
    shutil.rmtree(copied / "vae")
    with pytest.raises(InvalidArgument, match="lacks vae") as raised:
        resolve(str(copied), field=FIELD)
    assert raised.value.reason == "BASE_MODEL_INCOMPLETE"


def test_a_folder_that_is_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"model_index\.json"):
        resolve(str(tmp_path), field=FIELD)


def test_pickled_weights_are_never_loaded(copied: Path) -> None:
    for weights in (copied / "unet").glob("*.safetensors"):
        os.rename(weights, weights.with_suffix(".bin"))
    with pytest.raises(InvalidArgument, match="pickled weights are never loaded"):
        resolve(str(copied), field=FIELD)


def test_sdxl_is_said_to_be_unsupported(copied: Path) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(Unimplemented, match="SDXL"):
        resolve(str(copied), field=FIELD)
