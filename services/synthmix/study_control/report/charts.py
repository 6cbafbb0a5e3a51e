"""Charts as inline SVG, drawn element by element so that no text of a user's can become markup.

Colours come from the page's style sheet by class (`s0` to `s5` for series, `control`, `reference`), which is
how charts follow light, dark and print. A chart is drawn for a width in pixels; the page holds a wide and a
narrow one.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from xml.etree import ElementTree

from markupsafe import Markup

from synthmix.api.evaluations.v1.evaluations_pb2 import Comparison, Estimate, MixtureKind, MixtureResult
from synthmix.study_control.report import formatting
from synthmix.study_control.report.data import LossPoint

SERIES_COLOURS = 6
FONT_PX = 13
# Beyond so many series, single seeds would hide one another.
_MOST_SERIES_WITH_SEEDS = 3
# Closer neighbours have no whiskers in the ratio curve; the forest plot has all.
_LEAST_WHISKER_GAP_PX = 6.0
_MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class LegendItem:
    """A series of the ratio curve: its name, and its mark as SVG."""

    name: str
    mark: Markup


@dataclass(frozen=True)
class _Series:
    """Mixtures that one line connects."""

    name: str
    style: str
    marker: str
    dashed: bool
    members: tuple[MixtureResult, ...]

    @property
    def mixtures(self) -> list[MixtureResult]:
        """Those with a ratio, by rising ratio; the line begins at real only."""
        found = [result for result in self.members if result.mixture.HasField("ratio")]
        return sorted(found, key=lambda result: result.mixture.ratio)

    @property
    def without_ratio(self) -> list[MixtureResult]:
        """The others: synthetic only, or a control of one size."""
        return [result for result in self.members if not result.mixture.HasField("ratio")]


@dataclass(frozen=True)
class _Scale:
    """Maps values to pixels linearly."""

    low: float
    high: float
    at_low_px: float
    at_high_px: float

    def __call__(self, value: float) -> float:
        """Pixels of `value`."""
        share = (value - self.low) / (self.high - self.low)
        return self.at_low_px + share * (self.at_high_px - self.at_low_px)

    def clipped(self, value: float) -> float:
        """Pixels of `value`, or of the nearer end if it lies outside."""
        return self(min(max(value, self.low), self.high))

    def inside(self, values: Sequence[float]) -> list[float]:
        """Pixels of those of the values that do not lie outside."""
        return [self(value) for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class _Frame:
    """Where a chart's data lie, in pixels."""

    left: float
    right: float
    top: float
    floor: float


