"""Deleting: who refers to whom, what is refused, what goes with what, and what others still need."""

from collections.abc import Iterable
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from synthmix.service_kit.artifacts import MANIFEST, Manifest, write_manifest, write_payload
from synthmix.service_kit.deletion import Deletion, delete, deletion_key
from synthmix.service_kit.errors import FailedPrecondition, NotFound
from synthmix.service_kit.owners import Caller
from synthmix.service_kit.references import SEARCH, read_references
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import (
    ADAPTERS,
    AUTOENCODER_CHECKS,
    DATASETS,
    EVALUATIONS,
    FEATURES,
    IMAGE_SET_SCORES,
    IMAGE_SETS,
    MODELS,
    PARTS,
    RECONSTRUCTIONS,
    SPLITS,
    STUDIES,
    TRIALS,
    ArtifactName,
    OperationName,
)
from synthmix.study_control import datasets, study_names

BASE_MODEL = "b" * 32
# What is of image set 2 alone, beside trials.
SCORED = ((FEATURES, 2), (IMAGE_SET_SCORES, 2))


class World:
    """Resources as the services write them, by short names: W["adapters", 1]."""

    def __init__(self) -> None:
        self.store = MemoryObjectStore.created()

    def __getitem__(self, key: tuple[str, int]) -> ArtifactName:
        collection, number = key
        letters = dict(zip((DATASETS, SPLITS, ADAPTERS, IMAGE_SETS, TRIALS, RECONSTRUCTIONS), "012345", strict=True))
        letters |= dict(zip((FEATURES, EVALUATIONS, STUDIES, AUTOENCODER_CHECKS), "6789", strict=True))
        letters[IMAGE_SET_SCORES] = "a"
        letter = letters[collection]
        return ArtifactName(collection, f"{letter}{number:031x}")

    def write(
        self,
        collection: str,
        number: int,
        inputs: dict[str, str],
        summary: dict[str, Any] | None = None,
        **request: Any,
    ) -> ArtifactName:
        name = self[collection, number]
        payload = write_payload(self.store, name, "data.bin", f"{name}".encode())
        write_manifest(self.store, Manifest(name, inputs, request, 1, (payload,), summary or {}, software={}))
        return name

    def dataset(self, number: int) -> ArtifactName:
        return self.write(DATASETS, number, {})

    def split(self, number: int, dataset: int, parts: int | None = None) -> ArtifactName:
        digests = {
            part: self.part(part, number if parts is None else parts) for part in ("train", "validation", "test")
        }
        summary = {"parts": {part: {"digest": digest} for part, digest in digests.items()}}
        return self.write(SPLITS, number, {"dataset": self[DATASETS, dataset].id}, summary)

    @staticmethod
    def part(part: str, parts: int) -> str:
        return f"{part[0].encode().hex()}{parts:030x}"

    def parts(self, parts: int) -> dict[str, str]:
        return {f"{part}_split": self.part(part, parts) for part in PARTS}

    def adapter(self, number: int, split: int) -> ArtifactName:
        summary = {"train_split": f"{self[SPLITS, split]}/parts/train"}
        inputs = {"train_split": self.part("train", split), "base_model": BASE_MODEL}
        return self.write(ADAPTERS, number, inputs, summary)

    def image_set(self, number: int, adapter: int) -> ArtifactName:
        return self.write(IMAGE_SETS, number, {"adapter": self[ADAPTERS, adapter].id})

    def trial(self, number: int, parts: int, image_set: int | None = None) -> ArtifactName:
        of_set = {} if image_set is None else {"image_set": self[IMAGE_SETS, image_set].id}
        return self.write(TRIALS, number, self.parts(parts) | of_set)

    def evaluation(self, number: int, split: int, image_sets: Iterable[int], trials: Iterable[int]) -> ArtifactName:
        inputs = {f"image-set-{item}": self[IMAGE_SETS, item].id for item in image_sets}
        summary = {"split": str(self[SPLITS, split]), "trials": [str(self[TRIALS, item]) for item in trials]}
        return self.write(EVALUATIONS, number, self.parts(split) | inputs, summary)

    def study(
        self, number: int, split: int, adapters: list[int], image_sets: list[int], evaluation: int
    ) -> ArtifactName:
        inputs = {"split": str(self[SPLITS, split]), "evaluation": str(self[EVALUATIONS, evaluation])}
        inputs |= {f"adapter-{item}": str(self[ADAPTERS, item]) for item in adapters}
        inputs |= {f"image-set-{item}": str(self[IMAGE_SETS, item]) for item in image_sets}
        name = self.write(STUDIES, number, inputs, dataset=str(self[DATASETS, 1]))
        self.record("study-control", name.id, STUDIES, {"split": inputs["split"]}, ended=True)
        study_names.claim(self.store, LOCAL, f"study-{number}", name)
        return name

    def record(self, service: str, id_: str, kind: str, request: dict[str, Any], *, ended: bool) -> OperationName:
        name = OperationName(service, id_)
        self.store.put_json(
            f"{name}/request.json",
            {"kind": kind, "target": f"{kind}/{id_}", "request": request, "create_time": "2026-01-01T00:00:00.000Z"},
        )
        if ended:
            self.store.put_json(f"{name}/result.json", {"target": f"{kind}/{id_}", "end_time": "2026-01-01T00:00:00Z"})
        return name

    def delete(self, collection: str, number: int, *, force: bool = False, validate_only: bool = False) -> Deletion:
        return delete(
            self.store, self[collection, number], caller=Caller(LOCAL), force=force, validate_only=validate_only
        )

    def there(self) -> set[ArtifactName]:
        return set(read_references(self.store).resources)


