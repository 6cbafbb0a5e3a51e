"""Whole cells with outline, nucleus, granules and vacuoles, drawn as maps of what a microscope would find where.

`pretraining.looks` makes pictures of these maps. What varies is drawn from wide ranges, and nothing here describes a
real cell type: what a base model has to know is that a cell has an outline with a nucleus inside it, that granules are
in the cytoplasm, and that neighbours touch, overlap or keep apart.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

REFERENCE_PX = 64
"""Lengths are pixels of a field drawn at this size; others scale them."""

NUCLEI = ("round", "oval", "indented", "bilobed", "segmented")
_MOST_LOBES = 5
_HARMONICS = np.arange(2, 7)
_MOST_CELLS = 60
_SHARPNESS = 14.0
"""Of a nucleus's inner corners, in shares of the cell's radius."""


@dataclass(frozen=True)
class CellKind:
    """What the cells of a field have in common; lengths in pixels of a 64-pixel field."""

    radius_px: float
    elongation: float
    """Long over short half axis, at least 1."""
    roughness: float
    """Relative amplitude of the outline's bumps, 0 to about 0.3."""
    processes: int
    """Pointed protrusions of a spread cell."""
    flatness: float
    """0: a dome; 1: a plate."""
    nucleus: str
    """One of `NUCLEI`, or "none"."""
    nucleus_share: float
    """The nucleus's radius over the cell's."""
    chromatin: float
    """Contrast of the nucleus's texture, 0 to 1."""
    granule_px: float
    granule_density: float
    """Share of the cytoplasm that granules cover, 0 to about 0.5."""
    vacuole_density: float
    """The same of vacuoles."""


@dataclass(frozen=True)
class CellMaps:
    """Where which part of the cells is: float32, shape (S, S), 0 to 1, but more where cells overlap."""

    body: np.ndarray
    """Thickness."""
    rim: np.ndarray
    """The outline, a line of a pixel or two."""
    nucleus: np.ndarray
    chromatin: np.ndarray
    """Deviation of the nucleus's density from its mean, about -1 to 1, 0 outside."""
    granules: np.ndarray
    vacuoles: np.ndarray


def draw_kind(rng: np.random.Generator, nuclei: tuple[str, ...] = NUCLEI) -> CellKind:
    """Draws a kind of cell whose nucleus is one of `nuclei`."""
    spread = rng.random() < 0.3
    granular = rng.random() < 0.5
    return CellKind(
        radius_px=float(np.exp(rng.uniform(np.log(6.0), np.log(22.0)))),
        elongation=1.0 + float(rng.exponential(0.7 if spread else 0.15)),
        roughness=float(rng.uniform(0.0, 0.2 if spread else 0.08)),
        processes=int(rng.integers(0, 5)) if spread else 0,
        flatness=float(rng.uniform(0.0, 0.9)),
        nucleus=str(rng.choice(nuclei)),
        nucleus_share=float(rng.uniform(0.3, 0.5) if spread else rng.uniform(0.4, 0.85)),
        chromatin=float(rng.uniform(0.0, 1.0)),
        granule_px=float(rng.uniform(0.5, 1.4)),
        granule_density=float(rng.uniform(0.05, 0.5)) if granular else 0.0,
        vacuole_density=float(rng.uniform(0.02, 0.15)) if rng.random() < 0.2 else 0.0,
    )


