"""The closed list of the pixels that become 8-bit RGB, and what is said of all others.

Nothing is dropped or taken for something else: a file whose pixels stand in no row here is refused by what it is.
"""

from dataclasses import dataclass

from synthmix.service_kit.errors import InvalidArgument

GREY, INVERTED_GREY, PALETTE, COLOUR, CMYK = "grey", "inverted grey", "palette", "colour", "CMYK"
UNSIGNED, SIGNED, FLOATING, COMPLEX = "unsigned", "signed", "floating-point", "complex"
STRAIGHT, PREMULTIPLIED, KEY = "straight", "premultiplied", "key"


@dataclass(frozen=True)
class PixelKind:
    """What the pixels of an image are, as its file declares them.

    Attributes:
        format: PNG, JPEG, TIFF, BMP or WebP.
        photometric: One of the constants above, or another name that says what it is.
        samples: Numbers a pixel, those of transparency included.
        bits: Of each sample; several if they differ.
        alpha: Whether the last sample is transparency, and which; KEY if one value or palette entry is transparent.
        sample_format: One of the constants above, or another name.
    """

    format: str
    photometric: str
    samples: int
    bits: int | tuple[int, ...]
    alpha: str = ""
    sample_format: str = UNSIGNED


_BITS: dict[tuple[str, str, int, str], tuple[int, ...]] = {
    ("PNG", GREY, 1, ""): (1, 2, 4, 8, 16),
    ("PNG", GREY, 1, KEY): (8,),
    ("PNG", GREY, 2, STRAIGHT): (8,),
    ("PNG", PALETTE, 1, ""): (1, 2, 4, 8),
    ("PNG", PALETTE, 1, KEY): (1, 2, 4, 8),
    ("PNG", COLOUR, 3, ""): (8,),
    ("PNG", COLOUR, 3, KEY): (8,),
    ("PNG", COLOUR, 4, STRAIGHT): (8,),
    ("JPEG", GREY, 1, ""): (8,),
    ("JPEG", COLOUR, 3, ""): (8,),
    ("JPEG", CMYK, 4, ""): (8,),
    ("TIFF", GREY, 1, ""): (1, 2, 4, 8, 10, 12, 14, 16),
    ("TIFF", GREY, 2, STRAIGHT): (8,),
    ("TIFF", GREY, 2, PREMULTIPLIED): (8,),
    ("TIFF", INVERTED_GREY, 1, ""): (1, 2, 4, 8),
    ("TIFF", PALETTE, 1, ""): (1, 2, 4, 8),
    ("TIFF", COLOUR, 3, ""): (8,),
    ("TIFF", COLOUR, 4, STRAIGHT): (8,),
    ("TIFF", COLOUR, 4, PREMULTIPLIED): (8,),
    ("TIFF", CMYK, 4, ""): (8,),
    ("BMP", PALETTE, 1, ""): (1, 4, 8),
    ("BMP", COLOUR, 3, ""): (5, 8),
    ("BMP", COLOUR, 4, STRAIGHT): (8,),
    ("WebP", COLOUR, 3, ""): (8,),
    ("WebP", COLOUR, 4, STRAIGHT): (8,),
}
"""(format, photometric interpretation, samples, transparency) -> bits a sample. All are unsigned integers."""

COLOURS = {GREY: 1, INVERTED_GREY: 1, PALETTE: 1, COLOUR: 3, CMYK: 4}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_SHOWN = {COLOUR: "RGB", GREY: "grey", PALETTE: "a palette image", CMYK: "CMYK", INVERTED_GREY: "grey"}
_CHOOSE = "choose one by --channel, or up to three as red, green and blue"
_CONVERT = "save it as 8-bit grey or RGB, or as unsigned 16-bit grey"


def check_kind(kind: PixelKind) -> None:
    """Raises InvalidArgument, saying what it is and what to do, if the pixels are of no kind in the table."""
    bits = _BITS.get((kind.format, kind.photometric, kind.samples, kind.alpha), ())
    if kind.sample_format == UNSIGNED and kind.bits in bits:
        return
    raise refused(*_what_it_is(kind))


def channel_can_be_read(kind: PixelKind) -> bool:
    """Whether one sample of it, taken alone, is unsigned grey of up to 16 bits."""
    return (
        kind.photometric in (GREY, COLOUR)
        and not kind.alpha
        and kind.sample_format == UNSIGNED
        and kind.bits in _BITS["TIFF", GREY, 1, ""]
    )


def refused(problem: str, remedy: str, reason: str = "IMAGE_UNSUPPORTED") -> InvalidArgument:
    """An error about a file that its caller names in front of it."""
    return InvalidArgument(f"{problem}; {remedy}", reason=reason)


def damaged(problem: object) -> InvalidArgument:
    """An error about bytes that are not what their format says. What a library or the file says is bounded."""
    said = " ".join(str(problem).split())
    return refused(
        f"is damaged or truncated ({repr(said[:120])[1:-1]}{'...' if len(said) > 120 else ''})",
        "export or copy it again",
        "IMAGE_UNREADABLE",
    )


def _what_it_is(kind: PixelKind) -> tuple[str, str]:
    bits = kind.bits
    if kind.sample_format != UNSIGNED:
        return f"holds {kind.sample_format} pixels of {_bits(bits)}", _CONVERT + ", by one scale for all images"
    if isinstance(bits, tuple):
        return f"has channels of different depths ({', '.join(map(str, bits))} bits)", _CONVERT
    if kind.photometric not in COLOURS:
        return f"holds {kind.photometric}", _CONVERT
    if kind.alpha == KEY:
        return f"is {_SHOWN[kind.photometric]} of {_bits(bits)} with a transparent colour", _CONVERT
    if kind.alpha:
        extra = kind.samples - COLOURS[kind.photometric] - 1
        if extra:
            return f"is {_SHOWN[kind.photometric]} with transparency and {_extra(extra)}", _CHOOSE
        return f"is {_SHOWN[kind.photometric]} with transparency, of {_bits(bits)} a channel", _CONVERT
    extra = kind.samples - COLOURS[kind.photometric]
    if extra < 0:
        return f"says that it is {_SHOWN[kind.photometric]}, and has {kind.samples} channels", _CONVERT
    if kind.photometric == GREY and extra:
        count = _NUMBERS.get(kind.samples, f"{kind.samples}")
        return f"is a {count}-channel image of {_bits(bits)}", _CHOOSE
    if kind.photometric == COLOUR and extra:
        return f"is RGB of {_bits(bits)} with {_extra(extra)} not declared as transparency", _CHOOSE
    if extra:
        return f"is {_SHOWN[kind.photometric]} with {_extra(extra)}", _CONVERT
    if kind.photometric == COLOUR and kind.format == "TIFF" and bits in _BITS["TIFF", GREY, 1, ""]:
        return f"is RGB of {_bits(bits)} a channel", "save it with 8 bits a channel, or compose it by --channel 1,2,3"
    if kind.photometric == INVERTED_GREY:
        return f"is grey of {_bits(bits)} in which 0 is white", "invert it, and save it as ordinary grey"
    each = " a channel" if kind.samples > 1 else ""
    return f"is {_SHOWN[kind.photometric]} of {_bits(bits)}{each}", _CONVERT


def _bits(bits: int | tuple[int, ...]) -> str:
    return f"{bits} bit{'' if bits == 1 else 's'}"


def _extra(count: int) -> str:
    return f"{_NUMBERS.get(count, count) if count > 1 else 'one'} extra channel{'' if count == 1 else 's'}"
