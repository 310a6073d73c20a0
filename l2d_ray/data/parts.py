"""User sequences -> parts: which users a part holds, their splits, and what the data card counts.

All users, ascending by (user_hash, user_id), are cut into runs of ``users_per_part``. So a part's content depends on the data and the
settings alone, and not on the partitions it is read from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2d_ray.data.splits import GlobalCuts, Interactions, assign_global, assign_leave_one_out
from l2d_ray.data.staging import SparseCounts, read_ipc, sequences_path
from l2d_ray.schema import SEQUENCES, SPLIT_NAMES, TEST, TRAIN


@dataclass(frozen=True)
class UserSlice:
    """``num_users`` users of one partition from ``first_user`` on."""

    partition: int
    first_user: int
    num_users: int


@dataclass(frozen=True)
class PartPlan:
    """One part file and the users it holds, in order."""

    part_index: int
    slices: tuple[UserSlice, ...]


@dataclass(frozen=True)
class PartSettings:
    """What all parts share; ``cuts`` None means leave-one-out."""

    cuts: GlobalCuts | None
    has_timestamps: bool
    history_length: int


@dataclass(frozen=True)
class PartSummary:
    """Counts of some parts: samples a split, test targets, train targets, and test targets already in the prompt's history."""

    num_samples: np.ndarray  # (3,) int64
    train_targets: SparseCounts
    test_targets: SparseCounts
    num_test_in_history: int


def plan_parts(num_users_of_partition: Sequence[int], users_per_part: int) -> list[PartPlan]:
    """Cut the users of all partitions, laid end to end, into runs of ``users_per_part``; the last run may be shorter."""
    ends = np.cumsum([0, *num_users_of_partition])
    plans = []
    for part_index, first in enumerate(range(0, int(ends[-1]), users_per_part)):
        end = min(first + users_per_part, int(ends[-1]))
        slices = []
        for partition in range(int(np.searchsorted(ends, first, side="right")) - 1, int(np.searchsorted(ends, end))):
            start, stop = max(first, int(ends[partition])), min(end, int(ends[partition + 1]))
            if start < stop:
                slices.append(UserSlice(partition, start - int(ends[partition]), stop - start))
        plans.append(PartPlan(part_index, tuple(slices)))
    return plans


def write_parts(staged: Path, plans: Sequence[PartPlan], item_ids: pa.Array, settings: PartSettings, *, destination: Path) -> PartSummary:
    """Write the planned parts into ``destination``; ``item_ids`` maps the staged item_index to ids."""
    summaries = [_write_part(staged, plan, item_ids, settings, destination / f"part-{plan.part_index:05d}.parquet") for plan in plans]
    return merge_summaries(summaries)


def merge_summaries(summaries: Sequence[PartSummary]) -> PartSummary:
    """Sum of summaries, in any order."""
    return PartSummary(
        num_samples=np.sum([s.num_samples for s in summaries], axis=0),
        train_targets=_sum_counts([s.train_targets for s in summaries]),
        test_targets=_sum_counts([s.test_targets for s in summaries]),
        num_test_in_history=sum(s.num_test_in_history for s in summaries),
    )


def _sum_counts(parts: Sequence[SparseCounts]) -> SparseCounts:
    item_index, inverse = np.unique(np.concatenate([p.item_index for p in parts]), return_inverse=True)
    totals = np.zeros(len(item_index), dtype=np.int64)
    np.add.at(totals, inverse, np.concatenate([p.counts for p in parts]))
    return SparseCounts(item_index, totals)


def _write_part(staged: Path, plan: PartPlan, item_ids: pa.Array, settings: PartSettings, path: Path) -> PartSummary:
    tables = [read_ipc(sequences_path(staged, s.partition)).slice(s.first_user, s.num_users) for s in plan.slices]
    users = pa.concat_tables(tables).combine_chunks()
    item_index = users["item_index"].combine_chunks().flatten()
    interactions = _interactions(users)
    splits = _assign(interactions, settings)
    offsets = pa.array(interactions.offsets, pa.int32())
    times = pa.array(interactions.timestamps) if settings.has_timestamps else pa.nulls(len(splits), pa.int64())
    columns = [
        users["user_id"],
        pa.ListArray.from_arrays(offsets, item_ids.take(item_index)),
        pa.ListArray.from_arrays(offsets, times),
        pa.ListArray.from_arrays(offsets, pa.array(splits)),
    ]
    pq.write_table(pa.table(columns, schema=SEQUENCES), path)
    return _summarise(item_index.to_numpy(), splits, interactions.positions, settings.history_length)


def _interactions(users: pa.Table) -> Interactions:
    lengths = users["timestamps"].combine_chunks().value_lengths().to_numpy()
    return Interactions(
        user_ids=users["user_id"].to_pylist(),
        user_hashes=users["user_hash"].to_numpy(),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        timestamps=users["timestamps"].combine_chunks().flatten().to_numpy(),
    )


def _assign(interactions: Interactions, settings: PartSettings) -> np.ndarray:
    if settings.cuts is None:
        return assign_leave_one_out(interactions.offsets)
    return assign_global(interactions, settings.cuts)


def _summarise(item_index: np.ndarray, splits: np.ndarray, positions: np.ndarray, history_length: int) -> PartSummary:
    is_target = positions >= 1
    is_test = is_target & (splits == TEST)
    return PartSummary(
        num_samples=np.bincount(splits[is_target], minlength=len(SPLIT_NAMES)),
        train_targets=SparseCounts.of(item_index[is_target & (splits == TRAIN)]),
        test_targets=SparseCounts.of(item_index[is_test]),
        num_test_in_history=int((is_test & is_in_history(item_index, positions, history_length)).sum()),
    )


def is_in_history(item_index: np.ndarray, positions: np.ndarray, history_length: int) -> np.ndarray:
    """Whether each interaction's item is among the ``history_length`` items before it in its user's sequence, (n,) bool."""
    is_seen = np.zeros(len(item_index), dtype=bool)
    for distance in range(1, min(history_length, int(positions.max(initial=0))) + 1):
        is_seen[distance:] |= (item_index[distance:] == item_index[:-distance]) & (positions[distance:] >= distance)
    return is_seen