def draw_cells(
    kind: CellKind, centres: np.ndarray, size_px: int, rng: np.random.Generator, *, touching: bool
) -> CellMaps:
    """Draws cells of one kind, each somewhat different.

    Args:
        kind: What they have in common.
        centres: Shape (N, 2), rows and columns in pixels of the picture; N may be 0.
        size_px: Side of the picture.
        rng: Source of randomness.
        touching: Whether a cell ends where a neighbour begins, as in a tissue, or lies over it, as on a slide.
    """
    scale = size_px / REFERENCE_PX
    if len(centres) == 0:
        return CellMaps(**{part.name: np.zeros((size_px, size_px), np.float32) for part in fields(CellMaps)})
    count = len(centres)
    radius = scale * kind.radius_px * np.exp(rng.normal(0.0, 0.12, size=count))
    rows, columns = np.mgrid[:size_px, :size_px].astype(np.float32)
    angle = rng.uniform(0.0, 2.0 * np.pi, size=count)
    stretch = np.sqrt(1.0 + (kind.elongation - 1.0) * np.exp(rng.normal(0.0, 0.3, size=count)))
    y, x = rows - _each(centres[:, 0]), columns - _each(centres[:, 1])
    along = (_each(np.cos(angle)) * x + _each(np.sin(angle)) * y) / _each(radius)
    across = (_each(np.cos(angle)) * y - _each(np.sin(angle)) * x) / _each(radius)

    # 1 at a cell's centre, 0 at its outline, in shares of its radius
    level = 1.0 - _distance_in_outlines(along / _each(stretch), across * _each(stretch), kind, rng)
    if touching and count > 1:
        best, second = np.sort(level, axis=0)[[-1, -2]]
        level = np.minimum(level, 0.5 * (level - np.where(level == best, second, best)) + 0.02)
    edge_px = level * _each(radius)
    inside = _step(edge_px, 0.45 * scale)
    dome = np.sqrt(np.clip(1.0 - np.clip(1.0 - level, 0.0, 1.0) ** 2, 0.0, None))
    body = inside * (kind.flatness + (1.0 - kind.flatness) * dome)
    rim = np.exp(-((edge_px / (0.8 * scale)) ** 2))

    nucleus = np.zeros_like(body)
    if kind.nucleus != "none":
        off_centre = rng.normal(0.0, 0.12, size=(2, count))
        depth = _depth_in_nucleus(along - _each(off_centre[0]), across - _each(off_centre[1]), kind, rng)
        nucleus = _step(depth * _each(radius), 0.45 * scale) * inside
    cytoplasm = (inside * (1.0 - nucleus)).max(axis=0)
    whole_nucleus = nucleus.max(axis=0)
    texture = _grain(size_px, scale * rng.uniform(0.6, 2.0), rng)
    return CellMaps(
        body=body.max(axis=0) if touching else body.sum(axis=0),
        rim=rim.max(axis=0),
        nucleus=whole_nucleus,
        chromatin=kind.chromatin * np.clip(texture, -2.0, 2.0) / 2.0 * whole_nucleus,
        granules=_spots(size_px, scale * kind.granule_px, kind.granule_density, rng) * cytoplasm,
        vacuoles=_spots(size_px, scale * rng.uniform(1.2, 2.5), kind.vacuole_density, rng) * cytoplasm,
    )


def place_cells(count: int, size_px: int, rng: np.random.Generator, *, centred: bool = False) -> np.ndarray:
    """Spreads `count` centres (N, 2) over the field and somewhat beyond, the first near its middle if `centred`.

    Each is the farthest from the others of some candidates (Mitchell, 1991): random, without clumps.
    """
    centres = np.empty((0, 2))
    for _ in range(min(count, _MOST_CELLS)):
        candidates = rng.uniform(-0.15, 1.15, size=(6, 2)) * size_px
        if len(centres) == 0:
            chosen = (0.5 + rng.normal(0.0, 0.05, size=2)) * size_px if centred else candidates[0]
        else:
            gaps = np.linalg.norm(candidates[:, None] - centres[None], axis=-1).min(axis=1)
            chosen = candidates[np.argmax(gaps)]
        centres = np.concatenate([centres, chosen[None]])
    return centres


def _each(values: np.ndarray) -> np.ndarray:
    """A value a cell (N,), to be spread over the cell's picture."""
    return values.astype(np.float32)[:, None, None]


def _step(distance_px: np.ndarray, softness_px: float) -> np.ndarray:
    """0 below 0, 1 above it, with a soft edge."""
    return 1.0 / (1.0 + np.exp(-np.clip(distance_px / softness_px, -30.0, 30.0)))


