"""Which value of 16-bit images becomes white: what images reach decides, and neither hot pixels nor specks."""

from collections.abc import Callable

import numpy as np
import pytest

from image_archives import encoded
from synthmix.image_data.decoding import decode_image, inspect_image
from synthmix.service_kit.errors import InvalidArgument
from synthmix.study_control.image_import.white_levels import WhiteLevels, choose_white_levels

SIDE = 64
COUNT = 24


def background(number: int, low: int = 100, high: int = 355) -> np.ndarray:
    """An image of noise between two values, as a camera's background is."""
    return np.random.default_rng(number).integers(low, high + 1, (SIDE, SIDE)).astype(np.uint16)


def with_nuclei(number: int, value: int, *, side: int = 2, count: int = 1) -> np.ndarray:
    """A dim image with few, small, bright objects: 0.1 % of its pixels if they are one of 2 x 2."""
    image = background(number)
    random = np.random.default_rng(1000 + number)
    for _ in range(count):
        top, left = random.integers(0, SIDE - side, 2)
        image[top : top + side, left : left + side] = value
    return image


def with_spots(number: int, value: int) -> np.ndarray:
    """A dim image with spots that the optics blurred: a Gaussian of one pixel."""
    image = background(number).astype(float)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for row, column in np.random.default_rng(number).integers(5, SIDE - 5, (3, 2)):
        image += value * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2)
    return np.minimum(image, 65535).astype(np.uint16)


def changed(images: list[np.ndarray], which: list[int], change: Callable[[np.ndarray], None]) -> list[np.ndarray]:
    for number in which:
        change(images[number])
    return images


def put(value: int, *positions: tuple[int, int], side: int = 1) -> Callable[[np.ndarray], None]:
    def change(image: np.ndarray) -> None:
        for row, column in positions:
            image[row : row + side, column : column + side] = value

    return change


def levels(images: list[np.ndarray], wanted: int = 0, classes: int = 2) -> WhiteLevels:
    histograms: list[np.ndarray] = []
    facts = [inspect_image(encoded(image), histograms=histograms) for image in images]
    labelled = [(f"class-{number % classes}", item.brightness) for number, item in enumerate(facts)]
    return choose_white_levels(labelled, histograms, wanted=wanted, channel_names=[""])


def level(images: list[np.ndarray], **options: int) -> int:
    [found] = levels(images, **options).levels
    return found


def dim() -> list[np.ndarray]:
    return [background(number) for number in range(COUNT)]


HOT = [(3, 5), (10, 50), (40, 7), (41, 33), (60, 60)]


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(lambda: changed(dim(), [7], put(65535, (3, 5))), id="a hot pixel in one image"),
        pytest.param(lambda: changed(dim(), [0, 7, 9], put(65535, (3, 5))), id="a hot pixel in three"),
        pytest.param(lambda: changed(dim(), list(range(COUNT)), put(65535, (3, 5))), id="a stuck pixel in all"),
        pytest.param(lambda: changed(dim(), list(range(COUNT)), put(65535, *HOT)), id="five stuck pixels in all"),
        pytest.param(lambda: changed(dim(), list(range(COUNT)), put(4095, (3, 5))), id="a stuck pixel of 12 bits"),
        pytest.param(lambda: changed(dim(), [7], lambda image: image.fill(65535)), id="one saturated image"),
        pytest.param(lambda: changed(dim(), [7], put(60000, (0, 0), side=SIDE)), id="one hot image"),
        pytest.param(lambda: changed(dim(), [7, 8], put(65535, (20, 20), side=9)), id="saturated dust in two images"),
        pytest.param(
            lambda: changed(dim(), list(range(0, COUNT, 2)), put(65535, *HOT[:2])), id="hot pixels in a class"
        ),
    ],
)
def test_a_few_pixels_do_not_decide(images: Callable[[], list[np.ndarray]]) -> None:
    found = levels(images())
    [white] = found.levels
    assert 355 <= white <= 2 * 355, "no image that matters is clipped, and none is dark"
    assert not found.by_full_scale
    [warning] = found.warnings
    assert f"white is {white:,}" in warning and "set --white-level" in warning


