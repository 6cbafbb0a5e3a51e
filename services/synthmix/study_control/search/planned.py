"""A search as it is planned, recorded and shown: its candidates, and what each would take."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit.artifacts import read_manifest
from synthmix.service_kit.environment import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.quantities import duration, plural
from synthmix.service_kit.resource_names import ArtifactName
from synthmix.service_kit.settings_messages import (
    canonical,
    differing_fields,
    distinguishing_names,
    from_canonical,
)
from synthmix.study_control import specification
from synthmix.study_control.search.decisions import Candidate, Rules
from synthmix.study_control.step_planner import StepPlanner
from synthmix.study_control.steps import Step


@dataclass(frozen=True)
class PlannedCandidate:
    """One adapter that a search may train, as its last rung has it.

    Attributes:
        name: What tells it from the others, such as "rank 4".
        adapter: Trained to its end.
        images: Those that its score is of.
        score: Of these.
        image_sets: What the study makes with it if it goes on with it.
    """

    name: str
    candidate: Candidate
    adapter: Step
    images: Step
    score: Step
    image_sets: tuple[Step, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.adapter, self.images, self.score, *self.image_sets)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "candidate": asdict(self.candidate),
            "adapter": self.adapter.to_json(),
            "images": self.images.to_json(),
            "score": self.score.to_json(),
            "image_sets": [step.to_json() for step in self.image_sets],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        candidate = value["candidate"]
        return cls(
            name=value["name"],
            candidate=Candidate(*(tuple(candidate[key]) for key in ("point", "images", "seconds"))),
            adapter=Step.from_json(value["adapter"]),
            images=Step.from_json(value["images"]),
            score=Step.from_json(value["score"]),
            image_sets=tuple(Step.from_json(step) for step in value["image_sets"]),
        )


@dataclass(frozen=True)
class PlannedSearch:
    """A search.

    Attributes:
        settings: With their defaults.
        grid: Over the image sets of as many candidates as are kept: the first, since which ones is not known.
    """

    settings: studies_pb2.SearchSettings
    candidates: tuple[PlannedCandidate, ...]
    grid: Step

    @cached_property
    def rules(self) -> Rules:
        return rules_of(self.settings)

    @cached_property
    def numbers(self) -> tuple[Candidate, ...]:
        """What decisions know of the candidates."""
        return tuple(item.candidate for item in self.candidates)

    @property
    def full_seconds(self) -> float:
        """What training and scoring each candidate to its end is predicted to take."""
        return sum(sum(item.seconds) for item in self.numbers)

    @property
    def steps(self) -> Iterator[Step]:
        """All that may be done."""
        for item in self.candidates:
            yield from item.steps
        yield self.grid

    def shown_steps(self) -> tuple[Step, ...]:
        """What the study does, as far as it is known: of the image sets, as many as take longest."""
        of_each = [_sum([step.plan for step in item.image_sets]) for item in self.candidates]
        of_each.sort(key=lambda plan: -plan.predicted_seconds)
        return (
            Step(
                ADAPTER_TRAINING,
                "search",
                adapters_pb2.Adapter(),
                operations_pb2.Plan(
                    total=len(self.candidates),
                    unit="adapters",
                    predicted_seconds=min(self.settings.budget_seconds, self.full_seconds),
                    tasks=len(self.candidates),
                ),
                {},
            ),
            Step(
                IMAGE_SYNTHESIS,
                f"images of {plural(self.settings.keep, 'adapter')}",
                image_sets_pb2.ImageSet(),
                _sum(of_each[: self.settings.keep]),
                {},
            ),
            self.grid,
        )

    def message(self) -> studies_pb2.SearchPlan:
        return studies_pb2.SearchPlan(
            budget_seconds=self.settings.budget_seconds,
            full_seconds=self.full_seconds,
            candidates=[
                studies_pb2.PlannedCandidate(
                    display_name=item.name,
                    plan=item.adapter.plan,
                    rungs=[
                        studies_pb2.PlannedRung(images_seen=images, predicted_seconds=seconds)
                        for images, seconds in zip(item.candidate.images, item.candidate.seconds, strict=True)
                    ],
                )
                for item in self.candidates
            ],
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": canonical(self.settings),
            "candidates": [item.to_json() for item in self.candidates],
            "grid": self.grid.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            from_canonical(value["settings"], studies_pb2.SearchSettings),
            tuple(PlannedCandidate.from_json(item) for item in value["candidates"]),
            Step.from_json(value["grid"]),
        )


def plan_search(
    planner: StepPlanner,
    problems: Problems,
    store: ObjectStore,
    spec: studies_pb2.StudySpec,
    split: datasets_pb2.Split,
    *,
    adapters: Sequence[Step],
    image_sets: Sequence[Step],
    grid: Step,
) -> PlannedSearch:
    """The search of a study whose candidates can all be trained to their ends.

    Args:
        spec: With its defaults.
        adapters: Of each candidate.
        image_sets: Of each candidate and each synthesis, with what selections keep of them.

    Raises:
        InvalidArgument: A candidate cannot stop at a rung, or the budget does not suffice.
    """
    names = distinguishing_names([(item,) for item in spec.adapters], alone="")
    planned = []
    for index, (name, adapter, point) in enumerate(zip(names, adapters, points(spec.adapters), strict=True)):
        images_seen = rungs_of(spec.search, adapter.plan.total)
        with problems:
            _check_rungs(spec.search, images_seen, name)
        first = at_rung(adapter.request, images_seen, 0)
        if not problems.found and first.settings.HasField("stop_at"):
            planner.step(
                ADAPTER_TRAINING,
                adapter.display_name,
                first,
                {"adapter.settings.stop_at": "search.rungs", **adapter.fields},
            )
        images = planner.step(
            IMAGE_SYNTHESIS,
            f"images {name}",
            scored_images(spec, split, index, adapter.target),
            {
                "image_set.settings.seed": "search.seed",
                "image_set.settings": "synthesis[0]",
                "image_set.class_images": "search.images_per_class",
                "image_set.train_split": "split",
                "image_set.adapter": f"adapters[{index}]",
            },
        )
        problems.raise_if_any()
        assert images is not None  # or there was a problem
        score = planner.step(
            CLASSIFIER_EVALUATION,
            f"score {name}",
            evaluations_pb2.ImageSetScore(split=split.name, image_set=images.target),
            {"image_set_score.split": "split", "image_set_score.image_set": f"adapters[{index}]"},
        )
        problems.raise_if_any()
        assert score is not None
        scoring_seconds = worker_seconds(store, images) + worker_seconds(store, score)
        shares = [seen / adapter.plan.total for seen in (0, *images_seen)]
        seconds = [
            (share - before) * worker_seconds(store, adapter) + scoring_seconds for before, share in pairwise(shares)
        ]
        of_each = len(image_sets) // len(adapters)
        planned.append(
            PlannedCandidate(
                name,
                Candidate(point, images_seen, tuple(seconds)),
                adapter,
                images,
                score,
                tuple(image_sets[index * of_each : (index + 1) * of_each]),
            )
        )
    search = PlannedSearch(spec.search, tuple(planned), grid)
    with problems:
        _check_budget(search)
    problems.raise_if_any()
    return search


def rules_of(settings: studies_pb2.SearchSettings) -> Rules:
    """What decisions are held to. `settings` have their defaults."""
    return Rules(settings.budget_seconds, settings.keep, settings.reduction_factor, settings.rungs, settings.score)


def points(settings: Sequence[adapters_pb2.AdapterSettings]) -> list[tuple[int, ...]]:
    """Each candidate's place in the grid of the settings in which they differ: the numbers of its values."""
    axes = []
    for _, values in differing_fields(settings):
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        axes.append([numbers[value] for value in values])
    return list(zip(*axes, strict=True))


