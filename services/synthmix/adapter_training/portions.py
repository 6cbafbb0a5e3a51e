"""What each of an artifact's adapters is trained on: one for all train images, or one for each class."""

from dataclasses import dataclass

from synthmix.adapter_training.held_out_rows import held_out_rows
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.split_parts import TrainPart

DATASET, CLASS = "dataset", "class"


@dataclass(frozen=True)
class Portion:
    """One adapter's images.

    Attributes:
        folder: Of its files among the artifact's payloads; "" where it is the only adapter.
        label: The class that it is for; "" for all.
        rows: Of the train part, those that it is trained on.
        held_out: Those that its loss is measured on besides.
        images_seen: The length of its training.
    """

    folder: str
    label: str
    rows: tuple[int, ...]
    held_out: tuple[int, ...]
    images_seen: int


def portions(part: TrainPart, settings: AdapterSettings) -> list[Portion]:
    """The adapters of an artifact, in the order in which they are trained. What is seen is divided among them.

    Raises:
        InvalidArgument: No images can be held out.
    """
    held_out = set(held_out_rows(part, settings.held_out, settings.seed))
    labels = [label for label in part.classes if label in part.class_names] if settings.per == CLASS else [""]
    return [
        Portion(
            folder=f"class-{part.classes.index(label):04d}" if label else "",
            label=label,
            rows=tuple(row for row in _rows(part, label) if row not in held_out),
            held_out=tuple(row for row in _rows(part, label) if row in held_out),
            images_seen=-(-settings.images_seen // len(labels)),
        )
        for label in labels
    ]


def _rows(part: TrainPart, label: str) -> list[int]:
    return [row for row, of_image in enumerate(part.class_names) if not label or of_image == label]
