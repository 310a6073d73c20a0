"""Titles as points: the hidden state of a title's last token, and L2 distances from any text to every title of the catalogue.

BIGRec's grounding space (arXiv 2308.08434, and its code: tokenise the bare title, last layer, last token, ``torch.cdist`` with p = 2).
Distances are computed per distinct title, so that items which share a title are exactly as far from everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2d_ray.model.encoder import Encoder


class TitleSpace:
    """The catalogue's titles in a model's space; ``titles[i]`` is the title of item i.

    Attributes:
        vectors: (num_items, d) float32, one row an item.
    """

    def __init__(self, encoder: Encoder, tokenizer: Any, titles: Sequence[str]) -> None:
        self._encoder, self._tokenizer = encoder, tokenizer
        title_to_row: dict[str, int] = {}
        self._rows = np.array([title_to_row.setdefault(title, len(title_to_row)) for title in titles], np.int64)
        self._distinct = self.embed(list(title_to_row))
        self.vectors: NDArray[np.float32] = self._distinct[self._rows]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d) float32; a text without any token counts as "?"."""
        if not texts:
            return np.empty((0, self._encoder.dim), np.float32)
        encoded = self._tokenizer(list(texts))["input_ids"]
        blank = self._tokenizer("?")["input_ids"]
        return self._encoder.encode([np.array(ids or blank, dtype=np.int32) for ids in encoded])

    def distances(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """L2 distances (n, num_items) float64 from vectors (n, d) to every item's title."""
        points, titles = vectors.astype(np.float64), self._distinct.astype(np.float64)
        squared = np.square(points).sum(1)[:, None] - 2 * points @ titles.T + np.square(titles).sum(1)
        distances: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0))[:, self._rows]
        return distances
