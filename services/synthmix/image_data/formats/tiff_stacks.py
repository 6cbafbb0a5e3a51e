"""What the pictures of a TIFF are: channels, slices and time points, by what OME, ImageJ and tifffile wrote into it.

A picture is what one page holds, or one of several that ImageJ and MetaMorph store behind a single page's header.
"""

import itertools
import json
import math
import operator
import re
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tifffile

from synthmix.image_data.formats.pixel_kinds import damaged, refused
from synthmix.service_kit.quantities import byte_size, plural

MOST_DESCRIPTION_CHARACTERS = 8 * 1024 * 1024
_MOST_AXES = 12


@dataclass(frozen=True)
class Stack:
    """The pictures of a file.

    Attributes:
        pictures: (planes, channels) numbers of pictures. Planes are counted through slices and then time points.
        what: What the file is, such as "an ImageJ stack".
        named: Whether the file says which pictures are channels. If not, each is a plane.
        in_one_page: Whether the pictures follow each other behind the header of the only page.
        signed: Whether unsigned values stand for signed ones.
    """

    pictures: np.ndarray
    what: str
    named: bool = True
    in_one_page: bool = False
    signed: bool = False


def read_stack(pages: Sequence[tifffile.TiffPage], kept: Sequence[int]) -> Stack:
    """What the pictures are.

    Args:
        pages: All pages of the file's chain.
        kept: The numbers of those that are not smaller copies of others.

    Returns:
        The stack; its pictures are positions in `kept`, unless they are in one page.

    Raises:
        InvalidArgument: The file is a part of a data set of several files, or says other things than it holds.
    """
    page = pages[kept[0]]
    for description in (page.description, page.description1):
        if len(description) > MOST_DESCRIPTION_CHARACTERS:
            raise refused(
                f"describes itself in more than {byte_size(MOST_DESCRIPTION_CHARACTERS)} of text",
                "save the image without its metadata",
            )
    if page.is_lsm:
        raise refused("is a Zeiss LSM file", "export it as OME-TIFF or TIFF")
    if 33445 in page.tags:  # MDFileTag
        raise refused("is a Molecular Dynamics GEL file, whose values are square roots", "export it as TIFF")
    if page.is_stk:
        return _metamorph(page, len(kept))
    if page.is_ome:
        return _ome(page, kept, len(pages))
    if page.is_imagej:
        return _imagej(page, len(kept))
    if page.is_shaped:
        return _shaped(page, len(kept))
    return _unnamed(len(kept), f"a TIFF of {plural(len(kept), 'page')}")


def _unnamed(count: int, what: str, *, in_one_page: bool = False) -> Stack:
    return Stack(np.arange(count)[:, None], what, named=count == 1, in_one_page=in_one_page)


def _arranged(sizes: Mapping[str, int]) -> np.ndarray:
    """(planes, channels) numbers of pictures that lie in the order of the axes, the last running fastest."""
    axes = "".join(sizes)
    numbers = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    # Slices run faster than time points, channels fastest; an axis that is not known runs slowest.
    wanted = [axis for axis in axes if axis not in "TZC"] + [axis for axis in "TZC" if axis in axes]
    return numbers.transpose([axes.index(axis) for axis in wanted]).reshape(-1, sizes.get("C", 1))


def _named(sizes: Mapping[str, int], what: str) -> str:
    words = {"C": "channel", "Z": "slice", "T": "time point"}
    parts = [plural(size, words.get(axis, "plane")) for axis, size in sizes.items() if size > 1]
    return f"{what} of {' and '.join(sorted(parts))}" if parts else what


def _metamorph(page: tifffile.TiffPage, page_count: int) -> Stack:
    planes = page.tags[33629].count if 33629 in page.tags else 1  # UIC2: an entry for each plane
    if planes > 1 and page_count == 1:
        return Stack(np.arange(planes)[:, None], f"a MetaMorph stack of {plural(planes, 'plane')}", in_one_page=True)
    return _unnamed(page_count, f"a TIFF of {plural(page_count, 'page')}")


def _imagej(page: tifffile.TiffPage, page_count: int) -> Stack:
    lines = [line.partition("=") for line in (page.imagej_description or "").splitlines()]
    meta = {key.strip(): value.strip() for key, _, value in lines}
    sizes = {
        axis: _size(meta.get(key, 1), f"ImageJ's {key}")
        for axis, key in (("T", "frames"), ("Z", "slices"), ("C", "channels"))
    }
    # A signed image is stored with 32,768 added, and a calibration that takes it away.
    signed = meta.get("cf") == "0" and meta.get("c0", "").startswith("-32768")
    stored = max(_size(meta.get("images", 1), "ImageJ's images"), 1)
    if page.samplesperpixel > 1 and sizes["C"] == page.samplesperpixel:
        sizes["C"] = 1  # Bio-Formats counts the samples of a page as channels
    said = math.prod(sizes.values())
    if page_count > 1:
        count = page_count
    elif said > 1 or page.samplesperpixel == 1:
        count = max(said, stored)
    else:
        count = 1
    in_one_page = count > 1 and page_count == 1
    if count != said:
        return Stack(
            np.arange(_within(page, count, in_one_page))[:, None],
            f"an ImageJ stack of {plural(count, 'image')}",
            named=False,
            in_one_page=in_one_page,
            signed=signed,
        )
    _within(page, count, in_one_page)
    return Stack(_arranged(sizes), _named(sizes, "an ImageJ stack"), in_one_page=in_one_page, signed=signed)


