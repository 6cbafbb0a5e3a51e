"""The pictures and captions that the built-in base model learns from.

Two sources: real fluorescence nuclei of ten mitocheck phenotypes, and simulated cells in many looks, drawn from the
thickness maps of `synthmix.examples.simulated_cells` and from the whole cells of `pretraining.cells`. Breadth is the
point: a base model that has seen light and dark backgrounds, grey and coloured ones, sharp and blurred rims, small and
large cells needs only a small adapter to make something new. The autoencoder sees textures too, which show no cells at
all.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from pretraining.cells import NUCLEI, CellKind, CellMaps, draw_cells, draw_kind, place_cells
from pretraining.looks import (
    draw_palette,
    draw_staining,
    fluorescent,
    fluorescent_channels,
    section_matrix,
    stained,
    transmitted,
)
from synthmix.examples.simulated_cells import (
    CELL_LINES,
    CellLine,
    brightfield,
    chip_optics,
    draw_field,
    vary,
)
from synthmix.service_kit.seeds import derived_rng

SIZE_PX = 64
"""Side of a picture, but for those of a larger corpus."""

MITOCHECK_HELD_OUT = frozenset({"Interphase", "Apoptosis", "Binuclear", "Polylobed", "Prometaphase", "OutOfFocus"})
"""Phenotypes that the base model never sees, so that a study on them adapts it to something new."""


@dataclass(frozen=True)
class Corpus:
    """Pictures with what is needed to caption and to sample them."""

    images: np.ndarray
    """uint8, shape (N, S, S, 3); the channels of grey ones are equal."""
    captions: np.ndarray
    """Unicode, shape (N,)."""
    weights: np.ndarray
    """Share of training draws of each picture, float64 of shape (N,), sum 1."""
    textures: np.ndarray
    """What only the autoencoder sees: uint8, shape (M, 64, 64, 3), M 0 if it sees none."""


def build_corpus(
    mitocheck: Path,
    simulated: range,
    texture_count: int,
    seed: int,
    *,
    size_px: int = SIZE_PX,
    real_share: float = 0.3,
    processes: int = 1,
    progress: Callable[[int], None] = lambda drawn: None,
) -> Corpus:
    """Collects a corpus.

    Args:
        mitocheck: Folder with one sub-folder of 64-pixel grey images a phenotype.
        simulated: Indices of the simulated pictures to draw: corpora of other indices share none.
        texture_count: How many textures to draw.
        seed: Seed of the simulated pictures and textures.
        size_px: Side of the pictures. Real ones are enlarged to it, simulated ones drawn at it.
        real_share: Share of training draws that are real pictures, 0 to 1.
        processes: By so many are pictures drawn.
        progress: Called with the pictures and textures drawn so far.

    Returns:
        Real pictures first, then simulated ones.

    Raises:
        ValueError: The folder holds no usable phenotype, or an image isn't 64 x 64.
    """
    real_images, real_captions = _read_mitocheck(mitocheck)
    drawn = []
    textures = np.empty((texture_count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for picture in pool.map(partial(draw_simulated, seed, size_px=size_px), simulated, chunksize=32):
            drawn.append(picture)
            progress(len(drawn))
        for index, texture in enumerate(pool.map(partial(draw_texture, seed), range(texture_count), chunksize=32)):
            textures[index] = texture
            progress(len(drawn) + index + 1)
    return Corpus(
        images=np.concatenate([_resized(real_images, size_px), np.stack([image for image, _ in drawn])]),
        captions=np.array(real_captions + [caption for _, caption in drawn]),
        weights=_weights(real_captions, len(drawn), real_share),
        textures=textures,
    )


def resized(corpus: Corpus, size_px: int) -> Corpus:
    """The same pictures at another size."""
    return replace(corpus, images=_resized(corpus.images, size_px))


def _resized(images: np.ndarray, size_px: int) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.LANCZOS)) for image in images]
    )


def _weights(real_captions: list[str], simulated_count: int, real_share: float) -> np.ndarray:
    """Share of training draws of each picture, real ones first."""
    # Square root of the class size: rare phenotypes are seen more often, common ones still most.
    _, label_of, label_sizes = np.unique(real_captions, return_inverse=True, return_counts=True)
    real = 1.0 / np.sqrt(label_sizes[label_of])
    simulated = np.full(simulated_count, (1.0 - real_share) / simulated_count)
    return np.concatenate([real_share * real / real.sum(), simulated])


def save_corpus(path: Path, corpus: Corpus) -> None:
    """Writes a corpus as an uncompressed .npz."""
    partial = path.with_suffix(".partial.npz")  # another ending would be lengthened by savez
    np.savez(partial, **{field.name: getattr(corpus, field.name) for field in fields(Corpus)})
    os.replace(partial, path)


def load_corpus(path: Path) -> Corpus:
    """Reads what `save_corpus` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Corpus(**{field.name: arrays[field.name] for field in fields(Corpus)})


