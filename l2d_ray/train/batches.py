"""Texts -> packed batches, the same number on every worker.

A worker fills a buffer with a fixed number of texts, packs it by length into a number of batches that depends only on the buffer's
fill and on the mean length over all data, and shuffles the batches. Workers with equal shares of texts so take equal steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.sequences import UserSequence
from l2d_ray.text.harvest import completion_windows
from l2d_ray.text.packing import split_balanced
from l2d_ray.text.prompts import PromptFormat, TokenIds

BUFFER_WINDOWS = 16384
"""Texts shuffled together: a few megabytes of token ids."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingText:
    """One text to learn from.

    Attributes:
        token_ids: (t,) int32.
        loss_start: ``token_ids[loss_start:]`` are predicted.
        state_indexes: (s,) int32, ascending: tokens whose state belongs to a sample.
        target_items: (s,) int32: item_index of each sample's target.
    """

    token_ids: TokenIds
    loss_start: int
    state_indexes: NDArray[np.int32]
    target_items: NDArray[np.int32]


def training_texts(
    sequence: UserSequence,
    split: int,
    *,
    item_id_to_title: Mapping[str, TokenIds],
    item_id_to_index: Mapping[str, int],
    prompts: PromptFormat,
) -> list[TrainingText]:
    """A user's texts with completions, and the items that follow at their states, for the loss on a split's targets."""
    windows = completion_windows(sequence, split, item_id_to_title=item_id_to_title, prompts=prompts)
    targets = ([item_id_to_index[sequence.item_ids[position]] for position in window.target_positions] for window in windows)
    return [
        TrainingText(window.token_ids, window.loss_start, window.state_indexes, np.array(items, dtype=np.int32))
        for window, items in zip(windows, targets, strict=True)
    ]


def without_some_titles(text: TrainingText, share: float, rng: np.random.Generator) -> TrainingText:
    """The text as if some of the items that it predicts had never been taken: each with probability ``share``, but not all of them.

    What follows a dropped title is predicted from what stands before it. What stands before the first predicted title stays.
    """
    num_titles = len(text.state_indexes)
    is_kept = rng.random(num_titles) >= share
    if not is_kept.any():
        is_kept[rng.integers(num_titles)] = True
    lengths = np.diff(text.state_indexes, append=len(text.token_ids) - 1)
    ends = text.loss_start + np.cumsum(lengths[is_kept])
    is_token_kept = np.concatenate([np.ones(text.loss_start, dtype=np.bool_), np.repeat(is_kept, lengths)])
    states = np.concatenate([[text.loss_start], ends[:-1]]) - 1
    return TrainingText(text.token_ids[is_token_kept], text.loss_start, states.astype(np.int32), text.target_items[is_kept])


def packed_batches(
    texts: Iterable[TrainingText], *, batch_tokens: int, mean_tokens: float, rng: np.random.Generator
) -> Iterator[list[TrainingText]]:
    """Batches of about ``batch_tokens`` tokens; a batch may be empty where few long texts make up a buffer."""
    stream = iter(texts)
    while buffer := list(islice(stream, BUFFER_WINDOWS)):
        shuffled = [buffer[i] for i in rng.permutation(len(buffer))]
        groups = split_balanced([len(text.token_ids) for text in shuffled], num_batches(len(buffer), batch_tokens, mean_tokens))
        for group in rng.permutation(len(groups)):
            yield [shuffled[i] for i in groups[group]]


def num_batches(num_texts: int, batch_tokens: int, mean_tokens: float) -> int:
    """Batches that a buffer of ``num_texts`` is packed into; at least 1, at most one a text."""
    return int(np.clip(round(num_texts * mean_tokens / batch_tokens), 1, max(num_texts, 1)))


def batches_per_epoch(num_texts: int, batch_tokens: int, mean_tokens: float) -> int:
    """Batches that a worker with ``num_texts`` texts packs in one pass."""
    full, rest = divmod(num_texts, BUFFER_WINDOWS)
    return full * num_batches(BUFFER_WINDOWS, batch_tokens, mean_tokens) + (num_batches(rest, batch_tokens, mean_tokens) if rest else 0)
