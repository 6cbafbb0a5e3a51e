"""Which reader reads which export of which adapter method, and how far the UNet's answers are off.

Usage: ``python tests/benchmarks/adapter_formats.py --out FILE``.

Trains an adapter of each method for two steps on the tests' tiny base model, in attention and in all layers that the
method takes, exports it in every form, and reads that in a process of its own without SynthMix's code: by diffusers,
by PEFT, and by the formulas that LyCORIS documents. Writes a table in Markdown.
"""

import argparse
import importlib.metadata
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from adapter_readers import NOTHING
from exported_adapters import CLOSE, SMALLEST_AND_LARGEST, Case, Reading, read_exports
from synthmix.adapter_training.methods import METHODS
from synthmix.client.adapter_formats import FORMATS
from tiny_base_model import write_tiny_base_model

READERS = {"diffusers": ("diffusers", "kohya", "peft"), "peft": ("peft",), "formula": ("kohya",)}
"""The formats that each reader is given."""
SHOWN = {"diffusers": "diffusers", "peft": "PEFT", "formula": "formula"}
LEGEND = """\
A dash: the export is refused, since the format has no form for the method. *other*: it is read without an error as
another adapter. *nothing*: without an error, and as none. *refused*: the reader raises an error.

Not in the table, as no dependency of this repository:

- LyCORIS 4.1.3's own loader, tried by hand, reads the kohya files of `lora`, `dora`, `pissa` and `loha`, to 5e-7, and
  of `lokr`, in layers of Stable Diffusion's widths, where its large factor is full or a matrix. Of a low-rank kernel of
  more than one pixel (`lokr_t2`) it takes the rank from the wrong side of a factor, and raises.
- ComfyUI, by its source (comfy/weight_adapter), has the formulas of LyCORIS for `lokr`, those with `lokr_t2` as well.
  With `dora` it divides `dora_scale` by the lengths of the base model's weights, without the update.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["SYNTHMIX_BASE_MODEL_FOLDERS"] = "/"
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "work"
        work.mkdir()
        base_model = write_tiny_base_model(Path(scratch) / "base")
        readings = read_exports(SMALLEST_AND_LARGEST, readers_of, base_model, work)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(document(readings), encoding="utf-8")


def readers_of(form: str, method: str) -> list[str]:
    return [reader for reader, forms in READERS.items() if form in forms]


def document(readings: Sequence[Reading]) -> str:
    columns = [(form, reader) for form in FORMATS for reader in readers_of(form, "")]
    rows = [
        f"| `{name}` | {', '.join(f'`{case.targets}`' for case in of_method)} | "
        + " | ".join(cell(readings, of_method, form, reader) for form, reader in columns)
        + " |"
        for name in METHODS
        if (of_method := [case for case in SMALLEST_AND_LARGEST if case.method == name])
    ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("diffusers", "peft", "torch"))
    return "\n".join(
        [
            "# Which program reads which export",
            "",
            "`make adapter-formats` writes this table. An adapter of each method, trained for two steps on a tiny base",
            "model with an alpha that is not its rank, in two sets of layers, is exported by",
            "`synthmix adapters export`, and each cell reads it in a process of its own without SynthMix's code. A",
            "number is the largest difference of the UNet's answer from that of the UNet in which it was trained;",
            f"up to {CLOSE:g} it is the order of sums in float32. Each adapter changes the answer by",
            f"{min(item.effect for item in readings):.2g} or more. The formulas are those that LyCORIS documents.",
            "",
            f"Versions: {versions}.",
            "",
            "| method | layers | " + " | ".join(f"{form}, read by {SHOWN[reader]}" for form, reader in columns) + " |",
            "|---" * (2 + len(columns)) + "|",
            *rows,
            "",
            LEGEND,
        ]
    )


def cell(readings: Sequence[Reading], of_method: Sequence[Case], form: str, reader: str) -> str:
    found = [item for item in readings if item.case in of_method and (item.form, item.reader) == (form, reader)]
    if not found:
        return "-"
    if all(item.error.endswith(NOTHING) for item in found):
        return "*nothing*"
    if any(item.error for item in found):
        return "*refused*" if all(item.error for item in found) else "*refused in part*"
    largest = max(item.difference for item in found if item.difference is not None)
    return f"{largest:.0e}" if all(item.is_right for item in found) else f"*other* ({largest:.0e})"


if __name__ == "__main__":
    main()
