"""What lies between two versions of a memory, told from the ids and checksums of the rows in files that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.memory.entries import EntryBatch


@dataclass(frozen=True, eq=False)
class Difference:
    """What a newer version has and lacks.

    Attributes:
        removed: (r,) int64 ascending: sample_ids of the older version that are gone, or whose row is another now.
        gone: the rows of the older version that ``removed`` names, with vectors.
        added: rows of the newer version that the older lacks, with vectors.
    """

    removed: NDArray[np.int64]
    gone: Iterator[EntryBatch]
    added: Iterator[EntryBatch]


@dataclass(frozen=True, eq=False)
class RowVersions:
    """Rows by what identifies their content: sample_ids (n,) int64 ascending, and checksums (n,) uint64."""

    sample_ids: NDArray[np.int64]
    checksums: NDArray[np.uint64]

    @classmethod
    def of(cls, batches: Sequence[EntryBatch]) -> RowVersions:
        sample_ids = np.concatenate([np.zeros(0, dtype=np.int64), *(batch.sample_ids for batch in batches)])
        checksums = np.concatenate([np.zeros(0, dtype=np.uint64), *(batch.checksums for batch in batches)])
        order = np.argsort(sample_ids, kind="stable")
        return cls(sample_ids[order], checksums[order])


def rows_without(rows: RowVersions, others: RowVersions) -> NDArray[np.int64]:
    """sample_ids, ascending, of rows that do not stand among the others with the same content."""
    if not len(others.sample_ids):
        return rows.sample_ids
    places = np.searchsorted(others.sample_ids, rows.sample_ids).clip(max=len(others.sample_ids) - 1)
    is_same = (others.sample_ids[places] == rows.sample_ids) & (others.checksums[places] == rows.checksums)
    missing: NDArray[np.int64] = rows.sample_ids[~is_same]
    return missing
