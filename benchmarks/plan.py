"""jobs.plan beside what was measured, at 10^5, 10^6 and 10^7 entries; and where its constants come from.

    python -m benchmarks.plan [--small] [--write] [--run-dir DIR]

Memories and exact indexes of two shards are written here: clustered vectors of 1,000 items, 576 wide at 10^5 and 10^6 entries, 64
wide at 10^7, by the functions of the package, on one core; a mini model encodes samples of MovieLens-100K. Search and codes are read from
the committed results of benchmarks.index_scale. Constants are taken from the measurement at 10^6 alone (``--write`` stores them as
l2d_ray/plan_constants.json); the other sizes are what the plan is held against: sizes within 10 %, times within a factor of 2.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from benchmarks.encoder import draw_users
from benchmarks.result import arguments, print_result, target
from jobs import prepare_data
from jobs.train import base_model
from l2d_ray.config import RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import iter_sequences
from l2d_ray.index.compressed import choose_num_lists
from l2d_ray.index.layout import IndexManifest, open_index
from l2d_ray.index.pairs import pairs_of_memory
from l2d_ray.index.plan import IndexOptions, finish_index, make_shard, plan_index
from l2d_ray.memory.entries import EntryBatch, table_of
from l2d_ray.memory.overview import stored_bytes
from l2d_ray.memory.sequences import RememberedSequence, store_sequences
from l2d_ray.memory.statistics import ItemStatistics
from l2d_ray.memory.table import Memory
from l2d_ray.model.encoder import Encoder
from l2d_ray.plan import CONSTANTS_PATH, Constants, Workload, encode_s, plan, query_s
from l2d_ray.schema import TRAIN, bucket_of
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import tokenize_titles

NUM_ITEMS, NUM_SHARDS, BATCH_ROWS, CORES = 1000, 2, 50_000, 1
SIZES = ((10**5, 576), (10**6, 576), (10**7, 64))
CALIBRATION = 10**6
LIST_BYTES = 300
"""Of a list of the inverted file beside its centroid: its neighbours in the graph (HNSW32: 64 numbers of 4 bytes) and its head."""
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Measured:
    """A memory and its exact index."""

    num_entries: int
    dim: int
    table_bytes: int
    sequence_bytes: int
    write_s: float
    index_s: float
    pass_s: float
    pairs_s: float
    segment_bytes: int
    manifest: IndexManifest


@dataclass(frozen=True)
class Encoded:
    """A pass of the encoder."""

    num_entries: int
    num_tokens: int
    num_parameters: int
    seconds: float


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--write", action="store_true", help="store the constants")
    options = parser.parse_args()
    torch.set_num_threads(CORES)
    sizes = ((20_000, 576), (60_000, 576)) if options.small else SIZES
    with tempfile.TemporaryDirectory(dir=options.run_dir) as folder:
        found = [measure(Path(folder) / str(size), size, dim) for size, dim in sizes]
        few_users, other_users = measure_encoding(Path(folder) / "run", 5 if options.small else 40)
    search = read("index_scale")
    search["sizes"] |= read("index_scale-1e7")["sizes"]
    calibration = found[-1] if options.small else next(m for m in found if m.num_entries == CALIBRATION)
    constants = constants_of(calibration, search, few_users)
    if options.write:
        CONSTANTS_PATH.write_text(constants.to_json())
    compared = {**compare_storage(found, constants), **compare_search(search, constants), **compare_encoding(other_users, constants)}
    print_result("plan", {"small": options.small, "compared": compared, "constants": json.loads(constants.to_json())}, targets(compared))


def measure(folder: Path, num_entries: int, dim: int) -> Measured:
    """Write and index a memory of so many entries, and delete both."""
    uri, index_dir = str(folder / "memory"), folder / "index"
    item_ids = [f"item-{number:04d}" for number in range(NUM_ITEMS)]
    memory = Memory.create(uri, fingerprint="plan", dim=dim, catalogue=Catalogue.from_rows((i, f"Title of {i}", {}) for i in item_ids))
    started = time.perf_counter()
    waited = 0.0
    for batch in batches(num_entries, dim, item_ids):
        made = time.perf_counter()
        memory = memory.append(memory.write(table_of([batch])), message="rows", sequences=(*memory.state.sequences, remember(uri, batch)))
        waited += time.perf_counter() - made
    del started
    planned = plan_index(memory, NUM_SHARDS, index_dir, options=IndexOptions(kind="exact", has_pairs=False))
    started = time.perf_counter()
    manifest = finish_index(planned, memory, [make_shard(planned, shard) for shard in range(NUM_SHARDS)])
    index_s = time.perf_counter() - started
    statistics = open_index(index_dir).shard(0, with_entries=False).statistics
    pass_s, pairs_s = (seconds_of_pairs(memory, statistics, items) for items in (1, len(statistics.counts)))
    segments = sum(path.stat().st_size for path in index_dir.rglob("segment-*/*"))
    sequence_bytes = stored_bytes(f"{uri}/files")
    measured = Measured(
        num_entries, dim, stored_bytes(uri) - sequence_bytes, sequence_bytes, waited, index_s, pass_s, pairs_s, segments, manifest
    )
    shutil.rmtree(folder)
    return measured


def seconds_of_pairs(memory: Memory, statistics: ItemStatistics, num_items: int) -> float:
    """To count the pairs of a shard's first items."""
    some = replace(statistics, item_indexes=statistics.item_indexes[:num_items], counts=statistics.counts[:num_items])
    started = time.perf_counter()
    pairs_of_memory(memory, some)
    return time.perf_counter() - started


