"""Whatever a terminal, a path or an argument is like: a sentence and the right code, no trace and no waiting."""

import argparse
import contextlib
import errno
import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fake_services as fake
import synthmix.cli
from synthmix.api.operations.v1.operations_pb2 import Step
from synthmix.api.studies.v1 import studies_pb2
from synthmix.cli import outcomes
from synthmix.cli.dispatch import check_text
from synthmix.cli.known_errors import as_known
from synthmix.cli.output import json_text
from synthmix.cli.progress import progress
from synthmix.cli.streams import ENCODING_ERRORS, prepare_streams
from synthmix.client.client import Client
from synthmix.client.endpoints import find_endpoints
from synthmix.service_kit import errors

Run = Callable[..., tuple[int, str, str]]
STUDY = "name: café\nseeds: x…\n"
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SYNTHMIX_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("SYNTHMIX_TOKEN", "t")

    def run_command(*arguments: object) -> tuple[int, str, str]:
        try:
            code = synthmix.cli.main([str(item) for item in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        for text in (captured.out, captured.err):
            assert "Traceback" not in text
            assert "report it" not in text
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def services(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake.FakeServices]:
    with fake.serving() as services:
        monkeypatch.setenv("SYNTHMIX_ADDRESS", services.address)
        monkeypatch.setenv("SYNTHMIX_TOKEN", fake.TOKEN)
        yield services


def shell(command: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """A command of bash, in which `synthmix` is the command line."""
    function = f"synthmix() {{ '{sys.executable}' -m synthmix \"$@\"; }}; "
    path = {"PYTHONPATH": str(Path(synthmix.__file__).parents[1]), "SYNTHMIX_ADDRESS": "127.0.0.1:1"}
    return subprocess.run(
        ["bash", "-c", function + command],
        cwd=folder,
        env=os.environ | path | {"SYNTHMIX_TOKEN": "t"} | environment,
        capture_output=True,
        check=False,
        timeout=60,
    )


# Streams


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (
            "synthmix --help >/dev/full",
            1,
            "error: standard output cannot be written: No space left on device; write",
        ),
        ("synthmix --version >&-", 1, "error: standard output cannot be written: Bad file descriptor; write it"),
        ("synthmix nonsense 2>/dev/full", 2, ""),
        ("synthmix datasets simulate out --chips 1 --images-per-class 1 >/dev/full", 1, "No space left on device; "),
        ("synthmix --version >&- 2>&- <&-", 1, ""),
        ("synthmix studies validate - <&-", 2, "error: standard input is closed; give a file"),
        ("synthmix studies validate <(printf 'seeds: x')", 2, "seeds: expects a whole number"),
        ("set -o pipefail; synthmix studies --help | true", 141, ""),
    ],
)
def test_streams_that_are_full_closed_or_left(command: str, code: int, said: str, tmp_path: Path) -> None:
    result = shell(command, tmp_path)
    assert result.returncode in (code, 0) if code == 141 else result.returncode == code, result
    assert said in result.stderr.decode()
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr


@pytest.mark.parametrize("environment", [POSIX, {"PYTHONIOENCODING": "latin-1"}])
def test_terminals_that_encode_little(environment: dict[str, str], tmp_path: Path) -> None:
    name = os.fsdecode(b"st\xff\xe2\x80\xa6.yaml")  # no UTF-8, and an ellipsis
    (tmp_path / name).write_text(STUDY, encoding="utf-8")
    result = shell(
        "synthmix studies validate st*.yaml; synthmix studies validate st*.yaml --output json >&2",
        tmp_path,
        **environment,
    )
    first, _, rest = result.stderr.decode("ascii").partition("\n")  # as bytes that any terminal can show
    assert "has 'x...'" in first
    value = json.loads(rest)["error"]
    assert value["reason"] == "FILE_INVALID"
    assert value["violations"][0]["description"].endswith("but has 'x…'")


@pytest.mark.parametrize("text", ["…", "café", "\udcff", "🧬", "日本語", "“a” — ‘b’ × 2 − 1", "\u202e", "a\u0301"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
def test_every_text_can_be_written(text: str, encoding: str) -> None:
    prepare_streams()
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=ENCODING_ERRORS)
    print(text, file=stream)
    print(json_text({"value": text}, stream), file=stream, flush=True)
    shown, _, value = stream.buffer.getvalue().decode(encoding).partition("\n")  # type: ignore[attr-defined]
    assert shown
    assert json.loads(value) == {"value": text}


def test_bars_on_a_terminal_that_encodes_little() -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    prepare_streams()
    stream = Terminal(io.BytesIO(), encoding="ascii", errors=ENCODING_ERRORS)
    rows = [Step(display_name="adapter café …", state="STATE_RUNNING", done=1, total=2, unit="images")]
    with progress(stream) as show:
        show(rows, "training — café")
    assert b"caf" in stream.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (40, 10), (200, 6)])
