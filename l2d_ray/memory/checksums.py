"""Checksums of rows, and their sum over a version: what tells a damaged file from a whole one, wherever the damage is.

A row's checksum is 64 bits: the upper half covers its keys (sample_id, user_id, item_id, timestamp, bucket), the lower half its vector, so
that a scan of the keys alone can be verified too. Each half is a multilinear hash (sum of words times odd multipliers, modulo 2^64)
through the finaliser of splitmix64: one changed bit always changes the sum. A version's digest is the sum of its rows' checksums modulo
2^64: it adds up over any partition of the rows, and follows an append or a deletion without reading the rest.

Source of the finaliser and of the multipliers: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

KEY_BITS: Final = np.uint64(32)
_GOLDEN: Final = 0x9E3779B97F4A7C15


def row_checksums(
    sample_ids: NDArray[np.int64],
    user_ids: pa.StringArray,
    item_ids: pa.StringArray,
    timestamps: NDArray[np.int64],
    buckets: NDArray[np.int16],
    vectors: NDArray[np.float16],
) -> NDArray[np.uint64]:
    """(n,) checksums of rows; vectors (n, d), timestamps (n,) with one fixed number where unknown."""
    return key_halves(sample_ids, user_ids, item_ids, timestamps, buckets) << KEY_BITS | vector_halves(vectors)


def key_halves(
    sample_ids: NDArray[np.int64],
    user_ids: pa.StringArray,
    item_ids: pa.StringArray,
    timestamps: NDArray[np.int64],
    buckets: NDArray[np.int16],
) -> NDArray[np.uint64]:
    """(n,) upper halves, as numbers below 2^32."""
    numbers = (sample_ids.view(np.uint64), timestamps.view(np.uint64), buckets.astype(np.int64).view(np.uint64))
    texts = (_finalise(_text_sums(user_ids)), _finalise(_text_sums(item_ids)))
    total = np.zeros(len(sample_ids), dtype=np.uint64)
    for column, multiplier in zip((*numbers, *texts), _multipliers(5), strict=True):
        total += column * multiplier
    return _finalise(total) >> KEY_BITS


def vector_halves(vectors: NDArray[np.float16]) -> NDArray[np.uint64]:
    """(n,) lower halves, as numbers below 2^32, of vectors (n, d)."""
    wide = vectors.shape[1] % 4 == 0
    words = np.ascontiguousarray(vectors).view(np.uint64 if wide else np.uint16).astype(np.uint64, copy=False)
    return _finalise(np.einsum("ij,j->i", words, _multipliers(words.shape[1]))) >> KEY_BITS


def digest_of(checksums: NDArray[np.uint64]) -> int:
    """Sum modulo 2^64."""
    return int(checksums.sum(dtype=np.uint64))


def _text_sums(texts: pa.StringArray) -> NDArray[np.uint64]:
    """(n,) multilinear hashes of the texts' UTF-8 bytes and lengths."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    first = int(ends[0]) if len(ends) else 0
    ends = ends - first
    lengths = np.diff(ends)
    content = np.frombuffer(data, dtype=np.uint8)[first : first + int(ends[-1])] if data is not None else np.zeros(0, dtype=np.uint8)
    places = np.arange(len(content)) - np.repeat(ends[:-1], lengths)
    products = content.astype(np.uint64) * _multipliers(_room(int(lengths.max(initial=0))))[places]
    running = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(products, dtype=np.uint64)])
    sums: NDArray[np.uint64] = running[ends[1:]] - running[ends[:-1]] + lengths.astype(np.uint64) * np.uint64(_GOLDEN)
    return sums


def _room(length: int) -> int:
    """A power of two, so that few tables of multipliers are made."""
    return 1 << max(length, 1).bit_length()


@cache
def _multipliers(count: int) -> NDArray[np.uint64]:
    """(count,) odd numbers, the same for ever; a longer table begins with a shorter one."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _finalise(steps) | np.uint64(1)


def _finalise(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
