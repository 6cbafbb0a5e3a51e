"""A worker's process does a study's tasks again and again, and takes no more memory for it."""

import gc
import os
from pathlib import Path

import pytest
import torch

from image_archives import BY_PLATE, dataset
from in_process_study import InProcessServices, run_study, workers_open
from memory_object_store import MemoryObjectStore
from soak.catalogue import requests_of, write_images
from soak.measures import MIB, anonymous_bytes
from synthmix.service_kit.requesters import LOCAL
from synthmix.study_control.datasets import claim_name
from tiny_base_model import write_tiny_base_model

pytestmark = pytest.mark.usefixtures("any_base_model", "own_cache", "nothing_kept")

# The first one imports what it needs, and keeps the base model.
FIRST, MORE = 1, 2
# Fifteen studies left some eight each, and 0.1 MB.
MOST_OBJECTS = 500
MOST_BYTES = 16 * MIB


def test_studies_leave_nothing_behind_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    model = write_tiny_base_model(tmp_path / "model")
    taken = []
    for number, request in enumerate(requests_of(seed=7, caller=0, base_model=model)[: FIRST + MORE]):
        store = MemoryObjectStore.created()
        folder = write_images(tmp_path / f"images-{number}", request.dataset)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}
        images = dataset(store, folder, files, group_rule=BY_PLATE).name
        claim_name(store, LOCAL, request.dataset, images, account=None, replace=False)
        with monkeypatch.context() as patch:
            workers_open(store, patch)
            run_study(store, InProcessServices(store), request.spec, patch)
        del store
        gc.collect()
        taken.append((len(gc.get_objects()), anonymous_bytes(os.getpid())))
    objects, taken_bytes = (after - before for before, after in zip(taken[FIRST - 1], taken[-1], strict=True))
    assert objects < MOST_OBJECTS, taken
    assert taken_bytes < MOST_BYTES, taken
