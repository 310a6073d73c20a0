"""From raw interactions to parts, as functions on files: what one task does, without knowing that it runs on Ray.

    stage_file        one raw file       -> pieces, one a partition and block of rows      (read, check, filter, hash users)
    sort_partition    pieces             -> one sorted partition                           (order by user and time, drop duplicates)
    count_core_items  sorted partition   -> interactions of each item that are left        (k-core, once a round)
    group_partition   sorted partition   -> user sequences and ordered sample keys         (apply the k-core)
    write_parts       user sequences     -> sequences/part-NNNNN.parquet and its counts    (split; in l2d_ray.data.parts)

Invariants: a partition is a range of user_hash, so partitions laid end to end hold all users ascending by (user_hash, user_id) for any
number of partitions. Within a user the order is (timestamp, place in the input). Every file is written under a name that depends
only on the task's arguments, so a task that is run twice leaves the same as once. Intermediate files are Arrow IPC, read by memory map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.data.interactions import FilterCounts, Filters, filter_interactions
from l2d_ray.data.k_core import alive_interactions
from l2d_ray.data.splits import SampleKey
from l2d_ray.schema import stable_hash

BLOCK_ROWS: Final = 2_000_000  # rows that a staging task holds before it writes: about 0.2 GB
FILE_STRIDE: Final = 2**40  # rows that one input file may have: file and row make one int64, the place in the input
HASH_BITS: Final = 63

PIECES = pa.schema(
    [
        pa.field("user_hash", pa.int64()),
        pa.field("user_id", pa.string()),
        pa.field("item_index", pa.int32()),
        pa.field("timestamp", pa.int64()),
        pa.field("place", pa.int64()),
    ]
)


@dataclass(frozen=True)
class SparseCounts:
    """Counts of the items that occur: parallel (n,) int32 and (n,) int64, item_index ascending."""

    item_index: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, item_index: np.ndarray) -> SparseCounts:
        return cls(*np.unique(item_index, return_counts=True))


@dataclass(frozen=True)
class PartitionSummary:
    """What the driver must know of one grouped partition; ``length_counts[n]`` is the number of users with n interactions."""

    num_users: int
    num_interactions: int
    num_samples: int
    length_counts: np.ndarray
    first_timestamp: int | None
    last_timestamp: int | None


def stage_file(
    tables: Iterable[pa.Table], file_index: int, item_ids: pa.Array, *, filters: Filters, num_partitions: int, folder: Path
) -> FilterCounts:
    """Filter one file's interactions (schema INTERACTIONS, file order) and write them as pieces by partition.

    Args:
        item_ids: ids that have a usable title, ascending; item_index is the position here.
    """
    counts = FilterCounts()
    for block_index, (first_row, block) in enumerate(_blocks(tables)):
        passed = filter_interactions(block, filters, lambda ids: pc.fill_null(pc.index_in(ids, value_set=item_ids), -1).to_numpy())
        counts += passed.counts
        pieces = _pieces(block, passed.row_index, passed.item_index, file_index * FILE_STRIDE + first_row)
        for partition, piece in _partitioned(pieces, num_partitions):
            write_ipc(folder / f"piece-{partition:05d}-{file_index:06d}-{block_index:06d}.arrow", piece)
    return counts


def _blocks(tables: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Gather small tables into blocks of at least BLOCK_ROWS rows, each with the number of its first row."""
    first_row = num_rows = 0
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        num_rows += table.num_rows
        if num_rows >= BLOCK_ROWS:
            yield first_row, pa.concat_tables(waiting)
            first_row, num_rows, waiting = first_row + num_rows, 0, []
    if waiting:
        yield first_row, pa.concat_tables(waiting)