def draw_simulated(seed: int, index: int, size_px: int = SIZE_PX) -> tuple[np.ndarray, str]:
    """Draws one simulated picture in a look of its own.

    Args:
        seed: Seed of the corpus.
        index: Which picture.
        size_px: Its side; another size is another resolution, not a larger field.

    Returns:
        A uint8 image of shape (size_px, size_px, 3) and its caption.
    """
    rng = derived_rng(seed, "corpus", index)
    draw = rng.choice(len(_DRAWN), p=[share for _, _, share in _DRAWN])
    name, drawn, _ = _DRAWN[draw]
    picture, subject = drawn(size_px, rng)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    article = "an" if name[0] in "aeiou" else "a"
    return np.clip(np.rint(255.0 * picture), 0, 255).astype(np.uint8), f"{article} {name} image of {subject}"


def draw_texture(seed: int, index: int) -> np.ndarray:
    """Draws overlapping ellipses of all sizes and levels, half of them grey, uint8 of shape (64, 64, 3).

    Dead leaves (Lee, Mumford and Huang, 2001, section 3): radii follow a power law, so that edges come at every scale,
    as they do in photographs. An autoencoder that can restore these restores microscopes that it never saw.
    """
    rng = derived_rng(seed, "texture", index)
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX].astype(np.float32)
    middle, spread = rng.uniform(0.1, 0.9), rng.uniform(0.03, 0.4)
    colour = 0.0 if rng.random() < 0.5 else rng.uniform(0.02, 0.3)  # how far channels differ
    picture = np.full((SIZE_PX, SIZE_PX, 3), middle + colour * rng.normal(size=3), dtype=np.float32)
    smallest_px = rng.uniform(1.0, 4.0)
    for _ in range(int(rng.integers(10, 120))):
        radius_px = min(40.0, smallest_px * (1.0 - rng.random()) ** -0.5)
        y, x = rng.uniform(-8.0, SIZE_PX + 8.0, size=2)
        angle, ratio = rng.uniform(0.0, np.pi), rng.uniform(0.25, 1.0)
        along = np.cos(angle) * (columns - x) + np.sin(angle) * (rows - y)
        across = (np.cos(angle) * (rows - y) - np.sin(angle) * (columns - x)) / ratio
        inside = np.clip(radius_px - np.hypot(along, across), 0.0, 1.0)[..., None]  # one pixel of soft edge
        picture += inside * (rng.normal(middle, spread) + colour * rng.normal(size=3) - picture)
    blur_px = rng.uniform(0.0, 1.0)
    picture = ndimage.gaussian_filter(picture, (blur_px, blur_px, 0.0)) + _noise(picture[..., :1], rng, 0.02)
    levels: np.ndarray = np.clip(np.rint(255.0 * picture), 0, 255).astype(np.uint8)
    return levels


