"""The command line: what it prints, where, and the exit codes that scripts rely on."""

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf.timestamp_pb2 import Timestamp

import fake_services as fake
import synthmix.cli
from memory_object_store import MemoryObjectStore
from synthmix.api.adapters.v1 import adapters_pb2
from synthmix.api.artifacts.v1 import artifacts_pb2
from synthmix.api.base_models.v1 import base_models_pb2
from synthmix.api.clusters.v1 import clusters_pb2
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2 as progress_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli import deletion, doctor, outcomes, parser
from synthmix.cli.output import human_time, table
from synthmix.cli.progress import (
    Bars,
    Lines,
    Rate,
    human_count,
    human_rate,
    rows_of,
    shown_operation,
    shown_transfer,
)
from synthmix.cli.studies import plan_text
from synthmix.client import image_exports
from synthmix.client.adapter_formats import FORMATS
from synthmix.client.client import Transfer
from synthmix.image_data.image_table import ImageTableWriter
from synthmix.image_data.sources.problems import refused_files
from synthmix.service_kit import errors
from synthmix.service_kit.artifacts import payload_key
from synthmix.service_kit.quantities import listed, shortened
from synthmix.service_kit.resource_names import ArtifactName

STUDY_FILE = "name: demo\ndataset: sim-cells\nmixtures:\n  ratios:\n    - 0\n    - 99\n"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake.FakeServices]:
    with fake.serving() as services:
        monkeypatch.setenv("SYNTHMIX_ADDRESS", services.address)
        monkeypatch.setenv("SYNTHMIX_TOKEN", fake.TOKEN)
        yield services


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_command(*arguments: object) -> tuple[int, str, str]:
        code = synthmix.cli.main([str(item) for item in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY_FILE)
    return path


def fails(error: errors.SynthMixError) -> fake.Handler:
    def handler(request: Any, context: Any) -> Any:
        raise error

    return handler


def watch(*events: Any) -> fake.Handler:
    return lambda request, context: iter(events)


ENDED = studies_pb2.WatchStudyResponse(study=fake.study(), resume_marker="9")


# The grammar


def commands() -> Iterator[argparse.ArgumentParser]:
    pending = [parser.build_parser()]
    while pending:
        current = pending.pop()
        for action in current._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending.extend(action.choices.values())
        if current.get_default("run"):
            yield current


def test_every_command_has_a_handler() -> None:
    handlers = {item.prog: item.get_default("run") for item in commands()}
    assert len(handlers) >= 25
    for handler in set(handlers.values()):
        module, _, function = handler.partition(":")
        assert callable(getattr(import_module(f"synthmix.cli.{module}"), function))


def test_the_exit_codes_are_documented() -> None:
    documented = {int(code) for code in re.findall(r"^ +(\d+) ", parser.EPILOG, flags=re.MULTILINE)}
    assert documented == {0, 1, 2, 3, 4, 5, 130}


@pytest.mark.parametrize("place", ["before", "after"])
def test_common_options_stand_before_or_after(place: str, services: fake.FakeServices, run: Run) -> None:
    services.answers["ListStudies"] = lambda request, context: studies_pb2.ListStudiesResponse()
    common = ["--output", "json", "--address", services.address, "--token", fake.TOKEN]
    words = ["studies", "list"]
    code, out, _ = run(*(common + words if place == "before" else words + common))
    assert (code, json.loads(out)) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["studies"],
        ["studies", "sumbit"],
        ["studies", "submit"],
        ["datasets", "import", "x", "--name", "a"],
        ["datasets", "import", "x", "--name", "a", "--no-groups", "--group-column", "b"],
        ["--output", "xml", "doctor"],
        ["adapters", "create", "f", "--wait", "--validate"],
        ["up", "--cpus", "0"],
        ["scale"],
        ["scale", "image-synthesis", "--max", "many"],
        ["scale", "image-synthesis", "--min", "-1"],
    ],
)
def test_misuse_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        synthmix.cli.main(arguments)
    assert caught.value.code == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        synthmix.cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("synthmix ")


# Exit codes and errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgument("x"), 2),
        (errors.AlreadyExists("x"), 2),
        (errors.Unimplemented("x"), 2),
        (errors.NotFound("x"), 3),
        (errors.Unauthenticated("x"), 4),
        (errors.PermissionDenied("x"), 4),
        (errors.Cancelled("x"), 5),
        (errors.FailedPrecondition("x"), 1),
        (errors.DataLoss("x"), 1),
        (errors.Internal("x"), 1),
    ],
)
def test_errors_have_exit_codes(error: errors.SynthMixError, code: int, services: fake.FakeServices, run: Run) -> None:
    services.answers["GetStudy"] = fails(error)
    assert run("studies", "show", "demo") == (code, "", "error: x\n")


def test_services_that_cannot_be_reached(run: Run) -> None:
    code, out, err = run("studies", "list", "--address", "127.0.0.1:1", "--token", "t")
    assert (code, out) == (4, "")
    assert err.startswith("error: study-control at 127.0.0.1:1 cannot be reached (")
    assert len(err.splitlines()) == 1


def test_no_stack(run: Run, tmp_path: Path) -> None:
    code, _, err = run("studies", "list", "--home", tmp_path)
    assert code == 4
    assert "no stack runs at" in err
    assert "synthmix up" in err


def test_wrong_token(services: fake.FakeServices, run: Run) -> None:
    code, _, err = run("studies", "list", "--token", "wrong")
    assert (code, err) == (4, "error: the token is not this server's\n")


