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
User states: what encoding costs where a user's history has grown by one item, whole and as a tail over the kept keys and values.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop

from benchmarks.open_loop import Bodies, Load, closed_loop, open_loop
from benchmarks.result import arguments, print_result, target
from benchmarks.serving import ServedRun, application, cluster, draw_histories, make_run
from l2d_ray.decode.decoder import LatentDecoder
from l2d_ray.serve.environment import set_environment

CONCURRENCY, CLIENTS_AT_CAPACITY, OVERLOAD = 16, 64, 5
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
    found: dict[str, Any] = {"in_process": in_process(decoder, sizes), "user_states": user_states(decoder)}
    with application(url, run.arguments(2, cached_states=0), "batched") as route:
        uvloop.run(closed_loop(route, bodies, concurrency=4, duration_s=1))
        found["batched"] = one_at_a_time(route, bodies, sizes) | {"ks": ks(route, run, sizes)} | many(route, bodies, sizes)
        found["overload"] = overload(route, bodies, sizes)
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
    for number in range(4):
        for k, bodies in sides.items():
            load = uvloop.run(closed_loop(route, bodies[number * 100 :], concurrency=1, duration_s=sizes.duration_s / 4))
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


def user_states(decoder: LatentDecoder) -> dict[str, Any]:
    """Milliseconds of encoding a history of 10 and of 40 items grown by one: whole, one at a time and 16 in a pass; and its tail alone."""
    return {f"history_{length}": _grown(decoder, length) for length in (10, 40)}


@torch.inference_mode()
def _grown(decoder: LatentDecoder, length: int) -> dict[str, float]:
    rng, body = np.random.default_rng(length), decoder.encoder.body
    histories = [rng.integers(0, len(decoder.writer.titles), length).tolist() for _ in range(CONCURRENCY)]
    prompts = [decoder.writer.write(history) for history in histories]
    tail = torch.from_numpy(np.concatenate([decoder.writer.titles[0], prompts[0][-1:]]).astype(np.int64))[None]
    whole = torch.from_numpy(prompts[0].astype(np.int64))[None]
    whole_ms, tail_ms = [], []
    for _ in range(20):
        kept = body(input_ids=whole, use_cache=True).past_key_values
        tail_ms.append(timed(lambda kept=kept: body(input_ids=tail, past_key_values=kept, use_cache=True)) * 1000)  # type: ignore[misc]
        whole_ms.append(timed(lambda: decoder.encoder.encode(prompts[:1])) * 1000)
    batch_ms = [timed(lambda: decoder.encoder.encode(prompts)) * 1000 for _ in range(10)]
    return {
        "whole_ms": round(statistics.median(whole_ms), 2),
        "whole_in_a_batch_ms": round(statistics.median(batch_ms) / CONCURRENCY, 2),
        "tail_ms": round(statistics.median(tail_ms), 2),
    }


def targets_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    batched, unbatched, flood = found["batched"], found["unbatched"], found["overload"]
    sixteen = batched["sixteen"]["per_s"]
    overhead = round(batched["one_at_a_time"]["latency_ms"]["p50"] - found["in_process"]["single_ms"], 2)
    ks = batched["ks"]
    grown = round(max(ks.values()) / min(ks.values()), 3)
    eight = round(found["eight"]["one_at_a_time"]["latency_ms"]["p50"] / batched["one_at_a_time"]["latency_ms"]["p50"], 2)
    refused = set(flood["flood"]["outcomes"]) - {"200", "429", "503"}
    return {
        "overhead at concurrency 1, p50 ms": target(overhead, 10.0, at_most=True),
        "requests/s at 16, batched / unbatched": target(round(sixteen / unbatched["sixteen"]["per_s"], 2), 3.0),
        "requests/s at 16 / in-process batch rate": target(round(sixteen / found["in_process"]["batch_per_s"], 2), 0.7),
        "latency of k = 500 / k = 10, or its inverse": target(grown, 1.2, at_most=True),
        "latency of 8 shards / 2 shards": target(eight, 2.0, at_most=True),
        "goodput at 5x capacity / peak": target(round(flood["goodput_per_s"] / flood["peak"]["per_s"], 2), 0.8),
        "other than 200, 429, 503 under overload": target(float(len(refused) + flood["flood"]["without_retry_after"]), 0.0, at_most=True),
        "normal after overload, s": target(flood["normal_after_s"], RECOVERY_S, at_most=True),
    }


if __name__ == "__main__":
    main()
