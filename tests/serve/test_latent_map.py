"""The map of the latent space: a plane keeps its distances, shards do not change the picture, and it is bounded and drawn once."""

import asyncio

import numpy as np
import pytest

from l2d_ray.memory.statistics import ItemStatistics, statistics_of
from l2d_ray.serve import latent_map
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.latent_map import DrawnMap, draw_map, map_of, principal_plane

DIM = 7


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def test_vectors_that_lie_in_a_plane_keep_their_distances_up_to_one_scale():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(40, 2)) * [3, 1]
    plane = principal_plane(flat @ np.linalg.qr(rng.normal(size=(DIM, 2)))[0].T + rng.normal(size=DIM))
    assert np.abs(plane.points).max() == pytest.approx(1)
    np.testing.assert_allclose(distances(plane.points) / distances(plane.points).max(), distances(flat) / distances(flat).max(), atol=1e-9)
    assert plane.explained.sum() == pytest.approx(1)
    assert plane.explained[0] > plane.explained[1] > 0


@pytest.mark.parametrize("vectors", [np.ones((1, DIM)), np.ones((5, DIM)), np.arange(4.0)[:, None]])
def test_vectors_that_fill_no_plane_have_coordinates_of_zero(vectors):
    plane = principal_plane(vectors)
    assert plane.points.shape == (len(vectors), 2)
    assert np.isfinite(plane.points).all()
    assert (plane.points[:, 1] == 0).all()


def entries(num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Items (n,) with one to five entries each, and vectors (n, d)."""
    rng = np.random.default_rng(1)
    items = np.repeat(np.arange(num_items), rng.integers(1, 6, num_items))
    return items, (rng.normal(size=(num_items, DIM))[items] + rng.normal(size=(len(items), DIM)) / 9).astype(np.float16)


def parts_of(items: np.ndarray, vectors: np.ndarray, num_parts: int) -> list[ItemStatistics]:
    chosen = [items % num_parts == part for part in range(num_parts)]
    return [statistics_of(items[rows], vectors[rows], np.full(rows.sum(), -1)) for rows in chosen]


def test_the_map_is_the_same_for_any_number_of_shards(artefacts: ServedArtefacts):
    catalogue, manifest = artefacts.index.catalogue(), artefacts.manifest
    items, vectors = entries(len(catalogue))
    whole, split = (draw_map(parts_of(items, vectors, count), catalogue, manifest) for count in (1, 4))
    assert len(whole.points) == len(catalogue) > 20
    assert whole == split


def test_the_map_shows_the_items_with_most_entries_and_no_more(artefacts: ServedArtefacts):
    catalogue, manifest = artefacts.index.catalogue(), artefacts.manifest
    items, vectors = entries(len(catalogue))
    counts = np.bincount(items)
    drawn = draw_map(parts_of(items, vectors, 2), catalogue, manifest, max_points=9)
    wanted = sorted(range(len(counts)), key=lambda item: (-counts[item], item))[:9]
    assert [point.item_id for point in drawn.points] == [catalogue.item_ids[item] for item in wanted]
    assert [point.num_entries for point in drawn.points] == counts[wanted].tolist()
    assert [point.title for point in drawn.points] == [catalogue.titles[item] for item in wanted]


def test_an_index_without_entries_has_an_empty_map(artefacts: ServedArtefacts):
    nothing = statistics_of(np.zeros(0, dtype=np.int64), np.zeros((0, DIM), dtype=np.float16), np.zeros(0, dtype=np.int64))
    assert draw_map([nothing], artefacts.index.catalogue(), artefacts.manifest).points == []


def test_the_map_of_an_index_is_of_its_version_and_reads_no_more_than_it_may(artefacts: ServedArtefacts, monkeypatch):
    drawn = map_of(artefacts.index)
    assert drawn.memory_version == artefacts.manifest.memory_version
    assert len(drawn.points) == drawn.num_items == sum(artefacts.manifest.num_items)
    monkeypatch.setattr(latent_map, "MAX_BYTES", 1)
    assert len(map_of(artefacts.index).points) == artefacts.manifest.num_items[0] < drawn.num_items


def test_a_version_is_drawn_once_for_all_who_ask(artefacts: ServedArtefacts):
    drawings = []
    drawn = DrawnMap(lambda version: drawings.append(version) or map_of(artefacts.index).model_copy(update={"memory_version": version}))

    async def ask(*versions: int) -> list[int]:
        return [found.memory_version for found in await asyncio.gather(*map(drawn.of, versions))]

    assert asyncio.run(ask(3, 3, 3, 3)) == [3, 3, 3, 3]
    assert drawings == [3]
    assert asyncio.run(ask(3, 4)) == [3, 4]
    assert drawings == [3, 4]
