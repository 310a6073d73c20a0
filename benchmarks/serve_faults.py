"""What a service loses when its processes die, hang or are all ended at once: real processes, ``kill -9`` and SIGSTOP, under load.

    python -m benchmarks.serve_faults [--small] [--only NAME ...] [--kills 20] [--soak 100000] [--port 8770]

Parts of the run (``--only`` picks some; each has applications of its own over one run of benchmarks.serving, and is kept in ``--run-dir``):

    one     one replica of everything: encoder, shard and ingress killed under load; a shard stopped; a shard gone until Serve has a new one
    two     two replicas of everything: one encoder, one shard and one ingress killed under load
    node    two nodes (two raylets) of one machine, replicas on both; the second raylet and all it runs are killed under load
    kills   jobs.serve with everything that it started, killed at seeded moments while interactions are sent: what was acknowledged is in
            the memory once, in the end
    soak    many requests one after another; the memory of each process after a tenth of them and at the end

A request has 30 s, more than a replica needs to come back; "failed" is everything that is no 200. Killing the ingress cuts the
connections of the requests that it is at work on: HAProxy sends these to another replica, Serve's own proxy answers them 500, so that the
client has to send them again (l2d_ray.client does). The proxy here is HAProxy, except for ``kills``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.fault_kills import kills
from benchmarks.fault_node import node
from benchmarks.faults import kill, pids_of, resident_bytes, stopped, under_load
from benchmarks.open_loop import closed_loop
from benchmarks.result import arguments, print_result, target
from benchmarks.serve_load import bodies_of
from benchmarks.serving import ServedRun, answer_of, application, cluster, make_run, status_of
from l2d_ray.serve.environment import set_environment

PARTS: Final = ("one", "two", "node", "kills", "soak")
RATE, BEFORE_S, AFTER_S = 10.0, 2.0, 12.0
TIMEOUT_MS, TOLERANCE = 1000, 1.1
SOAK_CONCURRENCY: Final = 8


def main() -> None:
    options = parser().parse_args()
    if options.part:
        print(json.dumps(run_part(options.part, options)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.run_dir = options.run_dir or Path(folder)
        make_run(options.run_dir, num_items=300, num_entries=3000, shards=(2,))
        found = {part: in_own_process(part, options) for part in options.only}
    print_result("serve_faults", {"small": options.small, "kills": options.kills, "soak": options.soak} | found, targets_of(found))


def parser() -> argparse.ArgumentParser:
    made = arguments(__doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--kills", type=int, default=20, help="times that everything is killed")
    made.add_argument("--soak", type=int, default=100_000, help="requests of the soak")
    made.add_argument("--port", type=int, default=8770)
    made.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # this process runs one part and prints its figures
    return made


def in_own_process(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """A part's figures, read where the run directory has them; each starts a Ray of its own, of which a process can have one."""
    size = "small" if options.small else f"{options.kills}-{options.soak}"
    kept = options.run_dir / f"part-{part}-{size}.json"
    if kept.is_file():
        known: dict[str, Any] = json.loads(kept.read_text())
        return known
    command = [sys.executable, "-m", "benchmarks.serve_faults", "--part", part, "--run-dir", str(options.run_dir)]
    command += ["--kills", str(options.kills), "--soak", str(options.soak), "--port", str(options.port)]
    done = subprocess.run([*command, *(["--small"] if options.small else [])], stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"error": f"the part ended with {done.returncode}; what it said is above"}
    kept.write_text(lines[-1])
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def run_part(part: str, options: argparse.Namespace) -> dict[str, Any]:
    run = ServedRun(options.run_dir)
    if part == "kills":
        return kills(run, num_kills=2 if options.small else options.kills, port=options.port)
    set_environment(haproxy=True)
    if part == "node":
        return node(run, port=options.port, rate=RATE)
    with cluster(options.port, num_cpus=12) as url:
        match part:
            case "one":
                return one(run, url)
            case "two":
                return two(run, url)
            case _:
                return soak(run, url, 2000 if options.small else options.soak)


def one(run: ServedRun, url: str) -> dict[str, Any]:
    found = {}
    with application(url, run.arguments(2, cached_states=0), "one") as route:
        for deployment in ("Encoder", "Shard-0", "Ingress"):
            found[deployment] = killed(run, route, "one", deployment)
        found["stopped"] = shard_stopped(run, route)
        found["gone"] = shard_gone(run, route)
    return found


def two(run: ServedRun, url: str) -> dict[str, Any]:
    replicas = {"encoder_replicas": 2, "shard_replicas": 2, "ingress_replicas": 2}
    with application(url, run.arguments(2, cached_states=0, **replicas), "two") as route:
        return {deployment: killed(run, route, "two", deployment) for deployment in ("Encoder", "Shard-0", "Ingress")}


def killed(run: ServedRun, route: str, app: str, deployment: str) -> dict[str, Any]:
    """Requests around the ``kill -9`` of one replica, and how long until the service is whole again."""
    with under_load(route, bodies_of(run, 500, seed=5, timeout_ms=30_000), RATE) as watched:
        time.sleep(BEFORE_S)
        pid = kill(deployment, app)
        back_s = wait_for_other(deployment, app, pid)
        time.sleep(AFTER_S)
    return watched.summary() | {"back_after_s": round(back_s, 1)}


