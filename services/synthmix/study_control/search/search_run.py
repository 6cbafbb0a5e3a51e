"""Does a search: begins what is decided, follows it, and writes down what came of it.

Decisions are those of decisions.py, by a history that is written before they are acted upon. Whatever was made is an
artifact that is found again. So it may stop anywhere, and goes on with the history, in another host or when the study
is submitted again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit import errors
from synthmix.service_kit.artifacts import find_manifest, read_manifest
from synthmix.service_kit.environment import CLASSIFIER_EVALUATION
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.quantities import plural
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.study_control import specification, study_run
from synthmix.study_control.search import sampling
from synthmix.study_control.search.decisions import (
    KID,
    WAIT,
    Ended,
    Outcome,
    Over,
    Started,
    State,
    kept,
    next_event,
    ranked,
)
from synthmix.study_control.search.history import History
from synthmix.study_control.search.planned import PlannedSearch
from synthmix.study_control.search.rungs import plan_rung, read_scores
from synthmix.study_control.step_operations import cancel_steps
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step, evaluated_sets
from synthmix.study_control.study_progress import StudyProgress
from synthmix.study_control.study_run import StudyRun

# How many rungs run at once at most, however many workers there are: each is asked about twice a second.
MOST_AT_ONCE = 64


@dataclass
class _Rung:
    """A candidate on its way to a rung.

    Attributes:
        worked_seconds: How long a worker has worked for it, as far as this host has seen.
    """

    started: Started
    steps: tuple[Step, ...]
    run: StudyRun
    worked_seconds: float = 0.0


def search(context: OperationContext, services: StepServices, progress: StudyProgress, planned: PlannedSearch) -> State:
    """Searches to the end, or goes on with a search that was interrupted. Returns what it came to.

    Raises:
        FailedPrecondition: No candidate was scored.
        Unavailable: A service is away; it goes on later.
        Cancelled: The study is. What the search had running is then as well.
    """
    run = SearchRun(context, services, progress, planned)
    try:
        return run.run()
    except errors.Unavailable:
        raise  # the study goes on when the service is back, and so may its rungs meanwhile
    except errors.SynthMixError:
        run.cancel()
        raise


class SearchRun:
    """One search, while it runs."""

    def __init__(
        self,
        context: OperationContext,
        services: StepServices,
        progress: StudyProgress,
        planned: PlannedSearch,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._context = context
        self._services = services
        self._progress = progress
        self._planned = planned
        self._clock = clock
        self._history = History(context.store, context.record.name)
        self._rungs: list[_Rung] = []
        self._looked_s = clock()
        self._suggest = partial(
            sampling.suggest,
            planned.numbers,
            planned.rules,
            sampler=planned.settings.sampler,
            seed=planned.settings.seed,
        )

    def run(self) -> State:
        """Returns what the search came to."""
        self.resume()
        while not self.is_over:
            self._context.raise_if_cancelled()
            self.advance()
            if not self.is_over:
                questions_s = len(self._rungs) / study_run.QUESTIONS_A_SECOND
                self._context.sleep(max(study_run.POLL_SECONDS, questions_s))
        self._stop_rungs()
        self._show()
        state = self._history.state
        if not kept(self._planned.rules, state):
            self._history.forget()
            raise nothing_scored(self._planned, state)
        return state

    def resume(self) -> None:
        """Goes on with what ran when the search was interrupted.

        If anything that it had made was deleted meanwhile, it begins anew, and finds what is left.
        """
        store = self._context.store
        made = (ArtifactName.parse(name, field="made") for name in self._history.state.made)
        if any(find_manifest(store, name) is None for name in made):
            self._history.forget()
        known = {rung.started for rung in self._rungs}
        for started in self._history.state.running:
            if started not in known:
                self._begin(started)

    def advance(self) -> None:
        """Looks at what runs, and begins what is decided."""
        self._look_after_rungs()
        self._decide()
        self._show()

    @property
    def is_over(self) -> bool:
        return self._history.state.over is not None

    def cancel(self) -> None:
        """Cancels all that runs. What the history says of it stays: it goes on if the study is submitted again."""
        steps = [step for rung in self._rungs for step in rung.steps]
        made = {planned: name for rung in self._rungs for planned, name in rung.run.made.items()}
        cancel_steps(self._services, steps, made)

    def _begin(self, started: Started) -> None:
        candidate = self._planned.candidates[started.candidate]
        try:
            steps = plan_rung(self._services, candidate, started.rung)
        except errors.Unavailable:
            raise
        except errors.SynthMixError as error:
            self._history.append(Ended(started.candidate, started.rung, "failed", 0.0, reason=error.message))
            return
        self._progress.add(steps)
        run = StudyRun(self._context, self._services, self._progress, steps)
        self._rungs.append(_Rung(started, steps, run))

    def _look_after_rungs(self) -> None:
        now_s = self._clock()
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        for rung in list(self._rungs):
            if not rung.run.waits:
                rung.worked_seconds += passed_s
            try:
                if rung.run.advance():
                    self._end(rung, "scored")
            except (errors.Unavailable, errors.Cancelled):
                raise
            except errors.SynthMixError as error:
                self._end(rung, "failed", error.message)

    def _decide(self) -> None:
        while True:
            event = next_event(
                self._planned.numbers,
                self._planned.rules,
                self._history.state,
                self._suggest,
                running_seconds=sum(rung.worked_seconds for rung in self._rungs),
                has_room=self._has_room(),
            )
            if event == WAIT:
                return
            assert isinstance(event, Started | Over)
            self._history.append(event)
            if isinstance(event, Over):
                return
            self._begin(event)
            self._look_after_rungs()

    def _has_room(self) -> bool:
        """Whether another rung may begin: while one waits for a worker, there is none for another.

        One may always wait, so that no worker is without work, and so that an autoscaler sees that there is more.
        """
        return len(self._rungs) < MOST_AT_ONCE and not any(rung.run.waits for rung in self._rungs)

    def _stop_rungs(self) -> None:
        """Cancels what runs when the budget has come to its end."""
        self.cancel()
        for rung in list(self._rungs):
            self._end(rung, "cancelled")

    def _end(self, rung: _Rung, outcome: Outcome, reason: str = "") -> None:
        """Writes down what came of a rung."""
        store, finished = self._context.store, rung.run.finished
        made = tuple(rung.run.made[step.target] for step in finished)
        scores, seconds = None, rung.worked_seconds
        if outcome == "scored":
            manifests = [read_manifest(store, ArtifactName.parse(name, field="target")) for name in made]
            seconds = sum(manifest.seconds for manifest in manifests)
            try:
                scores = read_scores(store, made[-1])
            except errors.FailedPrecondition as error:
                outcome, reason = "failed", error.message
        self._history.append(
            Ended(
                rung.started.candidate,
                rung.started.rung,
                outcome,
                seconds,
                scores,
                reason,
                made,
                tuple(name for step, name in zip(finished, made, strict=True) if self._progress.was_found(step)),
            )
        )
        self._rungs.remove(rung)
        if outcome != "scored":
            state = progress_pb2.STATE_FAILED if outcome == "failed" else progress_pb2.STATE_CANCELLED
            self._progress.give_up(rung.steps, state)

    def _show(self) -> None:
        state = self._history.state
        spent = state.spent_seconds + sum(rung.worked_seconds for rung in self._rungs)
        self._progress.show_search(
            done=spent,
            total=self._planned.settings.budget_seconds,
            message=said_of(self._planned, state),
            is_over=self.is_over,
        )
        self._progress.publish()


def said_of(planned: PlannedSearch, state: State) -> str:
    """What a search has come to, in words."""
    tried = f"{len(state.tried)} of {plural(len(planned.candidates), 'adapter')} tried"
    best = ranked(planned.rules, state)[:1]
    if not best:
        return tried
    [number] = best
    result, candidate = state.best_result[number], planned.candidates[number]
    assert result.scores is not None, "it was scored"
    worth = (
        f"a kernel inception distance of {result.scores.kid:.4f}"
        if planned.rules.score == KID
        else f"a class consistency of {result.scores.class_consistency:.3f}"
    )
    images = candidate.candidate.images[result.rung]
    return f"{tried}; the best is {candidate.name}, with {worth} at {images:,} images seen"


def nothing_scored(planned: PlannedSearch, state: State) -> errors.FailedPrecondition:
    """Why a search has nothing that the study could go on with."""
    failures = [event for event in state.ended if event.outcome == "failed"]
    tried = f"none of {plural(len(state.tried), 'adapter')} that were tried"
    if not failures:
        return errors.unmet_precondition(
            "search.budget_seconds",
            f"{tried} was scored within {planned.settings.budget_seconds:g} seconds of worker time; use more",
            reason="SEARCH_FOUND_NOTHING",
        )
    first = failures[0]
    return errors.unmet_precondition(
        "search",
        f"{tried} was scored; that of {planned.candidates[first.candidate].name} failed with: {first.reason}",
        reason="SEARCH_FOUND_NOTHING",
    )


def steps_of_kept(services: StepServices, planned: PlannedSearch, state: State) -> tuple[Step, ...]:
    """The study's steps with what was found: adapters, image sets, and the grid over them.

    The adapters are trained to their ends already, or go on from where they are.
    """
    best = [planned.candidates[number] for number in kept(planned.rules, state)]
    image_sets = [step for item in best for step in item.image_sets]
    grid = planned.grid
    request = type(grid.request)()
    request.CopyFrom(grid.request)
    of_first = {step.target for step in planned.candidates[0].image_sets}
    unselected = {step.request.candidates for step in planned.candidates[0].image_sets} & of_first
    evaluated = evaluated_sets(image_sets, unselected=unselected <= set(grid.request.image_sets))
    possible = {step.target for item in planned.candidates for step in item.image_sets}
    imported = [name for name in grid.request.image_sets if name not in possible]
    request.image_sets[:] = [*dict.fromkeys(step.target for step in evaluated), *imported]
    with specification.study_terms(grid.fields):
        plan = services.plan(CLASSIFIER_EVALUATION, request)
    last = Step(grid.service, grid.display_name, request, plan, grid.fields)
    return (*(item.adapter for item in best), *image_sets, last)
