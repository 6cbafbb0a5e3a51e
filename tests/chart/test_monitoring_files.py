"""The chart's alerts, their runbooks and the dashboards: what promtool and Grafana would only say in a cluster.

What the alerts do is tested by promtool (alerts_test.yaml); here, that they, the dashboards and the code speak of the
same metrics, and that nothing is without a description, a test or a runbook.
"""

import importlib.util
import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from built_tools import tool
from synthmix.service_kit.metrics import REGISTRY, WORKER_COUNTERS, WORKER_HISTOGRAMS

REPOSITORY = Path(__file__).parents[2]
FILES = REPOSITORY / "charts/synthmix/files"
RUNBOOKS = REPOSITORY / "deploy/runbooks"
RUNBOOK_URL = "https://github.com/synthmix/synthmix/blob/main/deploy/runbooks/{}.md"
RUNBOOK_HEADINGS = ["Meaning", "What users notice", "Find the cause", "Fix it"]

# Others' metrics that are used. These were seen at Ray 2.60 and MinIO 7aac2a2c5b7c; Ray's GPUs and failed and pending
# nodes, and MinIO's 5xx errors, in their sources only.
RAY = {
    "ray_cluster_failed_nodes",
    "ray_cluster_pending_nodes",
    "ray_memory_manager_worker_eviction_total",
    "ray_node_cpu_count",
    "ray_node_cpu_utilization",
    "ray_node_disk_utilization_percentage",
    "ray_node_gpus_utilization",
    "ray_node_gram_available",
    "ray_node_gram_used",
    "ray_node_manager_unexpected_worker_failure_total",
    "ray_node_mem_total",
    "ray_node_mem_used",
    "ray_node_network_receive_speed",
    "ray_node_network_send_speed",
    "ray_resources",
    "ray_tasks",
}
MINIO = {
    "minio_cluster_capacity_usable_free_bytes",
    "minio_cluster_capacity_usable_total_bytes",
    "minio_cluster_health_status",
    "minio_s3_requests_5xx_errors_total",
    "minio_s3_requests_total",
    "minio_s3_traffic_received_bytes",
    "minio_s3_traffic_sent_bytes",
}
PROMETHEUS = {"ALERTS", "up"}

GROUPS = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((FILES / "dashboards").glob("*.json"))}
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
]
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard_expressions(dashboard: dict[str, Any]) -> list[str]:
    return [
        *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]),
        *(annotation["expr"] for annotation in dashboard["annotations"]["list"]),
        *(variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable),
    ]


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics in a PromQL expression: the words that are left when all else is taken away."""
    expression = re.sub(r'"[^"]*"', "", expression)
    expression = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", expression)
    expression = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    expression = re.sub(r"\blabel_values\((\w+), \w+\)", r"\1", expression)  # Grafana's, not PromQL
    expression = re.sub(r"\boffset\s+\S+", " ", expression)
    expression = re.sub(r"\b[a-z_0-9]+\s*(?=\()", " ", expression)  # functions and aggregations
    words = set(re.findall(r"(?<![\w.:$])[a-zA-Z_][\w:]*", expression))
    return words - {"and", "or", "unless", "bool"}


def own_metrics() -> set[str]:
    """The names that Prometheus gives to what synthmix.service_kit.metrics defines."""
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    front_ends = {f"{metric.name}{suffix}" for metric in REGISTRY.collect() for suffix in suffixes[metric.type]}
    # Ray's agent knows a histogram's buckets only, so its sums are guesses: using one is a mistake.
    workers = {f"ray_{name}_total" for name in WORKER_COUNTERS}
    workers |= {f"ray_{name}{suffix}" for name in WORKER_HISTOGRAMS for suffix in ("_bucket", "_count")}
    return front_ends | workers


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ('sum by (namespace) (rate(a_total{b=~"c|d"}[5m])) / 300 > 1e3', {"a_total"}),
        (
            "a:b:rate5m unless on (namespace, x) (last_over_time(c[1h] offset 5m) == 0) or vector(0)",
            {"a:b:rate5m", "c"},
        ),
        ("a offset $__range and ignoring (state) max_over_time(b[$__range]) * on () group_left (y) c", {"a", "b", "c"}),
        ("label_values(synthmix_ready, namespace)", {"synthmix_ready"}),
    ],
)
def test_metrics_are_found_in_expressions(expression: str, metrics: set[str]) -> None:
    assert metrics_of(expression) == metrics


def test_rules_and_dashboards_use_metrics_that_exist() -> None:
    rules = set().union(*(metrics_of(rule["expr"]) for rule in RULES))
    shown = set().union(*(metrics_of(e) for dashboard in DASHBOARDS.values() for e in dashboard_expressions(dashboard)))
    others = RAY | MINIO | PROMETHEUS
    assert (rules | shown) - RECORDS - others <= own_metrics()
    assert others | RECORDS <= rules | shown, "named here or recorded, and used nowhere"
    assert {f"ray_{name}_total" for name in WORKER_COUNTERS} <= rules, "a counter without a recording rule"


def test_ray_knows_its_metrics() -> None:
    """Whoever raises Ray's version learns here of a metric that has another name now."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    modules = Path(spec.origin).parent / "dashboard/modules"
    source = (modules / "metrics/dashboards/default_dashboard_panels.py").read_text()
    source += re.sub(r'"(node|cluster)_', r'"ray_\1_', (modules / "reporter/reporter_agent.py").read_text())
    assert {name for name in RAY if not re.search(rf"\b{name}\b", source)} == set()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert "{{" not in annotations["summary"], "a summary is the same for all that fire"
    assert "{{ $labels.namespace }}" in annotations["description"]
    assert annotations["runbook_url"] == RUNBOOK_URL.format(alert["alert"])


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    names = {alert["alert"] for alert in ALERTS}
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == names | {"README"}
    for name in names:
        lines = (RUNBOOKS / f"{name}.md").read_text().splitlines()
        assert lines[0] == f"# {name}"
        assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == RUNBOOK_HEADINGS, name


