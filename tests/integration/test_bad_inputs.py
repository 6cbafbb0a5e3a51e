"""Bad input through the command line and a real stack: a clear sentence, an exit code, and nothing half-written.

What the services say of bad requests is in tests/unit/test_bad_requests.py and test_bad_datasets.py.
"""

import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from image_archives import plates
from studies import FEW, reduced_value
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli import exit_codes
from synthmix.local import Connection
from synthmix.service_kit import open_operations
from synthmix.service_kit.environment import SERVICES
from synthmix.service_kit.object_store import ObjectStore
from synthmix.service_kit.operation_records import find_result, read_record
from synthmix.service_kit.resource_names import COLLECTIONS, OperationName

DATASET = FEW
BY_PLATE = r"(?P<group>plate-\d+)"
NO_ID = "0" * 32
# What an error must leave as it was: artifacts, and the names that people gave to some.
KEPT = (*(f"{collection}/" for collection in COLLECTIONS), "dataset-names/", "model-names/", "study-names/")


def unfinished(store: ObjectStore) -> list[OperationName]:
    opened = [name for service in SERVICES for name in open_operations.names(store, service)]
    return [name for name in opened if find_result(store, read_record(store, name)) is None]


@dataclass(frozen=True)
class World:
    """What a bad input is given to: a stack with a finished study of DATASET, and an empty folder."""

    stack: Connection
    store: ObjectStore
    folder: Path

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "synthmix", "--home", str(self.stack.home), *arguments],
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def world(stack: Connection, store: ObjectStore, finished: studies_pb2.Study, tmp_path: Path) -> World:
    return World(stack, store, tmp_path)


def kept(store: ObjectStore) -> set[str]:
    return {item.key for item in store.list("") if item.key.startswith(KEPT)}


def study_yaml(world: World, **changes: object) -> str:
    path = world.folder / "study.yaml"
    path.write_text(yaml.safe_dump(reduced_value("bad", DATASET) | changes, sort_keys=False, default_flow_style=False))
    return path.name


def zip_of(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def truncated(world: World) -> str:
    (world.folder / "images.zip").write_bytes(zip_of(plates())[:-500])
    return "images.zip"


def whole(world: World) -> str:
    (world.folder / "images.zip").write_bytes(zip_of(plates()))
    return "images.zip"


@dataclass(frozen=True)
class Command:
    """A command that must end with this exit code and say this."""

    name: str
    arguments: Callable[[World], list[str]]
    code: int
    says: tuple[str, ...]


COMMANDS = [
    Command(
        "an unknown key",
        lambda world: ["studies", "submit", study_yaml(world, seed=3)],
        exit_codes.INVALID,
        (r"study\.yaml:\d+: seed: is not a known key; did you mean `seeds`\?",),
    ),
    Command(
        "a ratio out of range, found by the server",
        lambda world: ["studies", "validate", study_yaml(world, mixtures={"ratios": [0, 0.25, 11]})],
        exit_codes.INVALID,
        (r"study\.yaml:\d+: mixtures\.ratios\[2\]: 11\.0 is out of range; use a value between 0 and 10",),
    ),
    Command(
        "an unknown method in a grid",
        lambda world: ["studies", "submit", study_yaml(world, adapters={"method": ["lora", "dorra"]})],
        exit_codes.INVALID,
        (r"study\.yaml:\d+: adapters\.method\[1\]: 'dorra' is not one of the choices; did you mean 'dora'",),
    ),
    Command(
        "an unknown dataset",
        lambda world: ["studies", "submit", study_yaml(world, dataset="sim-fwe")],
        exit_codes.NOT_FOUND,
        ("'sim-fwe'", "did you mean 'sim-few'"),
    ),
    Command(
        "a study that isn't there",
        lambda world: ["studies", "show", "nobody-wrote-this"],
        exit_codes.NOT_FOUND,
        ("'nobody-wrote-this'", "synthmix studies list"),
    ),
    Command(
        "cancelling an operation that isn't there",
        lambda world: ["operations", "cancel", f"operations/adapter-training/{NO_ID}"],
        exit_codes.NOT_FOUND,
        ("does not exist",),
    ),
    Command(
        "a truncated ZIP",
        lambda world: ["datasets", "import", truncated(world), "--name", "bad", "--group-pattern", BY_PLATE],
        exit_codes.INVALID,
        ("not a whole ZIP archive", "pack and upload it again"),
    ),
    Command(
        "a pattern that no image has: the sentence, the remedy, then the files",
        lambda world: ["datasets", "import", whole(world), "--name", "bad", "--group-pattern", r"(?P<group>chip-\d+)"],
        exit_codes.INVALID,
        (
            r"\nerror: dataset\.group_rule\.pattern: \d+ of \d+ images get no group from '\(\?P<group>chip-\\\\d\+\)'; "
            r"change the pattern so that it matches the path of every image\n  alpha/plate-0_0\.png\n",
            r"\n  and \d+ more\n$",
        ),
    ),
    Command(
        "a study's file that is a device",
        lambda world: ["studies", "submit", "/dev/zero"],
        exit_codes.INVALID,
        ("/dev/zero is a device, not a file; give a file, or `-` for standard input",),
    ),
    Command(
        "a name that isn't text",
        lambda world: ["studies", "cancel", os.fsdecode(b"caf\xe9")],
        exit_codes.INVALID,
        ("is not UTF-8 text, so no service knows it; type it anew",),
    ),
    Command(
        "cancelling no study at all",
        lambda world: ["studies", "cancel", ""],
        exit_codes.INVALID,
        ("name: '' is not a valid name; use 1 to 63",),
    ),
    Command(
        "no group rule",
        lambda world: ["datasets", "import", truncated(world), "--name", "bad"],
        exit_codes.INVALID,
        ("--group-pattern", "--no-groups"),
    ),
    Command(
        "a wrong token",
        lambda world: ["--token", "guessed", "studies", "list"],
        exit_codes.UNREACHABLE,
        ("token", "SYNTHMIX_TOKEN"),
    ),
    Command(
        "no stack",
        lambda world: ["--home", str(world.folder), "studies", "list"],
        exit_codes.UNREACHABLE,
        ("synthmix up",),
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_says_what_is_wrong(command: Command, world: World) -> None:
    before = kept(world.store)
    ended = world.command(*command.arguments(world))
    assert ended.returncode == command.code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    for pattern in command.says:
        assert re.search(pattern, ended.stderr), f"{pattern!r} isn't in: {ended.stderr}"
    assert kept(world.store) == before
    assert unfinished(world.store) == []
