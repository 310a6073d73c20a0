"""The compressed kind against what a user would otherwise pick: same vectors, same queries, one run.

    python -m benchmarks.index_peers [--small] [--size 100000] [--skip lancedb-pq] [--run-dir DIR]

Needs the extra ``bench`` (LanceDB, USearch). Sides, each with a sweep of its own knob, interleaved round by round, medians, batches of 64,
M = 100, two threads each:

    compressed      l2d_ray's compressed kind; knob: lists probed
    lancedb-rq      LanceDB, IVF_RQ (RaBitQ) index, re-scored by refine_factor 2 from its own table; knob: nprobes
    lancedb-pq      LanceDB, IVF_PQ index with its default codes, refine_factor 10; knob: nprobes
    usearch         USearch HNSW over float16 vectors in memory (connectivity 16, expansion_add 128); knob: expansion_search

Queries a second at index recall 0.95 are read off each sweep, log-linearly between the two settings around it (None where the sweep does
not reach 0.95; the first setting where all of it lies above). Memory is the index's own: the codes file, which is read whole;
LanceDB's index files, which its cache holds; USearch's ``memory_usage``. Vectors as in ``benchmarks.index_scale``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import faiss
import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.index import IvfPq, IvfRq
from numpy.typing import NDArray
from tqdm import tqdm
from usearch.index import Index as UsearchIndex

from benchmarks.environment import restart_without_handicaps
from benchmarks.result import arguments, print_result, target
from benchmarks.vectors import NUM_USERS, jittered_entries, real_states
from l2d_ray.index.compressed import CompressedSearch, choose_num_lists
from l2d_ray.index.exact import ExactSearch

M, BATCH, NUM_QUERIES, WANTED = 100, 64, 64, 0.95
PROBES = (8, 16, 32, 64)
EXPANSIONS = (100, 150, 200, 300, 500)
BLOCK_ROWS = 65536

Search = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
"""(queries (b, d), knob) -> positions (b, M)."""


@dataclass(frozen=True)
class Peer:
    """A side that is built: how to search it, its knob's settings, what it cost."""

    search: Search
    knobs: Sequence[int]
    build_s: float
    memory_bytes: int
    disk_bytes: int


def main() -> None:
    restart_without_handicaps("benchmarks.index_peers")
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=100_000, help="entries (default 100000)")
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        help="measured rounds of every setting (default 1; LanceDB re-scores from its table and takes minutes a round)",
    )
    parser.add_argument("--skip", default="", help="sides to leave out, comma-separated; lancedb-pq takes 5 ms an entry to build")
    options = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    with TemporaryDirectory() as scratch:
        run_dir = options.run_dir or Path(scratch)
        states = real_states(run_dir, max_users=40 if options.small else NUM_USERS)
        entries = jittered_entries(states, 20_000 if options.small else options.size, run_dir / "entries")
        queries = states.queries[np.random.default_rng(0).permutation(len(states.queries))[:NUM_QUERIES]]
        oracle = ExactSearch(entries.vectors, entries.sample_ids).nearest(queries, M).positions
        peers = build_peers(entries.vectors, entries.sample_ids, Path(scratch), set(options.skip.split(",")))
        curves = sweep(peers, queries, oracle, options.rounds)
    report(options, entries.vectors, peers, curves)


def build_peers(vectors: NDArray[np.float16], sample_ids: NDArray[np.int64], scratch: Path, skipped: set[str]) -> dict[str, Peer]:
    lists = choose_num_lists(len(vectors))
    makers: dict[str, Callable[[], Peer]] = {
        "compressed": lambda: compressed(vectors, sample_ids, scratch),
        "lancedb-rq": lambda: lance(vectors, scratch / "rq", IvfRq(distance_type="l2", num_partitions=lists), refine_factor=2),
        "lancedb-pq": lambda: lance(vectors, scratch / "pq", IvfPq(distance_type="l2", num_partitions=lists), refine_factor=10),
        "usearch": lambda: usearch(vectors, scratch),
    }
    return {name: make() for name, make in makers.items() if name not in skipped}


def compressed(vectors: NDArray[np.float16], sample_ids: NDArray[np.int64], scratch: Path) -> Peer:
    started = time.perf_counter()
    path = CompressedSearch.build(vectors, scratch)
    build_s = time.perf_counter() - started
    kind = CompressedSearch.open(scratch, vectors, sample_ids)
    held = path.stat().st_size

    def search(queries: NDArray[np.float32], probes: int) -> NDArray[np.int64]:
        kind.num_probes = probes
        positions: NDArray[np.int64] = kind.nearest(queries, M).positions
        return positions

    return Peer(search, PROBES, build_s, held, held + vectors.nbytes)


