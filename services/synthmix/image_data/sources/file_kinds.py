"""What a file of a source is, by its first bytes, and by its name where bytes cannot tell.

Only the standard library: the client imports it too.
"""

import re
from enum import StrEnum
from pathlib import PurePosixPath

from synthmix.image_data.sources.user_text import words

MANIFEST_NAMES = ("manifest.csv", "manifest.jsonl", "manifest.parquet")
LISTED_MANIFESTS = "manifest.csv, manifest.jsonl or manifest.parquet"
# What says captions of images in class folders, as in an ImageFolder of Hugging Face's datasets.
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
DECODED = "PNG, JPEG, TIFF, BMP or WebP"
HEAD_BYTES = 1024
"""How many of a file's first bytes are looked at."""


class Kind(StrEnum):
    """What a file is to an import."""

    IMAGE = "image"
    UNDECODED = "picture of a format that is not decoded"
    SYSTEM = "hidden file, or one of an operating system's own"
    OTHER = "file that is not an image"


# A file whose name says that it is an image, and whose bytes say nothing, is a damaged image, not another file.
_IMAGE_SUFFIXES = words(".png .apng .jpg .jpeg .jpe .jfif .jif .jfi .mpo .tif .tiff .btf .tf8 .bmp .dib .webp")
# Layouts inside TIFF whose first image is not what a microscope or a camera recorded, or not all of it.
_UNDECODED_INSIDE_TIFF = words(
    ".dng .nef .nrw .cr2 .arw .sr2 .pef .srw .orf .rw2 .3fr .iiq .lsm .stk .svs .ndpi .scn .vsi .qptiff .flex .bif"
)
_UNDECODED_INSIDE_JPEG = words(".mrxs .jps")  # a slide's overview; two pictures side by side
# Known by name: their first bytes are nobody's in particular, or those of a container that holds other things too.
_UNDECODED_SUFFIXES = (
    _UNDECODED_INSIDE_TIFF
    | _UNDECODED_INSIDE_JPEG
    | words(
        """
        .gif .svg .svgz .heic .heif .avif .jp2 .j2k .j2c .jpf .jpx .jxl .jxr .ico .icns .cur .ppm .pgm .pbm .pnm .pam
        .pfm .exr .hdr .raw .cr3 .raf .psd .psb .xcf .tga .pcx .sgi .dds .qoi .eps .emf .wmf .djvu
        .dcm .dicom .nii .nrrd .mha .mhd .mgz .czi .nd2 .lif .lof .oib .oif .oir .zvi .ims .ics .sld .mrc .dm3 .dm4
        .ser .fits .npy .npz .h5 .hdf5 .zarr .n5 .mat
        .avi .mp4 .m4v .mov .dv .mkv .webm .wmv .flv .fli .mpg .mpeg .mts .m2ts .3gp .ogv
        """
    )
)
_DECODED_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    *((signature, "TIFF") for signature in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS", "Photoshop"),
    (b"gimp xcf", "GIMP"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"ZISRAWFILE", "CZI"),
    (b"\xda\xce\xbe\x0a", "ND2"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"NRRD000", "NRRD"),
    (b"SIMPLE  =", "FITS"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"icns", "ICNS"),
    (b"ics_version", "ICS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media video"),
    (b"FLV\x01", "Flash video"),
    (b"\x00\x00\x01\xba", "MPEG video"),
    (b"\x00\x00\x01\xb3", "MPEG video"),
    (b"AT&TFORM", "DjVu"),
)
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
    b"crx ": "camera raw",
    b"qt  ": "QuickTime video",
    b"isom": "MP4 video",
    b"iso2": "MP4 video",
    b"mp41": "MP4 video",
    b"mp42": "MP4 video",
    b"M4V ": "MP4 video",
}
_SOUND_BRANDS = (b"M4A ", b"M4B ", b"M4P ", b"F4A ")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_FOLDER_FORMATS = {".zarr": "Zarr", ".n5": "N5"}
# Icon or cursor, how many, and of the first: width, height, colours, and a byte that is nought.
_ICON = re.compile(rb"\x00\x00[\x01\x02]\x00[\x01-\x40]\x00...\x00", re.DOTALL)
_EPS = re.compile(rb"%!PS-Adobe-\d\.\d +EPSF")
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)
_PNM = re.compile(rb"P[1-7FfHh]\s+(#|\d|WIDTH)")
_SVG = re.compile(rb"\A(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*<svg[\s>]", re.DOTALL)
_SYSTEM_NAMES = frozenset(("icon\r", "network trash folder", "temporary items", "system volume information")) | words(
    """
    __macosx __pycache__ thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini lost+found recycler recycled
    #recycle #snapshot ~snapshot
    @eadir @__thumb @recently-snapshot @recycle @sharebin @tmp @database @docker @upload_cache @transcode
    $recycle.bin $winreagent $windows.~bt $windows.~ws $sysreset $getcurrent $extend
    """
)
# What a check of a disk found, shadow copies, and a stream of NTFS that was copied as a file of its own.
_SYSTEM_NAME = re.compile(r"found\.\d{3}|@gmt-\d.*|@syno.*|.*:(zone\.identifier|encryptable)")
_SYSTEM_BEGINNINGS = (".", "~$")  # the second: open in an office program


