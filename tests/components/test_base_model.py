"""Which base model a reference means, and what can't be one."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import load_file, save_file

from synthmix.latent_diffusion.autoencoder import load_autoencoder
from synthmix.latent_diffusion.base_model import resolve, verify
from synthmix.latent_diffusion.loading import load
from synthmix.latent_diffusion.part_layers import UNET, part_layers
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.errors import FailedPrecondition, InvalidArgument
from tiny_base_model import write_tiny_base_model, write_tiny_sdxl

pytestmark = pytest.mark.usefixtures("any_base_model")

FIELD = "adapter.base_model"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_the_builtin_model_is_there() -> None:
    model = resolve("builtin", field=FIELD)
    assert model.image_size_px == 64
    assert len(model.digest) == 32


def test_a_folder_is_addressed_by_its_content(tiny: Path, copied: Path) -> None:
    model = resolve(str(tiny), field=FIELD)
    assert model.image_size_px == 32
    assert resolve(str(copied), field=FIELD).digest == model.digest
    index = copied / "model_index.json"
    before = index.read_text()
    index.write_text(before.replace("DDIMScheduler", "PNDMScheduler"))
    assert resolve(str(copied), field=FIELD).digest != model.digest, "the index says what is made of the files"
    index.write_text(before)
    config = copied / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    changed = resolve(str(copied), field=FIELD)
    assert changed.digest != model.digest
    with pytest.raises(FailedPrecondition, match="files differ"):
        verify(changed, model.digest)


class FakeHub:
    """Serves one model as the hub does, under two names: its files by commit, and what it knows of them."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, folder: Path):
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.said_sizes: dict[str, int | None] = {}
        self.fetched: list[str] = []
        self.parts: list[tuple[str, int]] = []

    def model(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            item: dict[str, Any] = {"rfilename": name, "blobId": "0" * 40}
            item["size"] = self.said_sizes.get(name, len(content))
            if name.endswith((".safetensors", ".bin")):
                item["lfs"] = {"sha256": sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            siblings.append(item)
        return {"id": "owner/tiny", "modelId": "owner/tiny", "sha": self.commit, "siblings": siblings, "tags": []}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path.replace("/owner/twin/", "/owner/tiny/")
        file, status = self.files.get(path.removeprefix(f"/owner/tiny/resolve/{self.commit}/")), 200
        if path == f"/api/models/owner/tiny/tree/{self.commit}":
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.files.items()
            ]
            body = json.dumps(entries).encode()
        elif path.startswith("/api/models/owner/tiny/revision/"):
            body = json.dumps(self.model()).encode()
        elif file is not None and (asked := request.headers.get("Range", "")):
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            status, body = 206, file[first : last + 1]
            self.parts.append((path.rpartition(f"{self.commit}/")[2], len(body)))
        elif file is not None:
            body = file
            if request.command == "GET":
                self.fetched.append(path.rpartition(f"{self.commit}/")[2])
        else:
            request.send_response(404)
            request.send_header("X-Error-Code", "RepoNotFound")
            return request.end_headers()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        request.send_header("X-Repo-Commit", self.commit)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)
        return None


@pytest.fixture
def hub(copied: Path) -> Iterator[tuple[FakeHub, str]]:
    """A hub with the tiny model, in other formats and variants too; and its address."""
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    for other in (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "all.safetensors",
    ):
        (copied / other).write_bytes(weights.read_bytes()[:100])
    with serving(copied) as found:
        yield found


