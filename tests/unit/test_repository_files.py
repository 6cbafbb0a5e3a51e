"""What the repository says of itself: links and named files exist, workflows call make targets, versions agree."""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from programs import PROGRAMS

REPOSITORY = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
"""A Markdown link or image; the group is its target."""
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.\w+)`")
"""A path of at least one folder and a file with an extension, as CONTRIBUTING.md names files."""
NAMED_TARGET = re.compile(r"(?:`|^\$ )make ([a-z][a-z0-9-]*)", re.MULTILINE)
"""A call of make in code or at a prompt."""
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DECISION_FIELDS = ("Status", "Date", "Context", "Decision", "Alternatives", "What follows")


@cache
def tracked(pattern: str) -> tuple[Path, ...]:
    """Files of the repository, those not yet committed included, without what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", pattern]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return tuple(path for name in listed.split("\0") if name and (path := REPOSITORY / name).exists())


def named(paths: tuple[Path, ...]) -> list[Any]:
    return [pytest.param(path, id=str(path.relative_to(REPOSITORY))) for path in paths]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = HEADING.findall(FENCE.sub("", document.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def target_problem(document: Path, target: str) -> str | None:
    """What is wrong with a relative link's target. None: nothing, or it is no relative link."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    linked = (document.parent / path).resolve() if path else document
    if not linked.exists():
        return f"{target} does not exist"
    if linked.is_dir():
        linked /= "README.md"
    if anchor and (not linked.is_file() or anchor not in anchors(linked)):
        return f"{target} names no heading"
    return None


