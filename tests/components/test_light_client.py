"""`pip install synthmix` alone: the client and the command line do their work without what the extras bring.

Whatever isn't Python's own, SynthMix's or a package of `dependencies` in pyproject.toml can't be imported here.
"""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import fake_services as fake
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.base_models.v1 import base_models_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2

REPOSITORY = Path(__file__).resolve().parents[2]
# The modules of each distribution that the client depends on, with those of what it depends on in turn.
MODULES = {
    "google-re2": ["re2", "_re2"],
    "googleapis-common-protos": ["google"],
    "grpcio": ["grpc", "typing_extensions"],
    "grpcio-health-checking": ["grpc_health"],
    "grpcio-status": ["grpc_status"],
    "protobuf": ["google"],
    "psutil": ["psutil"],
    "pyyaml": ["yaml", "_yaml"],
    "rich": ["rich", "pygments", "markdown_it", "mdurl"],
}
IMAGES_OPERATION = f"operations/image-synthesis/{fake.ID}"
ONLY_LIGHT = """
import importlib.abc, sys

class OnlyLight(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyLight())
"""


def light(code: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that has a light client's packages only."""
    allowed = {"synthmix", *(module for modules in MODULES.values() for module in modules)}
    return subprocess.run(
        [sys.executable, "-c", f"ALLOWED = {allowed!r}\n{ONLY_LIGHT}\n{code}", *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "services")} | (environment or {}),
        check=False,
        capture_output=True,
        text=True,
    )


def command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    code = "from synthmix.cli import main\nsys.exit(main(sys.argv[1:]))"
    return light(code, *arguments, environment={"SYNTHMIX_HOME": str(home), "COLUMNS": "200"})


def name_of(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0].partition("[")[0]


def test_the_modules_are_those_of_the_dependencies() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {name_of(item) for item in project["dependencies"]} == set(MODULES)


@pytest.mark.parametrize("module", ["ray", "torch", "kubernetes", "pyarrow", "minio", "numpy", "PIL"])
def test_the_extras_packages_are_out_of_reach(module: str) -> None:
    result = light(f"import {module}")
    assert f"No module named '{module}'" in result.stderr


def test_the_client_is_imported() -> None:
    result = light("from synthmix import Client, GroupRule, PixelRule, SynthMixError\nprint(Client.__name__)")
    assert (result.stdout, result.stderr) == ("Client\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["studies", "submit", "--help"]])
def test_the_command_line_explains_itself(arguments: list[str], tmp_path: Path) -> None:
    result = command(*arguments, home=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "synthmix" in result.stdout


def source_of(kind: str, folder: Path) -> Path:
    """A folder of class folders, a ZIP of one, or a CSV manifest beside it."""
    paths = [folder / label / f"chip-{chip}.png" for label in ("a", "b") for chip in (1, 2)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + str(path).encode())
    if kind == "ZIP":
        archive = folder.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w") as file:
            for path in paths:
                file.write(path, path.relative_to(folder))
        return archive
    if kind == "CSV":
        rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in paths]
        (folder / "manifest.csv").write_text("\n".join(["path,label", *rows]) + "\n")
        return folder / "manifest.csv"
    return folder


@pytest.mark.parametrize("kind", ["folder", "ZIP", "CSV"])
def test_a_dataset_is_imported(kind: str, tmp_path: Path) -> None:
    made = datasets_pb2.Dataset(name=f"datasets/{fake.ID}", display_name="cells", image_count=4)

    def created(request: Any, context: Any) -> Any:
        return fake.operation(fake.STUDY_OPERATION, response=made)

    with fake.serving() as services:
        services.answers |= {"UploadFile": fake.upload, "CreateDataset": created}
        result = command(
            *("--address", services.address, "--token", fake.TOKEN),
            *("datasets", "import", str(source_of(kind, tmp_path / "images")), "--name", "cells"),
            *("--group-pattern", r"chip-(?P<group>\d)"),
            home=tmp_path,
        )
    assert result.returncode == 0, result.stderr
    assert "cells" in result.stdout
    assert len(services.requests["CreateDataset"]) == 1


@pytest.mark.parametrize(("form", "out"), [("diffusers", "a.safetensors"), ("peft", "a"), ("kohya", "a.safetensors")])
def test_an_adapter_is_exported(form: str, out: str, tmp_path: Path) -> None:
    header = {
        "__metadata__": {"lora_adapter_metadata": '{"unet.peft_type": "LORA", "unet.r": 1, "unet.lora_alpha": 1}'},
        "unet.to_q.lora_A.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "unet.to_q.lora_B.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
    }
    text = json.dumps(header).encode()
    stored = {"pytorch_lora_weights.safetensors": len(text).to_bytes(8, "little") + text + bytes(16)}
    adapter = adapters_pb2.Adapter(
        name=f"adapters/{fake.ID}",
        settings=adapters_pb2.AdapterSettings(method="lora"),
        payloads=[fake.payload(name, data) for name, data in stored.items()],
    )
    with fake.serving() as services:
        services.answers |= {
            "GetAdapter": lambda request, context: adapter,
            "DownloadPayload": fake.download_of(stored),
        }
        result = command(
            *("--address", services.address, "--token", fake.TOKEN),
            *("adapters", "export", fake.ID, "--format", form, "--out", str(tmp_path / out)),
            home=tmp_path / "home",
        )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / out).exists()


