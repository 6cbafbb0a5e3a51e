"""What microscopes make of cells: stained, fluorescent in several channels, brightfield and phase contrast.

Each look takes the maps of `pretraining.cells` and gives a picture (S, S, 3) of 0 to 1. Colours come from what makes
them: absorption by stains (Beer-Lambert), dyes that emit, and lamps that are not white.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pretraining.cells import REFERENCE_PX, CellMaps

# Optical densities of red, green and blue: of haematoxylin, eosin and diaminobenzidine as in Ruifrok and Johnston
# (2001), the others near what the dyes' spectra give. Every palette departs from them, and half are random.
_BLUE_STAINS = ((0.65, 0.70, 0.29), (0.78, 0.58, 0.22), (0.80, 0.55, 0.15), (0.55, 0.78, 0.30))
_OTHER_STAINS = ((0.07, 0.99, 0.11), (0.27, 0.57, 0.78), (0.20, 0.75, 0.60), (0.75, 0.25, 0.60), (0.15, 0.60, 0.79))


@dataclass(frozen=True)
class Palette:
    """Optical densities (3,) of red, green and blue, of length 1, a stain each."""

    nucleus: np.ndarray
    cytoplasm: np.ndarray
    granules: np.ndarray


def draw_palette(rng: np.random.Generator) -> Palette:
    """Draws the stains of a picture: half near known ones, half of any colour."""
    if rng.random() < 0.5:
        nucleus, cytoplasm = rng.choice(_BLUE_STAINS), rng.choice(_OTHER_STAINS)
        if rng.random() < 0.3:
            cytoplasm = rng.choice(_BLUE_STAINS)
        granules = rng.choice((*_BLUE_STAINS, *_OTHER_STAINS))
        return Palette(*(_unit(np.abs(stain + rng.normal(0.0, 0.08, 3))) for stain in (nucleus, cytoplasm, granules)))
    return Palette(*(_unit(rng.uniform(0.02, 1.0, size=3) ** 1.5) for _ in range(3)))


@dataclass(frozen=True)
class Staining:
    """How much of the stains each part takes, in optical densities, and what lights the slide."""

    nucleus: float
    cytoplasm: float
    rim: float
    pale: float
    """Of what else takes the cytoplasm's stain."""
    basophilic: float
    """Of the nucleus's stain in the cytoplasm."""
    granules: float
    blur_px: float
    lamp: np.ndarray


def draw_staining(rng: np.random.Generator) -> Staining:
    """Draws a staining; half of them leave the nucleus's stain out of the cytoplasm."""
    return Staining(
        nucleus=rng.uniform(0.6, 1.8),
        cytoplasm=rng.uniform(0.05, 0.7),
        rim=rng.uniform(0.0, 0.35),
        pale=rng.uniform(0.1, 0.6),
        basophilic=rng.uniform(0.05, 0.4) if rng.random() < 0.5 else 0.0,
        granules=rng.uniform(0.3, 1.2),
        blur_px=rng.uniform(0.3, 0.9),
        lamp=_lamp(rng, most_tint=0.12) * rng.uniform(0.8, 0.98),
    )


