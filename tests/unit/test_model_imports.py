"""Imported base models: what is refused before the weights are sent, what is sent again, and whose they are."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from served import serving
from stored_models import files_of, store_model
from synthmix.api.base_models.v1 import base_models_pb2
from synthmix.client.client import Client, Operation, Transfer, result_of
from synthmix.client.endpoints import Endpoints
from synthmix.client.transport import Channels
from synthmix.latent_diffusion.base_model import resolve
from synthmix.service_kit import owners
from synthmix.service_kit.artifacts import Manifest, write_manifest
from synthmix.service_kit.authentication import Identity
from synthmix.service_kit.digests import sha256_of_file
from synthmix.service_kit.environment import SweepSettings
from synthmix.service_kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from synthmix.service_kit.owners import Fixed
from synthmix.service_kit.resource_names import ADAPTERS, ArtifactName
from synthmix.service_kit.safetensors_header import header_length
from synthmix.service_kit.sweep import sweep
from test_base_model_files import Change, config, cut, index, raw, text, unet, vae, without, write_model

pytestmark = pytest.mark.usefixtures("own_cache")

UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class Users:
    """Stands for the cluster: a token is its user's name."""

    async def check(self, token: str, method: str) -> Identity:
        return Identity(token, names_others=False, administration=Fixed(False))


@dataclass
class Lab:
    """The services, and a client of each user."""

    store: MemoryObjectStore
    addresses: dict[str, str]
    clients: ExitStack

    def client(self, user: str = "ada") -> Client:
        return self.clients.enter_context(Client(Channels(Endpoints(self.addresses, user))))

    def uploads(self) -> set[str]:
        """The sha256 of each upload."""
        return {item.key.removeprefix("uploads/") for item in self.store.list("uploads/")}


@pytest.fixture
def lab(store: MemoryObjectStore) -> Iterator[Lab]:
    with serving(store, Users()) as addresses, ExitStack() as clients:
        yield Lab(store, addresses, clients)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny-cells")


def weights_of(folder: Path) -> set[str]:
    return {sha256_of_file(path) for path in folder.glob("*/*.safetensors")}


def sizes_of(folder: Path) -> dict[str, int]:
    return {sha256_of_file(path): path.stat().st_size for path in folder.glob("*/*")}


def test_an_imported_model_is_the_folders(lab: Lab, folder: Path) -> None:
    seen: list[Transfer] = []
    model = lab.client().import_model(str(folder), "tiny", progress=seen.append)
    found = resolve(str(folder), field="base_model")
    assert model.name == f"models/{found.digest}"
    assert (model.display_name, model.source, model.image_size) == ("tiny", "tiny-cells", 64)
    assert {item.path: item.sha256 for item in model.files} == {
        name: sha256_of_file(path) for name, path in files_of(folder).items()
    }
    assert model.requested_by == ["ada"] and model.requested_by_me
    again = resolve("models/tiny", field="base_model", weights=False, store=lab.store)
    assert (again.reference, again.digest) == (model.name, found.digest)
    stages = list(dict.fromkeys(transfer.stage for transfer in seen))
    assert stages == ["reading", "uploading", "importing"]
    for stage in stages[:2]:
        done = [(transfer.done, transfer.total) for transfer in seen if transfer.stage == stage]
        assert done == sorted(done) and done[-1][0] == done[-1][1], "one rate and one time left for all files"


def test_what_was_sent_is_kept_once(lab: Lab, folder: Path) -> None:
    model = lab.client().import_model(str(folder))
    assert not lab.uploads() & {item.sha256 for item in model.files}
    payloads = [item.key for item in lab.store.list(f"{model.name}/")]
    assert len(payloads) == len({item.sha256 for item in model.files}) + 1
    hours = SweepSettings(grace_hours=0, upload_hours=0, checkpoint_hours=0, laid_aside_hours=0)
    sweep(lab.store, hours)
    assert [item.key for item in lab.store.list(f"{model.name}/")] == payloads


