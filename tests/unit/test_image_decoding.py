"""Every kind of file becomes 8-bit RGB, or an error that says why it does not."""

import io

import numpy as np
import pytest
from PIL import Image

from image_archives import encoded, noise
from image_files import png
from synthmix.image_data.decoding import MAX_PIXELS, decode_image, inspect_image, to_square
from synthmix.image_data.fingerprints import fingerprint, near_duplicates
from synthmix.service_kit.errors import InvalidArgument

GREY = noise(1, 24, 32)
COLOUR = noise(2, 24, 32, 3)


def grey_as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP"])
def test_grey_becomes_three_equal_channels(image_format: str) -> None:
    decoded = decode_image(encoded(GREY, image_format), white_level=255)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, grey_as_rgb(GREY))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("PNG", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("WEBP", {"lossless": True})],
)
def test_colour_stays_as_it_is(image_format: str, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(decode_image(encoded(COLOUR, image_format, **options), white_level=255), COLOUR)


def test_jpeg_is_decoded_nearly_as_it_was() -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    decoded = decode_image(encoded(smooth, "JPEG", quality=95), white_level=255)
    assert np.abs(decoded[..., 0].astype(int) - smooth).max() <= 3


def test_transparent_pixels_lie_on_black() -> None:
    alpha = np.full((24, 32), 255, dtype=np.uint8)
    alpha[:, :16] = 0
    shown = np.where(alpha > 0, GREY, 0)
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    np.testing.assert_array_equal(decode_image(encoded(grey_alpha), white_level=255), grey_as_rgb(shown))
    rgba = Image.fromarray(np.dstack([COLOUR, alpha]))
    np.testing.assert_array_equal(decode_image(encoded(rgba), white_level=255), COLOUR * (alpha[..., None] > 0))


def test_palettes_are_looked_up() -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(decode_image(encoded(palette), white_level=255), np.asarray(palette.convert("RGB")))
    hidden = palette.copy()
    decoded = decode_image(encoded(hidden, transparency=0), white_level=255)
    assert (decoded[np.asarray(palette) == 0] == 0).all()


def test_one_bit_is_black_and_white() -> None:
    mask = Image.fromarray(GREY > 128)
    np.testing.assert_array_equal(
        decode_image(encoded(mask), white_level=255), grey_as_rgb((GREY > 128).astype(np.uint8) * 255)
    )


def test_cmyk_becomes_rgb() -> None:
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert (decode_image(encoded(white, "TIFF"), white_level=255) == 255).all()


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_the_white_level(image_format: str) -> None:
    twelve_bits = np.array([[0, 1, 2048, 4095]] * 4, dtype=np.uint16)
    data = encoded(twelve_bits, image_format)
    assert decode_image(data, white_level=4095)[0, :, 0].tolist() == [0, 0, 128, 255]
    assert decode_image(data, white_level=65535)[0, :, 0].tolist() == [0, 0, 8, 16]
    assert decode_image(data, white_level=1023)[0, :, 0].tolist() == [0, 0, 255, 255]
    facts = inspect_image(data)
    assert (facts.width_px, facts.height_px, facts.mode, facts.bits, facts.max_value) == (
        4,
        4,
        "I;16",
        16,
        4095,
    )


def test_big_endian_16_bit_tiff_has_the_same_values() -> None:
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    big_endian = Image.frombytes("I;16B", (4, 4), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(
        decode_image(encoded(big_endian, "TIFF"), white_level=65535),
        decode_image(encoded(values, "TIFF"), white_level=65535),
    )


def test_facts_of_8_bit_images() -> None:
    facts = inspect_image(encoded(COLOUR))
    assert (facts.width_px, facts.height_px, facts.mode, facts.bits, facts.max_value) == (
        32,
        24,
        "RGB",
        8,
        int(COLOUR.max()),
    )
    assert 0 <= facts.perceptual_hash < 2**64
    assert len(facts.thumbnail) == 256


def frames(image_format: str) -> bytes:
    return encoded(Image.fromarray(GREY), image_format, save_all=True, append_images=[Image.fromarray(255 - GREY)])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is not a PNG, JPEG, TIFF, BMP or WebP image"),
        (b"hello", "is not a PNG, JPEG, TIFF, BMP or WebP image"),
        (encoded(GREY, "GIF"), "is not a PNG, JPEG, TIFF, BMP or WebP image"),
        (encoded(GREY, "PPM"), "is not a PNG, JPEG, TIFF, BMP or WebP image"),
        (b"\x89PNG\r\n\x1a\n", "is damaged or truncated"),
        (encoded(GREY)[:-200], "is damaged or truncated"),
        (encoded(GREY, "JPEG")[:-200], "is damaged or truncated"),
        (encoded(GREY, "TIFF")[:300], "is damaged"),
        (encoded(GREY)[:200] + b"\0" + encoded(GREY)[201:], "is damaged or truncated"),
        (frames("TIFF"), "is a TIFF of 2 pages"),
        (frames("WEBP"), "is an animated WebP of 2 frames"),
        (frames("PNG"), "is an animated PNG of 2 frames"),
        (encoded(GREY.astype(np.float32), "TIFF"), "holds floating-point pixels of 32 bits"),
        (encoded(GREY.astype(np.int32), "TIFF"), "holds signed pixels of 32 bits"),
        (png(2, 2, 16, 2, (b"\0" + bytes(12)) * 2), "of 16 bits a channel"),
        (png(2, 2, 16, 4, (b"\0" + bytes(8)) * 2), "of 16 bits a channel"),
        (png(8193, 8192, 8, 0, b""), "larger than 64 megapixels (8193 x 8192 pixels)"),
        (png(2**20, 2**20, 8, 0, b""), "larger than 64 megapixels"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_the_reason(data: bytes, problem: str) -> None:
    for read in (inspect_image, lambda data: decode_image(data, white_level=255)):
        with pytest.raises(InvalidArgument) as caught:
            read(data)
        assert problem in caught.value.message
        assert "; " in caught.value.message, "a remedy follows"
        assert caught.value.reason.startswith("IMAGE_")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(InvalidArgument, match="larger than 64 megapixels"):
        decode_image(png(MAX_PIXELS, 2, 1, 0, b""), white_level=255)


@pytest.mark.parametrize("white_level", [0, 65536])
def test_a_white_level_that_no_image_can_have_is_a_defect(white_level: int) -> None:
    with pytest.raises(ValueError, match="white_level"):
        decode_image(encoded(GREY), white_level=white_level)


def test_the_centre_square_is_taken() -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    assert (to_square(wide, 10) == 200).all()
    assert (to_square(wide.transpose(1, 0, 2), 10) == 200).all()
    assert to_square(wide, 64).shape == (64, 64, 3)


def test_shrinking_averages_instead_of_skipping() -> None:
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    shrunk = to_square(grey_as_rgb(checkers.astype(np.uint8)), 8)
    assert np.abs(shrunk.astype(int) - 128).max() <= 6


def test_an_image_of_the_right_size_is_left_alone() -> None:
    square = noise(3, 16, 16, 3)
    np.testing.assert_array_equal(to_square(square, 16), square)


def near(first: np.ndarray, second: np.ndarray) -> bool:
    left, right = fingerprint(first), fingerprint(second)
    arrays = [
        array
        for item in (left, right)
        for array in (
            np.array([item.perceptual_hash], dtype=np.uint64),
            np.frombuffer(item.thumbnail, dtype=np.uint8)[None],
        )
    ]
    return near_duplicates(*arrays, most_examples=1).count == 1


def cell(seed: int) -> np.ndarray:
    """A smooth picture, as a microscope's are."""
    coarse = Image.fromarray(noise(seed, 8, 8))
    return np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG", quality=75)))),
        lambda image: (image * 0.8).astype(np.uint8),
        lambda image: image.astype(np.uint16) * 16,
        lambda image: np.asarray(Image.fromarray(image).resize((96, 96))),
        lambda image: grey_as_rgb(image),
    ],
)
def test_the_same_picture_saved_again_is_a_near_duplicate(change) -> None:  # type: ignore[no-untyped-def]
    found = sum(near(cell(seed), change(cell(seed))) for seed in range(40))
    assert found >= 39
    assert not any(near(cell(seed), change(cell(seed + 100))) for seed in range(40))


def test_blank_images_are_alike_and_like_nothing_else() -> None:
    blank = np.zeros((16, 16), dtype=np.uint8)
    assert near(blank, blank + 7)
    assert not near(blank, cell(1))


def test_near_duplicates_are_counted_and_the_best_are_shown() -> None:
    prints = [fingerprint(cell(seed)) for seed in range(50)]
    hashes = np.array([item.perceptual_hash for item in prints], dtype=np.uint64)
    thumbnails = np.stack([np.frombuffer(item.thumbnail, dtype=np.uint8) for item in prints])
    found = near_duplicates(hashes[:30], thumbnails[:30], hashes[20:], thumbnails[20:], most_examples=3)
    assert found.count == 10
    assert [(pair.left, pair.right) for pair in found.examples] == [(20, 0), (21, 1), (22, 2)]
    assert near_duplicates(hashes, thumbnails, hashes[:0], thumbnails[:0], most_examples=3).count == 0