def _distance_in_outlines(
    along: np.ndarray, across: np.ndarray, kind: CellKind, rng: np.random.Generator
) -> np.ndarray:
    """Distance from each cell's centre, 1 at its outline; (N, S, S) in and out."""
    count = len(along)
    theta = np.arctan2(across, along)
    outline = np.ones_like(theta)
    for harmonic in _HARMONICS:
        amplitude = kind.roughness * rng.normal(0.0, 1.5 / harmonic, size=count)
        outline += _each(amplitude) * np.cos(harmonic * theta + _each(rng.uniform(0.0, 2.0 * np.pi, size=count)))
    for _ in range(kind.processes):
        length, width = rng.uniform(0.2, 1.0, size=count), rng.uniform(0.12, 0.3, size=count)
        towards = theta - _each(rng.uniform(0.0, 2.0 * np.pi, size=count))
        outline += _each(length) * np.exp((np.cos(towards) - 1.0) / _each(width) ** 2)
    distance: np.ndarray = np.hypot(along, across) / np.clip(outline, 0.35, None)
    return distance


def _depth_in_nucleus(along: np.ndarray, across: np.ndarray, kind: CellKind, rng: np.random.Generator) -> np.ndarray:
    """How deep inside its nucleus a place is, in radii of the cell, below 0 outside; (N, S, S) in and out."""
    count, share = len(along), kind.nucleus_share
    size = share * np.exp(rng.normal(0.0, 0.08, size=count))
    if kind.nucleus in ("round", "oval", "indented"):
        longer = 1.0 if kind.nucleus == "round" else np.sqrt(rng.uniform(1.3, 1.9))
        depth = _each(size) - np.hypot(along / longer, across * longer)
        if kind.nucleus == "indented":
            bite = _each(size * rng.uniform(0.4, 0.8, size=count))
            bitten = np.hypot(along, across - _each(size * rng.uniform(0.8, 1.1, size=count))) - bite
            depth = -_smooth_most(np.stack([-depth, -bitten]), _SHARPNESS)
        return depth
    lobes = 2 if kind.nucleus == "bilobed" else int(rng.integers(3, _MOST_LOBES + 1))
    # On an arc, each lobe touching the next: a smooth union leaves a bridge between them.
    lobe = size / lobes**0.6
    arc = rng.uniform(0.9, 1.25, size=count) * 2.0 * lobe
    bend = rng.uniform(0.3, 1.1, size=count) if lobes > 2 else np.zeros(count)
    heading = rng.uniform(0.0, 2.0 * np.pi, size=count)[:, None] + bend[:, None] * np.arange(lobes)
    places = np.cumsum(arc[:, None, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1), axis=1)
    places -= places.mean(axis=1, keepdims=True)
    radii = lobe[:, None] * np.exp(rng.normal(0.0, 0.15, size=(count, lobes)))
    depths = np.stack(
        [
            _each(radii[:, number])
            - np.hypot(along - _each(places[:, number, 0]), across - _each(places[:, number, 1]))
            for number in range(lobes)
        ]
    )
    return _smooth_most(depths, _SHARPNESS)


def _smooth_most(values: np.ndarray, sharpness: float) -> np.ndarray:
    """The greatest along the first axis, rounded where two are near each other."""
    top = values.max(axis=0)
    most: np.ndarray = top + np.log(np.exp(sharpness * (values - top)).sum(axis=0)) / sharpness
    return most


def _grain(size_px: int, grain_px: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1."""
    grain = ndimage.gaussian_filter(rng.normal(0.0, 1.0, size=(size_px, size_px)), grain_px, mode="wrap")
    deviation: np.ndarray = (grain - grain.mean()) / grain.std()
    return deviation


def _spots(size_px: int, radius_px: float, density: float, rng: np.random.Generator) -> np.ndarray:
    """Round spots of about one radius that cover a share `density` of the field."""
    hits = rng.random((size_px, size_px)) < density / (np.pi * radius_px**2)
    weights = np.where(hits, rng.uniform(0.5, 1.0, size=hits.shape), 0.0)
    spread = ndimage.gaussian_filter(weights, 0.6 * radius_px, mode="wrap") * (2.0 * np.pi * (0.6 * radius_px) ** 2)
    covered: np.ndarray = np.clip(spread, 0.0, 1.0)
    return covered