def stained(
    cells: CellMaps, palette: Palette, staining: Staining, pale: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Light through stained cells on a slide.

    Args:
        cells: The cells.
        palette: The stains.
        staining: How much of them.
        pale: What else takes the cytoplasm's stain, (S, S): cells without a nucleus, fibres; 0 where nothing is.
        rng: Source of what the camera adds.
    """
    size_px = len(pale)
    nucleus = staining.nucleus * (cells.nucleus + 0.7 * cells.chromatin) + staining.basophilic * cells.body
    body = staining.cytoplasm * cells.body * (1.0 - 0.6 * np.clip(cells.nucleus, 0.0, 1.0))
    body = body + staining.rim * cells.rim + staining.pale * pale
    clear = 1.0 - 0.8 * np.clip(cells.vacuoles, 0.0, 1.0)
    density = sum(
        np.clip(amount * clear, 0.0, None)[..., None] * stain
        for amount, stain in (
            (nucleus, palette.nucleus),
            (body, palette.cytoplasm),
            (staining.granules * cells.granules, palette.granules),
        )
    )
    density = _blurred(density, staining.blur_px, size_px)
    return _seen(staining.lamp * np.exp(-1.6 * density), size_px, rng, noise=0.012)


def fluorescent_channels(cells: CellMaps, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Two or three dyes, each in a structure of its own and of its own colour, added up."""
    size_px = len(cells.body)
    body = np.clip(cells.body, 0.0, 1.5)
    cytoplasm = body * (1.0 - 0.8 * np.clip(cells.nucleus, 0.0, 1.0))
    fibres = _fibres(size_px, rng)
    structures = (
        cytoplasm * (1.0 + 0.5 * cells.granules),
        cytoplasm * fibres,
        cells.rim * (0.3 + body),
        (0.1 * cytoplasm + cells.granules),
        body**2,
    )
    chosen = rng.choice(len(structures), size=channels - 1, replace=False)
    lights = [np.clip(cells.nucleus + 0.6 * cells.chromatin, 0.0, None), *(structures[which] for which in chosen)]
    first_hue, picture = rng.uniform(), np.zeros((size_px, size_px, 3))
    for number, light in enumerate(lights):
        if rng.random() < 0.7:  # the usual false colours: blue, green, red, and their mixtures
            hue = float(rng.choice(6)) / 6.0 if number else float(rng.choice((4, 4, 3, 5))) / 6.0
        else:
            hue = (first_hue + number / channels + rng.normal(0.0, 0.05)) % 1.0
        colour = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1.0), 1.0))
        strength = rng.uniform(0.35, 1.0) if number else rng.uniform(0.5, 1.1)
        background = rng.uniform(0.0, 0.05)
        picture += (background + strength * _blurred(light, rng.uniform(0.4, 1.3), size_px))[..., None] * colour
    return _seen(picture, size_px, rng, noise=0.02, gradient=0.0)


def fluorescent(cells: CellMaps, rng: np.random.Generator) -> np.ndarray:
    """One dye, grey: in the nucleus, the cytoplasm, at the membrane or in granules."""
    size_px = len(cells.body)
    cytoplasm = cells.body * (1.0 - 0.7 * np.clip(cells.nucleus, 0.0, 1.0))
    structures = (
        np.clip(cells.nucleus + 0.6 * cells.chromatin, 0.0, None),
        np.clip(cells.nucleus + 0.6 * cells.chromatin, 0.0, None) + 0.3 * cells.body,
        cytoplasm * (1.0 + 0.6 * cells.granules),
        cytoplasm * _fibres(size_px, rng),
        cells.rim + 0.2 * cells.body,
        0.15 * cells.body + cells.granules,
    )
    light = _blurred(structures[rng.choice(6, p=(0.35, 0.15, 0.15, 0.15, 0.1, 0.1))], rng.uniform(0.4, 1.2), size_px)
    picture = rng.uniform(0.01, 0.08) + rng.uniform(0.3, 1.0) * light / max(0.1, np.quantile(light, 0.995))
    return _seen(picture[..., None], size_px, rng, noise=0.012, gradient=0.0)


def transmitted(cells: CellMaps, rng: np.random.Generator, *, phase_ring: bool, grey_share: float = 0.5) -> np.ndarray:
    """Light through unstained cells, by wave optics: brightfield somewhat out of focus, or phase contrast.

    A cell delays light in proportion to its thickness. The delayed wave is filtered by the objective's aperture, by
    the phase that defocus adds and, for phase contrast, by a ring that shifts and dims what was not deflected
    (Zernike, 1942), which is what makes the halos: a lamp is no point, so that the ring takes some of the deflected
    light, too.
    """
    size_px = len(cells.body)
    scale = size_px / REFERENCE_PX
    thickness = _blurred(cells.body, rng.uniform(0.3, 1.0), size_px)
    delay = rng.uniform(0.4, 2.5) * thickness + rng.uniform(0.1, 0.8) * (cells.nucleus + 0.7 * cells.chromatin)
    delay = delay + rng.uniform(0.2, 0.9) * cells.granules - rng.uniform(0.2, 0.8) * cells.vacuoles
    delay = (delay + rng.uniform(0.0, 0.5) * cells.rim) * (0.5 if phase_ring else 1.0)
    absorbed = rng.uniform(0.0, 0.15) * cells.body + rng.uniform(0.0, 0.3) * cells.granules
    margin = size_px // 4
    wave = np.exp(-0.5 * absorbed + 1j * delay)
    wave = np.pad(wave, margin, mode="reflect")
    frequency = np.fft.fftfreq(len(wave)) * scale  # cycles a reference pixel
    square = frequency[:, None] ** 2 + frequency[None, :] ** 2
    aperture = np.exp(-((square / rng.uniform(0.22, 0.45) ** 2) ** 2))
    defocus = rng.uniform(0.8, 6.0) * rng.choice((-1.0, 1.0)) * (0.2 if phase_ring else 1.0)
    # A wide cone of light takes the fringes of high frequencies away.
    pupil = (
        aperture * np.exp(1j * np.pi * defocus * square) * np.exp(-((defocus * rng.uniform(0.2, 0.7)) ** 2) * square)
    )
    if phase_ring:
        width = rng.uniform(0.015, 0.05)
        ring = np.exp(-square / width**2)
        shifted = rng.uniform(0.3, 0.7) * np.exp(1j * rng.choice((-1.0, -1.0, 1.0)) * 0.5 * np.pi)
        pupil = pupil * (1.0 + ring * (shifted - 1.0))
    intensity = np.abs(np.fft.ifft2(np.fft.fft2(wave) * pupil)) ** 2
    intensity = intensity[margin:-margin, margin:-margin]
    signal = intensity / np.median(intensity) - 1.0
    # Whoever takes pictures of transparent cells turns the camera's contrast up until they show.
    wanted = rng.uniform(0.08, 0.3) if phase_ring else np.exp(rng.uniform(np.log(0.05), np.log(0.25)))
    signal *= min(8.0, wanted / (signal.std() + 1e-6))
    level = rng.uniform(0.3, 0.6) if phase_ring else rng.uniform(0.35, 0.8)
    tint = np.ones(1) if rng.random() < grey_share else _lamp(rng, most_tint=0.2)
    return _seen(level * (1.0 + signal[..., None]) * tint, size_px, rng, noise=0.02)