def test_an_adapter_is_imported(tmp_path: Path) -> None:
    header = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": {
            "dtype": "F16",
            "shape": [1, 4],
            "data_offsets": [0, 8],
        },
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": {
            "dtype": "F16",
            "shape": [2, 1],
            "data_offsets": [8, 12],
        },
    }
    text = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    settings = adapters_pb2.AdapterSettings(method="lora", rank=1, base_model="builtin")
    made = adapters_pb2.Adapter(name=f"adapters/{fake.ID}", settings=settings, parameter_count=6)
    with fake.serving() as services:
        services.answers |= {
            "UploadFile": fake.upload,
            "CreateAdapter": lambda request, context: fake.operation(fake.ADAPTER_OPERATION, response=made),
        }
        result = command(
            *("--address", services.address, "--token", fake.TOKEN),
            *("adapters", "import", str(path), "--base-model", "builtin", "--class", "round", "--grey"),
            home=tmp_path / "home",
        )
    assert result.returncode == 0, result.stderr
    assert f"adapters/{fake.ID}: lora of rank 1 for builtin, 6 numbers" in result.stdout
    assert "it is not known on which images it was trained" in result.stdout
    [request] = services.requests["CreateAdapter"]
    assert (list(request.adapter.imported.classes), request.adapter.imported.grey) == (["round"], True)
    assert request.adapter.settings.base_model == "builtin"
    assert not request.adapter.settings.HasField("prompt")


def test_images_are_imported(tmp_path: Path) -> None:
    folder = source_of("folder", tmp_path / "images")
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    rows = [json.dumps({"file_name": str(path), "prompt": "a cell", "seed": 1}) for path in paths]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    (tmp_path / "seen.txt").write_text(f"{'a' * 64}  a.png\n")
    made = image_sets_pb2.ImageSet(name=f"image-sets/{fake.ID}", image_count=4)
    made.imported.origin, made.imported.image_size, made.imported.seen.image_count = "images", 64, 1
    part = f"splits/{fake.ID}/parts/train"
    with fake.serving() as services:
        services.answers |= {
            "UploadFile": fake.upload,
            "CreateImageSet": lambda request, context: fake.operation(IMAGES_OPERATION, response=made),
        }
        result = command(
            *("--address", services.address, "--token", fake.TOKEN),
            *("images", "import", str(folder), "--saw", part, "--saw-list", str(tmp_path / "seen.txt")),
            home=tmp_path / "home",
        )
        silent = command(
            *("--address", services.address, "--token", fake.TOKEN, "images", "import", str(folder)), home=tmp_path
        )
    assert result.returncode == 0, result.stderr
    assert f"image-sets/{fake.ID}: 4 images of 64 x 64 pixels, from images" in result.stdout
    assert "said to have seen 1 real image, and evaluations whose validation or test part holds" in result.stdout
    [request] = services.requests["CreateImageSet"]
    imported = request.image_set.imported
    assert (imported.origin, list(imported.seen.all_of), imported.HasField("image_size")) == ("images", [part], False)
    assert (
        imported.seen.list_upload == f"uploads/{hashlib.sha256(f'{64 * chr(97)}'.encode() + bytes([10])).hexdigest()}"
    )
    assert silent.returncode == 2 and "--saw-none if it saw no image of your data sets" in silent.stderr


def test_a_base_model_is_imported(tmp_path: Path) -> None:
    made = base_models_pb2.BaseModel(name=f"models/{fake.ID}", source="builtin", size_bytes=7, image_size=64)

    def created(request: Any, context: Any) -> Any:
        if not request.validate_only:
            return fake.operation(fake.ADAPTER_OPERATION, response=made)
        missing = [] if "UploadFile" in services.requests else [f"uploads/{request.base_model.files[0].sha256}"]
        return fake.operation("", response=base_models_pb2.BaseModelPlan(missing_uploads=missing, checked=not missing))

    with fake.serving() as services:
        services.answers |= {
            "UploadFile": fake.upload,
            "CreateBaseModel": created,
            "GetBaseModel": lambda request, context: made,
        }
        result = command(
            *("--address", services.address, "--token", fake.TOKEN),
            *("models", "import", str(REPOSITORY / "services/synthmix/latent_diffusion/builtin")),
            home=tmp_path,
        )
    assert result.returncode == 0, result.stderr
    assert f"a study or an adapter names it by `base_model: models/{fake.ID}`" in result.stdout
    assert len(services.requests["UploadFile"]) == 1
    paths = {item.path for item in services.requests["CreateBaseModel"][-1].base_model.files}
    assert {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"} < paths
    assert "README.md" not in paths


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["demo"], "local"),
        (["datasets", "simulate", "images"], "local"),
        (["adapters", "merge", "a.safetensors", "--weights", "1", "--out", "b.safetensors"], "merge"),
        (["models", "import", "owner/name@main"], "hub"),
        (["--release", "lab/synthmix", "studies", "list"], "release"),
        (["datasets", "import", "manifest.parquet", "--name", "cells", "--no-groups"], "parquet"),
        (["images", "export", fake.ID, "--format", "zip", "--out", "images.zip"], "parquet"),
    ],
)
def test_what_needs_an_extra_says_which(
    arguments: list[str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("manifest.parquet").write_bytes(b"PAR1 and so on")
    address = [] if "--release" in arguments else ["--address", "127.0.0.1:1", "--token", "t"]
    result = command(*address, *arguments, home=tmp_path)
    assert result.returncode == 1
    assert f"pip install 'synthmix[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr
