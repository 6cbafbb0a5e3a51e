"""What users are written at a path of their own: whole, or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthmix.service_kit.errors import AlreadyExists


def check_free(out: Path) -> None:
    """Raises AlreadyExists for a path at which something is."""
    if out.exists() or out.is_symlink():
        raise AlreadyExists(f"out: {str(out)!r} exists; give another path, or move what is there", reason="OUT_EXISTS")


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """Yields a path at which to make a file or folder, which is moved to `out` once it is there; else nothing is left.

    Its parent is for whatever else has to be written for it.

    Raises:
        AlreadyExists: Something has come to be at `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that moving it is one step.
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:100]}.", dir=out.parent) as scratch:
        made = Path(scratch) / f"made{out.suffix}"
        yield made
        check_free(out)
        made.rename(out)
