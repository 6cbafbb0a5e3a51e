"""What the report collects from the artifacts of a study."""

from pathlib import Path

from image_archives import encoded
from striped_study import CLASSES, split_of, striped_store, stripes, write_image_set
from synthmix.image_data.split_parts import open_split
from synthmix.study_control.reporting import GALLERY_IMAGES, gallery


def test_a_copy_in_the_gallery_stands_beside_what_it_repeats(tmp_path: Path, own_cache: None) -> None:
    store = striped_store(tmp_path)
    train, _, _ = open_split(store, split_of(store), field="split")
    wide = CLASSES.index("wide")
    copies = [
        ("wide", encoded(stripes(wide, 1000 * wide + 10 * plate + number))) for plate in (0, 1) for number in (0, 1)
    ]
    write_image_set(store, copies, "b" * 32)
    [shown], real = gallery(store, train, {"copied": f"image-sets/{'b' * 32}"})
    assert (shown.image_set, shown.class_name, len(shown.examples)) == ("copied", "wide", len(copies))
    for example in shown.examples:
        if example.nearest_real_distance == 0:
            assert example.png == example.nearest_real_png
    assert 0 in [example.nearest_real_distance for example in shown.examples]
    assert {label: len(pngs) for label, pngs in real.items()} == dict.fromkeys(CLASSES, GALLERY_IMAGES)
