"""Which kind of search a segment gets: by its size and the device, or by hand."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from l2d_ray.index.search import Smallest

Kind = Literal["exact", "compressed"]
KindChoice = Literal["auto", "exact", "compressed"]

EXACT_ROWS_CPU = 1_000_000
EXACT_BYTES_GPU = 40 * 10**9


class SegmentSearch(Protocol):
    """What every kind can do."""

    def __len__(self) -> int:
        """Rows of the segment, dead ones included."""

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int, *, dead: NDArray[np.int64] | None = None) -> Smallest:
        """(b, num_neighbors) rows ascending by (squared distance, sample_id), none of ``dead``."""


def choose_kind(num_rows: int, dim: int, *, device: str = "cpu", wanted: KindChoice = "auto") -> Kind:
    """``wanted`` where it names a kind; else exact while that is fast enough (CPU) or fits the device's memory (GPU)."""
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "exact" if num_rows <= EXACT_ROWS_CPU else "compressed"
    return "exact" if num_rows * dim * 2 <= EXACT_BYTES_GPU else "compressed"
