"""Pictures of each class on the way of a training: what they are of, and that the training is the same with them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from synthmix.adapter_training import previews, recipe
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.methods import METHODS
from synthmix.adapter_training.previews import Previews
from synthmix.latent_diffusion.base_model import BaseModel
from synthmix.latent_diffusion.loading import LatentDiffusion
from tiny_adapters import resumed, settings_of, trained

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = ("round", "flat")
SIDE_PX = 32


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "STEPS", 2)


def with_previews(found: BaseModel, method: str = "lora", **others: Any) -> Any:
    return settings_of(found, method, "attention", previews=2, evaluations=3, image_size=SIDE_PX, **others)


def picture(sheet: bytes, row: int, column: int) -> np.ndarray:
    values = np.asarray(Image.open(io.BytesIO(sheet)))
    assert values.shape == (len(LABELS) * SIDE_PX, 2 * SIDE_PX, 3)
    return values[row * SIDE_PX : (row + 1) * SIDE_PX, column * SIDE_PX : (column + 1) * SIDE_PX]


def test_pictures_are_made_at_each_evaluation_and_no_weight_is_another_for_them(
    base: LatentDiffusion, found: BaseModel
) -> None:
    drawn: dict[int, bytes] = {}
    model, _ = trained(base, with_previews(found), drawn=drawn)
    assert list(drawn) == [4, 8, 12]
    assert len(set(drawn.values())) == 3, "the adapter learns from one to the next"
    pictures = [picture(drawn[12], row, column).tobytes() for row in (0, 1) for column in (0, 1)]
    assert len(set(pictures)) == 4
    plain, _ = trained(base, settings_of(found, "lora", "attention", image_size=SIDE_PX))
    assert adapter_files(model) == adapter_files(plain)


@pytest.mark.parametrize("method", [*METHODS, "full", "none"])
def test_the_last_pictures_are_of_the_adapter_that_is_kept(
    method: str, base: LatentDiffusion, found: BaseModel
) -> None:
    """By each method, with a running average, and with tokens of the classes."""
    drawn: dict[int, bytes] = {}
    settings = with_previews(found, method, ema_decay=0.5, class_tokens=1 if method in ("lora", "none") else 0)
    model, _ = trained(base, settings, drawn=drawn)
    assert drawn[12] == Previews(settings, LABELS, grey=False).sheet(model, at_once=settings.batch_size)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_an_interrupted_training_makes_the_pictures_of_a_whole_one(
    stop_after: int, base: LatentDiffusion, found: BaseModel
) -> None:
    whole: dict[int, bytes] = {}
    parts: dict[int, bytes] = {}
    trained(base, with_previews(found), drawn=whole)
    resumed(base, with_previews(found), stop_after, drawn=parts)
    assert parts == whole


def test_a_class_has_the_same_pictures_whatever_classes_there_are_besides(
    base: LatentDiffusion, found: BaseModel
) -> None:
    settings = with_previews(found)
    model, _ = trained(base, settings)
    both = Previews(settings, LABELS, grey=False).sheet(model, at_once=4)
    alone = np.asarray(Image.open(io.BytesIO(Previews(settings, LABELS[1:], grey=False).sheet(model, at_once=1))))
    of_both = np.concatenate([picture(both, 1, column) for column in (0, 1)], axis=1)
    assert np.abs(alone.astype(int) - of_both).max() <= 1  # how many are made at once decides about last bits


def test_pictures_of_grey_images_are_grey_and_those_of_no_numbers_are_black(
    base: LatentDiffusion, found: BaseModel
) -> None:
    settings = with_previews(found)
    model, state = trained(base, settings)
    coloured = picture(Previews(settings, LABELS, grey=False).sheet(model, at_once=4), 0, 0)
    assert (coloured != coloured[..., :1]).any()
    grey = picture(Previews(settings, LABELS, grey=True).sheet(model, at_once=4), 0, 0)
    assert (grey == grey[..., :1]).all()
    with torch.no_grad():
        for value in state.parameters.values():
            value.fill_(float("nan"))
    assert not picture(Previews(settings, LABELS, grey=False).sheet(model, at_once=4), 0, 0).any()


def test_an_early_end_and_pictures_go_together(base: LatentDiffusion, found: BaseModel, folder: Path) -> None:
    settings = with_previews(found, held_out=0.2, patience=1)
    drawn: dict[int, bytes] = {}
    _, state = trained(base, settings, held_out=(0, 1), drawn=drawn)
    assert list(drawn) == [measured.images_seen for measured in state.held_out]
    assert recipe.kept_images_seen(state, settings) in drawn
