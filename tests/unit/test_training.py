"""What training recipes have in common: learning rates, the symmetries of the square, seeds, and freed memory."""

import itertools
import platform
import subprocess
import sys

import numpy as np
import pytest

from synthmix.service_kit.seeds import derived_rng, derived_seed
from synthmix.training.learning_rates import learning_rate_share
from synthmix.training.symmetries import SYMMETRIES, symmetries, symmetry


def shares(steps: int, **settings: float) -> list[float]:
    return [learning_rate_share(step, steps, **settings) for step in range(steps)]  # type: ignore[arg-type]


def test_the_learning_rate_goes_up_then_down() -> None:
    found = shares(100, warmup_steps=10, decline_from=9)
    assert found[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert all(later < earlier for earlier, later in itertools.pairwise(found[9:]))
    assert 0 < found[-1] < 1e-3


def test_the_peak_may_be_taken_twice_and_the_end_be_a_share_of_it() -> None:
    found = shares(100, warmup_steps=10, decline_from=10, final_share=0.05)
    assert found[8] < found[9] == found[10] == 1 > found[11]
    assert found[-1] == pytest.approx(0.05, abs=1e-3) and min(found[10:]) > 0.05


def test_a_training_of_one_step_takes_all_of_the_peak() -> None:
    assert shares(1, warmup_steps=1, decline_from=1) == shares(1, warmup_steps=1, decline_from=0) == [1]


def test_the_symmetries_are_those_of_the_square() -> None:
    image = np.arange(2 * 3 * 3).reshape(1, 3, 3, 2)
    views = [symmetry(image, view)[0] for view in range(SYMMETRIES)]
    assert len({view.tobytes() for view in views}) == 8
    assert np.array_equal(views[0], image[0])
    assert np.array_equal(views[1], np.rot90(image[0]))
    assert np.array_equal(views[4], image[0, :, ::-1])


def test_each_image_has_the_view_that_is_asked() -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 5, 5, 3), dtype=np.uint8)
    views = np.arange(20) % SYMMETRIES
    found = symmetries(images, views)
    for index, view in enumerate(views):
        assert np.array_equal(found[index], symmetry(images[index : index + 1], int(view))[0])


def test_seeds_are_the_same_everywhere() -> None:
    """These numbers stand for every image and training that was ever made: they must not change."""
    assert derived_seed(7, "order", 0) == ORDER_SEED
    assert derived_rng("statistics", 7, "seeds").integers(2**32) == STATISTICS_DRAW
    code = "from synthmix.service_kit.seeds import derived_seed; print(derived_seed(7, 'order', 0))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(result.stdout) == ORDER_SEED


ORDER_SEED = 2580505171678593669
STATISTICS_DRAW = 1671566901


SIZE_BYTES = 64 * 1024**2


MEASURE = f"""
import resource
from pathlib import Path
from synthmix.training.freed_memory import freed_memory_kept

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before = resident_bytes()

def left_bytes():
    bytearray(b"x") * {SIZE_BYTES}
    return resident_bytes() - before

left = [left_bytes()]
with freed_memory_kept():
    left.append(left_bytes())
left += [resident_bytes() - before, left_bytes()]
print(*left)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_stays_with_the_process_for_a_while() -> None:
    """What is left of memory that was taken and freed: in a process of its own, since others free theirs meanwhile."""
    result = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True)
    shares = [int(left_bytes) / SIZE_BYTES for left_bytes in result.stdout.split()]
    assert [share > 0.9 for share in shares] == [False, True, False, False]
    assert [share < 0.1 for share in shares] == [True, False, True, True]