def rungs_of(settings: studies_pb2.SearchSettings, images_seen: int) -> tuple[int, ...]:
    """The images seen at each rung. The last is at the end of the training."""
    last = settings.rungs - 1
    return tuple(round(images_seen / settings.reduction_factor ** (last - rung)) for rung in range(settings.rungs))


def at_rung(adapter: adapters_pb2.Adapter, images_seen: Sequence[int], rung: int) -> adapters_pb2.Adapter:
    """The request for an adapter as it is at a rung: at the last one, the adapter itself."""
    request = adapters_pb2.Adapter()
    request.CopyFrom(adapter)
    if rung < len(images_seen) - 1:
        request.settings.stop_at = images_seen[rung]
    return request


def scored_images(
    spec: studies_pb2.StudySpec, split: datasets_pb2.Split, index: int, adapter: str
) -> image_sets_pb2.ImageSet:
    """The images that a candidate's score is of: as the study's first image set of it, of the same noise for all."""
    request = specification.image_set(spec, split, index, 0, adapter)
    request.settings.ClearField("per_class")
    request.settings.seed = spec.search.seed
    del request.class_images[:]  # which leave classes out that no mixture needs images of
    for label, count in sorted(specification.part_counts(split, "train").items()):
        if count:
            request.class_images.add(label=label, images=spec.search.images_per_class)
    return request


def worker_seconds(store: ObjectStore, step: Step) -> float:
    """What a step takes, by prediction, or by its artifact's account if it is done."""
    if step.plan.done < step.plan.total:
        return step.plan.predicted_seconds
    return read_manifest(store, ArtifactName.parse(step.target, field="target")).seconds


def _check_rungs(settings: studies_pb2.SearchSettings, images_seen: Sequence[int], name: str) -> None:
    if len(set(images_seen)) < len(images_seen) or images_seen[0] < 1:
        raise invalid_field(
            "search.rungs",
            settings.rungs,
            f"are more than the {images_seen[-1]:,} images seen of adapter {name} can be divided into, each time by "
            f"{settings.reduction_factor}",
            "use fewer, or a larger images_seen",
            reason="OUT_OF_RANGE",
        )


def _check_budget(search: PlannedSearch) -> None:
    cheapest = sorted(sum(item.seconds) for item in search.numbers)
    least = sum(cheapest[: search.settings.keep])
    if search.settings.budget_seconds < least:
        raise invalid_field(
            "search.budget_seconds",
            search.settings.budget_seconds,
            f"is too small to train and score {plural(search.settings.keep, 'adapter')}, for which "
            f"{duration(least)} are predicted",
            f"use at least {math.ceil(least)}; all {plural(len(search.candidates), 'candidate')} would take "
            f"{math.ceil(search.full_seconds)}",
            reason="BUDGET_TOO_SMALL",
        )


def _sum(plans: Sequence[operations_pb2.Plan]) -> operations_pb2.Plan:
    return operations_pb2.Plan(
        total=sum(plan.total for plan in plans),
        done=sum(plan.done for plan in plans),
        unit="images",
        predicted_seconds=sum(plan.predicted_seconds for plan in plans),
        tasks=sum(plan.tasks for plan in plans),
    )
