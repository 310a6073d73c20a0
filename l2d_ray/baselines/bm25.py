"""BM25 over titles: exact lexical search of a catalogue, and the recommender that searches with the titles of the history.

    score(query, title) = sum over query words of count in query * idf(word) * tf (k1 + 1) / (tf + k1 (1 - b + b |title| / mean |title|))
    idf(word) = log(1 + (N - n + 0.5) / (n + 0.5)), N titles, n of them with the word

(Robertson and Zaragoza 2009; this idf is Lucene's, which is never negative.) Words are runs of letters and digits, lower case.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from l2d_ray.baselines.interface import rank_in_blocks
from l2d_ray.baselines.tuning import Tuned, ValidationSamples, tune

_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True)
class Bm25Settings:
    """Saturation ``k1`` >= 0, length normalisation ``b`` in 0..1, and how many last history items Bm25 searches with."""

    k1: float = 1.2
    b: float = 0.75
    num_recent: int = 5


GRID: Final = tuple(Bm25Settings(k1=k1, b=b, num_recent=num) for k1, b, num in product((0.5, 1.2, 2.0), (0.25, 0.75), (1, 3, 10)))
"""What ``tune_bm25`` tries by default."""


class Bm25Index:
    """Titles as word weights; immutable. ``titles[i]`` is the title of item i."""

    def __init__(self, titles: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        self._word_to_column: dict[str, int] = {}
        for title in titles:
            for word in words_of(title):
                self._word_to_column.setdefault(word, len(self._word_to_column))
        counts = self._counts(titles)
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        num_titles = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = np.log1p((len(titles) - num_titles + 0.5) / (num_titles + 0.5))
        relative = lengths / max(lengths.mean(), 1e-9) if len(titles) else lengths
        saturation = np.repeat(k1 * (1 - b + b * relative), np.diff(counts.indptr))
        counts.data = idf[counts.indices] * counts.data * (k1 + 1) / (counts.data + saturation)
        self._weights = counts.T.tocsr()  # (words, items)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """(n, num_items) float64 BM25 scores; 0 where no word is shared."""
        scores: NDArray[np.float64] = (self._counts(queries) @ self._weights).toarray()
        return scores

    def _counts(self, texts: Sequence[str]) -> Any:
        """Sparse (n, words): how often each known word stands in each text."""
        rows: list[int] = []
        columns: list[int] = []
        for row, text in enumerate(texts):
            known = [self._word_to_column[word] for word in words_of(text) if word in self._word_to_column]
            rows += [row] * len(known)
            columns += known
        counts = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(texts), len(self._word_to_column)))
        counts.sum_duplicates()
        return counts


class Bm25:
    """Fits ``interface.Baseline``: items whose titles share words with those of the history; the others follow by popularity.

    Args:
        counts: (num_items,) training interactions of each item.
    """

    def __init__(self, titles: Sequence[str], counts: NDArray[np.int64], settings: Bm25Settings = Bm25Settings()) -> None:
        self._titles, self._num_recent = titles, settings.num_recent
        self._index = Bm25Index(titles, k1=settings.k1, b=settings.b)
        self._popularity = counts / (counts.max(initial=0) + 1.0)  # in [0, 1)

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history (oldest first), (n, k) int64 padded with -1."""
        return rank_in_blocks(histories, self._scores, k, exclude, num_items=len(self._titles))

    def _scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(n, num_items) float64: positive where a word matches, else popularity - 1, which is negative."""
        queries = [" ".join(self._titles[item] for item in history[-self._num_recent :]) for history in histories]
        found = self._index.scores(queries)
        return np.where(found > 0, found, self._popularity - 1.0)


def tune_bm25(
    titles: Sequence[str], counts: NDArray[np.int64], *, validation: ValidationSamples, grid: Sequence[Bm25Settings] = GRID
) -> Tuned[Bm25Settings, Bm25]:
    """The candidate with the best ndcg@20 on validation."""
    return tune(grid, lambda settings: Bm25(titles, counts, settings), validation)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())
