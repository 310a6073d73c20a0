"""Compressed search of one segment: codes in memory find candidates, their distances come from the float16 vectors on disk.

The codes, made and searched by faiss: the leading principal axes of the vectors (what they leave out is ``LEFT_OUT`` of the variance),
turned at random, in an inverted file of RaBitQ codes (one bit an axis and two floats; Gao & Long 2024, which asks for a random
rotation). They find ``candidates_per_neighbor`` times as many rows as are wanted; those are re-scored in float64 from the memory-mapped
vectors. So every distance is exact and every tie goes to the smaller sample_id; what is approximate is which rows became candidates.

Measured on jittered SmolLM2 states (d = 576), index recall at M = 100 and 500. 10^5, 64 of 256 lists, 2 M candidates: 576 axes as they are
.95 and .96 (80 bytes), turned .99 and 1.00, 320 principal axes turned .98 and .99 (48 bytes). 10^6, 64 of 1,300 lists: .945 and .952 with
2 M candidates, .980 and .984 with 4 M. 10^7, 64 of 4,110 lists: .940 and .964 with 4 M, .966 and .970 with 8 M; more lists hardly help.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from l2d_ray.errors import ArtefactError, ConfigError
from l2d_ray.index.pruning import Axes
from l2d_ray.index.search import Smallest, likely_nearest, nearest_of

CODES = "codes.faiss"
NUM_PROBES = 64
CANDIDATES_PER_NEIGHBOR = 4
MORE_CANDIDATES = 400
"""Beyond those: the order by codes alone is uncertain where few neighbours are wanted, and re-scoring these costs little."""
LEFT_OUT = 0.005
BLOCK_ROWS = 32768
SAMPLE_ROWS = 16384
"""For the axes; the lists' centroids take SAMPLE_ROWS_PER_LIST for each list."""
SAMPLE_ROWS_PER_LIST = 40
ROWS_PER_LIST = 400
"""At least, so that centroids (4 bytes an axis) stay a small share of the codes (a bit an axis for every row)."""
AXES_STEP = 32
MANY_LISTS = 2048
"""From here on rows find their list through a graph over the centroids (HNSW) instead of comparing with all of them."""