@contextmanager
def serving(folder: Path) -> Iterator[tuple[FakeHub, str]]:
    """A hub with a model, and its address."""
    fake = FakeHub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.answer(self)

        def do_HEAD(self) -> None:
            fake.answer(self)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # Whoever ends it waits for the poll.
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield fake, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def in_another_process(code: str, endpoint: str, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The hub's address is read when its library is imported."""
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment = os.environ | hub | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def resolved(endpoint: str, cache: Path, *, weights: bool, **variables: str) -> dict[str, str]:
    code = (
        "import json; from synthmix.latent_diffusion.base_model import resolve; "
        f"found = resolve('owner/tiny', field='x', weights={weights}); "
        "print(json.dumps({'reference': found.reference, 'digest': found.digest}))"
    )
    result = in_another_process(code, endpoint, cache, **variables)
    assert result.returncode == 0, result.stderr
    value: dict[str, str] = json.loads(result.stdout)
    return value


def test_who_plans_downloads_no_weights_and_comes_to_the_same_digest(
    hub: tuple[FakeHub, str], tiny: Path, tmp_path: Path
) -> None:
    fake, endpoint = hub
    planned = resolved(endpoint, tmp_path / "front-end", weights=False)
    assert "model_index.json" in fake.fetched
    assert [name for name in fake.fetched if not name.endswith((".json", ".txt"))] == []
    assert planned["reference"] == f"owner/tiny@{fake.commit}"
    fake.fetched.clear()
    trained = resolved(endpoint, tmp_path / "worker", weights=True)
    assert trained == planned
    assert {name for name in fake.fetched if name.endswith((".safetensors", ".bin"))} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }, "neither variants nor other formats"
    assert resolve(str(tiny), field=FIELD).digest == planned["digest"], "a downloaded folder is the same model"
    nowhere = "http://127.0.0.1:9"
    assert resolved(nowhere, tmp_path / "worker", weights=False) == planned, "from the cache"


def test_a_client_downloads_what_it_imports_and_nothing_else(
    hub: tuple[FakeHub, str], tiny: Path, tmp_path: Path
) -> None:
    fake, endpoint = hub
    code = (
        "import json; from synthmix.client.model_source import read_source; "
        "found = read_source('owner/tiny@main', progress=lambda done, total: None); "
        "print(json.dumps([found.shown, {file.path: file.sha256 for file in found.files}]))"
    )
    result = in_another_process(code, endpoint, tmp_path)
    assert result.returncode == 0, result.stderr
    shown, files = json.loads(result.stdout)
    assert shown == f"owner/tiny@{fake.commit}"
    assert digest_of(files) == resolve(str(tiny), field=FIELD).digest
    assert set(fake.fetched) == set(files)
    again = in_another_process(code.replace("owner/tiny", "owner/other"), endpoint, tmp_path)
    assert "source: 'owner/other@main' is refused by the hub" in again.stderr.splitlines()[-1]
    nowhere = in_another_process(code, "http://127.0.0.1:9", tmp_path)
    assert "source: 'owner/tiny@main' cannot be had from the hub" in nowhere.stderr.splitlines()[-1]


def refused(
    endpoint: str, cache: Path, reference: str = "owner/tiny", *, weights: bool = False, **variables: str
) -> str:
    """What a planner, or a worker, says of a model that it refuses."""
    code = (
        "from synthmix.latent_diffusion.base_model import resolve; "
        f"resolve({reference!r}, field={FIELD!r}, weights={weights})"
    )
    result = in_another_process(code, endpoint, cache, **variables)
    assert result.returncode, "it was not refused"
    return result.stderr.splitlines()[-1]


def test_a_hub_that_cannot_be_asked_may_be_asked_again(tmp_path: Path) -> None:
    said = refused("http://127.0.0.1:9", tmp_path)
    assert "errors.Unavailable" in said
    assert f"{FIELD}: 'owner/tiny' is taken for a model of the hub and cannot be had from there" in said


