"""A simulated stained smear of four named cell types, which the base model's corpus doesn't hold.

The corpus has the same parts of cells in ranges that are much wider, under other names, and in a stain of each
picture's own. Here a type is a place in those ranges, and all pictures have one stain, of which each slide, the group,
has a depth and a lamp of its own.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from pretraining.cells import CellKind, draw_cells, place_cells
from pretraining.looks import Palette, draw_staining, stained
from synthmix.service_kit.seeds import derived_rng

SLIDES = 12
SLIDE = r"(?P<group>slide-\d+)"

_COMMON = CellKind(
    radius_px=17.0,
    elongation=1.1,
    roughness=0.04,
    processes=0,
    flatness=0.5,
    nucleus="round",
    nucleus_share=0.6,
    chromatin=0.5,
    granule_px=0.8,
    granule_density=0.0,
    vacuole_density=0.0,
)
TYPES: dict[str, CellKind] = {
    "sim-lobulocyte": replace(_COMMON, nucleus="segmented", nucleus_share=0.55, granule_density=0.1),
    "sim-reniform": replace(_COMMON, radius_px=21.0, nucleus="indented", vacuole_density=0.06, roughness=0.08),
    "sim-compactocyte": replace(_COMMON, radius_px=11.0, nucleus_share=0.82, chromatin=0.7),
    "sim-granulophore": replace(_COMMON, nucleus="bilobed", nucleus_share=0.5, granule_px=1.2, granule_density=0.45),
}
"""By class name."""

_STAINS = np.array([[0.62, 0.72, 0.32], [0.22, 0.90, 0.38], [0.20, 0.72, 0.66]])
"""Optical densities of the nuclei, of the cytoplasm and the pale cells around, and of granules."""


def write_stained_cells(folder: Path, per_class: int = 240, size_px: int = 64, seed: int = 0) -> None:
    """Writes ``folder/<type>/slide-<XX>_<index>.png``, images dealt to slides in turn."""
    for name, kind in TYPES.items():
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            slide = index % SLIDES
            image = draw_stained_cell(name, kind, slide, index, size_px, seed)
            Image.fromarray(image).save(folder / name / f"slide-{slide:02d}_{index:04d}.png")


def draw_stained_cell(name: str, kind: CellKind, slide: int, index: int, size_px: int, seed: int) -> np.ndarray:
    """One cell in the middle of pale discs, uint8 (size_px, size_px, 3)."""
    slide_rng, rng = derived_rng(seed, "slide", slide), derived_rng(seed, "stained cell", name, index)
    stains = np.abs(_STAINS + slide_rng.normal(0.0, 0.04, size=_STAINS.shape))
    staining = replace(draw_staining(slide_rng), rim=0.05)
    palette = Palette(*(stains / np.linalg.norm(stains, axis=1, keepdims=True)))
    cell = draw_cells(kind, place_cells(1, size_px, rng, centred=True), size_px, rng, touching=False)
    disc = replace(_COMMON, radius_px=9.0, nucleus="none", chromatin=0.0)
    around = draw_cells(disc, place_cells(int(rng.integers(2, 9)), size_px, rng), size_px, rng, touching=False)
    pale = around.body - 0.5 * ndimage.gaussian_filter(around.body, 2.5 * size_px / 64) ** 2
    free = 1.0 - np.clip(3.0 * cell.body, 0.0, 1.0)
    picture = stained(cell, palette, staining, free * np.clip(pale, 0.0, None), rng)
    levels: np.ndarray = np.clip(np.rint(255.0 * picture), 0, 255).astype(np.uint8)
    return levels
