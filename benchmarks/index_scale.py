"""Search of one segment at 10^5, 10^6 and 10^7 entries: queries a second, index recall, memory, disk, build rate, the recommender's recall.

    python -m benchmarks.index_scale [--small] [--sizes 100000,1000000] [--run-dir DIR]
    python -m benchmarks.index_scale --sizes 10000000 --run-dir DIR        needs 20 GB of memory and 25 GB of disk

Vectors: SmolLM2-135M's states of MovieLens-100K (d = 576), jittered to size (``benchmarks.vectors``); queries: states of its validation
samples. Sides, interleaved round by round, medians, two threads each:

    exact         l2d_ray's exact kind on the CPU (pruned; the float16 vectors stay on disk, memory-mapped)
    compressed    l2d_ray's compressed kind with its defaults
    faiss-flat    faiss IndexFlatL2 (float32 in memory)
    faiss-sq16    faiss IndexScalarQuantizer, float16 in memory: what a user takes for single queries

The faiss sides are left out where float32 vectors do not fit a third of the memory. Memory is what a side must hold of its own (pages
of memory-mapped files, which the system may drop, are not in it; sample ids and items stay memory-mapped too). Recall@20 is the local
decoder's, unmasked, by item id.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from benchmarks.environment import restart_without_handicaps
from benchmarks.result import arguments, print_result, target
from benchmarks.vectors import JITTER, NEIGHBOR, NUM_USERS, Entries, States, jittered_entries, real_states
from l2d_ray.index.compressed import CODES, CompressedSearch
from l2d_ray.index.exact import ExactSearch
from l2d_ray.index.search import squared_distances

NUM_NEIGHBORS = (100, 500)
BATCHES = (1, 64)
SINGLES = 8
K = 20
RECALL_QUERIES = 2500
REST_S = 0.05
SIZES = "100000,1000000"

Search = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
"""(queries (b, d), num_neighbors) -> positions (b, num_neighbors)."""


@dataclass(frozen=True)
class Side:
    """One way to search, ready, with what it cost to make and to hold."""

    search: Search
    build_s: float
    memory_bytes: int
    disk_bytes: int


def main() -> None:
    restart_without_handicaps("benchmarks.index_scale")
    options = parser().parse_args()
    sizes = [20000] if options.small else [int(size) for size in options.sizes.split(",")]
    faiss.omp_set_num_threads(torch.get_num_threads())
    with TemporaryDirectory() as scratch:
        run_dir = options.run_dir or Path(scratch)
        states = real_states(run_dir, max_users=40 if options.small else NUM_USERS)
        found = {size: measure(jittered_entries(states, size, run_dir / "entries"), states, run_dir, options.rounds) for size in sizes}
    figures = {
        "small": options.small,
        "dim": states.vectors.shape[1],
        "num_states": len(states.vectors),
        "jitter": f"{JITTER} of the distance to neighbour {NEIGHBOR}",
        "threads": torch.get_num_threads(),
        "sizes": found,
    }
    print_result("index_scale", figures, targets(found))


def parser() -> argparse.ArgumentParser:
    found = arguments(__doc__)
    found.add_argument("--sizes", default=SIZES, help=f"numbers of entries, comma-separated (default {SIZES})")
    found.add_argument("--rounds", type=int, default=5, help="measured rounds of every side (default 5)")
    return found


def measure(entries: Entries, states: States, run_dir: Path, num_rounds: int) -> dict[str, Any]:
    """Everything about one size."""
    size, dim = entries.vectors.shape
    sides = make_sides(entries, run_dir / f"codes-{size}")
    queries = draw(states, max(BATCHES) * num_rounds)[0]
    rates = queries_per_s(sides, queries, num_rounds)
    oracle = {m: sides["exact"].search(queries, m) for m in NUM_NEIGHBORS}
    approximate = {m: sides["compressed"].search(queries, m) for m in NUM_NEIGHBORS}
    return {
        "code_axes": num_code_axes(run_dir / f"codes-{size}"),
        "queries_per_s": rates,
        "index_recall": {str(m): round(overlap(approximate[m], oracle[m]), 4) for m in NUM_NEIGHBORS},
        "memory_bytes_per_entry": {name: round(side.memory_bytes / size, 1) for name, side in sides.items()},
        "disk_bytes_per_entry": {name: round(side.disk_bytes / size, 1) for name, side in sides.items()},
        "build_entries_per_s": {name: round(size / side.build_s) for name, side in sides.items()},
        "memory_share_of_float16": round(sides["compressed"].memory_bytes / (2 * dim * size), 4),
        "recall@20": recommender_recall(sides, entries, states),
    }


def num_code_axes(folder: Path) -> int:
    """Axes of which a code keeps a bit."""
    codes = faiss.read_index(str(folder / CODES))  # owns ``codes.index``
    return int(codes.index.d)


def make_sides(entries: Entries, folder: Path) -> dict[str, Side]:
    """Build every side of one size; ``folder`` receives the codes."""
    vectors, sample_ids = entries.vectors, entries.sample_ids
    dim = vectors.shape[1]
    folder.mkdir(parents=True, exist_ok=True)
    exact, exact_s = timed(lambda: ExactSearch(vectors, sample_ids))
    codes, compressed_s = timed(lambda: CompressedSearch.build(vectors, folder))
    compressed = CompressedSearch.open(folder, vectors, sample_ids)
    sides = {
        "exact": Side(positions_of(exact), exact_s, exact.num_bytes, vectors.nbytes),
        "compressed": Side(positions_of(compressed), compressed_s, codes.stat().st_size, vectors.nbytes + codes.stat().st_size),
    }
    if vectors.size * 4 < psutil.virtual_memory().total / 3:
        flat, scalar = faiss.IndexFlatL2(dim), faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
        sides["faiss-flat"] = Side(faiss_search(flat), timed(lambda: fill(flat, vectors))[1], 4 * vectors.size, 4 * vectors.size)
        sides["faiss-sq16"] = Side(faiss_search(scalar), timed(lambda: fill(scalar, vectors))[1], 2 * vectors.size, 2 * vectors.size)
    return sides


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def positions_of(search: ExactSearch | CompressedSearch) -> Search:
    return lambda queries, num_neighbors: search.nearest(queries, num_neighbors).positions


def faiss_search(index: faiss.Index) -> Search:
    return lambda queries, num_neighbors: index.search(queries, num_neighbors)[1]


def fill(index: faiss.Index, vectors: NDArray[np.float16]) -> None:
    if not index.is_trained:
        index.train(vectors[:1024].astype(np.float32))
    for start in range(0, len(vectors), 65536):
        index.add(vectors[start : start + 65536].astype(np.float32))


def queries_per_s(sides: dict[str, Side], queries: NDArray[np.float32], num_rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds, ``{side: {"batch 64, M 100": ...}}``; a round is one batch of every side, the first is a warm-up.

    Before its turn a side rests, so that the threads of the one before have gone to sleep, and answers another batch untimed, so that its
    own are awake and the processor's caches hold what its searches share.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for number in range(num_rounds + 1):
        for batch, num_neighbors in ((b, m) for b in BATCHES for m in NUM_NEIGHBORS):
            start, other = (max(BATCHES) * ((number + turn) % num_rounds) for turn in (0, 1))
            calls = [queries[start : start + batch]] if batch > 1 else [queries[start + i : start + i + 1] for i in range(SINGLES)]
            for name, side in sides.items():
                time.sleep(REST_S)
                side.search(queries[other : other + batch], num_neighbors)
                spent = median(timed(partial(side.search, call, num_neighbors))[1] for call in calls)
                if number:
                    seconds[name].setdefault(f"batch {batch}, M {num_neighbors}", []).append(spent / batch)
    return {name: {key: round(1 / median(values), 2) for key, values in found.items()} for name, found in seconds.items()}


def draw(states: States, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Queries and their targets, drawn with a fixed seed; all where there are fewer."""
    rows = np.random.default_rng(0).permutation(len(states.queries))[:count]
    return states.queries[rows], states.query_targets[rows]


