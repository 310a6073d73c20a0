"""What N entries take: storage, memory, hours to build, queries a second, bytes a query. Formulas here, their constants measured.

``plan_constants.json`` is written by ``python -m benchmarks.plan --write`` from measurements at 10^6 entries on two cores; the same
benchmark holds the formulas beside what was measured at 10^5 and 10^7. The rate of a GPU was not measured: it follows from its peak and a
utilisation that the caller states.

    memory     N (2 d + row) on storage, and every interaction's id and time once more in the user sequences
    index      N (2 d + row) on disk; compressed: + N codes (a bit an axis, factors, id) and the centroids
    serving    statistics: 8 d + a few numbers an item and 8 d^2 a shard; pairs: 8 bytes each, at most NUM_SOURCES an item; entries: columns
               of the exact kind, or the codes
    pairs      every shard passes over all interactions, more than once where its pairs do not fit memory
    encoding   2 P tokens floating-point operations for P parameters
    search     exact: to the columns of all entries and the neighbours; compressed: to the codes in the probed lists and the candidates
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from l2d_ray.decode.local import ENTRY
from l2d_ray.decode.local_merge import first_limits
from l2d_ray.errors import ConfigError
from l2d_ray.index.compressed import CANDIDATES_PER_NEIGHBOR, MORE_CANDIDATES, NUM_PROBES, choose_num_lists
from l2d_ray.index.exact import head_width
from l2d_ray.memory.pairs import MAX_PAIRS, NUM_SOURCES, WINDOW

CONSTANTS_PATH: Final = Path(__file__).with_name("plan_constants.json")
SECONDS_PER_HOUR: Final = 3600
REQUEST_ROW_BYTES: Final = 8
"""A request's limit a query, beside the query vector."""


@dataclass(frozen=True)
class Constants:
    """Measured by benchmarks.plan and benchmarks.index_scale; rates are those of one core.

    Attributes:
        memory_row_bytes: of a row in the memory's table beside its vector.
        sequence_bytes: of an interaction in the user sequences.
        segment_row_bytes: of an entry in the index's files beside its vector and code.
        axes_share: principal axes that a code keeps a bit of, over d; a matter of the model's states.
        code_row_bytes: of a code beside its bits.
        list_bytes: of a list of the inverted file beside its centroid.
        statistics_item_bytes: of an item's statistics beside its 8 d bytes.
        encode_flops: 2 P tokens a second.
        write_bytes_per_s: float16 bytes a second from states in memory to committed rows.
        exact_build_bytes_per_s, compressed_build_bytes_per_s: float16 bytes a second from the memory to a sealed shard.
        pass_interaction_s, pairs_entry_s: seconds of an interaction in a pass of one shard that counts item pairs, and of an entry
            whose pairs it counts.
        exact_scan_s, exact_neighbor_s: seconds of an exact query in a batch of 64, for a column of an entry and for a neighbour.
        scan_s, candidate_s: seconds of a compressed query in a batch of 64, for a code in a probed list and for a candidate.
    """

    memory_row_bytes: float
    sequence_bytes: float
    segment_row_bytes: float
    axes_share: float
    code_row_bytes: float
    list_bytes: float
    statistics_item_bytes: float
    encode_flops: float
    write_bytes_per_s: float
    exact_build_bytes_per_s: float
    compressed_build_bytes_per_s: float
    pass_interaction_s: float
    pairs_entry_s: float
    exact_scan_s: float
    exact_neighbor_s: float
    scan_s: float
    candidate_s: float

    @classmethod
    def load(cls) -> Constants:
        return cls(**json.loads(CONSTANTS_PATH.read_text()))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Workload:
    """What is planned for.

    Attributes:
        num_parameters: of the model's body.
        tokens_per_entry: read by the encoder for one entry; a title and its separator in the sequence format, a whole prompt else.
        num_gpus: 0: encoding on the cores.
        gpu_flops: floating-point operations a second of one GPU at its peak.
        num_cores: of all nodes together, for encoding without GPUs, writing, and building the index.
        cores_per_shard: of one replica of a shard.
        largest_share: of one shard among all entries; None: evenly spread.
    """

    num_entries: int
    num_items: int
    dim: int
    num_parameters: float
    num_shards: int = 2
    kind: Literal["exact", "compressed", "statistics"] = "compressed"
    num_neighbors: int = 200
    tokens_per_entry: float = 8.0
    num_gpus: int = 0
    gpu_flops: float = 990e12
    gpu_utilization: float = 0.4
    num_cores: int = 2
    cores_per_shard: int = 2
    largest_share: float | None = None


@dataclass(frozen=True)
class Plan:
    """What it takes. ``shard_*`` is of the largest shard; queries a second are of one replica a shard, in batches of 64."""

    memory_disk_bytes: int
    index_disk_bytes: int
    shard_disk_bytes: int
    shard_statistics_memory_bytes: int
    shard_pairs_memory_bytes: int
    shard_entries_memory_bytes: int
    memory_share_of_float16: float
    encode_hours: float
    write_hours: float
    index_hours: float
    pairs_hours: float
    local_queries_per_s: float | None
    local_bytes_per_query: int | None
    top_k_bytes_per_query: int


