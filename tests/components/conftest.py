"""The tiny base model, for the tests of how adapters are trained. A module that needs another one has its own."""

from pathlib import Path

import pytest
import torch

from synthmix.latent_diffusion.base_model import BaseModel, resolve
from synthmix.latent_diffusion.loading import FIELD, LatentDiffusion, load
from tiny_base_model import write_tiny_base_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(folder: Path) -> LatentDiffusion:
    """To be copied, not to be changed."""
    return load(folder, torch.device("cpu"))


@pytest.fixture
def found(folder: Path, any_base_model: None) -> BaseModel:
    return resolve(str(folder), field=FIELD)


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)
