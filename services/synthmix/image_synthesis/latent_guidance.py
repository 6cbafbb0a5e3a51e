"""Latents that are moved towards their class and away from certainty, within bounds, before they are decoded.

Zhang et al. 2023 (GIF, arXiv:2211.13976), as its code for Stable Diffusion has it: z (1 + a) + b of the latents z that
were made, with a and b for each channel, which are drawn and take one step along the sign of the gradient of the score;
and each number is kept within a radius of what it was. The score is the entropy of what a classifier sees in the image
that is decoded, and the probability of its class. GIF's has a third term, how far an image's features are from the mean
of those that are made at the same time: with it an image would depend on which others are made, so it is left out.

GIF's classifier is CLIP; here it is a logistic regression on the features of the train part's images, and the class is
the one that was asked for, where GIF has the one that CLIP sees in the source.
"""

import numpy as np
import torch

from synthmix.image_data.pixel_cache import pixels
from synthmix.image_data.split_parts import TrainPart
from synthmix.image_features.differentiable_judge import DifferentiableJudge, differentiable
from synthmix.image_features.features import stored_features
from synthmix.image_features.judges import train_judge
from synthmix.latent_diffusion.loading import LatentDiffusion
from synthmix.service_kit.kept_values import KeptValues
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.seeds import derived_seed

# Images of which a worker has the autoencoder's intermediate values at once.
IMAGES_AT_ONCE = 4

# Of the train part in use.
JUDGES: KeptValues[DifferentiableJudge] = KeptValues(lambda judge: 1, lambda kept: 0, newest_always=True)


def judge_of(store: ObjectStore, train: TrainPart, size_px: int, device: torch.device) -> DifferentiableJudge:
    """The classifier of a train part, of no other part's images (leakage rule 3), for images of a size.

    Raises:
        FailedPrecondition: The feature network's weights are not there.
    """

    def made() -> DifferentiableJudge:
        content = {"digest": train.digest, "rows": None}
        features = stored_features(store, content, size_px, lambda: pixels(store, train, size_px), source=train.digest)
        return differentiable(train_judge(features, np.asarray(train.labels)), device)

    return JUDGES.get((train.digest, size_px, str(device)), made)


def moved(
    model: LatentDiffusion,
    latents: torch.Tensor,
    judge: DifferentiableJudge,
    labels: list[int],
    seeds: list[int],
    *,
    step: float,
    radius: float,
    grey: bool,
) -> torch.Tensor:
    """Latents as they were, (images, channels, height, width) float32, moved by `radius` at most in each number.

    Args:
        labels: The class that each is to be, of those that the judge knows.
        seeds: Of each image, from which its scale and shift are drawn.
        step: Of one step.
        grey: Whether images are made grey when they are decoded.
    """
    places = [judge.classes.index(label) for label in labels]
    batches = []
    with torch.inference_mode(False), torch.enable_grad():
        for begin in range(0, len(latents), IMAGES_AT_ONCE):
            some = slice(begin, begin + IMAGES_AT_ONCE)
            own = latents[some].clone()  # what is made in inference mode has no gradients
            drawn = [_drawn(seed, own.shape[1]) for seed in seeds[some]]
            scales, shifts = (
                torch.stack(of_all).to(own.device).requires_grad_() for of_all in zip(*drawn, strict=True)
            )
            seen = judge.log_probabilities(_pixels(model, own * (1 + scales) + shifts, grey=grey))
            score = _score(seen, torch.tensor(places[some], device=own.device))
            of_scales, of_shifts = torch.autograd.grad(score.sum(), (scales, shifts))
            wanted = own * (1 + scales + step * of_scales.sign()) + shifts + step * of_shifts.sign()
            batches.append(torch.clamp(wanted, own - radius, own + radius).detach())
    return torch.cat(batches)


def _drawn(seed: int, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A scale of 0 to 1 and a normally distributed shift of each channel."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "latent guidance"))
    shape = (channels, 1, 1)
    return torch.rand(shape, generator=generator), torch.randn(shape, generator=generator)


def _score(seen: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of each image: what is to grow. The entropy of the image that it began from is the same whatever is drawn."""
    entropies = -(seen.exp() * seen).sum(dim=1)
    return entropies + seen.exp().gather(1, places[:, None])[:, 0]


def _pixels(model: LatentDiffusion, latents: torch.Tensor, *, grey: bool) -> torch.Tensor:
    """(images, 3, S, S) of 0 to 255, as the judge was trained on them."""
    vae = model.vae
    decoded = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0].float()
    values: torch.Tensor = (decoded * 0.5 + 0.5).clamp(0, 1) * 255
    return values.mean(dim=1, keepdim=True).expand_as(values) if grey else values
