"""What an adapter makes of each class on its way: of always the same noise and prompt, so that it can be followed.

Nothing is chosen by these pictures, and no image is seen for them.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from synthmix.adapter_training.sampling_defaults import GUIDANCE_SCALE, STEPS
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.image_data.captions import drawn_caption
from synthmix.latent_diffusion.class_tokens import model_prompt
from synthmix.latent_diffusion.denoising import Guidance, decode, denoise, encoded
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.seeds import derived_seed


@dataclass(frozen=True)
class Previews:
    """The pictures that are made at each evaluation.

    Attributes:
        labels: The classes, in words.
        grey: Whether the train images are grey, as synthetic ones are then.
        original_px: As `denoise` takes it.
        captions: Of each class's train images, for a prompt with {caption}.
    """

    settings: AdapterSettings
    labels: tuple[str, ...]
    grey: bool
    original_px: int | None = None
    captions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def sheet(self, model: LatentDiffusion, *, at_once: int) -> bytes:
        """A PNG with a row of pictures for each class, of the adapter that the model has now.

        Draws nothing from torch's own generator.

        Args:
            at_once: How many pictures the memory is enough for; with guidance each is two to the UNet.
        """
        settings, side = self.settings, self.settings.image_size
        pictures = [(label, number) for label in self.labels for number in range(settings.previews)]
        texts = [
            model_prompt(
                model,
                settings.prompt,
                label,
                drawn_caption(self.captions.get(label, ()), settings.prompt, label, settings.seed, number),
            )
            for label, number in pictures
        ]
        seeds = [derived_seed(settings.seed, "adapter preview", label, number) for label, number in pictures]
        conditions = encoded(model, texts)
        rows = np.empty((len(texts), side, side, 3), np.uint8)
        for start in range(0, len(texts), at_once):
            batch = slice(start, start + at_once)
            latents = denoise(
                model,
                [conditions[text] for text in texts[batch]],
                [conditions[""]] * len(texts[batch]),
                [torch.Generator().manual_seed(seed) for seed in seeds[batch]],
                size_px=side,
                steps=STEPS,
                guidance=Guidance(GUIDANCE_SCALE),
                original_px=self.original_px,
            )
            # A training that diverges makes no numbers; it ends with an error, and until then with black pictures.
            pixels = np.nan_to_num(decode(model, latents).cpu().numpy(), posinf=0.0, neginf=0.0)
            if self.grey:
                pixels = np.broadcast_to(pixels.mean(axis=-1, keepdims=True), pixels.shape)
            rows[batch] = np.rint(pixels.clip(0.0, 1.0) * 255)
        sheet = rows.reshape(len(self.labels), settings.previews, side, side, 3).swapaxes(1, 2)
        buffer = io.BytesIO()
        Image.fromarray(sheet.reshape(len(self.labels) * side, settings.previews * side, 3)).save(buffer, "PNG")
        return buffer.getvalue()
