"""Dashboard and alerts ask for metrics and labels that the code has, show all of them, and every alert is explained."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "serve_configs" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())
ALERTS = [rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
KIND_TO_SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
LABELS_OF_RAY = {"application", "deployment", "replica", "le"}
COUNTED_BY_SERVE = {"ray_serve_num_http_error_requests_total": {"application", "error_code"}}
"""What Serve refuses never reaches the code."""


def metrics_in_code() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of every metric, by the name that Prometheus sees without a suffix."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "l2d_ray" / "serve" / "on_ray" / "metrics.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KIND_TO_SUFFIXES:
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            labels = ast.literal_eval(keywords["tag_keys"]) if "tag_keys" in keywords else ()
            found[f"ray_{ast.literal_eval(node.args[0])}"] = (node.func.id, set(labels))
    return found


METRICS = metrics_in_code()
SERIES = {name + suffix: name for name, (kind, _) in METRICS.items() for suffix in KIND_TO_SUFFIXES[kind]}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Where each expression stands, and the expression."""
    for panel in panels():
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    yield from ((note["name"], note["expr"]) for note in DASHBOARD["annotations"]["list"])
    yield from ((alert["alert"], alert["expr"]) for alert in ALERTS)


@pytest.mark.parametrize(("place", "expression"), expressions(), ids=lambda text: text[:40])
def test_an_expression_asks_for_what_the_code_counts(place: str, expression: str):
    asked = set(re.findall(r"\bray_\w+", expression))
    assert asked
    assert asked <= SERIES.keys() | COUNTED_BY_SERVE.keys()
    labels = set(re.findall(r"(\w+)[!=]~?\"", expression))
    labels |= {label for group in re.findall(r"by \(([^)]+)\)", expression) for label in re.split(r",\s*", group)}
    assert labels - LABELS_OF_RAY <= set.union(*(COUNTED_BY_SERVE.get(name) or METRICS[SERIES[name]][1] for name in asked))


def test_every_metric_is_on_the_dashboard():
    asked = {name for panel in panels() for target in panel["targets"] for name in re.findall(r"\bray_\w+", target["expr"])}
    assert len(METRICS) > 10
    assert {SERIES[name] for name in asked - COUNTED_BY_SERVE.keys()} == METRICS.keys()


def test_labels_tell_nothing_of_users_and_titles():
    labels = set.union(*(labels for _, labels in METRICS.values()))
    assert labels == {"route", "status", "decoder", "version", "arm", "stage", "part", "kind", "how"}


def test_panels_have_places_of_their_own():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) > 20
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_alert_is_explained():
    explained = (ROOT / "docs" / "operations.md").read_text()
    assert len(ALERTS) > 5
    assert [alert["alert"] for alert in ALERTS if f"| `{alert['alert']}` |" not in explained] == []
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["summary"]