def plan(workload: Workload, constants: Constants) -> Plan:
    """The plan; ConfigError where the workload cannot be."""
    _check(workload)
    w, c = workload, constants
    vector_bytes = 2 * w.dim
    share = w.largest_share or 1 / w.num_shards
    shard_entries = math.ceil(w.num_entries * share)
    shard_disk, total_disk = (index_disk_bytes(n, w, c) for n in (shard_entries, w.num_entries))
    shard_items = math.ceil(w.num_items / w.num_shards)
    entries_memory = entries_memory_bytes(shard_entries, w, c)
    build_rate = c.compressed_build_bytes_per_s if w.kind == "compressed" else c.exact_build_bytes_per_s
    return Plan(
        memory_disk_bytes=round(w.num_entries * (vector_bytes + c.memory_row_bytes + c.sequence_bytes)),
        index_disk_bytes=round(total_disk),
        shard_disk_bytes=round(shard_disk),
        shard_statistics_memory_bytes=round(statistics_bytes(shard_items, w.dim, c)),
        shard_pairs_memory_bytes=pairs_bytes(shard_entries, shard_items, w.num_items),
        shard_entries_memory_bytes=round(entries_memory),
        memory_share_of_float16=round(entries_memory / (shard_entries * vector_bytes), 4),
        encode_hours=encode_s(w, c) / SECONDS_PER_HOUR,
        write_hours=w.num_entries * vector_bytes / (c.write_bytes_per_s * w.num_cores) / SECONDS_PER_HOUR,
        index_hours=w.num_entries * vector_bytes / (build_rate * w.num_cores) / SECONDS_PER_HOUR,
        pairs_hours=pairs_s(shard_entries, w, c) / w.num_cores / SECONDS_PER_HOUR,
        local_queries_per_s=None if w.kind == "statistics" else 1 / (query_s(shard_entries, w, c) / w.cores_per_shard),
        local_bytes_per_query=None if w.kind == "statistics" else local_bytes(w),
        top_k_bytes_per_query=w.num_shards * (4 * w.dim + 100 * 16),
    )


def index_disk_bytes(num_entries: int, workload: Workload, constants: Constants) -> float:
    """Of the segments that hold so many entries."""
    if workload.kind == "statistics":
        return 0.0
    codes = code_bytes(num_entries, workload.dim, constants) if workload.kind == "compressed" else 0.0
    return num_entries * (2 * workload.dim + constants.segment_row_bytes) + codes


def code_bytes(num_entries: int, dim: int, constants: Constants) -> float:
    """Of a segment's codes, centroids and axes."""
    axes = dim * constants.axes_share
    lists = choose_num_lists(num_entries) * (4 * axes + constants.list_bytes)
    return num_entries * (axes / 8 + constants.code_row_bytes) + lists + 4 * dim * axes


def entries_memory_bytes(num_entries: int, workload: Workload, constants: Constants) -> float:
    """What serving holds in memory for a shard's entries."""
    if workload.kind == "statistics":
        return 0.0
    if workload.kind == "compressed":
        return code_bytes(num_entries, workload.dim, constants)
    return 4.0 * num_entries * num_columns(num_entries, workload.dim)


def num_columns(num_entries: int, dim: int) -> int:
    """Columns that the exact kind holds of every entry (index.pruning)."""
    return min(head_width(num_entries), dim) + 2


def statistics_bytes(num_items: int, dim: int, constants: Constants) -> float:
    """What serving holds in memory for a shard's item statistics."""
    return num_items * (8 * dim + constants.statistics_item_bytes) + 8 * dim**2


def pairs_bytes(num_entries: int, num_items: int, num_sources: int) -> int:
    """What serving holds in memory for a shard's item pairs at most: as if no two users had taken the same two items."""
    return 8 * min(NUM_SOURCES * num_items, 2 * WINDOW * num_entries) + 8 * (num_sources + 1)


def pairs_s(shard_entries: int, workload: Workload, constants: Constants) -> float:
    """Core-seconds in which all shards count item pairs, each in as many passes over all interactions as its memory wants."""
    passes = math.ceil(shard_entries * 2 * WINDOW / MAX_PAIRS)
    return workload.num_entries * (workload.num_shards * passes * constants.pass_interaction_s + constants.pairs_entry_s)


def encode_s(workload: Workload, constants: Constants) -> float:
    """Seconds of all workers together, each at its full rate."""
    flops = 2 * workload.num_parameters * workload.tokens_per_entry * workload.num_entries
    gpus = workload.num_gpus * workload.gpu_flops * workload.gpu_utilization
    return flops / (gpus or workload.num_cores * constants.encode_flops)


def query_s(num_entries: int, workload: Workload, constants: Constants) -> float:
    """Core-seconds of a local query in a shard of so many entries, in a batch of 64."""
    if workload.kind == "exact":
        columns = num_entries * num_columns(num_entries, workload.dim)
        return columns * constants.exact_scan_s + workload.num_neighbors * constants.exact_neighbor_s
    lists = choose_num_lists(num_entries)
    scanned = num_entries * min(1.0, NUM_PROBES / lists)
    candidates = min(num_entries, CANDIDATES_PER_NEIGHBOR * workload.num_neighbors + MORE_CANDIDATES)
    return scanned * constants.scan_s + candidates * constants.candidate_s


def local_bytes(workload: Workload) -> int:
    """Bytes of a local query's first round, to and from all shards; about one query in twenty takes a second, smaller one."""
    sizes = [workload.num_entries // workload.num_shards] * workload.num_shards
    sent = int(first_limits(workload.num_neighbors, sizes).sum())
    return workload.num_shards * (4 * workload.dim + REQUEST_ROW_BYTES) + sent * ENTRY.itemsize


def _check(workload: Workload) -> None:
    for name in ("num_entries", "num_items", "dim", "num_shards", "num_cores", "cores_per_shard", "num_neighbors"):
        if getattr(workload, name) < 1:
            raise ConfigError(f"plan.{name} is {getattr(workload, name)}, wanted at least 1.")
    if workload.largest_share is not None and not 1 / workload.num_shards <= workload.largest_share <= 1:
        raise ConfigError(
            f"plan.largest_share is {workload.largest_share}, wanted between an even share, {1 / workload.num_shards:g}, and 1."
        )