@pytest.fixture
def world() -> World:
    """Two studies of one split, which share adapter 1, image set 1 and trials 1 and 2; study 2 has more."""
    world = World()
    world.dataset(1)
    world.split(1, 1)
    world.adapter(1, 1)
    world.adapter(2, 1)
    world.image_set(1, 1)
    world.image_set(2, 2)
    world.trial(1, 1)
    world.trial(2, 1, 1)
    world.trial(3, 1, 2)
    world.write(AUTOENCODER_CHECKS, 1, {"train_split": world.part("train", 1), "base_model": BASE_MODEL})
    world.write(RECONSTRUCTIONS, 1, {"train_split": world.part("train", 1), "base_model": BASE_MODEL})
    world.write(FEATURES, 1, {"images": world.part("train", 1)})
    world.write(FEATURES, 2, {"images": world[IMAGE_SETS, 2].id})
    world.write(IMAGE_SET_SCORES, 2, {"train_split": world.part("train", 1), "image_set": world[IMAGE_SETS, 2].id})
    world.evaluation(1, 1, [1], [1, 2])
    world.evaluation(2, 1, [1, 2], [1, 2, 3])
    world.study(1, 1, [1], [1], 1)
    world.study(2, 1, [1, 2], [1, 2], 2)
    return world


def refusal(world: World, collection: str, number: int, *, force: bool = False) -> FailedPrecondition:
    before = world.there()
    with pytest.raises(FailedPrecondition) as refused:
        world.delete(collection, number, force=force)
    assert world.there() == before
    return refused.value


@pytest.mark.parametrize(
    ("target", "users"),
    [
        ((DATASETS, 1), {(ADAPTERS, 1), (ADAPTERS, 2), (IMAGE_SETS, 1), (EVALUATIONS, 2), (STUDIES, 1), (STUDIES, 2)}),
        ((ADAPTERS, 2), {(IMAGE_SETS, 2), (EVALUATIONS, 2), (STUDIES, 2)}),
        ((IMAGE_SETS, 2), {(EVALUATIONS, 2), (STUDIES, 2)}),
        ((EVALUATIONS, 1), {(STUDIES, 1)}),
    ],
)
def test_what_is_used_is_not_deleted_and_its_users_are_named(
    world: World, target: tuple[str, int], users: set[tuple[str, int]]
) -> None:
    error = refusal(world, *target)
    assert error.reason == "STILL_REFERENCED"
    assert "--cascade" in error.message
    for user in users:
        assert f"\n  {world[user]}" in error.message
    assert str(world[SPLITS, 1]) not in error.message  # nobody can delete it alone


def test_a_cascade_takes_what_was_made_from_it_and_nothing_else(world: World) -> None:
    before = world.there()
    planned = world.delete(ADAPTERS, 2, force=True, validate_only=True)
    assert world.there() == before
    gone = {
        world[key] for key in ((ADAPTERS, 2), (IMAGE_SETS, 2), (TRIALS, 3), *SCORED, (EVALUATIONS, 2), (STUDIES, 2))
    }
    assert set(planned.names) == gone
    assert planned == world.delete(ADAPTERS, 2, force=True)
    assert world.there() == before - gone
    assert sum(size for _, size in planned.deleted) == sum(len(str(name)) for name in gone)