def overlap(found: NDArray[np.int64], oracle: NDArray[np.int64]) -> float:
    """Index recall: the share of the true neighbours that were found, mean over queries."""
    return float(np.mean([len(np.intersect1d(f, o)) / len(o) for f, o in zip(found, oracle, strict=True)]))


def recommender_recall(sides: dict[str, Side], entries: Entries, states: States) -> dict[str, dict[str, float]]:
    """Recall@20 of the local decoder on ``RECALL_QUERIES`` validation samples, and how far compressed is from exact.

    An exact list is a prefix of every longer one, so the exact side is searched once.
    """
    queries, targets = draw(states, RECALL_QUERIES)
    found: dict[str, dict[str, float]] = {}
    batches = [queries[start : start + 64] for start in range(0, len(queries), 64)]
    exact = np.concatenate([sides["exact"].search(batch, max(NUM_NEIGHBORS)) for batch in batches])
    for num_neighbors in NUM_NEIGHBORS:
        approximate = np.concatenate([sides["compressed"].search(batch, num_neighbors) for batch in batches])
        recall = {}
        for name, positions in (("exact", exact[:, :num_neighbors]), ("compressed", approximate)):
            hits = [t in local_items(q, p, entries) for q, p, t in zip(queries, positions, targets, strict=True)]
            recall[name] = round(float(np.mean(hits)), 4)
        difference = abs(recall["compressed"] - recall["exact"]) / max(recall["exact"], 1e-9)
        found[f"M {num_neighbors}"] = recall | {"relative_difference": round(difference, 4)}
    return found


