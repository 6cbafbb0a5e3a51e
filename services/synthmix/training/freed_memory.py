"""What a training step frees stays with the process for the next step, which needs as much again.

As glibc's thresholds are, large tensors go back to the kernel when they are freed, and come from it anew page by page:
3,000 to 6,000 page faults in a step of tf_efficientnet_lite0 with 32 images of 64 pixels, which are 5 % of its time. No
number that is computed depends on it.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_NEVER_BYTES = 2**31 - 1
# What glibc raises them to by itself, at most, as long as nobody sets them (mallopt(3)).
_RAISED_BYTES = {_M_MMAP_THRESHOLD: 32 * 1024**2, _M_TRIM_THRESHOLD: 64 * 1024**2}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block, the process keeps what is freed; after it, what nothing uses goes back to the kernel.

    Other C libraries than glibc are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for parameter in _RAISED_BYTES:
        libc.mallopt(parameter, _NEVER_BYTES)
    try:
        yield
    finally:
        for parameter, raised_bytes in _RAISED_BYTES.items():
            libc.mallopt(parameter, raised_bytes)
        libc.malloc_trim(0)