def test_what_refers_to_others_goes_first_so_that_no_interruption_leaves_it_dangling(world: World) -> None:
    order = [name.collection for name in world.delete(DATASETS, 1, force=True).names]
    assert order == sorted(
        order,
        key=[
            STUDIES,
            EVALUATIONS,
            IMAGE_SET_SCORES,
            FEATURES,
            RECONSTRUCTIONS,
            TRIALS,
            IMAGE_SETS,
            ADAPTERS,
            AUTOENCODER_CHECKS,
            SPLITS,
            DATASETS,
        ].index,
    )
    assert not world.there()


def test_a_study_goes_alone_and_leaves_what_it_made(world: World) -> None:
    before = world.there()
    deletion = world.delete(STUDIES, 2)
    assert deletion.names == [world[STUDIES, 2]]
    assert set(deletion.unneeded) == {
        world[key] for key in ((ADAPTERS, 2), (IMAGE_SETS, 2), (TRIALS, 3), (EVALUATIONS, 2), *SCORED)
    }
    assert world.there() == before - {world[STUDIES, 2]}
    assert study_names.of_name(world.store, LOCAL, "study-2") == {}
    assert not [
        key
        for key in world.store.keys
        if world[STUDIES, 2].id in key and "deletions/" not in key and not key.startswith(str(world[STUDIES, 2]))
    ]


def test_a_study_with_cascade_takes_what_nothing_else_needs(world: World) -> None:
    before = world.there()
    gone = set(world.delete(STUDIES, 2, force=True).names)
    assert gone == {
        world[key] for key in ((STUDIES, 2), (ADAPTERS, 2), (IMAGE_SETS, 2), (TRIALS, 3), (EVALUATIONS, 2), *SCORED)
    }
    assert world.there() == before - gone
    # The last study of a split takes the split; the dataset is its user's.
    assert set(world.delete(STUDIES, 1, force=True).names) == before - gone - {world[DATASETS, 1]}


def test_a_study_with_cascade_leaves_base_models(world: World) -> None:
    """As it leaves its dataset: its user brought it, and nothing else refers to it any more."""
    model = ArtifactName(MODELS, BASE_MODEL)
    write_manifest(world.store, Manifest(model, {}, {}, 1, (), software={}))
    for number in (1, 2):
        world.delete(STUDIES, number, force=True)
    assert {name.collection for name in world.there()} == {DATASETS, MODELS}


def test_a_study_with_cascade_leaves_image_sets_that_were_imported(world: World) -> None:
    """With what they are said to have seen. Their trials go."""
    imported = world.write(IMAGE_SETS, 3, {"seen": world[SPLITS, 1].id}, imported={"upload": "c" * 64})
    world.trial(4, 1, 3)
    world.evaluation(3, 1, [3], [1, 4])
    world.study(3, 1, [], [3], 3)
    deletion = world.delete(STUDIES, 3, force=True)
    assert set(deletion.names) == {world[STUDIES, 3], world[EVALUATIONS, 3], world[TRIALS, 4]}
    for number in (1, 2):
        world.delete(STUDIES, number, force=True)
    left = {name for name in world.there() if name.collection in (STUDIES, ADAPTERS, IMAGE_SETS, SPLITS, DATASETS)}
    assert left == {imported, world[SPLITS, 1], world[DATASETS, 1]}


def test_a_base_model_is_needed_by_whatever_says_its_digest(world: World) -> None:
    model = ArtifactName(MODELS, BASE_MODEL)
    write_manifest(world.store, Manifest(model, {}, {}, 1, (), software={}))
    with pytest.raises(FailedPrecondition, match=f"{model} is still used") as raised:
        delete(world.store, model, caller=Caller(LOCAL), force=False, validate_only=False)
    assert str(world[ADAPTERS, 1]) in raised.value.message
    deletion = delete(world.store, model, caller=Caller(LOCAL), force=True, validate_only=False)
    assert deletion.names[-1] == model, "what refers to it went before"
    assert {name.collection for name in world.there()} == {DATASETS, SPLITS, FEATURES}


def test_an_evaluation_with_cascade_takes_its_study_and_its_own_trials(world: World) -> None:
    assert set(world.delete(EVALUATIONS, 2, force=True).names) == {
        world[key] for key in ((EVALUATIONS, 2), (STUDIES, 2), (TRIALS, 3))
    }


