"""Images for a cluster that reaches no registry of images: those that make builds, and those of a program alone."""

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREFIX, TAG = "localhost/synthmix", "e2e"
BASE = f"{PREFIX}/debian:bookworm"
CERTIFICATES = "/run/certificates.crt"
NOBODY = "65534:65534"


def build_images() -> dict[str, str]:
    """Builds the control and the worker image on a Debian base of this machine's own making, from the builder's caches.

    Returns:
        Id of each image by its name.
    """
    if not _image_id(BASE):
        _run("bash", "deploy/images/debootstrap.sh", BASE)
    # A machine that may not raise its limits has no other way than to keep them. A revision would make every commit's
    # image another one, which the node would have to be given.
    flags = ["--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--build-arg=REVISION=e2e"]
    if _builder() != "docker":
        flags.append("--layers")
        if certificates := os.environ.get("SSL_CERT_FILE"):
            flags += [f"--volume={certificates}:{CERTIFICATES}:ro", f"--build-arg=CA_BUNDLE={CERTIFICATES}"]
    variables = {
        "CONTAINER_TOOL": _builder(),
        "IMAGES": "control worker",
        "IMAGE_PREFIX": PREFIX,
        "IMAGE_TAG": TAG,
        "BASE_IMAGE": BASE,
        "IMAGE_BUILD_FLAGS": " ".join(flags),
    }
    _run("make", "images", *(f"{name}={value}" for name, value in variables.items()))
    return {name: _image_id(name) for name in (f"{PREFIX}/control:{TAG}", f"{PREFIX}/worker:{TAG}")}


def export_image(name: str) -> subprocess.Popen[bytes]:
    """A process that writes a built image to its standard output, in the layout of `docker save`."""
    if _builder() == "buildah":
        command = ["buildah", "push", "--quiet", name, f"docker-archive:/dev/stdout:{name}"]
    else:
        command = [_builder(), "save", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def write_image(archive: Path, name: str, files: Mapping[str, Path], entrypoint: Sequence[str]) -> None:
    """An image of a few files and nothing else, run as nobody, in the layout of `docker save`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for path, source in files.items():
            _add(tar, path.lstrip("/"), source.read_bytes(), 0o755)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "User": NOBODY},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, "layer.tar", layer.getvalue())
        _add(tar, "config.json", json.dumps(configuration).encode())
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def program_files(program: Path) -> dict[str, Path]:
    """A program and the libraries that it is linked to, by their places in an image."""
    result = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    libraries = re.findall(r"(/\S+) \(0x", result.stdout)
    return {program.name: program, **{path: Path(path) for path in libraries}}


def _builder() -> str:
    builder = os.environ.get("CONTAINER_TOOL")
    if not builder:
        raise RuntimeError("images are built by docker, podman or buildah, and none of them works here: install one")
    return builder


def _image_id(name: str) -> str:
    """Empty: there is no such image."""
    if _builder() == "buildah":
        command = ["buildah", "inspect", "--type=image", "--format={{.FromImageID}}", name]
    else:
        command = [_builder(), "image", "inspect", "--format={{.Id}}", name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip().removeprefix("sha256:") if result.returncode == 0 else ""


def _run(*command: str) -> None:
    """Its output is the tests' own: builds take minutes."""
    subprocess.run(command, cwd=ROOT, check=True)


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
