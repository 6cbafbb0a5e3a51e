"""The adapters that are compared, and the study that trains each of them for the same seconds.

The design is fractional. Of method, layers and number of parameters it varies one or two at a time around LoRA on the
attention layers: methods there at about as many parameters, those that can be had so in wider sets of layers as well,
and some of them with fewer and with more. It leaves out how method and number of parameters act on each other.
All of the UNet is trained as well, to compare with.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from ready_training import ReadyTraining
from real_images import MITOCHECK_SIX
from synthmix.api.adapters.v1.adapters_pb2 import AdapterSettings
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import read_study
from synthmix.latent_diffusion.base_model import BUILTIN

STUDY = Path(__file__).resolve().parents[1] / "studies" / "adapter_options.yaml"

WIDE = "attention+feedforward+convolution"
SAME_SIZE: tuple[dict[str, Any], ...] = (
    {"method": "lora", "targets": "attention", "rank": 16},  # the first is what the others get the seconds of
    {"method": "rslora", "targets": "attention", "rank": 16},
    {"method": "dora", "targets": "attention", "rank": 16},
    {"method": "pissa", "targets": "attention", "rank": 16},
    {"method": "olora", "targets": "attention", "rank": 16},
    {"method": "loha", "targets": "attention", "rank": 8},
    {"method": "lokr", "targets": "attention", "rank": 32, "factor": 2},
    {"method": "lora", "targets": "attention+feedforward", "rank": 8},
    {"method": "dora", "targets": "attention+feedforward", "rank": 8},
    {"method": "pissa", "targets": "attention+feedforward", "rank": 8},
    {"method": "loha", "targets": "attention+feedforward", "rank": 4},
    {"method": "boft", "targets": "attention+feedforward", "block_size": 16},
    {"method": "lora", "targets": "transformer", "rank": 8},
    {"method": "boft", "targets": "transformer", "block_size": 16},
    {"method": "lora", "targets": WIDE, "rank": 4},
    {"method": "dora", "targets": WIDE, "rank": 4},
    {"method": "loha", "targets": WIDE, "rank": 3},
    {"method": "lora", "targets": "all", "rank": 4},
)
"""Of 290,000 to 370,000 parameters. Larger blocks of oft and boft divide no layer's inputs."""
OTHER_SIZES: tuple[dict[str, Any], ...] = (
    {"method": "lora", "targets": "attention", "rank": 4},
    {"method": "lora", "targets": "attention", "rank": 64},
    {"method": "lokr", "targets": "attention", "rank": 16, "factor": 8},
    {"method": "oft", "targets": "attention", "block_size": 16},
    {"method": "oft", "targets": "transformer", "block_size": 16},
    {"method": "boft", "targets": "attention", "block_size": 16},
    {"method": "lora", "targets": WIDE, "rank": 16},
    {"method": "dora", "targets": WIDE, "rank": 16},
    {"method": "full"},
)
DESIGN = SAME_SIZE + OTHER_SIZES

IMAGES_SEEN = 2400
"""By the first of them."""
BATCH = 16
PROMPT = "a fluorescence image of a {label} nucleus"
LATENT_IMAGES = 64
ROUNDS = 6
STEPS_A_ROUND = 4
TEXT = """\
# Adapters of about as many parameters, and some with fewer and more, each trained for as long as the first. Written by
# `make adapter-options`, which measures on one thread what an image seen costs each of them.
name: adapter-options
dataset: mitocheck-six
split: {{test: 0.25, validation: 0.15, seed: 7}}
adapters:
{adapters}
synthesis: {{prompt: "{prompt}", steps: 15, guidance_scale: 2.0, per_class: 40}}
# What is looked at here is the images; without a mixture, a study would make none.
mixtures: {{mode: append, ratios: [0.05]}}
classifier: {{architecture: tf_efficientnet_lite0, pretrained: true, image_size: 64, match: steps, epochs: 1}}
seeds: 1
"""
ADAPTER = "  - {{{settings}, held_out: 0.15, evaluations: 6}}  # {milliseconds:.1f} ms an image"


def write_study() -> None:
    """Writes the study's file: what each adapter costs decides how many images it sees."""
    settings = [AdapterSettings(base_model=BUILTIN, prompt=PROMPT, **options) for options in DESIGN]
    seconds = seconds_of_steps(settings)
    lines = []
    for options, step_s in zip(DESIGN, seconds, strict=True):
        images_seen = BATCH * round(IMAGES_SEEN / BATCH * seconds[0] / step_s)
        given = ", ".join(f"{name}: {value}" for name, value in {**options, "images_seen": images_seen}.items())
        lines.append(ADAPTER.format(settings=given, milliseconds=1000 * step_s / BATCH))
    STUDY.write_text(TEXT.format(adapters="\n".join(lines), prompt=PROMPT), encoding="utf-8")


def seconds_of_steps(settings: Sequence[AdapterSettings]) -> list[float]:
    """What a step of each adapter takes of one processor: the median over rounds in which all of them take a turn."""
    torch.set_num_threads(1)
    noise = np.random.default_rng(0).integers(0, 256, (LATENT_IMAGES, 64, 64, 3), dtype=np.uint8)
    trainings = [ReadyTraining(item, noise, MITOCHECK_SIX, 1) for item in track(settings, description="loading")]
    took: list[list[float]] = [[] for _ in trainings]
    for _ in track(range(1 + ROUNDS), description="measuring steps"):
        for training, seconds in zip(trainings, took, strict=True):
            started_s = time.process_time()
            training.train(STEPS_A_ROUND)
            seconds.append((time.process_time() - started_s) / STEPS_A_ROUND)
    return [statistics.median(seconds[1:]) for seconds in took]  # the first round warms up


def study_of_seed(seed: int) -> studies_pb2.StudySpec:
    """The study with first weights, order of images and noise of its own, and images of noise of their own."""
    spec = read_study(STUDY).message
    spec.name = f"{spec.name}-{seed}"
    for item in (*spec.adapters, *spec.synthesis):
        item.seed = seed
    return spec
