"""`synthmix images score`: what an image set is worth by the train and validation images alone."""

import argparse

from synthmix.cli.connection import connect
from synthmix.cli.output import emit
from synthmix.cli.progress import progress, shown_operation


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
