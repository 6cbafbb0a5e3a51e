"""Latents that a classifier moves: towards their class and away from certainty, within bounds, each by itself."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from synthmix.image_features.differentiable_judge import DifferentiableJudge, differentiable
from synthmix.image_features.features import compute_features
from synthmix.image_features.judges import train_judge
from synthmix.image_synthesis.latent_guidance import moved
from synthmix.latent_diffusion.denoising import decode
from synthmix.latent_diffusion.loading import LatentDiffusion

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = 6
LABELS = [0, 1, 2, 0, 1, 2]
SEEDS = list(range(IMAGES))


class MeanColour:
    """A network whose features are the mean of each colour."""

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def forward_head(self, maps: torch.Tensor, *, pre_logits: bool) -> torch.Tensor:
        return maps.mean(dim=(2, 3))


JUDGE = DifferentiableJudge(MeanColour(), 20 * torch.eye(3), torch.zeros(3), (0, 1, 2))


@pytest.fixture(scope="module")
def latents(base: LatentDiffusion) -> torch.Tensor:
    with torch.inference_mode():  # as they are made
        return torch.randn((IMAGES, 4, 16, 16), generator=torch.Generator().manual_seed(0))


def of(base: LatentDiffusion, latents: torch.Tensor, some: slice = slice(None), **options: Any) -> torch.Tensor:
    settings: dict[str, Any] = {"step": 0.1, "radius": 2.0, "grey": False} | options
    return moved(base, latents[some], JUDGE, LABELS[some], SEEDS[some], **settings)


def scores(base: LatentDiffusion, latents: torch.Tensor) -> torch.Tensor:
    pixels = decode(base, latents).clamp(0, 1).permute(0, 3, 1, 2) * 255
    seen = JUDGE.log_probabilities(pixels)
    entropies = -(seen.exp() * seen).sum(dim=1)
    return entropies + seen.exp()[torch.arange(IMAGES), torch.tensor(LABELS)]


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_the_judge_of_features(classes: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(12) % classes
    features = compute_features(pixels)
    judge = train_judge(features, labels)
    found = differentiable(judge, torch.device("cpu")).log_probabilities(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found.exp().numpy(), judge.predict_proba(features), atol=1e-4)


@pytest.mark.parametrize("radius", [0.05, 0.5])
def test_no_number_moves_further_than_the_radius(base: LatentDiffusion, latents: torch.Tensor, radius: float) -> None:
    distances = (of(base, latents, radius=radius) - latents).abs()
    assert distances.max() == pytest.approx(radius, abs=1e-5)


def test_a_step_raises_the_score(base: LatentDiffusion, latents: torch.Tensor) -> None:
    """Of what was drawn, and no less with a longer one that is still short."""
    drawn, near, far = (scores(base, of(base, latents, step=step, radius=10.0)) for step in (0.0, 0.002, 0.01))
    assert (near > drawn).all() and (far > near).all()


def test_each_image_moves_by_itself(base: LatentDiffusion, latents: torch.Tensor) -> None:
    together = of(base, latents)
    alone = torch.cat([of(base, latents, slice(number, number + 1)) for number in range(IMAGES)])
    torch.testing.assert_close(together, alone)
    assert torch.equal(together, of(base, latents)), "nothing is drawn that the seeds do not give"


def test_grey_images_are_judged_as_they_are_shown(base: LatentDiffusion, latents: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []

    class Noted(MeanColour):
        def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(pixels.detach())
            return pixels

    judge = replace(JUDGE, network=Noted())
    for grey in (True, False):
        moved(base, latents[:2], judge, LABELS[:2], SEEDS[:2], step=0.1, radius=2.0, grey=grey)
    of_grey, of_colour = seen
    torch.testing.assert_close(of_grey[:, 0], of_grey[:, 1])
    assert (of_colour[:, 0] - of_colour[:, 1]).abs().max() > 0.1
