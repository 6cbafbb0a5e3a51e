"""`synthmix images score` and `export`: what an image set is worth, and its images for other programs."""

import argparse

from synthmix.cli.connection import connect
from synthmix.cli.output import emit
from synthmix.cli.progress import progress, shown_operation, shown_transfer
from synthmix.service_kit.resource_names import IMAGE_SETS, qualified


def score(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        found = client.score_images(arguments.name, progress=shown_operation(show_progress))
    lines = [
        f"{found.image_set}: {found.images:,} images",
        f"class consistency: {found.class_consistency:.1%} ({found.real_class_consistency:.1%} of real validation "
        f"images, {found.chance_level:.1%} by chance)",
        f"kernel inception distance from validation images: {found.kernel_inception_distance:.3f}",
        f"by the features of {found.feature_network} at {found.image_size} px",
    ]
    emit(arguments, found, "\n".join(lines))


def export(arguments: argparse.Namespace) -> None:
    name = qualified(IMAGE_SETS, arguments.name)
    with connect(arguments) as client, progress() as show_progress:
        images = client.export_images(name, arguments.format, arguments.out, progress=shown_transfer(show_progress))
    value = {"name": name, "format": arguments.format, "out": str(arguments.out), "images": images}
    emit(arguments, value, f"{name} in the format {arguments.format}: {images:,} images at {arguments.out}")