class CompressedSearch:
    """Nearest rows of one segment, nearly all of them.

    Args:
        codes: the faiss index of the segment's rows.
        vectors: (n, d) float16, memory-mapped.
        sample_ids: (n,) int64, distinct; break ties, smaller first.
        num_probes: lists searched for a query.
        candidates_per_neighbor: rows re-scored for every row wanted.
    """

    kind = "compressed"

    def __init__(
        self,
        codes: Any,
        vectors: NDArray[np.float16],
        sample_ids: NDArray[np.int64],
        *,
        num_probes: int = NUM_PROBES,
        candidates_per_neighbor: int = CANDIDATES_PER_NEIGHBOR,
    ) -> None:
        self._codes = codes
        self._vectors = vectors
        self._sample_ids = sample_ids
        self.num_probes = num_probes
        self.candidates_per_neighbor = candidates_per_neighbor

    @staticmethod
    def build(
        vectors: NDArray[np.float16],
        folder: Path,
        *,
        num_lists: int | None = None,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> Path:
        """Write the codes of vectors (n, d), n >= 1, into ``folder``, and return the file's path.

        Reads the vectors in blocks: memory holds the codes and a training sample. The same vectors and seed give the same codes.
        ``on_progress`` is told the rows of each block. OSError where the disk is full.
        """
        num_rows = len(vectors)
        lists = num_lists or choose_num_lists(num_rows)
        rng = np.random.default_rng(seed)
        codes = _empty_codes(_drawn(vectors, SAMPLE_ROWS, rng), lists, rng)
        codes.train(_drawn(vectors, lists * SAMPLE_ROWS_PER_LIST, rng))
        for start in range(0, num_rows, BLOCK_ROWS):
            block = _widened(vectors[start : start + BLOCK_ROWS])
            codes.add(block)
            if on_progress:
                on_progress(len(block))
        try:
            _faiss().write_index(codes, str(folder / CODES))
        except RuntimeError as error:  # faiss says so of a full disk
            raise OSError(f"{folder / CODES}: {str(error).splitlines()[0]}") from error
        return folder / CODES

    @classmethod
    def open(cls, folder: Path, vectors: NDArray[np.float16], sample_ids: NDArray[np.int64], **settings: int) -> CompressedSearch:
        """Read what ``build`` wrote; ``settings`` as the class takes them. ArtefactError where it does not fit the vectors."""
        path = folder / CODES
        try:
            codes = _faiss().read_index(str(path))
        except RuntimeError as error:
            raise ArtefactError(f"{path} is missing or damaged ({str(error).splitlines()[0]}); build the index again.") from None
        if (codes.ntotal, codes.d) != vectors.shape:
            raise ArtefactError(
                f"{path} holds {codes.ntotal} codes of vectors {codes.d} wide, the segment has {vectors.shape[0]} of {vectors.shape[1]}; "
                "build the index again."
            )
        return cls(codes, vectors, sample_ids, **settings)

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int, *, dead: NDArray[np.int64] | None = None) -> Smallest:
        """As ``ExactSearch.nearest``: the distances are exact, some of the nearest rows may be missing."""
        result = Smallest.padding(len(queries), num_neighbors)
        num_candidates = min(len(self), num_neighbors * self.candidates_per_neighbor + MORE_CANDIDATES)
        if not (num_candidates and num_neighbors and len(queries)):
            return result
        candidates = [np.sort(found[found >= 0]) for found in self._candidates(queries, num_candidates, dead)]
        for row, found in enumerate(likely_nearest(queries, candidates, num_neighbors, self._vectors)):
            result.put(row, *nearest_of(queries[row], found, num_neighbors, vectors=self._vectors, sample_ids=self._sample_ids))
        return result

    def _candidates(self, queries: NDArray[np.float32], num_candidates: int, dead: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """(b, num_candidates) positions, -1 where there are fewer."""
        faiss = _faiss()
        lists = faiss.SearchParametersIVF(nprobe=self.num_probes)
        if dead is not None and len(dead):
            lists.sel = faiss.IDSelectorNot(faiss.IDSelectorBatch(dead))
        parameters = faiss.SearchParametersPreTransform(index_params=lists)
        found: NDArray[np.int64] = self._codes.search(np.ascontiguousarray(queries), num_candidates, params=parameters)[1]
        return found


def choose_num_lists(num_rows: int) -> int:
    """Lists of an inverted file over ``num_rows`` rows."""
    return max(1, min(int(1.3 * num_rows**0.5), num_rows // ROWS_PER_LIST))


def _empty_codes(sample: NDArray[np.float32], num_lists: int, rng: np.random.Generator) -> Any:
    """Codes of no row, with the axes of a sample (m, d); the lists are still to be trained."""
    faiss = _faiss()
    dim = sample.shape[1]
    axes = Axes.of(sample, dim)
    variances = np.square((sample - axes.mean) @ axes.rotation, dtype=np.float64).sum(axis=0)
    left_out = 1 - np.cumsum(variances) / max(float(variances.sum()), np.finfo(np.float64).tiny)
    width = min(dim, AXES_STEP * -(-int(1 + np.argmax(left_out <= LEFT_OUT)) // AXES_STEP))
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    rotation = (axes.rotation[:, :width] @ turn).T.astype(np.float32)
    transform = faiss.LinearTransform(dim, width, True)
    faiss.copy_array_to_vector(np.ascontiguousarray(rotation).ravel(), transform.A)
    faiss.copy_array_to_vector(-rotation @ axes.mean, transform.b)
    transform.is_trained = True
    graph = "_HNSW32" if num_lists >= MANY_LISTS else ""
    return faiss.IndexPreTransform(transform, faiss.index_factory(width, f"IVF{num_lists}{graph},RaBitQfs"))


def _drawn(vectors: NDArray[np.float16], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """At most ``count`` rows, drawn without replacement, in their order."""
    drawn = rng.choice(len(vectors), min(len(vectors), count), replace=False)
    return _widened(vectors[np.sort(drawn)])


def _widened(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """float32, by torch: its cast is vectorised, numpy's is not."""
    wide: NDArray[np.float32] = torch.from_numpy(np.array(rows)).float().numpy()
    return wide


def _faiss() -> Any:
    """faiss comes with an extra, so that an installation without compressed search needs none."""
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "The compressed kind of index needs faiss; install l2d_ray[cpu] or l2d_ray[gpu], or choose the exact kind."
        ) from None
    return faiss
