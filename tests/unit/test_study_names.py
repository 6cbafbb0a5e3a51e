"""Studies that share a name, and the order of lists: on a store in memory, without workers."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.longrunning import operations_pb2

from memory_object_store import MemoryObjectStore
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit import metrics, open_operations, pages
from synthmix.service_kit import operation_records as records
from synthmix.service_kit.artifacts import Manifest, write_manifest
from synthmix.service_kit.digests import digest_of
from synthmix.service_kit.environment import STUDY_CONTROL
from synthmix.service_kit.errors import Cancelled, FailedPrecondition, InvalidArgument, NotFound
from synthmix.service_kit.operation_calls import metadata_of
from synthmix.service_kit.operation_index import Created, OperationIndex
from synthmix.service_kit.operations import Operations
from synthmix.service_kit.ray_connection import RayConnection
from synthmix.service_kit.requesters import LOCAL, Requester
from synthmix.service_kit.resource_names import ArtifactName, OperationName
from synthmix.study_control import planning, specification, study_names
from synthmix.study_control.study_service import StudyService

DATASET = "datasets/" + "d" * 32


class Studies:
    """A study service whose plans need no other services."""

    def __init__(self, store: MemoryObjectStore):
        self.store = store
        operations = Operations(
            STUDY_CONTROL, store, RayConnection("unused"), {}, lambda name: self.service.resource(name)
        )
        self.service = StudyService(store, operations, None, None)  # type: ignore[arg-type]
        self.operations = operations

    def create(self, *, validate_only: bool = False, **fields: Any) -> operations_pb2.Operation:
        spec = studies_pb2.StudySpec(**({"name": "cells", "dataset": "my-cells"} | fields))
        request = studies_pb2.CreateStudyRequest(spec=spec, validate_only=validate_only)
        return asyncio.run(self.service.CreateStudy(request, None))

    def submit(self, **fields: Any) -> ArtifactName:
        return ArtifactName.parse(metadata_of(self.create(**fields)).target, field="target")

    def listed(self, **request: Any) -> studies_pb2.ListStudiesResponse:
        return asyncio.run(self.service.ListStudies(studies_pb2.ListStudiesRequest(**request), None))

    def names(self, **request: Any) -> list[str]:
        return [study.name for study in self.listed(**request).studies]

    def cancel(self, study: ArtifactName) -> None:
        open_operations.request_cancellation(self.store, self.record(study))

    def end(self, study: ArtifactName) -> None:
        record = self.record(study)
        records.write_failure(self.store, record, Cancelled("stopped", reason="CANCELLED"))
        open_operations.close(self.store, record)

    def record(self, study: ArtifactName) -> records.OperationRecord:
        return records.read_record(self.store, study_names.operation_of(study))


def laid_out(store: Any, client: Any, spec: studies_pb2.StudySpec, owner: str) -> SimpleNamespace:
    full = specification.with_defaults(spec)
    canonical = specification.canonical(full, DATASET)
    name = ArtifactName("studies", digest_of({"spec": canonical}))
    return SimpleNamespace(
        name=name,
        spec=full,
        split=SimpleNamespace(name="splits/" + "e" * 32),
        dataset=SimpleNamespace(name=DATASET),
        request={"spec": canonical},
        record=lambda: {"spec": canonical, "split": "splits/" + "e" * 32, "dataset": DATASET},
        plan=lambda: studies_pb2.StudyPlan(name=str(name), spec=full, warnings=["simulated"]),
    )


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Studies]:
    monkeypatch.setattr(planning, "lay_out", laid_out)
    ticks = iter(f"2026-01-01T00:00:00.{number:03d}Z" for number in range(1000))
    monkeypatch.setattr(records, "now", lambda: next(ticks))
    yield Studies(MemoryObjectStore.created())


Change = dict[str, Any]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"seeds": 2}, {"seeds": 3}, "differs in seeds (2 there, 3 here);"),
        ({}, {"seeds": 3}, "differs in seeds (5 there, 3 here);"),
        (
            {"mixtures": {"ratios": [0, 0.5]}},
            {"mixtures": {"ratios": [0, 0.25]}},
            "differs in mixtures.ratios ([0.0, 0.5] there, [0.0, 0.25] here);",
        ),
        ({"adapters": [{"rank": 4}]}, {"adapters": [{"rank": 4}, {}]}, "differs in adapters (1 there, 2 here);"),
        ({"adapters": [{"rank": 4}]}, {}, "differs in adapters[0].rank (4 there, not set here);"),
        (
            {"synthesis": [{"prompt": "a"}]},
            {"synthesis": [{"prompt": "b"}]},
            "synthesis[0].prompt ('a' there, 'b' here)",
        ),
        ({"synthesis": [{"per_class": 9}]}, {}, "synthesis[0].per_class (9 there, not set here)"),
        (
            {"seeds": 2, "claim": {"margin": 0.1}},
            {"seeds": 3, "claim": {"margin": 0.2}},
            "seeds (2 there, 3 here), claim.margin (0.1 there, 0.2 here);",
        ),
    ],
)
def test_a_changed_study_beside_the_old_one_is_said(studies: Studies, before: Change, after: Change, said: str) -> None:
    old = studies.submit(**before)
    planned = studies.create(validate_only=True, **after)
    plan = studies_pb2.StudyPlan()
    assert planned.response.Unpack(plan)
    [simulated, warning] = plan.warnings
    assert simulated == "simulated"
    assert said in warning
    assert f"another study named 'cells' is not finished: {old}, submitted 2026-01-01 00:00 UTC" in warning
    assert f"`synthmix studies cancel {old}`" in warning
    assert studies.names() == [str(old)]  # validating starts nothing and claims nothing
    assert list(metadata_of(studies.create(**after)).warnings) == ["simulated", warning]


def test_nothing_is_said_of_what_has_ended_or_has_another_name(studies: Studies) -> None:
    studies.submit(name="other")
    ended, stopping = studies.submit(seeds=2), studies.submit(seeds=3)
    studies.end(ended)
    studies.cancel(stopping)
    operation = studies.create(seeds=4)
    assert list(metadata_of(operation).warnings) == ["simulated"]
    assert list(metadata_of(studies.create(seeds=4)).warnings) == ["simulated"]  # nor of itself


def test_long_differences_are_counted(studies: Studies) -> None:
    studies.submit()
    many = {"classifier": {"architecture": "x" * 500}}
    [_, warning] = metadata_of(studies.create(seeds=4, **many)).warnings
    assert "x" * 60 not in warning
    old: dict[str, Any] = {"adapters": [{"rank": rank} for rank in range(30)]}
    new: dict[str, Any] = {"adapters": [{"rank": rank + 1} for rank in range(30)]}
    assert len(study_names.differences(old, new)) == 30
    assert "and 22 more fields" in study_names._difference(old, new)
    assert "same specification" in study_names._difference(old, old)


def test_a_name_means_the_study_submitted_last(studies: Studies) -> None:
    first, second = studies.submit(seeds=2), studies.submit(seeds=3)
    resolve = studies.service._resolve
    assert resolve("cells", LOCAL) == second
    assert studies.submit(seeds=2) == first  # it runs already, and is meant again
    assert resolve("studies/cells", LOCAL) == first
    assert studies.names(spec_name="cells") == [str(first), str(second)]
    with pytest.raises(NotFound, match="there is no study 'nothing'"):
        resolve("nothing", LOCAL)


def test_a_name_forgets_what_is_gone(studies: Studies) -> None:
    first, second = studies.submit(seeds=2), studies.submit(seeds=3)
    studies.end(second)
    studies.store.delete_prefix(f"{study_names.operation_of(second)}/")
    assert studies.service._resolve("cells", LOCAL) == first
    assert studies.names(spec_name="cells") == [str(first)]


def test_studies_are_listed_newest_first_on_every_page(studies: Studies) -> None:
    made = [str(studies.submit(seeds=number)) for number in range(2, 12)]
    assert studies.names() == made[::-1]
    seen, token = [], ""
    while True:
        page = studies.listed(page_size=3, page_token=token)
        seen += [study.name for study in page.studies]
        token = page.next_page_token
        if not seen[3:]:
            studies.submit(seeds=99)  # what is new moves nothing on the pages that follow
        if not token:
            break
    assert seen == made[::-1]


def test_a_finished_study_stays_where_it_was_created(studies: Studies) -> None:
    first, second = studies.submit(seeds=2), studies.submit(seeds=3)
    record = records.read_record(studies.store, study_names.operation_of(first))
    write_manifest(
        studies.store,
        Manifest(
            name=first,
            inputs={"split": "splits/" + "e" * 32, "evaluation": "evaluations/" + "f" * 32},
            request=record.request,
            recipe_version=1,
            payloads=(),
            summary={"verdict": "No."},
        ),
    )
    assert studies.names() == [str(second), str(first)]
    times = [study.create_time.ToDatetime().isoformat() for study in studies.listed().studies]
    assert times == sorted(times, reverse=True)
    records.write_success(studies.store, record, str(first))
    request = operations_pb2.DeleteOperationRequest(name=str(record.name))
    asyncio.run(studies.operations.DeleteOperation(request, None))  # type: ignore[arg-type]
    assert studies.names() == [str(second), str(first)], "its operation is forgotten, and it stays where it was"


def test_only_what_goes_on(studies: Studies) -> None:
    ended, stopping, running = (studies.submit(seeds=number) for number in (2, 3, 4))
    studies.end(ended)
    studies.cancel(stopping)
    assert studies.names(spec_name="cells", unfinished_only=True) == [str(running)]
    assert studies.names(spec_name="none-of-it") == []
    with pytest.raises(InvalidArgument, match="spec_name"):
        studies.listed(spec_name="../x")


def test_operations_are_listed_newest_first(studies: Studies) -> None:
    made = [study_names.operation_of(studies.submit(seeds=number)) for number in range(2, 9)]

    def listed(**request: Any) -> list[str]:
        answer = asyncio.run(
            studies.operations.ListOperations(operations_pb2.ListOperationsRequest(**request), None)  # type: ignore[arg-type]
        )
        return [item.name for item in answer.operations]

    assert listed() == [str(name) for name in made[::-1]]
    assert listed(page_size=2) == [str(made[-1]), str(made[-2])]


def test_lists_read_the_records_of_their_page_alone(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [study_names.operation_of(studies.submit(seeds=number)) for number in range(2, 9)]
    read: list[str] = []
    find: Callable[[str], Any] = studies.store.find_json
    monkeypatch.setattr(studies.store, "find_json", lambda key: (read.append(key), find(key))[1])
    assert len(studies.names(page_size=2)) == 2
    assert {name for name in made if f"{name}/request.json" in read} == set(made[-2:])


def test_one_that_is_started_again_is_listed_once_and_as_new(studies: Studies) -> None:
    first, second = studies.submit(seeds=2), studies.submit(seeds=3)
    studies.end(first)
    assert studies.submit(seeds=2) == first
    assert studies.names() == [str(first), str(second)]
    index = OperationIndex(studies.store, STUDY_CONTROL)
    assert len(index.read()) == len(index.read("studies")) == len(studies.store.list("operation-index/")) == 2
    assert index.read("datasets") == {}


def test_an_index_that_was_read_once_lists_what_is_new_alone(store: MemoryObjectStore) -> None:
    now_s = datetime(2026, 3, 1, 0, 30, tzinfo=UTC).timestamp()
    index = OperationIndex(store, STUDY_CONTROL, clock=lambda: now_s)
    names = [OperationName(STUDY_CONTROL, f"{number:032x}") for number in range(4)]
    times = ("2026-01-01T00:00:00.000Z", "2026-02-28T23:59:00.000Z", "2026-03-01T00:10:00.000Z")
    created = [Created(time, "studies") for time in times]
    other = OperationIndex(store, STUDY_CONTROL)
    for name, item in zip(names[:2], created[:2], strict=True):
        other.add(name, item)
    assert set(index.read()) == set(names[:2])
    listed: list[str] = []
    found = store.list
    store.list = lambda prefix: (listed.append(prefix), found(prefix))[1]  # type: ignore[method-assign,assignment]
    other.add(names[2], created[2])
    other.remove(names[1], created[1])  # by another replica
    assert set(index.read()) == {names[0], names[2]}
    assert sorted(listed) == [f"operation-index/{STUDY_CONTROL}/2026-0{day}" for day in ("2-28", "3-01")]
    index.remove(names[0], created[0])
    assert set(index.read()) == {names[2]}


def test_what_cannot_be_read_is_named_and_the_rest_is_listed(studies: Studies) -> None:
    first, second, third = (studies.submit(seeds=number) for number in (2, 3, 4))
    key = f"{study_names.operation_of(second)}/request.json"
    studies.store.put_json(key, studies.store.get_json(key) | {"schema": 2, "request": ["of another form"]})
    counted = metrics.UNREADABLE_RECORDS._value.get()
    listed = studies.listed()
    assert [study.name for study in listed.studies] == [str(third), str(first)]
    assert list(listed.unreachable) == [str(second)]
    request = operations_pb2.ListOperationsRequest()
    operations = asyncio.run(studies.operations.ListOperations(request, None))  # type: ignore[arg-type]
    assert len(operations.operations) == 2
    assert list(operations.unreachable) == [str(study_names.operation_of(second))]
    assert metrics.UNREADABLE_RECORDS._value.get() == counted + 2
    with pytest.raises(FailedPrecondition, match="is of schema 2, and this version reads schema 1 at most"):
        studies.operations.read(study_names.operation_of(second))
    assert studies.submit(seeds=3) == second, "whoever submits it again has it made anew"
    assert studies.names() == [str(second), str(third), str(first)]


def test_tomorrow_s_record_is_read_by_what_is_known_of_it(studies: Studies) -> None:
    study = studies.submit(seeds=2)
    key = f"{study_names.operation_of(study)}/request.json"
    later = {"priority": {"class": "night"}, "requested_by": {"owner": "ada", "team": "lab"}}
    studies.store.put_json(key, studies.store.get_json(key) | later)
    assert studies.names() == [str(study)]
    assert studies.record(study).requested_by == Requester("ada", "")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 1000])
def test_pages_by_time_visit_every_item_once(size: int) -> None:
    times = {f"item-{number}": f"2026-01-01T00:00:0{number // 2}.000Z" for number in range(8)}  # pairs at one time
    seen: list[str] = []
    token = ""
    while True:
        found, token = pages.newest_first(times, size, token)
        seen += found
        if not token:
            break
    assert seen == [f"item-{number}" for number in range(7, -1, -1)]


def test_a_token_survives_that_its_item_is_deleted() -> None:
    times = {f"item-{number}": f"2026-01-0{number + 1}T00:00:00.000Z" for number in range(4)}
    found, token = pages.newest_first(times, 2, "")
    assert found == ["item-3", "item-2"]
    del times["item-2"]
    assert pages.newest_first(times, 2, token) == (["item-1", "item-0"], "")
    with pytest.raises(InvalidArgument, match="page_token"):
        pages.newest_first(times, 2, "nonsense")


def test_an_operation_name_and_its_study(tmp_path: Path) -> None:
    study = ArtifactName("studies", "a" * 32)
    assert study_names.operation_of(study) == OperationName(STUDY_CONTROL, "a" * 32)