def test_the_index_of_runbooks_is_right() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\((\w+)\.md\) \| ([^|]+) \| ([^|]+) \|$", (RUNBOOKS / "README.md").read_text(), re.M
    )
    expected = [
        (name, name, ", ".join(alert["labels"]["severity"] for alert in alerts), alerts[0]["annotations"]["summary"])
        for name, alerts in ((name, list(group)) for name, group in itertools.groupby(ALERTS, lambda a: a["alert"]))
    ]
    assert [(*row[:3], f"{row[3]}.") for row in rows] == expected


def test_links_of_runbooks_lead_somewhere() -> None:
    for path in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    """A series of its test that doesn't fire lives in another namespace, or at another time."""
    fires, silent = set(), set()
    for test in yaml.safe_load((FILES / "alerts_test.yaml").read_text())["tests"]:
        for check in test.get("alert_rule_test", []):
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == {alert["alert"] for alert in ALERTS}


def promtool(*arguments: str, folder: Path = FILES) -> None:
    done = subprocess.run([tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", "alerts.yaml")


def test_promtool_tests_the_rules() -> None:
    promtool("test", "rules", "alerts_test.yaml")


def test_promtool_accepts_the_dashboards(tmp_path: Path) -> None:
    """As recording rules, since promtool knows no dashboards."""
    rules = [
        {
            "record": f"expression:{number}",
            "expr": expression.replace("$__rate_interval", "2m").replace("$__range", "6h"),
        }
        for number, expression in enumerate(
            e for dashboard in DASHBOARDS.values() for e in dashboard_expressions(dashboard)
        )
        if "label_values" not in expression
    ]
    (tmp_path / "dashboards.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool("check", "rules", "dashboards.yaml", folder=tmp_path)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_is_whole(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"synthmix-{name}"
    assert dashboard["schemaVersion"] >= 39
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["namespace"]["datasource"] == DATA_SOURCE
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all('namespace="$namespace"' in e for e in dashboard_expressions(dashboard) if "label_values" not in e)


def test_dashboards_are_the_four() -> None:
    assert set(DASHBOARDS) == {"studies", "generation", "training", "cluster"}
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == 4


@pytest.mark.parametrize("panel", PANELS)
def test_panel_is_whole(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == DATA_SOURCE
    assert all(target.get("datasource", DATA_SOURCE) == DATA_SOURCE for target in panel["targets"])
    references = [target["refId"] for target in panel["targets"]]
    assert references and len(set(references)) == len(references)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
