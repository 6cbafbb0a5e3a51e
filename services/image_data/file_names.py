"""Which files of a folder or an archive are images. Only the standard library: the client imports it too."""

from pathlib import PurePosixPath

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MANIFEST_NAMES = ("manifest.csv", "manifest.parquet")

# Pictures in formats that aren't decoded. They are errors where a text file is merely passed over: a class
# whose images were all skipped, without a word, would give a study of something else.
_UNSUPPORTED_IMAGE_SUFFIXES = frozenset(
    (
        ".gif",
        ".svg",
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".jxl",
        ".ico",
        ".ppm",
        ".pgm",
        ".pnm",
        ".exr",
        ".raw",
        ".dng",
        ".psd",
        ".dcm",
        ".czi",
        ".nd2",
        ".lif",
        ".lsm",
        ".oib",
        ".oif",
        ".vsi",
        ".svs",
        ".ndpi",
        ".scn",
        ".mrxs",
        ".stk",
        ".zvi",
        ".ims",
        ".mrc",
        ".npy",
        ".npz",
        ".h5",
        ".hdf5",
    )
)
_SYSTEM_NAMES = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini"))


def is_image(path: str) -> bool:
    """Whether the name says that it is an image which SynthMix decodes."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def is_unsupported_image(path: str) -> bool:
    """Whether the name says that it is an image which SynthMix doesn't decode."""
    return PurePosixPath(path).suffix.lower() in _UNSUPPORTED_IMAGE_SUFFIXES


def is_hidden(path: str) -> bool:
    """Whether the file, or a folder above it, is hidden or the operating system's own."""
    return any(part.startswith(".") or part in _SYSTEM_NAMES for part in PurePosixPath(path).parts)
