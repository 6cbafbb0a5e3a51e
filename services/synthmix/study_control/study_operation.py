"""One study: its search if it has one, its steps on the other services, then the report."""

import contextlib
from dataclasses import replace
from typing import Any

from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.service_kit.artifacts import Manifest, Payload, find_manifest, write_manifest
from synthmix.service_kit.environment import WORKER_SERVICES, service_address
from synthmix.service_kit.operation_context import OperationContext
from synthmix.service_kit.requesters import Requester
from synthmix.service_kit.resource_names import STUDIES, ArtifactName
from synthmix.service_kit.tokens import token_for_services
from synthmix.study_control.presets_applied import with_image_sets
from synthmix.study_control.search.decisions import State
from synthmix.study_control.search.history import to_json
from synthmix.study_control.search.planned import PlannedSearch
from synthmix.study_control.search.search_run import search, steps_of_kept
from synthmix.study_control.step_services import StepServices
from synthmix.study_control.steps import recorded_steps
from synthmix.study_control.study_progress import StudyProgress
from synthmix.study_control.study_run import run_study


def open_step_services(requester: Requester | None = None) -> StepServices:
    """The services that do the steps, by the environment's addresses and token."""
    addresses = {service: service_address(service) for service in WORKER_SERVICES}
    return StepServices(addresses, token_for_services(), requester)


def run(context: OperationContext) -> ArtifactName:
    """Returns the study's name."""
    request = context.record.request
    target = ArtifactName.parse(context.record.target, field="target", collection=STUDIES)
    if find_manifest(context.store, target) is not None:
        return target
    planned = PlannedSearch.from_json(request["search"]) if "search" in request else None
    found, steps = State(), recorded_steps(request)
    progress = StudyProgress(context, steps)
    requester = replace(context.record.requested_by, study=str(target))
    with contextlib.closing(open_step_services(requester)) as services:
        if planned is not None:
            found = search(context, services, progress, planned)
            steps = steps_of_kept(services, planned, found)
            progress.add(steps)
        made = run_study(context, services, progress, steps)
    adapters, image_sets, [evaluation] = (made[service] for service in WORKER_SERVICES)
    progress.show_report(progress_pb2.STATE_RUNNING)
    [report] = context.run_tasks(
        "synthmix.study_control.reporting:make_report",
        [
            {
                "target": str(target),
                "create_time": context.record.create_time,
                "spec": request["spec"],
                "split": request["split"],
                "owner": context.record.requested_by.owner,
                "adapters": adapters,
                "image_sets": image_sets,
                "imported_sets": request["spec"].get("image_sets", []),
                "evaluation": evaluation,
                "costs": progress.costs(steps, counted=found.made),
                "presets": with_image_sets(request.get("presets", ()), steps, image_sets),
                **({} if planned is None else {"search": _searched(planned, found)}),
            }
        ],
    )
    write_manifest(
        context.store,
        Manifest(
            name=target,
            inputs={
                "split": request["split"],
                "evaluation": evaluation,
                **{f"adapter-{index}": name for index, name in enumerate(adapters)},
                **{f"image-set-{index}": name for index, name in enumerate(image_sets)},
                **{f"search-{index}": name for index, name in enumerate(found.made)},
            },
            request={key: request[key] for key in ("spec", "split", "dataset")},
            recipe_version=request["recipe_version"],
            payloads=tuple(Payload(**payload) for payload in report["payloads"]),
            summary={"verdict": report["verdict"]},
        ),
    )
    if planned is not None:
        context.store.delete_prefix(context.record.name.checkpoints)
    progress.show_report(progress_pb2.STATE_SUCCEEDED)
    return target


def _searched(planned: PlannedSearch, found: State) -> dict[str, Any]:
    """What a search did, for the report."""
    return {
        "candidates": [{"name": item.name, "images": item.candidate.images} for item in planned.candidates],
        "history": to_json(found.history),
    }
