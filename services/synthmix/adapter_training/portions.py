"""What each of an artifact's adapters is trained on: one for all train images, for each class, or for each image."""

from dataclasses import dataclass

from synthmix.adapter_training.held_out_rows import held_out_rows
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.generators import CLASS, IMAGE
from synthmix.image_data.split_parts import TrainPart


@dataclass(frozen=True)
class Portion:
    """One adapter's images.

    Attributes:
        folder: Of its files among the artifact's payloads; "" where it is the only adapter.
        label: The class that it is for; "" for all.
        rows: Of the train part, those that it is trained on.
        held_out: Those that its loss is measured on besides.
        images_seen: The length of its training.
        image: The sha256 of its only image, where each image has an adapter; else "".
    """

    folder: str
    label: str
    rows: tuple[int, ...]
    held_out: tuple[int, ...]
    images_seen: int
    image: str = ""


def portions(part: TrainPart, settings: AdapterSettings) -> list[Portion]:
    """The adapters of an artifact, in the order in which they are trained. What is seen is divided among them.

    Raises:
        InvalidArgument: No images can be held out.
    """
    if settings.per == IMAGE:
        return _of_images(part, settings)
    labels = [label for label in part.classes if label in part.class_names] if settings.per == CLASS else [""]
    found = []
    for label in labels:
        rows = [row for row, of_image in enumerate(part.class_names) if not label or of_image == label]
        what = f"the class {label!r}" if label else "the train images"
        held_out = held_out_rows(part.groups, part.class_names, rows, settings.held_out, settings.seed, what=what)
        found.append(
            Portion(
                folder=f"class-{part.classes.index(label):04d}" if label else "",
                label=label,
                rows=tuple(sorted(set(rows) - set(held_out))),
                held_out=tuple(held_out),
                images_seen=_divided(settings.images_seen, len(labels)),
            )
        )
    return found


def _of_images(part: TrainPart, settings: AdapterSettings) -> list[Portion]:
    """An adapter for each image, class by class: those of a class have images of the prior in common."""
    return [
        Portion(
            folder=f"image-{row:06d}",
            label=part.class_names[row],
            rows=(row,),
            held_out=(),
            images_seen=_divided(settings.images_seen, len(part)),
            image=part.sha256s[row],
        )
        for row in sorted(range(len(part)), key=lambda row: part.labels[row])
    ]


def _divided(images_seen: int, adapters: int) -> int:
    return -(-images_seen // adapters)