def test_unexpected_errors_have_no_stack_trace(
    services: fake.FakeServices, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("synthmix.client.client.Client.list_studies", broken)
    code, _, err = run("studies", "list")
    assert code == 1
    assert err == "error: unexpected RuntimeError: surprise; set SYNTHMIX_DEBUG=1 for the stack trace and report it\n"

    monkeypatch.setenv("SYNTHMIX_DEBUG", "1")
    assert synthmix.cli.main(["studies", "list"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_broken_installation_has_no_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "google").mkdir()  # hides protobuf
    (tmp_path / "google" / "__init__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), str(Path(synthmix.__file__).parents[1])])
    result = subprocess.run(
        [sys.executable, "-m", "synthmix", "studies", "list"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "error: Python's module 'google.protobuf' is not installed; install synthmix again\n"


def test_errors_as_json(services: fake.FakeServices, run: Run, study_file: Path) -> None:
    services.answers["CreateStudy"] = fails(
        errors.invalid_field("spec.mixtures.ratios[1]", 99.0, "is out of range", "use 0 to 10")
    )
    code, out, err = run("studies", "submit", study_file, "--output", "json")
    assert (code, out) == (2, "")
    value = json.loads(err)
    assert value["exit_code"] == 2
    assert value["error"]["code"] == "INVALID_ARGUMENT"
    assert value["error"]["reason"] == "INVALID_FIELD"
    assert value["error"]["violations"] == [
        {
            "field": "spec.mixtures.ratios[1]",
            "description": "99.0 is out of range; use 0 to 10",
            "place": f"{study_file}:6",
        }
    ]


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m synthmix doctor --home '{tmp_path}'; echo $? >'{tmp_path}/code'"
    environment = os.environ | {"PYTHONPATH": str(Path(synthmix.__file__).parents[1])}
    result = subprocess.run(
        ["bash", "-c", f"({command}) | true"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert (tmp_path / "code").read_text().strip() in ("0", "1", "141")


# Studies


def test_validate_shows_the_plan(services: fake.FakeServices, run: Run, study_file: Path) -> None:
    plan = studies_pb2.StudyPlan(
        name=fake.STUDY,
        predicted_seconds=425,
        warnings=["the images are simulated"],
        steps=[
            studies_pb2.PlannedStep(
                display_name="adapter lora rank 16",
                plan=progress_pb2.Plan(total=4800, unit="images seen", predicted_seconds=200),
            ),
            studies_pb2.PlannedStep(
                display_name="grid",
                plan=progress_pb2.Plan(total=18, done=18, unit="trials", predicted_seconds=0),
            ),
        ],
    )
    services.answers["CreateStudy"] = lambda request, context: fake.operation("", response=plan)
    code, out, err = run("studies", "validate", study_file)
    assert (code, err) == (0, "")
    assert out == (
        "STEP                  UNITS  DONE  UNIT          PREDICTED\n"
        "adapter lora rank 16   4800     0  images seen  3 min 20 s\n"
        "grid                     18    18  trials                -\n"
        "\n"
        f"{fake.STUDY}: 7 min 5 s of worker time predicted for what is not done\n"
        "warning: the images are simulated\n"
    )
    assert services.requests["CreateStudy"][0].validate_only
    code, out, _ = run("studies", "validate", study_file, "--output", "json")
    assert json.loads(out)["steps"][0]["plan"]["total"] == "4800"


def test_validate_says_how_long_the_cluster_takes(services: fake.FakeServices, run: Run, study_file: Path) -> None:
    plan = studies_pb2.StudyPlan(name=fake.STUDY, predicted_seconds=425, predicted_wall_seconds=130)
    services.answers["CreateStudy"] = lambda request, context: fake.operation("", response=plan)
    assert run("studies", "validate", study_file)[1].splitlines()[-1] == (
        f"{fake.STUDY}: 7 min 5 s of worker time predicted for what is not done, 2 min 10 s with the workers that this "
        "cluster can run at once"
    )


def several(*found: errors.InvalidArgument) -> errors.InvalidArgument:
    problems = errors.Problems()
    problems.found += found
    with pytest.raises(errors.InvalidArgument) as raised:
        problems.raise_if_any()
    return raised.value


def test_the_servers_violations_have_lines(services: fake.FakeServices, run: Run, study_file: Path) -> None:
    services.answers["CreateStudy"] = fails(
        several(
            errors.invalid_field("spec.mixtures.ratios[1]", 99.0, "is out of range", "use 0 to 10"),
            errors.missing_field("spec.seeds", "say how many"),
        )
    )
    code, _, err = run("studies", "submit", study_file)
    assert code == 2
    assert err.splitlines() == [
        f"error: {study_file}:6: spec.mixtures.ratios[1]: 99.0 is out of range; use 0 to 10",
        f"error: {study_file}: spec.seeds: is required; say how many",
    ]


def test_a_bad_file_is_found_before_any_call(run: Run, study_file: Path) -> None:
    study_file.write_text("nmae: demo\nseeds: x\n")
    code, _, err = run("studies", "submit", study_file, "--address", "127.0.0.1:1", "--token", "t")
    assert code == 2
    assert err.splitlines() == [
        f"error: {study_file}:1: nmae: is not a known key; did you mean `name`?",
        f"error: {study_file}:2: seeds: expects a whole number (at most 2147483647), but has 'x'",
    ]
    assert run("studies", "validate", study_file.with_name("absent.yaml"))[0] == 2


def test_submit_prints_the_name_alone(services: fake.FakeServices, run: Run, study_file: Path) -> None:
    services.answers["CreateStudy"] = lambda request, context: fake.operation(fake.STUDY_OPERATION, target=fake.STUDY)
    code, out, err = run("studies", "submit", study_file)
    assert (code, out) == (0, f"{fake.STUDY}\n")
    assert err == f"follow it with `synthmix studies watch {fake.STUDY}`\n"
    code, out, err = run("studies", "submit", study_file, "--output", "json")
    assert json.loads(out)["metadata"]["target"] == fake.STUDY
    assert err == ""


def test_submit_and_wait(services: fake.FakeServices, run: Run, study_file: Path) -> None:
    services.answers["CreateStudy"] = lambda request, context: fake.operation(fake.STUDY_OPERATION, target=fake.STUDY)
    services.answers["WatchStudy"] = watch(*fake.watch_of(("training", "1")), ENDED)
    code, out, err = run("studies", "submit", study_file, "--wait")
    assert code == 0
    assert out == f"No ratio improves balanced accuracy by 0.02 or more.\n{fake.STUDY}\n"
    assert "adapter lora rank 16: running, 1200/4800 images seen" in err


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        ("STATE_FAILED", errors.InvalidArgument("a class has one image", reason="R"), 1),
        ("STATE_FAILED", errors.Internal("incident 1", reason="R"), 1),
        ("STATE_CANCELLED", errors.Cancelled("was cancelled", reason="CANCELLED"), 5),
    ],
)
def test_a_study_that_does_not_succeed(
    state: str, error: errors.SynthMixError, code: int, services: fake.FakeServices, run: Run
) -> None:
    services.answers["WatchStudy"] = watch(studies_pb2.WatchStudyResponse(study=fake.study(state)))
    services.answers["GetOperation"] = lambda request, context: fake.operation(request.name, error=error)
    result, out, err = run("studies", "watch", "demo")
    assert (result, out) == (code, "")
    assert f"error: {error.message}" in err


def test_watch_prints_json_to_standard_output_only(services: fake.FakeServices, run: Run) -> None:
    services.answers["WatchStudy"] = watch(*fake.watch_of(("training", "1")), ENDED)
    code, out, err = run("studies", "watch", "demo", "--output", "json")
    assert code == 0
    assert json.loads(out)["verdict"].startswith("No ratio")
    assert "images seen" in err


def test_where_the_trace_of_an_incident_is(services: fake.FakeServices, run: Run) -> None:
    failed = fake.operation(
        fake.ADAPTER_OPERATION,
        error=errors.Internal(
            "it failed unexpectedly", metadata={"incident": "1f2e3d", "trace": "in /home/me/logs/incidents/1f2e3d.log"}
        ),
        state="STATE_FAILED",
    )
    services.answers["GetOperation"] = lambda request, context: failed
    shown = run("operations", "show", fake.ADAPTER_OPERATION)[1]
    assert "stack trace of incident 1f2e3d: in /home/me/logs/incidents/1f2e3d.log" in shown


def test_interrupting_a_watch_leaves_the_study(services: fake.FakeServices) -> None:
    watched, released = threading.Event(), threading.Event()

    def stream(request: Any, context: Any) -> Iterator[Any]:
        yield from fake.watch_of(("training", "1"))
        watched.set()
        released.wait(20)

    services.answers["WatchStudy"] = stream
    # A shell's background job ignores the signal, and so would its children.
    command = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); " + (
        "runpy.run_module('synthmix', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command, "studies", "watch", "demo"],
        env=os.environ | {"PYTHONPATH": str(Path(synthmix.__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert watched.wait(20)
        assert "1200/4800" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 130
    finally:
        released.set()
        process.kill()
        process.stderr.close()
    assert "the study goes on" in rest
    assert "synthmix studies watch demo" in rest
    assert "synthmix studies cancel demo" in rest
    assert "Traceback" not in rest
    assert "CancelOperation" not in services.requests


def stopping(request: Any, context: Any) -> Any:
    return fake.operation(request.name, cancel_requested=True, requested_by=["ada"], requested_by_me=True)


def test_list_show_and_cancel_studies(services: fake.FakeServices, run: Run) -> None:
    services.answers["ListStudies"] = lambda request, context: studies_pb2.ListStudiesResponse(
        studies=[fake.study("STATE_RUNNING")]
    )
    services.answers["GetStudy"] = lambda request, context: fake.study("STATE_RUNNING")
    services.answers["CancelOperation"] = fake.cancelled
    services.answers["GetOperation"] = stopping
    out = run("studies", "list")[1].splitlines()
    assert out[0].split() == ["STUDY", "NAME", "STATE", "CREATED", "VERDICT"]
    assert out[1].split() == ["demo", fake.STUDY, "running", "-"]
    assert "dataset: sim-cells" in run("studies", "show", "demo")[1]
    assert run("studies", "cancel", "demo")[1].startswith(f"{fake.STUDY_OPERATION} is asked to stop")
    assert json.loads(run("studies", "cancel", "demo", "--output", "json")[1]) == {"operation": fake.STUDY_OPERATION}
    assert json.loads(run("studies", "cancel", "demo", "--all", "--output", "json")[1]) == {
        "operations": [fake.STUDY_OPERATION]
    }


def test_what_else_of_its_name_goes_on_is_said(services: fake.FakeServices, run: Run, study_file: Path) -> None:
    warning = "another study named 'demo' is not finished: studies/0, which differs in seeds (2 there, 3 here)"
    services.answers["CreateStudy"] = lambda request, context: fake.operation(
        fake.STUDY_OPERATION, target=fake.STUDY, warnings=[warning]
    )
    code, out, err = run("studies", "submit", study_file)
    assert (code, out) == (0, f"{fake.STUDY}\n")
    assert err.splitlines()[0] == f"warning: {warning}"
    assert json.loads(run("studies", "submit", study_file, "--output", "json")[1])["metadata"]["warnings"] == [warning]
    services.answers["WatchStudy"] = watch(ENDED)
    assert f"warning: {warning}\n" in run("studies", "submit", study_file, "--wait")[2]


def test_cancelling_by_a_name_of_several_stops_none(services: fake.FakeServices, run: Run) -> None:
    two = studies_pb2.ListStudiesResponse(studies=[fake.study("STATE_RUNNING"), fake.study("STATE_QUEUED")])
    two.studies[1].name = f"studies/{'2' * 32}"
    two.studies[1].operation = f"operations/study-control/{'2' * 32}"
    services.answers["ListStudies"] = lambda request, context: two
    services.answers["GetStudy"] = lambda request, context: two.studies[0]
    services.answers["CancelOperation"] = fake.cancelled
    services.answers["GetOperation"] = stopping
    code, out, err = run("studies", "cancel", "demo")
    assert (code, out) == (2, "")
    [sentence, *listed] = err.splitlines()
    assert sentence.startswith("error: name: 2 studies named 'demo' are not finished; say which one by its studies/")
    assert [line.split()[0] for line in listed] == [f"{study.name}," for study in two.studies]
    code, _, err = run("studies", "cancel", "demo", "--output", "json")
    assert json.loads(err)["error"]["reason"] == "STUDY_NAME_AMBIGUOUS"
    assert "CancelOperation" not in services.requests
    code, out, _ = run("studies", "cancel", "demo", "--all")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [study.operation for study in two.studies]
    services.answers["ListStudies"] = lambda request, context: studies_pb2.ListStudiesResponse()
    assert run("studies", "cancel", "demo", "--all") == (0, "no study named 'demo' goes on: nothing is stopped\n", "")


def test_the_files_that_an_operation_refused_are_shown(services: fake.FakeServices, run: Run) -> None:
    """The same text in `operations show`, `operations wait` and `studies watch`."""
    error = refused_files(
        "dataset.group_rule.pattern",
        "of 30 images get no group from 'chip'",
        [f"alpha/plate-{number}.png" for number in range(25)],
        "change the pattern",
        reason="PATTERN_UNMATCHED",
    )
    services.answers["GetOperation"] = lambda request, context: fake.operation(
        request.name, error=error, state="STATE_FAILED"
    )
    services.answers["WatchStudy"] = watch(studies_pb2.WatchStudyResponse(study=fake.study("STATE_FAILED")))
    said = [
        "error: dataset.group_rule.pattern: 25 of 30 images get no group from 'chip'; change the pattern",
        *(f"  alpha/plate-{number}.png" for number in range(20)),
        "  and 5 more",
    ]
    name = f"operations/study-control/{fake.ID}"
    assert run("operations", "show", name)[1].splitlines()[-22:] == said
    assert run("operations", "wait", name)[2].splitlines()[-22:] == said
    assert run("studies", "watch", "demo")[2].splitlines()[-22:] == said
    value = json.loads("{" + run("operations", "wait", name, "--output", "json")[2].partition("{")[2])
    assert value["error"]["metadata"] == {"left_out": "5"}
    assert len(value["error"]["violations"]) == 20


def test_report(services: fake.FakeServices, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = {"report.html": b"<html>", "report.json": b"{}", "results.csv": b"a\n"}
    services.answers["GetStudy"] = lambda request, context: fake.study(payloads=payloads)
    services.answers["DownloadPayload"] = fake.download_of(payloads)
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("studies", "report", "demo")
    assert code == 0
    assert out.splitlines()[1] == "demo-report/report.html"
    assert (tmp_path / "demo-report" / "report.html").read_bytes() == b"<html>"
    code, out, _ = run("studies", "report", "demo", "--to", "there", "--output", "json")
    assert json.loads(out)["files"][0] == "there/report.html"


def test_a_report_that_cannot_be_written(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    payloads = {"report.html": b"<html>", "report.json": b"{}", "results.csv": b"a\n"}
    services.answers["GetStudy"] = lambda request, context: fake.study(payloads=payloads)
    (tmp_path / "file").write_text("")
    code, _, err = run("studies", "report", "demo", "--to", tmp_path / "file" / "below")
    assert code == 2
    assert err == f"error: {tmp_path}/file/below: Not a directory; give a path whose folders are folders\n"


# Datasets


def test_import(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        (tmp_path / "images" / label / "chip-1.png").write_bytes(b"\x89PNG")
    made = datasets_pb2.Dataset(
        name=f"datasets/{fake.ID}",
        display_name="cells",
        image_count=2,
        group_count=1,
        class_counts=[datasets_pb2.ClassCount(label="a", images=1, groups=1)],
        warnings=["only one group"],
    )
    services.answers["UploadFile"] = fake.upload
    services.answers["CreateDataset"] = lambda request, context: fake.operation("o", response=made)
    arguments = ["datasets", "import", tmp_path / "images", "--name", "cells", "--class", "a", "--class", "b"]
    code, out, _ = run(*arguments, "--group-pattern", r"chip-(?P<group>\d)", "--simulated", "--replace")
    assert code == 0
    assert out.splitlines()[0] == "cells: 2 images in 1 groups"
    assert "warning: only one group" in out
    request = services.requests["CreateDataset"][0]
    assert (request.dataset.simulated, request.replace_display_name) == (True, True)
    assert list(request.dataset.classes) == ["a", "b"]
    run(*arguments, "--no-groups")
    (tmp_path / "images" / "manifest.csv").write_text("file,kind,plate\na/chip-1.png,a,1\nb/chip-1.png,b,2\n")
    code, _, err = run(*arguments, "--group-column", "plate")
    assert (code, "by --path-column; the columns are file, kind, plate" in err) == (2, True)
    run(*arguments, "--group-column", "plate", "--path-column", "file", "--label-column", "KIND", "--yes")
    rules = [item.dataset.group_rule for item in services.requests["CreateDataset"]]
    assert [rule.WhichOneof("rule") for rule in rules] == ["pattern", "none", "column"]
    request = services.requests["CreateDataset"][-1]
    assert (request.path_column, request.label_column, request.accept_layout) == ("file", "KIND", True)
    assert not request.dataset.caption_columns
    run(
        *arguments,
        "--group-column",
        "plate",
        "--path-column",
        "file",
        "--label-column",
        "kind",
        "--caption-column",
        "x",
    )
    assert len(services.requests["CreateDataset"]) == 3, "the manifest has no such column"
    (tmp_path / "images" / "manifest.csv").write_text("path,label,x,y\na/chip-1.png,a,1,2\nb/chip-1.png,b,2,3\n")
    made.caption_columns.extend(["x", "y"])
    code, out, _ = run(*arguments, "--no-groups", "--caption-column", "x", "--caption-column", " y ")
    assert code == 0 and "captions: x, y" in out.splitlines()
    assert list(services.requests["CreateDataset"][-1].dataset.caption_columns) == ["x", "y"]


def test_an_import_shows_what_was_left_out_and_every_name(
    services: fake.FakeServices, run: Run, tmp_path: Path
) -> None:
    for name in ("a/1.png", "b/2.png", "a/notes.txt", "c/readme.txt"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"\x89PNG")
    left_out = [datasets_pb2.LeftOut(folder="c", reason="NOT_AN_IMAGE", count=1, examples=["c/readme.txt"])]
    made = datasets_pb2.Dataset(
        name=f"datasets/{fake.ID}", display_name="cells", display_names=["cells", "older"], left_out=left_out
    )
    services.answers["UploadFile"] = fake.upload
    services.answers["CreateDataset"] = lambda request, context: fake.operation("o", response=made)
    arguments = ["datasets", "import", tmp_path / "images", "--name", "cells", "--no-groups"]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "also named: older" in out
    assert "left out: 1 files\n  c: 1 file, not an image (c/readme.txt)" in out
    sent = services.requests["CreateDataset"][0].left_out
    assert [(row.folder, row.reason, row.count) for row in sent] == [("a", "NOT_AN_IMAGE", 1), ("c", "NOT_AN_IMAGE", 1)]
    assert '"left_out"' in run(*arguments, "--output", "json")[1]
    services.answers["ListDatasets"] = lambda request, context: datasets_pb2.ListDatasetsResponse(datasets=[made])
    listed = run("datasets", "list")[1].splitlines()
    assert [line.split()[0] for line in listed] == ["DATASET", "cells", "older"]


def test_a_doubtful_layout_is_said_before_anything_is_uploaded(
    services: fake.FakeServices, run: Run, tmp_path: Path
) -> None:
    for name in ("train/a/1.png", "test/a/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\x89PNG")
    code, _, err = run("datasets", "import", tmp_path, "--name", "cells", "--no-groups")
    assert code == 2
    assert "named like parts of a split" in err
    assert "--yes" in err
    assert "UploadFile" not in services.requests


def test_import_chooses_channels_a_plane_and_white(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "chip-1.png").write_bytes(b"\x89PNG")
    made = datasets_pb2.Dataset(
        name=f"datasets/{fake.ID}",
        display_name="cells",
        pixels=datasets_pb2.PixelRule(channels=[2, 1], plane=3),
        white_levels=[4095, 900],
    )
    services.answers["UploadFile"] = fake.upload
    services.answers["CreateDataset"] = lambda request, context: fake.operation("o", response=made)
    arguments = ["datasets", "import", tmp_path / "images", "--name", "cells", "--no-groups"]
    code, out, _ = run(*arguments, "--channel", "2,1", "--plane", "3", "--white-level", "900")
    assert code == 0
    assert out.splitlines()[2:5] == [
        "plane 3 of each image",
        "channel 2 as red, channel 1 as green of each image",
        "white in 16-bit images: 4,095, 900",
    ]
    run(*arguments, "--channel", "2", "--channel", "1")
    run(*arguments, "--channel", "4")
    run(*arguments)
    asked = [item.dataset.pixels for item in services.requests["CreateDataset"]]
    assert [(list(rule.channels), rule.plane, rule.white_level) for rule in asked] == [
        ([2, 1], 3, 900),
        ([2, 1], 0, 0),
        ([4], 0, 0),
        ([], 0, 0),
    ]
    assert not services.requests["CreateDataset"][-1].dataset.HasField("pixels")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--channel", "0"),
        ("--channel", "red"),
        ("--channel", "1,"),
        ("--channel", "9" * 5000),
        ("--plane", "0"),
        ("--plane", "99999999999"),
        ("--white-level", "0"),
        ("--white-level", "65536"),
        ("--white-level", "4095.5"),
    ],
)
def test_what_no_image_has_is_refused_before_uploading(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        synthmix.cli.main(["datasets", "import", "x", "--name", "a", "--no-groups", option, value])
    assert caught.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "pattern", ["(", "chip", "chip-([0-9])", "", "(" * 5000 + ")" * 5000, "a{99999999999999999999}"]
)
def test_a_bad_group_pattern_is_found_before_uploading(
    pattern: str, services: fake.FakeServices, run: Run, tmp_path: Path
) -> None:
    code, _, err = run("datasets", "import", tmp_path, "--name", "a", "--group-pattern", pattern)
    assert code == 2
    assert "error: dataset.group_rule.pattern" in err
    assert "(?P<group>" in err


def test_list_and_show_datasets(services: fake.FakeServices, run: Run) -> None:
    dataset = datasets_pb2.Dataset(
        name=f"datasets/{fake.ID}",
        display_name="cells",
        image_count=5,
        simulated=True,
        create_time=Timestamp(seconds=60),
    )
    services.answers["ListDatasets"] = lambda request, context: datasets_pb2.ListDatasetsResponse(datasets=[dataset])
    services.answers["GetDataset"] = lambda request, context: dataset
    assert "simulated" in run("datasets", "list")[1]
    shown = run("datasets", "show", "cells")[1]
    assert "image_count: 5" in shown
    assert "create_time: '1970-01-01T00:01:00Z'" in shown
    assert services.requests["GetDataset"][0].name == "datasets/cells"


def test_simulate(run: Run, tmp_path: Path) -> None:
    code, out, err = run("datasets", "simulate", tmp_path / "sim", "--images-per-class", 2, "--chips", 2)
    assert code == 0
    assert "simulated images in" in out
    assert "--simulated --group-pattern" in err
    assert len(list((tmp_path / "sim").glob("*/*.png"))) == 2 * 3
    code, _, err = run("datasets", "simulate", tmp_path / "sim", "--images-per-class", 0)
    assert code == 2
    assert err.startswith("error: ")


# Adapters, images, evaluations, operations


def test_create_a_resource(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "adapter.yaml"
    path.write_text(f"train_split: splits/{fake.ID}/parts/train\nsettings: {{base_model: builtin, rank: 4}}\n")
    adapter = adapters_pb2.Adapter(name=f"adapters/{fake.ID}")
    services.answers["CreateAdapter"] = lambda request, context: (
        fake.operation("", response=progress_pb2.Plan(target=adapter.name, total=4800, unit="images seen"))
        if request.validate_only
        else fake.operation(fake.ADAPTER_OPERATION)
    )
    services.answers["WaitOperation"] = lambda request, context: fake.operation(
        fake.ADAPTER_OPERATION, response=adapter, target=adapter.name
    )
    assert run("adapters", "create", path)[:2] == (0, f"{fake.ADAPTER_OPERATION}\n")
    assert services.requests["CreateAdapter"][0].adapter.settings.rank == 4
    assert run("adapters", "create", path, "--wait")[:2] == (0, f"{adapter.name}\n")
    assert "0 of 4800 images seen done" in run("adapters", "create", path, "--validate")[1]
    path.write_text("settings: {rnak: 4}\n")
    code, _, err = run("adapters", "create", path)
    assert (code, err) == (2, f"error: {path}:1: settings.rnak: is not a known key; did you mean `rank`?\n")


def test_list_show_and_download_resources(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    adapter = adapters_pb2.Adapter(
        name=f"adapters/{fake.ID}",
        settings=adapters_pb2.AdapterSettings(method="lora", rank=4),
        seconds=75,
        payloads=[fake.payload("weights", b"1234")],
    )
    services.answers["ListAdapters"] = lambda request, context: adapters_pb2.ListAdaptersResponse(adapters=[adapter])
    services.answers["GetAdapter"] = lambda request, context: adapter
    services.answers["DownloadPayload"] = fake.download_of({"weights": b"1234"})
    assert "1 min 15 s" in run("adapters", "list")[1]
    assert json.loads(run("adapters", "list", "--output", "json")[1])[0]["settings"]["rank"] == 4
    assert "method: lora" in run("adapters", "show", adapter.name)[1]
    code, out, _ = run("adapters", "download", adapter.name, "--to", tmp_path)
    assert (code, out) == (0, f"1 files of {adapter.name} in {tmp_path}\n")
    assert (tmp_path / "weights").read_bytes() == b"1234"


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def trained_adapter(services: fake.FakeServices, method: str = "dora", data: bytes | None = None) -> str:
    """Has the services answer with an adapter of one layer, and returns its name."""
    config = json.dumps({"unet.peft_type": "LORA", "unet.r": 1, "unet.lora_alpha": 1})
    header = {
        "__metadata__": {"lora_adapter_metadata": config},
        f"unet.{LAYER}.lora_A.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        f"unet.{LAYER}.lora_B.weight": {"dtype": "F32", "shape": [3, 1], "data_offsets": [8, 20]},
        f"unet.{LAYER}.lora_magnitude_vector": {"dtype": "F32", "shape": [3], "data_offsets": [20, 32]},
    }
    text = json.dumps(header).encode()
    payloads = {
        "pytorch_lora_weights.safetensors": data or len(text).to_bytes(8, "little") + text + bytes(32),
        "losses.json": b"[]",
    }
    adapter = adapters_pb2.Adapter(
        name=f"adapters/{fake.ID}",
        settings=adapters_pb2.AdapterSettings(method=method, base_model="builtin"),
        payloads=[fake.payload(name, content) for name, content in payloads.items()],
    )
    services.answers["GetAdapter"] = lambda request, context: adapter
    services.answers["DownloadPayload"] = fake.download_of(payloads)
    return adapter.name


def test_images_are_exported(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    store, name = MemoryObjectStore.created(), ArtifactName("image-sets", fake.ID)
    table = ImageTableWriter(store, name)
    for index, label in enumerate(["flat", "round", "flat"]):
        table.add(b"\x89PNG" + bytes([index]), label=label, prompt=f"a {label} cell", seed=index, index=index)
    payloads = {item.name: store.get_bytes(payload_key(name, item)) for item in table.close()}
    image_set = image_sets_pb2.ImageSet(
        name=str(name), payloads=[fake.payload(file, data) for file, data in payloads.items()]
    )
    services.answers["GetImageSet"] = lambda request, context: image_set
    services.answers["DownloadPayload"] = fake.download_of(payloads)
    out_path = tmp_path / "new" / "images"
    code, out, err = run("images", "export", fake.ID, "--format", "imagefolder", "--out", out_path)
    assert (code, out) == (0, f"{name} in the format imagefolder: 3 images at {out_path}\n")
    assert "downloading: done" in err
    assert sorted(path.name for path in out_path.rglob("*.png")) == ["000000.png", "000001.png", "000002.png"]
    assert list(out_path.parent.iterdir()) == [out_path], "nothing else is left there"
    code, out, _ = run("images", "export", fake.ID, "--format", "zip", "--out", tmp_path / "i.zip", "--output", "json")
    value = {"name": str(name), "format": "zip", "out": str(tmp_path / "i.zip"), "images": 3}
    assert (code, json.loads(out)) == (0, value)
    code, _, err = run("images", "export", fake.ID, "--format", "zip", "--out", tmp_path / "i.zip")
    assert code == 2 and "exists; give another path" in err
    [said] = [item.format_help() for item in commands() if item.prog == "synthmix images export"]
    assert all(f"{form}:" in " ".join(said.split()) for form in image_exports.FORMATS)


def test_an_adapter_is_exported(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    name = trained_adapter(services)
    out_path = tmp_path / "new" / "a.safetensors"
    code, out, err = run("adapters", "export", name, "--format", "kohya", "--out", out_path)
    assert code == 0
    assert "downloading: done" in err
    assert out.splitlines()[:2] == [f"{name} in the format kohya:", f"  {out_path}"]
    assert out.splitlines()[2].startswith("note: diffusers leaves out dora_scale")
    assert b"mid_block_attentions_0_transformer_blocks_0_attn2_to_k.dora_scale" in out_path.read_bytes()
    assert list(out_path.parent.iterdir()) == [out_path], "nothing else is left there"

    folder = tmp_path / "peft"
    code, out, _ = run("adapters", "export", fake.ID, "--format", "peft", "--out", folder, "--output", "json")
    files = [str(folder / file) for file in ("adapter_config.json", "adapter_model.safetensors")]
    assert (code, json.loads(out)) == (0, {"name": name, "format": "peft", "files": files, "notes": []})
    assert {str(path) for path in folder.iterdir()} == set(files)
    assert {request.payload for request in services.requests["DownloadPayload"]} == {"pytorch_lora_weights.safetensors"}


def test_an_adapter_of_sdxl_is_exported_with_its_own_names_and_the_size_that_it_knows(
    services: fake.FakeServices, run: Run, tmp_path: Path
) -> None:
    trained_adapter(services)
    adapter = services.answers["GetAdapter"](None, None)
    adapter.base_model_kind, adapter.original_size = "SDXL", 96
    code, out, _ = run("adapters", "export", fake.ID, "--format", "kohya", "--out", tmp_path / "a.safetensors")
    assert code == 0
    assert (
        b"lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k.dora_scale"
        in (tmp_path / "a.safetensors").read_bytes()
    )
    assert "diffusers: original_size=(96, 96)" in out


def test_the_adapter_of_a_class_is_exported(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    trained_adapter(services)
    of_all = services.answers["GetAdapter"](None, None)
    of_each = adapters_pb2.Adapter(name=of_all.name, settings=of_all.settings)
    folders = {"round": "class-0000", "flat": "class-0001"}
    file = "pytorch_lora_weights.safetensors"
    [stored] = [item for item in of_all.payloads if item.name == file]
    for label, folder in folders.items():
        of_each.class_adapters.add(label=label, folder=folder)
        of_each.payloads.add(name=f"{folder}/{file}", sha256=stored.sha256, size_bytes=stored.size_bytes)
    read = services.answers["DownloadPayload"]
    services.answers["GetAdapter"] = lambda request, context: of_each

    def download(request: Any, context: Any) -> Any:
        assert request.payload == f"class-0001/{file}"
        return read(type(request)(artifact=request.artifact, payload=file), context)

    services.answers["DownloadPayload"] = download

    def export(*others: object) -> tuple[int, str]:
        code, _, err = run("adapters", "export", fake.ID, "--format", "peft", "--out", tmp_path / "out", *others)
        return code, err

    code, err = export()
    assert (code, err) == (
        2,
        f"error: class: is required; adapters/{fake.ID} has an adapter for each class: name one of round, flat\n",
    )
    code, err = export("--class", "Flat")
    assert (code, "did you mean 'flat'? use one of: round, flat" in err) == (2, True)
    assert export("--class", "flat")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    trained_adapter(services)
    code, _, err = run(
        "adapters", "export", fake.ID, "--format", "peft", "--out", tmp_path / "other", "--class", "flat"
    )
    assert (code, f"is not to be chosen: adapters/{fake.ID} is for all classes; leave it out" in err) == (2, True)


def test_the_adapter_of_an_image_is_exported(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    trained_adapter(services)
    of_all = services.answers["GetAdapter"](None, None)
    of_each = adapters_pb2.Adapter(name=of_all.name, settings=of_all.settings)
    file = "pytorch_lora_weights.safetensors"
    [stored] = [item for item in of_all.payloads if item.name == file]
    for row, path in enumerate(("flat/1.png", "round/1.png", "round/2.png")):
        folder = f"image-{row:06d}"
        of_each.class_adapters.add(label=path.split("/")[0], folder=folder, image=f"{10 + row}" * 32, path=path)
        of_each.payloads.add(name=f"{folder}/{file}", sha256=stored.sha256, size_bytes=stored.size_bytes)
    read = services.answers["DownloadPayload"]
    services.answers["GetAdapter"] = lambda request, context: of_each
    asked: list[str] = []

    def download(request: Any, context: Any) -> Any:
        asked.append(request.payload)
        return read(type(request)(artifact=request.artifact, payload=file), context)

    services.answers["DownloadPayload"] = download

    def export(number: int, *others: object) -> tuple[int, str]:
        code, _, err = run("adapters", "export", fake.ID, "--format", "peft", "--out", tmp_path / f"{number}", *others)
        return code, err

    each = f"adapters/{fake.ID} has an adapter for each of 3 images"
    name_it = "name the image by its path or by the beginning of its sha256, such as flat/1.png or 101010101010"
    assert export(0) == (2, f"error: image: is required; {each}: {name_it}\n")
    code, err = export(0, "--class", "flat")
    assert (code, f"class: 'flat' is not to be chosen: {each}; leave it out, and {name_it}" in err) == (2, True)
    for name, problem in (
        ("1.png", "means 2 images: flat/1.png, round/1.png"),
        ("1", "means 3 images"),
        ("round", "is none of its images"),
        ("3.png", "is none of its images"),
    ):
        code, err = export(0, "--image", name)
        assert (code, f"image: {name!r} {problem}" in err) == (2, True), name
    assert not asked
    for number, (name, row) in enumerate((("round/1.png", 1), ("2.png", 2), ("1111", 1), ("10" * 32, 0)), 1):
        assert export(number, "--image", name)[0] == 0
        assert asked == [f"image-{row:06d}/{file}"]
        asked.clear()
    assert {path.name for path in (tmp_path / "1").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    trained_adapter(services)
    code, err = export(5, "--image", "1.png")
    assert (code, f"is not to be chosen: adapters/{fake.ID} is for all classes; leave it out" in err) == (2, True)


def test_an_adapter_that_is_not_there_cannot_be_exported(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    services.answers["GetAdapter"] = fails(errors.NotFound(f"there is no adapters/{fake.ID}", reason="NOT_FOUND"))
    code, out, err = run("adapters", "export", fake.ID, "--format", "peft", "--out", tmp_path / "a")
    assert (code, out, err) == (3, "", f"error: there is no adapters/{fake.ID}\n")


def test_what_cannot_be_exported_leaves_nothing(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    def export(form: str, out: str) -> tuple[int, str]:
        code, _, err = run("adapters", "export", fake.ID, "--format", form, "--out", tmp_path / out)
        return code, err

    trained_adapter(services)
    code, err = export("kohia", "a.safetensors")
    assert (code, "did you mean 'kohya'? use one of: diffusers, peft, kohya" in err) == (2, True)
    (tmp_path / "mine").mkdir()
    assert export("peft", "mine") == (
        2,
        f"error: out: '{tmp_path / 'mine'}' exists; give another path, or move what is there\n",
    )
    trained_adapter(services, method="boft")
    code, err = export("kohya", "a.safetensors")
    assert (code, "the method boft, only of lora" in err, "use one of: peft" in err) == (2, True, True)
    assert "DownloadPayload" not in services.requests
    trained_adapter(services, data=b"\x02\0\0\0\0\0\0\0[]")
    code, err = export("kohya", "a.safetensors")
    assert code == 1
    assert err.splitlines()[-1] == (
        f"error: adapters/{fake.ID} cannot be exported: it has a header that is not a JSON object; delete it and train "
        "it again"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_help_of_export_names_every_format() -> None:
    [said] = [item.format_help() for item in commands() if item.prog == "synthmix adapters export"]
    assert all(f"{name}: " in " ".join(said.split()) for name in FORMATS)


def test_an_image_set_is_scored(services: fake.FakeServices, run: Run) -> None:
    split, image_set, adapter = f"splits/{fake.ID}", f"image-sets/{fake.ID}", f"adapters/{'a' * 32}"
    trained = adapters_pb2.Adapter(name=adapter, train_split=f"{split}/parts/train")
    services.answers["GetImageSet"] = lambda request, context: image_sets_pb2.ImageSet(name=image_set, adapter=adapter)
    services.answers["GetAdapter"] = lambda request, context: {adapter: trained}[request.name]
    score = evaluations_pb2.ImageSetScore(
        split=split,
        image_set=image_set,
        images=300,
        class_consistency=0.76,
        real_class_consistency=0.894,
        chance_level=1 / 6,
        kernel_inception_distance=1.4299,
        feature_network="tf_efficientnet_lite0",
        image_size=64,
    )
    name = f"operations/classifier-evaluation/{fake.ID}"
    services.answers["CreateImageSetScore"] = lambda request, context: fake.operation(name, response=score)
    code, out, err = run("images", "score", image_set)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{image_set}: 300 images",
        "class consistency: 76.0% (89.4% of real validation images, 16.7% by chance)",
        "kernel inception distance from validation images: 1.430",
        "by the features of tf_efficientnet_lite0 at 64 px",
    ]
    [asked] = services.requests["CreateImageSetScore"]
    assert (asked.image_set_score.split, asked.image_set_score.image_set) == (split, image_set)
    assert json.loads(run("--output", "json", "images", "score", fake.ID)[1])["class_consistency"] == 0.76

    failed = fake.operation(name, error=errors.Internal("no more memory", reason="R"), state="STATE_FAILED")
    services.answers["CreateImageSetScore"] = lambda request, context: failed
    code, out, err = run("images", "score", image_set)
    assert (code, out, err.splitlines()[-1]) == (1, "", "error: no more memory")
    trained.train_split = ""
    services.requests.clear()
    code, out, err = run("images", "score", image_set)
    assert (code, "which was imported" in err) == (1, True)
    assert "CreateImageSetScore" not in services.requests


def imported_set(**seen: Any) -> image_sets_pb2.ImageSet:
    made = image_sets_pb2.ImageSet(name=f"image-sets/{fake.ID}", image_count=3)
    made.class_images.add(label="flat", images=3)
    made.imported.origin, made.imported.image_size = "stylegan", 64
    made.imported.seen.CopyFrom(image_sets_pb2.SeenImages(**seen))
    return made


def test_images_of_another_program_are_imported(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "stylegan"
    (folder / "flat").mkdir(parents=True)
    (folder / "flat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    services.answers["UploadFile"] = fake.upload
    services.answers["GetDataset"] = lambda request, context: datasets_pb2.Dataset(name=f"datasets/{fake.ID}")
    made = imported_set(all_of=[f"datasets/{fake.ID}"], image_count=24)
    name = f"operations/image-synthesis/{fake.ID}"
    services.answers["CreateImageSet"] = lambda request, context: fake.operation(name, response=made)
    code, out, err = run("images", "import", str(folder), "--saw", "cells", "--image-size", "64", "--yes")
    assert code == 0, err
    assert out.splitlines()[0] == f"image-sets/{fake.ID}: 3 images of 64 x 64 pixels, from stylegan"
    assert "its generator is said to have seen 24 real images, and evaluations whose" in out
    [asked] = services.requests["CreateImageSet"]
    imported = asked.image_set.imported
    assert list(imported.seen.all_of) == [f"datasets/{fake.ID}"], "by its name"
    assert (imported.image_size, imported.accept_layout, imported.origin) == (64, True, "stylegan")

    services.requests.clear()
    code, _, err = run("images", "import", str(folder))
    assert code == 2 and "is required; say which real images the generator saw" in err
    assert "UploadFile" not in services.requests
    made.imported.seen.CopyFrom(image_sets_pb2.SeenImages(none=True))
    assert "said to have seen no real image" in run("images", "import", str(folder), "--saw-none")[1]


def test_imported_images_are_listed_and_scored(services: fake.FakeServices, run: Run) -> None:
    split = f"splits/{fake.ID}"
    shown = imported_set(all_of=[f"{split}/parts/train"])
    services.answers["ListImageSets"] = lambda request, context: image_sets_pb2.ListImageSetsResponse(
        image_sets=[shown]
    )
    services.answers["GetImageSet"] = lambda request, context: shown
    [row] = run("images", "list")[1].splitlines()[1:]
    assert "imported from stylegan" in row and row.split()[:5] == [f"image-sets/{fake.ID}", "3", "1", "-", "-"]
    score = evaluations_pb2.ImageSetScore(split=split, image_set=shown.name)
    name = f"operations/classifier-evaluation/{fake.ID}"
    services.answers["CreateImageSetScore"] = lambda request, context: fake.operation(name, response=score)
    other = f"splits/{'b' * 32}"
    for arguments in ([], ["--split", other], ["--split", "b" * 32]):
        assert run("images", "score", fake.ID, *arguments)[0] == 0
    asked = [request.image_set_score.split for request in services.requests["CreateImageSetScore"]]
    assert asked == [split, other, other]
    shown.imported.seen.CopyFrom(image_sets_pb2.SeenImages(none=True))
    code, _, err = run("images", "score", fake.ID)
    assert code == 2 and "say by which split it is to be judged" in err


def test_operations(services: fake.FakeServices, run: Run) -> None:
    failed = fake.operation(
        fake.ADAPTER_OPERATION,
        error=errors.Internal("no more memory", reason="R"),
        state="STATE_FAILED",
        done=3,
        total=9,
    )
    services.answers["ListOperations"] = lambda request, context: {
        "operations/adapter-training": operations_pb2.ListOperationsResponse(operations=[failed])
    }.get(request.name, operations_pb2.ListOperationsResponse())
    services.answers["GetOperation"] = lambda request, context: failed
    services.answers["CancelOperation"] = fake.cancelled
    lines = run("operations", "list")[1].splitlines()
    assert lines[1].split()[:3] == [fake.ADAPTER_OPERATION, "failed", "3/9"]
    assert run("operations", "list", "--service", "study-control")[1].splitlines()[1:] == []
    code, _, err = run("operations", "list", "--service", "image-synth")
    assert code == 2 and "did you mean 'image-synthesis'?" in err
    ages = {"adapter-training": [9, 2], "image-synthesis": [7], "classifier-evaluation": [8, 1], "study-control": []}
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse(
        operations=[
            fake.operation(f"{request.name}/{age}", create_time=Timestamp(seconds=age))
            for age in ages[request.name.removeprefix("operations/")]
        ]
    )
    listed = [line.split()[0].rpartition("/")[2] for line in run("operations", "list")[1].splitlines()[1:]]
    assert listed == ["9", "8", "7", "2", "1"]  # of all services together
    assert "error: no more memory" in run("operations", "show", fake.ADAPTER_OPERATION)[1]
    assert run("operations", "cancel", fake.ADAPTER_OPERATION)[0] == 0
    code, out, err = run("operations", "wait", fake.ADAPTER_OPERATION)
    assert (code, out) == (1, "")
    assert "error: no more memory" in err


# Owners


def test_lists_and_shows_say_whose_it_is_where_that_is_another(services: fake.FakeServices, run: Run) -> None:
    own, others = fake.study(), fake.study()
    own.requested_by[:], own.requested_by_me = ["ada", "bob"], True
    others.requested_by[:] = ["bob", "eve\n\x1b[2J"]
    shown = {"studies": [own]}
    services.answers["ListStudies"] = lambda request, context: studies_pb2.ListStudiesResponse(**shown)
    assert "OWNER" not in run("studies", "list")[1]
    shown["studies"] = [own, others]
    head, first, second = run("studies", "list")[1].splitlines()
    assert head.endswith("OWNER")
    assert "bob" not in first and second.endswith("  bob, eve\\n\\x1b[2J")
    listed = json.loads(run("studies", "list", "--output", "json")[1])
    assert [item.get("requested_by") for item in listed] == [["ada", "bob"], ["bob", "eve\n\x1b[2J"]]
    for study, said in ((own, False), (others, True)):
        services.answers["GetStudy"] = lambda request, context, study=study: study
        assert ("requested_by" in run("studies", "show", "demo")[1]) is said


@pytest.mark.parametrize(
    ("group", "method", "page"),
    [
        (
            "datasets",
            "ListDatasets",
            datasets_pb2.ListDatasetsResponse(datasets=[{"display_names": ["a", "b"], "requested_by": ["bob"]}]),
        ),
        ("adapters", "ListAdapters", adapters_pb2.ListAdaptersResponse(adapters=[{"requested_by": ["bob"]}])),
        ("images", "ListImageSets", image_sets_pb2.ListImageSetsResponse(image_sets=[{"requested_by": ["bob"]}])),
        (
            "evaluations",
            "ListEvaluations",
            evaluations_pb2.ListEvaluationsResponse(evaluations=[{"requested_by": ["bob"]}]),
        ),
    ],
)
def test_every_list_says_whose_things_are(
    group: str, method: str, page: Any, services: fake.FakeServices, run: Run
) -> None:
    services.answers[method] = lambda request, context: page
    head, *rows = run(group, "list")[1].splitlines()
    assert head.endswith("OWNER") and rows
    assert all(row.endswith("  bob") for row in rows)


def test_operations_say_whose_they_are(services: fake.FakeServices, run: Run) -> None:
    running = fake.operation(fake.ADAPTER_OPERATION, requested_by=["bob"])
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse(
        operations=[running]
    )
    assert run("operations", "list", "--service", "adapter-training")[1].splitlines()[1].endswith("  bob")


def test_what_is_cancelled_and_goes_on_for_others_is_said(services: fake.FakeServices, run: Run) -> None:
    services.answers["CancelOperation"] = fake.cancelled
    services.answers["GetOperation"] = lambda request, context: fake.operation(request.name, requested_by=["bob"])
    services.answers["GetStudy"] = lambda request, context: fake.study("STATE_RUNNING")
    said = "{} goes on for bob, who asked for it as well; it is not yours any more\n"
    assert run("operations", "cancel", fake.ADAPTER_OPERATION)[1] == said.format(fake.ADAPTER_OPERATION)
    assert run("studies", "cancel", fake.STUDY)[1] == said.format(fake.STUDY_OPERATION)


def test_what_is_deleted_and_stays_for_others_is_said(services: fake.FakeServices, run: Run) -> None:
    services.answers["DeleteStudy"] = lambda request, context: artifacts_pb2.Deletion(kept=[fake.STUDY])
    code, out, _ = run("studies", "delete", "demo", "--yes")
    assert code == 0
    assert out == (
        "deleted nothing\nwhat is not yours any more:\n"
        f"  {fake.STUDY}, which stays, since others asked for it as well\n"
    )


# Demo


@pytest.fixture
def demo_stack(services: fake.FakeServices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> fake.FakeServices:
    """The demo on fake services, which answer as if all went well, and on few images."""
    payloads = {"report.html": b"<html>", "report.json": b"{}", "results.csv": b"a\n"}
    dataset = datasets_pb2.Dataset(name=f"datasets/{fake.ID}", display_name="sim-cells", image_count=6)
    services.answers |= {
        "UploadFile": fake.upload,
        "CreateDataset": lambda request, context: fake.operation("o", response=dataset),
        "CreateStudy": lambda request, context: (
            fake.operation("", response=studies_pb2.StudyPlan(name=fake.STUDY))
            if request.validate_only
            else fake.operation(fake.STUDY_OPERATION, target=fake.STUDY)
        ),
        "WatchStudy": watch(ENDED),
        "GetStudy": lambda request, context: fake.study(payloads=payloads),
        "DownloadPayload": fake.download_of(payloads),
    }

    @contextmanager
    def fake_stack(home: Path, **options: Any) -> Iterator[None]:
        with fake.stack_at(home, services):
            yield

    module = import_module("synthmix.cli.demo")
    few = module.SimulatedCellsSettings(images_per_class=2, chips=2)
    monkeypatch.setattr(module, "local_stack", fake_stack)
    monkeypatch.setattr(module, "SimulatedCellsSettings", lambda chips: few)
    monkeypatch.chdir(tmp_path)
    return services


def test_demo(demo_stack: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    code, out, err = run("demo")
    assert code == 0
    assert "SIMULATED" in err
    assert out.splitlines()[0] == "No ratio improves balanced accuracy by 0.02 or more."
    assert out.splitlines()[-1] == f"report: {tmp_path}/synthmix-demo/report/report.html"
    assert (tmp_path / "synthmix-demo" / "report" / "report.html").read_bytes() == b"<html>"
    assert demo_stack.requests["CreateDataset"][0].dataset.simulated
    assert [item.spec.name for item in demo_stack.requests["CreateStudy"]] == ["demo", "demo"]


def test_a_demo_that_fails_says_so(demo_stack: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    demo_stack.answers["WatchStudy"] = watch(studies_pb2.WatchStudyResponse(study=fake.study("STATE_FAILED")))
    demo_stack.answers["GetOperation"] = lambda request, context: fake.operation(
        request.name, error=errors.Internal("no more memory", reason="R")
    )
    code, out, err = run("demo", "--home", tmp_path / "here")
    assert (code, out) == (1, "")
    assert "error: no more memory" in err


def test_the_sample_study_and_the_sample_dataset_fit() -> None:
    module = import_module("synthmix.cli.demo")
    assert module.sample_study().message.dataset == module.DATASET


# The cluster

CLUSTER = clusters_pb2.Cluster(
    namespace="lab",
    nodes=[
        clusters_pb2.Node(
            name="gpu-1", gpu_product="NVIDIA-A100-SXM4-40GB", nvidia_gpus=8, schedulable=True, ready=True
        ),
        clusters_pb2.Node(name="gpu-2", amd_gpus=4, ready=True),
    ],
    worker_groups=[
        clusters_pb2.WorkerGroup(
            name="adapter-training", min_workers=1, max_workers=2, desired_workers=1, gpus_per_worker=4
        ),
        clusters_pb2.WorkerGroup(
            name="image-synthesis", max_workers=8, desired_workers=2, ready_workers=2, gpus_per_worker=1
        ),
        clusters_pb2.WorkerGroup(name="classifier-evaluation"),
    ],
)


def test_cluster(services: fake.FakeServices, run: Run) -> None:
    services.answers["GetCluster"] = lambda request, context: CLUSTER
    code, out, err = run("cluster")
    assert (code, err) == (0, "")
    assert out == (
        "WORKER GROUP           MIN  MAX  DESIRED  READY  GPUS EACH\n"
        "adapter-training         1    2        1      0          4\n"
        "image-synthesis          0    8        2      2          1\n"
        "classifier-evaluation    0    0        0      0          0\n"
        "\n"
        "GPU NODE  PRODUCT                NVIDIA  AMD  STATE\n"
        "gpu-1     NVIDIA-A100-SXM4-40GB       8    0  ready\n"
        "gpu-2     -                           0    4  cordoned\n"
    )
    code, out, _ = run("cluster", "--output", "json")
    assert json.loads(out)["worker_groups"][1]["max_workers"] == 8
    services.answers["GetCluster"] = lambda request, context: clusters_pb2.Cluster(warnings=["no right"])
    assert run("cluster")[1].endswith("\nwarning: no right\n")
    services.answers["GetCluster"] = lambda request, context: clusters_pb2.Cluster()
    assert run("cluster")[1].endswith("\nno node has GPUs\n")


def test_scale(services: fake.FakeServices, run: Run) -> None:
    services.answers["GetCluster"] = lambda request, context: CLUSTER
    services.answers["ScaleWorkerGroup"] = lambda request, context: clusters_pb2.WorkerGroup(
        name=request.worker_group, min_workers=request.min_workers, max_workers=8
    )
    code, out, err = run("scale", "image-synthesis", "--min", "4")
    assert (code, out) == (0, "image-synthesis: min 0 -> 4, max 8 -> 8\n")
    assert "`helm upgrade`" in err
    assert not services.requests["ScaleWorkerGroup"][0].HasField("max_workers")
    code, out, err = run("scale", "image-synthesis", "--min", "4", "--output", "json")
    value = json.loads(out)
    assert (value["before"]["min_workers"], value["after"]["min_workers"], err) == (0, 4, "")


def test_scaling_what_is_not_there_says_what_is(services: fake.FakeServices, run: Run) -> None:
    services.answers["GetCluster"] = lambda request, context: CLUSTER
    services.answers["ScaleWorkerGroup"] = fails(
        errors.invalid_field("worker_group", "image-synthesys", "is not one of the choices", "use one of: a, b")
    )
    code, out, err = run("scale", "image-synthesys", "--max", "4")
    assert (code, out) == (2, "")
    assert err == "error: worker_group: 'image-synthesys' is not one of the choices; use one of: a, b\n"


def test_scaling_on_a_single_machine(services: fake.FakeServices, run: Run) -> None:
    services.answers["GetCluster"] = fails(errors.FailedPrecondition("no worker groups here", reason="NO_CLUSTER"))
    assert run("scale", "image-synthesis", "--max", "4") == (1, "", "error: no worker groups here\n")


# Doctor


def test_doctor_on_a_machine_without_a_stack(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--home", tmp_path / "home", "--output", "json")
    checks = {item["name"]: item for item in json.loads(out)["checks"]}
    assert checks["Python"]["status"] == "ok"
    assert "no stack runs at" in checks["stack"]["found"]
    assert all(item["remedy"] for item in checks.values() if item["status"] != "ok")
    assert code == (1 if any(item["status"] == "fail" for item in checks.values()) else 0)
    assert not (tmp_path / "home").exists()


def test_doctor_asks_every_service(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    services.answers["GetCluster"] = fails(errors.FailedPrecondition("no cluster", reason="NO_CLUSTER"))
    services.answers["ListOperations"] = fails(errors.Unavailable("object storage is down", reason="STORE_DOWN"))
    code, out, _ = run("doctor", "--home", tmp_path, "--output", "json", "--address", services.address)
    checks = json.loads(out)["checks"][-9:-1]
    assert [item["status"] for item in checks] == ["ok", "fail"] * 4
    assert code == 1
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    out = run("doctor", "--home", tmp_path, "--address", services.address)[1]
    assert "FAIL" not in "\n".join(line for line in out.splitlines() if "object storage" in line)


def test_doctor_can_leave_this_machine_out(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    services.answers["GetCluster"] = fails(errors.FailedPrecondition("no cluster", reason="NO_CLUSTER"))
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    code, out, _ = run("doctor", "--services", "--output", "json", "--address", services.address)
    names = [item["name"] for item in json.loads(out)["checks"]]
    assert code == 0 and len(names) == 9
    assert names[0].startswith("adapter-training (") and names[-1] == "Kubernetes"


def test_doctor_waits_for_services_that_start(
    services: fake.FakeServices, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ASK_AGAIN_S", 0.0)
    services.answers["GetCluster"] = fails(errors.FailedPrecondition("no cluster", reason="NO_CLUSTER"))
    asked = []

    def starting(request: Any, context: Any) -> operations_pb2.ListOperationsResponse:
        asked.append(request)
        if len(asked) < 5:
            raise errors.Unavailable("object storage is down", reason="STORE_DOWN")
        return operations_pb2.ListOperationsResponse()

    services.answers["ListOperations"] = starting
    assert run("doctor", "--services", "--wait", "60", "--address", services.address)[0] == 0
    assert len(asked) == 8


def checks_of_the_cluster(run: Run, tmp_path: Path) -> list[tuple[str, str, str]]:
    code, out, _ = run("doctor", "--home", tmp_path, "--output", "json", "--address", os.environ["SYNTHMIX_ADDRESS"])
    checks = json.loads(out)["checks"]
    assert code == (1 if any(item["status"] == "fail" for item in checks) else 0)
    last_service = max(index for index, item in enumerate(checks) if item["name"] == "  its object storage")
    found = checks[last_service + 1 :]
    assert all(bool(item["remedy"]) == (item["status"] != "ok") for item in found)
    return [(item["status"], item["name"], item["found"]) for item in found]


def test_doctor_on_a_single_machine_is_content(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    services.answers["GetCluster"] = fails(errors.FailedPrecondition("no cluster", reason="NO_CLUSTER"))
    assert checks_of_the_cluster(run, tmp_path) == [("ok", "Kubernetes", "not used: the workers run on one machine")]


def test_doctor_on_a_cluster(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    services.answers["GetCluster"] = lambda request, context: CLUSTER
    assert checks_of_the_cluster(run, tmp_path) == [
        ("ok", "Kubernetes' GPUs", "8 on 1 of 2 GPU nodes (NVIDIA-A100-SXM4-40GB)"),
        ("ok", "Ray", "its head is ready"),
        ("warn", "  workers of adapter-training", "0 of 1 workers ready, 1 to 2 allowed"),
        ("ok", "  workers of image-synthesis", "2 of 2 workers ready, 0 to 8 allowed"),
        ("warn", "  workers of classifier-evaluation", "0 of 0 workers ready, 0 to 0 allowed"),
    ]


def test_doctor_on_a_cluster_whose_ray_does_not_run(
    services: fake.FakeServices, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ASK_AGAIN_S", 0.01)
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    services.answers["GetCluster"] = lambda request, context: clusters_pb2.Cluster(ray_problem="its image isn't there")
    assert checks_of_the_cluster(run, tmp_path)[1:] == [("fail", "Ray", "its image isn't there")]
    assert run("cluster")[1].startswith("warning: its image isn't there\n\n")
    services.answers["GetCluster"] = fails(errors.FailedPrecondition("no RayCluster", reason="RAY_CLUSTER_NOT_FOUND"))
    assert checks_of_the_cluster(run, tmp_path) == [("fail", "Ray", "no RayCluster")]
    asked: list[clusters_pb2.GetClusterRequest] = []

    def starting(request: clusters_pb2.GetClusterRequest, context: object) -> clusters_pb2.Cluster:
        asked.append(request)
        return clusters_pb2.Cluster(ray_problem="its head starts" if len(asked) < 3 else "")

    services.answers["GetCluster"] = starting
    assert run("doctor", "--services", "--wait", "60", "--address", services.address)[0] == 0
    assert len(asked) == 3


def test_doctor_on_a_cluster_that_gives_no_gpus(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    services.answers["ListOperations"] = lambda request, context: operations_pb2.ListOperationsResponse()
    group = clusters_pb2.WorkerGroup(name="image-synthesis", max_workers=1, gpus_per_worker=1)
    services.answers["GetCluster"] = lambda request, context: clusters_pb2.Cluster(worker_groups=[group])
    assert checks_of_the_cluster(run, tmp_path)[0] == ("warn", "Kubernetes' GPUs", "0 on 0 of 0 GPU nodes")
    services.answers["GetCluster"] = lambda request, context: clusters_pb2.Cluster(warnings=["no right"])
    assert checks_of_the_cluster(run, tmp_path)[0] == ("warn", "Kubernetes' GPUs", "no right")
    services.answers["GetCluster"] = fails(errors.FailedPrecondition("no right", reason="RBAC_RIGHT_MISSING"))
    assert checks_of_the_cluster(run, tmp_path) == [("warn", "Kubernetes", "no right")]
    services.answers["GetCluster"] = fails(errors.Unimplemented("unknown method"))
    assert checks_of_the_cluster(run, tmp_path)[0][:2] == ("warn", "Kubernetes")


def test_doctors_eye_for_little() -> None:
    assert doctor.amount("memory", 8 * doctor.GIB, 4 * doctor.GIB, doctor.GIB, "r").status == "ok"
    assert doctor.amount("memory", 2 * doctor.GIB, 4 * doctor.GIB, doctor.GIB, "r").status == "warn"
    assert doctor.amount("memory", doctor.GIB // 2, 4 * doctor.GIB, doctor.GIB, "r").status == "fail"


def test_doctor_misses_what_the_distribution_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["grpcio>=1", 'no-such-package[x]>=1; extra == "local"', 'nor-this; extra == "dev"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: required)
    [_, client, stack, *_] = doctor.machine(Path())
    assert (client.status, client.found.split()[0]) == ("ok", "grpcio")
    assert (stack.status, stack.found) == ("warn", "missing: no-such-package")


# Progress


def step(name: str, state: str, done: int, total: int, unit: str, reused: int = 0) -> progress_pb2.Step:
    return progress_pb2.Step(display_name=name, state=state, done=done, total=total, unit=unit, reused=reused)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_rate_counts_only_what_was_seen_to_grow() -> None:
    rate = Rate()
    assert rate.per_second(0.0) is None
    rate.observe(0.0, 1000)  # reused, or done before we came
    assert rate.per_second(5.0) is None
    rate.observe(10.0, 1100)
    assert rate.per_second(10.0) == 10.0
    assert rate.per_second(20.0) == 5.0, "it falls while nothing happens"
    rate.observe(20.0, 900)  # a new attempt began at a checkpoint
    assert rate.per_second(21.0) is None


def test_lines_say_what_changed_and_what_goes_on() -> None:
    clock, stream = Clock(), io.StringIO()
    show = Lines(stream, clock)
    grid = step("grid", "STATE_UNSPECIFIED", 0, 18, "trials")
    show([step("adapter", "STATE_RUNNING", 0, 100, "images seen", 20), grid], "")
    for second in range(1, 26):
        clock.now_s = second
        show([step("adapter", "STATE_RUNNING", 2 * second, 100, "images seen", 20), grid], "")
    clock.now_s = 30
    show([step("adapter", "STATE_SUCCEEDED", 100, 100, "images seen", 20), grid], "")
    assert stream.getvalue().splitlines() == [
        "    0 s  adapter: running, 0/100 images seen, 20 reused",
        "   10 s  adapter: running, 20/100 images seen, 2.0/s, 40 s left, 20 reused",
        "   20 s  adapter: running, 40/100 images seen, 2.0/s, 30 s left, 20 reused",
        "   30 s  adapter: done, 100/100 images seen, 20 reused",
    ]


def shown(bars: Bars, width: int = 110, height: int = 24) -> list[str]:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(bars)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def words(lines: list[str]) -> list[str]:
    """Without bars, and with the same gap everywhere."""
    return [re.sub(r"[━╸╺\s]{2,}", "  ", line) for line in lines]


def test_bars_show_every_step() -> None:
    clock = Clock()
    bars = Bars(clock)
    grid = step("grid", "STATE_UNSPECIFIED", 0, 18, "trials")
    bars([step("adapter", "STATE_RUNNING", 0, 100, "images seen"), grid], "")
    clock.now_s = 10
    bars([step("adapter", "STATE_RUNNING", 50, 100, "images seen"), grid], "training")
    assert shown(bars) == [
        "adapter  ━━━━━━━━          50/100 images seen  5.0/s  10 s left",
        "grid                              0/18 trials         waiting",
        "10 s  training",
    ]


def many(
    kind: str, total: int, unit: str, *, done: int = 0, running: Sequence[int] = (), failed: int = 0, reused: int = 0
) -> list[progress_pb2.Step]:
    """Forty steps of a kind: so many that are done, then those that run with what they have done, then the failed."""
    states = ["STATE_SUCCEEDED"] * done + ["STATE_RUNNING"] * len(running) + ["STATE_FAILED"] * failed
    progress = [total] * done + [*running]
    return [
        progress_pb2.Step(
            display_name=f"{kind} rank {number}",
            target=f"{kind}/{number:032x}",
            state=states[number] if number < len(states) else "STATE_QUEUED",
            done=progress[number] if number < len(progress) else 0,
            total=total,
            unit=unit,
            reused=total if number < reused else 0,
        )
        for number in range(40)
    ]


def test_many_steps_of_a_kind_are_one_row_with_a_rate_by_all_that_is_done_of_them() -> None:
    clock = Clock()
    bars = Bars(clock)
    grid = step("grid", "STATE_QUEUED", 0, 480, "trials")
    sets = many("image-sets", 720, "images")
    bars([*many("adapters", 100, "images seen", done=10, running=[0, 0], reused=10), *sets, grid], "")
    clock.now_s = 60
    adapters = many("adapters", 100, "images seen", done=11, running=[50, 50], reused=10)
    bars([*adapters, *sets, grid], "adapters rank 39")
    assert words(shown(bars)) == [
        "adapters  11/40 done, 2 running, 27 queued  2.0/min  14 min 0 s left, 10 reused",
        "image sets  0/40 done, 40 queued",
        "grid  0/480 trials  queued",
        "1 min 0 s",
    ]
    bars([*adapters[:4], sets[0], grid], "adapters rank 39")
    assert [line.split("  ")[0] for line in shown(bars)] == [
        *(f"adapters rank {number}" for number in range(4)),
        "image-sets rank 0",
        "grid",
        "1 min 0 s",
    ], "few have a row each, as has one alone"


def test_what_failed_of_many_is_named() -> None:
    bars = Bars(Clock())
    bars([*many("adapters", 100, "images seen", done=10, running=[7], failed=5), *many("image-sets", 9, "images")], "")
    assert words(shown(bars)) == [
        "adapters  10/40 done, 1 running, 24 queued, 5 failed",
        "adapters rank 11  0/100 images seen  failed",
        "adapters rank 12  0/100 images seen  failed",
        "adapters rank 13  0/100 images seen  failed",
        "image sets  0/40 done, 40 queued",
        "0 s",
    ]


def test_bars_fit_the_terminal() -> None:
    clock = Clock()
    bars = Bars(clock)
    sets, grid = many("image-sets", 720, "images", running=[300]), step("grid", "STATE_QUEUED", 0, 480, "trials")
    bars([*many("adapters", 100, "images seen", done=5, running=[0, 0]), *sets, grid], "")
    clock.now_s = 60
    bars([*many("adapters", 100, "images seen", done=6, running=[50, 50]), *sets, grid], "")
    assert shown(bars, width=80) == [
        "adapters    ━         6/40 done, 2 running, 32 queued  2.0/min  16 min 30 s left",
        "image sets            0/40 done, 1 running, 39 queued",
        "grid                                     0/480 trials           queued",
        "1 min 0 s",
    ], "bars give way first"
    assert shown(bars, width=50) == [
        "adapters: 6/40 done, 2 running, 32 queued,",
        "2.0/min, 16 min 30 s left",
        "image sets: 0/40 done, 1 running, 39 queued",
        "grid: queued, 0/480 trials",
        "1 min 0 s",
    ]
    long = "adapter of attention and feedforward, rank 16, learning rate 0.0001"
    bars([step(long, "STATE_QUEUED", 0, 100, "images seen")], "")
    assert words(shown(bars, width=80)) == [
        "adapter of attention and feedforward, rank 16,  0/100 images seen  queued",
        "learning rate 0.0001",
        "1 min 0 s",
    ]
    bars([*many("adapters", 100, "images seen")[:4], *sets[:4], grid], "")
    assert len(shown(bars, height=10)) == 10
    assert [line.split("  ")[0] for line in shown(bars, height=9)] == ["adapters", "image sets", "grid", "1 min 0 s"]


def test_what_a_step_waits_for_is_said_instead_of_running() -> None:
    clock, stream = Clock(), io.StringIO()
    bars, lines = Bars(clock), Lines(stream, clock)
    grid = step("grid", "STATE_RUNNING", 0, 18, "trials")
    adapter = step("adapter", "STATE_QUEUED", 0, 100, "images seen")
    adapter.message = "waiting for a worker"
    for second, message in enumerate(["training classifiers"] * 10 + ["waiting for 2 image sets"] * 11):
        clock.now_s, grid.message, grid.done = second, message, min(9, second)
        for show in (bars, lines):
            show([adapter, grid], "")
    assert words(shown(bars)) == [
        "adapter  0/100 images seen  waiting for a worker",
        "grid  9/18 trials  waiting for 2 image sets",
        "20 s",
    ]
    assert stream.getvalue().splitlines() == [
        "    0 s  grid: running, 0/18 trials",
        "   10 s  grid: waiting for 2 image sets, 9/18 trials",
        "   20 s  grid: waiting for 2 image sets, 9/18 trials",
    ]


def test_a_step_that_waits_again_and_again_has_no_line_each_time() -> None:
    clock, stream = Clock(), io.StringIO()
    show = Lines(stream, clock)
    for second in range(25):
        clock.now_s = second
        state = "STATE_RUNNING" if second % 2 == 0 else "STATE_QUEUED"
        show([step("grid", state, second, 100, "trials")], "")
    assert [line.split(", ")[:2] for line in stream.getvalue().splitlines()] == [
        ["    0 s  grid: running", "0/100 trials"],
        ["   10 s  grid: running", "10/100 trials"],
        ["   20 s  grid: running", "20/100 trials"],
    ]


def test_many_steps_are_a_line_now_and_then() -> None:
    clock, stream = Clock(), io.StringIO()
    show = Lines(stream, clock)
    for second in range(401):  # two at a time, ten seconds each; nothing happens from 95 s to 295 s
        clock.now_s = second
        worked = second if second < 95 else max(95, second - 200)
        done, rest = divmod(worked, 10)
        show(many("adapters", 10, "images seen", done=2 * done, running=[rest, rest] if done < 20 else []), "")
    lines = stream.getvalue().splitlines()
    assert lines[:3] == [
        "    0 s  adapters: 0/40 done, 2 running, 38 queued",
        "   10 s  adapters: 2/40 done, 2 running, 36 queued, 12.0/min, 3 min 10 s left",
        "   20 s  adapters: 4/40 done, 2 running, 34 queued, 12.0/min, 3 min 0 s left",
    ]
    assert lines[-1] == "  400 s  adapters: 40/40 done"
    assert len(lines) == 23, "none while nothing changes"
    stream = io.StringIO()
    show = Lines(stream, clock)
    show(many("adapters", 10, "images seen"), "")
    assert not stream.getvalue(), "what waits is not said to run"
    show(many("adapters", 10, "images seen", done=40, reused=40), "")
    show(many("image-sets", 10, "images", done=1, running=[4], failed=1), "")
    assert [line[9:] for line in stream.getvalue().splitlines()] == [
        "adapters: 40/40 done, 40 reused",
        "image sets: 1/40 done, 1 running, 37 queued, 1 failed",
        "image-sets rank 2: failed, 0/10 images",
    ]


def test_many_steps_of_unlike_units_are_counted_whole() -> None:
    steps = many("adapters", 100, "images seen", done=10, running=[50])
    steps[20].unit = "epochs"
    [row] = rows_of(steps)
    assert (row.done, row.total, row.count) == (10, 40, "10/40 done, 1 running, 29 queued")
    assert rows_of(many("adapters", 0, "images seen", done=10))[0].total == 40


def test_what_is_shown_of_operations_and_transfers() -> None:
    seen: list[tuple[list[progress_pb2.Step], str]] = []
    show = shown_operation(lambda steps, message: seen.append((list(steps), message)))
    grid = progress_pb2.Step(display_name="grid", state="STATE_SUCCEEDED", done=18, total=18, unit="trials", reused=15)
    show(progress_pb2.OperationMetadata(steps=[grid], message="comparing"))
    show(progress_pb2.OperationMetadata(target="adapters/x", state="STATE_QUEUED"))
    assert seen == [([grid], "comparing"), ([step("adapters/x", "STATE_QUEUED", 0, 0, "")], "")]
    seen.clear()
    transferred = shown_transfer(lambda steps, message: seen.append((list(steps), message)))
    transferred(Transfer("uploading", 1, 2, "bytes"))
    transferred(Transfer("uploading", 2, 2, "bytes"))
    assert [steps[0].state for steps, _ in seen] == [progress_pb2.STATE_RUNNING, progress_pb2.STATE_SUCCEEDED]


def test_what_an_operation_finds_on_the_way_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    show = shown_operation(lambda steps, message: None, told=["simulated"])
    for warnings in ([], ["simulated", "no colour"], ["simulated", "no colour"], ["no colour", "blur"]):
        show(progress_pb2.OperationMetadata(warnings=warnings))
    assert capsys.readouterr().err == "warning: no colour\nwarning: blur\n"


# Words for numbers


def test_other_words_for_numbers() -> None:
    assert [human_rate(rate, "trials") for rate in (1234.0, 14.2, 0.05, 0.001)] == [
        "1234/s",
        "14.2/s",
        "3.0/min",
        "3.6/h",
    ]
    assert human_rate(2.5 * 1024**2, "bytes") == "2.5 MiB/s"
    assert human_count(step("r", "STATE_RUNNING", 1024, 2048, "bytes")) == "1 KiB/2 KiB"
    assert human_time(Timestamp()) == "-"
    assert (shortened("a long verdict", 7), shortened("verdict", 7)) == ("a long…", "verdict")
    assert [listed([]), listed(["a", "b"], 2), listed(["a", "b", "c"], 2)] == ["none", "a, b", "a, b and 1 more"]
    assert table(("A", "BB"), [("aaa", 1)], right=("BB",)) == "A    BB\naaa   1"
    assert outcomes.of_outcome(errors.NotFound("x")) == 1


# Deleting


GONE = artifacts_pb2.Deletion(
    deleted=[
        artifacts_pb2.DeletedResource(name=fake.STUDY, size_bytes=1024),
        artifacts_pb2.DeletedResource(name=f"image-sets/{fake.ID}", size_bytes=2048),
        artifacts_pb2.DeletedResource(name=f"image-sets/{fake.ID[::-1]}", size_bytes=0),
    ],
    size_bytes=3072,
    payloads_expire_time=Timestamp(seconds=1_800_000_000),
)
DELETIONS = {
    "datasets": "DeleteDataset",
    "models": "DeleteBaseModel",
    "studies": "DeleteStudy",
    "adapters": "DeleteAdapter",
    "images": "DeleteImageSet",
    "evaluations": "DeleteEvaluation",
}


@pytest.mark.parametrize("group", DELETIONS)
def test_delete_says_what_went(group: str, services: fake.FakeServices, run: Run) -> None:
    services.answers[DELETIONS[group]] = lambda request, context: GONE
    code, out, err = run(group, "delete", fake.ID, "--cascade", "--yes")
    time = human_time(GONE.payloads_expire_time)
    assert (code, out) == (0, f"deleted 1 study, 2 image sets, 3 KiB; the files go after {time}\n")
    [request] = services.requests[DELETIONS[group]]
    assert (request.force, request.validate_only) == (True, False)
    assert err == ""


def test_delete_as_json(services: fake.FakeServices, run: Run) -> None:
    services.answers["DeleteStudy"] = lambda request, context: GONE
    code, out, _ = run("studies", "delete", "demo", "--yes", "--output", "json")
    assert code == 0
    assert [item["name"] for item in json.loads(out)["deleted"]] == [item.name for item in GONE.deleted]


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_delete_asks_who_watches(
    answer: str, code: int, services: fake.FakeServices, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.answers["DeleteStudy"] = lambda request, context: GONE
    monkeypatch.setattr(deletion, "somebody_watches", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    found, out, err = run("studies", "delete", "demo")
    assert found == code
    assert f"\n  {fake.STUDY}, 1 KiB\n" in err
    assert [request.validate_only for request in services.requests["DeleteStudy"]] == [True, False][: 2 - code]
    assert out.startswith("deleted") if code == 0 else "nothing was deleted" in err


def test_delete_without_anybody_to_ask_wants_yes(services: fake.FakeServices, run: Run) -> None:
    services.answers["DeleteStudy"] = lambda request, context: GONE
    code, _, err = run("studies", "delete", "demo")
    assert code == 2
    assert "pass --yes" in err
    assert [request.validate_only for request in services.requests["DeleteStudy"]] == [True]


def test_delete_says_what_it_leaves(services: fake.FakeServices, run: Run) -> None:
    gone = artifacts_pb2.Deletion(deleted=[GONE.deleted[0]], unneeded=[f"adapters/{fake.ID}"])
    services.answers["DeleteStudy"] = lambda request, context: gone
    _, out, _ = run("studies", "delete", "demo", "--yes")
    assert "nothing else refers to 1 adapter that it used: --cascade deletes them as well" in out


def test_delete_is_refused_in_the_services_words(services: fake.FakeServices, run: Run) -> None:
    services.answers["DeleteAdapter"] = fails(
        errors.FailedPrecondition(f"adapters/x is used{errors.listing([fake.STUDY])}", reason="STILL_REFERENCED")
    )
    code, _, err = run("adapters", "delete", fake.ID)
    assert (code, err) == (1, f"error: adapters/x is used\n  {fake.STUDY}\n")


# Base models


MODEL = base_models_pb2.BaseModel(
    name=f"models/{fake.ID}",
    display_name="tiny",
    display_names=["mini", "tiny"],
    source="lab/tiny@0123",
    image_size=64,
    size_bytes=3 << 20,
    requested_by=["local"],
    requested_by_me=True,
)


def test_models_are_listed_by_each_of_their_names(services: fake.FakeServices, run: Run) -> None:
    answer = base_models_pb2.ListBaseModelsResponse(base_models=[MODEL, base_models_pb2.BaseModel(name="models/x")])
    services.answers["ListBaseModels"] = lambda request, context: answer
    code, out, _ = run("models", "list")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["NAME", "MODEL", "SOURCE", "PIXELS", "SIZE", "CREATED"]
    assert [line[0] for line in lines[1:]] == ["mini", "tiny", "models/x"]
    assert lines[1][1:6] == [MODEL.name, MODEL.source, "64", "3", "MiB"]


def test_a_model_is_shown_by_its_name(services: fake.FakeServices, run: Run) -> None:
    services.answers["GetBaseModel"] = lambda request, context: MODEL
    code, out, _ = run("models", "show", "tiny")
    assert code == 0
    assert "source: lab/tiny@0123" in out and "requested_by" not in out
    [request] = services.requests["GetBaseModel"]
    assert request.name == "models/tiny"


def test_an_imported_model_is_told_as_a_study_names_it(services: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    plan = base_models_pb2.BaseModelPlan(target=MODEL.name, done=True, checked=True)
    services.answers["CreateBaseModel"] = lambda request, context: fake.operation(
        fake.ADAPTER_OPERATION, response=plan if request.validate_only else MODEL
    )
    services.answers["GetBaseModel"] = lambda request, context: MODEL
    code, out, _ = run("models", "import", tmp_path, "--name", "tiny", "--replace")
    assert code == 0
    assert out == (
        "lab/tiny@0123: 3 MiB, for images of 64 pixels\n"
        f"{MODEL.name}\n"
        "a study or an adapter names it by `base_model: models/tiny`\n"
    )
    requests = services.requests["CreateBaseModel"]
    assert {(item.base_model.display_name, item.replace_display_name) for item in requests} == {("tiny", True)}
    assert "UploadFile" not in services.requests


# Removing images


LEFT = datasets_pb2.Dataset(name=f"datasets/{fake.ID}", display_name="cells", image_count=21, group_count=5)


@pytest.fixture
def cells(services: fake.FakeServices) -> fake.FakeServices:
    """A dataset of 24 images, of which a study was made."""
    services.answers["GetDataset"] = lambda request, context: datasets_pb2.Dataset(name="datasets/x", image_count=24)
    services.answers["DeleteDataset"] = lambda request, context: GONE
    services.answers["DeleteDatasetImages"] = lambda request, context: fake.operation("o", response=LEFT)
    return services


def test_images_are_removed(cells: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    (tmp_path / "withdrawn.txt").write_text("alpha/b.png\n\n  alpha/c.png \n")
    command = ["datasets", "remove-images", "cells", "--image", "alpha/a.png", "--group", "patient-7", "--now", "--yes"]
    code, out, err = run(*command, "--cascade", "--from-file", str(tmp_path / "withdrawn.txt"))
    assert code == 0
    assert f"deleted 1 study, 2 image sets\n  {fake.STUDY}\n" in err, "what was made from it is named"
    assert out.startswith("cells: 21 images in 5 groups")
    [request] = cells.requests["DeleteDatasetImages"]
    assert list(request.images) == ["alpha/a.png", "alpha/b.png", "alpha/c.png"]
    assert list(request.groups) == ["patient-7"]
    assert (request.name, request.force, request.skip_grace_period, request.validate_only) == (
        "datasets/cells",
        True,
        True,
        False,
    )


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_removing_images_shows_what_goes_and_asks(
    answer: str, code: int, cells: fake.FakeServices, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "somebody_watches", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    found, _, err = run("datasets", "remove-images", "cells", "--image", "a.png", "--cascade")
    assert found == code
    assert f"this removes 3 images of 24 from cells, which becomes {LEFT.name}" in err
    assert f"\n  {fake.STUDY}, 1 KiB\n" in err
    assert [item.validate_only for item in cells.requests["DeleteDatasetImages"]] == [True, False][: 2 - code]
    assert [(item.force, item.validate_only) for item in cells.requests["DeleteDataset"]] == [(True, True)]
    assert ("nothing was removed" in err) == (code == 1)


def test_a_list_of_images_that_is_no_text(cells: fake.FakeServices, run: Run, tmp_path: Path) -> None:
    (tmp_path / "withdrawn.txt").write_bytes(b"alpha/\xff.png")
    code, _, err = run("datasets", "remove-images", "cells", "--from-file", str(tmp_path / "withdrawn.txt"), "--yes")
    assert code == 2
    assert "is not UTF-8 text (byte 6); give one image a line" in err


def test_a_sweep_says_what_it_took(services: fake.FakeServices, run: Run) -> None:
    swept = artifacts_pb2.SweptObjects(kind="adapters", count=3, size_bytes=2048)
    services.answers["Sweep"] = lambda request, context: artifacts_pb2.SweepResponse(swept=[swept])
    for option in ([], ["--dry-run"]):
        code, out, _ = run("sweep", *option)
        assert code == 0
        assert out.splitlines()[1].split() == ["adapters", "3", "2", "KiB"]
    assert [request.validate_only for request in services.requests["Sweep"]] == [False, True]


def test_a_plans_table_has_what_is_known_of_some_steps_alone() -> None:
    def step(name: str, **known: float) -> studies_pb2.PlannedStep:
        quantities = [progress_pb2.Quantity(name=key.replace("_", " "), value=value) for key, value in known.items()]
        return studies_pb2.PlannedStep(display_name=name, plan=progress_pb2.Plan(quantities=quantities))

    plan = studies_pb2.StudyPlan(
        steps=[step("plain", parameters=1200), step("tokens", parameters=1300, class_tokens=6), step("images")]
    )
    lines = [line.split() for line in plan_text(plan).splitlines()]
    assert ["STEP", "PARAMETERS", "CLASS", "TOKENS"] in lines
    assert ["plain", "1,200", "-"] in lines
    assert ["tokens", "1,300", "6"] in lines
