"""Folders of small feature networks with random weights, as timm and transformers write them."""

from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

PATCH_PX = 14


def timm_folder(folder: Path, architecture: str = "test_vit", *, classes: int = 3, seed: int = 0) -> Path:
    """A network of timm, fine-tuned to some classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(architecture, num_classes=classes)
    save_for_hf(network, str(folder), safe_serialization=True)
    return folder


def dinov2_folder(folder: Path, *, seed: int = 0) -> Path:
    """A DINOv2 of one layer with channel statistics of its own."""
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=PATCH_PX, mlp_ratio=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Dinov2Model(config)
    network.save_pretrained(folder)
    BitImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return folder
