"""Why an item was recommended: the memory entries of that item that lie nearest to the request, as training samples with titles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence
from l2d_ray.evaluate.report import Reason
from l2d_ray.index.search import squared_distances
from l2d_ray.index.shard import Shard
from l2d_ray.schema import TRAIN

SHOWN_HISTORY = 3


@dataclass(frozen=True)
class NearEntry:
    """A memory entry and its L2 distance from the request."""

    sample_id: int
    distance: float


def nearest_entries_of_item(shards: Iterable[Shard], query: NDArray[np.float32], item_index: int, count: int) -> list[NearEntry]:
    """The item's entries nearest to a query (d,), by (distance, sample_id); all of them are in one shard."""
    for shard in shards:
        positions = shard.positions_of_item(item_index)
        if len(positions):
            distances = np.sqrt(squared_distances(query, shard.vectors_at(positions)))
            ids = shard.sample_ids_at(positions)
            order = np.lexsort((ids, distances))[:count]
            return [NearEntry(int(ids[i]), float(distances[i])) for i in order]
    return []


def reasons_of(entries: Sequence[NearEntry], sample_id_to_titles: Mapping[int, tuple[tuple[str, ...], str]]) -> tuple[Reason, ...]:
    """The entries as reasons: distance, the last titles before the target, the target's title."""
    return tuple(Reason(entry.distance, *sample_id_to_titles[entry.sample_id]) for entry in entries)


def titles_of_samples(
    sequences: Iterable[UserSequence], sample_ids: set[int], catalogue: Catalogue
) -> dict[int, tuple[tuple[str, ...], str]]:
    """For each of these training samples: the last titles of its history, and its target's title."""
    found = {}
    for sequence in sequences:
        for target in sequence.targets(TRAIN):
            if target.sample_id in sample_ids:
                shown = sequence.item_ids[max(0, target.position - SHOWN_HISTORY) : target.position + 1]
                *history, title = (catalogue.titles[index] for index in catalogue.indexes_of(shown))
                found[target.sample_id] = (tuple(history), title)
    return found
