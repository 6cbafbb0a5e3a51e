"""The real images that tests and benchmarks read: where they lie, and how their groups are known."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MITOCHECK_SIX = ("Apoptosis", "Binuclear", "Interphase", "OutOfFocus", "Polylobed", "Prometaphase")
"""The six phenotypes that the built-in base model never saw, sorted."""
PLATE = r"(?P<group>[^/]+?)___"
"""Of mitocheck."""
FIELD = r"(?P<group>(293A|HT1080)-\d{6})"
"""Of hek_ht1080."""


def real_images(folder: str) -> Path:
    """A folder of them. A test whose machine hasn't got it is skipped, and says so."""
    path = DATA / folder
    if not path.is_dir():
        pytest.skip(f"the real images aren't here: {path}")
    return path