def _shaped(page: tifffile.TiffPage, page_count: int) -> Stack:
    """What tifffile wrote: the shape of an array whose last axes are a page's."""
    description = page.shaped_description or ""
    meta = json.loads(description) if description.startswith("{") else {"shape": re.findall(r"\d+", description)}
    shape = [_size(size, "shape") for size in meta["shape"]]
    if len(shape) > _MOST_AXES:
        raise damaged("its shape has too many axes")
    page_size = math.prod(page.shape)
    count, rest = divmod(math.prod(shape), page_size)
    outer_counts = list(itertools.accumulate(shape, operator.mul, initial=1))
    if rest or count not in outer_counts or (page_count > 1 and count != page_count):
        return _unnamed(page_count, f"a TIFF of {plural(page_count, 'page')}")
    in_one_page = count > page_count
    _within(page, count, in_one_page)
    axes = str(meta.get("axes", ""))
    outer = outer_counts.index(count)
    if len(axes) == len(set(axes)) == len(shape) and set(axes[:outer]) <= set("TZC"):
        sizes = dict(zip(axes[:outer], shape[:outer], strict=True))
        return Stack(_arranged(sizes), _named(sizes, "a TIFF stack"), in_one_page=in_one_page)
    return _unnamed(count, f"a TIFF of {plural(count, 'image' if in_one_page else 'page')}", in_one_page=in_one_page)


def _within(page: tifffile.TiffPage, count: int, in_one_page: bool) -> int:
    """The count, if the file is large enough for so many pictures behind its only page. Raises InvalidArgument."""
    if in_one_page:
        end = page.dataoffsets[0] + count * page.nbytes
        if not (page.is_final and page.compression == 1) or end > page.parent.filehandle.size:
            raise damaged(f"it says that it holds {plural(count, 'image')}, and does not")
    return count


def _ome(page: tifffile.TiffPage, kept: Sequence[int], page_count: int) -> Stack:
    description = page.description
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise damaged("its OME metadata declares entities")
    try:
        root = xml.etree.ElementTree.fromstring(description)
    except xml.etree.ElementTree.ParseError as error:
        raise damaged(f"its OME metadata: {error}") from error
    if _children(root, "BinaryOnly"):
        raise _one_of_several()
    images = _children(root, "Image")
    if len(images) != 1:
        raise refused(f"is an OME-TIFF of {plural(len(images), 'image')}", "save each image as a file of its own")
    listed = _children(images[0], "Pixels")
    if len(listed) != 1:
        raise damaged("its OME metadata lists no pixels")
    pixels = listed[0]
    channels = _children(pixels, "Channel")
    samples = {_size(channel.get("SamplesPerPixel", 1), "SamplesPerPixel") for channel in channels} or {1}
    if len(samples) > 1:
        raise refused("is an OME-TIFF whose channels have different numbers of samples", "save one channel of it")
    order = pixels.get("DimensionOrder", "XYZCT")
    if sorted(order) != sorted("XYZCT"):
        raise damaged(f"its OME metadata gives the order {order!r}")
    sizes = {axis: _size(pixels.get(f"Size{axis}", 1), f"Size{axis}") for axis in reversed(order) if axis not in "XY"}
    sizes["C"] = max(1, sizes["C"] // samples.pop())
    place = _places(pixels, sizes, page_count)
    what = _named(sizes, "an OME-TIFF")
    positions = {number: position for position, number in enumerate(kept)}
    if len(place) != math.prod(sizes.values()) or any(number not in positions for number in place.values()):
        raise damaged(f"it says that it is {what}, and has {plural(len(kept), 'page')}")
    if len(place) != len(kept):
        raise refused(
            f"is {what} with {plural(len(kept) - len(place), 'page')} that its metadata does not mention",
            "save it again",
        )
    numbers = np.array([positions[place[number]] for number in range(len(place))])
    return Stack(numbers[_arranged(sizes)], what)


def _places(pixels: xml.etree.ElementTree.Element, sizes: Mapping[str, int], page_count: int) -> dict[int, int]:
    """Number of a picture, in the order of the axes -> number of its page in the chain."""
    blocks = _children(pixels, "TiffData")
    files = {uuid.get("FileName", uuid.text) for block in blocks for uuid in _children(block, "UUID")}
    if len(files) > 1:
        raise _one_of_several()
    total = math.prod(sizes.values())
    if not blocks:
        return {number: number for number in range(min(total, page_count))}
    place: dict[int, int] = {}
    for block in blocks:
        first = 0
        for axis, size in sizes.items():
            first = first * size + int(block.get(f"First{axis}", 0))
        page = int(block.get("IFD", 0))
        count = int(block.get("PlaneCount", block.get("NumPlanes", 1 if "IFD" in block.attrib else total)))
        if page < 0 or first < 0:
            raise damaged("its OME metadata counts below 0")
        for step in range(max(0, min(count, page_count - page, total - first))):
            place[first + step] = page + step
    if len(set(place.values())) != len(place):
        raise damaged("its OME metadata gives one page to several planes")
    return place


def _one_of_several() -> Exception:
    return refused(
        "is one of several files of an OME-TIFF data set, and its planes are spread over them",
        "save each image as one file that holds all of it",
    )


def _children(element: xml.etree.ElementTree.Element, name: str) -> list[xml.etree.ElementTree.Element]:
    return [child for child in element if child.tag.rpartition("}")[2] == name]


def _size(value: object, name: str) -> int:
    try:
        size = int(str(value))
    except ValueError:
        size = 0
    if size < 1:
        raise damaged(f"{name} is {value!r}")
    return size
