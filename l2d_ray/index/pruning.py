"""A cheap lower bound on every squared distance, so that few rows need a full one: exact search in a fraction of the arithmetic.

States of a language model vary far more along some axes than along others. In the axes of a sample's principal components, cut into
the first h (the head r', q') and the rest (r'', q''), Cauchy-Schwarz bounds the rest by its norms alone:

    |q - r|^2  >=  |q|^2 + |r|^2 - 2 (q'.r' + |q''| |r''|)

which is one matrix product h + 2 wide: (r', |r''|, |r|^2) . (-2 q', -2 |q''|, 1). Only that many columns are held in memory. Every
rounding error of the arithmetic is bounded (``BoundQueries.errors``; norms of the rests are rounded up), so no row is left out wrongly.
Distances do not change under translation, so all of this is about the sample's mean.

Scanning bounds first and refining in their order is the idea of the VA-file (Weber, Schek, Blott 1998).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

UNIT_ROUNDOFF = 2.0**-24
READ_ROWS = 8192


@dataclass(frozen=True, eq=False)
class BoundQueries:
    """Queries in the form that bounds are computed from.

    Attributes:
        columns: (b, h + 2) float32, the right-hand factor above.
        squared_norms: (b,) float64 about the mean, to be added to the product.
        errors: (b,) float64; product + squared_norms - errors never exceeds the true squared distance.
    """

    columns: NDArray[np.float32]
    squared_norms: NDArray[np.float64]
    errors: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Axes:
    """Where the heads come from.

    Attributes:
        mean: (d,) float32.
        rotation: (d, h) float32, columns orthonormal up to rounding, by falling variance.
    """

    mean: NDArray[np.float32]
    rotation: NDArray[np.float32]

    @classmethod
    def of(cls, sample: NDArray[np.floating], width: int) -> Axes:
        """Principal axes of a sample (m, d), m >= 1; width <= d."""
        wide = sample.astype(np.float64)
        mean = wide.mean(axis=0).astype(np.float32)
        wide -= mean
        _, vectors = np.linalg.eigh(wide.T @ wide)
        return cls(mean, np.ascontiguousarray(vectors[:, ::-1][:, :width], dtype=np.float32))

    @property
    def width(self) -> int:
        return int(self.rotation.shape[1])

    @property
    def head_error(self) -> float:
        """Bound on |computed head - true head| / |r|: h dot products of d float32 terms, centring and the rotation's own rounding."""
        return (len(self.mean) + 8) * UNIT_ROUNDOFF * float(np.sqrt(self.width))

    def row_columns(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """(m, h + 2) float32, the left-hand factor above, of rows (m, d)."""
        heads, squared_norms, rests = self._cut(rows)
        return np.concatenate([heads, rests[:, None], squared_norms[:, None]], axis=1, dtype=np.float32, casting="same_kind")

    def bound_queries(self, queries: NDArray[np.float32], largest_norm: float) -> BoundQueries:
        """``largest_norm`` is the largest row's about the mean."""
        heads, squared_norms, rests = self._cut(queries)
        ones = np.ones((len(queries), 1))
        columns = np.concatenate([-2 * heads, -2 * rests[:, None], ones], axis=1, dtype=np.float32, casting="same_kind")
        norms = np.sqrt(squared_norms)
        product = (self.width + 16) * UNIT_ROUNDOFF * (4 * norms + largest_norm) * largest_norm
        heads_wrong = 2 * (2 * self.head_error + self.head_error**2) * norms * largest_norm
        return BoundQueries(columns, squared_norms, product + heads_wrong + 16 * UNIT_ROUNDOFF * squared_norms)

    def _cut(self, rows: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
        """Heads (m, h), squared norms about the mean (m,), and the rests' norms (m,) rounded up."""
        centred = torch.from_numpy(np.array(rows)).float() - torch.from_numpy(self.mean)
        heads = (centred @ torch.from_numpy(self.rotation)).numpy()
        wide = centred.double().numpy()
        squared_norms = np.einsum("ij,ij->i", wide, wide)
        inside = np.einsum("ij,ij->i", heads, heads, dtype=np.float64)
        rests = np.sqrt(np.maximum(squared_norms - inside, 0.0) + 4 * self.head_error * squared_norms) * (1 + 4 * UNIT_ROUNDOFF)
        return heads, squared_norms, rests


class PrunedRows:
    """The columns of every row of vectors (n, d), computed once: (h + 2) * 4 bytes a row in memory."""

    def __init__(self, vectors: NDArray[np.floating], axes: Axes) -> None:
        self.axes = axes
        self._columns = torch.empty((len(vectors), axes.width + 2))
        columns = self._columns.numpy()
        for start in range(0, len(vectors), READ_ROWS):
            columns[start : start + READ_ROWS] = axes.row_columns(vectors[start : start + READ_ROWS])
        self.largest_norm = float(np.sqrt(columns[:, -1].max(initial=0.0))) * (1 + 4 * UNIT_ROUNDOFF)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def num_bytes(self) -> int:
        return self._columns.nbytes

    def bound_queries(self, queries: NDArray[np.float32]) -> BoundQueries:
        return self.axes.bound_queries(queries, self.largest_norm)

    def products(self, queries: BoundQueries, rows: slice, out: torch.Tensor) -> NDArray[np.float32]:
        """(m, b) float32 products of a slice of the rows with the queries, written into ``out`` (at least m * max(b, 2) floats, flat).

        Tall, and never with a vector: MKL took 1.4 and 4 times as long for the other ways on an AMD processor. Not by numpy's BLAS, whose
        threads and torch's wait for work in each other's way.
        """
        block, columns = self._columns[rows], torch.from_numpy(queries.columns)
        wide = columns if len(columns) > 1 else columns.repeat(2, 1)
        found = out[: len(block) * len(wide)].view(len(block), len(wide))
        products: NDArray[np.float32] = torch.mm(block, wide.T, out=found).numpy()
        return products[:, : len(columns)]


def spread_rows(vectors: NDArray[np.float16], count: int) -> NDArray[np.float16]:
    """At most ``count`` rows, evenly spaced."""
    return np.array(vectors[:: max(1, -(-len(vectors) // count))])
