"""What a search came to, for the report: all that ran, and what was chosen and why."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit import message_json
from synthmix.service_kit.artifacts import Manifest, read_manifest
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import duration, listed, plural
from synthmix.service_kit.resource_names import IMAGE_SET_SCORES, ArtifactName
from synthmix.study_control.report import data as page
from synthmix.study_control.search.decisions import KID, Ended, Rules, State, kept, ranked
from synthmix.study_control.search.history import events_of
from synthmix.study_control.search.planned import rules_of


def made_by(store: ObjectStore, searched: Mapping[str, Any]) -> list[Manifest]:
    """The manifests of all that a search made, or found."""
    names = State(events_of(searched["history"])).made
    return [read_manifest(store, ArtifactName.parse(name, field="search")) for name in names]


def scores_in(made: Sequence[Manifest]) -> list[Manifest]:
    return [manifest for manifest in made if manifest.name.collection == IMAGE_SET_SCORES]


def search_of(
    settings: studies_pb2.SearchSettings, searched: Mapping[str, Any], made: Sequence[Manifest]
) -> page.Search:
    """What the report says of a search.

    Args:
        settings: With their defaults.
        searched: Of each candidate its `name` and the `images` seen at its rungs, and the `history`.
        made: All that the search made.
    """
    rules, state = rules_of(settings), State(events_of(searched["history"]))
    candidates = searched["candidates"]
    best = kept(rules, state)
    [judged, *_] = scores_in(made)
    score = message_json.from_value(judged.summary["score"], evaluations_pb2.ImageSetScore)
    order = {number: place for place, number in enumerate(ranked(rules, state))}
    rows = sorted(
        state.ended, key=lambda event: (order.get(event.candidate, len(candidates)), event.candidate, event.rung)
    )
    return page.Search(
        sentence=_sentence(settings, rules, state, candidates, score),
        chosen=tuple(candidates[number]["name"] for number in best),
        score=rules.score,
        candidates=len(candidates),
        tried=len(state.tried),
        budget_seconds=rules.budget_seconds,
        spent_seconds=state.spent_seconds,
        chance_level=score.chance_level,
        real_class_consistency=score.real_class_consistency,
        rungs=tuple(_rung(event, candidates[event.candidate]) for event in rows),
        history=tuple(searched["history"]),
    )


def cost_of(searched: Mapping[str, Any], made: Sequence[Manifest], predicted_seconds: float) -> page.StepCost:
    """What a search cost this study: nothing for what was there already."""
    state = State(events_of(searched["history"]))
    found = {name for event in state.ended for name in event.found}
    new = {str(manifest.name): manifest for manifest in made if str(manifest.name) not in found}
    reused = sum(set(event.made) <= found for event in state.ended if event.made)
    # What failed or was cancelled has no account of its own.
    unfinished = [
        max(0.0, event.seconds - sum(new[name].seconds for name in event.made if name in new))
        for event in state.ended
        if event.outcome != "scored"
    ]
    return page.StepCost(
        name="search",
        tasks=len(state.ended) - reused,
        reused_tasks=reused,
        seconds=sum(manifest.seconds for manifest in new.values()) + sum(unfinished),
        gpu_seconds=sum(manifest.gpu_seconds for manifest in new.values()),
        predicted_seconds=predicted_seconds,
    )


def _rung(event: Ended, candidate: Mapping[str, Any]) -> page.SearchRung:
    return page.SearchRung(
        candidate=candidate["name"],
        rung=event.rung + 1,
        images_seen=candidate["images"][event.rung],
        outcome=event.outcome,
        class_consistency=event.scores.class_consistency if event.scores else None,
        kernel_inception_distance=event.scores.kid if event.scores else None,
        seconds=event.seconds,
        reason=event.reason,
        made=event.made,
        found=event.found,
    )


def _sentence(
    settings: studies_pb2.SearchSettings,
    rules: Rules,
    state: State,
    candidates: Sequence[Mapping[str, Any]],
    score: evaluations_pb2.ImageSetScore,
) -> str:
    """What was chosen and why. It does not tell how long that took, as report.json does not."""
    best = kept(rules, state)
    names = listed([candidates[number]["name"] for number in best], len(best))
    last = rules.rungs - 1
    whole = [number for number, result in state.best_result.items() if result.rung == last]
    why = "lowest kernel inception distance" if rules.score == KID else "highest class consistency"
    first = state.best_result[best[0]]
    assert first.scores is not None, "it was scored"
    figures = (
        f"class consistency {first.scores.class_consistency:.3f}, by chance {score.chance_level:.3f}, of validation "
        f"images {score.real_class_consistency:.3f}; kernel inception distance {first.scores.kid:.4f}"
    )
    said = [
        f"Of {plural(len(candidates), 'adapter')}, {len(state.tried):,} were tried within a budget of "
        f"{duration(settings.budget_seconds)} of worker time, and {len(whole):,} of these trained to the end. "
        f"The study goes on with {names}: the {why} at the highest rung ({figures})."
    ]
    said += [
        f"{candidates[number]['name']} had come to {candidates[number]['images'][state.best_result[number].rung]:,} of "
        f"{candidates[number]['images'][last]:,} images seen when the search ended, and was trained to the end then."
        for number in best
        if number not in whole
    ]
    if len(best) < rules.keep:
        said.append(f"{plural(rules.keep, 'adapter')} were to be kept, and no more could be scored.")
    return " ".join(said)