def test_progress_of_many_steps_fits_a_terminal(columns: int, lines: int) -> None:
    """On a terminal as the system knows it, drawn anew with each change: no line wraps, and no frame is cut."""
    program = """if True:
        import time
        from synthmix.api.operations.v1.operations_pb2 import Step
        from synthmix.cli.progress import progress

        def steps(kind, unit, done):
            for number in range(40):
                running = number < 2
                yield Step(display_name=f"{kind} {number}", target=f"{kind}/{number}", total=9, unit=unit,
                           state=2 if running else 1, done=done if running else 0)

        with progress() as show:
            for done in range(8):
                show([*steps("adapters", "images seen", done), *steps("image-sets", "images", done)], "adapters 39")
                time.sleep(0.3)
    """
    terminal, screen = pty.openpty()
    termios.tcsetwinsize(terminal, (lines, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"PYTHONPATH": str(Path(synthmix.__file__).parents[1]), "TERM": "xterm-256color"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=screen, stdout=screen, stderr=screen, env=environment) as process:
        os.close(screen)
        written = b""
        with open(terminal, "rb", buffering=0) as reading, contextlib.suppress(OSError):  # a terminal ends with one
            while data := reading.read(65536):
                written += data
    assert process.returncode == 0, written
    frames = re.split(r"(?:\x1b\[1A\x1b\[2K)+", written.decode())
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", frame).rstrip("\n").split("\n") for frame in frames]
    assert len(shown) > 4
    assert max(len(line) for frame in shown for line in frame) <= columns
    assert max(map(len, shown)) <= lines
    last = " ".join(" ".join(shown[-1]).split())
    for label in ("adapters", "image sets"):
        assert re.search(rf"{label}:?[ ━╸╺]+0/40 done, 2 running, 38 queued", last), last


# Paths


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def bound_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return folder / "socket"


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def huge(folder: Path) -> Path:
    with (folder / "huge").open("wb") as file:
        file.truncate(3 * 2**40)
    return folder / "huge"


PATHS: list[tuple[Callable[[Path], object], str]] = [
    (fifo, "is a named pipe, not a file; "),
    (bound_socket, "is a socket, not a file; "),
    (lambda folder: "/dev/zero", "is a device, not a file; "),
    (lambda folder: "/dev/null", "is a device, not a file; "),
    (lambda folder: folder, "is a folder, not a file; "),
    (loop, "Too many levels of symbolic links; "),
    (huge, "is larger than 1 MiB; "),
    (lambda folder: folder / "absent", "No such file or directory; "),
    (lambda folder: folder / ("x" * 5000), "File name too long; "),
    (lambda folder: folder / os.fsdecode(b"\xff\xfe"), "No such file or directory; "),
    (lambda folder: folder / "two\nlines", "No such file or directory; "),
    (lambda folder: f"{sys.executable}/below", "Not a directory; "),
    (lambda folder: "", "is not a path"),
    (lambda folder: "a\0b", "is not a path"),
]


@pytest.mark.parametrize(("make", "said"), PATHS, ids=[said for _, said in PATHS])
@pytest.mark.parametrize("command", ["validate", "tls-ca", "create"])
def test_paths_that_are_no_files(
    make: Callable[[Path], object], said: str, command: str, run: Run, tmp_path: Path
) -> None:
    path = make(tmp_path)
    arguments: dict[str, list[Any]] = {
        "validate": ["studies", "validate", path],
        "create": ["adapters", "create", path],
        "tls-ca": ["studies", "list", "--tls-ca", path],
    }
    code, out, err = run(*arguments[command])
    assert (code, out) == (2, "")
    assert said.replace("; ", "") in err
    assert not err.startswith("{")


@pytest.mark.parametrize(
    ("home", "code", "said"),
    [
        ("file", 2, "Not a directory; give a path whose folders are folders"),
        ("/dev/null", 2, "Not a directory; give a path whose folders are folders"),
        ("absent", 4, "no stack runs at"),
        ("~nobody-of-this-name/x", 2, "the home folder of this user is not known; set HOME, or say where with --home"),
        ("x" * 300, 2, "File name too long; give a shorter path"),
    ],
)
def test_homes_that_are_none(home: str, code: int, said: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = home if home.startswith(("/", "~")) else tmp_path / home
    found, _, err = run("studies", "list", "--home", place)
    assert (found, said in err) == (code, True), err


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("file", "File exists; give another path, or move what is there"),
        ("file/below", "Not a directory; give a path whose folders are folders"),
        ("/dev/null", "File exists; give another path"),
        ("/proc/nothing", "; give a path"),
        ("y" * 300, "File name too long; give a shorter path"),
    ],
)
def test_folders_that_cannot_be_written(
    services: fake.FakeServices, to: str, said: str, run: Run, tmp_path: Path
) -> None:
    payloads = {"report.html": b"<html>", "report.json": b"{}", "results.csv": b"a\n"}
    services.answers["GetStudy"] = lambda request, context: fake.study(payloads=payloads)
    services.answers["DownloadPayload"] = fake.download_of(payloads)
    (tmp_path / "file").write_text("")
    code, _, err = run("studies", "report", "demo", "--to", to if to.startswith("/") else tmp_path / to)
    assert (code, said in err) == (2, True), err


