"""Checksums: any changed bit shows, keys can be verified without vectors, digests add up over any partition."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.memory.checksums import KEY_BITS, digest_of, key_halves, row_checksums, vector_halves

NUM_ROWS = 9


def make_rows(dim: int):
    rng = np.random.default_rng(0)
    users = pa.array([f"user-{i}" * (i % 3) for i in range(NUM_ROWS)])
    items = pa.array([f"ü{i}" for i in range(NUM_ROWS)])
    ids, times = rng.integers(0, 2**62, NUM_ROWS), rng.integers(-1, 10, NUM_ROWS)
    buckets = rng.integers(0, 4096, NUM_ROWS).astype(np.int16)
    return ids, users, items, times, buckets, rng.normal(size=(NUM_ROWS, dim)).astype(np.float16)


@pytest.mark.parametrize("dim", [1, 4, 6, 16])
def test_halves_stand_side_by_side(dim):
    ids, users, items, times, buckets, vectors = make_rows(dim)
    checksums = row_checksums(ids, users, items, times, buckets, vectors)
    assert len(set(checksums.tolist())) == NUM_ROWS
    np.testing.assert_array_equal(checksums >> KEY_BITS, key_halves(ids, users, items, times, buckets))
    np.testing.assert_array_equal(checksums & np.uint64(2**32 - 1), vector_halves(vectors))


@given(st.integers(0, NUM_ROWS - 1), st.integers(0, 5), st.integers(0, 15))
def test_a_changed_bit_of_a_vector_changes_its_row_alone(row, column, bit):
    vectors = make_rows(6)[5]
    changed = vectors.copy()
    changed.view(np.uint16)[row, column] ^= np.uint16(1 << bit)
    assert np.flatnonzero(vector_halves(changed) != vector_halves(vectors)).tolist() == [row]


@given(st.integers(0, NUM_ROWS - 1), st.integers(0, 63), st.sampled_from([0, 3]))
def test_a_changed_bit_of_a_number_changes_its_row_alone(row, bit, column):
    rows = list(make_rows(4)[:5])
    before = key_halves(*rows)
    rows[column] = rows[column].copy()
    rows[column].view(np.uint64)[row] ^= np.uint64(1) << np.uint64(bit)
    assert np.flatnonzero(key_halves(*rows) != before).tolist() == [row]


@given(st.integers(0, NUM_ROWS - 1), st.integers(0, 15))
def test_a_changed_bit_of_a_bucket_changes_its_row_alone(row, bit):
    *keys, buckets, _ = make_rows(4)
    changed = buckets.copy()
    changed.view(np.uint16)[row] ^= np.uint16(1 << bit)
    assert np.flatnonzero(key_halves(*keys, changed) != key_halves(*keys, buckets)).tolist() == [row]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6), st.data())
def test_other_texts_have_other_checksums(texts, data):
    others = list(texts)
    row = data.draw(st.integers(0, len(texts) - 1))
    others[row] = data.draw(st.text(max_size=12))
    zeros = np.zeros(len(texts), dtype=np.int64)
    same = pa.array([""] * len(texts))
    before, after = (key_halves(zeros, pa.array(t), same, zeros, zeros.astype(np.int16)) for t in (texts, others))
    assert np.flatnonzero(before != after).tolist() == ([row] if texts[row] != others[row] else [])


def test_where_a_text_stands_counts():
    ids, users, items, times, buckets, _ = make_rows(4)
    assert (key_halves(ids, users, items, times, buckets) != key_halves(ids, items, users, times, buckets)).all()


def test_slices_of_texts_hash_as_themselves():
    ids, users, items, times, buckets, _ = make_rows(4)
    whole = key_halves(ids, users, items, times, buckets)
    np.testing.assert_array_equal(key_halves(ids[3:7], users.slice(3, 4), items.slice(3, 4), times[3:7], buckets[3:7]), whole[3:7])


def test_digests_add_up_over_any_partition():
    checksums = row_checksums(*make_rows(4))
    parts = np.array_split(np.random.default_rng(1).permutation(checksums), 4)
    assert sum(digest_of(part) for part in parts) % 2**64 == digest_of(checksums)
    assert digest_of(checksums[:0]) == 0


def test_the_checksum_of_a_row_is_pinned():
    """Stored rows carry their checksums: another function would refuse them all."""
    vectors = np.arange(4, dtype=np.float16)[None, :]
    (checksum,) = row_checksums(np.array([7]), pa.array(["u"]), pa.array(["i"]), np.array([-1]), np.array([5], dtype=np.int16), vectors)
    assert int(checksum) == 2297119616879987622
