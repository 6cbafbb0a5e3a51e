"""What several integration tests do with studies, and the reduced one that they run."""

from pathlib import Path
from typing import Any

import yaml

from synthmix import Client, GroupRule
from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli.studies import plan_text, watch_to_end
from synthmix.client.client import metadata_of, result_of
from synthmix.client.study_file import parse_document
from synthmix.examples.simulated_cells import GROUP_PATTERN, SimulatedCellsSettings, write_simulated_dataset
from synthmix.service_kit.artifacts import read_manifest
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.resource_names import ArtifactName
from waiting import wait_until

FEW = "sim-few"


def reduced_value(name: str, dataset: str) -> dict[str, Any]:
    """A study that is whole in shape and small in everything: seconds of training, long enough to be interrupted."""
    return {
        "name": name,
        "dataset": dataset,
        "split": {"test": 0.25, "validation": 0.15, "seed": 7},
        "adapters": {"rank": 4, "images_seen": 320},
        "synthesis": {"prompt": "a brightfield image of {label} cells", "steps": 4},
        "mixtures": {"ratios": [0, 0.25], "synthetic_only": True},
        "classifier": {"epochs": 1},
        "seeds": 1,
    }


def reduced_study(name: str, dataset: str, **changes: Any) -> studies_pb2.StudySpec:
    """reduced_value with some sections changed, as a file would give it."""
    return parse_document(yaml.safe_dump(reduced_value(name, dataset) | changes), studies_pb2.StudySpec, name).message


def import_simulated(client: Client, folder: Path) -> None:
    """Imports a few simulated cells as FEW."""
    write_simulated_dataset(folder, SimulatedCellsSettings(images_per_class=32, chips=8))
    client.import_dataset(folder, FEW, group=GroupRule(pattern=GROUP_PATTERN), simulated=True)


def run_study(client: Client, spec: studies_pb2.StudySpec) -> studies_pb2.Study:
    """Submits a study and waits for it. Raises what it failed with."""
    return result_of(client.wait(client.submit_study(spec)), studies_pb2.Study)


def show_study(client: Client, spec: studies_pb2.StudySpec) -> studies_pb2.Study:
    """As run_study, for a person who watches: prints the plan, and shows the progress."""
    print(plan_text(client.plan_study(spec)))
    target = metadata_of(client.submit_study(spec)).target
    return result_of(client.get_operation(watch_to_end(client, target).operation), studies_pb2.Study)


def steps_of(client: Client, study: studies_pb2.Study) -> dict[str, operations_pb2.Step]:
    """The study's steps by the first word of their names: adapter, images, grid, report."""
    metadata = metadata_of(client.get_operation(study.operation))
    return {step.display_name.split()[0]: step for step in metadata.steps}


def payload_digests(store: ObjectStore, study: studies_pb2.Study) -> dict[str, str]:
    """sha256 of every payload that the study made or caused, but for those that tell when and how long."""
    evaluation = read_manifest(store, ArtifactName.parse(study.evaluation, field="evaluation"))
    names = [
        study.name,
        study.evaluation,
        study.split,
        *study.adapters,
        *study.image_sets,
        *evaluation.summary["trials"],
    ]
    return {
        f"{name}/{payload.name}": payload.sha256
        for name in names
        for payload in read_manifest(store, ArtifactName.parse(name, field="name")).payloads
        if payload.name not in ("report.html", "run.json")
    }


def wait_for_step(client: Client, name: str, step: str, done: int) -> None:
    """Waits until a step of the study, by the first word of its name, has done so much."""

    def reached() -> bool:
        steps = steps_of(client, client.get_study(name))
        return step in steps and steps[step].done >= done

    # Seldom enough that the answers cost less than the work that is waited for.
    wait_until(reached, f"{step} at {done}", timeout_s=240, poll_s=0.2)
