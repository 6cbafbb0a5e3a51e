"""Whether folders are class folders, or may be something else: parts of a split, plates, images beside masks.

What cannot be told is asked, before anything is built on it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from synthmix.image_data.sources.user_text import compared, words
from synthmix.service_kit.errors import FieldViolation, InvalidArgument

MOST_NAMED = 6
MOST_SAMPLES = 100

_SPLIT_PART = re.compile(
    r"(the[ _-])?((x|y)[ _-]?)?"
    r"(train(ing|ed)?|tests?|testing|val|valid|validate|validation|eval|evaluation|hold[ _-]?out|dev|develop(ment)?"
    r"|fold|cv|split|part|subset|unseen|infer(ence)?|predict(ion)?|internal|external)"
    r"([ _-]?(set|data|dataset|images?|imgs?|split|part|fold|samples?))?([ _-]?(\d{1,3}|[a-e]))?"
)
_NEEDS_NUMBER = re.compile(r"(fold|cv|split|part|subset)")
# Tumours and test sets alike are internal or external: these say that they are parts only beside another part.
_PART_BESIDE_OTHERS = words("internal external")
_FORMATS = words("png jpg jpeg tif tiff bmp webp gif 8bit 16bit files")
_PICTURES = words("image images img imgs raw original originals picture pictures photo photos input inputs scan scans")
# Names of what is made from images. Those of the first set are no classes, whatever they lie beside.
_DERIVED = words(
    "mask masks annotations gt groundtruth ground_truth segmentations overlays thumbnails thumbs previews predictions"
    " heatmaps bboxes outlines"
)
_ANNOTATIONS = _DERIVED | words(
    "label labels labelled annotation annotated segmentation segmented seg segs overlay boundary boundaries contours"
    " bbox target targets thumbnail preview prediction preds heatmap probabilities output outputs results"
)
# What numbered folders are called that hold images of one group.
_GROUP_WORDS = words(
    "plate well chip slide patient donor subject animal mouse batch run exp experiment replicate rep day date week"
    " month session series scan site fov field position pos lab hospital p d"
)
_WELL = re.compile(r"[a-p][ _-]?\d{1,2}")


def is_split_part(name: str) -> bool:
    """Whether a folder is called as parts of a split are: train, Test, validation_set, fold_2, ..."""
    text = compared(name)
    if not _SPLIT_PART.fullmatch(text):
        return False
    return not _NEEDS_NUMBER.match(text) or text[-1].isdigit() or text in ("fold", "split")


def layout_doubt(paths: Sequence[str], group_span: Callable[[str], tuple[int, int] | None] | None) -> str:
    """What speaks against the top folders being the classes; "" if nothing does.

    Args:
        paths: Of the images, below what holds the class folders, each with at least one folder.
        group_span: Where the group pattern's group lies in a path; None if groups do not come from a pattern.
    """
    doubts = [
        doubt
        for doubt in (
            _split_parts(paths, group_span),
            _beside_annotations(paths),
            _same_sub_folders(paths, group_span),
            _several_depths(paths),
        )
        if doubt
    ]
    return ", and ".join(doubts[:2])


def doubtful_layout(field: str, doubt: str) -> InvalidArgument:
    """The refusal of a source whose layout is in doubt."""
    return InvalidArgument(
        f"{field}: {doubt}; give the folder whose sub-folders are the classes, or a manifest (a CSV file with the "
        "columns path and label), or say with --yes (accept_layout) that the top folders are the classes",
        reason="LAYOUT_DOUBTFUL",
        violations=[FieldViolation(field, doubt)],
    )


def _tops(paths: Sequence[str]) -> dict[str, set[str]]:
    """The sub-folders of each top folder."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        parts = PurePosixPath(path).parts
        found[parts[0]].update(parts[1:2] if len(parts) > 2 else ())
    return found


def _split_parts(paths: Sequence[str], group_span: Callable[[str], tuple[int, int] | None] | None) -> str:
    tops = _tops(paths)
    named = _parts(tops)
    below = {sub for top in named for sub in tops[top]}
    single = len(named) == 1 and below and not _are_groups(below) and not _groups_lie_below(paths, group_span)
    if len(named) > 1 or single:
        return f"the top folders {_listed(named)} are named like parts of a split, not like classes"
    inside = _parts({sub for subs in tops.values() for sub in subs})
    if len(inside) > 1:
        return (
            f"the sub-folders {_listed(inside)} are named like parts of a split, which SynthMix makes itself, by group"
        )
    return ""


def _parts(names: Iterable[str]) -> list[str]:
    parts = sorted(name for name in names if is_split_part(name))
    return [] if all(compared(name) in _PART_BESIDE_OTHERS for name in parts) else parts