def test_a_dataset_takes_what_trainings_go_on_from(world: World) -> None:
    """Trainings that were to stop are gone on from under an id that no operation may have had yet."""
    world.dataset(2)
    world.split(2, 2)
    keys = [
        f"{OperationName('adapter-training', letter * 32).checkpoints}stopped/{part}-{BASE_MODEL}/1"
        for letter, part in (("a", world.part("train", 1)), ("b", world.part("train", 2)))
    ]
    for key in keys:
        world.store.put_bytes(key, b"learnt")
    world.delete(DATASETS, 1, force=True)
    assert [key for key in keys if world.store.stat(key)] == keys[1:]


def test_a_dataset_takes_its_splits(world: World) -> None:
    world.dataset(9)
    world.split(9, 9)
    assert world.delete(DATASETS, 9).names == [world[SPLITS, 9], world[DATASETS, 9]]


def test_trials_of_a_part_that_another_dataset_provides_as_well_stay(world: World) -> None:
    world.dataset(9)
    world.split(9, 9, parts=1)  # the same images, imported as another dataset
    assert world.delete(DATASETS, 9).names == [world[SPLITS, 9], world[DATASETS, 9]]
    assert world[TRIALS, 1] in world.there()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("service", "kind", "request_of", "blocked"),
    [
        ("image-synthesis", IMAGE_SETS, lambda w: {"adapter": w[ADAPTERS, 9].id}, (ADAPTERS, 9)),
        ("adapter-training", ADAPTERS, lambda w: {"train_split": w.part("train", 9)}, (DATASETS, 9)),
        ("study-control", STUDIES, lambda w: {"dataset": str(w[DATASETS, 9])}, (DATASETS, 9)),
    ],
)
def test_operations_that_go_on_keep_what_they_use(
    world: World, service: str, kind: str, request_of: Any, blocked: tuple[str, int], force: bool
) -> None:
    world.dataset(9)
    world.split(9, 9)
    world.adapter(9, 9)
    operation = world.record(service, "e" * 32, kind, request_of(world), ended=False)
    error = refusal(world, *blocked, force=force)
    assert (error.reason, f"\n  {operation}" in error.message) == ("OPERATION_RUNNING", True)
    world.record(service, "e" * 32, kind, request_of(world), ended=True)
    world.delete(*blocked, force=True)


def test_a_result_of_an_earlier_attempt_does_not_end_an_operation(world: World) -> None:
    operation = world.record("image-synthesis", "e" * 32, IMAGE_SETS, {"adapter": world[ADAPTERS, 2].id}, ended=True)
    for leaf, attempt in (("request", "second"), ("result", "first")):
        key = f"{operation}/{leaf}.json"
        world.store.put_json(key, world.store.get_json(key) | {"attempt": attempt})
    assert refusal(world, ADAPTERS, 2, force=True).reason == "OPERATION_RUNNING"


def test_a_study_that_goes_on_is_cancelled_first_and_one_that_was_cancelled_goes(world: World) -> None:
    steps = {
        "split": str(world[SPLITS, 1]),
        "steps": [{"plan": {"target": str(world[ADAPTERS, 3])}}, {"plan": {"target": str(world[IMAGE_SETS, 3])}}],
    }
    world.adapter(3, 1)
    world.image_set(3, 3)
    world.trial(4, 1, 3)
    study = world[STUDIES, 3]
    world.record("study-control", study.id, STUDIES, steps, ended=False)
    assert refusal(world, STUDIES, 3).reason == "OPERATION_RUNNING"
    # What it has made so far is still its own.
    assert world[TRIALS, 4] not in world.delete(STUDIES, 1, force=True, validate_only=True).names
    world.record("study-control", study.id, STUDIES, steps, ended=True)
    gone = {world[key] for key in ((STUDIES, 3), (ADAPTERS, 3), (IMAGE_SETS, 3), (TRIALS, 4))}
    assert set(world.delete(STUDIES, 3, force=True).names) == gone
    with pytest.raises(NotFound):
        world.delete(STUDIES, 3)


