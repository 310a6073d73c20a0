"""Item pairs of a shard: counted from the user sequences of the memory version that the shard is of, and kept in its folder.

    SHARD/pairs.starts.npy (num_items + 1,) int64 · pairs.places.npy (p,) int32 · pairs.similarities.npy (p,) float32

They are counted anew for every version: a shard reads all sequences (0.3 us an interaction) and counts the pairs of its own entries (2 us
each), which an index of very many that is extended often may not have time for (``index.pairs: false``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.index.sealed import Summary
from l2d_ray.index.segment import item_indexes_of
from l2d_ray.memory.pairs import ItemPairs, ItemSequences, count_pairs
from l2d_ray.memory.sequences import iter_newest
from l2d_ray.memory.statistics import NO_TIMESTAMP, ItemStatistics
from l2d_ray.memory.table import Memory

ARRAYS: Final = ("starts", "places", "similarities")
PAIRS_FILES: Final = tuple(f"pairs.{name}.npy" for name in ARRAYS)


def pairs_of_memory(memory: Memory, statistics: ItemStatistics) -> ItemPairs:
    """Pairs of the items that have entries, with all that users of the memory took shortly before or after them."""
    return count_pairs(partial(_sequences, memory), statistics.item_indexes, statistics.counts, len(memory.catalogue))


def write_pairs(folder: Path, pairs: ItemPairs) -> list[str]:
    """Returns the names of the files."""
    for file, name in zip(PAIRS_FILES, ARRAYS, strict=True):
        np.save(folder / file, getattr(pairs, name))
    return list(PAIRS_FILES)


def read_pairs(summary: Summary) -> ItemPairs | None:
    """The verified pairs of a shard; None where it was made without."""
    if not summary.files.keys() >= set(PAIRS_FILES):
        return None
    return ItemPairs(*(summary.array(file) for file in PAIRS_FILES))


def _sequences(memory: Memory) -> Iterator[ItemSequences]:
    for table in iter_newest(memory.uri, memory.state.sequences):
        lists = pa.concat_arrays(table["item_ids"].chunks) if table.num_rows else pa.array([], type=pa.list_(pa.string()))
        users = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
        items = item_indexes_of(lists.flatten(), memory.catalogue, memory.named).astype(np.int64)
        times = pc.fill_null(pc.list_flatten(table["timestamps"]), NO_TIMESTAMP).to_numpy()
        yield ItemSequences(users, items, times)