def ratio_curve(comparison: Comparison, width_px: int) -> Markup:
    """Balanced accuracy against the ratio, a line for each image set and one for the duplicated control.

    Points are means over seeds, whiskers their intervals, small dots single seeds. What has no ratio, such as
    synthetic only, stands apart on the right; far below the rest it is an arrow with its value, so that the rest
    stays readable. Ratios that would collide on a linear axis are spaced evenly, and the axis says so.
    """
    reference = next(m for m in comparison.mixtures if m.mixture.key == comparison.reference)
    series = _series(comparison)
    apart = [(one, result) for one in series for result in one.without_ratio]
    height = 360 if width_px >= 600 else 300
    edge = width_px - 14.0
    right = edge - (max(100.0, 18.0 * len(apart)) if apart else 0.0)
    frame = _Frame(left=56.0, right=right, top=14.0, floor=height - 54.0)

    svg = _svg(
        width_px,
        height,
        "Balanced accuracy by ratio of synthetic images",
        "; ".join(f"{m.mixture.label} {formatting.percent(m.balanced_accuracy.mean)}" for m in comparison.mixtures),
    )
    along = [reference, *(mixture for one in series for mixture in one.mixtures)]
    low, high = _extent(along, [mixture for _, mixture in apart], len(series))
    ticks = _ticks(100.0 * low, 100.0 * high, 5)
    y = _Scale(ticks[0] / 100.0, ticks[-1] / 100.0, frame.floor, frame.top)
    for tick in ticks:
        _line(svg, frame.left, y(tick / 100.0), edge, y(tick / 100.0), "grid")
        _text(svg, frame.left - 8.0, y(tick / 100.0) + 4.0, f"{tick:g} %", "end")
    level = y(reference.balanced_accuracy.mean)
    _line(svg, frame.left, level, frame.right, level, "level")

    # Series at one ratio stand side by side, by what the closest ratios allow; the ends need half of it.
    ratios = sorted({m.mixture.ratio for m in along})
    first, last, least_gap = frame.left + 18.0, frame.right - 24.0, 8.0 + 10.0 * len(series)
    step = min(16.0, 0.8 * _places(ratios, first, last, least_gap)[1] / max(len(series), 1))
    half = 0.5 * step * max(len(series) - 1, 0)
    places, _, to_scale = _places(ratios, first + half, last - half, least_gap)
    mode = _mode(comparison)
    title = mode.axis_title if mode else "synthetic images, %"
    if not to_scale:
        title = f"{title}; not to scale"
    _ratio_axis(svg, places, title, frame, width_px)

    with_whiskers = len(series) == 1 or step >= _LEAST_WHISKER_GAP_PX
    with_seeds = with_whiskers and len(series) <= _MOST_SERIES_WITH_SEEDS and comparison.seeds > 1
    start = (places[0.0], reference.balanced_accuracy)
    for index, one in enumerate(series):
        shift = index * step - half
        group = ElementTree.SubElement(svg, "g", {"class": one.style})
        points = [(places[m.mixture.ratio] + shift, m.balanced_accuracy) for m in one.mixtures]
        # Bands of several image sets would hide one another.
        if not one.dashed and sum(not other.dashed for other in series) == 1:
            _band(group, [start, *points], y)
        if points:
            line = [(x, y(estimate.mean)) for x, estimate in [start, *points]]
            _path(group, line, "dashed" if one.dashed else "curve")
        for x, estimate in points:
            _point(group, x, estimate, y, one.marker, with_whiskers, with_seeds)
    group = ElementTree.SubElement(svg, "g", {"class": "reference"})
    _point(group, *start, y, "square", True, with_seeds)
    if apart:
        _line(svg, frame.right + 8.0, frame.top, frame.right + 8.0, frame.floor, "divider")
        _without_ratio(svg, apart, y, replace(frame, left=frame.right + 16.0, right=edge), with_seeds)
    return _markup(svg)


def legend(comparison: Comparison) -> list[LegendItem]:
    """What the marks of the ratio curve mean, in the order in which they are drawn."""
    entries: list[tuple[str, str, str, str | None]] = [("real only", "reference", "square", None)]
    entries += [(s.name, s.style, s.marker, "dashed" if s.dashed else "curve") for s in _series(comparison)]
    items = []
    for name, style, marker, line in entries:
        svg = ElementTree.Element("svg", {"width": "30", "height": "14", "viewBox": "0 0 30 14", "aria-hidden": "true"})
        group = ElementTree.SubElement(svg, "g", {"class": style})
        if line is not None:
            _path(group, [(1.0, 7.0), (29.0, 7.0)], line)
        _marker(group, 15.0, 7.0, marker)
        items.append(LegendItem(name, _markup(svg)))
    return items


