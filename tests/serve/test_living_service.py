"""One application with state on a real Ray cluster: what is written is learnt, versions change under load, processes are killed or hang.

No request may fail that could be answered: the threads of ``asking`` look at every answer.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from l2d_ray.client import Client
from l2d_ray.index.layout import generations, read_manifest
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.messages import RecommendationAnswer
from l2d_ray.serve.on_ray import ENCODER, UPDATER, build_app, shard_name
from tests.clusters import serving_cluster, unused_port

pytestmark = pytest.mark.slow
ROUTE = "/v1/recommendations"
APP = "living"
PAUSE_S = 0.05


@dataclass(frozen=True)
class Service:
    url: str
    index_dir: Path
    http: httpx.Client

    def ask(self, **body) -> httpx.Response:
        return self.http.post(self.url + ROUTE, json={"history": ["item-01"], "k": 5} | body)

    @property
    def version(self) -> int:
        return int(httpx.get(f"{self.url}/v1/versions", timeout=30).raise_for_status().json()["current"])


@pytest.fixture(scope="module")
def service(tiny_run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("living")
    for name in ("memory", "index"):
        shutil.copytree(tiny_run.index_dir.parent / name, folder / name)
    arguments = ServeArguments(
        checkpoint_dir=tiny_run.checkpoint_dir,
        index_dir=folder / "index",
        memory_uri=str(folder / "memory"),
        state_url=f"sqlite://{folder}/state.db",
        access_control=False,
        device="cpu",
        update_s=0.5,
        refresh_s=0.2,
        cached_states=0,
        longest_wait_s=120,  # a replica that is killed starts again beside whatever else this machine is testing
    )
    port = unused_port()
    with serving_cluster(port, num_cpus=4, logging_level="ERROR", log_to_driver=False):
        serve.run(build_app(arguments), name=APP)
        with httpx.Client(timeout=180) as http:
            yield Service(f"http://127.0.0.1:{port}", folder / "index", http)


@dataclass
class Asked:
    """Answers of the threads."""

    answers: list[RecommendationAnswer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def asking(service: Service, num_threads: int = 3, **body) -> Iterator[Asked]:
    """Requests from threads for the length of a ``with`` block; none may fail. Their pauses leave a replica the time to start again."""
    asked, is_over = Asked(), threading.Event()

    def ask() -> None:
        while not is_over.wait(PAUSE_S):
            response = service.ask(**body)
            if response.status_code == 200:
                asked.answers.append(RecommendationAnswer.model_validate_json(response.content))
            else:
                asked.failures.append(response.text)

    threads = [threading.Thread(target=ask) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert asked.failures == []
    assert len(asked.answers) > num_threads


def wait_until(is_so, timeout_s: float = 90.0) -> float:
    """Seconds that it took."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() < started + timeout_s, "it did not come about"
        time.sleep(0.1)
    return time.monotonic() - started


def pid_of(deployment: str) -> int:
    (pid,) = serve.get_deployment_handle(deployment, APP).broadcast("ping").results(timeout_s=30)
    return int(pid)


def is_replaced(deployment: str, pid: int) -> bool:
    """Whether another process answers for the deployment; not while its handle still knows the dead one."""
    try:
        return pid_of(deployment) != pid
    except (RayActorError, RayServeException, TimeoutError, ValueError):
        return False


def event(user_id: str, item: int, at: int) -> dict[str, object]:
    return {"event_id": f"{user_id}-{at}", "user_id": user_id, "item_id": f"item-{item:02d}", "timestamp": at}


def test_what_is_written_is_seen_at_once_and_in_the_memory_within_a_minute_without_a_failed_request(service: Service):
    before = service.version
    with Client(service.url) as client, asking(service) as asked:
        added = client.add_interactions([event("ann", item, 1000 + item) for item in (3, 4, 5)])
        assert (added.num_added, added.num_known) == (3, 0)
        assert client.recommend(user_id="ann", k=3).items
        assert wait_until(lambda: service.version > before) < 60
        wait_until(lambda: any(answer.memory_version > before for answer in asked.answers))
        backlog = client.status().backlog
        assert backlog is not None
        assert backlog.num_interactions == 0
    assert {answer.memory_version for answer in asked.answers} >= {before, service.version}
    assert all(answer.complete.shards_ok == answer.complete.shards_total == 2 for answer in asked.answers)


def test_one_call_goes_back_to_an_older_version_and_stays_there(service: Service):
    newest = service.version
    with Client(service.url) as client, asking(service) as asked:
        older = min(client.versions().versions)
        assert older < newest
        assert client.activate(older).current == older
        assert client.recommend(["item-01"], k=3).memory_version == older
        client.add_interactions([event("bob", item, 2000 + item) for item in (7, 8)])
        wait_until(lambda: read_manifest(service.index_dir).memory_version > newest)
        time.sleep(1)
        versions = client.versions()
        assert (versions.current, versions.is_pinned) == (older, True)
        assert len(generations(service.index_dir)) > 2
        client.activate(None)
        wait_until(lambda: service.version > newest)
    assert {answer.memory_version for answer in asked.answers} >= {older}


@pytest.mark.parametrize("deployment", [ENCODER, shard_name(0), UPDATER])
def test_a_replica_that_is_killed_costs_time_and_no_request(service: Service, deployment: str):
    pid = pid_of(deployment)
    with asking(service) as asked:
        wait_until(lambda: len(asked.answers) > 3)
        os.kill(pid, signal.SIGKILL)
        count = len(asked.answers)
        wait_until(lambda: len(asked.answers) > count + 6)
    wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200)
    wait_until(lambda: is_replaced(deployment, pid))
    assert all(answer.complete.shards_ok == 2 for answer in asked.answers)


def test_a_shard_that_hangs_is_left_out_in_time_or_refused_where_all_are_wanted(service: Service):
    pid = pid_of(shard_name(1))
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        partial = service.ask(timeout_ms=1500)
        took_s = time.monotonic() - started
        refused = service.ask(timeout_ms=500, require_complete=True)
        ready = httpx.get(f"{service.url}/readyz", timeout=30)
    finally:
        os.kill(pid, signal.SIGCONT)
    complete = RecommendationAnswer.model_validate_json(partial.content).complete
    assert (partial.status_code, complete.shards_ok, complete.shards_total) == (200, 1, 2)
    assert 1.4 < took_s < 1.5 * 1.1 + 0.5
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    assert (ready.status_code, "Shard-1" in ready.text) == (503, True)
    wait_until(lambda: service.ask(require_complete=True).status_code == 200)
