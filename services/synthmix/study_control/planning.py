"""What a study would do and cost. Requests are content addressed: the steps' names are known before anything runs.

The plan is stored with the study's operation: what was planned is what runs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.image_data.generators import in_common
from synthmix.service_kit import model_names
from synthmix.service_kit.digests import ID_LENGTH, digest_of
from synthmix.service_kit.environment import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS, WORKER_SERVICES
from synthmix.service_kit.errors import Problems, invalid_field
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, STUDIES, ArtifactName
from synthmix.service_kit.settings_messages import distinguishing_names
from synthmix.study_control import children, datasets, imported_sets, presets_applied, specification
from synthmix.study_control.image_counts import check_image_counts
from synthmix.study_control.search.planned import PlannedSearch, plan_search
from synthmix.study_control.step_planner import StepPlanner
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import Step, evaluated_sets, of_service

NO_ID = "0" * ID_LENGTH


@dataclass(frozen=True)
class StudySteps:
    """A study laid out.

    Attributes:
        spec: With its defaults.
        steps: Adapters, then image sets, then the grid over all image sets; none before a search has chosen adapters.
        request: The study's canonical request.
        search: Which adapters may be trained; None if all are.
        presets: What is to be said of those that the specification names.
    """

    spec: studies_pb2.StudySpec
    dataset: datasets_pb2.Dataset
    split: datasets_pb2.Split
    steps: tuple[Step, ...]
    request: dict[str, Any]
    search: PlannedSearch | None = None
    presets: Sequence[Mapping[str, Any]] = ()

    @property
    def name(self) -> ArtifactName:
        return ArtifactName(STUDIES, digest_of(self.request))

    @property
    def shown_steps(self) -> tuple[Step, ...]:
        """What is to be done, as far as it is known."""
        return self.steps if self.search is None else self.search.shown_steps()

    def plan(self) -> studies_pb2.StudyPlan:
        possible = self.steps if self.search is None else self.search.steps
        return studies_pb2.StudyPlan(
            name=str(self.name),
            spec=self.spec,
            predicted_seconds=sum(step.plan.predicted_seconds for step in self.shown_steps),
            steps=[
                studies_pb2.PlannedStep(display_name=step.display_name, plan=step.plan) for step in self.shown_steps
            ],
            # The adapters of a grid have their prompts in common, and so what is to be said of them.
            warnings=dict.fromkeys(
                [
                    *self.dataset.warnings,
                    *self.split.warnings,
                    *(warning for step in possible for warning in step.plan.warnings),
                ]
            ),
            search=None if self.search is None else self.search.message(),
        )

    def record(self) -> dict[str, Any]:
        """What the study's operation is asked to do: the canonical request, and the plan by which it is done."""
        return {
            **self.request,
            "dataset": self.dataset.name,
            "steps": [step.to_json() for step in self.steps],
            **({} if self.search is None else {"search": self.search.to_json()}),
            **({"presets": self.presets} if self.presets else {}),
        }


