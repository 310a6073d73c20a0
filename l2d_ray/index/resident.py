"""Exact search of rows that lie on an accelerator in float16: one half-precision product reads every row once.

A float32 query is the sum of two float16 vectors up to 2^-22 of itself, so that the matrix units, which multiply float16 and add in
float32, give all keys within the error that a float32 product has (``product_error``). The candidates' distances are then computed anew
in float64 on the device, and a query whose candidates might miss a row is searched again with twice as many.

``torch.mm(..., out_dtype=torch.float32)`` of float16 exists on CUDA alone; elsewhere the same numbers are multiplied in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from l2d_ray.index.search import SLACK, Smallest, product_error

BLOCK_ROWS = 1 << 20
"""Rows multiplied at once: with 64 queries their products take 0.5 GB."""
REFINED_FLOATS = 1 << 26
"""Numbers widened to float64 at once: 0.5 GB."""
LARGEST = 1024.0
"""Queries are scaled, by a power of two, so that their largest number is below it: no half of one leaves float16's range."""


class ResidentRows:
    """Rows on a device, and the search over them; the answer is that of a brute-force search in float64.

    Args:
        vectors: (n, d) float16, may be memory-mapped; copied to the device block by block.
        sample_ids: (n,) int64, distinct; break ties, smaller first.
    """

    def __init__(self, vectors: NDArray[np.float16], sample_ids: NDArray[np.int64], *, device: str) -> None:
        self._block_rows = BLOCK_ROWS
        self._rows = torch.empty(vectors.shape, dtype=torch.float16, device=device)
        self._squares = torch.empty(len(vectors), dtype=torch.float64, device=device)
        for start in range(0, len(vectors), self._block_rows):
            part = slice(start, start + self._block_rows)
            self._rows[part] = torch.from_numpy(np.array(vectors[part]))
            self._squares[part] = _squared_norms(self._rows[part])
        self._sample_ids = torch.from_numpy(np.array(sample_ids)).to(device)
        self._largest_square = float(self._squares.max()) if len(vectors) else 0.0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Bytes on the device."""
        return self._rows.nbytes + self._squares.nbytes + self._sample_ids.nbytes

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int, *, dead: NDArray[np.int64] | None = None) -> Smallest:
        """The rows of smallest (squared distance, sample_id) for each query.

        Args:
            queries: (b, d) float32.
            num_neighbors: rows wanted; where fewer live, the rest is padding.
            dead: positions that must not be found.
        """
        result = Smallest.padding(len(queries), num_neighbors)
        squares = np.square(queries.astype(np.float64)).sum(axis=1)
        error = product_error(queries.shape[1], np.sqrt(squares * self._largest_square) + self._largest_square + squares)
        offsets = self._squares.float()
        if dead is not None:
            offsets[torch.from_numpy(dead).to(offsets.device)] = torch.inf
        pending = np.arange(len(queries) if num_neighbors and len(self) else 0)
        num_candidates = num_neighbors + SLACK
        while len(pending):
            wanted = torch.from_numpy(queries[pending]).to(offsets.device)
            found, least_left_out = self._candidates(wanted, offsets, min(num_candidates, len(self)))
            positions, keys = (array.cpu().numpy()[:, :num_neighbors] for array in self._refined(wanted, found, offsets))
            result.positions[pending, : positions.shape[1]] = np.where(np.isfinite(keys), positions, -1)
            result.keys[pending, : keys.shape[1]] = keys
            bounds = least_left_out.double().cpu().numpy() + squares[pending] - error[pending]
            pending = pending[result.keys[pending, -1] >= bounds] if num_candidates < len(self) else pending[:0]
            num_candidates *= 2
        return result

    def _candidates(self, queries: Tensor, offsets: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Positions (b, count) of the smallest approximate |r|^2 - 2 q.r; and (b,) a value that no row left out is below."""
        halves, scales = _halves(queries)
        best_keys = torch.empty((len(queries), 0), device=queries.device)
        best = torch.empty((len(queries), 0), dtype=torch.long, device=queries.device)
        for start in range(0, len(self), self._block_rows):
            block = self._rows[start : start + self._block_rows]
            high, low = torch.split(_product(halves, block), len(queries))
            keys = torch.addcmul(offsets[start : start + len(block)], high.add_(low), scales, value=-2.0)
            block_keys, positions = torch.topk(keys, min(count, len(block)), dim=1, largest=False, sorted=False)
            best_keys, best = torch.cat([best_keys, block_keys], 1), torch.cat([best, positions + start], 1)
            if best_keys.shape[1] > count:
                best_keys, kept = torch.topk(best_keys, count, dim=1, largest=False, sorted=False)
                best = best.gather(1, kept)
        return best, best_keys.amax(dim=1)

    def _refined(self, queries: Tensor, positions: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates (b, c) in ascending order of (squared distance, sample_id), and their distances; inf where a row is dead."""
        num_at_once = max(1, REFINED_FLOATS // positions.shape[1] // self._rows.shape[1])
        keys = torch.empty(positions.shape, dtype=torch.float64, device=positions.device)
        for start in range(0, len(queries), num_at_once):
            part = slice(start, start + num_at_once)
            difference = self._rows[positions[part]].double() - queries[part, None].double()
            keys[part] = _fixed_sum(difference.square_())
        keys[offsets[positions].isinf()] = torch.inf
        by_id = self._sample_ids[positions].argsort(dim=1)
        order = by_id.gather(1, keys.gather(1, by_id).argsort(dim=1, stable=True))
        return positions.gather(1, order), keys.gather(1, order)


def _halves(queries: Tensor) -> tuple[Tensor, Tensor]:
    """(2 b, d) float16: the upper and then the lower halves of scaled queries (b, d); and (b, 1) what a product is multiplied with."""
    exponents = torch.frexp(queries.abs().amax(dim=1, keepdim=True)).exponent
    scaled = queries * (LARGEST * torch.exp2(-exponents.float()))
    high = scaled.half()
    return torch.cat([high, (scaled - high.float()).half()]), torch.exp2(exponents.float()) / LARGEST


def _product(halves: Tensor, rows: Tensor) -> Tensor:
    """(2 b, n) float32."""
    return torch.mm(halves, rows.T, out_dtype=torch.float32) if rows.is_cuda else halves.float() @ rows.float().T


def _squared_norms(rows: Tensor) -> Tensor:
    """(n,) float64."""
    return torch.cat([_fixed_sum(part.double().square_()) for part in torch.split(rows, max(1, REFINED_FLOATS // rows.shape[1]))])


def _fixed_sum(terms: Tensor) -> Tensor:
    """Sum over the last axis, in an order that depends on its length alone: a row's value is the same whatever rows stand beside it."""
    width = terms.shape[-1]
    while width > 1:
        half = width - width // 2
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0]
