"""What the tests of every tier share."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core; torch's threads, one a core in each, would be in their way
    os.environ.setdefault("OMP_NUM_THREADS", "1")