def test_the_images_keep_their_grey_levels_beside_a_hot_pixel() -> None:
    images = changed(dim(), [7], put(65535, (3, 5)))
    [white] = levels(images).levels
    decoded = decode_image(encoded(images[0]), white_level=white)
    assert len(np.unique(decoded)) > 100
    assert decoded.max() < 255


def test_dust_in_a_fifth_of_the_images_leaves_the_others_half_of_the_grey_levels() -> None:
    white = level(changed(dim(), [0, 3, 7, 8, 13], put(65535, (20, 20), side=9)))
    assert 355 <= white <= 3 * 355


@pytest.mark.parametrize(
    "images",
    [
        pytest.param([with_nuclei(number, 4000) for number in range(COUNT)], id="a thousandth of the pixels"),
        pytest.param(
            [with_nuclei(number, 3500 + 20 * number) for number in range(COUNT)], id="of different brightness"
        ),
        pytest.param([with_nuclei(number, 4000, side=3, count=4) for number in range(COUNT)], id="several"),
        pytest.param([with_spots(number, 3500) for number in range(COUNT)], id="blurred spots"),
        pytest.param(
            [with_nuclei(number, 4000) if number % 3 else background(number) for number in range(COUNT)],
            id="a third of the images is empty",
        ),
        pytest.param(
            [with_nuclei(number, 4000) if number % 2 else background(number) for number in range(COUNT)],
            id="one class is empty",
        ),
        pytest.param(
            [with_nuclei(number, 4000) if number % 10 < 4 else background(number) for number in range(40)],
            id="most of the images are empty",
        ),
    ],
)
def test_small_bright_objects_are_not_clipped(images: list[np.ndarray]) -> None:
    found = levels(images)
    assert found.levels == (4095,)
    assert found.by_full_scale
    assert found.warnings == ()


def test_small_bright_objects_are_not_clipped_beside_hot_pixels() -> None:
    images = changed([with_nuclei(number, 4000) for number in range(COUNT)], list(range(COUNT)), put(65535, *HOT[:3]))
    assert 4000 <= level(images) <= 8000


def test_a_rare_bright_class_is_not_clipped() -> None:
    images = [with_nuclei(number, 8000 if number % 12 == 0 else 1000) for number in range(60)]
    assert level(images, classes=12) == 8191


@pytest.mark.parametrize(
    ("high", "expected"),
    [(64, 255), (255, 255), (256, 511), (1000, 1023), (4000, 4095), (16000, 16383), (65535, 65535)],
)
def test_images_that_use_their_bits_keep_them(high: int, expected: int) -> None:
    found = levels([background(number, 0, high) for number in range(COUNT)])
    assert found.levels == (expected,)
    assert found.by_full_scale
    assert found.warnings == ()


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_few_images_are_enough(count: int) -> None:
    assert level([background(number, 0, 4000) for number in range(count)], classes=1) == 4095
    assert level([np.zeros((1, 3), np.uint16)] * count, classes=1) == 255
    assert level([np.full((2, 2), 300, np.uint16)] * count, classes=1) == 511


def test_a_level_that_is_wanted_holds_and_what_it_clips_is_said() -> None:
    images = dim()
    assert levels(images, wanted=400).warnings == ()
    found = levels(images, wanted=200)
    assert found.levels == (200,)
    above = sum(int((image > 200).sum()) for image in images)
    assert f"white is 200, and values reach 355: of {24 * SIDE * SIDE:,} pixels, {above:,} " in found.warnings[0]
    assert "24 of 24 images lose more than 1 % of their pixels" in found.warnings[0]
    assert levels(images, wanted=60000).warnings == (
        "white is 60,000, and values reach 355: all images will be dark; --white-level sets another",
    )


def test_values_that_are_darker_than_8_bits_need_a_level_and_it_is_said() -> None:
    images = [background(number, 0, 30) for number in range(COUNT)]
    found = levels(images)
    assert found.levels == (255,)
    assert "values reach 30: all images will be dark; --white-level" in found.warnings[0]
    assert levels(images, wanted=30).warnings == ()


def test_a_level_has_no_use_for_8_bit_images() -> None:
    eight = [np.full((4, 4), 7, np.uint8)]
    assert levels(eight) == WhiteLevels((255,), True, ())
    with pytest.raises(InvalidArgument, match=r"dataset\.pixels\.white_level: 300 has no use"):
        levels(eight, wanted=300)