def batches(num_entries: int, dim: int, item_ids: list[str]) -> Iterator[EntryBatch]:
    """Rows of users with ten entries each, around a centre an item."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(NUM_ITEMS, dim)).astype(np.float32)
    item_buckets = np.array([bucket_of(item_id) for item_id in item_ids], dtype=np.int16)
    for start in range(0, num_entries, BATCH_ROWS):
        count = min(BATCH_ROWS, num_entries - start)
        items = rng.integers(0, NUM_ITEMS, count)
        noise = rng.normal(size=(count, dim)).astype(np.float32)
        yield EntryBatch(
            rng.integers(0, 2**62, count),
            pa.array([f"user-{(start + row) // 10}" for row in range(count)]),
            pa.array(item_ids).take(pa.array(items)),
            rng.integers(1_500_000_000, 1_700_000_000, count),
            item_buckets[items],
            np.zeros(count, dtype=np.uint64),
            (centres[items] + 0.3 * noise).astype(np.float16),
        )


def remember(uri: str, batch: EntryBatch) -> str:
    """The sequences of a batch's users."""
    users, items, times = batch.user_ids.to_pylist(), batch.item_ids.to_pylist(), batch.timestamps.tolist()
    starts = range(0, len(batch), 10)
    return store_sequences(uri, [RememberedSequence(users[s], tuple(items[s : s + 10]), tuple(times[s : s + 10])) for s in starts])


def read(name: str) -> dict[str, Any]:
    """A committed result."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def constants_of(m: Measured, search: dict[str, Any], encoded: Encoded) -> Constants:
    """Constants from one size of the memory and one of the search."""
    vectors, of_size = 2 * m.dim * m.num_entries, search["sizes"][str(CALIBRATION)]
    dim, memory_bytes = search["dim"], of_size["memory_bytes_per_entry"]
    build, cores = of_size["build_entries_per_s"], search["threads"]
    scan_s, candidate_s = split_seconds("compressed", dim, of_size, cores)
    exact_scan_s, exact_neighbor_s = split_seconds("exact", dim, of_size, cores)
    copy_s = m.index_s / vectors  # of a float16 byte, before codes
    axes = search["sizes"][str(10**7)]["code_axes"]
    shared_bytes = choose_num_lists(CALIBRATION) * (4 * axes + LIST_BYTES) + 4 * dim * axes
    return Constants(
        memory_row_bytes=(m.table_bytes - vectors) / m.num_entries,
        sequence_bytes=m.sequence_bytes / m.num_entries,
        segment_row_bytes=(m.segment_bytes - vectors) / m.num_entries,
        axes_share=axes / dim,
        code_row_bytes=memory_bytes["compressed"] - axes / 8 - shared_bytes / CALIBRATION,
        list_bytes=LIST_BYTES,
        statistics_item_bytes=(sum(m.manifest.statistics_bytes) - 8 * NUM_SHARDS * m.dim**2) / NUM_ITEMS - 8 * m.dim,
        encode_flops=2 * encoded.num_parameters * encoded.num_tokens / encoded.seconds,
        write_bytes_per_s=vectors / m.write_s,
        exact_build_bytes_per_s=1 / copy_s,
        compressed_build_bytes_per_s=1 / (copy_s + cores / (build["compressed"] * 2 * dim)),
        pass_interaction_s=m.pass_s / m.num_entries,
        pairs_entry_s=(m.pairs_s - m.pass_s) / m.manifest.num_entries[0],
        exact_scan_s=exact_scan_s,
        exact_neighbor_s=exact_neighbor_s,
        scan_s=scan_s,
        candidate_s=candidate_s,
    )


NOTHING = dict.fromkeys((field.name for field in fields(Constants)), 0.0)


def split_seconds(kind: str, dim: int, figures: dict[str, Any], cores: int) -> tuple[float, float]:
    """Core-seconds of the two parts of a query's work, from queries with 100 and 500 neighbours; neither below zero."""
    parts = ("scan_s", "candidate_s") if kind == "compressed" else ("exact_scan_s", "exact_neighbor_s")
    work: NDArray[np.float64] = np.array([[query_part(kind, dim, m, part) for part in parts] for m in (100, 500)])
    observed = np.array([cores / figures["queries_per_s"][kind][f"batch 64, M {m}"] for m in (100, 500)])
    first, second = np.linalg.solve(work, observed)
    return (float(first), float(second)) if first > 0 and second > 0 else (float(observed[0] / work[0, 0]), 0.0)