@pytest.mark.parametrize("allowed", ["*", "owner/*", "owner/tiny", f"other/* owner/tiny@{FakeHub.commit}"])
def test_a_model_that_the_operator_allows(allowed: str, hub: tuple[FakeHub, str], tmp_path: Path) -> None:
    assert resolved(hub[1], tmp_path, weights=False, SYNTHMIX_HUB_MODELS=allowed)["reference"].endswith(FakeHub.commit)


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ("", "is not among those that are allowed (none)"),
        ("other/* owner/tin", "is not among those that are allowed (other/*, owner/tin)"),
        ("own/*", "or the chart's baseModels.hub.models"),
        (f"owner/tiny@{'1' * 40}", f"is the hub's commit {FakeHub.commit}"),
        (f"owner/tiny@{'1' * 40}", f"write owner/tiny@{'1' * 40}"),
        ("owner", "environment variable SYNTHMIX_HUB_MODELS holds 'owner'"),
        ("owner/tiny@main", "use *, owner/*, owner/name or owner/name@commit"),
    ],
)
def test_a_model_that_the_operator_does_not_allow(
    allowed: str, said: str, hub: tuple[FakeHub, str], tmp_path: Path
) -> None:
    assert said in refused(hub[1], tmp_path, SYNTHMIX_HUB_MODELS=allowed)
    assert hub[0].fetched == []


def test_who_plans_knows_the_layers_of_a_model_by_its_header_alone(
    hub: tuple[FakeHub, str], tiny: Path, tmp_path: Path
) -> None:
    fake, endpoint = hub
    name = "unet/diffusion_pytorch_model.safetensors"
    weights = fake.files[name]
    length = int.from_bytes(weights[:8], "little")
    fake.files[name] += bytes(200_000)  # who reads all of it would read these as well
    code = (
        "from synthmix.latent_diffusion.base_model import resolve; "
        "from synthmix.latent_diffusion.part_layers import UNET, part_layers; "
        "found = part_layers(resolve('owner/tiny', field='x', weights=False), UNET, field='x'); "
        "print(found.adaptable, sorted(found.others))"
    )
    result = in_another_process(code, endpoint, tmp_path)
    here = part_layers(resolve(str(tiny), field=FIELD), UNET, field=FIELD)
    assert result.stdout.strip() == f"{here.adaptable} {sorted(here.others)}", result.stderr
    assert name not in fake.fetched
    assert {part for part, _ in fake.parts} == {name}
    assert sum(size for _, size in fake.parts) <= max(length + 8, 100_001)

    fake.files[name] = b"version https://git-lfs.github.com/spec/v1"
    assert "is no safetensors file" in in_another_process(code, endpoint, tmp_path / "pointer").stderr


def test_no_model_of_the_hub_is_allowed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNTHMIX_HUB_MODELS")
    with pytest.raises(InvalidArgument, match=r"allowed \(none\)") as raised:
        resolve("owner/tiny", field=FIELD)
    assert raised.value.reason == "BASE_MODEL_NOT_ALLOWED"


def test_a_model_of_too_many_files_is_refused_before_any_is_downloaded(
    hub: tuple[FakeHub, str], tmp_path: Path
) -> None:
    fake, endpoint = hub
    parts = resolved(endpoint, tmp_path / "all", weights=True) and len(fake.fetched)
    fake.fetched.clear()
    said = refused(endpoint, tmp_path / "none", SYNTHMIX_HUB_MODEL_MOST_FILES=str(parts - 1))
    assert f"has {parts} files to download, more than {parts - 1}" in said
    assert "SYNTHMIX_HUB_MODEL_MOST_FILES or the chart's baseModels.hub.files" in said
    assert fake.fetched == []
    resolved(endpoint, tmp_path / "enough", weights=False, SYNTHMIX_HUB_MODEL_MOST_FILES=str(parts))


def test_a_model_that_is_too_large_is_refused_before_any_of_it_is_downloaded(
    hub: tuple[FakeHub, str], tmp_path: Path
) -> None:
    fake, endpoint = hub
    said = refused(endpoint, tmp_path, SYNTHMIX_HUB_MODEL_MOST_BYTES=str(64 << 10))
    assert "to download, more than 64 KiB; use another" in said
    assert "SYNTHMIX_HUB_MODEL_MOST_BYTES or the chart's baseModels.hub.size" in said
    fake.said_sizes["tokenizer/tokenizer.json"] = 300 << 20
    assert "MiB of files besides its weights, more than 256 MiB" in refused(endpoint, tmp_path)
    fake.said_sizes["tokenizer/tokenizer.json"] = None
    assert "the hub does not say how large tokenizer/tokenizer.json" in refused(endpoint, tmp_path)
    assert fake.fetched == []


