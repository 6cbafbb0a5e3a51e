"""A study with a search, from its specification to its plan: nothing is paid for, and nothing else is planned anew."""

import json
from pathlib import Path

import pytest

from image_archives import dataset, picture
from memory_object_store import MemoryObjectStore
from search_services import ScoredServices
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli.studies import plan_text
from synthmix.client.study_file import parse_document
from synthmix.service_kit.environment import ADAPTER_TRAINING, IMAGE_SYNTHESIS
from synthmix.service_kit.errors import InvalidArgument
from synthmix.service_kit.requesters import LOCAL
from synthmix.service_kit.settings_messages import canonical, from_canonical, with_defaults
from synthmix.study_control import planning
from synthmix.study_control.datasets import claim_name
from synthmix.study_control.planning import StudySteps
from synthmix.study_control.search.planned import PlannedSearch, at_rung, rungs_of

FILES = {
    f"{label}/plate-{plate}_{number}.png": picture(100 * plate + 10 * number + index)
    for index, label in enumerate(("alpha", "beta"))
    for plate in range(12)
    for number in range(2)
}
ADAPTERS = "adapters: {method: [lora, loha], rank: [2, 4, 8], images_seen: 4800}"


@pytest.fixture
def store(tmp_path: Path, own_cache: None) -> MemoryObjectStore:
    store = MemoryObjectStore.created()
    claim_name(store, LOCAL, "cells", dataset(store, tmp_path, FILES).name, account=None, replace=False)
    return store


def study(text: str) -> studies_pb2.StudySpec:
    return parse_document(f"name: a\ndataset: cells\n{text}", studies_pb2.StudySpec, "study.yaml").message


def lay_out(store: MemoryObjectStore, text: str) -> StudySteps:
    return planning.lay_out(store, ScoredServices(store), study(text), LOCAL)  # type: ignore[arg-type]


def searched(store: MemoryObjectStore, search: str = "{budget_seconds: 2000}", more: str = "") -> StudySteps:
    return lay_out(store, f"{ADAPTERS}\nsearch: {search}\n{more}")


def search_of(laid_out: StudySteps) -> PlannedSearch:
    assert laid_out.search is not None
    return laid_out.search


def faults(store: MemoryObjectStore, text: str) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        lay_out(store, text)
    return {item.field: item.description for item in caught.value.violations}


# The specification


def test_a_study_without_a_search_has_none_with_its_defaults_and_in_its_record(store: MemoryObjectStore) -> None:
    full = with_defaults(study(""))
    assert not full.HasField("search")
    assert not from_canonical(canonical(full), studies_pb2.StudySpec).HasField("search")
    laid_out = lay_out(store, ADAPTERS)
    assert laid_out.search is None
    assert not {"search", "scores"} & laid_out.record().keys()
    assert not laid_out.plan().HasField("search")


def test_a_search_is_addressed_by_what_is_not_its_default(store: MemoryObjectStore) -> None:
    laid_out = searched(store)
    assert laid_out.spec.search.keep == 1 and laid_out.spec.search.sampler == "tpe"
    assert laid_out.request["spec"]["search"] == {"budget_seconds": 2000.0}
    same = searched(store, "{budget_seconds: 2e3, keep: 1, score: class_consistency, rungs: 4, seed: 0}")
    assert same.name == laid_out.name
    assert searched(store, "{budget_seconds: 2000, seed: 1}").name != laid_out.name
    assert lay_out(store, ADAPTERS).name != laid_out.name


