"""Titles of a generation: the state of every item's title, shard by shard, and the title map that was fitted on the items with entries.

    GENERATION/titles-00000.items.npy     (v,) int64 ascending: every item of the shard's buckets that is not retired
    GENERATION/titles-00000.states.npy    (v, d) float16
    GENERATION/title_map.npy              (d + 1, d) float64; absent where no item has an entry

An index made from another one takes the states of titles that it has, and only new and changed titles are encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError
from l2d_ray.index.shard import buckets_of_shard
from l2d_ray.memory.statistics import ItemStatistics
from l2d_ray.memory.table import Memory
from l2d_ray.memory.titles import TitleMap, TitleStates
from l2d_ray.schema import bucket_of

EncodeTitles = Callable[[Sequence[str]], NDArray[np.float16]]
"""Titles -> (n, d) states."""

TITLE_MAP: Final = "title_map.npy"


def titles_files(shard: int) -> tuple[str, str]:
    """Names of a shard's files: items and states."""
    return f"titles-{shard:05d}.items.npy", f"titles-{shard:05d}.states.npy"


def write_titles(
    folder: Path, memory: Memory, statistics: Sequence[ItemStatistics], encode: EncodeTitles, *, known: Callable[[int], TitledItems]
) -> list[str]:
    """Write a generation's titles, each shard's given its statistics; returns the names of the files.

    Args:
        known: a shard's titles in the index that this one is made from.
    """
    titled = []
    for shard, items in enumerate(_items_of_shards(memory, len(statistics))):
        states = _states(memory.catalogue, items, known(shard), encode, dim=memory.dim)
        items_name, states_name = titles_files(shard)
        np.save(folder / items_name, items)
        np.save(folder / states_name, states)
        titled.append(statistics[shard].titled(TitleStates(items, states)))
    names = [name for shard in range(len(statistics)) for name in titles_files(shard)]
    found = TitleMap.fit(titled)
    if found is None:
        return names
    np.save(folder / TITLE_MAP, found.weights)
    return [*names, TITLE_MAP]


TitledItems = dict[str, NDArray[np.float16]]
"""Titles and their states (d,)."""


def by_title(titles: TitleStates, catalogue: Catalogue) -> TitledItems:
    """States by title, of the catalogue that their item indexes refer to."""
    return {catalogue.titles[item]: state for item, state in zip(titles.item_indexes.tolist(), titles.states, strict=True)}


def _items_of_shards(memory: Memory, num_shards: int) -> Iterator[NDArray[np.int64]]:
    """Item indexes of every shard, ascending."""
    retired = memory.retired_item_ids
    buckets = np.array([-1 if item_id in retired else bucket_of(item_id) for item_id in memory.catalogue.item_ids], dtype=np.int64)
    for shard in range(num_shards):
        its = buckets_of_shard(shard, num_shards)
        yield np.flatnonzero((buckets >= its.start) & (buckets < its.stop))


def _states(catalogue: Catalogue, items: NDArray[np.int64], known: TitledItems, encode: EncodeTitles, *, dim: int) -> NDArray[np.float16]:
    titles = [catalogue.titles[item] for item in items.tolist()]
    new = sorted({title for title in titles if title not in known})
    if new:
        encoded = encode(new)
        if encoded.shape != (len(new), dim):
            raise ArtefactError(f"The states of {len(new)} titles have the shape {encoded.shape}, the memory's vectors are {dim} wide.")
        known = known | dict(zip(new, encoded, strict=True))
    return np.stack([known[title] for title in titles]) if titles else np.zeros((0, dim), dtype=np.float16)
