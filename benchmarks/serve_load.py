"""What HTTP and Ray Serve cost over the decoder in one process, and what they hold: latency, rates, overload. All sides in one run.

    python -m benchmarks.serve_load [--small] [--proxy haproxy|serve] [--port 8765]

Everything is on this machine, the load generator too, over one run of benchmarks.serving. Every request has a history of its own, so no
cached state helps. Sides:

    in process   LatentDecoder, one history at a time, and 16 at once as one batch
    batched      the application, two shards: requests that wait share calls
    unbatched    the same with max_batch_size 1: every request is a call of its own to the encoder and to each shard
    eight        the same with eight shards

Overload: an open loop at 5 times what a closed loop of 64 clients reached; goodput is what was answered 200. After it an open loop at half
the capacity says when the service is normal again: the first second from which nothing fails and no median is over twice the usual.
Returning users: histories that grow by an item from one request to the next, with an encoder that keeps keys and values and one that does
not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvloop

from benchmarks.open_loop import Bodies, Load, closed_loop, open_loop
from benchmarks.result import arguments, print_result, target
from benchmarks.serving import ServedRun, application, cluster, draw_histories, make_run
from l2d_ray.decode.decoder import LatentDecoder
from l2d_ray.serve.environment import set_environment

CONCURRENCY, CLIENTS_AT_CAPACITY, OVERLOAD, ROUNDS = 16, 64, 5, 4
LENGTHS = range(30, 46)
RECOVERY_S = 5.0


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    num_items: int
    num_entries: int
    duration_s: float
    num_single: int


SMALL, FULL = Sizes(300, 3000, 2.0, 30), Sizes(5000, 50_000, 10.0, 300)


def main() -> None:
    options = parser().parse_args()
    sizes = SMALL if options.small else FULL
    torch.set_num_threads(1)
    set_environment(haproxy=options.proxy == "haproxy")
    with tempfile.TemporaryDirectory() as folder:
        run_dir = options.run_dir or Path(folder)
        run = make_run(run_dir, num_items=sizes.num_items, num_entries=sizes.num_entries, shards=(2, 8))
        with cluster(options.port) as url:
            found = measure(run, url, sizes)
    print_result("serve_load", {"small": options.small, "proxy": options.proxy} | found, targets_of(found))


def parser() -> argparse.ArgumentParser:
    made = arguments(__doc__)
    made.add_argument("--proxy", choices=("haproxy", "serve"), default="haproxy", help="what stands in front of the ingress")
    made.add_argument("--port", type=int, default=8765)
    return made


def measure(run: ServedRun, url: str, sizes: Sizes) -> dict[str, Any]:
    """All sides, one after another."""
    decoder = run.decoder(2)
    bodies = bodies_of(run, 4000, seed=1)
    found: dict[str, Any] = {"in_process": in_process(decoder, sizes)}
    with application(url, run.arguments(2, cached_states=0), "batched") as route:
        uvloop.run(closed_loop(route, bodies, concurrency=4, duration_s=1))
        found["batched"] = one_at_a_time(route, bodies, sizes) | {"ks": ks(route, run, sizes)} | many(route, bodies, sizes)
        found["overload"] = overload(route, bodies, sizes)
        with application(url, run.arguments(2, cached_states=0, kept_history_mib=0), "whole") as other:
            uvloop.run(closed_loop(other, bodies, concurrency=4, duration_s=1))
            found["returning"] = returning({"kept": route, "whole": other}, run, sizes)
    with application(url, run.arguments(2, cached_states=0, max_batch_size=1, calls_per_replica=CONCURRENCY), "unbatched") as route:
        uvloop.run(closed_loop(route, bodies, concurrency=4, duration_s=1))
        found["unbatched"] = many(route, bodies, sizes)
    with application(url, run.arguments(8, cached_states=0, shard_num_cpus=0.05), "eight") as route:
        uvloop.run(closed_loop(route, bodies, concurrency=4, duration_s=1))
        found["eight"] = one_at_a_time(route, bodies, sizes) | many(route, bodies, sizes)
    return found


def bodies_of(run: ServedRun, count: int, *, seed: int, **options: Any) -> Bodies:
    """Requests with a history of their own each."""
    return [{"history": history, "k": 10, "decoder": "whitened"} | options for history in run.histories(count, seed=seed)]


def in_process(decoder: LatentDecoder, sizes: Sizes) -> dict[str, Any]:
    """One history at a time, and in batches of 16."""
    histories = draw_histories(sizes.num_items, 2 * sizes.num_single, seed=2)

    def answer(batch: list[list[int]]) -> None:
        decoder.recommend(batch, 10, decoder="whitened", excluded=batch)

    single = [timed(lambda history=history: answer([history])) for history in histories]  # type: ignore[misc]
    batches = [histories[start : start + CONCURRENCY] for start in range(0, len(histories) - CONCURRENCY + 1, CONCURRENCY)]
    together = [timed(lambda batch=batch: answer(batch)) for batch in batches]  # type: ignore[misc]
    return {"single_ms": round(statistics.median(single) * 1000, 2), "batch_per_s": round(CONCURRENCY / statistics.median(together), 1)}


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def one_at_a_time(route: str, bodies: Bodies, sizes: Sizes) -> dict[str, Any]:
    load = uvloop.run(closed_loop(route, bodies, concurrency=1, duration_s=sizes.duration_s))
    return {"one_at_a_time": load.summary()}


def many(route: str, bodies: Bodies, sizes: Sizes) -> dict[str, Any]:
    """16 at once, and an open loop at half of what that reached."""
    closed = uvloop.run(closed_loop(route, bodies, concurrency=CONCURRENCY, duration_s=sizes.duration_s))
    half = uvloop.run(open_loop(route, bodies, rate=max(closed.per_s / 2, 1), duration_s=sizes.duration_s))
    return {"sixteen": closed.summary(), "half_rate": half.summary() | {"rate": round(closed.per_s / 2, 1)}}


def ks(route: str, run: ServedRun, sizes: Sizes) -> dict[str, float]:
    """Median latency one at a time by k, the two interleaved."""
    sides = {k: bodies_of(run, 500, seed=4, k=k) for k in (10, 500)}
    medians: dict[int, list[float]] = {k: [] for k in sides}
    for number in range(ROUNDS):
        for k, bodies in sides.items():
            load = uvloop.run(closed_loop(route, bodies[number * 100 :], concurrency=1, duration_s=sizes.duration_s / ROUNDS))
            medians[k].append(load.percentile(50))
    return {f"k{k}_p50_ms": round(statistics.median(found), 2) for k, found in medians.items()}


def overload(route: str, bodies: Bodies, sizes: Sizes) -> dict[str, Any]:
    """Peak, goodput at five times as much, and how long until it is normal again."""
    peak = uvloop.run(closed_loop(route, bodies, concurrency=CLIENTS_AT_CAPACITY, duration_s=sizes.duration_s))
    usual = uvloop.run(open_loop(route, bodies, rate=max(peak.per_s / 2, 1), duration_s=sizes.duration_s))
    flood = uvloop.run(open_loop(route, bodies, rate=OVERLOAD * peak.per_s, duration_s=sizes.duration_s))
    after = uvloop.run(open_loop(route, bodies, rate=max(peak.per_s / 2, 1), duration_s=2 * RECOVERY_S))
    in_time = sum(1 for at, _ in flood.done if at <= flood.started + sizes.duration_s)
    return {
        "peak": peak.summary(),
        "usual": usual.summary(),
        "flood": flood.summary() | {"rate": round(OVERLOAD * peak.per_s, 1), "without_retry_after": flood.without_retry_after},
        "goodput_per_s": round(in_time / sizes.duration_s, 1),
        "after": after.summary(),
        "normal_after_s": normal_after(after, usual.percentile(50)),
    }


def normal_after(load: Load, usual_ms: float) -> float:
    """The first whole second from which every second's median is at most twice the usual; infinity where something failed."""
    if load.num_failed:
        return float("inf")
    seconds: dict[int, list[float]] = {}
    for at, ms in load.done:
        seconds.setdefault(int(at - ms / 1000 - load.started), []).append(ms)
    slow = [second for second, latencies in seconds.items() if statistics.median(latencies) > 2 * usual_ms]
    return float(max(slow, default=-1) + 1)