def lance(vectors: NDArray[np.float16], folder: Path, index: IvfRq | IvfPq, *, refine_factor: int) -> Peer:
    """LanceDB answers one query a call, so a batch goes to a pool of as many threads as the others use."""
    database = lancedb.connect(folder)
    kind = pa.list_(pa.float16(), vectors.shape[1])
    schema = pa.schema({"position": pa.int64(), "vector": kind})
    table = database.create_table("entries", schema=schema)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.array(vectors[start : start + BLOCK_ROWS])
        column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=kind)
        table.add(pa.table([pa.array(np.arange(start, start + len(block))), column], schema=schema))
    started = time.perf_counter()
    table.create_index("vector", config=index)
    build_s = time.perf_counter() - started
    pool = ThreadPoolExecutor(torch.get_num_threads())

    def one(query: NDArray[np.float32], probes: int) -> NDArray[np.int64]:
        found = table.search(query).select(["position", "_distance"]).limit(M).nprobes(probes).refine_factor(refine_factor).to_arrow()
        positions: NDArray[np.int64] = found["position"].to_numpy()
        return positions

    def search(queries: NDArray[np.float32], probes: int) -> NDArray[np.int64]:
        return np.stack(list(pool.map(partial(one, probes=probes), queries)))

    held = sum(bytes_under(path) for path in folder.rglob("_indices"))
    return Peer(search, PROBES, build_s, held, bytes_under(folder))


def usearch(vectors: NDArray[np.float16], scratch: Path) -> Peer:
    threads = torch.get_num_threads()

    index = UsearchIndex(ndim=vectors.shape[1], metric="l2sq", dtype="f16", connectivity=16, expansion_add=128)
    started = time.perf_counter()
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.array(vectors[start : start + BLOCK_ROWS])
        index.add(np.arange(start, start + len(block)), block, threads=threads)
    build_s = time.perf_counter() - started
    index.save(str(scratch / "usearch"))

    def search(queries: NDArray[np.float32], expansion: int) -> NDArray[np.int64]:
        index.expansion_search = expansion
        positions: NDArray[np.int64] = index.search(queries.astype(np.float16), M, threads=threads).keys.astype(np.int64)
        return positions

    return Peer(search, EXPANSIONS, build_s, int(index.memory_usage), (scratch / "usearch").stat().st_size)


def bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sweep(
    peers: dict[str, Peer], queries: NDArray[np.float32], oracle: NDArray[np.int64], num_rounds: int
) -> dict[str, list[dict[str, float]]]:
    """For every side the settings of its knob, ascending, with index recall and queries a second."""
    settings = [(name, knob) for name, peer in peers.items() for knob in peer.knobs]
    recalls: dict[tuple[str, int], float] = {}
    seconds: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    for number in range(num_rounds + 1):
        for name, knob in tqdm(settings, desc=f"round {number} of {num_rounds}"):
            started = time.perf_counter()
            parts = [peers[name].search(queries[start : start + BATCH], knob) for start in range(0, len(queries), BATCH)]
            if number:
                seconds[name, knob].append((time.perf_counter() - started) / len(queries))
            else:
                shares = [len(np.intersect1d(f, o)) / M for f, o in zip(np.concatenate(parts), oracle, strict=True)]
                recalls[name, knob] = float(np.mean(shares))
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
    for name, knob in settings:
        rate = 1 / median(seconds[name, knob])
        curves[name].append({"knob": knob, "index_recall": round(recalls[name, knob], 4), "queries_per_s": round(rate, 1)})
    return curves


def rate_at(curve: Sequence[dict[str, float]], recall: float) -> float | None:
    """Queries a second where a sweep crosses ``recall``, log-linearly; None where it does not reach it."""
    for before, after in zip([None, *curve[:-1]], curve, strict=True):
        if after["index_recall"] >= recall:
            if before is None or after["index_recall"] == before["index_recall"]:
                return after["queries_per_s"]
            share = (recall - before["index_recall"]) / (after["index_recall"] - before["index_recall"])
            logs = np.log([before["queries_per_s"], after["queries_per_s"]])
            return round(float(np.exp(logs[0] + share * (logs[1] - logs[0]))), 1)
    return None


def report(
    options: argparse.Namespace, vectors: NDArray[np.float16], peers: dict[str, Peer], curves: dict[str, list[dict[str, float]]]
) -> None:
    size, dim = vectors.shape
    rates = {name: rate_at(curve, WANTED) for name, curve in curves.items()}
    ours = rates["compressed"]
    figures = {
        "small": options.small,
        "num_entries": size,
        "dim": dim,
        "num_neighbors": M,
        "threads": torch.get_num_threads(),
        "queries_per_s_at_recall": {"recall": WANTED, **rates},
        "build_s": {name: round(peer.build_s, 1) for name, peer in peers.items()},
        "memory_bytes_per_entry": {name: round(peer.memory_bytes / size, 1) for name, peer in peers.items()},
        "disk_bytes_per_entry": {name: round(peer.disk_bytes / size, 1) for name, peer in peers.items()},
        "curves": curves,
    }
    targets = {
        f"compressed over {name} at index recall {WANTED}": target(None if not (ours and rate) else round(ours / rate, 2), 1)
        for name, rate in rates.items()
        if name != "compressed"
    }
    print_result("index_peers", figures, targets)


if __name__ == "__main__":
    main()
