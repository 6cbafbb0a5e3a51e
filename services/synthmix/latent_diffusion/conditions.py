"""What a prompt is to a UNet: embeddings that its attention reads, and what some UNets are told of an image besides.

Stable Diffusion's UNets read the embeddings alone. SDXL's is also given a summary of the whole prompt and the sizes of
the image: Podell et al. 2023 (arXiv:2307.01952), section 2.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Conditions:
    """What some prompts, or the images that are to have them, are to a UNet.

    Attributes:
        embeddings: (prompts, tokens, width).
        pooled: A vector for the whole of each prompt, (prompts, width); None if the UNet reads none.
        time_ids: Of each image height and width before it was resized, top and left of what was cut out of it, and
            height and width that it has, in pixels: (prompts, 6), float32; None until `of_size` is called, and where
            pooled is None.
    """

    embeddings: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Those that there are, in the order in which Conditions takes them."""
        return tuple(value for value in (self.embeddings, self.pooled, self.time_ids) if value is not None)

    @property
    def added(self) -> dict[str, torch.Tensor] | None:
        """The UNet's `added_cond_kwargs`. Raises ValueError if it is told of sizes, and `of_size` was not called."""
        if self.pooled is None:
            return None
        if self.time_ids is None:
            raise ValueError("this UNet is told of the sizes of images: call of_size first")
        return {"text_embeds": self.pooled, "time_ids": self.time_ids}

    def of_size(self, original_px: int, size_px: int) -> "Conditions":
        """For square images of one size that were resized from another; the same where a UNet is told of no sizes.

        Nothing counts as cut off: of an image that is not square its centre is the image, and its side the original's.

        Args:
            original_px: The side before an image was resized.
            size_px: The side that it has.
        """
        if self.pooled is None:
            return self
        sizes = torch.tensor([original_px, original_px, 0, 0, size_px, size_px], dtype=torch.float32)
        return replace(self, time_ids=sizes.to(self.pooled.device).expand(len(self), -1))

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Conditions":
        """With every tensor changed."""
        return Conditions(*map(change, self.tensors))

    def rows(self, numbers: torch.Tensor | slice) -> "Conditions":
        """Those of some prompts, which may be there more than once."""
        return self.each(lambda value: value[numbers])

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditions":
        """On a device, in a precision. Sizes stay in float32: bfloat16 rounds from 256 on."""
        moved = self.each(lambda value: value.to(device))
        pooled = None if moved.pooled is None else moved.pooled.to(dtype)
        return replace(moved, embeddings=moved.embeddings.to(dtype), pooled=pooled)


def joined(conditions: Sequence[Conditions]) -> Conditions:
    """Those of all, in order."""
    return Conditions(*(torch.cat(values) for values in zip(*(item.tensors for item in conditions), strict=True)))