def _read_mitocheck(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Reads the phenotypes that the base model may see, in a stable order."""
    phenotypes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    images, captions = [], []
    for phenotype in phenotypes:
        if phenotype in MITOCHECK_HELD_OUT:
            continue
        for path in sorted((folder / phenotype).glob("*.png")):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L").convert("RGB"))
            if pixels.shape[:2] != (SIZE_PX, SIZE_PX):
                raise ValueError(f"{path} is {pixels.shape[:2]}: the corpus takes {SIZE_PX} x {SIZE_PX} images")
            images.append(pixels)
            captions.append(f"a fluorescence image of a {phenotype} nucleus")
    if not images:
        raise ValueError(f"--mitocheck is {folder}, which holds no phenotype to learn from: give the mitocheck folder")
    return np.stack(images), captions


def _random_line(rng: np.random.Generator) -> CellLine:
    """Draws a cell line from a range much wider than the named ones span."""
    return CellLine(
        radius_px=float(np.exp(rng.uniform(np.log(4.5), np.log(20.0)))),
        elongation=1.05 + float(rng.exponential(0.6)),
        roughness=rng.uniform(0.03, 0.32),
        granularity=rng.uniform(0.05, 0.9),
        confluence=rng.uniform(0.06, 0.8),
        alignment=rng.uniform(0.0, 0.9),
    )


def _describe(line: CellLine, single: bool) -> str:
    """Puts a cell line in words."""
    size = "small" if line.radius_px < 7.5 else "large" if line.radius_px > 13.0 else "medium"
    shape = "round" if line.elongation < 1.3 else "elongated" if line.elongation > 2.0 else "oval"
    outline = "rough" if line.roughness > 0.2 else "smooth"
    inside = "granular" if line.granularity > 0.45 else "clear"
    crowd = "sparse" if line.confluence < 0.25 else "crowded" if line.confluence > 0.55 else "scattered"
    if single:
        return f"a {size} {shape} {outline} {inside} cell"
    return f"{crowd} {size} {shape} {outline} {inside} cells"


def _single_cell(line: CellLine, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a sparse field, twice too wide, and cuts it out around the cell nearest to its middle."""
    wide_px = 2 * size_px
    wide = replace(line, radius_px=line.radius_px * size_px / wide_px, confluence=0.08)
    thickness, granules = draw_field(wide, wide_px, rng)
    cells, count = ndimage.label(thickness > 0.12)
    centres = np.array(ndimage.center_of_mass(thickness, cells, range(1, count + 1)))
    nearest = centres[np.argmin(np.abs(centres - wide_px / 2).sum(axis=1))]
    corner = np.clip(np.rint(nearest - size_px / 2), 0, wide_px - size_px).astype(int)
    window = (slice(corner[0], corner[0] + size_px), slice(corner[1], corner[1] + size_px))
    return thickness[window], granules[window]


def _brightfield(thickness: np.ndarray, granules: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of them by the simulated chips' optics, half by microscopes of any contrast, focus and flatness."""
    optics = chip_optics(rng)
    if rng.random() < 0.5:
        optics = replace(
            optics,
            brightness=rng.uniform(0.35, 0.8),
            defocus=optics.defocus * rng.uniform(0.7, 3.0),
            blur_px=rng.uniform(0.45, 1.4),
            gradient=rng.uniform(0.0, 0.1),
            noise=rng.uniform(0.0, 0.03),
        )
    return brightfield(thickness, granules, optics, rng)


def _phase_contrast(thickness: np.ndarray, granules: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark cells in bright halos (positive contrast), or the reverse."""
    phase = ndimage.gaussian_filter(thickness + 0.3 * granules, rng.uniform(0.5, 1.2))
    halo = phase - ndimage.gaussian_filter(phase, rng.uniform(3.0, 7.0))
    sign = -1.0 if rng.random() < 0.7 else 1.0
    picture: np.ndarray = rng.uniform(0.35, 0.65) + sign * rng.uniform(0.3, 0.8) * halo + _noise(thickness, rng, 0.015)
    return picture


def _fluorescence(thickness: np.ndarray, granules: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light emitted in proportion to a cell's dye, from even to speckled, sharp to far out of focus."""
    dye = np.clip(thickness, 0.0, None) ** rng.uniform(0.5, 3.0) * (1.0 + rng.uniform(0.0, 1.2) * granules)
    blur = rng.uniform(0.4, 1.2) if rng.random() < 0.8 else rng.uniform(2.0, 6.0)
    light = ndimage.gaussian_filter(np.clip(dye, 0.0, None), blur)
    picture: np.ndarray = rng.uniform(0.01, 0.08) + rng.uniform(0.25, 1.1) * light + _noise(thickness, rng, 0.01)
    return picture


def _stained(thickness: np.ndarray, granules: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark nuclei in pale cells on a light background, by Beer-Lambert absorption."""
    nucleus = 1.0 / (1.0 + np.exp(-(thickness - rng.uniform(0.65, 0.85)) / 0.05))
    stain = rng.uniform(0.1, 0.6) * thickness + rng.uniform(0.4, 1.2) * nucleus + 0.3 * granules
    absorbed = ndimage.gaussian_filter(np.clip(stain, 0.0, None), rng.uniform(0.5, 1.0))
    picture: np.ndarray = rng.uniform(0.75, 0.97) * np.exp(-absorbed) + _noise(thickness, rng, 0.012)
    return picture


def _interference_contrast(thickness: np.ndarray, granules: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Relief as of Nomarski optics: the thickness's slope along one direction."""
    direction = rng.uniform(0.0, 2.0 * np.pi)
    relief = ndimage.gaussian_filter(thickness + 0.3 * granules, rng.uniform(0.6, 1.2))
    slope = np.cos(direction) * ndimage.sobel(relief, axis=1) + np.sin(direction) * ndimage.sobel(relief, axis=0)
    picture: np.ndarray = rng.uniform(0.35, 0.6) + rng.uniform(0.15, 0.4) * slope + _noise(thickness, rng, 0.015)
    return picture


def _noise(like: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Returns camera noise of a random strength up to `most` grey levels (of 1)."""
    return rng.normal(0.0, rng.uniform(0.0, most), size=like.shape)


_Look = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
_Drawn = Callable[[int, np.random.Generator], tuple[np.ndarray, str]]
"""Draws a picture of a side, (S, S) or (S, S, 3), 0 to 1, and says what is on it."""


def _thickness_map(look: _Look, named_share: float, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A field or a cell as the simulated chips have them, by a look; `named_share` are of the named lines."""
    if rng.random() < named_share:
        cell_line = str(rng.choice(list(CELL_LINES)))
        line = vary(CELL_LINES[cell_line], 0.18 * rng.normal(0.0, 1.0, size=4))
        thickness, granules = draw_field(line, size_px, rng)
        subject = f"{cell_line} cells"
    else:
        line = _random_line(rng)
        single = rng.random() < 0.45
        thickness, granules = _single_cell(line, size_px, rng) if single else draw_field(line, size_px, rng)
        while thickness.mean() < 0.02:  # an empty field teaches nothing about cells
            thickness, granules = draw_field(line, size_px, rng)
        subject = _describe(line, single)
    return look(thickness, granules, rng), subject


def _whole_cells(
    size_px: int, rng: np.random.Generator, nuclei: tuple[str, ...] = NUCLEI
) -> tuple[CellMaps, str, bool]:
    """Draws whole cells; returns them, what they are in words, and whether they touch as in a tissue."""
    kind = draw_kind(rng, nuclei)
    single = kind.radius_px > 9.0 and rng.random() < 0.5
    touching = rng.random() < (0.2 if single else 0.6)
    if single and not touching:
        count = 1 + int(rng.poisson(0.6))
    else:
        room = (1.3 * SIZE_PX) ** 2 / (np.pi * kind.radius_px**2)
        count = int(np.clip(np.rint(room * (rng.uniform(0.9, 1.6) if touching else rng.uniform(0.15, 0.8))), 1, 60))
    cells = draw_cells(kind, place_cells(count, size_px, rng, centred=single), size_px, rng, touching=touching)
    return cells, _describe_kind(kind, count, touching), touching


def _describe_kind(kind: CellKind, count: int, touching: bool) -> str:
    size = "small" if kind.radius_px < 9.0 else "large" if kind.radius_px > 15.0 else "medium"
    shape = "branched" if kind.processes else "elongated" if kind.elongation > 1.8 else "round"
    inside = "granular" if kind.granule_density else "clear"
    crowd = "touching " if touching else ""
    many = f"a {size}" if count == 1 else f"{crowd}{size}"
    return f"{many} {shape} {inside} cell{'' if count == 1 else 's'} with {kind.nucleus} nucleus"


def _stained_cells(size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A smear, with pale discs around the cells at times, or a section, with fibres between them."""
    cells, subject, touching = _whole_cells(size_px, rng)
    palette = draw_palette(rng)
    pale = np.zeros((size_px, size_px))
    if touching:
        if rng.random() < 0.5:
            pale = section_matrix(cells, rng)
    elif rng.random() < 0.5:
        disc = replace(draw_kind(rng, ("none",)), radius_px=rng.uniform(5.0, 13.0), elongation=1.05, processes=0)
        disc = replace(disc, roughness=0.03, granule_density=0.0, vacuole_density=0.0)
        around = draw_cells(disc, place_cells(int(rng.integers(3, 16)), size_px, rng), size_px, rng, touching=False)
        dent = ndimage.gaussian_filter(around.body, 2.5 * size_px / SIZE_PX)
        free = 1.0 - np.clip(3.0 * cells.body, 0.0, 1.0)
        pale = free * np.clip(around.body - rng.uniform(0.0, 0.6) * dent**2, 0.0, None)
    return stained(cells, palette, draw_staining(rng), pale, rng), subject


def _fluorescent_cells(size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    # Lobed nuclei under fluorescence would come near two of the phenotypes that are held out.
    cells, subject, _ = _whole_cells(size_px, rng, ("round", "oval", "indented"))
    return fluorescent(cells, rng), subject


def _multichannel_cells(size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    cells, subject, _ = _whole_cells(size_px, rng, ("round", "oval", "indented"))
    return fluorescent_channels(cells, int(rng.integers(2, 4)), rng), subject


def _transmitted_cells(phase_ring: bool, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    cells, subject, _ = _whole_cells(size_px, rng)
    return transmitted(cells, rng, phase_ring=phase_ring), subject


_DRAWN: tuple[tuple[str, _Drawn, float], ...] = (
    ("brightfield", partial(_thickness_map, _brightfield, 0.5), 0.18),
    ("brightfield", partial(_transmitted_cells, False), 0.20),
    ("phase contrast", partial(_thickness_map, _phase_contrast, 0.0), 0.03),
    ("phase contrast", partial(_transmitted_cells, True), 0.09),
    ("fluorescence", partial(_thickness_map, _fluorescence, 0.0), 0.08),
    ("fluorescence", _fluorescent_cells, 0.06),
    ("multichannel fluorescence", _multichannel_cells, 0.10),
    ("stained", partial(_thickness_map, _stained, 0.0), 0.02),
    ("stained", _stained_cells, 0.20),
    ("interference contrast", partial(_thickness_map, _interference_contrast, 0.0), 0.04),
)
"""Kinds of simulated pictures: name, how it is drawn, share."""