REFUSED: dict[str, Change] = {
    "channels": unet(in_channels=17),
    "pipeline": index(_class_name="FluxPipeline"),
    "sdxl": unet(addition_embed_type="text_time"),
    "scheduler": index(scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
    "tokenizer": without("tokenizer/tokenizer.json"),
    "text width": text(hidden_size=100),
    "shapes": unet(in_channels=16, out_channels=16),
    "autoencoder": vae(shift_factor=0.1),
    "not json": raw("vae/config.json", b"{"),
    "empty": raw("vae/config.json", b""),
    "code": index(safety_checker=["my_library", "Checker"]),
    "cut weights": cut(UNET_WEIGHTS, 200),
    "empty weights": raw(UNET_WEIGHTS, b""),
    "pointer": raw(UNET_WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"),
    "no weights": without(UNET_WEIGHTS),
    "no index": without("model_index.json"),
    "header too large": raw(UNET_WEIGHTS, (1 << 40).to_bytes(8, "little") + bytes(100)),
    "class": config("unet/config.json", _class_name="UNet3DConditionModel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_of_a_folder_is_refused_before_its_weights_are_sent(name: str, lab: Lab, folder: Path) -> None:
    REFUSED[name](folder)
    with pytest.raises((InvalidArgument, Unimplemented)) as expected:
        resolve(str(folder), field="base_model")
    with pytest.raises((InvalidArgument, Unimplemented)) as raised:
        lab.client().import_model(str(folder))
    assert (type(raised.value), raised.value.reason) == (type(expected.value), expected.value.reason)
    [said], [told] = ([item.description for item in error.value.violations] for error in (expected, raised))
    assert told.replace("tiny-cells", "x") == said.replace(str(folder), "x") or name == "no index"
    assert not lab.uploads() & weights_of(folder)
    assert not lab.store.list("models/")


@pytest.mark.parametrize("source", ["nothing/here/at/all", "", "a.safetensors", "\0"])
def test_what_is_no_source_is_refused(source: str, lab: Lab) -> None:
    with pytest.raises(InvalidArgument, match="is neither a folder nor the name of a hub's model"):
        lab.client().import_model(source)


def test_a_folder_that_is_an_adapter_is_told_as_one(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidArgument, match=r"is an adapter \(LoRA\), not a base model"):
        lab.client().import_model(str(tmp_path))


def test_a_model_larger_than_the_limit_is_refused_before_anything_is_sent(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHMIX_MODEL_MOST_BYTES", "1000")
    with pytest.raises(ResourceExhausted, match="SYNTHMIX_MODEL_MOST_BYTES") as raised:
        lab.client().import_model(str(folder))
    assert raised.value.metadata["setting"] == "SYNTHMIX_MODEL_MOST_BYTES"
    assert raised.value.metadata["limit"] == "1000 B"
    assert not lab.uploads()


def test_an_import_that_was_interrupted_sends_what_is_missing(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, upload = lab.client(), Client.upload
    sent: list[str] = []

    def failing(self: Client, path: Path, **keywords: Any) -> Any:
        if sha256_of_file(path) == last:
            raise Unavailable("the network is down; try again", reason="UNREACHABLE")
        sent.append(sha256_of_file(path))
        return upload(self, path, **keywords)

    monkeypatch.setattr(Client, "upload", failing)
    last = sorted(weights_of(folder), key=lambda sha256: -sizes_of(folder)[sha256])[1]
    with pytest.raises(Unavailable):
        client.import_model(str(folder))
    assert len(weights_of(folder) & set(sent)) == 1
    missing = weights_of(folder) - set(sent)
    sent.clear()
    last = ""
    model = client.import_model(str(folder))
    assert set(sent) == missing, "what was there was not sent again"
    sent.clear()
    assert client.import_model(str(folder)).name == model.name
    assert sent == [], "the model is there"


def request_of(folder: Path, **changed: dict[str, Any]) -> base_models_pb2.CreateBaseModelRequest:
    """The request for a folder's model; of the changed paths, other values."""
    files = []
    for path, file in files_of(folder).items():
        values: dict[str, Any] = {"sha256": sha256_of_file(file), "size_bytes": file.stat().st_size}
        files.append(base_models_pb2.BaseModelFile(path=path, **(values | changed.get(path, {}))))
    return base_models_pb2.CreateBaseModelRequest(base_model=base_models_pb2.BaseModel(files=files))


def create(client: Client, request: base_models_pb2.CreateBaseModelRequest) -> Any:
    return client._training.call(client._models.CreateBaseModel, request, Operation)


def test_a_header_that_is_not_the_weights_own_decides_nothing(lab: Lab, folder: Path, tmp_path: Path) -> None:
    client = lab.client()
    good = (folder / UNET_WEIGHTS).read_bytes()
    header = tmp_path / "header"
    header.write_bytes(good[: header_length(good)])
    (folder / UNET_WEIGHTS).write_bytes(bytes(len(good)))
    for path in [header, *files_of(folder).values()]:
        if path != folder / UNET_WEIGHTS:
            client.upload(path)
    request = request_of(folder, **{UNET_WEIGHTS: {"header_upload": f"uploads/{sha256_of_file(header)}"}})
    request.validate_only = True
    plan = result_of(create(client, request), base_models_pb2.BaseModelPlan)
    assert plan.checked
    assert list(plan.missing_uploads) == [f"uploads/{sha256_of_file(folder / UNET_WEIGHTS)}"]
    client.upload(folder / UNET_WEIGHTS)
    request.validate_only = False
    with pytest.raises(InvalidArgument, match="is not a whole safetensors file"):
        create(client, request)


def test_weights_without_a_header_are_checked_when_they_are_there(lab: Lab, folder: Path) -> None:
    client, request = lab.client(), request_of(folder)
    request.validate_only = True
    for path in files_of(folder).values():
        plan = result_of(create(client, request), base_models_pb2.BaseModelPlan)
        assert not plan.checked
        client.upload(path)
    assert result_of(create(client, request), base_models_pb2.BaseModelPlan).checked


def test_what_is_not_sent_is_not_imported(lab: Lab, folder: Path) -> None:
    with pytest.raises(NotFound, match="does not exist, one of") as raised:
        create(lab.client(), request_of(folder))
    assert raised.value.reason == "UPLOAD_NOT_FOUND"


@pytest.mark.parametrize(
    ("path", "values", "said"),
    [
        ("../secret.json", {}, "is no file that is loaded of a base model"),
        ("unet/../vae/config.json", {}, "is no file that is loaded of a base model"),
        ("/etc/passwd", {}, "is no file that is loaded of a base model"),
        ("unet/weights.bin", {}, "is no file that is loaded of a base model"),
        ("unet/\0.json", {}, "is no file that is loaded of a base model"),
        (f"unet/{'x' * 300}.json", {}, "is no file that is loaded of a base model"),
        ("unet/model.non_ema.safetensors", {}, "is no file that is loaded of a base model"),
        ("unet/config.json", {}, "is there twice"),
        ("unet/other.json", {"sha256": "g" * 64}, "is no sha256"),
        ("unet/other.json", {"size_bytes": -1}, "is negative"),
        ("unet/other.json", {"size_bytes": 1 << 30}, "of files besides the weights are more than 256 MiB"),
        ("unet/other.json", {"header_upload": "uploads/x"}, "is not an upload"),
    ],
)
def test_a_file_that_cannot_be_one_is_refused(
    path: str, values: dict[str, Any], said: str, lab: Lab, folder: Path
) -> None:
    request = request_of(folder)
    given = {"sha256": "0" * 64, "size_bytes": 1} | values
    request.base_model.files.add(path=path, **given)
    with pytest.raises(InvalidArgument, match=said) as raised:
        create(lab.client(), request)
    assert raised.value.violations[0].field.startswith("base_model.files")


def test_an_upload_of_another_size_is_refused(lab: Lab, folder: Path) -> None:
    client = lab.client()
    client.upload(folder / "unet/config.json")
    with pytest.raises(InvalidArgument, match="which is not what the request says"):
        create(client, request_of(folder, **{"unet/config.json": {"size_bytes": 7}}))


def test_a_file_that_changes_while_it_is_sent_is_told(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload: Callable[..., Any] = Client.upload

    def changing(self: Client, path: Path, **keywords: Any) -> Any:
        if path.suffix == ".safetensors":
            path.write_bytes(path.read_bytes() + b"!")
        return upload(self, path, **keywords)

    monkeypatch.setattr(Client, "upload", changing)
    with pytest.raises(FailedPrecondition, match="has changed since it was read; import the model again"):
        lab.client().import_model(str(folder))


def other(folder: Path) -> Path:
    """Makes another model of a folder."""
    config("scheduler/scheduler_config.json", beta_end=0.0133)(folder)
    return folder


def test_a_name_that_is_taken_is_refused_before_anything_is_sent(lab: Lab, folder: Path) -> None:
    client = lab.client()
    first = client.import_model(str(folder), "tiny")
    before = lab.uploads()
    other(folder)
    with pytest.raises(AlreadyExists, match=f"'tiny' is your name of {first.name}"):
        client.import_model(str(folder), "tiny")
    assert lab.uploads() == before
    second = client.import_model(str(folder), "tiny", replace=True)
    assert second.name != first.name
    assert client.models.get("tiny").name == second.name
    assert not client.models.get(first.name).display_name


@pytest.mark.parametrize("name", ["Tiny", "a/b", "a" * 64, "0" * 32])
def test_what_can_be_no_name_is_refused(name: str, lab: Lab, folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not a valid name"):
        lab.client().import_model(str(folder), name)
    assert not lab.uploads()


def test_each_owner_has_names_of_their_own(lab: Lab, folder: Path) -> None:
    ada, bob, eve = (lab.client(user) for user in ("ada", "bob", "eve"))
    first = ada.import_model(str(folder), "tiny")
    assert bob.models.get("tiny").name == first.name, "the only one of that name"
    second = bob.import_model(str(other(folder)), "tiny")
    assert (ada.models.get("tiny").name, bob.models.get("tiny").name) == (first.name, second.name)
    with pytest.raises(InvalidArgument, match="is the name of models of several owners") as raised:
        eve.models.get("tiny")
    assert raised.value.reason == "MODEL_NAME_AMBIGUOUS"
    assert {item.name for item in eve.models.list()} == {first.name, second.name}


def test_a_model_that_is_used_is_not_deleted(lab: Lab, folder: Path) -> None:
    client = lab.client()
    model = ArtifactName.parse(client.import_model(str(folder), "tiny").name, field="name")
    adapter = ArtifactName(ADAPTERS, "a" * 32)
    write_manifest(lab.store, Manifest(adapter, {"base_model": model.id}, {}, 3, ()))
    with pytest.raises(FailedPrecondition, match=f"{model} is still used") as raised:
        client.models.delete("tiny")
    assert raised.value.reason == "STILL_REFERENCED"
    planned = client.models.delete("tiny", cascade=True, validate_only=True)
    assert [item.name for item in planned.deleted] == [str(adapter), str(model)]
    assert client.models.get("tiny").name == str(model)
    assert client.models.delete("tiny", cascade=True).deleted == planned.deleted
    with pytest.raises(NotFound, match="there is no model 'tiny'"):
        client.models.get("tiny")
    assert client.import_model(str(folder)).name == str(model), "it can be imported again"
    assert not client.models.get(str(model)).display_name, "its names went with it"


def test_a_model_is_deleted_by_its_owners(lab: Lab, folder: Path) -> None:
    ada, bob = lab.client("ada"), lab.client("bob")
    model = ada.import_model(str(folder), "tiny").name
    with pytest.raises(PermissionDenied) as raised:
        bob.models.delete(model)
    assert raised.value.reason == "NOT_OWNER"
    bob.import_model(str(folder), "mine")
    assert sorted(ada.models.get(model).requested_by) == ["ada", "bob"]
    deletion = ada.models.delete(model)
    assert (list(deletion.deleted), list(deletion.kept)) == ([], [model])
    shown = bob.models.get(model)
    assert (list(shown.display_names), list(shown.requested_by)) == (["mine"], ["bob"])
    assert [item.name for item in bob.models.delete("mine").deleted] == [model]


def test_imports_of_an_earlier_version_are_shown(store: MemoryObjectStore, lab: Lab, folder: Path) -> None:
    """What the manifest lacks makes it unreadable, and the list goes on without it."""
    good = lab.client().import_model(str(folder)).name
    damaged = store_model(store, other(folder))
    client = lab.client()
    assert [item.name for item in client.models.list()] == [good]
    assert client.unreachable == [str(damaged)]


def test_nobody_in_particular_owns_what_has_no_claim(lab: Lab, folder: Path) -> None:
    model = ArtifactName.parse(lab.client().import_model(str(folder)).name, field="name")
    owners.withdraw(lab.store, model, ["ada"])
    assert [item.name for item in lab.client("bob").models.delete(str(model)).deleted] == [str(model)]