@pytest.mark.parametrize(
    ("search", "field", "said"),
    [
        ("{keep: 2}", "search.budget_seconds", "is required; say how many seconds of worker time it may take"),
        ("{budget_seconds: 0}", "search.budget_seconds", "0.0 is out of range; use a value above 0"),
        ("{budget_seconds: 60}", "search.budget_seconds", "is too small to train and score 1 adapter, for which"),
        (
            "{budget_seconds: 9e3, keep: 6}",
            "search.keep",
            "6 leaves nothing to choose: `adapters` makes 6 comb",
        ),
        ("{budget_seconds: 9e3, keep: 0}", "search.keep", "0 is out of range"),
        ("{budget_seconds: 9e3, sampler: tpi}", "search.sampler", "'tpi' is not one of the choices"),
        ("{budget_seconds: 9e3, score: accuracy}", "search.score", "'accuracy' is not one of the choices"),
        ("{budget_seconds: 9e3, reduction_factor: 1}", "search.reduction_factor", "1 is out of range"),
        ("{budget_seconds: 9e3, images_per_class: 1}", "search.images_per_class", "1 is out of range"),
        ("{budget_seconds: 9e3, rungs: 14}", "search.rungs", "14 are more than the 4,800 images seen of adapter"),
    ],
)
def test_what_a_search_cannot_be(store: MemoryObjectStore, search: str, field: str, said: str) -> None:
    found = faults(store, f"{ADAPTERS}\nsearch: {search}")
    assert said in found[field], found
    assert list(found) == [field]


def test_a_search_of_what_no_mixture_takes_is_refused(store: MemoryObjectStore) -> None:
    found = faults(store, f"{ADAPTERS}\nsearch: {{budget_seconds: 2000}}\nmixtures: {{ratios: [0]}}")
    assert "chooses adapters, and the mixtures take no synthetic images" in found["search"]


def test_a_search_s_faults_are_told_with_the_adapters(store: MemoryObjectStore) -> None:
    found = faults(store, "adapters: {rank: [0, 4]}\nsearch: {budget_seconds: 2000, keep: 0}")
    assert found.keys() == {"adapters[0].rank", "search.keep"}


# The candidates


def test_every_combination_is_a_candidate_with_its_place_in_the_grid(store: MemoryObjectStore) -> None:
    candidates = search_of(searched(store)).candidates
    assert [item.name for item in candidates] == [
        f"method {method}, rank {rank}" for method in ("lora", "loha") for rank in (2, 4, 8)
    ]
    assert [item.candidate.point for item in candidates] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [item.candidate.images for item in candidates] == [(600, 1200, 2400, 4800)] * 6
    assert len({item.adapter.target for item in candidates}) == 6


def test_the_last_rung_is_the_adapter_that_a_plain_study_makes(store: MemoryObjectStore) -> None:
    plain = lay_out(store, ADAPTERS)
    candidates = search_of(searched(store)).candidates
    assert [item.adapter.target for item in candidates] == [step.target for step in plain.steps[:6]]
    assert [item.image_sets[0].target for item in candidates] == [step.target for step in plain.steps[6:12]]
    request = candidates[0].adapter.request
    assert [at_rung(request, (600, 1200), rung).settings.stop_at for rung in range(2)] == [600, 0]
    assert at_rung(request, (600, 1200), 1) == request and not request.settings.HasField("stop_at")


@pytest.mark.parametrize(
    ("rungs", "factor", "expected"),
    [(4, 2, (600, 1200, 2400, 4800)), (3, 3, (533, 1600, 4800)), (1, 2, (4800,)), (2, 16, (300, 4800))],
)
def test_rungs_are_at_powers_of_the_reduction_factor(rungs: int, factor: int, expected: tuple[int, ...]) -> None:
    settings = studies_pb2.SearchSettings(rungs=rungs, reduction_factor=factor)
    assert rungs_of(settings, 4800) == expected


def test_candidates_are_scored_on_the_same_noise_with_the_first_settings_of_the_synthesis(
    store: MemoryObjectStore,
) -> None:
    laid_out = searched(
        store,
        "{budget_seconds: 9e3, images_per_class: 20, seed: 5}",
        "synthesis: {steps: [10, 20], per_class: 30, seed: 1}",
    )
    for item in search_of(laid_out).candidates:
        settings = item.images.request.settings
        assert (settings.steps, settings.seed, settings.HasField("per_class")) == (10, 5, False)
        assert [image.images for image in item.images.request.class_images] == [20, 20]
        assert item.images.request.adapter == item.adapter.target
        assert item.score.request.image_set == item.images.target
        assert item.score.request.split == laid_out.split.name
        assert [step.request.settings.seed for step in item.image_sets] == [1, 1]