def local_items(query: NDArray[np.float32], positions: NDArray[np.int64], entries: Entries) -> NDArray[np.int64]:
    """The K items whose mean over the found entries is nearest (L2D-L)."""
    items, rows = np.unique(entries.item_indexes[positions], return_inverse=True)
    sums = np.zeros((len(items), entries.vectors.shape[1]))
    np.add.at(sums, rows, entries.vectors[positions].astype(np.float64))
    means = (sums / np.bincount(rows)[:, None]).astype(np.float32)
    order = np.lexsort((items, squared_distances(query, means)))
    best: NDArray[np.int64] = items[order[:K]]
    return best


def targets(found: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The issue's targets, at every size."""
    wanted: dict[str, dict[str, Any]] = {}
    for size, figures in found.items():
        rates, share = figures["queries_per_s"], figures["memory_share_of_float16"]
        ratio = {key: rate / rates["faiss-flat"][key] if "faiss-flat" in rates else None for key, rate in rates["exact"].items()}
        for key in (f"batch 64, M {m}" for m in NUM_NEIGHBORS):
            speed = ratio[key]
            wanted[f"{size}: exact over faiss flat, {key}"] = target(None if speed is None else round(speed, 2), 4)
            gain = round(rates["compressed"][key] / rates["exact"][key], 2)
            wanted[f"{size}: compressed over exact, {key}"] = target(gain, 10) | ({} if size >= 10**7 else {"wanted at": 10**7})
        for m in NUM_NEIGHBORS:
            wanted[f"{size}: index recall@{m}"] = target(figures["index_recall"][str(m)], 0.95)
            wanted[f"{size}: recall@20 from exact, M {m}"] = target(
                figures["recall@20"][f"M {m}"]["relative_difference"], 0.01, at_most=True
            )
        wanted[f"{size}: codes over float16 bytes"] = target(share, 0.08, at_most=True)
    return wanted


if __name__ == "__main__":
    main()