def is_system(path: str) -> bool:
    """Whether the file, or a folder above it, is hidden or an operating system's or a file server's own."""
    return any(
        part.startswith(_SYSTEM_BEGINNINGS) or part in _SYSTEM_NAMES or _SYSTEM_NAME.fullmatch(part)
        for part in path.casefold().split("/")
    )


def claims_to_be_image(path: str) -> bool:
    """Whether the name alone says that it is a picture, decoded or not."""
    return _suffix(path) in _IMAGE_SUFFIXES | _UNDECODED_SUFFIXES


def kind_of(path: str, head: bytes) -> Kind:
    """What a file is.

    Args:
        path: Relative to the source, with slashes.
        head: Its first HEAD_BYTES bytes, or all of a shorter file.
    """
    if is_system(path):
        return Kind.SYSTEM
    if undecoded_format(path, head):
        return Kind.UNDECODED
    return Kind.IMAGE if decoded_format(head) or _suffix(path) in _IMAGE_SUFFIXES else Kind.OTHER


def undecoded_format(path: str, head: bytes) -> str:
    """The format of a picture that is not decoded, such as GIF; "" for all else."""
    parents = (PurePosixPath(part).suffix.lower() for part in path.split("/")[:-1])
    stored_as = next((_FOLDER_FORMATS[suffix] for suffix in parents if suffix in _FOLDER_FORMATS), "")
    if stored_as:
        return stored_as
    return _format_inside(path, head) if decoded_format(head) else _format_by_bytes(head) or _format_by_name(path)


def _format_inside(path: str, head: bytes) -> str:
    """The format that begins as one that is decoded does, and is not that."""
    suffix = _suffix(path)
    if head.startswith(b"II*\0") and head[8:11] == b"CR\x02":
        return "camera raw"
    if head[:2] in (b"II", b"MM") and suffix in _UNDECODED_INSIDE_TIFF:
        return suffix[1:].upper()
    return suffix[1:].upper() if head.startswith(b"\xff\xd8") and suffix in _UNDECODED_INSIDE_JPEG else ""


def _format_by_bytes(head: bytes) -> str:
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp" and head[8:12] not in _SOUND_BRANDS:
        return _BRANDS.get(head[8:12], "HEIF or MP4")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI video"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[208:212] == b"MAP ":
        return "MRC"
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "NIfTI"
    if head[512:520] == b"\x89HDF\r\n\x1a\n":
        return "HDF5"
    patterns = ((_PNM, "PNM"), (_SVG, "SVG"), (_EPS, "EPS"), (_ICON, "ICO"))
    return next((name for pattern, name in patterns if pattern.match(head)), "")


def _format_by_name(path: str) -> str:
    suffix = _suffix(path)
    inner = _suffix(path[: -len(suffix)]) if suffix in _COMPRESSED else ""
    if inner in _IMAGE_SUFFIXES | _UNDECODED_SUFFIXES:
        return f"{inner}{suffix}"[1:].upper()
    return suffix[1:].upper() if suffix in _UNDECODED_SUFFIXES else ""


def decoded_format(head: bytes) -> str:
    """Which of the formats that are decoded a file is, by its first bytes; "" if it is none of them."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:  # BM alone may begin a text
        return "BMP"
    return next((name for signature, name in _DECODED_SIGNATURES if head.startswith(signature)), "")


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
