"""Windows -> packed batches, the same number on every worker.

A worker fills a buffer with a fixed number of windows, packs it by length into a number of batches that depends only on the buffer's
fill and on the mean length over all data, and shuffles the batches. Workers with equal shares of windows so take equal steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from l2d_ray.text.packing import split_balanced
from l2d_ray.text.prompts import TokenWindow

BUFFER_WINDOWS = 16384
"""Windows shuffled together: a few megabytes of token ids."""


def packed_batches(
    windows: Iterable[TokenWindow], *, batch_tokens: int, mean_tokens: float, rng: np.random.Generator
) -> Iterator[list[TokenWindow]]:
    """Batches of about ``batch_tokens`` tokens; a batch may be empty where few long windows make up a buffer."""
    stream = iter(windows)
    while buffer := list(islice(stream, BUFFER_WINDOWS)):
        shuffled = [buffer[i] for i in rng.permutation(len(buffer))]
        groups = split_balanced([len(w.token_ids) for w in shuffled], num_batches(len(buffer), batch_tokens, mean_tokens))
        for group in rng.permutation(len(groups)):
            yield [shuffled[i] for i in groups[group]]


def num_batches(num_windows: int, batch_tokens: int, mean_tokens: float) -> int:
    """Batches that a buffer of ``num_windows`` is packed into; at least 1, at most one a window."""
    return int(np.clip(round(num_windows * mean_tokens / batch_tokens), 1, max(num_windows, 1)))


def batches_per_epoch(num_windows: int, batch_tokens: int, mean_tokens: float) -> int:
    """Batches that a worker with ``num_windows`` windows packs in one pass."""
    full, rest = divmod(num_windows, BUFFER_WINDOWS)
    return full * num_batches(BUFFER_WINDOWS, batch_tokens, mean_tokens) + (num_batches(rest, batch_tokens, mean_tokens) if rest else 0)