def forest_plot(comparison: Comparison, width_px: int) -> Markup:
    """Paired differences from real only with their intervals, in points; the margin's zone is shaded.

    Rows stand under the name of their series. A difference far outside the others' range, as synthetic only
    often is, ends in an arrow; its numbers are written in full.
    """
    series = _series(comparison)
    compared = [m for m in comparison.mixtures if m.HasField("difference")]
    chosen, mode = comparison.verdict.key, _mode(comparison)
    head_px, row_px, top, side = 30.0, 46.0, 26.0, 10.0
    floor = top + head_px * len(series) + row_px * len(compared)

    svg = _svg(
        width_px,
        round(floor + 48.0),
        "Differences of balanced accuracy from real only",
        "; ".join(f"{m.mixture.label} {_difference_text(m.difference)} points" for m in compared),
    )
    reach = [0.0, -1.5 * comparison.margin, 1.5 * comparison.margin]
    for one in [m for m in compared if m.mixture.kind != "synthetic_only"] or compared:
        reach += [one.difference.low, one.difference.high, one.difference.mean]
    ticks = _ticks(100.0 * min(reach), 100.0 * max(reach), 7 if width_px >= 600 else 4)
    x = _Scale(ticks[0] / 100.0, ticks[-1] / 100.0, side + 14.0, width_px - side - 14.0)

    _text(svg, side, top - 10.0, "← worse than real only", "start", "quiet")
    _text(svg, width_px - side, top - 10.0, "better →", "end", "quiet")
    start = top
    for each in series:
        group = ElementTree.SubElement(svg, "g", {"class": each.style})
        _line(group, side, start, width_px - side, start, "grid")
        _text(
            group,
            side,
            start + 20.0,
            _fitting(each.name, width_px - 2.0 * side),
            "start",
            "coloured",
            full=each.name,
        )
        start += head_px
        for mixture in [*each.mixtures, *each.without_ratio]:
            name, style = _short_label(mixture, mode), ""
            if mixture.mixture.key == chosen:
                name, style = f"★ {name}", "strong"
            _text(group, side, start + 14.0, name, "start", style)
            _text(group, width_px - side, start + 14.0, _difference_text(mixture.difference), "end", style)
            # Zone and zero leave the text's line free.
            lane = start + 20.0
            zone = (x.clipped(-comparison.margin), x.clipped(comparison.margin))
            _shape(group, "rect", "zone", x=zone[0], y=lane, width=zone[1] - zone[0], height=20.0)
            _line(group, x(0.0), lane, x(0.0), lane + 20.0, "zero")
            _difference(group, mixture.difference, x, lane + 10.0, each.marker)
            start += row_px
    for tick in ticks:
        _line(svg, x(tick / 100.0), floor, x(tick / 100.0), floor + 5.0, "axis")
        _text(svg, x(tick / 100.0), floor + 20.0, formatting.signed(tick), "middle")
    _line(svg, x.at_low_px, floor, x.at_high_px, floor, "axis")
    _text(svg, width_px / 2.0, floor + 40.0, "difference, points of balanced accuracy", "middle")
    return _markup(svg)


def loss_curve(points: Sequence[LossPoint], width_px: int, title: str = "Training loss") -> Markup:
    """A loss against images seen, small. Takes two points or more, in order."""
    height, left, bottom = 104, 68.0, 80.0
    losses = [point.loss for point in points]
    svg = _svg(width_px, height, title, f"From {losses[0]:.4g} to {losses[-1]:.4g}")
    least, greatest = min(losses), max(losses)
    # A constant loss is a flat line in the middle.
    pad = 0.0 if greatest > least else max(abs(greatest), 1e-12)
    y = _Scale(least - pad, greatest + pad, bottom - 4.0, 12.0)
    x = _Scale(points[0].images_seen, max(points[-1].images_seen, points[0].images_seen + 1), left, width_px - 10.0)
    group = ElementTree.SubElement(svg, "g", {"class": "s0"})
    _path(group, [(x(point.images_seen), y(point.loss)) for point in points], "thin")
    _line(svg, left, bottom, width_px - 10.0, bottom, "axis")
    _text(svg, left - 6.0, y(greatest) + 4.0, f"{greatest:.3g}", "end")
    if greatest > least:
        _text(svg, left - 6.0, y(least) + 4.0, f"{least:.3g}", "end")
    _text(svg, left, bottom + 18.0, formatting.count(points[0].images_seen), "start")
    _text(svg, width_px - 10.0, bottom + 18.0, f"{formatting.count(points[-1].images_seen)} images", "end")
    return _markup(svg)


