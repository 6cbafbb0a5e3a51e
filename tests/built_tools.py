"""Where the Makefile puts the programs that it builds from source."""

import os
from pathlib import Path

TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synthmix" / "tools" / "bin"
