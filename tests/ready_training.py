"""A training that stands ready before its first step: what benchmarks measure the steps of."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

from synthmix.adapter_training import planning, recipe
from synthmix.adapter_training.training_prompts import encoded_once, prompt_embeddings
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.latent_diffusion.base_model import BUILTIN, BUILTIN_FOLDER, resolve
from synthmix.latent_diffusion.loading import load


class ReadyTraining:
    """An adapter of the built-in base model, with its latents encoded and its prompts too.

    Args:
        given: Its settings, of which those that are left out have their defaults.
        images: (images, size, size, 3), uint8.
        classes: Those that the images are of, in turn.
        views: Of each image, 1 to 8.
    """

    def __init__(self, given: AdapterSettings, images: np.ndarray, classes: Sequence[str], views: int):
        self._model = load(BUILTIN_FOLDER, torch.device("cpu"))
        self._settings = planning.filled(given, resolve(BUILTIN, field="base_model"))
        labels = np.arange(len(images)) % len(classes)
        self._latents = recipe.cache_latents(self._model, images, labels, views)
        self._prompts = encoded_once(self._model, prompt_embeddings(self._model, [self._settings.prompt], classes))
        self._state = recipe.set_up(self._model, self._settings)

    def train(self, steps: int) -> int:
        """Goes on for so many steps, and returns how many images those were."""
        last = self._state.step + steps

        class Enough(Exception):
            pass

        def after_step(state: recipe.TrainingState) -> None:
            if state.step == last:
                raise Enough

        with suppress(Enough):
            recipe.train(self._model, self._state, self._settings, self._latents, self._prompts, after_step)
        return steps * self._settings.batch_size