def _ratio_axis(
    svg: ElementTree.Element, places: Mapping[float, float], title: str, frame: _Frame, width_px: int
) -> None:
    """Draws the axis of ratios; a label that would touch the one before it is left out."""
    _line(svg, frame.left, frame.floor, frame.right, frame.floor, "axis")
    occupied = -math.inf
    for ratio, place in places.items():
        label = formatting.ratio(ratio)
        if place - _text_px(label) / 2.0 >= occupied + 4.0:
            _line(svg, place, frame.floor, place, frame.floor + 5.0, "axis")
            _text(svg, place, frame.floor + 20.0, label, "middle")
            occupied = place + _text_px(label) / 2.0
    half = _text_px(title) / 2.0
    middle = min(max((frame.left + frame.right) / 2.0, half), width_px - half)
    _text(svg, middle, frame.floor + 42.0, title, "middle")


def _without_ratio(
    svg: ElementTree.Element,
    apart: Sequence[tuple[_Series, MixtureResult]],
    y: _Scale,
    frame: _Frame,
    with_seeds: bool,
) -> None:
    """Draws synthetic only and other mixtures without a ratio; an arrow and a number for what lies below the chart."""
    middle = (frame.left + frame.right) / 2.0
    _line(svg, frame.left, frame.floor, frame.right, frame.floor, "axis")
    only = all(mixture.mixture.kind == "synthetic_only" for _, mixture in apart)
    _text(svg, middle, frame.floor + 20.0, "synthetic only" if only else "no ratio", "middle")
    below = 0
    for index, (one, mixture) in enumerate(apart):
        x = frame.left + (index + 0.5) * (frame.right - frame.left) / len(apart)
        group = ElementTree.SubElement(svg, "g", {"class": one.style})
        estimate = mixture.balanced_accuracy
        if estimate.mean >= y.low:
            _point(group, x, estimate, y, one.marker, True, with_seeds)
        else:
            _marker(group, x, frame.floor - 8.0, "down")
            number = formatting.percent(estimate.mean)
            _text(group, middle, frame.floor - 20.0 - 16.0 * below, number, "middle", "coloured")
            below += 1


def _mode(comparison: Comparison) -> MixtureKind | None:
    """The kind of the mixtures that have a ratio and hold synthetic images."""
    return next((kind for kind in comparison.kinds if kind.axis_title), None)


