"""Runs every comparison, and writes performance.md and .json: ``python tests/benchmarks/performance [--quick]``.

One script after another, each in a process of its own. They are written into tests/benchmarks/results, and with --quick
into build/performance.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from side_by_side import table

FOLDER = Path(__file__).resolve().parent
SHARED = {"__main__", "side_by_side", "text_to_image_lora", "adapter_worker"}
HEAD = """# Speed

`make bench` writes this file: ours beside a peer's public loop on the same machine, in turns. A ratio is how many times
as many units ours makes in the same processor time; above 1 ours is faster. The share of the peak is that of the
machine's own matrix products, measured beside it.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less work in each loop, and five pairs all the same")
    arguments = parser.parse_args()
    scratch = Path("build/performance")
    results = scratch if arguments.quick else FOLDER.parent / "results"
    rows = []
    for script in sorted(FOLDER.glob("*.py")):
        if script.stem in SHARED:
            continue
        print(f"\n{script.stem}", flush=True)
        quick = ["--quick"] if arguments.quick else []
        subprocess.run([sys.executable, script, "--out", scratch, *quick], check=True)
        rows += json.loads((scratch / f"{script.stem}.json").read_text())
    found = ", ".join(f"{name} {value}" for name, value in rows[-1]["environment"].items())
    text = f"{HEAD}{table(rows)}\n{found}{'; --quick' if arguments.quick else ''}.\n"
    (results / "performance.json").write_text(json.dumps(rows, indent=1) + "\n")
    (results / "performance.md").write_text(text)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
