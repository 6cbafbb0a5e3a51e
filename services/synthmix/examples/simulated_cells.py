"""Seeded simulator of brightfield images of adherent cells on organ-on-chip devices.

What it makes is simulated, and every class name says so. It exists so that a study, a test or a tutorial has
a labelled, grouped dataset without a download: cell lines are the classes, chips are the groups, and each
chip has optics and culture of its own, so that a classifier tested on unseen chips meets a shift that it
was not trained on.

A field of cells is drawn as a map of optical thickness. Out-of-focus brightfield contrast is, to first order,
the negative Laplacian of that map (transport of intensity: Teague, J. Opt. Soc. Am. 73, 1434, 1983), which
gives the bright and dark rims that adherent cells show; pigment and granules add plain absorption.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from synthmix.service_kit.seeds import derived_rng

GROUP_PATTERN = r"chip-(?P<group>\d+)"
"""Regular expression that finds an image's group, its chip, in its path relative to the dataset's folder."""

_REFERENCE_SIZE_PX = 64  # lengths below are pixels of a field drawn at this size; other sizes scale them


@dataclass(frozen=True)
class CellLine:
    """Mean appearance of a simulated cell line; lengths in pixels of a 64-pixel field.

    Attributes:
        radius_px: Geometric mean of a cell's half axes.
        elongation: Long half axis over short half axis, at least 1.
        roughness: Relative amplitude of the outline's bumps, 0 (ellipse) to about 0.4.
        granularity: Contrast of the cytoplasm's granules, 0 to about 1.
        confluence: Share of the field that cells cover, 0 to 1.
        alignment: How far neighbours point the same way, 0 (not at all) to 1 (parallel).
    """

    radius_px: float
    elongation: float
    roughness: float
    granularity: float
    confluence: float
    alignment: float


CELL_LINES: dict[str, CellLine] = {
    "sim-epithelial": CellLine(
        radius_px=12.5, elongation=1.35, roughness=0.10, granularity=0.30, confluence=0.60, alignment=0.1
    ),
    "sim-fibroblast": CellLine(
        radius_px=11.0, elongation=2.3, roughness=0.14, granularity=0.30, confluence=0.42, alignment=0.6
    ),
    "sim-macrophage": CellLine(
        radius_px=8.8, elongation=1.25, roughness=0.15, granularity=0.60, confluence=0.38, alignment=0.0
    ),
}
"""The simulated cell lines, by class name."""


@dataclass(frozen=True)
class Optics:
    """How one chip's microscope turns thickness into grey levels, 0 to 1.

    Attributes:
        brightness: Mean grey level of the empty field.
        contrast: Grey levels for each unit of defocus signal.
        defocus: Distance from focus in arbitrary units; its sign says whether rims are bright or dark.
        absorption: Share of light lost in a cell's thickest part.
        blur_px: Standard deviation of the focus blur, in pixels of a 64-pixel field.
        gradient: Relative change of illumination from the field's centre to its edge.
        gradient_direction_rad: Direction in which the field gets brighter.
        noise: Standard deviation of the camera noise, in grey levels.
    """

    brightness: float
    contrast: float
    defocus: float
    absorption: float
    blur_px: float
    gradient: float
    gradient_direction_rad: float
    noise: float


@dataclass(frozen=True)
class SimulatedCellsSettings:
    """What to simulate."""

    images_per_class: int = 120
    chips: int = 12
    image_size_px: int = 64
    seed: int = 0


def write_simulated_dataset(folder: Path, settings: SimulatedCellsSettings) -> int:
    """Writes a labelled dataset as ``folder/<class>/chip-<XX>_<index>.png``, grey, 8 bits.

    Images are dealt to chips in turn, so that every chip holds every class.

    Args:
        folder: Where to write; made if absent. Other files in it are left alone.
        settings: What to simulate.

    Returns:
        The number of images written.

    Raises:
        ValueError: A setting is out of range; the message names the field, its value and the remedy.
    """
    _check(settings)
    count = 0
    for cell_line in CELL_LINES:
        class_folder = folder / cell_line
        class_folder.mkdir(parents=True, exist_ok=True)
        for index in range(settings.images_per_class):
            chip = index % settings.chips
            image = render(cell_line, chip, index, settings)
            Image.fromarray(image).save(class_folder / f"chip-{chip:02d}_{index:04d}.png")
            count += 1
    return count


def render(cell_line: str, chip: int, index: int, settings: SimulatedCellsSettings) -> np.ndarray:
    """Renders one image, which depends on its arguments alone and never on what was rendered before.

    Args:
        cell_line: A name in `CELL_LINES`.
        chip: Which chip, from 0; it sets the optics and shifts the culture.
        index: Which image of the class, from 0.
        settings: The image's size and the dataset's seed.

    Returns:
        Grey levels, uint8, of shape (image_size_px, image_size_px).
    """
    chip_rng = derived_rng(settings.seed, "chip", chip)
    rng = derived_rng(settings.seed, "image", cell_line, chip, index)
    optics = chip_optics(chip_rng)
    culture = chip_rng.normal(0.0, 1.0, size=4)
    line = vary(CELL_LINES[cell_line], 0.09 * culture + 0.15 * rng.normal(0.0, 1.0, size=4))
    # A hand on the focus knob: images of one chip differ a little.
    optics = replace(
        optics,
        defocus=optics.defocus * rng.uniform(0.7, 1.3),
        blur_px=optics.blur_px * rng.uniform(0.8, 1.3),
        brightness=optics.brightness * rng.uniform(0.95, 1.05),
    )
    thickness, granules = draw_field(line, settings.image_size_px, rng)
    grey = brightfield(thickness, granules, optics, rng)
    return np.clip(np.rint(255.0 * grey), 0, 255).astype(np.uint8)


def chip_optics(rng: np.random.Generator) -> Optics:
    """Draws one chip's optics."""
    return Optics(
        brightness=rng.uniform(0.42, 0.66),
        contrast=rng.uniform(1.2, 2.2),
        defocus=rng.uniform(0.7, 1.3) * rng.choice([1.0, 1.0, -1.0]),
        absorption=rng.uniform(0.03, 0.20),
        blur_px=rng.uniform(0.55, 1.15),
        gradient=rng.uniform(0.02, 0.22),
        gradient_direction_rad=rng.uniform(0.0, 2.0 * np.pi),
        noise=rng.uniform(0.006, 0.022),
    )


