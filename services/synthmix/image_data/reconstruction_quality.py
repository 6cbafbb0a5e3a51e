"""What is left of images that went through an autoencoder, as figures: error, structure, colour."""

from dataclasses import dataclass

import numpy as np

# sRGB's primaries to CIE XYZ under D65 (IEC 61966-2-1). The rows' sums are white, so that greys have no chroma at all.
_XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Where CIELAB's cube root gives way to a line (ISO/CIE 11664-4).
_DELTA = 6 / 29
# Pixels are whole numbers: an error below what rounding makes of them (1/12 in the mean of squares) is none.
_LEAST_SQUARED_ERROR = 1 / 12


@dataclass(frozen=True)
class ReconstructionQuality:
    """What came back of images.

    Attributes:
        images: How many.
        psnr_db: Peak signal-to-noise ratio, the mean of all images.
        mean_colour_psnr_db: The same of images that are nothing but each one's mean colour. The difference tells how
            much of what is in the pictures is left; where contrast is low, flat images have 26 dB and more.
        chroma: Mean CIELAB chroma before, C*ab.
        reconstructed_chroma: The same after.
        kid: Kernel inception distance between the images and what came back of them; None if it was not measured, as by
            earlier versions.
        kid_low, kid_high: Its 95 % confidence interval.
        kid_by_chance: What it would be below, in 95 of 100 cases, if the two were told apart by nothing but chance.
        feature_network: On whose features it is.
    """

    images: int
    psnr_db: float
    mean_colour_psnr_db: float
    chroma: float
    reconstructed_chroma: float
    kid: float | None = None
    kid_low: float | None = None
    kid_high: float | None = None
    kid_by_chance: float | None = None
    feature_network: str = ""

    @property
    def chroma_kept(self) -> float:
        """Share of the chroma; 1 of grey images, which have none to lose."""
        return self.reconstructed_chroma / self.chroma if self.chroma else 1.0


def reconstruction_quality(images: np.ndarray, reconstructed: np.ndarray) -> ReconstructionQuality:
    """Compares images with what came back of them.

    Args:
        images: (images, height, width, 3), uint8, sRGB.
        reconstructed: The same shape and type.

    Returns:
        Figures of two decimals: others would depend on the processor, and of some images say nothing.
    """
    return ReconstructionQuality(
        images=len(images),
        psnr_db=round(mean_psnr_db(images, reconstructed), 2),
        mean_colour_psnr_db=round(mean_psnr_db(images, images.mean(axis=(1, 2), keepdims=True)), 2),
        chroma=round(mean_chroma(images), 2),
        reconstructed_chroma=round(mean_chroma(reconstructed), 2),
    )


def mean_psnr_db(images: np.ndarray, guesses: np.ndarray) -> float:
    """10 log10(255^2 / mean squared error) of each image, averaged; 58.9 for images that are equal.

    Args:
        images: (images, height, width, 3), 0 to 255.
        guesses: What they are compared with, of a shape that fits.
    """
    squares = np.square(images.astype(np.float64) - guesses).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(squares, _LEAST_SQUARED_ERROR))))


def mean_chroma(images: np.ndarray) -> float:
    """Mean of CIELAB's chroma C*ab = sqrt(a*^2 + b*^2) over all pixels (ISO/CIE 11664-4): 0 of grey, 104.6 of red.

    Args:
        images: (images, height, width, 3), uint8, sRGB.
    """
    return float(np.mean([_chroma(image) for image in images]))  # one at a time: float64 takes eight times the memory


def _chroma(image: np.ndarray) -> float:
    levels = image / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    relative = linear @ _XYZ_OF_RGB.T / _XYZ_OF_RGB.sum(axis=1)
    x, y, z = np.moveaxis(np.where(relative > _DELTA**3, np.cbrt(relative), relative / (3 * _DELTA**2) + 4 / 29), -1, 0)
    return float(np.hypot(500 * (x - y), 200 * (y - z)).mean())