def returning(routes: Mapping[str, str], run: ServedRun, sizes: Sizes) -> dict[str, Any]:
    """Users who come back with one item more, at first with 30: an encoder that keeps what it has read, and one that reads it again."""
    longest = LENGTHS[-1]
    users = run.histories(16 * CONCURRENCY, seed=5, length=longest)
    groups = [users[start : start + CONCURRENCY] for start in range(0, len(users), CONCURRENCY)]
    histories = [history[:length] for group in groups for length in LENGTHS for history in group]
    bodies = [{"history": history, "k": 10, "decoder": "whitened"} for history in histories]
    found: dict[str, dict[int, list[Load]]] = {side: {1: [], CONCURRENCY: []} for side in routes}
    for number in range(ROUNDS):
        for concurrency, part in ((1, bodies[::CONCURRENCY]), (CONCURRENCY, bodies)):
            for side, route in routes.items():
                sent = part[number * len(part) // ROUNDS :]
                load = uvloop.run(closed_loop(route, sent, concurrency=concurrency, duration_s=sizes.duration_s / ROUNDS))
                found[side][concurrency].append(load)
    return {side: {f"at_once_{n}": _medians(loads) for n, loads in by.items()} for side, by in found.items()}


def _medians(loads: Sequence[Load]) -> dict[str, float]:
    return {
        "per_s": round(statistics.median(load.per_s for load in loads), 1),
        "p50_ms": round(statistics.median(load.percentile(50) for load in loads), 2),
        "failed": float(sum(load.num_failed for load in loads)),
    }


def targets_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    batched, unbatched, flood = found["batched"], found["unbatched"], found["overload"]
    sixteen = batched["sixteen"]["per_s"]
    overhead = round(batched["one_at_a_time"]["latency_ms"]["p50"] - found["in_process"]["single_ms"], 2)
    ks = batched["ks"]
    grown = round(max(ks.values()) / min(ks.values()), 3)
    eight = round(found["eight"]["one_at_a_time"]["latency_ms"]["p50"] / batched["one_at_a_time"]["latency_ms"]["p50"], 2)

    def returning_ratio(at_once: str) -> float:
        sides = found["returning"]
        return round(float(sides["kept"][at_once]["p50_ms"] / sides["whole"][at_once]["p50_ms"]), 2)

    refused = set(flood["flood"]["outcomes"]) - {"200", "429", "503"}
    return {
        "overhead at concurrency 1, p50 ms": target(overhead, 10.0, at_most=True),
        "requests/s at 16, batched / unbatched": target(round(sixteen / unbatched["sixteen"]["per_s"], 2), 3.0),
        "requests/s at 16 / in-process batch rate": target(round(sixteen / found["in_process"]["batch_per_s"], 2), 0.7),
        "latency of k = 500 / k = 10, or its inverse": target(grown, 1.2, at_most=True),
        "latency of 8 shards / 2 shards": target(eight, 2.0, at_most=True),
        "returning users, one at a time: p50 kept / whole": target(returning_ratio("at_once_1"), 1.0, at_most=True),
        f"returning users, {CONCURRENCY} at once: p50 kept / whole": target(returning_ratio(f"at_once_{CONCURRENCY}"), 1.0, at_most=True),
        "goodput at 5x capacity / peak": target(round(flood["goodput_per_s"] / flood["peak"]["per_s"], 2), 0.8),
        "other than 200, 429, 503 under overload": target(float(len(refused) + flood["flood"]["without_retry_after"]), 0.0, at_most=True),
        "normal after overload, s": target(flood["normal_after_s"], RECOVERY_S, at_most=True),
    }


if __name__ == "__main__":
    main()