def test_a_model_that_cannot_fit_into_the_node_s_cache_is_refused_before_any_of_it_is_downloaded(
    hub: tuple[FakeHub, str], tmp_path: Path
) -> None:
    """In a cluster the hub's cache is a folder of it, whose volume has a limit."""
    fake, endpoint = hub
    budget = {"SYNTHMIX_CACHE_DIR": str(tmp_path), "SYNTHMIX_CACHE_MOST_BYTES": "1000"}
    said = refused(endpoint, tmp_path / "huggingface", **budget)
    assert f"to download, more than the 1000 B that the cache {tmp_path} may hold; use another" in said
    assert "by SYNTHMIX_CACHE_MOST_BYTES or the chart's workers.*.cache" in said
    assert fake.fetched == []
    budget["SYNTHMIX_CACHE_MOST_BYTES"] = str(1 << 30)
    resolved(endpoint, tmp_path / "huggingface", weights=False, **budget)


def test_models_take_turns_in_a_cache_that_holds_one_and_none_goes_that_a_process_uses(
    hub: tuple[FakeHub, str], tmp_path: Path
) -> None:
    fake, endpoint = hub
    size_bytes = sum(len(fake.files[name]) for name in resolved_files(hub, tmp_path / "elsewhere"))
    hub_home = tmp_path / "cache" / "hub"
    cache = {"SYNTHMIX_CACHE_DIR": str(hub_home.parent), "SYNTHMIX_CACHE_MOST_BYTES": str(size_bytes * 3 // 2)}
    wants = (
        "from synthmix.latent_diffusion.base_model import resolve; from synthmix.service_kit import node_cache; "
        "node_cache.PATIENCE_SECONDS = 0.0; found = resolve('owner/{}', field='x'); "
    )
    reads = "import os; assert all(map(os.path.exists, found.folder.rglob('*'))); print(len(os.listdir(found.folder)))"
    command = [sys.executable, "-c", wants.format("tiny") + "print('found', flush=True); input(); " + reads]
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(hub_home), "HF_HUB_DISABLE_XET": "1"}
    with subprocess.Popen(
        command, env=os.environ | variables | cache, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "found\n"
        said = in_another_process(wants.format("twin"), endpoint, hub_home, **cache).stderr
        assert "ResourceExhausted" in said
        assert "beside what is in use" in said
        output, _ = user.communicate("\n", timeout=60)
        assert output == "6\n"
    for name in ("twin", "tiny", "twin"):
        result = in_another_process(wants.format(name) + reads, endpoint, hub_home, **cache)
        assert result.stdout == "6\n", result.stderr
    assert [path.name for path in (hub_home / "hub").glob("models--*")] == ["models--owner--twin"]


def resolved_files(hub: tuple[FakeHub, str], cache: Path) -> list[str]:
    """The files that a worker downloads."""
    fake, endpoint = hub
    resolved(endpoint, cache, weights=True)
    files, fake.fetched = fake.fetched, []
    return files


def test_neither_code_nor_pickles_nor_anything_else_is_downloaded(hub: tuple[FakeHub, str], tmp_path: Path) -> None:
    fake, endpoint = hub
    before = resolved(endpoint, tmp_path / "before", weights=True)
    wanted = set(fake.fetched)
    fake.fetched.clear()
    for name in (
        "pipeline.py",
        "unet/model.py",
        "unet/a.pkl",
        "vae/a.ckpt",
        "x/y.json",
        "unet/a/b.json",
        "unet/[a].json",
    ):
        fake.files[name] = b"{}"
    assert resolved(endpoint, tmp_path / "after", weights=True) == before
    assert set(fake.fetched) == wanted


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"pytorch_lora_weights.safetensors": b"x"}, "is an adapter (LoRA)"),
        ({"v1-5.safetensors": b"x", "README.md": b"x"}, "a single-file checkpoint"),
        ({"unet/model.onnx": b"x"}, "is in the ONNX format"),
    ],
)
def test_a_hub_s_repository_that_is_something_else_is_named(
    kept: dict[str, bytes], said: str, hub: tuple[FakeHub, str], tmp_path: Path
) -> None:
    fake, endpoint = hub
    fake.files = kept
    code = "from synthmix.latent_diffusion.base_model import resolve; resolve('owner/tiny', field='x', weights=False)"
    assert said in in_another_process(code, endpoint, tmp_path / "cache").stderr


