"""What is left of images that went through an autoencoder: the figures against known ones, and what is warned of."""

from collections import Counter

import numpy as np
import pytest

from synthmix.image_data.autoencoder_checks import IMAGES, check_warnings, checked_rows, stored_in_colour
from synthmix.image_data.reconstruction_quality import (
    ReconstructionQuality,
    mean_chroma,
    mean_psnr_db,
    reconstruction_quality,
)


def flat(*colour: int) -> np.ndarray:
    return np.full((1, 4, 4, 3), colour, dtype=np.uint8)


@pytest.mark.parametrize(
    ("colour", "chroma"),
    [
        ((0, 0, 0), 0.0),
        ((77, 77, 77), 0.0),
        ((255, 255, 255), 0.0),
        ((255, 0, 0), 104.55),
        ((0, 255, 0), 119.78),
        ((0, 0, 255), 133.81),
        ((255, 255, 0), 96.91),
    ],
)
def test_chroma_of_known_colours(colour: tuple[int, ...], chroma: float) -> None:
    """What CIELCh has for sRGB's corners under D65."""
    assert mean_chroma(flat(*colour)) == pytest.approx(chroma, abs=0.01)


def test_chroma_is_the_mean_over_pixels_and_images() -> None:
    half = flat(255, 0, 0)
    half[:, :2] = 128
    assert mean_chroma(np.concatenate([half, flat(9, 9, 9)])) == pytest.approx(104.55 / 4, abs=0.01)


def test_psnr_is_the_mean_of_the_images_and_ends_at_rounding() -> None:
    images = np.concatenate([flat(100, 100, 100), flat(50, 50, 50)])
    off = images.astype(int) + np.array([10, 1])[:, None, None, None]
    each = [20 * np.log10(255 / 10), 20 * np.log10(255)]
    assert mean_psnr_db(images, off) == pytest.approx(np.mean(each))
    assert mean_psnr_db(images, images) == pytest.approx(10 * np.log10(255**2 * 12))


def test_the_figures_of_images() -> None:
    halves = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    halves[:, :2] = (200, 0, 0)
    grey = halves.mean(axis=-1, keepdims=True).round().astype(np.uint8).repeat(3, axis=-1)
    found = reconstruction_quality(halves, grey)
    # Red is 100 off its mean everywhere; to be grey, 133 off in red and 67 in the others.
    assert found.mean_colour_psnr_db == round(10 * np.log10(255**2 / (100**2 / 3)), 2)
    assert found.psnr_db == round(10 * np.log10(255**2 / ((133**2 + 2 * 67**2) / 3 / 2)), 2)
    assert (found.images, found.reconstructed_chroma, found.chroma_kept) == (3, 0.0, 0.0)
    assert found.chroma == round(mean_chroma(halves), 2) > 0
    assert reconstruction_quality(grey, grey).chroma_kept == 1


def quality(psnr: float = 30.0, mean_colour: float = 15.0, chroma: float = 0.0, after: float = 0.0) -> list[str]:
    found = ReconstructionQuality(32, psnr, mean_colour, chroma, after)
    return check_warnings(found, base_model="builtin", image_size=64)


@pytest.mark.parametrize(
    "sound",
    [
        quality(),
        quality(psnr=20.0, mean_colour=17.0),
        quality(psnr=31.1, mean_colour=26.0),  # the built-in model with hek_ht1080
        quality(chroma=20, after=15),
        quality(chroma=20, after=26),
        quality(chroma=2.2, after=0.0),  # less colour than is noticed
    ],
)
def test_what_comes_back_well_is_not_warned_of(sound: list[str]) -> None:
    assert sound == []


def test_colour_that_is_lost_is_told_with_figures_meaning_and_remedy() -> None:
    [lost] = quality(chroma=9.1, after=0.4)
    assert lost.startswith(
        "the base model builtin cannot show the colour of these images: of 32 train images of 64 pixels"
    )
    assert "keeps 4 % of the chroma (mean CIELAB C*ab 9.1 before and 0.4 after)" in lost
    assert "all synthetic images are nearly grey" in lost
    assert "use a base model whose autoencoder knows colour, or import one of the images' channels as grey" in lost
    [pale] = quality(chroma=9.1, after=6.0)
    assert "keeps 66 % of the chroma" in pale and "are paler than real ones" in pale


@pytest.mark.parametrize(("psnr", "mean_colour"), [(19.9, 10.0), (28.9, 26.0), (9.4, 15.5)])
def test_pictures_that_are_lost_are_told_with_figures_meaning_and_remedy(psnr: float, mean_colour: float) -> None:
    [lost] = quality(psnr, mean_colour)
    assert f"a mean PSNR of {psnr} dB, where images of nothing but each one's mean colour have {mean_colour} dB" in lost
    assert "(20 dB, and 3 dB above these, would do)" in lost
    assert "no adapter can learn" in lost and "use another base model" in lost


def test_both_losses_are_told() -> None:
    assert len(quality(psnr=9.0, chroma=9.1, after=0.4)) == 2


def test_the_images_are_of_all_classes_and_always_the_same() -> None:
    labels = [0] * 100 + [1] * 5 + [2] * 300
    rows = checked_rows(labels)
    assert rows == sorted(set(rows)) and len(rows) == IMAGES == 32
    assert Counter(labels[row] for row in rows) == {0: 14, 1: 5, 2: 13}
    assert rows == checked_rows(labels)
    assert rows[:14] != list(range(14)), "they are not merely the first"
    assert checked_rows([0, 1, 1]) == [0, 1, 2]
    many = [*range(50), *range(50)]
    assert sorted(many[row] for row in checked_rows(many)) == list(range(50)), "no class is left out"


def test_what_is_stored_in_colour_is_known_without_decoding() -> None:
    assert stored_in_colour(["RGB", "L", "P", "I;16", "RGBA", "1", "LA", "RGB;16"], ()) == 4
    assert stored_in_colour(["RGB", "RGB"], (2,)) == 0, "one channel is grey"
    assert stored_in_colour(["RGB", "RGB"], (2, 1)) == 2