# Arguments

NAMES = ["", " ", "a b", "a\nb", "x" * 60_000, "🧬", "../..", "-" * 5, "studies/", "%s{}", "\x1b[31m", "'; drop", "NUL"]
COMMANDS = [
    ("studies", "show"),
    ("studies", "cancel"),
    ("studies", "cancel", "--all"),
    ("studies", "report"),
    ("datasets", "show"),
    ("adapters", "show"),
    ("images", "download"),
    ("evaluations", "show"),
    ("operations", "show"),
    ("operations", "wait"),
    ("operations", "cancel"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_names_that_nothing_has(services: fake.FakeServices, command: tuple[str, ...], run: Run) -> None:
    def missing(request: Any, context: Any) -> Any:
        raise errors.NotFound(f"{request.name[:40]!r} doesn't exist; list what does", reason="ARTIFACT_NOT_FOUND")

    for method in ("GetStudy", "GetDataset", "GetAdapter", "GetImageSet", "GetEvaluation", "GetOperation"):
        services.answers[method] = missing
    services.answers["ListStudies"] = lambda request, context: studies_pb2.ListStudiesResponse()
    for name in NAMES:
        code, out, err = run(*command, "--", name)
        assert (code in (2, 3), out) == (True, ""), (name, code, err)
        assert err.startswith("error: ")
        assert len(err) < 1000
    code, _, err = run(*command, "--", os.fsdecode(b"caf\xe9"))
    assert code == 2
    assert "is not UTF-8 text" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("scale", "x", "--max", 10**30),
        ("scale", "x", "--max", "-1"),
        ("scale", "x", "--min", "9" * 5000),
        ("scale", "x", "--min", "1e3"),
        ("scale", "x", "--min", "٣" * 11),
        ("doctor", "--wait", 10**12),
        ("up", "--cpus", 0),
        ("up", "--gpus", "nan"),
        ("demo", "--cpus", 2**31),
        ("datasets", "simulate", "out", "--chips", 10**30),
        ("datasets", "simulate", "out", "--seed", "-7"),
        ("datasets", "simulate", "out", "--images-per-class", ""),
        ("studies", "list", "--output", "xml"),
    ],
)
def test_numbers_and_choices_that_cannot_be(arguments: tuple[object, ...], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "error: argument" in err


def test_text_of_another_encoding_is_read_again() -> None:
    arguments = argparse.Namespace(name="caf\udcc3\udca9", classes=["b\udcc3\udca4r", "c"], path=Path("p\udcff"), n=3)
    check_text(arguments)
    assert (arguments.name, arguments.classes, arguments.n) == ("café", ["bär", "c"], 3)
    for bad in ("\udcff", "a\0b", "\ud800"):
        with pytest.raises(errors.InvalidArgument, match="is not UTF-8 text"):
            check_text(argparse.Namespace(name=bad))
    with pytest.raises(errors.InvalidArgument, match="NUL"):
        check_text(argparse.Namespace(path=Path("a\0b")))


# What else goes wrong


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "f"), 1, "f: No space left on device; free some disk space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "Disk quota exceeded; free some of your disk quota"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2, "f: Permission denied; give a path that you may"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "f"), 2, "f: Is a directory; give a file, not a folder"),
        (OSError(errno.EROFS, "Read-only file system", "f"), 2, "Read-only file system; give a path on a file system"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), 1, "a to b: Invalid cross-device link; "),
        (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files; allow more open files"),
        (OSError(errno.EIO, "Input/output error", "f"), 1, "f: Input/output error; check the disk"),
        (OSError("odd"), 1, "odd; this machine refuses it"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 4, "check the network and the address"),
        (TimeoutError(), 4, "TimeoutError; check the network"),
        (socket.gaierror(-2, "Name or service not known"), 4, "Name or service not known; check the network"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x" * 9000), 2, "No such file; give a path that exists"),
        (MemoryError(), 1, "this machine's memory is not enough; close other programs"),
        (ModuleNotFoundError("no", name="torch"), 1, "module 'torch' is not installed; `synthmix doctor` lists"),
        (UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates not allowed"), 2, "is not UTF-8 text"),
        (ValueError("embedded null byte"), 2, "a path has a NUL; give one without"),
        (RuntimeError("Could not determine home directory."), 2, "the home folder of this user is not known; set HOME"),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Exception) else None,
)
def test_what_is_no_fault_of_ours(
    error: Exception, code: int, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object) -> None:
        raise error

    monkeypatch.setattr(Client, "list_studies", fails)
    found, out, err = run("studies", "list")
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert said in err
    assert len(err) < 500


@pytest.mark.parametrize(
    "error", [KeyError("x"), RecursionError("deep"), AssertionError(), ValueError("two\nlines " * 99)]
)
def test_only_what_is_left_is_a_fault_of_ours(error: Exception) -> None:
    known = as_known(error)
    assert known.message.endswith("; set SYNTHMIX_DEBUG=1 for the stack trace and report it")
    assert outcomes.of_error(known) == 1
    assert "\n" not in known.message
    assert len(known.message) < 550


def test_an_interruption_at_any_time(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "list_studies", interrupted)
    assert run("studies", "list") == (130, "", "interrupted\n")
    monkeypatch.setattr(synthmix.cli, "build_parser", interrupted)
    assert run("studies", "list")[0] == 130


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    result = shell("mkdir gone; cd gone; rmdir ../gone; synthmix studies validate x.yaml", tmp_path)
    assert b"x.yaml cannot be read: No such file or directory; " in result.stderr
    assert b"Traceback" not in result.stderr


def test_a_token_and_a_home_that_no_file_says() -> None:
    with pytest.raises(errors.Unauthenticated, match="give --token"):
        find_endpoints(addresses="127.0.0.1:1", environment={})