def lay_out(store: ObjectStore, services: StepServices, spec: studies_pb2.StudySpec, owner: str) -> StudySteps:
    """Checks a specification, by an owner's names, against what exists and asks every service for its plan.

    The split is made and stored, since the plans build on it: an index of what the dataset holds, made in a second.

    Raises:
        SynthMixError: With fields named as the specification names them.
    """
    problems = Problems()
    spec = presets_applied.with_presets(spec, problems)
    problems.raise_if_any()  # what a preset would have filled is no fault of its own
    full = specification.with_defaults(spec)
    specification.check(full, problems)
    specification.check_selections(spec, problems)
    specification.check_prompts(spec, problems)
    specification.check_captions(full, spec, problems)
    _name_models_exactly(store, full, owner, problems)
    with problems, specification.study_terms({"split.settings": "split", "split.dataset": "dataset"}):
        if full.dataset:
            dataset = datasets.get_dataset(store, full.dataset, owner=owner)
            split = datasets.create_split(store, datasets_pb2.Split(dataset=dataset.name, settings=full.split), owner)
    imported = imported_sets.find_imported_sets(store, full, problems)
    faults = [violation.field for error in problems.found for violation in error.violations]
    sections = ("dataset", "split", "mixtures", "adapters", "synthesis", "selection", "image_sets")
    if any(field.startswith(sections) for field in faults):
        problems.raise_if_any()  # what follows builds on these
    others = len(problems.found)
    check_image_counts(full, split, problems)
    if len(problems.found) > others:
        problems.raise_if_any()  # the requests for images have these numbers
    specification.check_enough_images(full, split, problems)
    children.check_children(full, split, imported, problems)
    planner = StepPlanner(services, problems)
    adapters, image_sets = _generator_steps(planner, spec, full, split)
    _check_distinct(adapters, "adapter.settings", problems)
    _check_distinct(image_sets, "image_set.settings", problems)
    _check_distinct(image_sets, "image_set.selection", problems)
    searched = full.HasField("search")
    if searched:
        problems.raise_if_any()  # a search is among adapters that can all be trained
    unselected = specification.keeps_unselected(full)
    image_set_names = [step.target for step in evaluated_sets(image_sets, unselected=unselected)]
    if problems.found and specification.needs_images(full) and not image_set_names:
        image_set_names = [str(ArtifactName(IMAGE_SETS, NO_ID))]
    if searched:
        image_set_names = image_set_names[: full.search.keep * (len(image_set_names) // len(full.adapters))]
    # Those that are made come first: a control may want the base model of the first one.
    evaluated = [*image_set_names, *(str(item.name) for item in imported)]
    evaluation = specification.evaluation(full, split, list(dict.fromkeys(evaluated)))
    written = {step.target: step.fields.get("image_set.selection", "synthesis") for step in image_sets}
    written |= {name: f"image_sets[{index}]" for index, name in enumerate(full.image_sets)}
    fields = {f"evaluation.image_sets[{at}]": written.get(name, "") for at, name in enumerate(evaluation.image_sets)}
    fields |= {"evaluation.split": "split", "evaluation": ""}
    grid = planner.step(CLASSIFIER_EVALUATION, "grid", evaluation, fields)
    problems.raise_if_any()
    assert grid is not None  # or there was a problem
    request = {
        "spec": specification.canonical(full, dataset.name),
        "split": split.name,
        "adapters": [step.target for step in adapters],
        "image_sets": [step.target for step in image_sets],
        "evaluation": grid.target,
        "recipe_version": specification.RECIPE_VERSION,
    }
    presets = presets_applied.presets_of(spec)
    if not searched:
        return StudySteps(full, dataset, split, (*adapters, *image_sets, grid), request, presets=presets)
    search = plan_search(planner, problems, store, full, split, adapters=adapters, image_sets=image_sets, grid=grid)
    request["scores"] = [item.score.target for item in search.candidates]
    return StudySteps(full, dataset, split, (), request, search, presets)


def _name_models_exactly(store: ObjectStore, spec: studies_pb2.StudySpec, owner: str, problems: Problems) -> None:
    """Replaces names of models in object storage by their digests: a name may mean another model tomorrow."""
    for index, adapter in enumerate(spec.adapters):
        with problems:
            if model_names.is_stored(adapter.base_model):
                field = f"adapters[{index}].base_model"
                adapter.base_model = str(model_names.resolve(store, adapter.base_model, owner=owner, field=field))


def _generator_steps(
    planner: StepPlanner, given: studies_pb2.StudySpec, spec: studies_pb2.StudySpec, split: datasets_pb2.Split
) -> tuple[list[Step], list[Step]]:
    """An adapter of each settings, and an image set of each adapter and each synthesis; none if none is needed.

    Args:
        given: As the user wrote it.
        spec: With its defaults.
    """
    if not specification.needs_images(spec):
        return [], []
    adapters: list[Step | None] = []
    image_sets: list[Step | None] = []
    grid = specification.makers(spec)
    set_names = iter(
        distinguishing_names(
            [
                (in_common([spec.adapters[index] for index in made_by]), spec.synthesis[place])
                for made_by, place in grid
            ],
            alone="",
        )
    )
    targets: list[str] = []
    for index, name in enumerate(distinguishing_names([(adapter,) for adapter in spec.adapters], alone="")):
        fields = {
            "adapter.settings.prompt": specification.adapter_prompt_field(given, index),
            "adapter.settings": f"adapters[{index}]",
            "adapter.train_split": "split",
        }
        request = specification.adapter(spec, split, index)
        adapter = planner.step(ADAPTER_TRAINING, f"adapter {name}".rstrip(), request, fields)
        adapters.append(adapter)
        # If it cannot be planned, its images' own fields are checked still.
        targets.append(adapter.target if adapter else str(ArtifactName(ADAPTERS, f"{index:032x}")))
    for made_by, place in grid:
        names = [targets[index] for index in made_by]
        image_sets += _image_steps(planner, given, spec, split, made_by, place, names, next(set_names))
    return [step for step in adapters if step], [step for step in image_sets if step]


def _image_steps(
    planner: StepPlanner,
    given: studies_pb2.StudySpec,
    spec: studies_pb2.StudySpec,
    split: datasets_pb2.Split,
    made_by: Sequence[int],
    number: int,
    adapters: Sequence[str],
    name: str,
) -> Iterator[Step | None]:
    """The images of an adapter, or several at once, and settings of the synthesis, then what each selection keeps.

    Args:
        made_by: The adapters' positions in the specification.
        adapters: The resources' names.
        name: What tells these images from others.
    """
    [index, *_], [adapter, *more] = made_by, adapters
    request = specification.image_set(spec, split, index, number, adapter, more)
    images = planner.step(
        IMAGE_SYNTHESIS,
        f"images {name}".rstrip(),
        request,
        {
            "image_set.settings.prompt": specification.synthesis_prompt_field(given, index, number),
            "image_set.settings": f"synthesis[{number}]",
            "image_set.class_images": "dataset",
            "image_set.adapter": f"adapters[{index}]",
            **{f"image_set.more_adapters[{at}]": f"adapters[{other}]" for at, other in enumerate(made_by[1:])},
            "image_set.train_split": "split",
            "adapter.settings": f"adapters[{index}]",
        },
    )
    yield images
    chosen = specification.selections(spec)
    names = distinguishing_names([(settings,) for _, settings in chosen], alone="")
    for (place, _), selection_name in zip(chosen, names, strict=True):
        # If they cannot be planned, the selection's own fields are checked still.
        target = images.target if images else str(ArtifactName(IMAGE_SETS, NO_ID))
        yield planner.step(
            IMAGE_SYNTHESIS,
            ", ".join(["selection", *filter(None, (name, selection_name))]),
            specification.selection(spec, split, request, target, index, number, place),
            {
                "image_set.selection": f"selection[{place}]",
                "image_set.class_images": "dataset",
                "image_set.candidates": f"synthesis[{number}]",
                "image_set.train_split": "split",
            },
        )


def _check_distinct(steps: list[Step], settings: str, problems: Problems) -> None:
    """Collects settings that mean the same as earlier ones of the list: as much would be paid for no answer.

    Args:
        settings: The field of a step's request that holds them.
    """
    seen: dict[str, str] = {}
    for step in steps:
        place = step.fields.get(settings)
        if place is None:
            continue
        with problems:
            if seen.setdefault(step.target, place) != place:
                raise invalid_field(
                    place,
                    step.display_name,
                    f"means the same as {seen[step.target]}",
                    "remove one of them",
                    reason="DUPLICATE_VALUE",
                )


def with_wall_time(study: StudySteps, cluster: clusters_pb2.Cluster) -> studies_pb2.StudyPlan:
    """The plan, with the time that it takes on this cluster.

    The steps of a phase run at once and share its worker group, so a phase takes its worker time divided by the
    workers that can run at once, in whole rounds of one task a worker. Phases are added up, though steps of one begin
    while others of the one before still run: trials of real images take no time of their own then. Not counted: what
    else uses the cluster, and how long nodes and workers take to start.
    """
    plan = study.plan()
    if cluster.ray_problem:
        plan.warnings.append(f"no task can run now, and the study would wait: {cluster.ray_problem}")
    if cluster.warnings:
        plan.warnings.extend(cluster.warnings)
        return plan
    workers = {group.name: workers_at_once(group, cluster) for group in cluster.worker_groups}
    wall_seconds = 0.0
    idle = []
    for service in WORKER_SERVICES:
        left = [step.plan for step in of_service(study.shown_steps, service) if step.plan.tasks]
        if not left:
            continue
        if not workers.get(service):
            idle.append(service)
            continue
        tasks = sum(item.tasks for item in left)
        seconds = sum(item.predicted_seconds for item in left)
        wall_seconds += seconds / tasks * math.ceil(tasks / workers[service])
    for planned, step in zip(plan.steps, study.shown_steps, strict=True):
        planned.workers = workers.get(step.service, 0)
    if idle:
        plan.warnings.append(
            f"no worker can run now for {', '.join(idle)}: the group is not there, may have no workers, or no node has "
            "the GPUs that one needs; the study would wait there, `synthmix cluster` shows what there is"
        )
    else:
        plan.predicted_wall_seconds = wall_seconds
    return plan


def workers_at_once(group: clusters_pb2.WorkerGroup, cluster: clusters_pb2.Cluster) -> int:
    """How many of a group's workers can run side by side: as many as it may have, or as nodes have its GPUs for."""
    if not group.gpus_per_worker:
        return int(group.max_workers)
    room = sum(
        (node.nvidia_gpus + node.amd_gpus) // group.gpus_per_worker
        for node in cluster.nodes
        if node.ready and node.schedulable and group.gpu_product in ("", node.gpu_product)
    )
    return int(min(group.max_workers, room))
