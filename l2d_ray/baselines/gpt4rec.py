"""GPT4Rec: the language model writes several search queries, BM25 finds titles with them (Li et al. 2023, arXiv 2304.03879).

Merge, as in the paper: with m queries and a list of K items each query in beam order adds its K/m best items that no query before it
has added. What the first pass leaves open is filled by further passes of the same kind, and then by popularity, so a list is full.
K is a setting, not the length asked for: a shorter list is the beginning of a longer one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.baselines.bm25 import Bm25Index
from l2d_ray.baselines.interface import head_first, rank_in_blocks
from l2d_ray.baselines.title_writing import TitleWriter


@dataclass(frozen=True)
class Gpt4RecSettings:
    """``num_queries`` is m, the beams; ``list_length`` is K. Beams need not differ; an equal query adds what its twin left."""

    num_queries: int = 10
    list_length: int = 100

    @property
    def items_per_query(self) -> int:
        """K/m, rounded up."""
        return -(-self.list_length // self.num_queries)


class Gpt4Rec:
    """Fits ``interface.Baseline``; an empty history is answered with popularity.

    Args:
        index: titles of the same catalogue as the writer's.
        counts: (num_items,) training interactions of each item.
    """

    def __init__(
        self, writer: TitleWriter, index: Bm25Index, counts: NDArray[np.int64], settings: Gpt4RecSettings = Gpt4RecSettings()
    ) -> None:
        self._writer, self._index, self._settings = writer, index, settings
        self._counts = counts.astype(np.float64)

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history (oldest first), (n, k) int64 padded with -1."""
        return rank_in_blocks(histories, self._scores, k, exclude, num_items=len(self._counts))

    def _scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(n, num_items) float64: what the queries find first, then popularity."""
        return np.stack([head_first(found, self._counts) for found in self._found(histories)])

    def _found(self, histories: Sequence[Sequence[int]]) -> list[NDArray[np.int64]]:
        """All items that the queries of each history find, in the order of the merge."""
        found = [np.empty(0, np.int64) for _ in histories]
        rows = [row for row, history in enumerate(histories) if history]
        written = self._writer.write([histories[row] for row in rows], num_beams=self._settings.num_queries)
        for row, queries in zip(rows, written, strict=True):
            found[row] = merge_queries(self._index.scores(queries), self._settings.items_per_query)
        return found


def merge_queries(scores: NDArray[np.float64], items_per_query: int) -> NDArray[np.int64]:
    """Items with a positive score for any query, in the order in which the queries take turns.

    Args:
        scores: (num_queries, num_items), in beam order; equal scores by smaller item index.
        items_per_query: what a query adds in its turn, of the items that are not there yet.
    """
    best_first = np.argsort(-scores, axis=1, kind="stable")
    lists = [order[: np.count_nonzero(row > 0)].tolist() for order, row in zip(best_first, scores, strict=True)]
    places = [0] * len(lists)
    merged: dict[int, None] = {}
    while any(place < len(items) for place, items in zip(places, lists, strict=True)):
        for query, items in enumerate(lists):
            wanted = len(merged) + items_per_query
            while len(merged) < wanted and places[query] < len(items):
                merged.setdefault(items[places[query]])
                places[query] += 1
    return np.array(list(merged), np.int64)