def _pieces(block: pa.Table, rows: np.ndarray, item_index: np.ndarray, first_place: int) -> pa.Table:
    users = block["user_id"].take(pa.array(rows)).combine_chunks().dictionary_encode()
    hashes = np.array([stable_hash(user) for user in users.dictionary.to_pylist()], dtype=np.int64)
    columns = [
        hashes[users.indices.to_numpy()],
        users.cast(pa.string()),
        item_index,
        block["timestamp"].take(pa.array(rows)).combine_chunks(),
        first_place + rows,
    ]
    return pa.table([pa.array(column) for column in columns], schema=PIECES)


def _partitioned(pieces: pa.Table, num_partitions: int) -> Iterator[tuple[int, pa.Table]]:
    partitions = partition_of(pieces["user_hash"].to_numpy(), num_partitions)
    for partition in np.unique(partitions):
        yield int(partition), pieces.filter(pa.array(partitions == partition))


def partition_of(user_hashes: np.ndarray, num_partitions: int) -> np.ndarray:
    """Partition of each 63-bit hash, ascending with the hash: equal ranges of its upper 31 bits."""
    upper: np.ndarray = user_hashes >> (HASH_BITS - 31)
    return (upper * num_partitions) >> 31


def sort_partition(folder: Path, partition: int, *, has_timestamps: bool, drops_duplicates: bool) -> int:
    """Write the partition in final order, without exact duplicates where they are to be dropped; returns how many were.

    An exact duplicate repeats user, item and timestamp: one event, reported twice. Without times nothing is a duplicate.
    """
    paths = sorted(folder.glob(f"piece-{partition:05d}-*.arrow"))
    pieces = pa.concat_tables([PIECES.empty_table(), *map(read_ipc, paths)])
    users, user_index = _rank_users(pieces)
    item_index = pieces["item_index"].to_numpy()
    times = pieces["timestamp"].to_numpy() if has_timestamps else np.zeros(len(user_index), dtype=np.int64)
    order = np.lexsort((pieces["place"].to_numpy(), times, user_index))
    if has_timestamps and drops_duplicates:
        order = order[~_repeats(user_index[order], times[order], item_index[order])]
    columns = {"user_index": user_index[order], "item_index": item_index[order], "timestamp": times[order]}
    write_ipc(_sorted_path(folder, partition), pa.table(columns))
    write_ipc(_users_path(folder, partition), users)
    return len(user_index) - len(order)


