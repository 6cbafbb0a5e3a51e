"""The training loop of a trial beside a plain loop around timm: six phenotypes, lite0, 64 pixels, one thread.

The peer (peers/timm_training.py) decodes its images in a DataLoader and trains in PyTorch's own memory format. The
images are those of ../shared/data, which its README describes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from peers import timm_training as peer
from real_images import DATA, MITOCHECK_SIX
from side_by_side import FEWEST_PAIRS, Row, compared, in_turns, run
from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings
from synthmix.classifier_evaluation import recipe
from synthmix.classifier_evaluation.mixtures import Mixture
from synthmix.image_data.decoding import decode_image, to_square
from synthmix.service_kit.settings_messages import with_defaults

FOLDER = DATA / "mitocheck"
WHAT = "training of a classifier, six phenotypes, lite0, 64 px, batch 32"
PEER = "a plain timm loop"


def settings(epochs: int) -> ClassifierSettings:
    """Those of tests/benchmarks/studies/mitocheck_six.yaml, which has two epochs."""
    return with_defaults(
        ClassifierSettings(
            architecture="tf_efficientnet_lite0", pretrained=True, image_size=peer.SIZE_PX, match="steps", epochs=epochs
        )
    )


def labelled_files(count: int) -> list[peer.Item]:
    """So many images of the six phenotypes, and the numbers of their classes."""
    files = [
        (str(path), number) for number, name in enumerate(MITOCHECK_SIX) for path in sorted((FOLDER / name).iterdir())
    ]
    chosen = np.random.default_rng(0).permutation(len(files))[:count]
    return [files[index] for index in chosen]


def pixels(items: list[peer.Item]) -> np.ndarray:
    return np.stack(
        [to_square(decode_image(Path(path).read_bytes(), white_level=255), peer.SIZE_PX) for path, _ in items]
    )


def ours(images: np.ndarray, labels: np.ndarray) -> int:
    """A whole trial of one epoch, with one batch each for validation and test."""
    result = recipe.train_and_evaluate(
        settings(1),
        len(MITOCHECK_SIX),
        recipe.TrainingImages(Mixture(np.arange(len(labels)), np.arange(0), labels), images, None),
        images[: peer.BATCH],
        labels[: peer.BATCH],
        lambda: images[: peer.BATCH],
        seed=0,
        threads=1,
        report=lambda steps: None,
    )
    return result.steps * peer.BATCH


def plain(items: list[peer.Item], memory_format: torch.memory_format) -> int:
    torch.use_deterministic_algorithms(False)
    model = peer.pretrained_lite0(len(MITOCHECK_SIX)).to(memory_format=memory_format)
    optimizer = peer.optimizer_of(model)
    batches = peer.loader(items, training=True)
    peer.train_epoch(model, batches, optimizer, peer.cosine(optimizer, len(batches)))
    peer.predict(model, peer.loader(items[: 2 * peer.BATCH], training=False))
    return len(items)


def flops_of_an_image() -> float:
    """Of a training step: three times the forward pass's, as the counter takes depthwise gradients for full ones."""
    model = peer.pretrained_lite0(len(MITOCHECK_SIX))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, peer.SIZE_PX, peer.SIZE_PX))
    return 3.0 * counter.get_total_flops()


def measure(quick: bool) -> list[Row]:
    if not FOLDER.is_dir():
        print(f"left out: the real images are not here ({FOLDER}); tests/README.md says which they are")
        return []
    items = labelled_files(peer.BATCH * (4 if quick else 20))
    images, labels = pixels(items), np.array([label for _, label in items])
    loops: dict[str, Callable[[], int]] = {
        "ours": partial(ours, images, labels),
        "peer": partial(plain, items, torch.contiguous_format),
        "channels last": partial(plain, items, torch.channels_last),
    }
    found = in_turns(loops, FEWEST_PAIRS)
    row = partial(compared, WHAT, unit="image", ours=found["ours"], flops=flops_of_an_image())
    return [
        row(PEER, at_least=1.75, others=found["peer"]),
        row(f"{PEER}, in channels_last", at_least=1.0, others=found["channels last"]),
    ]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
