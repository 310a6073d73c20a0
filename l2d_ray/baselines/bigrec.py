"""BIGRec: write a title freely, then rank the catalogue by the distance of every title to what was written (arXiv 2308.08434).

One text a request, the best of a beam search (the authors' code: 4 beams); its embedding and the titles' live in ``title_space``. The
paper's second step, re-weighting distances by popularity or a collaborative model, is left out: this is the row called BIGRec elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from l2d_ray.baselines.interface import rank_in_blocks
from l2d_ray.baselines.title_space import TitleSpace
from l2d_ray.baselines.title_writing import TitleWriter


class BigRec:
    """Fits ``interface.Baseline``; an empty history is answered with popularity.

    Args:
        space: titles of the same catalogue as the writer's.
        counts: (num_items,) training interactions of each item.
        num_beams: 1 writes greedily.
    """

    def __init__(self, writer: TitleWriter, space: TitleSpace, counts: NDArray[np.int64], *, num_beams: int = 4) -> None:
        self._writer, self._space, self._num_beams = writer, space, num_beams
        self._counts = counts.astype(np.float64)

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k items nearest to what is written after each history (oldest first), (n, k) int64 padded with -1."""
        return rank_in_blocks(histories, self._scores, k, exclude, num_items=len(self._counts))

    def _scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(n, num_items) float64: negated distances."""
        scores = np.tile(self._counts, (len(histories), 1))
        rows = [row for row, history in enumerate(histories) if history]
        texts = [texts[0] for texts in self._writer.write([histories[row] for row in rows], num_beams=self._num_beams)]
        scores[rows] = -self._space.distances(self._space.embed(texts))
        return scores
