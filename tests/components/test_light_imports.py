"""What starting costs: nothing heavy is imported before it is needed. Modules are counted, not seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SERVICES_FOLDER = Path(__file__).resolve().parents[2] / "services"
NEVER = (
    "torch",
    "ray",
    "diffusers",
    "transformers",
    "timm",
    "peft",
    "scipy",
    "pyarrow",
    "kubernetes",
    "aiohttp",
    "tifffile",
)
NOT_FOR_HELP = (*NEVER, "grpc", "google.protobuf", "rich", "yaml", "numpy", "asyncio", "psutil")


def imported(code: str, home: Path) -> set[str]:
    """The modules that Python has imported after running the code."""
    report = "import json, sys; print('\\n' + json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", f"import atexit\natexit.register(lambda: exec({report!r}))\n{code}"],
        env=os.environ | {"PYTHONPATH": str(SERVICES_FOLDER), "SYNTHMIX_HOME": str(home)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in result.stderr, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def command_line(*arguments: str) -> str:
    return (
        f"import runpy, sys\nsys.argv = ['synthmix', *{arguments!r}]\nrunpy.run_module('synthmix', run_name='__main__')"
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["studies", "--help"], ["studies", "submit", "--help"], ["--version"]]
)
def test_help_imports_next_to_nothing(arguments: list[str], tmp_path: Path) -> None:
    modules = imported(command_line(*arguments), tmp_path)
    assert "synthmix.cli.parser" in modules
    assert not modules & set(NOT_FOR_HELP)


def test_the_package_imports_next_to_nothing(tmp_path: Path) -> None:
    modules = imported("import synthmix", tmp_path)
    assert not modules & set(NOT_FOR_HELP)
    assert not {name for name in modules if name.startswith("synthmix.")}


def test_the_client_imports_nothing_heavy(tmp_path: Path) -> None:
    modules = imported("from synthmix import Client, GroupRule, SynthMixError", tmp_path)
    assert "grpc" in modules
    assert not modules & set(NEVER)


@pytest.mark.parametrize("arguments", [["studies", "list"], ["datasets", "list"], ["operations", "list"], ["doctor"]])
def test_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    modules = imported(command_line(*arguments), tmp_path)
    assert not modules & set(NEVER)


def test_the_package_says_what_it_has() -> None:
    import synthmix

    assert set(synthmix.__all__) <= set(dir(synthmix))
    for name in synthmix.__all__:
        assert getattr(synthmix, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = synthmix.nothing
