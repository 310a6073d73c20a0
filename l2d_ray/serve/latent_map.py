"""A map of the latent space: the item means of an index, projected on the plane in which they differ most (principal components).

Bounded whatever the index holds: the MAX_POINTS items with most entries, of the first shards whose statistics fit MAX_BYTES. An item's
shard is a hash of its id, so some of the shards are a fair sample of the items. One version has one map, drawn once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.index.layout import Index, IndexManifest
from l2d_ray.memory.statistics import ItemStatistics
from l2d_ray.serve.wire import Message

MAX_POINTS: Final = 2000
MAX_BYTES: Final = 2 << 30
DECIMALS: Final = 4


class MapPoint(Message):
    """An item on the map."""

    item_id: str
    title: str
    x: float = Field(ge=-1, le=1)
    y: float = Field(ge=-1, le=1)
    num_entries: int = Field(description="Memory entries whose mean the point is.")


class LatentMap(Message):
    """Items whose points are close have close means, as far as a plane can show it."""

    memory_version: int
    num_items: int = Field(description="Items that have an entry, on the map or not.")
    explained: tuple[float, float] = Field(description="Share of the points' variance along x and along y.")
    points: list[MapPoint] = Field(description="Most entries first.")


@dataclass(frozen=True, eq=False)
class Plane:
    """Points (n, 2) within [-1, 1], both axes to one scale, and the share of the variance (2,) along each."""

    points: NDArray[np.float64]
    explained: NDArray[np.float64]


def principal_plane(vectors: NDArray[np.float64]) -> Plane:
    """The vectors (n, d) on their first two principal components; of each component the largest loading is positive.

    Where the vectors fill no plane, the coordinates that are missing are 0.
    """
    centred = vectors - vectors.mean(axis=0)
    _, widths, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))[:2]
    points, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    points[:, : len(axes)] = centred @ axes.T
    shares[: len(axes)] = widths[:2] ** 2 / max(float((widths**2).sum()), np.finfo(float).tiny)
    return Plane(points / max(float(np.abs(points).max()), np.finfo(float).tiny), shares)


def draw_map(parts: Sequence[ItemStatistics], catalogue: Catalogue, manifest: IndexManifest, *, max_points: int = MAX_POINTS) -> LatentMap:
    """The map of the items with most entries (of equals, the smaller item_index); the same for any partition into parts."""
    counts, items = (np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "item_indexes"))
    chosen = np.lexsort((items, -counts))[:max_points]
    if not len(chosen):
        return LatentMap(memory_version=manifest.memory_version, num_items=0, explained=(0.0, 0.0), points=[])
    plane = principal_plane(_means_of(parts, items[chosen]))
    points = [
        MapPoint(item_id=catalogue.item_ids[item], title=catalogue.titles[item], x=x, y=y, num_entries=count)
        for item, count, (x, y) in zip(items[chosen].tolist(), counts[chosen].tolist(), plane.points.round(DECIMALS).tolist(), strict=True)
    ]
    along_x, along_y = plane.explained.round(DECIMALS).tolist()
    return LatentMap(memory_version=manifest.memory_version, num_items=sum(manifest.num_items), explained=(along_x, along_y), points=points)


def map_of(index: Index) -> LatentMap:
    """The map of an index, read from its files; ArtefactError where one is damaged."""
    manifest = index.manifest
    return draw_map([index.shard(shard, with_entries=False).statistics for shard in _shards_to_read(manifest)], index.catalogue(), manifest)


class DrawnMap:
    """The map of the version that was asked for last; many who ask at once wait for one drawing.

    Args:
        draw: the map of a served version, made on a thread.
    """

    def __init__(self, draw: Callable[[int], LatentMap]) -> None:
        self._draw = draw
        self._lock = asyncio.Lock()
        self._drawn: LatentMap | None = None

    async def of(self, version: int) -> LatentMap:
        async with self._lock:
            if self._drawn is None or self._drawn.memory_version != version:
                self._drawn = await asyncio.to_thread(self._draw, version)
            return self._drawn


def _shards_to_read(manifest: IndexManifest) -> Iterable[int]:
    """The first shards, at least one, as far as their statistics fit MAX_BYTES."""
    fitting = np.cumsum(manifest.statistics_bytes) <= MAX_BYTES
    return range(max(1, int(fitting.sum())))


def _means_of(parts: Sequence[ItemStatistics], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means (n, d) of items (n,), reading no other item's sums."""
    means = np.empty((len(items), parts[0].sums.shape[1]))
    for part in parts:
        found, mine, theirs = np.intersect1d(items, part.item_indexes, assume_unique=True, return_indices=True)
        if len(found):
            means[mine] = part.sums[theirs] / part.counts[theirs, None]
    return means
