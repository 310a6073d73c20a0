"""The shipped configuration on a Ray that was started as the operations page says: deployed, watched by Prometheus and a trace collector.

A deployment that cannot come up says why, and the one before it goes on answering.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from l2d_ray.client import Client
from l2d_ray.serve.on_ray.tracing import STAGES
from tests.clusters import Cluster, started_cluster, unused_port
from tests.serve.test_monitoring import METRICS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHIPPED = Path(__file__).parents[2] / "serve_configs" / "local.yaml"
DEPLOY_S, REPORT_S = 180.0, 60.0
TOKEN = "0123456789abcdef" * 4
USER_ID = "user-who-is-in-no-label"


class Collector:
    """Takes spans as OTLP over HTTP sends them."""

    def __init__(self) -> None:
        self.trace_to_names: dict[bytes, set[str]] = {}
        spans = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for span in (span for of in sent.resource_spans for scope in of.scope_spans for span in scope.spans):
                    spans.trace_to_names.setdefault(span.trace_id, set()).add(span.name)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, collector: Collector) -> Iterator[Cluster]:
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_metrics_report_interval_ms": "1000",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    with started_cluster(tmp_path_factory.mktemp("cluster"), environment, num_cpus=8) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shipped(tiny_run, cluster: Cluster) -> dict[str, Any]:
    """serve_configs/local.yaml with paths and a port of this test, a state, and spans switched on."""
    config = yaml.safe_load(SHIPPED.read_text())
    config["http_options"]["port"] = unused_port()
    config["tracing_config"] = {"enabled": True, "exporter_import_path": "l2d_ray.serve.on_ray.tracing:otlp", "sampling_ratio": 1.0}
    paths = {"checkpoint_dir": str(tiny_run.checkpoint_dir), "index_dir": str(tiny_run.index_dir), "memory_uri": tiny_run.memory_uri}
    config["applications"][0]["args"] |= paths | {"state_url": f"sqlite://{cluster.folder}/state.db", "device": "cpu"}
    return config


def deploy(cluster: Cluster, config: dict[str, Any], status: str, message: str = "") -> None:
    """Return once Serve says so of the application."""
    path = cluster.folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = cluster.run("serve", "deploy", str(path), "--address", cluster.dashboard)
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + DEPLOY_S
    while True:
        application = cluster.get("/api/serve/applications/")["applications"]["l2d_ray"]
        if application["status"] == status and message in application["message"]:
            return
        assert time.monotonic() < deadline, application
        time.sleep(0.5)


@pytest.fixture(scope="module")
def url(cluster: Cluster, shipped: dict[str, Any]) -> str:
    deploy(cluster, shipped, "RUNNING")
    return f"http://127.0.0.1:{shipped['http_options']['port']}"


def ids_served(url: str, history: list[str]) -> list[str]:
    with Client(url) as client:
        return [item.item_id for item in client.recommend(history=history, user_id=USER_ID, k=5).items]


def test_it_answers_as_the_oracle_and_ray_itself_wants_a_token(tiny_run, cluster: Cluster, url: str):
    history = [tiny_run.catalogue.item_ids[index] for index in (3, 8)]
    assert ids_served(url, history) == tiny_run.expected_ids([3, 8], 5)
    assert httpx.get(f"{cluster.dashboard}/api/serve/applications/").status_code == 401
    shown = cluster.run("serve", "status", "--address", cluster.dashboard)
    assert yaml.safe_load(shown.stdout)["applications"]["l2d_ray"]["status"] == "RUNNING"


NOT_YET = {"partial_answers", "unanswered", "retried_calls", "failed_updates", "updated_memory_version", "update_seconds"}
"""Metrics of what has not happened here."""


def test_prometheus_finds_every_metric_also_later_and_nobody_in_a_label(cluster: Cluster, url: str):
    for _ in range(2):  # the second one finds its query vector in the cache
        ids_served(url, ["item-01"])
    expected = METRICS.keys() - {f"ray_l2d_{name}" for name in NOT_YET}
    time.sleep(5)  # several intervals: a gauge that was set once is still to be seen
    deadline = time.monotonic() + REPORT_S
    text = scraped(cluster)
    while missing := {name for name in expected if name not in text}:
        assert time.monotonic() < deadline, missing
        time.sleep(1)
        text = scraped(cluster)
    ours = [line for line in text.splitlines() if line.startswith("ray_l2d_")]
    assert any('route="/v1/recommendations"' in line and 'status="200"' in line for line in ours)
    for named in (USER_ID, "item-01", "The "):
        assert not [line for line in ours if named in line]


def scraped(cluster: Cluster) -> str:
    """What Prometheus reads of the targets that Ray lists for it; a target that does not answer now is down to it, and read later."""
    listed, texts = json.loads((cluster.temp_dir / "prom_metrics_service_discovery.json").read_text()), []
    for target in (target for group in listed for target in group["targets"]):
        with suppress(httpx.TransportError):
            texts.append(httpx.get(f"http://{target}/metrics", timeout=30).text)
    return "\n".join(texts)


def test_a_collector_gets_the_stages_of_a_request_in_one_trace(collector: Collector, url: str):
    deadline = time.monotonic() + REPORT_S
    while True:
        ids_served(url, ["item-02"])
        if any(names >= set(STAGES) and len(names) > len(STAGES) for names in collector.trace_to_names.values()):
            return
        assert time.monotonic() < deadline, collector.trace_to_names.values()
        time.sleep(1)


def test_what_cannot_come_up_says_why_and_the_old_one_goes_on(
    tiny_run, cluster: Cluster, shipped: dict[str, Any], url: str, other_checkpoint: Path
):
    history = [tiny_run.catalogue.item_ids[index] for index in (3, 8)]
    config = json.loads(json.dumps(shipped))
    config["applications"][0]["args"]["checkpoint_dir"] = str(other_checkpoint)
    deploy(cluster, config, "DEPLOY_FAILED", "fingerprint")
    assert ids_served(url, history) == tiny_run.expected_ids([3, 8], 5)
    deploy(cluster, shipped, "RUNNING")
    assert ids_served(url, history) == tiny_run.expected_ids([3, 8], 5)
