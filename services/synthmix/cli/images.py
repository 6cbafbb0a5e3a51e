"""`synthmix images score`, `export` and `import`: what an image set is worth, and images for and of other programs."""

import argparse

from synthmix.cli.connection import connect
from synthmix.cli.output import emit, table
from synthmix.cli.progress import progress, shown_operation, shown_transfer
from synthmix.service_kit.quantities import plural
from synthmix.service_kit.resource_names import IMAGE_SETS, qualified


def score(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        found = client.score_images(arguments.name, split=arguments.split, progress=shown_operation(show_progress))
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


def import_(arguments: argparse.Namespace) -> None:
    with connect(arguments) as client, progress() as show_progress:
        made = client.import_images(
            arguments.path,
            saw=arguments.saw,
            saw_list=arguments.saw_list,
            saw_none=arguments.saw_none,
            origin=arguments.origin,
            image_size=arguments.image_size,
            accept_layout=arguments.yes,
            progress=shown_transfer(show_progress),
        )
    counts = table(("CLASS", "IMAGES"), [(item.label, item.images) for item in made.class_images], right=("IMAGES",))
    size, seen = made.imported.image_size, made.imported.seen.image_count
    lines = [
        f"{made.name}: {plural(made.image_count, 'image')} of {size} x {size} pixels, from {made.imported.origin}",
        "",
        counts,
        "",
        f"note: its generator is said to have seen {plural(seen, 'real image')}, and evaluations whose validation or "
        "test part holds one of them refuse it"
        if seen
        else "note: its generator is said to have seen no real image, which nothing here can check",
    ]
    emit(arguments, made, "\n".join(lines))