def query_part(kind: str, dim: int, num_neighbors: int, part: str) -> float:
    """How much of a part's unit a query has to do with."""
    return query_s(CALIBRATION, workload(CALIBRATION, dim, kind, num_neighbors), Constants(**NOTHING | {part: 1.0}))


def workload(num_entries: int, dim: int, kind: Any, num_neighbors: int = 100, num_shards: int = 1) -> Workload:
    return Workload(num_entries, NUM_ITEMS, dim, 1, num_shards=num_shards, kind=kind, num_neighbors=num_neighbors, num_cores=CORES)


def compare_storage(found: list[Measured], constants: Constants) -> dict[str, dict[str, Any]]:
    """Bytes and seconds of memories and exact indexes, planned and measured."""
    compared = {}
    for m in found:
        largest = max(m.manifest.num_entries) / m.num_entries
        p = plan(Workload(m.num_entries, NUM_ITEMS, m.dim, 1, NUM_SHARDS, "exact", num_cores=CORES, largest_share=largest), constants)
        size = f"{m.num_entries} x {m.dim}"
        compared[f"{size}: memory on storage, bytes"] = pair(p.memory_disk_bytes, m.table_bytes + m.sequence_bytes, 1.1)
        compared[f"{size}: index on disk, bytes"] = pair(p.index_disk_bytes, m.segment_bytes, 1.1)
        statistics = plan(workload(m.num_entries, m.dim, "exact", num_shards=NUM_SHARDS), constants).shard_statistics_memory_bytes
        compared[f"{size}: statistics, bytes"] = pair(NUM_SHARDS * statistics, sum(m.manifest.statistics_bytes), 1.1)
        compared[f"{size}: writing, s"] = pair(3600 * p.write_hours, m.write_s, 2)
        compared[f"{size}: counting pairs of a shard, s"] = pair(3600 * p.pairs_hours * largest, m.pairs_s, 2)
        compared[f"{size}: building the index, s"] = pair(3600 * p.index_hours, m.index_s, 2)
    return compared


def compare_search(search: dict[str, Any], constants: Constants) -> dict[str, dict[str, Any]]:
    """Bytes in memory and seconds a query of both kinds, planned and measured."""
    compared, cores = {}, search["threads"]
    for size, figures in search["sizes"].items():
        num_entries, dim = int(size), search["dim"]
        for kind in ("exact", "compressed"):
            held = figures["memory_bytes_per_entry"][kind] * num_entries
            one = plan(workload(num_entries, dim, kind), constants)
            compared[f"{size}: {kind} in memory, bytes"] = pair(one.shard_entries_memory_bytes, held, 1.1)
            for m in (100, 500):
                planned = query_s(num_entries, workload(num_entries, dim, kind, m), constants) / cores
                compared[f"{size}: {kind}, M {m}, s a query"] = pair(planned, 1 / figures["queries_per_s"][kind][f"batch 64, M {m}"], 2)
    return compared


def measure_encoding(run_dir: Path, num_users: int) -> list[Encoded]:
    """Samples of some users and of four times as many others, encoded on one core by a mini model with random weights."""
    config = RunConfig.model_validate({"run_dir": str(run_dir), "device": "cpu", "model": {"name": "mini"}})
    prepare_data.main(config)
    catalogue = Catalogue.read(config.data_dir / "items.parquet")
    language_model = base_model(config, catalogue, "cpu")
    titles = tokenize_titles(language_model.tokenizer, catalogue.titles, config.model.max_title_tokens)
    encoder, item_id_to_title = Encoder(language_model.model), dict(zip(catalogue.item_ids, titles, strict=True))
    users = draw_users(list(iter_sequences(config.data_dir)), 5 * num_users)
    weights = language_model.model.named_parameters()
    num_parameters = sum(weight.numel() for name, weight in weights if "embed_tokens" not in name and "lm_head" not in name)
    found = []
    for chosen in (users[:num_users], users[num_users:]):
        windows = harvest(chosen, TRAIN, item_id_to_title=item_id_to_title, prompts=language_model.prompts).windows
        started = time.perf_counter()
        num_entries = len(encoder.encode_windows(windows))
        seconds = time.perf_counter() - started
        found.append(Encoded(num_entries, sum(len(window.token_ids) for window in windows), num_parameters, seconds))
    return found


def compare_encoding(encoded: Encoded, constants: Constants) -> dict[str, dict[str, Any]]:
    tokens_per_entry = encoded.num_tokens / encoded.num_entries
    w = Workload(encoded.num_entries, NUM_ITEMS, 1, encoded.num_parameters, tokens_per_entry=tokens_per_entry, num_cores=CORES)
    return {f"{encoded.num_entries} samples: encoding, s": pair(encode_s(w, constants), encoded.seconds, 2)}


def pair(planned: float, measured: float, within: float) -> dict[str, Any]:
    """Planned beside measured, and the factor between them, at least 1."""
    factor = max(planned / measured, measured / planned)
    return {"planned": round(planned, 6), "measured": round(measured, 6), "factor": round(factor, 3), "within": within}


def targets(compared: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: target(p["factor"], p["within"], at_most=True) for name, p in compared.items()}


if __name__ == "__main__":
    main()
