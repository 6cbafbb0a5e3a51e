"""The images of a split's parts, as a table that other programs read.

pyarrow is imported when it is needed, since the extra `parquet` brings it.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from synthmix.image_data.image_payloads import INDEX, part_payload
from synthmix.service_kit.extras import extra
from synthmix.service_kit.resource_names import PARTS


@dataclass(frozen=True)
class SplitImage:
    """An image of a dataset, and where a split has it.

    Attributes:
        path: In the dataset.
        label: Its class.
        group: What the split keeps together.
        part: train, validation or test.
        sha256: Of its file.
    """

    path: str
    label: str
    group: str
    part: str
    sha256: str


def check_table() -> None:
    """Raises FailedPrecondition without pyarrow."""
    with extra("parquet", "listing the images of a split"):
        import pyarrow  # noqa: F401


def read_table(stored: Path) -> list[SplitImage]:
    """The images of a split whose payloads are in a folder, with the index of its dataset, in the index's order."""
    import pyarrow.parquet as pq

    index = pq.read_table(stored / INDEX, columns=["path", "label", "group", "sha256"]).to_pylist()
    parts = {}
    for part in PARTS:
        for row in pq.read_table(stored / part_payload(part), columns=["row"])["row"].to_pylist():
            parts[row] = part
    return [SplitImage(**index[row], part=parts[row]) for row in sorted(parts)]


def table_text(images: Iterable[SplitImage]) -> str:
    """Comma-separated values, with a heading."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(field.name for field in fields(SplitImage))
    table.writerows(astuple(image) for image in images)
    return text.getvalue()
