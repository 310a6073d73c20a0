"""Compressed search: distances are exact, dead rows never found, near all neighbours found, damage refused."""

import numpy as np
import pytest

from l2d_ray.errors import ArtefactError
from l2d_ray.index.compressed import CODES, CompressedSearch, choose_num_lists
from l2d_ray.index.exact import ExactSearch
from l2d_ray.index.search import squared_distances

NUM_ROWS, DIM = 6000, 64


@pytest.fixture(scope="module")
def rows():
    """Clustered and anisotropic, as states are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, DIM)) * np.exp(-np.arange(DIM) / 12) * 4
    noise = rng.normal(size=(NUM_ROWS, DIM)) * np.exp(-np.arange(DIM) / 12)
    return (centres[np.sort(rng.integers(0, 60, NUM_ROWS))] + noise + 3).astype(np.float16)


@pytest.fixture(scope="module")
def queries(rows):
    return rows[::500].astype(np.float32) + np.float32(0.05)


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment")
    np.save(folder / "vectors.npy", rows)
    CompressedSearch.build(np.load(folder / "vectors.npy", mmap_mode="r"), folder)
    return folder


@pytest.fixture(scope="module")
def sample_ids():
    return np.random.default_rng(1).permutation(NUM_ROWS).astype(np.int64)


@pytest.fixture(scope="module")
def vectors(folder):
    return np.load(folder / "vectors.npy", mmap_mode="r")


@pytest.fixture(scope="module")
def search(folder, vectors, sample_ids):
    return CompressedSearch.open(folder, vectors, sample_ids)


def test_a_full_disk_is_an_os_error(vectors, tmp_path):
    (tmp_path / CODES).symlink_to("/dev/full")
    with pytest.raises(OSError, match=CODES):
        CompressedSearch.build(vectors, tmp_path)


@pytest.mark.parametrize("num_neighbors", [20, 200])
def test_nearly_all_neighbours_are_found(search, vectors, sample_ids, queries, num_neighbors):
    found = search.nearest(queries, num_neighbors)
    exact = ExactSearch(vectors, sample_ids).nearest(queries, num_neighbors)
    recalls = [len(np.intersect1d(f, e)) / num_neighbors for f, e in zip(found.positions, exact.positions, strict=True)]
    assert np.mean(recalls) > 0.9


def test_distances_are_exact_and_ascending_with_ties_by_sample_id(search, vectors, sample_ids, queries):
    found = search.nearest(queries, 50)
    assert (found.positions >= 0).all()
    for query, positions, keys in zip(queries, found.positions, found.keys, strict=True):
        np.testing.assert_array_equal(keys, squared_distances(query, vectors[positions]))
        np.testing.assert_array_equal(np.lexsort((sample_ids[positions], keys)), np.arange(50))


def test_dead_rows_are_never_found_and_take_no_place(search, queries):
    whole = search.nearest(queries, 100)
    dead = np.unique(whole.positions[:, ::2])
    found = search.nearest(queries, 100, dead=dead)
    assert not np.isin(found.positions, dead).any()
    assert (found.positions >= 0).all()
    for before, after in zip(whole.keys, found.keys, strict=True):
        assert (after >= before).all()


def test_with_every_list_probed_and_every_row_a_candidate_it_is_exact(folder, vectors, sample_ids, queries):
    whole = CompressedSearch.open(folder, vectors, sample_ids, num_probes=NUM_ROWS, candidates_per_neighbor=NUM_ROWS)
    dead = np.arange(0, NUM_ROWS, 3)
    found, exact = (kind.nearest(queries, 30, dead=dead) for kind in (whole, ExactSearch(vectors, sample_ids)))
    np.testing.assert_array_equal(found.positions, exact.positions)
    np.testing.assert_array_equal(found.keys, exact.keys)


def test_more_neighbours_than_rows_and_no_queries_give_padding(search, folder, vectors, sample_ids, queries):
    dead = np.arange(10, NUM_ROWS)
    whole = CompressedSearch.open(folder, vectors, sample_ids, num_probes=NUM_ROWS)
    found = whole.nearest(queries[:2], NUM_ROWS + 5, dead=dead)
    assert np.sort(found.positions[:, :10], axis=1).tolist() == [list(range(10))] * 2
    assert (found.positions[:, 10:] == -1).all()
    assert np.isposinf(found.keys[:, 10:]).all()
    assert search.nearest(queries[:0], 3).positions.shape == (0, 3)
    assert search.nearest(queries, 0).positions.shape == (len(queries), 0)


def test_codes_take_a_small_share_of_the_vectors(rows, tmp_path):
    many = np.concatenate([rows] * 5)
    assert CompressedSearch.build(many, tmp_path).stat().st_size < 0.25 * many.nbytes


@pytest.mark.parametrize(("num_rows", "dim"), [(1, 4), (3, 1), (40, 3), (500, 16)])
def test_small_segments_build_and_answer(num_rows, dim, tmp_path):
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(num_rows, dim)).astype(np.float16)
    CompressedSearch.build(vectors, tmp_path)
    found = CompressedSearch.open(tmp_path, vectors, np.arange(num_rows)).nearest(vectors[:1].astype(np.float32), num_rows)
    assert np.sort(found.positions[0]).tolist() == list(range(num_rows))
    assert found.keys[0, 0] == 0


def test_progress_adds_up_to_the_rows(rows, tmp_path):
    seen = []
    CompressedSearch.build(rows, tmp_path, on_progress=seen.append)
    assert sum(seen) == NUM_ROWS


def test_codes_of_other_vectors_are_refused(folder, vectors, sample_ids):
    with pytest.raises(ArtefactError, match=r"codes\.faiss holds 6000 codes of vectors 64 wide, the segment has 5999 of 64"):
        CompressedSearch.open(folder, vectors[1:], sample_ids[1:])


def test_missing_and_truncated_codes_are_refused(folder, vectors, sample_ids, tmp_path):
    with pytest.raises(ArtefactError, match=r"codes\.faiss is missing or damaged"):
        CompressedSearch.open(tmp_path, vectors, sample_ids)
    whole = (folder / CODES).read_bytes()
    (tmp_path / CODES).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match=r"codes\.faiss is missing or damaged"):
        CompressedSearch.open(tmp_path, vectors, sample_ids)


def test_lists_grow_with_the_square_root_and_hold_enough_rows():
    assert [choose_num_lists(n) for n in (1, 399, 10**5, 10**6, 10**7)] == [1, 1, 250, 1300, 4110]