def section_matrix(cells: CellMaps, rng: np.random.Generator) -> np.ndarray:
    """Fibres of the matrix between the cells of a section, (S, S)."""
    between = np.clip(1.0 - cells.body - cells.rim, 0.0, 1.0)
    fibres: np.ndarray = between * _fibres(len(between), rng) * rng.uniform(0.2, 1.2)
    return fibres


def _seen(
    picture: np.ndarray, size_px: int, rng: np.random.Generator, *, noise: float, gradient: float = 0.12
) -> np.ndarray:
    """What a camera makes of light: uneven illumination and noise; (S, S, 1) or (S, S, 3) in, (S, S, 3) out."""
    y, x = np.mgrid[-1.0 : 1.0 : size_px * 1j, -1.0 : 1.0 : size_px * 1j]
    direction, strength = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, gradient)
    illumination = 1.0 + strength * (np.cos(direction) * x + np.sin(direction) * y)
    lit = picture * illumination[..., None] + rng.normal(0.0, rng.uniform(0.0, noise), size=picture.shape)
    taken: np.ndarray = np.clip(np.broadcast_to(lit, (size_px, size_px, 3)), 0.0, 1.0)
    return taken


def _lamp(rng: np.random.Generator, most_tint: float) -> np.ndarray:
    """The colour of a lamp and its filters, (3,), 1 at most."""
    colour = np.exp(rng.normal(0.0, 1.0, size=3) * rng.uniform(0.0, most_tint))
    light: np.ndarray = colour / colour.max()
    return light


def _unit(stain: np.ndarray) -> np.ndarray:
    of_length_1: np.ndarray = stain / np.linalg.norm(stain)
    return of_length_1


def _blurred(picture: np.ndarray, blur_px: float, size_px: int) -> np.ndarray:
    """Blurred by pixels of a 64-pixel field, in rows and columns alone."""
    blur = blur_px * size_px / REFERENCE_PX
    blurred: np.ndarray = ndimage.gaussian_filter(picture, (blur, blur, 0.0)[: picture.ndim], mode="nearest")
    return blurred


def _fibres(size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Fibres along a direction that bends, (S, S), about 0 to 1."""
    scale = size_px / REFERENCE_PX
    noise = ndimage.gaussian_filter(
        rng.normal(size=(2 * size_px, 2 * size_px)), (0.6 * scale, 6.0 * scale), mode="wrap"
    )
    y, x = np.mgrid[:size_px, :size_px] - size_px / 2.0
    angle = rng.uniform(0.0, np.pi) + rng.uniform(-0.5, 0.5) * x / size_px + rng.uniform(-0.5, 0.5) * y / size_px
    places = [size_px + np.cos(angle) * y - np.sin(angle) * x, size_px + np.cos(angle) * x + np.sin(angle) * y]
    fibres = ndimage.map_coordinates(noise, places, order=1, mode="wrap")
    shares: np.ndarray = np.clip(0.5 + 0.35 * (fibres - fibres.mean()) / fibres.std(), 0.0, None)
    return shares