def test_a_model_that_the_hub_refuses_is_an_error_of_the_field(hub: tuple[FakeHub, str], tmp_path: Path) -> None:
    code = (
        "from synthmix.latent_diffusion.base_model import resolve; resolve('owner/other', field='adapter.base_model')"
    )
    result = in_another_process(code, hub[1], tmp_path)
    assert (
        "InvalidArgument: adapter.base_model: 'owner/other' is taken for a model of the hub, which refuses it"
        in result.stderr
    )


def only_as_variants(folder: Path, components: Sequence[str], variant: str) -> None:
    for component in components:
        for weights in (folder / component).glob("*.safetensors"):
            tensors = {name: value.half() for name, value in load_file(weights).items()}
            save_file(tensors, weights.with_suffix(f".{variant}.safetensors"), metadata={"format": "pt"})
            weights.unlink()


@pytest.mark.parametrize("components", [("unet",), ("unet", "vae", "text_encoder"), ("text_encoder",)], ids=str)
def test_weights_that_are_only_there_in_float16_are_loaded(copied: Path, tiny: Path, components: list[str]) -> None:
    whole = load(tiny, torch.device("cpu"))
    before = resolve(str(copied), field=FIELD).digest
    only_as_variants(copied, components, "fp16")
    found = resolve(str(copied), field=FIELD)
    assert found.digest != before
    assert part_layers(found, UNET, field=FIELD) == part_layers(resolve(str(tiny), field=FIELD), UNET, field=FIELD)
    loaded = load(found.folder, torch.device("cpu"))
    for component in ("unet", "vae", "text_encoder"):
        expected = getattr(whole, component).state_dict()
        for name, value in getattr(loaded, component).state_dict().items():
            rounded = expected[name].half().float() if component in components else expected[name]
            assert torch.equal(value.float(), rounded), (component, name)
    alone = load_autoencoder(found.folder).state_dict()
    assert all(torch.equal(alone[name], value) for name, value in loaded.vae.state_dict().items())


def test_weights_are_loaded_whole_where_a_variant_lies_beside_them(copied: Path, tiny: Path) -> None:
    beside = copied / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    beside.write_bytes(b"anything")
    assert resolve(str(copied), field=FIELD).digest == resolve(str(tiny), field=FIELD).digest


def test_weights_that_are_only_there_as_other_variants_are_named_so(copied: Path) -> None:
    only_as_variants(copied, ["unet"], "non_ema")
    with pytest.raises(InvalidArgument, match="has only variants of the weights in unet, and not fp16; give a model"):
        resolve(str(copied), field=FIELD)


def test_a_model_that_the_hub_has_in_float16_alone_is_planned_and_downloaded(copied: Path, tmp_path: Path) -> None:
    only_as_variants(copied, ["unet", "vae", "text_encoder"], "fp16")
    with serving(copied) as (fake, endpoint):
        planned = resolved(endpoint, tmp_path / "front-end", weights=False)
        assert [name for name in fake.fetched if name.endswith(".safetensors")] == []
        assert resolved(endpoint, tmp_path / "worker", weights=True) == planned
    assert planned["digest"] == resolve(str(copied), field=FIELD).digest
    assert resolved("http://127.0.0.1:9", tmp_path / "worker", weights=True) == planned, "from the cache"


