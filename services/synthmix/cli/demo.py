"""`synthmix demo`: the sample study on simulated images, from nothing to the report."""

import argparse
import importlib.resources
import shutil
from pathlib import Path

from synthmix.api.operations.v1 import operations_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli import exit_codes
from synthmix.cli.datasets import dataset_text
from synthmix.cli.output import emit, ended_badly, note
from synthmix.cli.progress import progress, shown_transfer
from synthmix.cli.studies import located, plan_text, watch_to_end
from synthmix.client.client import Client, GroupRule, failure_of, metadata_of
from synthmix.client.study_file import Document, parse_document, read_study
from synthmix.local import local_stack
from synthmix.service_kit.extras import extra

with extra("local", "the demo"):
    from synthmix.examples.simulated_cells import GROUP_PATTERN, SimulatedCellsSettings, write_simulated_dataset

HOME = Path("synthmix-demo")
# Enough that about ten are in the test part: with fewer, intervals over chips are rough.
CHIPS = 40
DATASET = "sim-cells"


def demo(arguments: argparse.Namespace) -> int:
    home = (arguments.home or HOME).resolve()
    document = read_study(arguments.study) if arguments.study else sample_study()
    note(
        "SynthMix demo. Its images are SIMULATED: they show how a study runs, not how real cells behave.\n"
        f"Everything is kept in {home}; run again, the demo reuses what is done.\n"
    )
    try:
        note("starting object storage, Ray and the four services")
        with (
            local_stack(home, cpus=arguments.cpus, gpus=arguments.gpus, say=note),
            Client.connect(home) as client,
        ):
            code = run_demo(client, home, document, arguments)
            note("stopping the stack")
        return code
    except KeyboardInterrupt:
        note("\nstopped; `synthmix demo` goes on from what is done")
        return exit_codes.INTERRUPTED


def run_demo(
    client: Client, home: Path, document: Document[studies_pb2.StudySpec], arguments: argparse.Namespace
) -> int:
    """Makes the dataset, runs the study and downloads its report."""
    images = home / "simulated-images"
    note(f"drawing simulated cell images in {images}")
    shutil.rmtree(images, ignore_errors=True)  # an earlier version may have drawn others
    write_simulated_dataset(images, SimulatedCellsSettings(chips=CHIPS))
    with progress() as show_progress:
        dataset = client.import_dataset(
            images,
            DATASET,
            group=GroupRule(pattern=GROUP_PATTERN),
            simulated=True,
            replace=True,
            progress=shown_transfer(show_progress),
        )
    note(f"\n{dataset_text(dataset)}\n")
    with located(document):
        note(f"{plan_text(client.plan_study(document.message))}\n")
        name = metadata_of(client.submit_study(document.message)).target
    study = watch_to_end(client, name)
    if study.state != operations_pb2.STATE_SUCCEEDED:
        return ended_badly(arguments, failure_of(client.get_operation(study.operation)))
    files = client.download_report(study.name, home / "report")
    note("")
    emit(
        arguments,
        {"study": study.name, "verdict": study.verdict, "files": [str(path) for path in files]},
        f"{study.verdict}\n(simulated images)\n\nreport: {files[0]}",
    )
    return exit_codes.OK


def sample_study() -> Document[studies_pb2.StudySpec]:
    """The packaged study."""
    text = importlib.resources.files("synthmix.examples").joinpath("demo.yaml").read_text(encoding="utf-8")
    return parse_document(text, studies_pb2.StudySpec, "demo.yaml")
