"""How much of the memory is needed: the decoders with a part of its entries, on validation, settings as tuned on the whole.

What is kept, as an order of all entries of which a beginning is taken (counts, and with them the prior, are those of what is kept):

- ``random``;
- ``recent``: the latest interactions first; left out where no time is known;
- ``capped``: every item's latest entry first (any where no time is known), then every item's second, and so on: a cap per item that
  fits the size;
- ``herded``: of every item the same share, in the greedy order in which the mean of what is kept follows the item's mean
  (Welling 2009; Rebuffi et al. 2017, arXiv 1611.07725).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.bench import Bench, say
from benchmarks.quality.inputs import Entries
from benchmarks.quality.state_rows import LatentRow, decoder_of
from l2d_ray.decode.settings import SYSTEM_NAMES
from l2d_ray.evaluate.metrics import metric_means, target_ranks
from l2d_ray.evaluate.protocol import NUM_RANKED
from l2d_ray.evaluate.queries import EncodedSplit

FRACTIONS: Final = (0.05, 0.1, 0.3, 0.5)

IntArray = NDArray[np.int64]


def random_order(entries: Entries, seed: int) -> IntArray:
    return np.random.default_rng(seed).permutation(len(entries))


def recent_order(entries: Entries, _seed: int) -> IntArray:
    """Latest first, equal times by sample_id."""
    return np.lexsort((entries.sample_ids, -entries.timestamps))


def capped_order(entries: Entries, seed: int) -> IntArray:
    """By place within the item (latest first), then in a random order of items."""
    places = np.empty(len(entries), np.int64)
    for rows in _items(entries):
        places[rows[recent_order(entries.take(rows), seed)]] = np.arange(len(rows))
    return np.lexsort((random_order(entries, seed), places))


def herded_order(entries: Entries, seed: int) -> IntArray:
    """By (place within the item + u) / entries of the item, u in [0, 1) drawn for each item: every share of every item, on average."""
    generator, keys = np.random.default_rng(seed), np.empty(len(entries))
    for rows in _items(entries):
        order = herding(entries.vectors[rows].astype(np.float64))
        keys[rows[order]] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return np.argsort(keys, kind="stable")


def herding(vectors: NDArray[np.float64]) -> IntArray:
    """An order of (n, d) vectors: each next one brings the mean of those taken nearest to the mean of all; equal ones by position."""
    centred = vectors - vectors.mean(axis=0)
    order, total = np.empty(len(vectors), np.int64), np.zeros(vectors.shape[1])
    is_left = np.ones(len(vectors), bool)
    squared = (centred**2).sum(axis=1)
    for place in range(len(vectors)):
        distances = np.where(is_left, squared + 2 * centred @ total, np.inf)  # |total + v|^2 up to what all have in common
        order[place] = int(np.argmin(distances))
        is_left[order[place]] = False
        total += centred[order[place]]
    return order


ORDERS: Final[dict[str, Callable[[Entries, int], IntArray]]] = {
    "random": random_order,
    "recent": recent_order,
    "capped": capped_order,
    "herded": herded_order,
}


def sweep_memory(bench: Bench, split: EncodedSplit) -> dict[str, Any]:
    """Recall and NDCG of every decoder for every order and fraction, and of the whole memory; a record for each."""
    decoders = list(bench.inputs.run.decoder.decoders)
    depends = [bench.decoder_key, decoders, len(split), bench.options.seed]
    found: dict[str, Any] = {}
    knows_times = bool((bench.inputs.entries.timestamps >= 0).any())
    for name in (name for name in ORDERS if knows_times or name != "recent"):
        found[name] = bench.store.record(f"sweep-{name}", depends, partial(_swept, bench, split, name))
    whole = bench.store.record("sweep-whole", depends, lambda: _scored(bench, split, np.arange(len(bench.inputs.entries))))
    return {
        "split": "valid",
        "num_samples": len(split),
        "num_entries": len(bench.inputs.entries),
        "whole": whole,
        "kept": found,
    }


def _swept(bench: Bench, split: EncodedSplit, name: str) -> dict[str, Any]:
    """One order at every fraction."""
    say(f"memory sweep: {name}")
    kept = ORDERS[name](bench.inputs.entries, bench.options.seed)
    return {f"{fraction:g}": _scored(bench, split, kept[: _size(fraction, len(kept))]) for fraction in FRACTIONS}


def _size(fraction: float, num_entries: int) -> int:
    return max(1, round(fraction * num_entries))


def _scored(bench: Bench, split: EncodedSplit, kept: IntArray) -> dict[str, Any]:
    entries = bench.inputs.entries.take(kept)
    decoder = decoder_of(bench.inputs, entries)
    found: dict[str, Any] = {"num_items": len(np.unique(entries.item_indexes))}
    for name in decoder.decoders:
        ranked = LatentRow(decoder, name).rank_queries(split.queries, split.samples.histories, NUM_RANKED)
        found[SYSTEM_NAMES[name]] = metric_means(target_ranks(ranked, split.samples.targets))
    return found


def _items(entries: Entries) -> Iterator[IntArray]:
    """Positions of each item's entries, item by item, ascending by sample_id."""
    order = np.lexsort((entries.sample_ids, entries.item_indexes))
    starts = np.flatnonzero(np.diff(entries.item_indexes[order], prepend=-1))
    yield from np.split(order, starts[1:])
