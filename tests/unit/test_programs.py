"""Which of the machine's programs the tests make do with, and which are built."""

from pathlib import Path

import pytest

import programs


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on the PATH; nothing has been built."""
    monkeypatch.setattr(programs, "BUILT", tmp_path / "built")
    monkeypatch.setattr(programs, "SEARCH_PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, says: str, status: int = 0) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "says", "will_do"),
    [
        ("etcd", "etcd Version: 3.4.23", True),
        ("etcd", "etcd Version: 3.3.27", False),
        ("etcd", "no version", False),
        ("helm", "v3.21.4+g1a2b3c4", True),
        ("helm", "v4.0.1+g1a2b3c4", False),
        ("prometheus", "prometheus, version 2.42.0+ds (branch: debian/sid)", True),
        ("kube-apiserver", "Kubernetes v1.33.2", False),
        ("helm-docs", "helm-docs version 1.14.2", False),  # only our own version writes the committed page
    ],
)
def test_what_is_on_the_machine_and_new_enough_is_used(name: str, says: str, will_do: bool, machine: Path) -> None:
    assert not programs.is_there(name, built=False)
    install(machine, name, says)
    assert programs.is_there(name, built=False) is will_do
    assert not programs.is_there(name, built=True), "a cluster's nodes hold what was built"
    programs.BUILT.mkdir()
    install(programs.BUILT, name, says)
    assert programs.is_there(name, built=True)


def test_kubernetes_is_of_the_version_that_its_module_pins() -> None:
    assert f"require k8s.io/kubernetes {programs.KUBERNETES_VERSION}\n" in (programs.CLUSTER / "go.mod").read_text()


def test_one_that_is_not_built_is_named_with_its_log(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(machine, "go", "no such module", status=1)
    monkeypatch.setattr(programs, "TOOLS", machine)
    monkeypatch.setattr(programs, "go", lambda: str(machine / "go"))
    monkeypatch.setattr("sys.argv", ["programs.py", "kwok"])
    assert programs.main() == 1
    assert f"kwok: not built; {machine / 'kwok.log'} says why" in capsys.readouterr().out
    assert (machine / "kwok.log").read_text() == "no such module\n"
    assert not (programs.BUILT / "kwok").exists()