def test_what_a_search_has_made_is_its_study_s_before_there_is_a_manifest(world: World) -> None:
    world.adapter(3, 1)
    world.image_set(3, 3)
    study = world[STUDIES, 3]
    operation = world.record("study-control", study.id, STUDIES, {"split": str(world[SPLITS, 1])}, ended=False)
    made = [str(world[ADAPTERS, 3]), str(world[IMAGE_SETS, 3])]
    world.store.put_json(f"{operation.checkpoints}{SEARCH}", {"events": [{"event": "ended", "made": made}]})
    assert refusal(world, IMAGE_SETS, 3, force=True).reason == "OPERATION_RUNNING"
    world.record("study-control", study.id, STUDIES, {"split": str(world[SPLITS, 1])}, ended=True)
    assert refusal(world, IMAGE_SETS, 3).reason == "STILL_REFERENCED"
    gone = {world[key] for key in ((STUDIES, 3), (ADAPTERS, 3), (IMAGE_SETS, 3))}
    assert set(world.delete(STUDIES, 3, force=True).names) == gone


def test_trials_of_a_grid_that_goes_on_stay(world: World) -> None:
    request = {"parts": world.parts(1), "image_sets": [world[IMAGE_SETS, 2].id]}
    world.record("classifier-evaluation", "e" * 32, EVALUATIONS, request, ended=False)
    gone = world.delete(STUDIES, 2, force=True).names
    assert set(gone) == {world[STUDIES, 2], world[EVALUATIONS, 2]}


def test_what_a_newer_version_wrote_still_refers(world: World) -> None:
    key = f"{world[EVALUATIONS, 2]}/{MANIFEST}"
    world.store.put_json(key, {"schema": 99, "made": {"of": [world[IMAGE_SETS, 2].id]}})
    world.delete(STUDIES, 2)
    assert f"\n  {world[EVALUATIONS, 2]}" in refusal(world, IMAGE_SETS, 2).message
    world.store.put_bytes(key, b"{")  # damaged: nobody knows, but it can be deleted
    assert world[EVALUATIONS, 2] in world.delete(EVALUATIONS, 2).names


def test_payloads_are_left_to_the_sweep(world: World) -> None:
    world.delete(STUDIES, 1)
    assert [key for key in world.store.keys if key.startswith(f"{world[STUDIES, 1]}/")]
    assert world.store.find_json(deletion_key(world[STUDIES, 1]))["time"]


def test_what_is_not_there_cannot_be_deleted(world: World) -> None:
    with pytest.raises(NotFound, match="synthmix images list"):
        world.delete(IMAGE_SETS, 77)


# Datasets: names and what their imports found


def test_a_deleted_dataset_leaves_its_names_to_others(world: World) -> None:
    old, new = world[DATASETS, 1], world.dataset(2)
    datasets.claim_name(world.store, LOCAL, "cells", old, account={"left_out": ["/private/path"]}, replace=False)
    datasets.claim_name(world.store, LOCAL, "other", new, account=None, replace=False)
    assert datasets.resolve_dataset(world.store, "cells", owner=LOCAL, field="name") == old
    world.delete(DATASETS, 1, force=True)
    datasets.release_names(world.store, old, {LOCAL})
    with pytest.raises(NotFound, match=r"there is no dataset 'cells'.*use one of: other"):
        datasets.resolve_dataset(world.store, "cells", owner=LOCAL, field="name")
    assert not [key for key in world.store.keys if b"private" in world.store.get_bytes(key)]
    datasets.claim_name(world.store, LOCAL, "cells", new, account=None, replace=False)
    assert datasets.display_names(world.store) == {
        str(new): [datasets.DisplayName(LOCAL, name) for name in ("cells", "other")]
    }
    datasets.release_names(world.store, old, {LOCAL})  # again, after an interruption
    assert datasets.resolve_dataset(world.store, "cells", owner=LOCAL, field="name") == new


def test_uploads_and_accounts_of_a_deleted_dataset_go_with_it(world: World) -> None:
    for number, (dataset, upload) in enumerate([(1, "a"), (1, "c"), (2, "d")]):
        operation = world.record(
            "study-control", f"{number:032x}", DATASETS, {"request": {"upload": upload * 64}}, ended=True
        )
        world.store.put_json(f"{operation}/result.json", {"target": str(world[DATASETS, dataset])})
        world.store.put_bytes(f"uploads/{upload * 64}", b"zip")
        datasets.write_account(world.store, operation.id, {"warnings": []})
    world.record("study-control", "f" * 32, DATASETS, {"request": {"upload": "c" * 64}}, ended=False)
    datasets.forget_imports(world.store, world[DATASETS, 1], {LOCAL})
    left = [key for key in world.store.keys if key.startswith(("uploads/", "dataset-accounts/"))]
    assert left == [f"dataset-accounts/{2:032x}.json", f"uploads/{'c' * 64}", f"uploads/{'d' * 64}"]
