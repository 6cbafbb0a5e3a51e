"""Whatever is sent to any method, the answer is a code for the caller's fault, not for ours: services in this process.

Their object storage is memory, and nothing starts what they are asked for; tests/integration has the real ones.
"""

import logging
from pathlib import Path

import pytest

from fuzzing import DATASET, KINDS, fuzz, methods_of
from image_archives import dataset
from memory_object_store import MemoryObjectStore
from served import TOKEN, serving
from synthmix.service_kit.requesters import LOCAL
from synthmix.study_control.datasets import claim_name

SEED = 16
CALLS = 800


@pytest.mark.usefixtures("any_base_model")
def test_no_call_of_any_method_is_a_defect(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    store = MemoryObjectStore.created()
    claim_name(store, LOCAL, DATASET, dataset(store, tmp_path).name, account=None, replace=False)
    with serving(store) as services, caplog.at_level(logging.WARNING):
        methods = methods_of(list(services.values()))
        codes, faults = fuzz(services, TOKEN, seed=SEED, calls=CALLS)
    faults += [record.getMessage() for record in caplog.records if record.exc_info]
    assert not faults, "\n".join(faults[:10])
    assert codes["INVALID_ARGUMENT"] > CALLS / 4 and codes["UNAUTHENTICATED"] and codes["OK"]
    assert len(methods) * len(KINDS) / 2 < CALLS