def _series(comparison: Comparison) -> list[_Series]:
    """The lines of the ratio curve: image sets in the order of the results, then the controls."""
    image_sets = dict.fromkeys(m.mixture.image_set for m in comparison.mixtures if m.mixture.image_set)
    series = []
    for index, image_set in enumerate(image_sets):
        members = tuple(m for m in comparison.mixtures if m.mixture.image_set == image_set)
        # Markers change slower than colours: of two series alike in one, the other differs.
        marker = _MARKERS[(index + index // SERIES_COLOURS) % len(_MARKERS)]
        name = members[0].mixture.image_set_label
        series.append(_Series(name, f"s{index % SERIES_COLOURS}", marker, False, members))
    for index, kind in enumerate(kind for kind in comparison.kinds if kind.control):
        members = tuple(m for m in comparison.mixtures if m.mixture.kind == kind.name)
        series.append(_Series(kind.label, "control", _MARKERS[-1 - index % len(_MARKERS)], True, members))
    return series


def _short_label(result: MixtureResult, mode: MixtureKind | None) -> str:
    """A mixture's name under its series' name."""
    if mode is None or not result.mixture.HasField("ratio"):
        return str(result.mixture.label)
    name = f"{mode.label} {formatting.ratio(result.mixture.ratio)} %"
    return name if result.mixture.kind == mode.name else f"size of {name}"


def _places(
    ratios: Sequence[float], first_px: float, last_px: float, least_gap_px: float
) -> tuple[dict[float, float], float, bool]:
    """Where each ratio stands, the smallest distance of two, and whether they are to scale.

    They are if labels have room and neighbours are `least_gap_px` apart or more; if not, they are evenly
    spaced.
    """
    if len(ratios) == 1:
        return {ratios[0]: (first_px + last_px) / 2.0}, last_px - first_px, True
    scale = _Scale(ratios[0], ratios[-1], first_px, last_px)
    linear = [scale(ratio) for ratio in ratios]
    needed = [
        max((_text_px(formatting.ratio(a)) + _text_px(formatting.ratio(b))) / 2.0 + 6.0, least_gap_px)
        for a, b in pairwise(ratios)
    ]
    gaps = [b - a for a, b in pairwise(linear)]
    if all(gap >= need for gap, need in zip(gaps, needed, strict=True)):
        return dict(zip(ratios, linear, strict=True)), min(gaps), True
    step = (last_px - first_px) / (len(ratios) - 1)
    return {ratio: first_px + index * step for index, ratio in enumerate(ratios)}, step, False


def _extent(along: Sequence[MixtureResult], apart: Sequence[MixtureResult], series: int) -> tuple[float, float]:
    """The range of balanced accuracy to show: all of `along`, and of `apart` what is not far below."""

    def values(mixture: MixtureResult) -> list[float]:
        estimate = mixture.balanced_accuracy
        seeds = estimate.per_seed if series <= _MOST_SERIES_WITH_SEEDS else ()
        return [estimate.mean, estimate.low, estimate.high, *seeds]

    shown = [value for mixture in along for value in values(mixture)]
    span = max(max(shown) - min(shown), 0.02)
    far = min(shown) - 0.75 * span
    shown += [value for mixture in apart if mixture.balanced_accuracy.mean >= far for value in values(mixture)]
    # Room above and below for markers.
    pad = 0.05 * max(max(shown) - min(shown), 0.02)
    return max(min(shown) - pad, 0.0), min(max(shown) + pad, 1.0)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `most` of them."""
    raw = max(high - low, 1e-9) / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= raw)
    return [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _difference_text(difference: Estimate) -> str:
    """A difference and its interval, such as "+1.8 (+0.3 to +3.9)"."""
    return f"{formatting.points(difference.mean)} ({formatting.interval_points(difference)})"


def _difference(parent: ElementTree.Element, difference: Estimate, x: _Scale, y_px: float, marker: str) -> None:
    """Draws one difference: whisker and mark, or an arrow where they leave the chart."""
    _line(parent, x.clipped(difference.low), y_px, x.clipped(difference.high), y_px, "whisker")
    for end in x.inside((difference.low, difference.high)):
        _line(parent, end, y_px - 5.0, end, y_px + 5.0, "whisker")
    if difference.low < x.low:
        _marker(parent, x.at_low_px - 6.0, y_px, "left")
    if difference.high > x.high:
        _marker(parent, x.at_high_px + 6.0, y_px, "right")
    if x.low <= difference.mean <= x.high:
        _marker(parent, x(difference.mean), y_px, marker)


def _point(
    parent: ElementTree.Element,
    x_px: float,
    estimate: Estimate,
    y: _Scale,
    marker: str,
    with_whisker: bool,
    with_seeds: bool,
) -> None:
    """Draws a mean with its interval and, a little to the right, its seeds."""
    if with_whisker:
        _line(parent, x_px, y.clipped(estimate.low), x_px, y.clipped(estimate.high), "whisker")
        for end in y.inside((estimate.low, estimate.high)):
            _line(parent, x_px - 4.0, end, x_px + 4.0, end, "whisker")
    if with_seeds:
        for value in y.inside(estimate.per_seed):
            _shape(parent, "circle", "seed", cx=x_px + 7.5, cy=value, r=2.2)
    _marker(parent, x_px, y(estimate.mean), marker)


def _band(parent: ElementTree.Element, path: Sequence[tuple[float, Estimate]], y: _Scale) -> None:
    """Shades the intervals along a line."""
    outline = [(x, y.clipped(estimate.high)) for x, estimate in path]
    outline += [(x, y.clipped(estimate.low)) for x, estimate in reversed(path)]
    _shape(parent, "polygon", "band", points=_points(outline))


def _marker(parent: ElementTree.Element, x: float, y: float, marker: str) -> None:
    """Draws a mark of about 10 pixels around (x, y)."""
    if marker == "circle":
        _shape(parent, "circle", "marker", cx=x, cy=y, r=4.5)
        return
    corners = {
        "square": ((-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)),
        "triangle": ((0.0, -5.4), (5.2, 4.2), (-5.2, 4.2)),
        "diamond": ((0.0, -5.8), (5.0, 0.0), (0.0, 5.8), (-5.0, 0.0)),
        "down": ((-5.5, -4.0), (5.5, -4.0), (0.0, 6.0)),
        "left": ((4.0, -5.5), (4.0, 5.5), (-6.0, 0.0)),
        "right": ((-4.0, -5.5), (-4.0, 5.5), (6.0, 0.0)),
    }[marker]
    _shape(parent, "polygon", "marker", points=_points([(x + dx, y + dy) for dx, dy in corners]))


def _path(parent: ElementTree.Element, corners: Sequence[tuple[float, float]], style: str) -> None:
    """Draws a polyline."""
    _shape(parent, "polyline", style, points=_points(corners))


def _line(parent: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
    """Draws a straight line."""
    _shape(parent, "line", style, x1=x1, y1=y1, x2=x2, y2=y2)


def _shape(parent: ElementTree.Element, tag: str, style: str, **attributes: float | str) -> None:
    """Adds an element; numbers are rounded to a tenth of a pixel."""
    written = {name: value if isinstance(value, str) else _number(value) for name, value in attributes.items()}
    ElementTree.SubElement(parent, tag, {"class": style, **written})


def _text(
    parent: ElementTree.Element, x: float, y: float, text: str, anchor: str, style: str = "", full: str = ""
) -> None:
    """Adds text; where it was shortened, `full` shows on hovering."""
    attributes = {"x": _number(x), "y": _number(y), "text-anchor": anchor}
    element = ElementTree.SubElement(parent, "text", attributes | ({"class": style} if style else {}))
    element.text = text
    if full and full != text:
        ElementTree.SubElement(element, "title").text = full


def _text_px(text: str) -> float:
    """About how wide a text is; rather more than less."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return FONT_PX * (0.58 * (len(text) - wide) + wide)


def _fitting(text: str, room_px: float) -> str:
    """The text, or as much of it as there is room for and an ellipsis."""
    if _text_px(text) <= room_px:
        return text
    kept = len(text) - 1
    while kept > 0 and _text_px(text[:kept] + "…") > room_px:
        kept -= 1
    return text[:kept].rstrip() + "…"


def _svg(width_px: int, height_px: int, title: str, description: str) -> ElementTree.Element:
    """An empty chart with its name and, for readers who cannot see it, its content."""
    svg = ElementTree.Element(
        "svg",
        {
            "class": "chart",
            "role": "img",
            "width": str(width_px),
            "height": str(height_px),
            "viewBox": f"0 0 {width_px} {height_px}",
        },
    )
    ElementTree.SubElement(svg, "title").text = title
    ElementTree.SubElement(svg, "desc").text = description
    return svg


def _points(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in corners)


def _number(value: float) -> str:
    """A coordinate with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


def _markup(svg: ElementTree.Element) -> Markup:
    """The SVG's text, for a page: the tree has escaped all that came from outside."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
