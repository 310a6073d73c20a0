"""Small memories for the tests of the index: random vectors, times for three rows of four, and changes that make new versions."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target
from l2d_ray.index.layout import Index, open_index
from l2d_ray.index.search import squared_distances
from l2d_ray.index.shard import Shard
from l2d_ray.memory.entries import entries_table
from l2d_ray.memory.sequences import RememberedSequence, store_sequences
from l2d_ray.memory.table import Memory
from tests.toys import NUM_ITEMS, toy_catalogue

DIM, NUM_ENTRIES = 6, 150


def target(number: int, item: int) -> Target:
    return Target(f"u{number}", f"item-{item:02d}", None if number % 4 == 0 else 100 + number, number)


def append_rows(memory: Memory, item_numbers: Iterable[int], *, first: int, seed: int = 0) -> Memory:
    """One version more, with a row of random vector for each item; users are numbered from ``first``, and took another item before."""
    targets = [target(first + i, int(item)) for i, item in enumerate(item_numbers)]
    vectors = np.random.default_rng([seed, first]).normal(size=(len(targets), DIM)).astype(np.float32)
    before = zip(targets, [*targets[1:], *targets[:1]], strict=True)
    stored = store_sequences(memory.uri, [RememberedSequence(t.user_id, (b.item_id, t.item_id), (None, t.timestamp)) for t, b in before])
    rows = memory.write(entries_table(targets, vectors))
    return memory.append(rows, message="rows", sequences=(*memory.state.sequences, stored))


def make_memory(uri: str, item_numbers: np.ndarray, *, num_commits: int = 3, catalogue: Catalogue | None = None) -> Memory:
    memory, first = Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=catalogue or toy_catalogue()), 0
    for items in np.array_split(item_numbers, num_commits):
        memory, first = append_rows(memory, items, first=first), first + len(items)
    return memory


def random_items(count: int = NUM_ENTRIES, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, NUM_ITEMS, count)


def rows_of(memory: Memory) -> dict[int, tuple[str, int, bytes]]:
    """sample_id -> item_id, timestamp and the vector's bytes."""
    rows = {}
    for batch in memory.scan():
        assert batch.vectors is not None
        values = zip(batch.item_ids.to_pylist(), batch.timestamps.tolist(), (vector.tobytes() for vector in batch.vectors), strict=True)
        rows |= dict(zip(batch.sample_ids.tolist(), values, strict=True))
    return rows


def entries_of(index: Index) -> dict[int, tuple[str, int, bytes]]:
    """The same of an index's live entries; fails where a sample_id stands twice."""
    item_ids, found = index.catalogue().item_ids, {}
    for shard in index.shards():
        positions = shard.live_positions()
        assert len(positions) == len(shard)
        times = np.concatenate([np.zeros(0, dtype=np.int64), *(s.segment.timestamps[s.live_positions()] for s in shard.live_segments)])
        ids, items, vectors = shard.sample_ids_at(positions), shard.items_at(positions), shard.vectors_at(positions)
        for sample_id, item, time, vector in zip(ids.tolist(), items.tolist(), times.tolist(), vectors, strict=True):
            assert sample_id not in found
            found[sample_id] = (item_ids[item], time, vector.tobytes())
    return found


def answers_of(shards: Iterable[Shard], queries: np.ndarray, num_neighbors: int) -> list[list[tuple[float, int]]]:
    """For each query the (distance, sample_id) of its nearest entries over all shards, ascending."""
    found = [shard.nearest(queries, num_neighbors) for shard in shards]
    merged = []
    for query in range(len(queries)):
        pairs = [p for f in found for p in zip(f.squared_distances[query].tolist(), f.sample_ids[query].tolist(), strict=True)]
        merged.append(sorted(pair for pair in pairs if pair[1] >= 0)[:num_neighbors])
    return merged


def brute_force(memory: Memory, queries: np.ndarray, num_neighbors: int) -> list[list[tuple[float, int]]]:
    """The same, from the memory's rows."""
    rows = rows_of(memory)
    vectors = np.stack([np.frombuffer(vector, dtype=np.float16) for _, _, vector in rows.values()])
    distances = [squared_distances(query, vectors).tolist() for query in queries]
    return [sorted(zip(column, rows, strict=True))[:num_neighbors] for column in distances]


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file below a folder."""
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def open_built(index_dir: Path) -> Index:
    """An index, every file of it verified."""
    index = open_index(index_dir)
    index.verify()
    return index
