"""Adapters of the tiny base model, exported in every form and read by others, with how far their answers are off."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import adapter_readers
from synthmix.adapter_training.adapter_files import adapter_files
from synthmix.adapter_training.methods import METHODS
from synthmix.client.adapter_formats import ADAPTER_FORMATS, FORMATS, write_adapter
from synthmix.latent_diffusion.base_model import resolve
from synthmix.latent_diffusion.loading import LatentDiffusion, load
from synthmix.latent_diffusion.model_kinds import SDXL
from tiny_adapters import CASES, settings_of, trained, written

# Of a float32 answer: what other orders of the same sums make of it.
CLOSE = 2e-6


@dataclass(frozen=True)
class Case:
    """An adapter that is exported in every form that takes its method."""

    method: str
    targets: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.method, self.targets, *(f"{key}={value}" for key, value in self.options)])


# Attention, and the largest set of layers, of each method. The rank is 3: with this alpha the scale is not 1. With this
# factor lokr's large factors are of low rank where they are large.
OPTIONS = {"alpha": 1.5, "factor": 2}
SMALLEST_AND_LARGEST = [
    Case(name, targets, tuple((key, value) for key, value in OPTIONS.items() if key in method.takes))
    for name, method in METHODS.items()
    for of_method in [[targets for other, targets in CASES if other == name]]
    for targets in (of_method[0], of_method[-1])
]


@dataclass(frozen=True)
class Reading:
    """What a reader made of an exported adapter.

    Attributes:
        difference: The largest difference of the UNet's answer from that of the UNet in which it was trained.
        error: What the reader said instead; then there is no difference.
        effect: The largest difference that the adapter makes.
    """

    case: Case
    form: str
    reader: str
    difference: float | None
    error: str
    effect: float

    @property
    def is_right(self) -> bool:
        return self.difference is not None and self.difference <= CLOSE


def read_exports(
    cases: Sequence[Case],
    readers: Callable[[str, str], Sequence[str]],
    base_model: Path,
    work: Path,
) -> list[Reading]:
    """Trains adapters for two steps, exports and reads them.

    Args:
        readers: Of a format and a method.
        base_model: The tiny base model's folder, below one of SYNTHMIX_BASE_MODEL_FOLDERS.
        work: An empty folder.
    """
    torch.set_num_threads(1)
    base = load(base_model, torch.device("cpu"))
    found = resolve(str(base_model), field="adapter.settings.base_model")
    without = answer_of(base)
    answers, exports = {}, []
    for case in cases:
        model, state = trained(base, settings_of(found, case.method, case.targets, **dict(case.options)), stop_after=2)
        answers[case] = answer_of(model)
        stored = written(adapter_files(model, state.first_factors), work / case.name)
        for form in ADAPTER_FORMATS:
            entry = FORMATS[form]
            if case.method in entry.methods:
                out = work / (f"{case.name} {form}" + (".safetensors" if entry.is_file else ""))
                write_adapter(form, stored, out, "tiny", is_sdxl=found.kind is SDXL)
                exports += [(case, form, reader, out) for reader in readers(form, case.method)]
    read = read_elsewhere([(reader, out) for _, _, reader, out in exports], base_model, work, inputs_of(base))
    return [
        Reading(
            case,
            form,
            reader,
            difference=None if isinstance(answer, str) else _largest(answer, answers[case]),
            error=answer if isinstance(answer, str) else "",
            effect=_largest(answers[case], without),
        )
        for (case, form, reader, _), answer in zip(exports, read, strict=True)
    ]


def read_elsewhere(
    readings: Sequence[tuple[str, Path]], base_model: Path, work: Path, inputs: dict[str, torch.Tensor]
) -> list[torch.Tensor | str]:
    """What the UNet answers with each adapter, read by other programs' code in processes without ours, or the error.

    Args:
        readings: A reader of adapter_readers.py, and the adapter's path.
        work: A folder for what is in between.
        inputs: What the UNet is given: `inputs_of` a base model.
    """
    torch.save(inputs, work / "inputs.pt")
    paths = [work / f"answer-{number}.pt" for number in range(len(readings))]
    jobs = [(reader, str(out), str(path)) for (reader, out), path in zip(readings, paths, strict=True)]
    (work / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, adapter_readers.__file__, str(base_model), str(work)],
        check=False,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        cwd=work,
    )
    if done.returncode:
        raise RuntimeError(f"the readers ended with {done.returncode}: {done.stderr[-2000:]}")
    return [torch.load(path, weights_only=True) if path.exists() else Path(f"{path}.txt").read_text() for path in paths]


def inputs_of(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """What the readers' UNet is given: latents and text, and what SDXL's is given besides."""
    random, width = torch.Generator().manual_seed(0), model.unet.config.cross_attention_dim
    inputs = {"latents": torch.randn(1, 4, 4, 4, generator=random), "text": torch.randn(1, 4, width, generator=random)}
    if len(model.text_encoders) > 1:
        inputs["text_embeds"] = torch.randn(1, model.text_encoders[-1].config.projection_dim, generator=random)
        inputs["time_ids"] = torch.tensor([[96.0, 96.0, 0.0, 0.0, 32.0, 32.0]])
    return inputs


def answer_of(model: LatentDiffusion) -> torch.Tensor:
    """What the readers' UNet answers, of a UNet here."""
    with torch.no_grad():
        return adapter_readers.answer_of(model.unet, inputs_of(model))


def _largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())