def test_a_rung_takes_its_share_of_the_training_and_its_scoring(store: MemoryObjectStore) -> None:
    [one, *_] = search_of(searched(store)).candidates
    scoring = one.images.plan.predicted_seconds + one.score.plan.predicted_seconds
    training = one.adapter.plan.predicted_seconds
    assert one.candidate.seconds == pytest.approx(
        [training / 8 + scoring, training / 8 + scoring, training / 4 + scoring, training / 2 + scoring]
    )


def test_what_is_done_is_reckoned_with_as_it_took(store: MemoryObjectStore) -> None:
    """Else what a search comes to would depend on what was there before."""
    before = search_of(searched(store)).candidates[0]
    services = ScoredServices(store)
    services.seconds = {ADAPTER_TRAINING: 800.0, IMAGE_SYNTHESIS: 30.0}
    for step in (before.adapter, before.images, before.score):
        step.create(services)  # type: ignore[arg-type]
    after = search_of(searched(store)).candidates[0]
    assert after.candidate.seconds == pytest.approx([137.0, 137.0, 237.0, 437.0])


# The plan


def test_the_plan_is_the_budget_and_the_rest_of_what_is_kept(store: MemoryObjectStore) -> None:
    laid_out = searched(store, "{budget_seconds: 2000, keep: 2}")
    plan, search = laid_out.plan(), search_of(laid_out)
    assert [step.display_name for step in plan.steps] == ["search", "images of 2 adapters", "grid"]
    assert plan.steps[0].plan.predicted_seconds == 2000.0
    images = search.candidates[0].image_sets[0].plan
    assert plan.steps[1].plan.total == 2 * images.total
    assert len(search.grid.request.image_sets) == 2
    assert plan.predicted_seconds == pytest.approx(
        2000.0 + 2 * images.predicted_seconds + search.grid.plan.predicted_seconds
    )
    assert [item.display_name for item in plan.search.candidates] == [item.name for item in search.candidates]
    assert [rung.images_seen for rung in plan.search.candidates[0].rungs] == [600, 1200, 2400, 4800]
    assert plan.search.full_seconds == pytest.approx(sum(sum(item.seconds) for item in search.numbers))


def test_a_budget_beyond_all_there_is_is_not_predicted_to_be_spent(store: MemoryObjectStore) -> None:
    plan = searched(store, "{budget_seconds: 1e6}").plan()
    assert plan.steps[0].plan.predicted_seconds == pytest.approx(plan.search.full_seconds)


def test_a_plan_is_shown_with_each_rung_and_with_what_is_known_of_each_adapter(store: MemoryObjectStore) -> None:
    text = plan_text(searched(store).plan())
    assert "search among 6 adapters within 33 min 20 s of worker time" in text
    [header] = [line for line in text.splitlines() if line.startswith("ADAPTER")]
    assert header.split() == ["ADAPTER", "RUNG", "1", "RUNG", "2", "RUNG", "3", "RUNG", "4", "ALL"]
    rows = [line for line in text.splitlines() if line.startswith("method lora, rank 2")]
    assert " at 600 " in rows[0] and " at 4,800 " in rows[0]
    assert "PARAMETERS" in text


def test_a_planned_search_is_recorded_whole(store: MemoryObjectStore) -> None:
    laid_out = searched(store, "{budget_seconds: 2000, keep: 2, score: kid}")
    record = json.loads(json.dumps(laid_out.record()))
    assert PlannedSearch.from_json(record["search"]) == laid_out.search
    assert record["steps"] == []
