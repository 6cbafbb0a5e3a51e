"""Whose things are: names that nobody takes over, work that nobody else stops, and data that nobody else deletes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bad_requests import SPEC, spec_of
from image_archives import plates, zipped
from interleaving import run_interleaved
from memory_object_store import MemoryObjectStore
from served import serving
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.client.client import Client, GroupRule, metadata_of
from synthmix.client.endpoints import Endpoints
from synthmix.client.transport import Channels
from synthmix.service_kit import open_operations, owners, references
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import Manifest, find_manifest, write_manifest, write_payload
from synthmix.service_kit.authentication import Identity
from synthmix.service_kit.deletion import delete
from synthmix.service_kit.environment import ADAPTER_TRAINING, STUDY_CONTROL, SweepSettings
from synthmix.service_kit.errors import InvalidArgument, NotFound, PermissionDenied
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.owners import Caller, Fixed
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, STUDIES, ArtifactName, OperationName
from synthmix.service_kit.sweep import sweep
from synthmix.study_control import datasets, study_names
from synthmix.study_control.step_operations import cancel_steps
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step

pytestmark = pytest.mark.usefixtures("own_cache")

CONTROL = "system:serviceaccount:lab:synthmix-study-control"
REMEDY = "`kubectl create rolebinding NAME`"
GROUP = GroupRule(pattern=r"plate-(?P<group>\d+)")
NAME = ArtifactName(ADAPTERS, "a" * 32)


class Users:
    """Stands for the cluster: a token is its user's name; root may change what is another's, and CONTROL is ours."""

    async def check(self, token: str, method: str) -> Identity:
        return Identity(token, names_others=token == CONTROL, administration=Fixed(token == "root", REMEDY))


@dataclass
class Lab:
    """The four services, and a client of each user."""

    store: MemoryObjectStore
    addresses: dict[str, str]
    clients: ExitStack
    folder: Path

    def client(self, user: str) -> Client:
        return self.clients.enter_context(Client(Channels(Endpoints(self.addresses, user))))

    def images(self, user: str, name: str = "cells", plate_count: int = 8, *, replace: bool = False) -> str:
        """Imports a dataset, and returns which one it is."""
        archive = zipped(self.folder / f"{plate_count}.zip", plates(plate_count=plate_count))
        imported = self.client(user).import_dataset(archive, name, group=GROUP, replace=replace)
        assert imported.display_name == name and imported.requested_by_me
        return imported.name

    def submit(self, user: str, **fields: Any) -> str:
        operation = self.client(user).submit_study(spec_of(SPEC | {"name": "first", "dataset": "cells"} | fields))
        return metadata_of(operation).target

    def is_stopping(self, study: str) -> bool:
        record = records.read_record(self.store, operation_of(study))
        return open_operations.cancellation_requested(self.store, record)

    def end(self, operation: OperationName) -> None:
        """As its host does when it was cancelled."""
        record = records.read_record(self.store, operation)
        records.write_failure(self.store, record, NotFound("it was cancelled"))
        open_operations.close(self.store, record)


def operation_of(study: str) -> OperationName:
    return OperationName(STUDY_CONTROL, ArtifactName.parse(study, field="name").id)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    store = MemoryObjectStore.created()
    with serving(store, Users()) as addresses, ExitStack() as clients:
        yield Lab(store, addresses, clients, tmp_path)


def refusal(act: Callable[[], Any], *says: str) -> PermissionDenied:
    with pytest.raises(PermissionDenied) as refused:
        act()
    assert refused.value.reason == "NOT_OWNER"
    for text in (*says, REMEDY):
        assert text in refused.value.message
    return refused.value


# Claims


def test_an_artifact_is_whose_it_was_asked_for_by(store: MemoryObjectStore) -> None:
    names = [
        "ada@example.org",
        "system:serviceaccount:lab:" + "x" * 300,
        "línea/../ ada\n",
        "ada",
        "y" * 150,
        "y" * 151,
    ]
    for name in [*names, *names]:
        owners.claim(store, NAME, name)
    assert owners.owners_of(store, NAME) == set(names)
    assert owners.owners_of(store, ArtifactName(IMAGE_SETS, "a" * 32)) == set()
    assert owners.all_owners(store) == {NAME: frozenset(names)}
    assert all(len(part) < 255 for key in store.keys for part in key.split("/"))
    assert not [key for key in store.keys if any(other.startswith(f"{key}/") for other in store.keys)], "nor in files"
    owners.withdraw(store, NAME, names[1:])
    assert owners.owners_of(store, NAME) == {names[0]}
    owners.claim(store, NAME, "")
    assert owners.owners_of(store, NAME) == {names[0]}, "nobody in particular claims nothing"


# Names


def test_two_owners_have_each_a_dataset_of_one_name(lab: Lab) -> None:
    of_ada, of_bob = lab.images("ada"), lab.images("bob", plate_count=7)
    assert of_ada != of_bob
    assert lab.client("ada").get_dataset("cells").name == of_ada
    assert lab.client("bob").get_dataset("cells").name == of_bob
    assert lab.client("bob").create_split("cells", test=0.25, validation=0.15).dataset == of_bob
    with pytest.raises(InvalidArgument, match=r"'cells' is the name of datasets of several owners") as refused:
        lab.client("eve").get_dataset("cells")
    assert refused.value.reason == "DATASET_NAME_AMBIGUOUS"
    assert f"{of_ada}, of ada" in refused.value.message and f"{of_bob}, of bob" in refused.value.message
    assert lab.client("eve").get_dataset(of_ada).display_names == ["cells"]
    lab.client("bob").delete_dataset("cells", cascade=True)
    assert lab.client("eve").get_dataset("cells").name == of_ada, "the only one of that name"


def test_a_name_is_replaced_by_its_owner_alone(lab: Lab) -> None:
    of_ada = lab.images("ada")
    of_bob = lab.images("bob", plate_count=7, replace=True)
    assert lab.client("ada").get_dataset("cells").name == of_ada
    assert lab.client("bob").get_dataset("cells").name == of_bob
    moved = lab.images("bob", plate_count=6, replace=True)
    assert lab.client("bob").get_dataset("cells").name == moved
    assert lab.client("ada").get_dataset("cells").name == of_ada


def test_the_same_images_are_one_dataset_of_both_who_imported_them(lab: Lab) -> None:
    dataset = lab.images("ada", "cells")
    assert lab.images("bob", "my-cells") == dataset
    [seen] = lab.client("ada").list_datasets()
    assert (list(seen.requested_by), seen.requested_by_me) == (["ada", "bob"], True)
    assert (seen.display_name, list(seen.display_names)) == ("cells", ["cells"])
    seen = lab.client("bob").get_dataset("my-cells")
    assert (seen.name, seen.display_name, list(seen.display_names)) == (dataset, "my-cells", ["my-cells"])
    seen = lab.client("eve").get_dataset(dataset)
    assert (seen.requested_by_me, list(seen.display_names)) == (False, ["cells", "my-cells"])
    kept = lab.client("ada").delete_dataset("cells")
    assert (list(kept.deleted), list(kept.kept)) == ([], [dataset])
    with pytest.raises(NotFound):
        lab.client("bob").get_dataset("cells")
    assert list(lab.client("bob").get_dataset("my-cells").requested_by) == ["bob"]
    other = lab.images("ada", "cells", 7)
    assert lab.client("ada").get_dataset("cells").name == other, "the name that was left is free"
    assert [item.name for item in lab.client("bob").delete_dataset("my-cells").deleted] == [dataset]
    with pytest.raises(NotFound):
        lab.client("bob").get_dataset(dataset)


def test_two_owners_have_each_a_study_of_one_name(lab: Lab) -> None:
    lab.images("ada")
    of_ada, of_bob = lab.submit("ada"), lab.submit("bob", seeds=2)
    assert lab.client("ada").get_study("first").name == of_ada
    assert lab.client("bob").get_study("first").name == of_bob
    assert [item.name for item in lab.client("bob").list_studies("first")] == [of_bob]
    assert {item.name for item in lab.client("eve").list_studies("first")} == {of_ada, of_bob}
    with pytest.raises(InvalidArgument, match="studies of several owners") as refused:
        lab.client("eve").get_study("first")
    assert refused.value.reason == "STUDY_NAME_AMBIGUOUS"
    assert f"{of_ada}, of ada" in refused.value.message and f"{of_bob}, of bob" in refused.value.message
    assert not [
        text
        for text in metadata_of(
            lab.client("bob").submit_study(spec_of(SPEC | {"name": "first", "dataset": "cells", "seeds": 3}))
        ).warnings
        if of_ada in text
    ]


# What is another's


def test_nobody_cancels_what_is_anothers(lab: Lab) -> None:
    lab.images("ada")
    study = lab.submit("ada")
    refusal(lambda: lab.client("eve").cancel_study("first"), f"{operation_of(study)} belongs to ada, and you are eve")
    assert not lab.is_stopping(study)
    lab.client("root").cancel_study(study)
    assert lab.is_stopping(study)


def test_the_owner_cancels_it(lab: Lab) -> None:
    lab.images("ada")
    study = lab.submit("ada")
    lab.client("ada").cancel_study("first")
    assert lab.is_stopping(study)


def test_a_study_that_two_asked_for_goes_on_until_both_have_cancelled_it(lab: Lab) -> None:
    lab.images("ada")
    study = lab.submit("ada")
    assert lab.submit("bob") == study
    operation = lab.client("bob").get_operation(str(operation_of(study)))
    assert list(metadata_of(operation).requested_by) == ["ada", "bob"] and metadata_of(operation).requested_by_me
    lab.client("ada").cancel_study("first")
    assert not lab.is_stopping(study)
    assert list(lab.client("bob").get_study("first").requested_by) == ["bob"]
    lab.client("bob").cancel_study("first")
    assert lab.is_stopping(study)
    [listed] = lab.client("eve").list_studies()
    assert (list(listed.requested_by), listed.requested_by_me) == (["bob"], False)
    [shown] = [
        metadata_of(item)
        for item in lab.client("eve").list_operations(STUDY_CONTROL)
        if metadata_of(item).target == study
    ]
    assert (list(shown.requested_by), shown.requested_by_me) == (["bob"], False)


def test_an_import_is_cancelled_by_who_asked_for_it(lab: Lab) -> None:
    lab.images("ada")
    [operation] = lab.client("eve").list_operations(STUDY_CONTROL)
    assert list(metadata_of(operation).requested_by) == ["ada"]
    name = OperationName.parse(operation.name)
    lab.store.delete(f"{name}/result.json")  # as if it went on
    refusal(lambda: lab.client("eve").cancel(str(name)), "belongs to ada")
    lab.client("ada").cancel(str(name))
    assert open_operations.cancellation_requested(lab.store, records.read_record(lab.store, name))


@pytest.mark.parametrize("through", [STUDY_CONTROL, ADAPTER_TRAINING])
def test_steps_are_asked_about_in_the_callers_own_name(lab: Lab, through: str) -> None:
    """Study control passes on what concerns another service, and has no say in whose it is."""
    lab.images("ada")
    split = lab.client("ada").create_split("cells", test=0.25, validation=0.15)
    train, settings = f"{split.name}/parts/train", adapters_pb2.AdapterSettings(prompt="{label} cells", rank=4)
    operation = lab.client("ada").adapters.create(adapters_pb2.Adapter(train_split=train, settings=settings))
    if through == STUDY_CONTROL:
        lab.addresses = dict.fromkeys(lab.addresses, lab.addresses[STUDY_CONTROL])
    refusal(lambda: lab.client("eve").cancel(operation.name), f"{operation.name} belongs to ada, and you are eve")
    lab.client("ada").cancel(operation.name)
    record = records.read_record(lab.store, OperationName.parse(operation.name))
    assert open_operations.cancellation_requested(lab.store, record)


def test_a_studys_steps_belong_to_who_asked_for_the_study(lab: Lab) -> None:
    lab.images("ada")
    split = lab.client("ada").create_split("cells", test=0.25, validation=0.15)
    train, settings = f"{split.name}/parts/train", adapters_pb2.AdapterSettings(prompt="{label} cells", rank=4)
    adapter = adapters_pb2.Adapter(train_split=train, settings=settings)
    for shown, requester, owner in ((CONTROL, "línea", "línea"), ("eve", "ada", "eve"), (CONTROL, "", None)):
        services = StepServices(lab.addresses, lambda shown=shown: shown, Requester(requester, "studies/x"))
        settings.seed += 1
        adapter.settings.CopyFrom(settings)
        operation = services.create(ADAPTER_TRAINING, adapter)
        target = ArtifactName.parse(metadata_of(operation).target, field="target")
        assert owners.owners_of(lab.store, target) == ({owner} if owner else set())
        assert records.read_record(lab.store, OperationName.parse(operation.name)).requested_by.owner == (owner or "")
        services.close()


def test_a_cancelled_study_leaves_others_their_steps(lab: Lab) -> None:
    """Of its steps one is its own, one is shared, and one was asked for by another alone."""
    lab.images("ada")
    split = lab.client("ada").create_split("cells", test=0.25, validation=0.15)
    steps, asked = [], (["ada"], ["ada", "bob"], ["bob"])
    for seed, users in enumerate(asked):
        settings = adapters_pb2.AdapterSettings(prompt="{label} cells", rank=4, seed=seed)
        adapter = adapters_pb2.Adapter(train_split=f"{split.name}/parts/train", settings=settings)
        for user in users:
            operation = lab.client(user).adapters.create(adapter)
        plan = progress_pb2.Plan(target=metadata_of(operation).target)
        steps.append(Step(ADAPTER_TRAINING, "adapter", adapter, plan, {}))
    services = StepServices(lab.addresses, lambda: CONTROL, Requester("ada", "studies/x"))
    began_s = time.monotonic()
    names = [OperationName(ADAPTER_TRAINING, ArtifactName.parse(step.target, field="target").id) for step in steps]
    threading.Timer(0.5, lab.end, [names[0]]).start()  # as its host does
    cancel_steps(services, steps, {})
    services.close()
    assert time.monotonic() - began_s < 5.0, "it waits for what it stopped, and for nothing else"
    stopping = [
        open_operations.cancellation_requested(lab.store, records.read_record(lab.store, name)) for name in names[1:]
    ]
    assert stopping == [False, False]
    left = [owners.owners_of(lab.store, ArtifactName.parse(step.target, field="target")) for step in steps]
    assert left == [{"ada"}, {"bob"}, {"bob"}]


def test_nobody_deletes_what_is_anothers(lab: Lab) -> None:
    dataset = lab.images("ada")
    for force in (False, True):
        for name in ("cells", dataset):
            refusal(
                lambda name=name, force=force: lab.client("eve").delete_dataset(name, cascade=force),  # type: ignore[misc]
                f"{dataset} belongs to ada, and you are eve",
            )
    assert lab.client("ada").get_dataset("cells").name == dataset
    assert [item.name for item in lab.client("root").delete_dataset(dataset).deleted] == [dataset]


def test_a_cascade_takes_nothing_of_anothers(lab: Lab) -> None:
    dataset = lab.images("ada")
    study = lab.submit("bob")
    lab.end(operation_of(study))
    refusal(
        lambda: lab.client("ada").delete_dataset("cells", cascade=True),
        f"{dataset} is used by what others made from it",
        f"\n  {study}, of bob",
    )
    assert lab.client("bob").get_study(study).name == study
    gone = {item.name for item in lab.client("root").delete_dataset(dataset, cascade=True).deleted}
    assert {dataset, study} < gone
    assert not [key for key in lab.store.keys if key.startswith("claims/")]


def test_a_study_that_two_asked_for_is_deleted_with_the_second(lab: Lab) -> None:
    lab.images("ada")
    study = lab.submit("ada")
    lab.submit("bob")
    lab.end(operation_of(study))
    assert list(lab.client("ada").delete_study("first").kept) == [study]
    assert study_names.by_owners(lab.store, "first").keys() == {"bob"}
    assert lab.client("bob").get_study("first").name == study
    refusal(lambda: lab.client("ada").delete_study(study), f"{study} belongs to bob")
    assert [item.name for item in lab.client("bob").delete_study("first").deleted] == [study]
    assert not [key for key in lab.store.keys if key.startswith(("study-names/", f"{operation_of(study)}/"))]


def test_what_is_nobodys_in_particular_is_changed_by_whoever_may_change_things(lab: Lab) -> None:
    """As what an earlier version recorded: nothing says who asked for it."""
    dataset, study = lab.images("ada"), lab.submit("ada")
    for key in [key for key in lab.store.keys if key.startswith("claims/")]:
        lab.store.delete(key)
    key = f"{operation_of(study)}/request.json"
    lab.store.put_json(key, {name: value for name, value in lab.store.get_json(key).items() if name != "requested_by"})
    seen = lab.client("eve").get_study(study)
    assert (list(seen.requested_by), seen.requested_by_me) == ([], False)
    lab.client("eve").cancel_study(study)
    assert lab.is_stopping(study)
    lab.end(operation_of(study))
    assert study in [item.name for item in lab.client("eve").delete_dataset(dataset, cascade=True).deleted]


# What several share


def write(store: ObjectStore, name: ArtifactName, inputs: dict[str, str], *asked: str) -> ArtifactName:
    payload = write_payload(store, name, "data.bin", b"data")
    write_manifest(store, Manifest(name, inputs, {}, 1, (payload,), {}, software={}))
    for owner in asked:
        owners.claim(store, name, owner)
    return name


def test_a_study_is_deleted_without_what_others_asked_for(store: MemoryObjectStore) -> None:
    own, shared, others = (ArtifactName(ADAPTERS, digit * 32) for digit in "123")
    study = ArtifactName(STUDIES, "5" * 32)
    write(store, own, {}, "ada")
    write(store, shared, {}, "ada", "bob")
    write(store, others, {}, "bob")
    write(store, study, {"a": own.id, "b": shared.id, "c": others.id}, "ada")
    deletion = delete(store, study, caller=Caller("ada"), force=True, validate_only=False)
    assert set(deletion.names) == {study, own}
    assert deletion.kept == (shared,)
    assert owners.all_owners(store) == {shared: {"bob"}, others: {"bob"}}
    assert find_manifest(store, shared) and find_manifest(store, others)


@pytest.mark.parametrize("collection", [ADAPTERS, STUDIES])
def test_whoever_asks_while_it_is_deleted_has_it_or_has_it_made(collection: str) -> None:
    """In every order of their calls: an artifact that somebody was told is there stays there."""
    name = ArtifactName(collection, "a" * 32)
    outcomes = set()
    for seed in range(400):
        store = MemoryObjectStore.created()
        write(store, name, {}, "ada")

        def remove(seen: ObjectStore) -> bool:
            return bool(delete(seen, name, caller=Caller("ada"), force=False, validate_only=False).deleted)

        def ask(seen: ObjectStore, seed: int = seed) -> bool:
            for _ in range(seed % 40):  # a deletion reads what there is first
                seen.stat("nothing")
            owners.claim(seen, name, "bob")
            return find_manifest(seen, name) is not None

        (deleted, told), _ = run_interleaved(store, [remove, ask], seed=seed)
        there = find_manifest(store, name) is not None
        assert there or not told, f"seed {seed}: bob was told that it is there, and it is gone"
        assert there != deleted, f"seed {seed}"
        assert owners.owners_of(store, name) == {"bob"}, f"seed {seed}"
        outcomes.add((deleted, told))
    assert outcomes >= {(True, False), (False, True)}


def test_whoever_asks_while_a_cascade_goes_on_keeps_what_that_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "READS_AT_ONCE", 1)  # a schedule is of one call at a time
    adapter, images = ArtifactName(ADAPTERS, "a" * 32), ArtifactName(IMAGE_SETS, "b" * 32)
    kept = 0
    for seed in range(400):
        store = MemoryObjectStore.created()
        write(store, adapter, {}, "ada")
        write(store, images, {"adapter": adapter.id}, "ada")

        def remove(seen: ObjectStore) -> bool:
            return bool(delete(seen, adapter, caller=Caller("ada"), force=True, validate_only=False).deleted)

        def ask(seen: ObjectStore, seed: int = seed) -> bool:
            for _ in range(seed % 50):
                seen.stat("nothing")
            owners.claim(seen, images, "bob")
            return find_manifest(seen, images) is not None

        try:
            (_, told), _ = run_interleaved(store, [remove, ask], seed=seed)
        except PermissionDenied:  # bob was so early that he is known
            continue
        if told:
            kept += 1
            assert find_manifest(store, images) and find_manifest(store, adapter), f"seed {seed}"
    assert kept > 20


def test_a_sweep_just_before_an_operation_starts_takes_nothing_from_whoever_asked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.images("ada")
    split = lab.client("ada").create_split("cells", test=0.25, validation=0.15)
    withdrawn: list[int] = []
    add = open_operations.add

    def sweep_and_add(store: ObjectStore, record: records.OperationRecord) -> None:
        later = datetime.now(UTC) + timedelta(seconds=1)
        swept = sweep(lab.store, SweepSettings(grace_hours=0), lambda: later)
        withdrawn.append(swept.by_kind().get("claims", (0, 0))[0])
        add(store, record)

    monkeypatch.setattr(open_operations, "add", sweep_and_add)
    adapter = adapters_pb2.Adapter(
        train_split=f"{split.name}/parts/train", settings=adapters_pb2.AdapterSettings(prompt="{label}")
    )
    made = metadata_of(lab.client("ada").adapters.create(adapter)).target
    study = lab.submit("ada")
    assert withdrawn == [1, 1]
    for name in (made, study):
        assert owners.owners_of(lab.store, ArtifactName.parse(name, field="name")) == {"ada"}


def test_the_names_of_a_shared_dataset_go_with_their_owner(store: MemoryObjectStore) -> None:
    dataset = write(store, ArtifactName("datasets", "d" * 32), {}, "ada", "bob")
    for owner in ("ada", "bob"):
        datasets.claim_name(store, owner, "cells", dataset, account={"left_out": [f"/home/{owner}"]}, replace=False)
    datasets.release_names(store, dataset, {"ada"})
    assert datasets.display_names(store) == {str(dataset): [datasets.DisplayName("bob", "cells")]}
    assert not [key for key in store.keys if b"/home/ada" in store.get_bytes(key)]


def test_imports_of_two_owners_are_two_operations() -> None:
    request = datasets_pb2.CreateDatasetRequest(
        dataset=datasets_pb2.Dataset(display_name="cells", group_rule=GROUP), upload=f"uploads/{'0' * 64}"
    )
    alone, of_ada, of_bob = (datasets.import_request(request, owner) for owner in ("local", "ada", "bob"))
    assert "owner" not in alone
    assert of_ada == alone | {"owner": "ada"} and of_bob == alone | {"owner": "bob"}
