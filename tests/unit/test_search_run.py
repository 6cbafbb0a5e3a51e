"""A search as it is done: what is asked of the services, what is written down, and what an interruption leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from image_archives import dataset, picture
from imported_image_sets import import_here, imported, made_files
from memory_object_store import MemoryObjectStore
from search_services import SCORE_SECONDS, ScoredServices, WorkingServices, Worth
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.client.study_file import parse_document
from synthmix.service_kit.artifacts import read_manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING, IMAGE_SYNTHESIS, STUDY_CONTROL
from synthmix.service_kit.errors import Cancelled, FailedPrecondition, SynthMixError, Unavailable
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.operation_records import OperationRecord, find_progress, now
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.resource_names import ArtifactName, OperationName, collection_of
from synthmix.study_control import planning, study_operation, study_run
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.search import history, search_run
from synthmix.study_control.search.decisions import Ended, Over, Started, State, kept
from synthmix.study_control.search.history import History
from synthmix.study_control.search.planned import PlannedSearch
from synthmix.study_control.search.search_run import SearchRun, steps_of_kept
from synthmix.study_control.study_progress import StudyProgress

FILES = {
    f"{label}/plate-{plate}_{number}.png": picture(100 * plate + 10 * number + index)
    for index, label in enumerate(("alpha", "beta"))
    for plate in range(12)
    for number in range(2)
}
# Eight candidates, of which a higher rank is better. A rung takes 100 s, and 30 s for its images and 7 for their score.
RANKS = (1, 2, 3, 4, 5, 6, 7, 8)
TRAINING_SECONDS, IMAGES_SECONDS = 100.0, 30.0
RUNG_SECONDS = TRAINING_SECONDS + IMAGES_SECONDS + SCORE_SECONDS


@pytest.fixture
def store(tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    monkeypatch.setattr(study_run, "POLL_SECONDS", 0.0)
    store = MemoryObjectStore.created()
    claim_name(store, LOCAL, "cells", dataset(store, tmp_path, FILES).name, account=None, replace=False)
    return store


def timed(services: ScoredServices) -> ScoredServices:
    services.seconds = {ADAPTER_TRAINING: TRAINING_SECONDS, IMAGE_SYNTHESIS: IMAGES_SECONDS}
    return services


def lay_out(store: MemoryObjectStore, search: str = "{budget_seconds: 1e5}", more: str = "") -> planning.StudySteps:
    text = f"name: a\ndataset: cells\nadapters: {{rank: {list(RANKS)}, images_seen: 800}}\nsearch: {search}\n{more}"
    spec = parse_document(text, studies_pb2.StudySpec, "study.yaml").message
    return planning.lay_out(store, ScoredServices(store), spec, LOCAL)  # type: ignore[arg-type]


def context_of(laid_out: planning.StudySteps, store: MemoryObjectStore) -> OperationContext:
    name = OperationName(STUDY_CONTROL, laid_out.name.id)
    record = OperationRecord(name, "studies", str(laid_out.name), laid_out.record(), now())
    return OperationContext(store, record)


class Searching:
    """A search in one host, with a clock of its own."""

    def __init__(self, store: MemoryObjectStore, laid_out: planning.StudySteps, services: ScoredServices):
        assert laid_out.search is not None
        self.planned: PlannedSearch = laid_out.search
        self.context = context_of(laid_out, store)
        self.services = services
        self.progress = StudyProgress(self.context, ())
        self.now_s = 0.0
        self.run = SearchRun(
            self.context,
            services,  # type: ignore[arg-type]
            self.progress,
            self.planned,
            clock=lambda: self.now_s,
        )

    @property
    def history(self) -> tuple[Any, ...]:
        return History(self.context.store, self.context.record.name).state.history

    def ranks(self, candidates: list[int]) -> list[int]:
        return [RANKS[number] for number in candidates]

    def shown(self) -> list[progress_pb2.Step]:
        self.context.write_progress()
        written = find_progress(self.context.store, self.context.record) or {}
        return [json_format.ParseDict(step, progress_pb2.Step()) for step in written["steps"]]


# Whole searches


def test_a_search_finds_the_best_and_says_what_it_made(store: MemoryObjectStore) -> None:
    services = timed(ScoredServices(store))
    searching = Searching(store, lay_out(store), services)
    state = searching.run.run()
    assert state.history == searching.history
    assert state.over == Over("exhausted")
    assert searching.ranks(kept(searching.planned.rules, state)) == [8]
    assert len(state.of_rung(0)) == 8
    assert len(state.of_rung(3)) >= 1
    assert state.spent_seconds == pytest.approx(RUNG_SECONDS * len(state.ended))
    for event in state.ended:
        adapter, images, score = (ArtifactName.parse(name, field="x") for name in event.made)
        settings = services.settings[adapter.id]
        assert settings.rank == RANKS[event.candidate]
        assert settings.stop_at == (100, 200, 400, 0)[event.rung]
        assert read_manifest(store, images).inputs["adapter"] == adapter.id
        assert collection_of(str(score)) == "image-set-scores"
        assert event.scores is not None and event.scores.class_consistency == RANKS[event.candidate] / 100
    assert state.made == tuple(services.created)
    shown = searching.shown()[0]
    assert (shown.state, shown.done) == (progress_pb2.STATE_SUCCEEDED, round(state.spent_seconds))
    assert shown.message == (
        "8 of 8 adapters tried; the best is rank 8, with a class consistency of 0.080 at 800 images seen"
    )
    assert not any(event.found for event in state.ended)


def test_the_study_goes_on_with_what_was_found(store: MemoryObjectStore) -> None:
    services = timed(ScoredServices(store))
    laid_out = lay_out(store, "{budget_seconds: 1e5, keep: 2}", "synthesis: {steps: [5, 10]}")
    searching = Searching(store, laid_out, services)
    state = searching.run.run()
    steps = steps_of_kept(services, searching.planned, state)  # type: ignore[arg-type]
    assert [step.display_name for step in steps] == [
        "adapter rank 8",
        "adapter rank 7",
        "images rank 8, steps 5",
        "images rank 8, steps 10",
        "images rank 7, steps 5",
        "images rank 7, steps 10",
        "grid",
    ]
    searching.progress.add(steps)
    services.created.clear()
    made = study_run.run_study(searching.context, services, searching.progress, steps)  # type: ignore[arg-type]
    assert made[ADAPTER_TRAINING] == [steps[0].target, steps[1].target]
    assert list(steps[-1].request.image_sets) == made[IMAGE_SYNTHESIS]
    finished = {event.candidate for event in state.of_rung(3)}
    trained = [name for name in services.created if name.startswith("adapters/")]
    assert len(trained) == 2 - len(finished & set(kept(searching.planned.rules, state)))


def test_what_was_imported_is_evaluated_whatever_is_found(
    store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_here(store, monkeypatch)
    image_set = imported(store, made_files(80))
    services = timed(ScoredServices(store))
    laid_out = lay_out(store, more=f"image_sets: [{image_set.name}]")
    searching = Searching(store, laid_out, services)
    state = searching.run.run()
    *_, images, grid = steps_of_kept(services, searching.planned, state)  # type: ignore[arg-type]
    assert list(grid.request.image_sets) == [images.target, str(image_set.name)]


def test_the_budget_ends_a_search_and_what_is_found_costs_as_much_as_it_did(store: MemoryObjectStore) -> None:
    """A second study of the same search, over what the first has made, comes to the same, and pays nothing."""
    laid_out = lay_out(store, "{budget_seconds: 1300}")
    first = Searching(store, laid_out, timed(ScoredServices(store)))
    state = first.run.run()
    assert state.over == Over("budget")
    assert state.spent_seconds <= 1300
    assert len(state.tried) < 8
    History(store, first.context.record.name).forget()
    services = timed(ScoredServices(store))
    services.settings = first.services.settings
    again = Searching(store, laid_out, services).run.run()
    assert services.created == []
    assert [event for event in again.history if isinstance(event, Started)] == [
        event for event in state.history if isinstance(event, Started)
    ]
    assert again.spent_seconds == state.spent_seconds
    assert all(event.found == event.made for event in again.ended)


# Failures


def refusing(services: ScoredServices, wrong: Callable[[adapters_pb2.AdapterSettings], SynthMixError | None]) -> None:
    """Has adapters of some settings fail."""
    create = services.create

    def refuse(service: str, resource: Message) -> Any:
        error = wrong(resource.settings) if isinstance(resource, adapters_pb2.Adapter) else None
        if error is not None:
            raise error
        return create(service, resource)

    services.create = refuse  # type: ignore[method-assign]


def out_of_memory(settings: adapters_pb2.AdapterSettings) -> SynthMixError | None:
    return FailedPrecondition("memory is not enough", reason="OUT_OF_MEMORY") if settings.rank == 8 else None


def test_a_failure_is_a_result_and_the_search_goes_on(store: MemoryObjectStore) -> None:
    services = timed(ScoredServices(store))
    refusing(services, out_of_memory)
    searching = Searching(store, lay_out(store), services)
    state = searching.run.run()
    [failure] = [event for event in state.ended if event.outcome == "failed"]
    assert (RANKS[failure.candidate], failure.rung, failure.reason) == (8, 0, "memory is not enough")
    assert failure.made == () and failure.scores is None
    assert searching.ranks(kept(searching.planned.rules, state)) == [7]
    assert [step.display_name for step in searching.shown() if step.state == progress_pb2.STATE_QUEUED] == ["report"]


def test_a_score_that_is_no_number_is_a_failure(store: MemoryObjectStore) -> None:
    services = timed(ScoredServices(store, lambda settings: Worth(0.5, float("nan") if settings.rank == 8 else 0.1)))
    state = Searching(store, lay_out(store), services).run.run()
    [failure] = [event for event in state.ended if event.outcome == "failed"]
    assert RANKS[failure.candidate] == 8
    assert "has a class consistency of 0.5 and a distance of nan" in failure.reason
    assert len(failure.made) == 3 and failure.seconds == RUNG_SECONDS


def test_a_search_without_any_score_fails_with_the_first_reason_and_may_be_tried_again(
    store: MemoryObjectStore,
) -> None:
    services = timed(ScoredServices(store))
    refusing(services, lambda settings: FailedPrecondition("the disk is full", reason="STORAGE_FULL"))
    searching = Searching(store, lay_out(store), services)
    with pytest.raises(FailedPrecondition, match=r"none of 8 adapters that were tried was scored; .*the disk is full"):
        searching.run.run()
    assert searching.history == ()


def copied(store: MemoryObjectStore) -> MemoryObjectStore:
    copy = MemoryObjectStore.created()
    for key in store.keys:
        copy.put_bytes(key, store.get_bytes(key))
    return copy


def test_wherever_a_search_is_interrupted_it_comes_to_the_same_and_makes_nothing_twice(
    store: MemoryObjectStore,
) -> None:
    laid_out = lay_out(store, "{budget_seconds: 1500, keep: 2}")
    at_once = Searching(copied(store), laid_out, timed(ScoredServices(store)))
    at_once.services.store = at_once.context.store
    expected = at_once.run.run()
    assert len(at_once.services.created) > 12
    for stop_after in range(0, len(at_once.services.created), 3):
        fresh = copied(store)
        services = timed(ScoredServices(fresh))
        create, left = services.create, [stop_after]

        def interrupted(service: str, resource: Message, create: Any = create, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise Unavailable("the service does not answer", reason="SERVICE_UNREACHABLE")
            return create(service, resource)

        services.create = interrupted  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            Searching(fresh, laid_out, services).run.run()
        state = Searching(fresh, laid_out, services).run.run()
        assert state == expected, stop_after
        assert services.created == at_once.services.created


# While it runs


def step_of(searching: Searching, words: str) -> progress_pb2.Step:
    [step] = [step for step in searching.shown() if words in step.display_name]
    return step


@pytest.fixture
def at_work(store: MemoryObjectStore) -> Searching:
    """A search over services at work."""
    return Searching(store, lay_out(store), timed(WorkingServices(store)))


def working(searching: Searching) -> WorkingServices:
    assert isinstance(searching.services, WorkingServices)
    return searching.services


def first_begun(searching: Searching) -> str:
    """The adapter of the first rung, which a worker has begun; what may begin then was asked for."""
    searching.run.advance()
    [first] = working(searching).running("adapters")
    working(searching).begin(first)
    searching.run.advance()
    return first


def test_one_rung_waits_for_a_worker_and_others_begin_as_workers_do(at_work: Searching) -> None:
    services = working(at_work)
    at_work.run.advance()
    first = first_begun(at_work)
    assert len(services.running("adapters")) == 2
    at_work.run.advance()
    assert len(services.running("adapters")) == 2
    services.make(first)
    at_work.run.advance()
    [images] = services.running("image-sets")
    assert len(services.running("adapters")) == 1
    services.make(images)
    at_work.run.advance()
    [score] = services.running("image-set-scores")
    assert not at_work.run.is_over and not [event for event in at_work.history if isinstance(event, Ended)]
    services.make(score)
    at_work.run.advance()
    [ended] = [event for event in at_work.history if isinstance(event, Ended)]
    assert ended.made == (first, images, score)


def test_what_runs_is_shown_with_the_budget_that_is_spent(at_work: Searching) -> None:
    first_begun(at_work)
    at_work.now_s = 40.0
    at_work.run.advance()
    search = at_work.shown()[0]
    assert (search.display_name, search.state, search.unit) == ("search", progress_pb2.STATE_RUNNING, "seconds")
    assert (search.done, search.total) == (40, 100_000)
    assert search.message == "2 of 8 adapters tried"
    names = [step.display_name for step in at_work.shown()[1:]]
    assert len(names) == 7 and names[-1] == "report"
    assert all(" at 100 images seen" in name for name in names[:6])
    assert [step.operation != "" for step in at_work.shown()[1:7]] == [True, False, False, True, False, False]


def test_what_runs_ends_with_the_budget(store: MemoryObjectStore) -> None:
    searching = Searching(store, lay_out(store, "{budget_seconds: 1500}"), timed(WorkingServices(store)))
    services = working(searching)
    searching.run.advance()
    [first] = services.running("adapters")
    services.make(first)
    for _ in range(2):
        searching.run.advance()
        for collection in ("image-sets", "image-set-scores"):
            for target in services.running(collection):
                services.make(target)
    searching.run.advance()
    [second] = services.running("adapters")
    services.begin(second)
    searching.run.advance()
    searching.now_s = 1500.0 - RUNG_SECONDS
    searching.run.advance()
    assert searching.run.is_over
    state = searching.run.run()
    assert state.over == Over("budget")
    cancelled = [event for event in state.ended if event.outcome == "cancelled"]
    assert max(event.seconds for event in cancelled) == 1500.0 - RUNG_SECONDS
    assert f"operations/{ADAPTER_TRAINING}/{second.rpartition('/')[2]}" in services.cancelled
    assert [step.state for step in searching.shown() if step.target == second] == [progress_pb2.STATE_CANCELLED]
    assert kept(searching.planned.rules, state) == [state.ended[0].candidate]


def test_a_search_that_is_cancelled_stops_what_it_had_running_and_goes_on_later(at_work: Searching) -> None:
    services = working(at_work)
    first = first_begun(at_work)
    at_work.context.cancel()
    with pytest.raises(Cancelled):
        search_run.search(at_work.context, services, at_work.progress, at_work.planned)  # type: ignore[arg-type]
    assert len(services.cancelled) == 2 and services.running("adapters") == []
    assert len(State(at_work.history).running) == 2
    again = Searching(at_work.context.store, lay_out(at_work.context.store), timed(WorkingServices(store_of(at_work))))
    again.run.resume()
    again.run.advance()
    assert first in working(again).running("adapters") and len(working(again).running("adapters")) == 2


def store_of(searching: Searching) -> MemoryObjectStore:
    assert isinstance(searching.context.store, MemoryObjectStore)
    return searching.context.store


def test_a_host_that_dies_is_followed_by_one_that_goes_on(at_work: Searching) -> None:
    services = working(at_work)
    first = first_begun(at_work)
    services.make(first)  # while no host was there
    later = Searching(store_of(at_work), lay_out(store_of(at_work)), services)
    later.run.resume()
    later.run.advance()
    assert len(services.running("image-sets")) == 1
    assert later.history[: len(at_work.history)] == at_work.history
    assert len([event for event in later.history if isinstance(event, Started)]) == 2


def test_a_budget_s_end_that_a_host_wrote_down_before_it_died_is_carried_out(at_work: Searching) -> None:
    services = working(at_work)
    at_work.run.advance()
    [first] = services.running("adapters")
    History(store_of(at_work), at_work.context.record.name).append(Over("budget"))
    later = Searching(store_of(at_work), lay_out(store_of(at_work)), services)
    with pytest.raises(FailedPrecondition, match="none of 1 adapter that were tried was scored within"):
        later.run.run()
    assert services.cancelled == [f"operations/{ADAPTER_TRAINING}/{first.rpartition('/')[2]}"]


def test_a_search_begins_anew_if_what_it_made_was_deleted_and_finds_the_rest(store: MemoryObjectStore) -> None:
    laid_out = lay_out(store, "{budget_seconds: 1500}")
    services = timed(ScoredServices(store))
    first = Searching(store, laid_out, services)
    state = first.run.run()
    gone = state.ended[0].made
    for name in gone:
        store.delete_prefix(f"{name}/")
    services.created.clear()
    again = Searching(store, laid_out, services).run.run()
    assert services.created == list(gone)
    assert [event for event in again.history if isinstance(event, Started)] == [
        event for event in state.history if isinstance(event, Started)
    ]


def test_of_two_hosts_with_one_search_the_second_to_write_leaves_off(at_work: Searching) -> None:
    other = Searching(store_of(at_work), lay_out(store_of(at_work)), at_work.services)
    at_work.run.advance()
    [first] = working(at_work).running("adapters")
    working(at_work).begin(first)
    at_work.run.advance()
    before = at_work.history
    with pytest.raises(Unavailable, match="was changed by another host"):
        other.run.advance()
    assert at_work.history == before


# The history


def test_a_history_is_read_as_it_was_written(store: MemoryObjectStore) -> None:
    state = Searching(store, lay_out(store), timed(ScoredServices(store))).run.run()
    assert history.events_of(history.to_json(state.history)) == state.history


# The whole study's operation


def test_the_operation_of_a_study_with_a_search(store: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    services = timed(ScoredServices(store))
    monkeypatch.setattr(services, "close", lambda: None, raising=False)
    monkeypatch.setattr(study_operation, "open_step_services", lambda requester: services)
    laid_out = lay_out(store, "{budget_seconds: 1300, keep: 2}")
    context = context_of(laid_out, store)
    reports: list[dict[str, Any]] = []

    def report(function: str, arguments: list[dict[str, Any]]) -> list[Any]:
        reports.extend(arguments)
        return [{"payloads": [], "verdict": "No ratio improves it."}]

    monkeypatch.setattr(context, "run_tasks", report)
    name = study_operation.run(context)
    manifest = read_manifest(store, name)
    [reported] = reports
    assert len(reported["adapters"]) == 2 and len(reported["image_sets"]) == 2 and len(reported["costs"]) == 5
    searched = history.events_of(reported["search"]["history"])
    made = State(searched).made
    assert [manifest.inputs[f"search-{number}"] for number in range(len(made))] == list(made)
    assert [item["name"] for item in reported["search"]["candidates"]] == [f"rank {rank}" for rank in RANKS]
    services.created.clear()
    assert study_operation.run(context) == name and services.created == []
