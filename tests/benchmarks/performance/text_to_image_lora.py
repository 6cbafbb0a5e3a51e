"""The peer of adapter training: what diffusers' examples/text_to_image/train_text_to_image_lora.py does.

The script is in diffusers' repository and not in its wheel. This takes the same steps with the same libraries, in their
order, at the script's own defaults (as of diffusers' main branch, August 2026): accelerate, a DataLoader in the main
process that opens, resizes, crops and flips images and tokenizes captions, the autoencoder and the text encoder in
every step, AdamW over an adapter of PEFT, and a clipping of gradients that finds an iterator which is used up and clips
nothing. What it leaves out costs the script time: the package `datasets`, whose place a folder of PNGs takes, and the
logging of each step.

``python text_to_image_lora.py MODEL IMAGES OUT --resolution N --steps N`` trains and writes an adapter, as the script.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from transformers import CLIPTextModel, CLIPTokenizer


class CaptionedImages(Dataset[dict[str, Any]]):
    """PNGs whose captions are in a text file of the same name, a batch at a time as `datasets` gives them."""

    def __init__(self, folder: Path, tokenizer: Any, resolution: int):
        self._paths = sorted(folder.glob("*.png"))
        self._captions = [path.with_suffix(".txt").read_text() for path in self._paths]
        self._tokenizer = tokenizer
        self._transform = transforms.Compose(
            [
                transforms.Resize(resolution, interpolation=transforms.InterpolationMode.LANCZOS),
                transforms.RandomCrop(resolution),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        tokens = self._tokenizer(
            [self._captions[index] for index in indices],
            max_length=self._tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        images = [Image.open(self._paths[index]).convert("RGB") for index in indices]
        return [
            {"pixel_values": self._transform(image), "input_ids": ids}
            for image, ids in zip(images, tokens, strict=True)
        ]


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([example["pixel_values"] for example in examples])
    return {
        "pixel_values": pixels.to(memory_format=torch.contiguous_format).float(),
        "input_ids": torch.stack([example["input_ids"] for example in examples]),
    }


class TextToImageLora:
    """A training that stands ready before its first step.

    Args:
        model: A folder in the diffusers layout.
        images: A folder of PNGs and their captions.
        rank: Of the adapter; alpha is equal to it.
    """

    def __init__(self, model: Path, images: Path, *, resolution: int, batch_size: int, rank: int, learning_rate: float):
        torch.manual_seed(0)
        random.seed(0)
        self._accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
        self._schedule = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
        tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
        self._text_encoder = CLIPTextModel.from_pretrained(model, subfolder="text_encoder")
        self._vae = AutoencoderKL.from_pretrained(model, subfolder="vae")
        unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
        for part in (unet, self._vae, self._text_encoder):
            part.requires_grad_(False)
        unet.add_adapter(
            LoraConfig(
                r=rank,
                lora_alpha=rank,
                init_lora_weights="gaussian",
                target_modules=["to_k", "to_q", "to_v", "to_out.0"],
            )
        )
        self._layers = filter(lambda value: value.requires_grad, unet.parameters())
        optimizer = torch.optim.AdamW(self._layers, lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        loader = DataLoader(
            CaptionedImages(images, tokenizer, resolution),
            shuffle=True,
            collate_fn=collate,
            batch_size=batch_size,
            num_workers=0,
        )
        rates = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=500, num_training_steps=10_000)
        self.unet, self._optimizer, self._loader, self._rates = self._accelerator.prepare(
            unet, optimizer, loader, rates
        )
        self.unet.train()
        self._batch_size = batch_size
        self._batches = self._forever()

    def _forever(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from self._loader

    def train(self, steps: int) -> int:
        """Goes on for so many steps, and returns how many images those were."""
        for _ in range(steps):
            self._step(next(self._batches))
        return steps * self._batch_size

    def _step(self, batch: dict[str, torch.Tensor]) -> None:
        with self._accelerator.accumulate(self.unet):
            latents = self._vae.encode(batch["pixel_values"]).latent_dist.sample() * self._vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, self._schedule.config.num_train_timesteps, (len(latents),)).long()
            noisy = self._schedule.add_noise(latents, noise, timesteps)
            context = self._text_encoder(batch["input_ids"], return_dict=False)[0]
            if self._schedule.config.prediction_type == "epsilon":
                target = noise
            else:
                target = self._schedule.get_velocity(latents, noise, timesteps)
            predicted = self.unet(noisy, timesteps, context, return_dict=False)[0]
            loss = F.mse_loss(predicted.float(), target.float(), reduction="mean")
            self._accelerator.gather(loss.repeat(self._batch_size)).mean().item()
            self._accelerator.backward(loss)
            if self._accelerator.sync_gradients:
                self._accelerator.clip_grad_norm_(self._layers, 1.0)
            self._optimizer.step()
            self._rates.step()
            self._optimizer.zero_grad()

    def save(self, folder: Path) -> None:
        unet = self._accelerator.unwrap_model(self.unet).to(torch.float32)
        StableDiffusionPipeline.save_lora_weights(
            save_directory=folder,
            unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)),
            safe_serialization=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args()
    training = TextToImageLora(
        arguments.model,
        arguments.images,
        resolution=arguments.resolution,
        batch_size=arguments.batch_size,
        rank=arguments.rank,
        learning_rate=arguments.learning_rate,
    )
    training.train(arguments.steps)
    training.save(arguments.out)


if __name__ == "__main__":
    main()
