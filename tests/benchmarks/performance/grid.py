"""A grid of 24 trials, six phenotypes, lite0, 64 pixels, two epochs, beside a plain timm script once a trial.

Ours is an evaluation of a local stack that has just started, from the call that creates it to its end: its workers
start, import and decode within that time. The peer (peers/timm_training.py) takes the same images, one process a trial
of one thread, as many at once as there are processors. As each of its trials starts anew, a few tell what 24 take.

The images are those of ../shared/data, which its README describes.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch

from classifier_training import FOLDER, settings
from real_images import MITOCHECK_SIX, PLATE
from side_by_side import Row, environment, run
from synthmix import Client, GroupRule
from synthmix.api.evaluations.v1.evaluations_pb2 import ClassifierSettings, Evaluation, MixtureSettings
from synthmix.classifier_evaluation import recipe, trials
from synthmix.classifier_evaluation.mixtures import MixtureSpec, TrialSpec
from synthmix.client.client import result_of
from synthmix.image_data.mixture_kinds import REAL
from synthmix.image_data.split_parts import open_split
from synthmix.local import Connection, local_stack
from synthmix.local.machine import usable_cpus
from synthmix.service_kit.resource_names import PARTS
from synthmix.service_kit.s3_object_store import S3ObjectStore

PEER = Path(__file__).with_name("peers") / "timm_training.py"
PAIRS = 2
# The parts of a trial that are functions of their own; what is left of its steps is the forward pass.
PARTS_OF_A_TRIAL: tuple[tuple[str, Any, str], ...] = (
    ("opening", trials, "open_split"),
    ("opening", trials, "find_manifest"),
    ("opening", trials, "compose"),
    ("opening", trials, "pixels"),
    ("network", recipe, "untrained_classifier"),
    ("batches", recipe, "training_batch"),
    ("backward pass", torch.Tensor, "backward"),
    ("optimizer", torch.optim.AdamW, "step"),
    ("optimizer", torch.optim.AdamW, "zero_grad"),
    ("validation and test", recipe, "predict"),
    ("writing", trials, "predictions_table"),
    ("writing", trials, "write_payload"),
    ("writing", trials, "write_manifest"),
)


def evaluated(client: Client, split: str, classifier: ClassifierSettings, seeds: int) -> float:
    """Wall seconds of an evaluation with as many trials as seeds."""
    evaluation = Evaluation(split=split, mixtures=MixtureSettings(ratios=[0]), classifier=classifier, seeds=seeds)
    evaluation.mixtures.synthetic_only = False
    begun_s = time.perf_counter()
    made = result_of(client.wait(client.evaluations.create(evaluation)), Evaluation)
    assert made.trial_count == seeds
    return time.perf_counter() - begun_s


def files_of(connection: Connection, split: str) -> dict[str, list[tuple[str, int]]]:
    """The parts of a split as the peer takes them."""
    paths = {
        hashlib.sha256(path.read_bytes()).hexdigest(): str(path)
        for name in MITOCHECK_SIX
        for path in (FOLDER / name).iterdir()
    }
    parts = open_split(S3ObjectStore(connection.object_store), split, field="split")
    return {
        name: [(paths[sha256], label) for sha256, label in zip(part.sha256s, part.labels, strict=True)]
        for name, part in zip(PARTS, parts, strict=True)
    }


def by_scripts(split: Path, epochs: int, count: int) -> float:
    """Wall seconds of so many runs of the peer's script."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def trial(seed: int) -> None:
        out = split.with_name(f"{seed}.npz")
        options = ["--split", split, "--out", out, "--seed", str(seed), "--epochs", str(epochs)]
        subprocess.run([sys.executable, PEER, *options], env=environment, check=True, stdout=subprocess.DEVNULL)

    begun_s = time.perf_counter()
    with ThreadPoolExecutor(usable_cpus()) as at_once:
        list(at_once.map(trial, range(count)))
    return time.perf_counter() - begun_s


def profile(connection: Connection, split: str, classifier: ClassifierSettings) -> dict[str, float]:
    """Seconds of each part of a trial in this process, on one thread, when another was there before."""
    store = S3ObjectStore(connection.object_store)
    seconds: dict[str, float] = defaultdict(float)

    def watched(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begun_s = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[part] += time.perf_counter() - begun_s

        return call

    def trial(seed: int, trial_settings: ClassifierSettings) -> float:
        begun_s = time.perf_counter()
        spec = TrialSpec(MixtureSpec(REAL, 0.0, None, None), seed)
        trials.evaluate_trial(store, split, spec, trial_settings, report=lambda steps: None, threads=1)
        return time.perf_counter() - begun_s

    trial(1_000, settings(1))  # seeds that the grid does not have
    with ExitStack() as patches:
        for part, owner, name in PARTS_OF_A_TRIAL:
            patches.enter_context(mock.patch.object(owner, name, watched(part, getattr(owner, name))))
        whole_s = trial(1_001, classifier)
    seconds["forward pass"] = whole_s - sum(seconds.values())
    return dict(seconds)


def profile_text(seconds: Mapping[str, float]) -> str:
    whole_s = sum(seconds.values())
    steps_s = sum(seconds[part] for part in ("forward pass", "backward pass", "optimizer", "batches"))
    each = ", ".join(f"{part} {share_s:.2f} s" for part, share_s in sorted(seconds.items(), key=lambda item: -item[1]))
    return f"A trial of {whole_s:.1f} s in a worker that is warm: {each}; {1 - steps_s / whole_s:.0%} is not training."


@contextmanager
def fresh_stack(folder: Path) -> Iterator[tuple[Connection, Client, str]]:
    """A stack that has done nothing but import the images and split them."""
    with local_stack(folder) as connection, Client.connect(folder) as client:
        dataset = client.import_dataset(FOLDER, "six", group=GroupRule(pattern=PLATE), classes=MITOCHECK_SIX)
        yield connection, client, client.create_split(dataset.name, test=0.25, validation=0.15, seed=7).name


def measure(quick: bool) -> list[Row]:
    if not FOLDER.is_dir():
        print(f"left out: the real images are not here ({FOLDER})")
        return []
    seeds, epochs, peers, pairs = (4, 1, 2, 1) if quick else (24, 2, 4, PAIRS)
    classifier = settings(epochs)
    ours_s, peer_s, profiles = [], [], []
    for _ in range(pairs):
        with TemporaryDirectory(prefix="smx") as scratch:
            os.environ["SYNTHMIX_CACHE_DIR"] = f"{scratch}/cache"  # of the profile, which runs in this process
            with fresh_stack(Path(scratch) / "home") as (connection, client, split):
                parts = Path(scratch) / "split.json"
                parts.write_text(json.dumps(files_of(connection, split)))
                ours_s.append(evaluated(client, split, classifier, seeds) / seeds)
                profiles.append(profile_text(profile(connection, split, classifier)))
            peer_s.append(by_scripts(parts, epochs, peers) / peers)
    ratios = [other / own for own, other in zip(ours_s, peer_s, strict=True)]
    return [
        Row(
            f"grid of {seeds} trials of {epochs} epochs, six phenotypes, lite0, 64 px, starts included, in wall time",
            "a plain timm script, a process a trial",
            "trial",
            3.0,
            ratios,
            ratios,
            median(ours_s),
            median(peer_s),
            note=f"The stack's own start is not counted; of the peer, {peers} trials were run. {profiles[0]}",
            environment=environment(),
        )
    ]


def main() -> None:
    run(measure, __doc__)


if __name__ == "__main__":
    main()