def wait_for_other(deployment: str, app: str, pid: int, timeout_s: float = 240.0) -> float:
    """Seconds until another replica stands in for the one that was killed."""
    started = time.monotonic()
    before = len(pids_or_none(deployment, app)) or 1
    while time.monotonic() < started + timeout_s:
        pids = pids_or_none(deployment, app)
        if pid not in pids and len(pids) >= before:
            return time.monotonic() - started
        time.sleep(0.2)
    return float("inf")


def pids_or_none(deployment: str, app: str) -> list[int]:
    from ray.serve.exceptions import DeploymentUnavailableError

    try:
        return pids_of(deployment, app)
    except (DeploymentUnavailableError, TimeoutError):
        return []


def shard_stopped(run: ServedRun, route: str) -> dict[str, Any]:
    """Answers while a shard's only replica does not move: in time, and marked."""
    pid, took_ms, partial = pids_of("Shard-1", "one")[0], [], 0
    with stopped(pid):
        for body in bodies_of(run, 5, seed=6, timeout_ms=TIMEOUT_MS):
            started = time.perf_counter()
            status, answer = answer_of(route, body)
            took_ms.append((time.perf_counter() - started) * 1000)
            partial += status == 200 and answer["complete"]["shards_ok"] == 1
    return {"timeout_ms": TIMEOUT_MS, "requests": len(took_ms), "partial": partial, "longest_ms": round(max(took_ms), 1)}


def shard_gone(run: ServedRun, route: str) -> dict[str, Any]:
    """Right after a shard's only replica was killed: a partial answer, a refusal where all shards are wanted, not ready; then recovery."""
    (body,) = bodies_of(run, 1, seed=7, timeout_ms=500)
    kill("Shard-0", "one")
    started = time.monotonic()
    status, answer = answer_of(route, body)
    refused, _ = answer_of(route, body | {"require_complete": True})
    ready = status_of(route.replace("/v1/recommendations", "/readyz"))
    while answer_of(route, body | {"require_complete": True, "timeout_ms": 5000})[0] != 200:
        time.sleep(0.2)
    return {
        "partial": answer.get("complete") if status == 200 else status,
        "require_complete": refused,
        "readyz": ready,
        "recovered_after_s": round(time.monotonic() - started, 1),
    }


def soak(run: ServedRun, url: str, num_requests: int) -> dict[str, Any]:
    """Memory of all replicas after a tenth of the requests and at the end, and what was answered."""
    bodies, failed, at_tenth = bodies_of(run, 4000, seed=8), 0, 0
    with application(url, run.arguments(2), "soak") as route:
        done = 0
        while done < num_requests:
            load = uvloop.run(closed_loop(route, bodies, concurrency=SOAK_CONCURRENCY, duration_s=5))
            done, failed = done + load.outcomes.total(), failed + load.num_failed
            if not at_tenth and done >= num_requests / 10:
                at_tenth = _resident()
        at_end = _resident()
    growth = at_end / max(at_tenth, 1) - 1
    return {"requests": done, "failed": failed, "bytes_at_a_tenth": at_tenth, "bytes_at_the_end": at_end, "growth": round(growth, 4)}


def _resident() -> int:
    deployments = ("Ingress", "Encoder", "Shard-0", "Shard-1")
    return resident_bytes([pid for deployment in deployments for pid in pids_of(deployment, "soak")])


def targets_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each part that ran was to show."""
    made: dict[str, dict[str, Any]] = {}
    for part in ("one", "two"):
        for deployment in ("Encoder", "Shard-0", "Ingress"):
            figures = found.get(part, {}).get(deployment)
            if figures:
                made[f"failed requests, {deployment} of {part} killed"] = target(figures["failed"], 0, at_most=True)
    if "stopped" in found.get("one", {}):
        hung, gone = found["one"]["stopped"], found["one"]["gone"]
        made["answers of a stopped shard / timeout_ms"] = target(round(hung["longest_ms"] / TIMEOUT_MS, 3), TOLERANCE, at_most=True)
        made["partial answers of a stopped shard"] = target(hung["partial"], hung["requests"])
        statuses = (gone["partial"] == {"shards_ok": 1, "shards_total": 2}, gone["require_complete"] == 503, gone["readyz"] == 503)
        made["partial, 503 and not ready where a shard is gone"] = target(sum(statuses), 3)
    if "failed" in found.get("node", {}):
        made["failed requests, a node killed"] = target(found["node"]["failed"], 0, at_most=True)
    if "lost" in found.get("kills", {}):
        made["acknowledged interactions lost"] = target(found["kills"]["lost"], 0, at_most=True)
        made["interactions doubled"] = target(found["kills"]["doubled"], 0, at_most=True)
    if "growth" in found.get("soak", {}):
        made["growth of memory over the soak"] = target(found["soak"]["growth"], 0.02, at_most=True)
        made["failed requests of the soak"] = target(found["soak"]["failed"], 0, at_most=True)
    return made


if __name__ == "__main__":
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    main()
