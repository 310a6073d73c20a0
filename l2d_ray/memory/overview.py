"""What a version of a memory holds, in figures, from its rows' keys alone; and its history as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from l2d_ray.memory.statistics import NO_TIMESTAMP
from l2d_ray.memory.storage import location
from l2d_ray.memory.table import Memory, VersionEntry


@dataclass(frozen=True)
class Overview:
    """One version.

    Attributes:
        num_items: items of the catalogue; num_items_with_entries: those that can be recommended.
        entries_per_item: smallest, median and largest number, of items with entries.
        largest_share: of one item among all entries.
        first_time, last_time: Unix seconds; None where no entry has a time.
        stored_bytes: of everything under the memory's place, all versions together.
    """

    num_entries: int
    num_users: int
    num_items: int
    num_items_with_entries: int
    num_retired_items: int
    entries_per_item: tuple[int, int, int]
    largest_share: float
    first_time: int | None
    last_time: int | None
    half_life_s: int | None
    reference_time: int
    num_files: int
    num_deleted_rows: int
    stored_bytes: int
    digest: str


def overview(memory: Memory) -> Overview:
    """Reads every row's keys, verified."""
    items, users, times = [], [], [np.zeros(0, dtype=np.int64)]
    for batch in memory.scan(with_vectors=False, batch_rows=65536):
        items.append(batch.item_ids)
        users.append(pc.unique(batch.user_ids))
        times.append(batch.timestamps)
    counts = np.sort(_joined(items).value_counts().field("counts").to_numpy())
    known = np.concatenate(times)
    known = known[known != NO_TIMESTAMP]
    return Overview(
        num_entries=len(memory),
        num_users=len(pc.unique(_joined(users))),
        num_items=len(memory.catalogue),
        num_items_with_entries=len(counts),
        num_retired_items=len(memory.retired_item_ids),
        entries_per_item=(int(counts[0]), int(np.median(counts)), int(counts[-1])) if len(counts) else (0, 0, 0),
        largest_share=round(float(counts[-1] / counts.sum()), 4) if len(counts) else 0.0,
        first_time=int(known.min()) if len(known) else None,
        last_time=int(known.max()) if len(known) else None,
        half_life_s=memory.half_life_s,
        reference_time=memory.reference_time,
        num_files=len(memory.fragments),
        num_deleted_rows=sum(fragment.num_deletions for fragment in memory.fragments),
        stored_bytes=stored_bytes(memory.uri),
        digest=f"{memory.digest:016x}",
    )


def stored_bytes(uri: str) -> int:
    """Bytes of all files under a memory's place."""
    filesystem, path = location(uri)
    return sum(info.size or 0 for info in filesystem.get_file_info(fs.FileSelector(path, recursive=True)))


def format_history(history: Sequence[VersionEntry]) -> str:
    """A line a version, oldest first."""
    rows = [("version", "when (UTC)", "by", "entries", "what")]
    rows += [(str(e.version), e.state.created_at[:19], e.state.created_by, f"{e.state.num_entries:,}", e.state.message) for e in history]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows)


def _joined(arrays: Sequence[pa.StringArray]) -> pa.StringArray:
    return pa.concat_arrays([pa.array([], type=pa.string()), *arrays])
