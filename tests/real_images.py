"""The real images that tests and benchmarks read: where they lie, and how their groups are known."""

from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MITOCHECK_SIX = ("Apoptosis", "Binuclear", "Interphase", "OutOfFocus", "Polylobed", "Prometaphase")
"""The six phenotypes that the embedded base model never saw, sorted."""
PLATE = r"(?P<group>[^/]+?)___"
"""Of mitocheck."""
FIELD = r"(?P<group>(293A|HT1080)-\d{6})"
"""Of hek_ht1080."""
