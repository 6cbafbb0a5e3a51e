"""What the command line prints for every error that there is: the sentence, the remedy, then what they speak of."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memory_object_store import MemoryObjectStore
from raised_errors import FILES, Raised, raised_errors
from synthmix.api.datasets.v1 import datasets_pb2
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli.output import error_text, print_error
from synthmix.client.study_file import Document, parse_document
from synthmix.examples.simulated_cells import SimulatedCellsSettings, write_simulated_dataset
from synthmix.image_data.sources.problems import refused_files
from synthmix.service_kit import errors
from synthmix.service_kit.errors import (
    FieldViolation,
    InvalidArgument,
    SynthMixError,
    from_status,
    invalid_field,
    missing_field,
    to_status,
)
from synthmix.study_control.image_import import groups

RAISED = raised_errors()
# Whose sentences are put together elsewhere, or whose remedy the caller adds, as EXAMPLES show.
# CHANGE_REFUSED repeats the API server, which says what it allows.
ELSEWHERE = {"SEVERAL_FIELDS", "FILE_INVALID", "SIMULATION_INVALID", "OBJECT_NOT_FOUND", "CHANGE_REFUSED"}


def raised_by(act: Callable[[], object]) -> SynthMixError:
    with pytest.raises(SynthMixError) as caught:
        act()
    return caught.value


def several(*found: InvalidArgument) -> SynthMixError:
    problems = errors.Problems()
    problems.found += found
    return raised_by(problems.raise_if_any)


def unmatched() -> SynthMixError:
    images: Any = [SimpleNamespace(path=path, group=None) for path in FILES]
    rule = datasets_pb2.GroupRule(pattern=r"chip-(?P<group>\d+)")
    return raised_by(lambda: groups.groups_of(images, rule))


def simulated(tmp_path: Path) -> SynthMixError:
    with pytest.raises(ValueError, match="chips") as caught:
        write_simulated_dataset(tmp_path, SimulatedCellsSettings(chips=0))
    return InvalidArgument(str(caught.value), reason="SIMULATION_INVALID")


def check_printed(text: str) -> list[str]:
    """What holds of every printed error; returns its lines."""
    lines = text.splitlines()
    assert lines[0].startswith("error: ")
    for line in lines:
        assert line.startswith(("error: ", "  ")), line
        assert line.strip() not in FILES or line.startswith("  ")
        assert line == line.rstrip()
        assert len(line.removeprefix("error: ").strip()) > 2
    assert len(set(lines)) == len(lines), "a line is said twice"
    assert "Traceback" not in text
    assert not re.search(r"\bNone\b|<class ", text)
    assert text.isprintable() or "\n" in text
    return lines


def says_a_remedy(sentence: str) -> bool:
    """A second part behind the fault: what to do, or a question that leads there."""
    return bool(re.search(r"; \S|\?$|\? \S", sentence)) and len(sentence.split()) > 4


@pytest.mark.parametrize("raised", RAISED, ids=lambda item: f"{item.reason}-{item.place}")
def test_every_error_is_printed_whole(raised: Raised, capsys: pytest.CaptureFixture[str]) -> None:
    assert raised.error is not None, f"{raised.place}: write it so that its message can be read from the source"
    print_error(argparse.Namespace(output="text"), raised.error)
    printed = capsys.readouterr().err
    assert printed == error_text(raised.error) + "\n"
    [sentence, *rest] = check_printed(printed.rstrip("\n"))
    for line in raised.error.message.splitlines():  # "seeds is required" is printed as "seeds: is required"
        assert line.strip().replace(": ", " ") in printed.replace(": ", " ")
    if raised.reason not in ELSEWHERE:
        assert says_a_remedy(sentence), f"{raised.place}: {sentence!r} has no remedy"
        assert all(line.startswith("  ") for line in rest)
    assert len(sentence) < 600

    print_error(argparse.Namespace(output="json"), raised.error)
    value = json.loads(capsys.readouterr().err)["error"]
    assert value["message"] == raised.error.message
    assert value["reason"] == raised.reason
    assert len(value["violations"]) == len(raised.error.violations)


def test_every_reason_is_seen() -> None:
    """A reason in the source that no example has would be one of which nobody saw what is printed."""
    found = set()
    for path in sorted(Path(errors.__file__).parents[1].rglob("*.py")):
        if "api" not in path.parts:
            found |= set(re.findall(r'reason(?:=|: str = )"([A-Z0-9_]+)"', path.read_text(encoding="utf-8")))
    assert len(found) > 100
    # test_pixel_kinds has every sentence of the first; the second is of a row in an account, not of an error.
    seen_elsewhere = {"IMAGE_UNSUPPORTED", "MORE"}
    assert found - {item.reason for item in RAISED} - seen_elsewhere == set()


def test_files_without_a_group_come_after_the_sentence() -> None:
    lines = check_printed(error_text(unmatched()))
    assert lines == [
        r"error: dataset.group_rule.pattern: 24 of 24 images get no group from 'chip-(?P<group>\\d+)'; "
        "change the pattern so that it matches the path of every image",
        *(f"  {name}" for name in FILES[:20]),
        "  and 4 more",
    ]


@pytest.mark.parametrize(
    ("count", "listed", "last"),
    [
        (1, 1, "  a/0.png is bad"),
        (20, 20, "  a/19.png is bad"),
        (21, 21, "  and 1 more"),
        (3000, 21, "  and 2,980 more"),
    ],
)
def test_lists_are_bounded_and_counted(count: int, listed: int, last: str) -> None:
    error = refused_files(
        "upload", "files are bad", [f"a/{number}.png is bad" for number in range(count)], "mend them", reason="BAD"
    )
    [sentence, *items] = check_printed(error_text(error))
    assert sentence == f"error: upload: {count:,} files are bad; mend them"
    assert (len(items), items[-1]) == (listed, last)
    assert error.metadata == ({"left_out": str(count - 20)} if count > 20 else {})
    back = errors.from_json(errors.to_json(error))  # as an operation's record keeps it
    assert error_text(back) == error_text(error)
    assert str(back) == error.message


@pytest.mark.parametrize(
    "name",
    [
        "\x1b[31mred",
        "two\nlines",
        "tab\tname",
        "x" * 5000,
        "caf\udce9.png",
        "\u202egnp.exe",
        "emoji \U0001f9ec",
        "a\0b",
    ],
)
def test_a_hostile_file_name_stays_in_its_line(name: str) -> None:
    error = refused_files("upload", "files are bad", [name, "b.png"], "mend them", reason="BAD")
    lines = check_printed(error_text(error))
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) < 250 for line in lines)


def placed(text: str, error: SynthMixError) -> list[str]:
    document: Document[studies_pb2.StudySpec] = parse_document(text, studies_pb2.StudySpec, "study.yaml")
    return check_printed(error_text(document.locate(error)))


def test_each_of_several_faults_has_its_sentence_and_its_place() -> None:
    error = several(
        invalid_field("spec.seeds", 0, "is out of range", "use 1 to 100"),
        InvalidArgument("the hub is away; try again", reason="AWAY"),  # without a field
        missing_field("spec.dataset", "name one"),
        InvalidArgument(
            "class a has 2 groups; add some", reason="SMALL", violations=[FieldViolation("split", "has 2")]
        ),
        refused_files("spec.name", "files are bad", ["a.png", "b.png"], "mend them", reason="BAD"),
    )
    assert placed("name: a\nseeds: 0\nsplit: {test: 0.2}\n", error) == [
        "error: study.yaml:2: spec.seeds: 0 is out of range; use 1 to 100",
        "error: the hub is away; try again",
        "error: study.yaml: spec.dataset: is required; name one",
        "error: class a has 2 groups; add some",
        "error: spec.name: 2 files are bad; mend them",
        "  a.png",
        "  b.png",
    ]


def test_one_fault_of_one_field_is_one_line() -> None:
    assert placed("name: a\nseeds: 0\n", invalid_field("spec.seeds", 0, "is out of range", "use 1 to 100")) == [
        "error: study.yaml:2: spec.seeds: 0 is out of range; use 1 to 100"
    ]


def test_what_the_message_does_not_say_follows_it() -> None:
    error = InvalidArgument(
        "the request can't be carried out; mend it",
        reason="BAD",
        violations=[
            FieldViolation("spec.seeds", "is 0"),
            FieldViolation("spec.name", "is empty"),
            FieldViolation("", "x"),
        ],
    )
    assert placed("name: a\nseeds: 0\n", error) == [
        "error: the request can't be carried out; mend it",
        "  study.yaml:2: spec.seeds: is 0",
        "  study.yaml:1: spec.name: is empty",
        "  study.yaml: x",
    ]


def test_the_faults_of_a_file_have_a_line_each() -> None:
    text = "nmae: a\nseeds: x\nmixtures: [1]\nsplit: {test: 50%, tset: 1}\n"
    error = raised_by(lambda: parse_document(text, studies_pb2.StudySpec, "study.yaml"))
    lines = check_printed(error_text(error))
    assert [line.split(": ")[1] for line in lines] == [f"study.yaml:{number}" for number in (1, 2, 3, 4, 4)]


def test_a_simulation_that_cannot_be(tmp_path: Path) -> None:
    assert check_printed(error_text(simulated(tmp_path))) == ["error: chips is 0: use 1 to 99"]


def test_what_object_storage_has_not() -> None:
    error = raised_by(lambda: MemoryObjectStore.created().get_bytes("datasets/x"))
    assert check_printed(error_text(error)) == ["error: object storage has no datasets/x"]


def test_a_message_without_words_prints_its_reason() -> None:
    assert error_text(SynthMixError("", reason="UNKNOWN")) == "error: UNKNOWN"


@pytest.mark.parametrize("count", [20, 3000])
def test_a_list_that_is_cut_on_the_wire_ends_with_how_many_more(count: int) -> None:
    names = [
        f"plate-{number:04d}/a-rather-long-folder-of-its-own/well-{number:04d}_field-03_channel-01.tif"
        for number in range(count)
    ]
    error = refused_files("dataset.group_rule.pattern", "images get no group", names, "change the pattern", reason="X")
    lines = error_text(from_status(to_status(error))).splitlines()
    assert lines[0] == f"error: dataset.group_rule.pattern: {count:,} images get no group; change the pattern"
    assert lines[1:-1] == [f"  {name}" for name in names[: len(lines) - 2]]
    assert lines[-1] == f"  and {count - (len(lines) - 2):,} more"
    assert from_status(to_status(error)).message == from_status(to_status(from_status(to_status(error)))).message