def _rank_users(pieces: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Distinct users ascending by (user_hash, user_id), and each row's position among them (n,) int32."""
    users = pieces["user_id"].combine_chunks().dictionary_encode()
    codes = users.indices.to_numpy()
    hashes = np.zeros(len(users.dictionary), dtype=np.int64)
    hashes[codes] = pieces["user_hash"].to_numpy()
    distinct = pa.table({"user_hash": hashes, "user_id": users.dictionary, "code": np.arange(len(hashes))})
    distinct = distinct.sort_by([("user_hash", "ascending"), ("user_id", "ascending")])
    rank = np.empty(len(hashes), dtype=np.int32)
    rank[distinct["code"].to_numpy()] = np.arange(len(hashes), dtype=np.int32)
    return distinct.select(["user_hash", "user_id"]), rank[codes]


def _repeats(user_index: np.ndarray, times: np.ndarray, item_index: np.ndarray) -> np.ndarray:
    """Rows whose (user, time, item) an earlier row has, (n,) bool."""
    order = np.lexsort((item_index, times, user_index))  # stable: among equals the earlier row comes first
    is_repeat = np.zeros(len(order), dtype=bool)
    keys = (user_index[order], times[order], item_index[order])
    is_repeat[order[1:]] = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    return is_repeat


def count_core_items(folder: Path, partition: int, item_is_alive: np.ndarray, k: int) -> SparseCounts:
    """Interactions of each item that are left in this partition, given the items that are."""
    rows = read_ipc(_sorted_path(folder, partition))
    item_index = rows["item_index"].to_numpy()
    return SparseCounts.of(item_index[alive_interactions(rows["user_index"].to_numpy(), item_index, item_is_alive, k)])


def group_partition(folder: Path, partition: int, item_is_alive: np.ndarray, *, k: int) -> PartitionSummary:
    """Write the user sequences of the k-core and, in order, the (timestamp, user_hash) of their samples."""
    rows = read_ipc(_sorted_path(folder, partition))
    is_alive = alive_interactions(rows["user_index"].to_numpy(), rows["item_index"].to_numpy(), item_is_alive, k)
    rows = rows.filter(pa.array(is_alive))
    kept_users, starts, lengths = np.unique(rows["user_index"].to_numpy(), return_index=True, return_counts=True)
    users = read_ipc(_users_path(folder, partition)).take(pa.array(kept_users))
    offsets = pa.array(np.append(starts, rows.num_rows), pa.int64())
    lists = {
        name: pa.LargeListArray.from_arrays(offsets, rows[column].combine_chunks())
        for name, column in (("item_index", "item_index"), ("timestamps", "timestamp"))
    }
    write_ipc(
        sequences_path(folder, partition),
        users.append_column("item_index", lists["item_index"]).append_column("timestamps", lists["timestamps"]),
    )
    times = rows["timestamp"].to_numpy()
    _write_keys(keys_path(folder, partition), times, users["user_hash"].to_numpy(), starts, lengths)
    return PartitionSummary(
        num_users=len(kept_users),
        num_interactions=rows.num_rows,
        num_samples=rows.num_rows - len(kept_users),
        length_counts=np.bincount(lengths),
        first_timestamp=int(times.min()) if len(times) else None,
        last_timestamp=int(times.max()) if len(times) else None,
    )


def _write_keys(path: Path, times: np.ndarray, user_hashes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
    is_target = np.ones(len(times), dtype=bool)
    is_target[starts] = False
    target_times, hashes = times[is_target], np.repeat(user_hashes, lengths)[is_target]
    order = np.lexsort((hashes, target_times))
    write_ipc(path, pa.table({"timestamp": target_times[order], "user_hash": hashes[order]}))


def count_times_below(folder: Path, partition: int, edges: np.ndarray) -> np.ndarray:
    """Samples of this partition whose timestamp is below each edge."""
    return np.searchsorted(read_ipc(keys_path(folder, partition))["timestamp"].to_numpy(), edges)


def count_hashes_below(folder: Path, partition: int, edges: np.ndarray, timestamp: int) -> np.ndarray:
    """Samples of this partition at ``timestamp`` whose user_hash is below each edge."""
    keys = read_ipc(keys_path(folder, partition))
    first, end = np.searchsorted(keys["timestamp"].to_numpy(), (timestamp, timestamp + 1))
    return np.searchsorted(keys["user_hash"].to_numpy()[first:end], edges)


def sample_keys_at(folder: Path, partition: int, timestamp: int, user_hash: int) -> list[SampleKey]:
    """Keys of this partition's samples at one time by one user_hash: a handful, since two users hardly ever share a hash."""
    users = read_ipc(sequences_path(folder, partition))
    users = users.filter(pc.equal(users["user_hash"], user_hash))
    return [
        SampleKey(timestamp, user_hash, user_id, position)
        for user_id, times in zip(users["user_id"].to_pylist(), users["timestamps"].to_pylist(), strict=True)
        for position, time in enumerate(times)
        if position >= 1 and time == timestamp
    ]


def _sorted_path(folder: Path, partition: int) -> Path:
    return folder / f"sorted-{partition:05d}.arrow"


def _users_path(folder: Path, partition: int) -> Path:
    return folder / f"users-{partition:05d}.arrow"


def sequences_path(folder: Path, partition: int) -> Path:
    return folder / f"sequences-{partition:05d}.arrow"


def keys_path(folder: Path, partition: int) -> Path:
    return folder / f"keys-{partition:05d}.arrow"


def write_ipc(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file as one record batch, so that a column is read back as one array without a copy."""
    table = table.combine_chunks()
    partial = path.with_suffix(".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    partial.replace(path)


def read_ipc(path: Path) -> pa.Table:
    """Map an Arrow IPC file; columns stay on disk until they are touched."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
