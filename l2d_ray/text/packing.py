"""Batches packed by length: texts of like length share a batch, so that almost no pass is spent on padding. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def pack_by_length(lengths: Sequence[int] | NDArray[np.integer], max_tokens: int) -> list[NDArray[np.int64]]:
    """Partition texts into batches of at most ``max_tokens`` padded tokens (a longer text is a batch alone).

    Returns positions into ``lengths``, longest batch first (so that a batch too large for memory fails at once). Order is
    deterministic: by length, then position.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    batches, start = [], 0
    while start < len(order):
        count = max(1, max_tokens // max(int(sizes[order[start]]), 1))
        batches.append(order[start : start + count])
        start += count
    return batches


def split_balanced(lengths: Sequence[int] | NDArray[np.integer], num_batches: int) -> list[NDArray[np.int64]]:
    """Partition texts, sorted by length, into exactly ``num_batches`` batches of about equal tokens.

    Training needs the same number of batches on every worker, whatever texts it drew. With fewer texts than batches some are empty.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(sizes, kind="stable")
    filled = np.cumsum(sizes[order])
    if not len(order):
        return [order] * num_batches
    cuts = np.searchsorted(filled, filled[-1] * np.arange(1, num_batches) / num_batches, side="left")
    return np.split(order, cuts)


def pad_batch(
    texts: Sequence[NDArray[np.int32]], pad_id: int, side: Literal["right", "left"] = "right"
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Token ids (b, t) int64 and the mask (b, t) of real tokens; t is the longest text."""
    longest = max(len(text) for text in texts)
    token_ids = np.full((len(texts), longest), pad_id, dtype=np.int64)
    is_real = np.zeros((len(texts), longest), dtype=np.bool_)
    for row, text in enumerate(texts):
        span = slice(0, len(text)) if side == "right" else slice(longest - len(text), longest)
        token_ids[row, span] = text
        is_real[row, span] = True
    return token_ids, is_real
