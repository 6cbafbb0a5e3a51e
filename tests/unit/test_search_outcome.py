"""What a report says of a search: all that ran, what was chosen and why, and what it cost."""

import json
from dataclasses import replace
from typing import Any

import pytest

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SET_SCORES, IMAGE_SETS, ArtifactName
from synthmix.service_kit.settings_messages import with_defaults
from synthmix.study_control.report import render_html, render_json, render_search_json
from synthmix.study_control.search.decisions import Ended, Event, Over, Scores, Started
from synthmix.study_control.search.history import to_json
from synthmix.study_control.search.outcome import cost_of, search_of
from test_report import NASTY, report

SETTINGS = with_defaults(studies_pb2.SearchSettings(budget_seconds=7200, keep=2, rungs=2))
CANDIDATES = [{"name": f"rank {rank}", "images": [2400, 4800]} for rank in (2, 4, 8)]
# Seconds of an adapter, its images and their score.
SECONDS = (40.0, 8.0, 2.0)


def made(candidate: int, rung: int, count: int = 3) -> tuple[str, ...]:
    number = f"{candidate:x}{rung:x}" * 16
    return tuple(f"{collection}/{number}" for collection in (ADAPTERS, IMAGE_SETS, IMAGE_SET_SCORES))[:count]


def scored(candidate: int, rung: int, consistency: float, **more: Any) -> list[Event]:
    result = Ended(
        candidate, rung, "scored", sum(SECONDS), Scores(consistency, 0.05), made=made(candidate, rung), **more
    )
    return [Started(candidate, rung), result]


# All were tried, the best was trained to its end, the second best was on its way there, and the last failed.
HISTORY: list[Event] = [
    *scored(0, 0, 0.5),
    *scored(1, 0, 0.75),
    *scored(1, 1, 0.875),
    Started(2, 0),
    Ended(2, 0, "failed", 50.0, reason="memory is not enough", made=made(2, 0, 1)),
    Started(0, 1),
    Over("budget"),
    Ended(0, 1, "cancelled", 12.0),
]


def manifests(history: list[Event]) -> list[Manifest]:
    score = evaluations_pb2.ImageSetScore(chance_level=0.25, real_class_consistency=0.9)
    summaries = {IMAGE_SET_SCORES: {"score": message_json.to_value(score)}}
    seconds = dict(zip((ADAPTERS, IMAGE_SETS, IMAGE_SET_SCORES), SECONDS, strict=True))
    names = [
        ArtifactName.parse(name, field="x") for event in history if isinstance(event, Ended) for name in event.made
    ]
    return [
        Manifest(
            name,
            {},
            {},
            1,
            (),
            summaries.get(name.collection, {}),
            seconds[name.collection],
            seconds[name.collection] / 2,
        )
        for name in names
    ]


def searched(history: list[Event], settings: studies_pb2.SearchSettings = SETTINGS) -> Any:
    value = {"candidates": CANDIDATES, "history": to_json(history)}
    return search_of(settings, json.loads(json.dumps(value)), manifests(history))


def cost(history: list[Event]) -> Any:
    return cost_of({"history": to_json(history)}, manifests(history), 7200.0)


def test_it_says_what_was_chosen_and_why() -> None:
    search = searched(HISTORY)
    assert search.chosen == ("rank 4", "rank 2")
    assert search.sentence == (
        "Of 3 adapters, 3 were tried within a budget of 2 h 0 min of worker time, and 1 of these trained to the end. "
        "The study goes on with rank 4, rank 2: the highest class consistency at the highest rung (class consistency "
        "0.875, by chance 0.250, of validation images 0.900; kernel inception distance 0.0500). rank 2 had come to "
        "2,400 of 4,800 images seen when the search ended, and was trained to the end then."
    )
    assert (search.candidates, search.tried, search.spent_seconds) == (3, 3, 212.0)
    by_distance = studies_pb2.SearchSettings()
    by_distance.CopyFrom(SETTINGS)
    by_distance.score = "kid"
    assert "rank 4, rank 2: the lowest kernel inception distance" in searched(HISTORY, by_distance).sentence


def test_it_says_that_fewer_were_kept_than_asked_for() -> None:
    fewer = [event for event in HISTORY if not isinstance(event, Over) and event.candidate > 0]
    assert searched(fewer).chosen == ("rank 4",)
    assert "2 adapters were to be kept, and no more could be scored." in searched(fewer).sentence


def test_all_that_ran_is_told_the_best_first() -> None:
    rows = [(row.candidate, row.rung, row.images_seen, row.outcome) for row in searched(HISTORY).rungs]
    assert rows == [
        ("rank 4", 1, 2400, "scored"),
        ("rank 4", 2, 4800, "scored"),
        ("rank 2", 1, 2400, "scored"),
        ("rank 2", 2, 4800, "cancelled"),
        ("rank 8", 1, 2400, "failed"),
    ]
    assert [row.class_consistency for row in searched(HISTORY).rungs] == [0.75, 0.875, 0.5, None, None]
    assert searched(HISTORY).rungs[-1].reason == "memory is not enough"


def test_a_search_costs_what_was_not_there_and_what_came_to_nothing() -> None:
    whole = cost(HISTORY)
    # Three rungs, the adapter of the one that failed (40 of its 50 s are its own account's), and what was cancelled.
    assert (whole.tasks, whole.reused_tasks) == (5, 0)
    assert whole.seconds == pytest.approx(3 * 50.0 + 50.0 + 12.0)
    assert whole.gpu_seconds == pytest.approx(3 * 25.0 + 20.0)
    there = [
        replace(event, found=event.made) if isinstance(event, Ended) and event.scores else event for event in HISTORY
    ]
    assert (cost(there).tasks, cost(there).reused_tasks, cost(there).seconds) == (2, 3, 62.0)


# The report's files


def test_the_report_has_a_table_of_the_search() -> None:
    html = render_html(report(search=searched(HISTORY)))
    assert '<a href="#search">Search</a>' in html and '<h2 id="search">Search</h2>' in html
    assert html.count("★ rank 4") == 2 and "failed: memory is not enough" in html
    assert "3 min 32 s of 2 h 0 min of worker time were spent" in html
    assert "<td>4,800</td>" in html and "0.875" in html
    assert "Search" not in render_html(report())


def test_a_name_and_a_reason_may_be_any_text() -> None:
    search = searched(HISTORY)
    rungs = tuple(replace(row, candidate=NASTY, reason=NASTY) for row in search.rungs)
    html = render_html(report(search=replace(search, sentence=NASTY, rungs=rungs)))
    assert "<script" not in html and "onerror=alert(1)>" not in html


def test_search_json_has_all_and_report_json_no_times() -> None:
    data = report(search=searched(HISTORY))
    whole = json.loads(render_search_json(data))["search"]
    assert whole["history"] == json.loads(json.dumps(to_json(HISTORY)))
    assert whole["rungs"][1]["seconds"] == 50.0 and whole["rungs"][1]["made"] == list(made(1, 1))
    said = json.loads(render_json(data))["search"]
    assert said.keys() == {"sentence", "chosen", "score", "candidates", "tried"}


def test_the_report_of_a_study_without_a_search_is_as_it_was() -> None:
    assert "search" not in json.loads(render_json(report()))