@pytest.mark.parametrize("document", named(tracked("*.md")))
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(FENCE.sub("", document.read_text()))
    assert [problem for target in targets if (problem := target_problem(document, target))] == []


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("README.md", None),
        ("README.md#on-a-cluster", None),
        ("charts/synthmix#callers", None),
        ("https://example.com/nothing", None),
        ("nothing.md", "nothing.md does not exist"),
        ("README.md#nothing", "README.md#nothing names no heading"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(target: str, problem: str | None) -> None:
    assert target_problem(REPOSITORY / "CONTRIBUTING.md", target) == problem


def test_every_file_that_contributing_names_exists() -> None:
    files = NAMED_FILE.findall((REPOSITORY / "CONTRIBUTING.md").read_text())
    assert len(files) > 10
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", named(tracked("*.md")))
def test_the_make_targets_that_a_document_names_exist(document: Path) -> None:
    assert set(NAMED_TARGET.findall(document.read_text())) <= make_targets()


def called_targets(text: str) -> set[str]:
    """The targets of the lines that call make, without its options and variables."""
    calls = re.findall(r"(?:^|[ ;&|])make((?: +\S+)*)$", text, re.MULTILINE)
    words = [word for call in calls for word in call.split()]
    return {word for word in words if re.fullmatch(r"[a-z][a-z0-9-]*", word)}


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", named(tracked(".github/workflows/*")))
def test_a_workflow_calls_make_targets_that_exist(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert workflow.keys() >= {"name", True, "permissions", "jobs"}
    assert all(job["runs-on"] and job["timeout-minutes"] for job in workflow["jobs"].values())
    assert all(("run" in step) != ("uses" in step) for step in steps(workflow))
    # A tag may move to other code; a commit may not.
    assert all(re.search("@[0-9a-f]{40}$", step["uses"]) for step in steps(workflow) if "uses" in step)
    called = called_targets("\n".join(step.get("run", "") for step in steps(workflow)))
    assert called
    assert called <= make_targets()


def test_the_workflows_call_what_every_commit_must_hold() -> None:
    """`.ci/run` and the workflow of every change agree; `make test` there is its parts here."""
    parts = {"test-unit", "test-components", "test-contracts", "test-chart", "test-integration"}
    once = {target for target in called_targets((REPOSITORY / ".ci/run").read_text()) if target != "test"}
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yaml").read_text())
    called = called_targets("\n".join(step.get("run", "") for step in steps(workflow)))
    assert called == once | parts


@pytest.mark.parametrize("event", ["push", "pull_request"])
def test_vulnerabilities_are_looked_for_when_what_images_hold_changes(event: str) -> None:
    """Our own code brings no package."""
    dockerfile = (REPOSITORY / "deploy/images/Dockerfile").read_text()
    locks = {
        name
        for line in dockerfile.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
        if name.endswith((".lock", ".txt"))
    }
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/security.yaml").read_text())
    paths = workflow[True][event]["paths"]  # YAML 1.1 reads "on" as true
    assert len(locks) == 3 and locks | {"deploy/images/**"} <= set(paths)


def test_the_workflows_run_every_python_that_is_promised() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yaml").read_text())
    [versions] = [job["strategy"]["matrix"]["python"] for job in workflow["jobs"].values() if "strategy" in job]
    promised = [
        classifier.rpartition(" ")[2]
        for classifier in project()["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", classifier)
    ]
    assert versions == promised


def test_commit_hooks_run_what_make_lint_runs() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    [repository] = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == commands


def project() -> dict[str, Any]:
    return dict(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"])


def test_versions_and_licences_agree() -> None:
    chart = yaml.safe_load((REPOSITORY / "charts/synthmix/Chart.yaml").read_text())
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert chart["version"] == chart["appVersion"] == citation["version"] == project()["version"]
    assert chart["annotations"]["artifacthub.io/license"] == citation["license"] == project()["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (REPOSITORY / "LICENSE").read_text()


def test_the_citation_has_what_its_schema_requires() -> None:
    """Of the Citation File Format 1.2.0: its required keys, and those of each reference and author."""
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"] and citation["title"] and citation["type"] == "software"
    for work in (citation, *citation["references"]):
        assert work["title"] and work["type"] and work["authors"]
        assert all("name" in author or "family-names" in author for author in work["authors"])


@pytest.mark.parametrize("path", named(tracked(".github/ISSUE_TEMPLATE/*.yaml")))
def test_an_issue_form_is_whole(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert names and len(set(names)) == len(names)


@pytest.mark.parametrize("path", named(tracked("deploy/decisions/[0-9]*.md")))
def test_a_decision_has_its_fields_in_order(path: Path) -> None:
    text = path.read_text()
    number = int(path.name[:4])
    assert text.startswith(f"# {number}. ")
    places = [text.find(f"**{field}.**") for field in DECISION_FIELDS]
    assert -1 not in places, f"one of {DECISION_FIELDS} is missing"
    assert places == sorted(places)
    status = re.search(r"\*\*Status\.\*\* (Accepted|Superseded by \[decision \d+\])", text)
    assert status, "a status is Accepted, or Superseded by [decision N](file)"
    assert re.search(r"\*\*Date\.\*\* \d{4}-\d{2}-\d{2}", text)


def test_images_stand_on_what_cannot_change() -> None:
    dockerfile = (REPOSITORY / "deploy/images/Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=\S+:\S+@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)) | {"scratch", "${BASE_IMAGE}"}
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) <= stages, "no other image is pulled"
    named_images = re.search(r"^IMAGES \?= (.+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert named_images
    assert set(named_images[1].split()) < stages
    minio = re.search(r"^ARG MINIO_VERSION=(\S+)$", dockerfile, re.MULTILINE)
    assert minio
    assert minio[1] == PROGRAMS["minio"].version, "the tests run the server that the chart does"


@pytest.mark.parametrize(
    "path", named(tracked("Makefile") + tracked("deploy/images/*") + tracked(".github/workflows/*"))
)
def test_whatever_pip_installs_is_known_by_its_hash(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    commands = re.findall(r"pip install .*", text)
    ours = re.compile(r"--no-deps .*\.$|--no-deps --prefix /own \.|--build-constraints requirements.lock --no-deps")
    # torch comes from an index of the builder's choice, in the version of the lock.
    unchecked = [item for item in commands if "--require-hashes" not in item and not ours.search(item)]
    assert [item for item in unchecked if "--requirement torch.txt" not in item] == []


def test_what_is_released_is_signed_with_its_sbom() -> None:
    release = yaml.safe_load((REPOSITORY / ".github/workflows/release.yaml").read_text())["jobs"]
    push = next(step["run"] for step in release["images"]["steps"] if "docker push" in step.get("run", ""))
    order = [push.index(command) for command in ("docker push", "$SYFT", "cosign sign", "cosign attest")]
    assert order == sorted(order)
    assert release["images"]["env"]["IMAGES"].split() == ["control", "worker", "minio", "seaweedfs"]
    assert 'cosign sign --yes "$digest"' in push, "a tag may mean another image by then"
    for job in ("images", "chart"):
        assert release[job]["permissions"]["id-token"] == "write"
    assert any("cosign sign" in step.get("run", "") for step in release["chart"]["steps"])
