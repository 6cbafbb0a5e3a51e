"""Generates services/synthmix/api from the .proto files, lints them and checks that they break no earlier client.

    python protos/generate.py            # write services/synthmix/api
    python protos/generate.py --check    # regenerate elsewhere and compare; lint; breaking-change check
    python protos/generate.py --release  # accept today's protos as what later ones must not break

The proto packages are synthmix.<area>.v1. The generated modules live in Python's `synthmix.api.<area>.v1`, beside
what is written by hand: one rewritten import prefix, the descriptors keep their names.
"""

import argparse
import filecmp
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
GENERATED = PROTOS.parent / "services" / "synthmix" / "api"
BASELINE = PROTOS / "baseline.binpb"
INIT = '"""Generated from protos/ by protos/generate.py. Not to be edited."""\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true")
    mode.add_argument("--release", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        includes = write_includes(Path(scratch) / "include")
        descriptors = Path(scratch) / "descriptors.binpb"
        run_protoc(includes, [f"--descriptor_set_out={descriptors}", "--include_imports", "--include_source_info"])
        if arguments.release:
            shutil.copy(descriptors, BASELINE)
            return 0
        if not arguments.check:
            shutil.rmtree(GENERATED, ignore_errors=True)
            generate(includes, GENERATED)
            return 0
        fresh = Path(scratch) / "api"
        generate(includes, fresh)
        stale = differing_files(fresh, GENERATED)
        for name in stale:
            print(
                f"services/synthmix/api/{name} is not what protos/ generates: run `make protos`",
                file=sys.stderr,
            )
        lint = buf("lint", str(descriptors))
        breaking = buf("breaking", str(descriptors), "--against", str(BASELINE))
        return 1 if stale or lint or breaking else 0


def write_includes(folder: Path) -> list[Path]:
    """Returns protoc's include folders. The common protos' package ships operations.proto under another name."""
    common = Path(str(importlib.metadata.distribution("googleapis-common-protos").locate_file("")))
    target = folder / "google" / "longrunning"
    target.mkdir(parents=True)
    shutil.copy(common / "google" / "longrunning" / "operations_proto.proto", target / "operations.proto")
    bundled = Path(protoc.__file__).parent / "_proto"
    return [PROTOS, folder, common, bundled]


def run_protoc(includes: list[Path], outputs: list[str]) -> None:
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("synthmix/**/*.proto"))
    if protoc.main(["protoc", *(f"-I{folder}" for folder in includes), *outputs, *sources]) != 0:
        raise SystemExit("protoc failed; its message is above")


def generate(includes: list[Path], target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(includes, [f"--{kind}_out={scratch}" for kind in ("python", "pyi", "grpc_python")])
        shutil.copytree(Path(scratch) / "synthmix", target)
    for module in target.rglob("*.py*"):
        text = module.read_text()
        module.write_text(re.sub(r"^(from|import) synthmix\.", r"\1 synthmix.api.", text, flags=re.MULTILINE))
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text(INIT)


def differing_files(fresh: Path, committed: Path) -> list[str]:
    names = {
        str(path.relative_to(root))
        for root in (fresh, committed)
        for path in root.rglob("*.py*")
        if "__pycache__" not in path.parts
    }
    _, mismatch, missing = filecmp.cmpfiles(fresh, committed, sorted(names), shallow=False)
    return sorted(mismatch + missing)


def buf(*arguments: str) -> int:
    binary = Path(sys.executable).with_name("buf")
    return subprocess.run([str(binary), *arguments, "--config", str(PROTOS / "buf.yaml")], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