def test_an_sdxl_model_that_the_hub_has_in_float16_alone_is_planned_and_downloaded(tmp_path: Path) -> None:
    folder = write_tiny_sdxl(tmp_path / "sdxl")
    with_weights = ["unet", "vae", "text_encoder", "text_encoder_2"]
    only_as_variants(folder, with_weights, "fp16")
    (folder / "text_encoder_3").mkdir()  # of another kind of model
    (folder / "text_encoder_3" / "model.safetensors").write_bytes(b"anything")
    with serving(folder) as (fake, endpoint):
        planned = resolved(endpoint, tmp_path / "front-end", weights=False)
        assert [name for name in fake.fetched if name.endswith(".safetensors")] == []
        assert "tokenizer_2/tokenizer_config.json" in fake.fetched
        assert resolved(endpoint, tmp_path / "worker", weights=True) == planned
        loaded = {name.partition("/")[0] for name in fake.fetched if name.endswith(".safetensors")}
        assert loaded == set(with_weights)
    assert planned["digest"] == resolve(str(folder), field=FIELD).digest
    assert resolved("http://127.0.0.1:9", tmp_path / "worker", weights=True) == planned, "from the cache"
    said = refused("http://127.0.0.1:9", tmp_path / "front-end", weights=True)
    assert "cannot be had from there" in said, "the cache has no weights"
    model = load(resolve(str(folder), field=FIELD).folder, torch.device("cpu"))
    assert model.text_encoders[1].text_projection.weight.abs().sum() > 0


@pytest.mark.parametrize("reference", ["", "embeded", "/no/such/folder", "./nothing", "a/b/c"])
def test_what_is_no_model_is_refused(reference: str) -> None:
    with pytest.raises(InvalidArgument, match=r"adapter\.base_model"):
        resolve(reference, field=FIELD)


def test_a_folder_without_a_part_names_it(copied: Path) -> None:
    shutil.rmtree(copied / "vae")
    with pytest.raises(InvalidArgument, match="lacks vae") as raised:
        resolve(str(copied), field=FIELD)
    assert raised.value.reason == "BASE_MODEL_INCOMPLETE"


def test_a_folder_that_is_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"model_index\.json"):
        resolve(str(tmp_path), field=FIELD)


def test_pickled_weights_are_never_loaded(copied: Path) -> None:
    for weights in (copied / "unet").glob("*.safetensors"):
        os.rename(weights, weights.with_suffix(".bin"))
    with pytest.raises(InvalidArgument, match="pickled weights are never loaded"):
        resolve(str(copied), field=FIELD)


REFUSED = [
    "x" * 70_000,
    "/etc\0",
    "\0",
    "/" + "y/" * 5_000,
    "~nobody-of-this-name/x",
    "a/b@../../c",
    "\ud800/x",
    "a/b/c",
]


@pytest.mark.parametrize("reference", REFUSED, ids=range(len(REFUSED)))
def test_what_can_be_no_base_model_is_a_fault_of_the_field(reference: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        resolve(reference, field=FIELD)
    assert raised.value.violations[0].field == FIELD


def test_whether_a_folder_exists_is_told_only_below_the_operators(
    tiny: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = tmp_path / "offered"
    offered.mkdir()
    (offered / "link").symlink_to(copied)
    monkeypatch.setenv("SYNTHMIX_BASE_MODEL_FOLDERS", f"{offered}:{tiny}")
    assert resolve(str(tiny), field=FIELD).folder == tiny
    answers = set()
    for reference in (
        copied,
        offered / "link",
        offered / ".." / "model",
        "/etc",
        "/root",
        tmp_path,
        "/no/such",
        "~",
        "..",
    ):
        with pytest.raises(InvalidArgument) as raised:
            resolve(str(reference), field=FIELD)
        answers.add(raised.value.message.replace(repr(str(reference)), "..."))
    assert len(answers) == 1
    monkeypatch.delenv("SYNTHMIX_BASE_MODEL_FOLDERS")
    with pytest.raises(InvalidArgument):
        resolve(str(tiny), field=FIELD)
