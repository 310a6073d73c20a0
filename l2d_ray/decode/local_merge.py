"""L2D-L, the merge: which shards are asked for which of their entries next, and the ranked items in the end. Pure, knows no network.

    merge = LocalMerge(queries, num_neighbors, num_entries)
    while asked := merge.requests():                  # shard -> LocalRequest
        merge.add({shard: ... for shard in asked})    # shard -> LocalCandidates
    merge.top_k(k)

A shard that holds the share p of all entries holds about M p of the M nearest, so that many and a margin are asked for first, not M. The
M-th of all entries received is the cut: nothing beyond it survives. Let R of the received come no later than the last one of a shard. That
shard holds no more than M - R further survivors, all after its last entry and no later than the cut. So where R >= M, or where it had no
more to send, it is never asked again; else it is asked once, for just those.

Laws (tested): one round or two, never three; at most M entries a query from a shard; the answer is that of one shard holding everything,
bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.local import ENTRY, Keys, LocalCandidates, LocalRequest
from l2d_ray.decode.restriction import Allowed, Excluded, is_permitted
from l2d_ray.decode.topk import TopK, rank

SPREAD: Final = 4.0
"""Margin of the first request, in standard deviations of a shard's number of survivors if every entry were drawn alone: where to begin.

Measured on 7,617 SmolLM2 states of MovieLens-100K, 2 to 64 shards, M = 100 and 500: at most 19 % of the queries need a second round with
4, 2 % with 5. Vectors that lie in clumps by item need far more, which is why it is learnt.
"""
LEAST_SPREAD, MOST_SPREAD = 1.0, 256.0
WANTED_AGAIN = 0.05
"""Share of queries that may need a second round: rarely enough that it costs no time, often enough that no bytes are wasted."""
STEP = 0.1


def first_limits(num_neighbors: int, num_entries: Sequence[int], *, spread: float = SPREAD) -> NDArray[np.int64]:
    """(s,) how many entries each shard is asked for first: none of an empty one, never more than it has or than num_neighbors."""
    sizes = np.asarray(num_entries, dtype=np.int64)
    most = np.minimum(sizes, num_neighbors)
    shares = sizes / max(int(sizes.sum()), 1)
    expected = num_neighbors * shares
    return np.minimum(np.ceil(expected + spread * np.sqrt(expected * (1 - shares))), most).astype(np.int64)


class LearntSpread:
    """A spread that follows the searches it was used in. It decides what is sent when, never what is found.

    Entries of an item are in one shard and lie near each other, so survivors come in clumps; how large they are is a matter of the data.
    """

    def __init__(self, spread: float = SPREAD) -> None:
        self.value = spread

    def learn(self, share_asked_again: float) -> None:
        """Raise it by a tenth after a search whose queries all needed a second round, lower it by 1 in 200 after one without any."""
        changed = self.value * math.exp(STEP * (share_asked_again - WANTED_AGAIN))
        self.value = min(max(changed, LEAST_SPREAD), MOST_SPREAD)


class LocalMerge:
    """The local decoder's answer to b queries over s shards.

    Args:
        queries: (b, d) float32.
        num_neighbors: M above.
        num_entries: of every shard; its share is taken from it, and it is never asked for more.
        spread: see SPREAD; a very large one asks every shard for M entries at once.
    """

    def __init__(self, queries: NDArray[np.float32], num_neighbors: int, num_entries: Sequence[int], *, spread: float = SPREAD) -> None:
        self._queries = queries
        self._num_neighbors = num_neighbors
        self._sizes = np.asarray(num_entries, dtype=np.int64)[:, None]
        limits = np.repeat(first_limits(num_neighbors, num_entries, spread=spread)[:, None], len(queries), axis=1)
        self._plan = _Plan(limits > 0, limits)
        self._received: _Received | None = None

    @property
    def share_asked_again(self) -> float:
        """Share of the queries that take a second round, once the first is in."""
        return float(self._plan.is_asked.any(axis=0).mean()) if len(self._queries) else 0.0

    def requests(self) -> dict[int, LocalRequest]:
        """What to ask now, by shard; empty when the answer is known."""
        plan, requests = self._plan, {}
        for shard in np.flatnonzero(plan.is_asked.any(axis=1)).tolist():
            rows = plan.rows(shard)
            after = None if plan.after is None else plan.after.at((shard, rows))
            until = None if plan.until is None else plan.until.at(rows)
            requests[shard] = LocalRequest(self._queries[rows], plan.limits[shard, rows], after, until)
        return requests

    def add(self, answers: Mapping[int, LocalCandidates]) -> None:
        """Take the answers to ``requests()``, in any order; a shard that is missing is not asked again."""
        shards = sorted(answers)
        parts = [(np.repeat(self._plan.rows(shard), answers[shard].lengths), shard, answers[shard].entries) for shard in shards]
        fresh = _Received(
            np.concatenate([_NO_INDEXES, *(queries for queries, _, _ in parts)]),
            np.concatenate([_NO_INDEXES, *(np.full(len(queries), shard) for queries, shard, _ in parts)]),
            np.concatenate([_NO_ENTRIES, *(entries for _, _, entries in parts)]),
        )
        if self._received is None:
            self._received = fresh.in_order()
            self._plan = self._second_plan(self._received)
        else:
            self._received = self._received.union(fresh).in_order()
            self._plan = self._plan.nothing_asked()

    def top_k(self, k: int, *, num_neighbors: int | None = None, excluded: Excluded | None = None, allowed: Allowed | None = None) -> TopK:
        """The k items whose local mean is nearest; scores are negated squared distances. Fewer than k items leave padding.

        Args:
            num_neighbors: M or fewer; the same lists serve them all.
            excluded: for each query the item indexes that must not be recommended, allowed: the only ones that may be.
        """
        received = self._received or _Received(_NO_INDEXES, _NO_INDEXES, _NO_ENTRIES)
        survivors = received.at(received.ranks < (self._num_neighbors if num_neighbors is None else num_neighbors))
        items = survivors.at(survivors.is_last_of_item())
        shape = len(self._queries), int(items.ranks.max(initial=-1)) + 1
        ids, scores = np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf)
        ids[items.queries, items.ranks] = items.entries["item_index"]
        scores[items.queries, items.ranks] = -items.entries["prefix"]
        for query in range(len(ids)):
            is_ranked = is_permitted(ids[query], None if excluded is None else excluded[query], None if allowed is None else allowed[query])
            ids[query, ~is_ranked] = -1
        return rank(ids, scores, k)

    def _second_plan(self, received: _Received) -> _Plan:
        """Ask the shards that may hold more survivors for what lies between their last entry and the cut."""
        cells, limits = (received.shards, received.queries), self._plan.limits
        num_sent, num_before, last = np.zeros_like(limits), np.zeros_like(limits), np.zeros_like(limits)
        np.add.at(num_sent, cells, 1)
        np.maximum.at(num_before, cells, received.ranks + 1)  # R above
        np.maximum.at(last, cells, np.arange(len(received.ranks)))
        is_asked = (num_sent == limits) & (num_sent < self._sizes) & (num_before < self._num_neighbors)
        if not is_asked.any():
            return self._plan.nothing_asked()
        until = Keys(np.full(len(self._queries), np.inf), np.zeros(len(self._queries), dtype=np.int64))
        cut = received.at(received.ranks == self._num_neighbors - 1)
        until.squared_distances[cut.queries] = cut.entries["squared_distance"]
        until.sample_ids[cut.queries] = cut.entries["sample_id"]
        after = Keys(received.entries["squared_distance"][last], received.entries["sample_id"][last])
        return _Plan(is_asked, np.minimum(num_sent + self._num_neighbors - num_before, self._sizes), after, until)


@dataclass(frozen=True, eq=False)
class _Plan:
    """Whether each of s shards is asked for each of b queries, and for what: (s, b) each, until (b,); see LocalRequest."""

    is_asked: NDArray[np.bool_]
    limits: NDArray[np.int64]
    after: Keys | None = None
    until: Keys | None = None

    def rows(self, shard: int) -> NDArray[np.int64]:
        """Queries that the shard is asked for."""
        return np.flatnonzero(self.is_asked[shard])

    def nothing_asked(self) -> _Plan:
        return replace(self, is_asked=np.zeros_like(self.is_asked))


@dataclass(frozen=True, eq=False)
class _Received:
    """Entries of all queries and shards: (n,) the query and the shard of each, and the entries (n,) ENTRY."""

    queries: NDArray[np.int64]
    shards: NDArray[np.int64]
    entries: NDArray[np.void]

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """(n,) place of each entry among those of its query, once they are in order."""
        places: NDArray[np.int64] = np.arange(len(self.queries)) - np.searchsorted(self.queries, self.queries)
        return places

    def at(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> _Received:
        return _Received(self.queries[which], self.shards[which], self.entries[which])

    def union(self, other: _Received) -> _Received:
        return _Received(*(np.concatenate([getattr(part, name) for part in (self, other)]) for name in ("queries", "shards", "entries")))

    def in_order(self) -> _Received:
        """Ascending by (query, squared distance, sample_id)."""
        return self.at(np.lexsort((self.entries["sample_id"], self.entries["squared_distance"], self.queries)))

    def is_last_of_item(self) -> NDArray[np.bool_]:
        """(n,) whether no later entry of the same query is of the same item."""
        items = self.entries["item_index"]
        order = np.lexsort((items, self.queries))  # stable: entries of an item stay in order
        is_last = np.ones(len(items), dtype=np.bool_)
        is_last[order[:-1]] = (np.diff(items[order]) != 0) | (np.diff(self.queries[order]) != 0)
        return is_last


_NO_INDEXES: Final = np.zeros(0, dtype=np.int64)
_NO_ENTRIES: Final = np.zeros(0, dtype=ENTRY)
