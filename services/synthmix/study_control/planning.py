"""What a study would do and cost. Requests are content addressed: the steps' names are known before anything runs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.service_kit.digests import ID_LENGTH, digest_of
from synthmix.service_kit.errors import InvalidArgument, Problems, SynthMixError
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ADAPTERS, IMAGE_SETS, STUDIES, ArtifactName
from synthmix.service_kit.settings import ADAPTER_TRAINING, CLASSIFIER_EVALUATION, IMAGE_SYNTHESIS
from synthmix.study_control import datasets, specification
from synthmix.study_control.step_services import StepServices

NO_ID = "0" * ID_LENGTH


@dataclass(frozen=True)
class Step:
    """One request to one service: its plan, and the request that starts it."""

    display_name: str
    request: Any
    plan: operations_pb2.Plan


@dataclass(frozen=True)
class StudySteps:
    """A study laid out.

    Attributes:
        spec: With its defaults.
        adapters: One step each.
        image_sets: One step for each adapter, in the same order.
        evaluation: The grid over all image sets.
        request: The study's canonical request.
    """

    spec: studies_pb2.StudySpec
    dataset: datasets_pb2.Dataset
    split: datasets_pb2.Split
    adapters: tuple[Step, ...]
    image_sets: tuple[Step, ...]
    evaluation: Step
    request: dict[str, Any]

    @property
    def name(self) -> ArtifactName:
        return ArtifactName(STUDIES, digest_of(self.request))

    @property
    def phases(self) -> tuple[tuple[str, tuple[Step, ...]], ...]:
        """The steps that run at once, in order, with the service that does them."""
        return (
            (ADAPTER_TRAINING, self.adapters),
            (IMAGE_SYNTHESIS, self.image_sets),
            (CLASSIFIER_EVALUATION, (self.evaluation,)),
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(step for _, steps in self.phases for step in steps)

    def plan(self) -> studies_pb2.StudyPlan:
        return studies_pb2.StudyPlan(
            name=str(self.name),
            spec=self.spec,
            predicted_seconds=sum(step.plan.predicted_seconds for step in self.steps),
            steps=[studies_pb2.PlannedStep(display_name=step.display_name, plan=step.plan) for step in self.steps],
            # The adapters of a grid have their prompts in common, and so what is to be said of them.
            warnings=dict.fromkeys(
                [
                    *self.dataset.warnings,
                    *self.split.warnings,
                    *(warning for step in self.steps for warning in step.plan.warnings),
                ]
            ),
        )


def lay_out(store: ObjectStore, services: StepServices, spec: studies_pb2.StudySpec) -> StudySteps:
    """Checks a specification against what exists and asks every service for its plan.

    The split is made and stored, since the plans build on it: an index of what the dataset holds, made in a second.

    Raises:
        SynthMixError: With fields named as the specification names them.
    """
    full = specification.with_defaults(spec)
    problems = Problems()
    specification.check(full, problems)
    if any(_is_of(error, ("dataset", "split", "mixtures")) for error in problems.found):
        problems.raise_if_any()  # what follows builds on these
    with _study_terms():
        dataset = datasets.get_dataset(store, full.dataset)
        split = datasets.create_split(
            store,
            datasets_pb2.Split(
                dataset=dataset.name,
                test=full.split.test,
                validation=full.split.validation,
                seed=full.split.seed,
            ),
        )
    specification.check_enough_images(full, split, problems)
    adapters, image_sets = [], []
    for adapter_step in specification.adapter_steps(full, split):
        name = str(ArtifactName(ADAPTERS, NO_ID))  # if it can't be planned, its images' own fields are checked still
        with problems, _study_terms():
            plan = services.plan_adapter(adapter_step.adapter)
            name = plan.target
            adapters.append(Step(f"adapter {adapter_step.display_name}", adapter_step.adapter, plan))
        with problems, _study_terms():
            image_set = specification.image_set(
                full, split, adapters_pb2.Adapter(name=name, prompt=full.synthesis.prompt)
            )
            image_plan = services.plan_image_set(image_set)
            image_sets.append(Step(f"images {adapter_step.display_name}", image_set, image_plan))
    names = list(dict.fromkeys(step.plan.target for step in image_sets))
    if problems.found and specification.needs_images(full) and not names:
        names = [str(ArtifactName(IMAGE_SETS, NO_ID))]
    evaluation = specification.evaluation(full, split, names)
    with problems, _study_terms():
        grid_plan = services.plan_evaluation(evaluation)
    problems.raise_if_any()
    request = {
        "spec": canonical_spec(full, dataset.name),
        "split": split.name,
        "adapters": [step.plan.target for step in adapters],
        "image_sets": [step.plan.target for step in image_sets],
        "evaluation": grid_plan.target,
        "recipe_version": specification.RECIPE_VERSION,
    }
    return StudySteps(
        full, dataset, split, tuple(adapters), tuple(image_sets), Step("grid", evaluation, grid_plan), request
    )


def with_wall_time(study: StudySteps, cluster: clusters_pb2.Cluster) -> studies_pb2.StudyPlan:
    """The plan, with the time that it takes on this cluster.

    The steps of a phase run at once and share its worker group, so a phase takes its worker time divided by the
    workers that can run at once, in whole rounds of one task a worker. Not counted: what else uses the cluster, and
    how long nodes and workers take to start.
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
    for service, steps in study.phases:
        left = [step.plan for step in steps if step.plan.tasks]
        if not left:
            continue
        if not workers.get(service):
            idle.append(service)
            continue
        tasks = sum(item.tasks for item in left)
        seconds = sum(item.predicted_seconds for item in left)
        wall_seconds += seconds / tasks * math.ceil(tasks / workers[service])
    for planned, service in zip(plan.steps, (service for service, steps in study.phases for _ in steps), strict=True):
        planned.workers = workers.get(service, 0)
    if idle:
        plan.warnings.append(
            f"no worker can run now for {', '.join(idle)}: the group isn't there, may have no workers, or no node has "
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


def canonical_spec(spec: studies_pb2.StudySpec, dataset: str) -> dict[str, Any]:
    """The specification as JSON, with the dataset by its digest."""
    exact = studies_pb2.StudySpec()
    exact.CopyFrom(spec)
    exact.dataset = dataset
    value: dict[str, Any] = json_format.MessageToDict(exact, preserving_proto_field_name=True)
    return value


def _is_of(error: InvalidArgument, fields: tuple[str, ...]) -> bool:
    return any(violation.field.startswith(fields) for violation in error.violations)


@contextmanager
def _study_terms() -> Iterator[None]:
    """What another service says of its request, with fields named as the specification names them."""
    try:
        yield
    except SynthMixError as error:
        raise specification.in_study_terms(error) from None