def vary(line: CellLine, deviations: np.ndarray) -> CellLine:
    """Returns a line with size, elongation, granularity, confluence shifted by deviations of shape (4,)."""
    size, elongation, granularity, confluence = deviations
    return replace(
        line,
        radius_px=line.radius_px * float(np.exp(size)),
        elongation=1.0 + (line.elongation - 1.0) * float(np.exp(2.0 * elongation)),
        granularity=line.granularity * float(np.exp(1.5 * granularity)),
        confluence=float(np.clip(line.confluence + 0.7 * confluence, 0.1, 0.9)),
    )


def draw_field(line: CellLine, image_size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a field of cells of one line.

    Args:
        line: The cells' appearance.
        image_size_px: Side of the field in pixels.
        rng: Source of randomness.

    Returns:
        Optical thickness (0 outside cells, about 1 in a cell's thickest part) and signed granule density,
        both float64 of shape (image_size_px, image_size_px).
    """
    scale = image_size_px / _REFERENCE_SIZE_PX
    rows, columns = np.mgrid[0:image_size_px, 0:image_size_px].astype(np.float64)
    thickness = np.zeros((image_size_px, image_size_px))
    common_angle = rng.uniform(0.0, np.pi)
    free_angle = (1.0 - line.alignment) * np.pi / 2.0
    for _ in range(80):
        if np.mean(thickness > 0.12) >= line.confluence:
            break
        centre = _free_place(thickness, rng)
        angle = common_angle + rng.uniform(-free_angle, free_angle)
        radius = scale * line.radius_px * float(np.exp(rng.normal(0.0, 0.16)))
        stretch = np.sqrt(1.0 + (line.elongation - 1.0) * float(np.exp(rng.normal(0.0, 0.35))))
        cell = _draw_cell(rows - centre[0], columns - centre[1], angle, radius, stretch, line.roughness, rng)
        # The thinner cell yields where two meet, which leaves the dark seam of a cell-cell contact.
        thickness = np.maximum(thickness, cell)
    grain = ndimage.gaussian_filter(rng.normal(0.0, 1.0, size=thickness.shape), 0.75 * scale, mode="wrap") * 2.6 * scale
    spots = np.where(grain > 1.3, grain, 0.35 * grain)
    granules = line.granularity * spots * ndimage.gaussian_filter(np.minimum(1.0, 2.0 * thickness), 0.7 * scale)
    return thickness, granules


def brightfield(thickness: np.ndarray, granules: np.ndarray, optics: Optics, rng: np.random.Generator) -> np.ndarray:
    """Forms a brightfield image by the transport of intensity.

    Args:
        thickness: Optical thickness, shape (H, W).
        granules: Signed granule density, shape (H, W).
        optics: The chip's optics.
        rng: Source of the camera noise.

    Returns:
        Grey levels, shape (H, W), 0 to 1 but for the noise.
    """
    height, width = thickness.shape
    scale = height / _REFERENCE_SIZE_PX
    smooth = ndimage.gaussian_filter(thickness + 0.16 * granules, optics.blur_px * scale, mode="nearest")
    defocus_signal = -optics.defocus * scale**2 * ndimage.laplace(smooth, mode="nearest")
    signal = optics.contrast * defocus_signal - optics.absorption * smooth
    y, x = np.mgrid[-1.0 : 1.0 : height * 1j, -1.0 : 1.0 : width * 1j]
    direction = optics.gradient_direction_rad
    illumination = 1.0 + optics.gradient * (np.cos(direction) * x + np.sin(direction) * y)
    noise = rng.normal(0.0, optics.noise, size=thickness.shape)
    levels: np.ndarray = optics.brightness * illumination * (1.0 + signal) + noise
    return levels


def _free_place(thickness: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (row, column) of the emptiest of some random places, a little outside the field included."""
    size = thickness.shape[0]
    places = rng.uniform(-0.08 * size, 1.08 * size, size=(5, 2))
    inside = np.clip(places, 0, size - 1).astype(int)
    emptiest: np.ndarray = places[np.argmin(thickness[inside[:, 0], inside[:, 1]])]
    return emptiest


def _draw_cell(
    y: np.ndarray,
    x: np.ndarray,
    angle: float,
    radius: float,
    stretch: float,
    roughness: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns one cell's thickness, shape of `y`: a thin lamella, a dome and a nucleus."""
    along = (np.cos(angle) * x + np.sin(angle) * y) / (radius * stretch)
    across = (np.cos(angle) * y - np.sin(angle) * x) * stretch / radius
    theta = np.arctan2(across, along)
    outline = np.ones_like(theta)
    for harmonic in range(2, 7):
        amplitude = roughness * rng.normal(0.0, 1.5 / harmonic)
        outline += amplitude * np.cos(harmonic * theta + rng.uniform(0.0, 2.0 * np.pi))
    # Elongated cells end in points: narrowing the waist's complement makes spindles of them.
    outline *= 1.0 + 0.22 * (stretch - 1.0) * np.cos(2.0 * theta)
    distance = np.hypot(along, across) / np.clip(outline, 0.35, None)
    lamella = 1.0 / (1.0 + np.exp(np.clip((distance - 1.0) * radius / 0.6, -50.0, 50.0)))
    dome = np.sqrt(np.clip(1.0 - distance**2, 0.0, None))
    nucleus_at = rng.normal(0.0, 0.15, size=2)
    nucleus = np.exp(-((((along - nucleus_at[0]) ** 2 + (across - nucleus_at[1]) ** 2) / 0.10) ** 2))
    cell: np.ndarray = rng.uniform(0.75, 1.1) * (0.38 * lamella + 0.40 * dome + 0.28 * nucleus)
    return cell


def _check(settings: SimulatedCellsSettings) -> None:
    """Refuses settings that cannot be simulated."""
    if settings.chips < 1 or settings.chips > 99:
        raise ValueError(f"chips is {settings.chips}: use 1 to 99")
    if settings.images_per_class < settings.chips:
        raise ValueError(
            f"images_per_class is {settings.images_per_class}, fewer than the {settings.chips} chips: "
            f"raise it to {settings.chips} or more, or lower chips"
        )
    if settings.image_size_px < 16 or settings.image_size_px > 1024:
        raise ValueError(f"image_size_px is {settings.image_size_px}: use 16 to 1024")
