"""Item pairs: by hand, the same over any partition of items and any order of users, and those of the item-kNN baseline."""

from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.baselines.item_knn import ItemKnn, ItemKnnSettings
from l2d_ray.memory import pairs as module
from l2d_ray.memory.pairs import BACKWARD, GAP_DECAY, SHRINKAGE, TIME_SCALE_S, WINDOW, ItemPairs, ItemSequences, count_pairs
from l2d_ray.memory.sequences import RECENT, RememberedSequence, iter_newest, store_sequences
from l2d_ray.memory.statistics import NO_TIMESTAMP

NUM_ITEMS = 9
EVERY_ITEM = np.arange(NUM_ITEMS)
user_sequences = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=30), max_size=8)


def pairs_of(sequences: Sequence[Sequence[int]], targets: np.ndarray = EVERY_ITEM, *, parts: int = 1) -> ItemPairs:
    """The users in so many parts."""
    cuts = [list(sequences[part::parts]) for part in range(parts)]
    return count_pairs(lambda: map(ItemSequences.of, cuts), targets, np.ones(len(targets), np.int64), NUM_ITEMS)


def dense(pairs: ItemPairs, targets: np.ndarray = EVERY_ITEM) -> np.ndarray:
    """similarity(source, target)."""
    found = np.zeros((NUM_ITEMS, NUM_ITEMS), dtype=np.float32)
    for source in range(NUM_ITEMS):
        rows = slice(pairs.starts[source], pairs.starts[source + 1])
        assert (np.diff(pairs.places[rows]) > 0).all()
        found[source, targets[pairs.places[rows]]] = pairs.similarities[rows]
    return found


def test_two_users_by_hand():
    found = dense(pairs_of([[0, 1, 2], [0, 1], [3]]))
    assert np.count_nonzero(found) == 6
    for source, target, count, users in (
        (0, 1, 2.0, 4),
        (1, 2, 1.0, 2),
        (0, 2, GAP_DECAY, 2),
        (1, 0, 2 * BACKWARD, 4),
        (2, 1, BACKWARD, 2),
        (2, 0, GAP_DECAY * BACKWARD, 2),
    ):
        assert found[source, target] == pytest.approx(count / (np.sqrt(users) + SHRINKAGE))


def test_time_between_counts_where_both_times_are_known():
    sequences = ItemSequences.of([[0, 1], [2, 3], [4, 5]], [[100, 100 + TIME_SCALE_S], [100, NO_TIMESTAMP], [100, 100]])
    found = dense(count_pairs(lambda: [sequences], EVERY_ITEM, np.ones(NUM_ITEMS, np.int64), NUM_ITEMS))
    alone = 1 / (1 + SHRINKAGE)
    assert [found[source, source + 1] / alone for source in (0, 2, 4)] == pytest.approx([0.75, 1.0, 1.0])
    assert found[1, 0] == pytest.approx(0.75 * BACKWARD * alone)


def test_a_repeat_is_its_own_source_once_and_far_pairs_are_none():
    assert dense(pairs_of([[4, 4]]))[4, 4] == pytest.approx(1 / (1 + SHRINKAGE))
    far = dense(pairs_of([[0, *[1] * WINDOW, 2]]))
    assert far[0, 2] == far[2, 0] == 0 < far[1, 2]


@settings(max_examples=60, deadline=None)
@given(user_sequences, st.integers(1, 3), st.randoms())
def test_any_order_of_users_and_any_partition_of_items_gives_the_same_bits(sequences, parts: int, drawn):
    whole = dense(pairs_of(sequences))
    shuffled = drawn.sample(sequences, len(sequences))
    np.testing.assert_array_equal(dense(pairs_of(shuffled, parts=parts)), whole)
    shard_of_item = np.array([drawn.randrange(3) for _ in range(NUM_ITEMS)])
    shards = [EVERY_ITEM[shard_of_item == shard] for shard in range(3)]
    np.testing.assert_array_equal(sum(dense(pairs_of(sequences, items), items) for items in shards), whole)


@settings(max_examples=60, deadline=None)
@given(user_sequences)
def test_similarities_are_those_of_item_knn(sequences):
    knn = ItemKnn(sequences, NUM_ITEMS, ItemKnnSettings(shrinkage=SHRINKAGE, window=WINDOW, gap_decay=GAP_DECAY, backward_weight=BACKWARD))
    np.testing.assert_allclose(dense(pairs_of(sequences)), knn._similarity.toarray(), rtol=1e-6)


def test_many_passes_and_merges_change_nothing():
    sequences = [np.random.default_rng(user).integers(0, NUM_ITEMS, 12).tolist() for user in range(20)]
    whole = pairs_of(sequences)
    assert len(whole) == NUM_ITEMS**2
    with patch.object(module, "MAX_PAIRS", 100), patch.object(module, "MIN_WAITING", 0):
        again = pairs_of(sequences, parts=7)
    for name in ("starts", "places", "similarities"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_of_every_item_the_best_sources_are_kept_equal_ones_by_smaller_source():
    sequences = [[0, 5], [1, 5], [1, 5], [2, 5], [3, 6]]
    with patch.object(module, "NUM_SOURCES", 2):
        found = dense(pairs_of(sequences))
    assert np.flatnonzero(found[:, 5]).tolist() == [0, 1]
    assert np.flatnonzero(found[:, 6]).tolist() == [3]


def test_nothing_remembered_means_no_pairs():
    assert len(pairs_of([])) == len(pairs_of([[3]])) == len(pairs_of([[0, 1]], np.zeros(0, np.int64))) == 0


def test_of_a_user_the_newest_sequence_counts(tmp_path):
    def stored(stem: str, **users: Sequence[str]) -> str:
        rows = [RememberedSequence(user, tuple(items), (None,) * len(items)) for user, items in users.items()]
        return store_sequences(str(tmp_path), rows, stem=stem)

    names = [stored("sequences", ann="ab", bob="cd"), stored("sequences", cid="ef"), stored(RECENT, ann="abx", eve="g")]
    names.append(stored(RECENT, ann="abxy"))
    found = [(row["user_id"], "".join(row["item_ids"])) for table in iter_newest(str(tmp_path), names) for row in table.to_pylist()]
    assert sorted(found) == [("ann", "abxy"), ("bob", "cd"), ("cid", "ef"), ("eve", "g")]
