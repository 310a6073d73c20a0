"""Who belongs to train, valid and test.

global-time (the D3 protocol): all samples, in the order of their key, are cut at fixed shares. The key is
(timestamp, user_hash, user_id, position), so ties in time are cut the same way on every machine and for any partition. The cut is found
without sorting all samples in one place: partitions count how many of their values lie below given edges, and the interval is narrowed
(``value_at_rank``). Since a user's keys ascend with the position, TRAIN interactions are a prefix and TEST ones a suffix of each sequence.

leave-one-out: a user's last interaction is TEST, the one before VALID, the rest TRAIN; position 0, which is no sample, is always TRAIN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

import numpy as np

from l2d_ray.schema import TEST, TRAIN, VALID

NUM_EDGES: Final = 65_536
LAST_HASH: Final = 2**63 - 1


@dataclass(frozen=True, order=True)
class SampleKey:
    """Place of an interaction in the global order."""

    timestamp: int
    user_hash: int
    user_id: str
    position: int


@dataclass(frozen=True)
class GlobalCuts:
    """Interactions below ``valid`` are TRAIN, from there below ``test`` VALID, the rest TEST."""

    valid: SampleKey
    test: SampleKey


@dataclass(frozen=True)
class Interactions:
    """User sequences laid end to end: for user u rows ``offsets[u]`` to ``offsets[u + 1]``, oldest first."""

    user_ids: list[str]
    user_hashes: np.ndarray  # (num_users,) int64
    offsets: np.ndarray  # (num_users + 1,) int64
    timestamps: np.ndarray  # (n,) int64

    @property
    def positions(self) -> np.ndarray:
        """Position of every interaction in its user's sequence, (n,) int64."""
        return positions_of(self.offsets)


def positions_of(offsets: np.ndarray) -> np.ndarray:
    """Position of every row in its run, (n,) int64, for runs that begin at ``offsets[:-1]``."""
    positions: np.ndarray = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return positions


def cut_ranks(num_samples: int, *, valid_fraction: float, test_fraction: float) -> tuple[int, int]:
    """First rank of valid and of test among ``num_samples`` ordered samples; decimals are taken as written (0.1 is a tenth)."""
    valid, test = Fraction(str(valid_fraction)), Fraction(str(test_fraction))
    return int(num_samples * (1 - valid - test)), int(num_samples * (1 - test))


def value_at_rank(rank: int, count_below: Callable[[np.ndarray], np.ndarray], *, first: int, last: int) -> tuple[int, int]:
    """The value at ``rank`` (0-based) of an ordered multiset of integers within [first, last], and how many values are below it.

    Args:
        count_below: for ascending edges (e,) int64 the number of values below each, (e,) integers. Called about every 16 bits of the range.
    """
    num_below = 0
    while first < last:
        step = (last - first) // NUM_EDGES + 1
        edges = first + step * np.arange((last - first) // step + 1, dtype=np.int64)
        counts = count_below(edges)
        chosen = int(np.searchsorted(counts, rank, side="right")) - 1
        num_below, first = int(counts[chosen]), int(edges[chosen])
        last = min(last, first + step - 1)
    return first, num_below


class SampleKeys(Protocol):
    """The keys of all samples, wherever they lie; every answer sums or joins all partitions."""

    def count_times_below(self, edges: np.ndarray) -> np.ndarray:
        """Samples whose timestamp is below each edge."""

    def count_hashes_below(self, edges: np.ndarray, timestamp: int) -> np.ndarray:
        """Samples at ``timestamp`` whose user_hash is below each edge."""

    def keys_at(self, timestamp: int, user_hash: int) -> list[SampleKey]:
        """All keys with this time and hash, in any order."""


def key_at_rank(rank: int, keys: SampleKeys, *, first_timestamp: int, last_timestamp: int) -> SampleKey:
    """The key at ``rank`` (0-based, below the number of samples) of all samples in global order."""
    timestamp, num_below = value_at_rank(rank, keys.count_times_below, first=first_timestamp, last=last_timestamp)
    rank -= num_below
    user_hash, num_below = value_at_rank(rank, lambda edges: keys.count_hashes_below(edges, timestamp), first=0, last=LAST_HASH)
    return sorted(keys.keys_at(timestamp, user_hash))[rank - num_below]


def assign_global(interactions: Interactions, cuts: GlobalCuts) -> np.ndarray:
    """Split of every interaction by its own key, (n,) int8."""
    splits = np.full(len(interactions.timestamps), TRAIN, dtype=np.int8)
    splits[_is_at_or_past(interactions, cuts.valid)] = VALID
    splits[_is_at_or_past(interactions, cuts.test)] = TEST
    return splits


def _is_at_or_past(interactions: Interactions, cut: SampleKey) -> np.ndarray:
    times = interactions.timestamps
    hashes = np.repeat(interactions.user_hashes, np.diff(interactions.offsets))
    is_past: np.ndarray = (times > cut.timestamp) | ((times == cut.timestamp) & (hashes > cut.user_hash))
    for user in np.flatnonzero(interactions.user_hashes == cut.user_hash):
        for row in range(interactions.offsets[user], interactions.offsets[user + 1]):
            position = row - int(interactions.offsets[user])
            is_past[row] |= SampleKey(int(times[row]), cut.user_hash, interactions.user_ids[user], position) >= cut
    return is_past


def assign_leave_one_out(offsets: np.ndarray) -> np.ndarray:
    """Split of every interaction by its distance from its user's end, (n,) int8; ``offsets`` as in Interactions."""
    num_of_user = np.diff(offsets)
    ends = np.repeat(offsets[1:], num_of_user)
    starts = np.repeat(offsets[:-1], num_of_user)
    rows = np.arange(offsets[-1])
    splits = np.full(len(rows), TRAIN, dtype=np.int8)
    splits[rows == ends - 2] = VALID
    splits[rows == ends - 1] = TEST
    splits[rows == starts] = TRAIN
    return splits
