"""What the report collects from the artifacts of a study."""

import io
from pathlib import Path

from PIL import Image

from image_archives import encoded
from striped_study import CLASSES, split_of, striped_store, stripes, write_image_set
from synthmix.image_data.split_parts import open_split
from synthmix.study_control.reporting import GALLERY_IMAGES, gallery


def grey(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).convert("L").tobytes()


def test_a_copy_in_the_gallery_stands_beside_what_it_repeats(tmp_path: Path, own_cache: None) -> None:
    store = striped_store(tmp_path)
    train, _, _ = open_split(store, split_of(store), field="split")
    wide = CLASSES.index("wide")
    copies = [("wide", encoded(stripes(wide, 1000 * wide + 10 * plate))) for plate in range(8)]
    write_image_set(store, copies, "b" * 32)
    [shown], real = gallery(store, train, {"copied": f"image-sets/{'b' * 32}"})
    assert (shown.image_set, shown.class_name, len(shown.examples)) == ("copied", "wide", len(copies))
    repeated = [example for example in shown.examples if example.nearest_real_distance == 0]
    assert 0 < len(repeated) < len(copies), "those of the train part alone"
    assert all(grey(example.png) == grey(example.nearest_real_png) for example in repeated)
    assert {label: len(pngs) for label, pngs in real.items()} == dict.fromkeys(CLASSES, GALLERY_IMAGES)
