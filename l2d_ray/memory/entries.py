"""Rows of the memory: made from targets and hidden states, written as files, and read back verified.

Rows of a file are sorted by (bucket, sample_id), so that a shard's rows lie together in every file. Each carries the checksum of
``checksums.py``; nothing that was read is handed on before it has been compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import LanceFragment, write_fragments
from numpy.typing import NDArray

from l2d_ray.data.sequences import Target
from l2d_ray.errors import ArtefactError
from l2d_ray.memory.checksums import KEY_BITS, digest_of, key_halves, row_checksums, vector_halves
from l2d_ray.memory.statistics import NO_TIMESTAMP
from l2d_ray.memory.tails import tails_of
from l2d_ray.schema import bucket_of, entries_schema

KEY_COLUMNS = ["sample_id", "user_id", "item_id", "timestamp", "bucket", "checksum"]


@dataclass(frozen=True, eq=False)
class EntryBatch:
    """Some rows of the memory.

    Attributes:
        sample_ids: (n,) int64.
        user_ids, item_ids: (n,) text.
        timestamps: (n,) int64 seconds, NO_TIMESTAMP where unknown.
        buckets: (n,) int16.
        checksums: (n,) uint64.
        vectors: (n, d) float16; None where only keys were asked for.
    """

    sample_ids: NDArray[np.int64]
    user_ids: pa.StringArray
    item_ids: pa.StringArray
    timestamps: NDArray[np.int64]
    buckets: NDArray[np.int16]
    checksums: NDArray[np.uint64]
    vectors: NDArray[np.float16] | None

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def digest(self) -> int:
        return digest_of(self.checksums)

    def where(self, chosen: NDArray[np.bool_]) -> EntryBatch:
        """The chosen rows, (n,) bool."""
        mask = pa.array(chosen)
        vectors = None if self.vectors is None else self.vectors[chosen]
        users, items = self.user_ids.filter(mask), self.item_ids.filter(mask)
        return EntryBatch(
            self.sample_ids[chosen], users, items, self.timestamps[chosen], self.buckets[chosen], self.checksums[chosen], vectors
        )


@dataclass(frozen=True)
class WrittenEntries:
    """Files of rows that no version holds yet: what a writer hands to whoever commits. Plain values, so that they travel."""

    fragments: tuple[str, ...]
    tails: tuple[str, ...]
    num_entries: int
    digest: int

    def __add__(self, other: WrittenEntries) -> WrittenEntries:
        return WrittenEntries(
            (*self.fragments, *other.fragments),
            (*self.tails, *other.tails),
            self.num_entries + other.num_entries,
            (self.digest + other.digest) % 2**64,
        )


NOTHING_WRITTEN = WrittenEntries((), (), 0, 0)


def entries_table(targets: Sequence[Target], vectors: NDArray[np.float32]) -> pa.Table:
    """Rows for targets and their samples' hidden states, (n, d), in stored order; ArtefactError where a state does not fit float16."""
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ArtefactError(
            f"The hidden state of sample {targets[row].sample_id} holds NaN or infinite values, wanted finite ones; check the model."
        )
    with np.errstate(over="ignore"):
        stored = vectors.astype(np.float16)
    if not np.isfinite(stored).all():
        raise ArtefactError(
            f"A hidden state holds {np.abs(vectors).max():g}, beyond float16's 65504; this model's states cannot be stored as they are."
        )
    sample_ids = np.array([t.sample_id for t in targets], dtype=np.int64)
    buckets = np.array([bucket_of(t.item_id) for t in targets], dtype=np.int16)
    order = np.lexsort((sample_ids, buckets))
    ordered = [targets[i] for i in order]
    return _table(
        sample_ids[order],
        pa.array([t.user_id for t in ordered], type=pa.string()),
        pa.array([t.item_id for t in ordered], type=pa.string()),
        np.array([NO_TIMESTAMP if t.timestamp is None else t.timestamp for t in ordered], dtype=np.int64),
        buckets[order],
        stored[order],
    )


def write_entries(entries_uri: str, table: pa.Table) -> WrittenEntries:
    """Write rows as files that belong to no version until they are committed. Empty tables write nothing."""
    if not table.num_rows:
        return NOTHING_WRITTEN
    fragments = write_fragments(table, entries_uri, schema=table.schema, mode="append")
    digest = digest_of(table["checksum"].to_numpy())
    tails = tuple(tail for fragment in fragments for tail in tails_of(entries_uri, fragment))
    return WrittenEntries(tuple(json.dumps(f.to_json()) for f in fragments), tails, table.num_rows, digest)


def table_of(batches: Sequence[EntryBatch]) -> pa.Table:
    """The rows of some batches with vectors (at least one batch), as one table in stored order."""
    sample_ids, timestamps, buckets = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("sample_ids", "timestamps", "buckets")
    )
    vectors = np.concatenate([batch.vectors for batch in batches if batch.vectors is not None])
    users, items = (pa.concat_arrays([getattr(batch, name) for batch in batches]) for name in ("user_ids", "item_ids"))
    order = np.lexsort((sample_ids, buckets))
    take = pa.array(order)
    return _table(sample_ids[order], users.take(take), items.take(take), timestamps[order], buckets[order], vectors[order])


def read_fragment(
    fragment: LanceFragment, condition: str | None, *, with_vectors: bool, batch_rows: int, where: str
) -> Iterator[EntryBatch]:
    """Stream a file's live rows in stored order, each compared with its checksum; ArtefactError names the file (``where``)."""
    columns = [*KEY_COLUMNS, "vector"] if with_vectors else KEY_COLUMNS
    scanner = fragment.scanner(columns=columns, filter=condition, batch_size=batch_rows)
    for batch in scanner.to_batches():
        yield _verified(batch, with_vectors, where)


def _table(
    sample_ids: NDArray[np.int64],
    user_ids: pa.StringArray,
    item_ids: pa.StringArray,
    timestamps: NDArray[np.int64],
    buckets: NDArray[np.int16],
    vectors: NDArray[np.float16],
) -> pa.Table:
    schema = entries_schema(vectors.shape[1])
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1), type=pa.float16())
    columns: list[Any] = [
        sample_ids,
        user_ids,
        item_ids,
        pa.array(timestamps, mask=timestamps == NO_TIMESTAMP),
        buckets,
        row_checksums(sample_ids, user_ids, item_ids, timestamps, buckets, vectors),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("vector").type),
    ]
    return pa.table(columns, schema=schema)


def _verified(rows: pa.RecordBatch, with_vectors: bool, where: str) -> EntryBatch:
    batch = EntryBatch(
        rows["sample_id"].to_numpy(),
        rows["user_id"],
        rows["item_id"],
        pc.fill_null(rows["timestamp"], NO_TIMESTAMP).to_numpy(),
        rows["bucket"].to_numpy(),
        rows["checksum"].to_numpy(),
        _vectors(rows["vector"]) if with_vectors else None,
    )
    keys = key_halves(batch.sample_ids, batch.user_ids, batch.item_ids, batch.timestamps, batch.buckets)
    whole = keys == batch.checksums >> KEY_BITS
    if batch.vectors is not None:
        whole &= vector_halves(batch.vectors) == batch.checksums & np.uint64(2**32 - 1)
    if not whole.all():
        raise ArtefactError(f"{where} is damaged: {int((~whole).sum())} rows differ from their checksums; restore the file or build again.")
    return batch


def _vectors(column: pa.FixedSizeListArray) -> NDArray[np.float16]:
    """(n, d) float16 view of the vector column."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float16).reshape(len(column), column.type.list_size)