def _beside_annotations(paths: Sequence[str]) -> str:
    folders = {PurePosixPath(path).parts[:-1] for path in paths}
    names = {_plain(part): part for parts in folders for part in parts}
    annotations = sorted(names[name] for name in names if name in _ANNOTATIONS)
    pictures = sorted(names[name] for name in names if name in _PICTURES)
    if annotations and pictures:
        return (
            f"the folders {_listed(pictures)} and {_listed(annotations)} are named like images and their annotations, "
            "and masks would be taken for images"
        )
    for depth in range(max(map(len, folders), default=0)):
        beside = {_plain(parts[depth]): parts[depth] for parts in folders if len(parts) > depth}
        derived = sorted(beside[name] for name in beside if name in _DERIVED)
        # A mask beside none: classes of faces.
        others = [name for name in beside if name not in _DERIVED and "mask" not in name]
        if derived and others:
            return (
                f"the folders {_listed(derived)} are named like what is made from images, not like classes, and would "
                "be taken for images"
            )
    return ""


def _plain(name: str) -> str:
    """A folder's name with one separator, and without the formats that some add."""
    words = [word for word in re.split(r"[ _.-]+", compared(name)) if word]
    return "_".join([word for word in words if word not in _FORMATS] or words)


def _same_sub_folders(paths: Sequence[str], group_span: Callable[[str], tuple[int, int] | None] | None) -> str:
    tops = _tops(paths)
    above = Counter(sub for subs in tops.values() for sub in subs)
    shared = {sub for sub, count in above.items() if count > 1}
    if len(tops) < 2 or not shared or 2 * len(shared) < len(above) or _groups_lie_below(paths, group_span):
        return ""
    tops_are_groups = _are_series(set(tops)) and _named_as_groups(set(tops), shared)
    if not tops_are_groups and _are_groups(shared):
        return ""
    # One sub-folder alone, as alpha/images and beta/images have it, cannot be the classes; but it can be the only
    # class of several plates.
    if len(above) < 2 and (not tops_are_groups or _plain(next(iter(shared))) in _PICTURES | _FORMATS):
        return ""
    return (
        f"the top folders {_listed(sorted(tops))} have the same sub-folders {_listed(sorted(shared))}, so that the "
        "classes may be the sub-folders"
    )


def _named_as_groups(tops: set[str], below: set[str]) -> bool:
    """Whether numbered top folders may be groups: plate1 and plate2, or dates, but not dose1 and dose2.

    Bare numbers may be either; with wells or plates below them, they are classes.
    """
    stems = {_stem(name) for name in tops}
    if any(stems):
        return stems <= _GROUP_WORDS
    dates = all(sum(character.isdigit() for character in name) > 5 for name in tops)
    return dates or not all(_WELL.fullmatch(compared(name)) or _stem(name) in _GROUP_WORDS for name in below)


def _stem(name: str) -> str:
    """plate of Plate_01."""
    return "".join(character for character in compared(name) if character.isalpha())


def _several_depths(paths: Sequence[str]) -> str:
    by_depth: dict[int, str] = {}
    for path in paths:
        by_depth.setdefault(len(PurePosixPath(path).parts), path)
    if len(by_depth) < 2:
        return ""
    shallow, deep = by_depth[min(by_depth)], by_depth[max(by_depth)]
    return f"images lie at several depths, such as {shallow!r} and {deep!r}"


def _groups_lie_below(paths: Sequence[str], group_span: Callable[[str], tuple[int, int] | None] | None) -> bool:
    """Whether the group pattern finds its group in the sub-folders: then they are groups, by the user's word."""
    if group_span is None:
        return False
    samples = {tuple(PurePosixPath(path).parts[:2]): path for path in reversed(paths) if path.count("/") > 1}
    for path in list(samples.values())[:MOST_SAMPLES]:
        top, sub = PurePosixPath(path).parts[:2]
        span = group_span(path)
        if span is None or span[0] >= len(top) + 1 + len(sub) or span[1] <= len(top) + 1:
            return False
    return bool(samples)


def _are_groups(names: set[str]) -> bool:
    """Whether folders are named as plates, wells and dates are: each with a number."""
    return all(any(character.isdigit() for character in name) for name in names)


def _are_series(names: set[str]) -> bool:
    """Whether folders differ in their numbers alone, as plate1 and plate2 do."""
    return len(names) > 1 and _are_groups(names) and len({re.sub(r"\d+", "", compared(name)) for name in names}) == 1


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(repr(name) for name in names[:MOST_NAMED]) + more
