"""The local decoder's merge: the oracle's answer bit for bit over any partition, and no more asked or sent than its laws allow."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from l2d_ray.decode.local import ENTRY, LocalCandidates, LocalRequest, local_candidates
from l2d_ray.decode.local_merge import LEAST_SPREAD, SPREAD, LearntSpread, LocalMerge, first_limits
from l2d_ray.decode.topk import TopK
from l2d_ray.index.search import squared_distances
from l2d_ray.index.shard import Neighbors

NUM_ITEMS, DIM, NUM_QUERIES, K, MAX_SHARDS = 25, 3, 3, 12, 64
ONE_ROUND = 1e9
"""A spread with which every shard is asked for all at once."""


@dataclass(frozen=True, eq=False)
class ToyShard:
    """What a decoder needs of a shard, by brute force in float64."""

    sample_ids: np.ndarray
    items: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.sample_ids)

    def nearest(self, queries: np.ndarray, num_neighbors: int) -> Neighbors:
        distances = np.array([squared_distances(query, self.vectors) for query in queries]).reshape(len(queries), len(self))
        order = np.array([np.lexsort((self.sample_ids, row))[:num_neighbors] for row in distances]).reshape(len(queries), -1)
        return Neighbors(np.take_along_axis(distances, order, axis=1), self.sample_ids[order], order)

    def items_at(self, positions: np.ndarray) -> np.ndarray:
        return self.items[positions]

    def vectors_at(self, positions: np.ndarray) -> np.ndarray:
        return self.vectors[positions]

    def part(self, is_in: np.ndarray) -> "ToyShard":
        return ToyShard(self.sample_ids[is_in], self.items[is_in], self.vectors[is_in])


@dataclass(frozen=True, eq=False)
class Memory:
    """All entries, the same in shards, and queries."""

    whole: ToyShard
    shards: list[ToyShard]
    queries: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """A merge carried out: each round's questions and answers by shard, and what came of it."""

    rounds: list[tuple[dict[int, LocalRequest], dict[int, LocalCandidates]]]
    found: TopK

    def num_sent(self, shard: int) -> int:
        return sum(len(answers[shard].entries) for _, answers in self.rounds if shard in answers)


@st.composite
def memories(draw) -> Memory:
    """Entries on a coarse grid, where ties are common; or all in one place; or with a third of them on one item."""
    size = draw(st.one_of(st.integers(0, 20), st.integers(100, 300)))
    kind = draw(st.sampled_from(["grid", "identical", "skewed", "clustered", "clustered"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = (rng.integers(-2, 3, (size, DIM)) / 2).astype(np.float16)
    items = rng.integers(0, NUM_ITEMS, size)
    if kind == "identical":
        vectors[:] = 0.5
    elif kind == "skewed":
        items[rng.random(size) < 0.3] = 7
    elif kind == "clustered":
        vectors = (rng.integers(-2, 3, (NUM_ITEMS, DIM))[items] + rng.integers(-1, 2, (size, DIM)) / 8).astype(np.float16)
    whole = ToyShard(rng.integers(-(2**63), 2**63, size), items, vectors)
    shard_of_item = rng.integers(0, draw(st.integers(1, MAX_SHARDS)), NUM_ITEMS)
    queries = (rng.integers(-2, 3, (NUM_QUERIES, DIM)) + rng.permutation(NUM_QUERIES)[:, None] / 1024).astype(np.float32)
    return Memory(whole, [whole.part(shard_of_item[items] == shard) for shard in range(MAX_SHARDS)], queries)


num_neighbors_drawn = st.one_of(st.integers(1, 30), st.integers(10, 90), st.integers(300, 320), st.just(100_000))
spreads = st.sampled_from([0.0, 0.0, SPREAD, ONE_ROUND])


def carry_out(shards: list[ToyShard], queries: np.ndarray, num_neighbors: int, *, spread: float = SPREAD) -> Run:
    merge = LocalMerge(queries, num_neighbors, [len(shard) for shard in shards], spread=spread)
    rounds = []
    while asked := merge.requests():
        answers = {shard: local_candidates(shards[shard], request) for shard, request in reversed(asked.items())}
        merge.add(answers)
        rounds.append((asked, answers))
        assert len(rounds) <= 2
    return Run(rounds, merge.top_k(K))


def brute_force(memory: ToyShard, query: np.ndarray, num_neighbors: int) -> list[tuple[float, int]]:
    """(squared distance of the local mean, item), ascending."""
    nearest = np.lexsort((memory.sample_ids, squared_distances(query, memory.vectors)))[:num_neighbors]
    scored = []
    for item in np.unique(memory.items[nearest]):
        mean = memory.vectors[nearest[memory.items[nearest] == item]].astype(float).mean(0).astype(np.float32)
        scored.append((float(squared_distances(query, mean[None])[0]), int(item)))
    return sorted(scored)


def keys_of(entries: np.ndarray) -> list[tuple[float, int]]:
    return list(zip(entries["squared_distance"].tolist(), entries["sample_id"].tolist(), strict=True))


def of_query(answer: LocalCandidates, row: int) -> np.ndarray:
    stop = int(answer.lengths[: row + 1].sum())
    return answer.entries[stop - int(answer.lengths[row]) : stop]


@settings(max_examples=300, deadline=None)
@given(memories(), num_neighbors_drawn, spreads)
def test_any_partition_gives_the_ids_and_scores_of_one_shard_holding_everything(memory: Memory, num_neighbors: int, spread: float):
    found = carry_out(memory.shards, memory.queries, num_neighbors, spread=spread).found
    oracle = carry_out([memory.whole], memory.queries, num_neighbors).found
    np.testing.assert_array_equal(found.ids, oracle.ids)
    np.testing.assert_array_equal(found.scores, oracle.scores)
    for query, ids, scores in zip(memory.queries, found.ids, found.scores, strict=True):
        expected = brute_force(memory.whole, query, num_neighbors)[:K]
        assert ids.tolist() == [item for _, item in expected] + [-1] * (K - len(expected))
        np.testing.assert_allclose(-scores[ids >= 0], [distance for distance, _ in expected], rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(memories(), st.integers(2, 60), st.sampled_from([0.0, 0.5]))
def test_a_shard_is_asked_again_where_it_may_hold_a_survivor_only_and_for_nothing_that_was_sent(memory, num_neighbors, spread):
    run = carry_out(memory.shards, memory.queries, num_neighbors, spread=spread)
    event(f"{len(run.rounds)} rounds")
    assume(len(run.rounds) == 2)
    (first, first_answers), (second, second_answers) = run.rounds
    for row, query in enumerate(memory.queries):
        received = sorted(key for answer in first_answers.values() for key in keys_of(of_query(answer, row)))
        cut = received[num_neighbors - 1] if len(received) >= num_neighbors else (np.inf, 0)
        again = {shard: np.flatnonzero((request.queries == query).all(axis=1)) for shard, request in second.items()}
        for shard in first:
            sent = keys_of(of_query(first_answers[shard], row))
            may_survive = len(sent) < min(len(memory.shards[shard]), num_neighbors) and sent[-1] < cut
            places = again.get(shard, np.zeros(0, dtype=np.int64)).tolist()
            assert len(places) == int(may_survive)
            for place in places:
                assert all(sent[-1] < key <= cut for key in keys_of(of_query(second_answers[shard], place)))


@settings(max_examples=200, deadline=None)
@given(memories(), num_neighbors_drawn, spreads)
def test_no_shard_sends_more_than_num_neighbors_nor_an_entry_twice(memory: Memory, num_neighbors: int, spread: float):
    for query in memory.queries:
        run = carry_out(memory.shards, query[None], num_neighbors, spread=spread)
        for shard, entries in enumerate(memory.shards):
            assert run.num_sent(shard) <= min(num_neighbors, len(entries))
        sent = [key for _, answers in run.rounds for answer in answers.values() for key in keys_of(answer.entries)]
        assert len(set(sent)) == len(sent) >= min(num_neighbors, len(memory.whole))
        assert all(len(memory.shards[shard]) for asked, _ in run.rounds for shard in asked)


@settings(max_examples=100, deadline=None)
@given(memories(), num_neighbors_drawn)
def test_a_batch_shares_its_rounds_and_asks_for_each_query_what_it_would_alone(memory: Memory, num_neighbors: int):
    batch = carry_out(memory.shards, memory.queries, num_neighbors)
    alone = [carry_out(memory.shards, query[None], num_neighbors) for query in memory.queries]
    assert len(batch.rounds) == max(len(run.rounds) for run in alone)
    for shard in range(len(memory.shards)):
        assert batch.num_sent(shard) == sum(run.num_sent(shard) for run in alone)
    np.testing.assert_array_equal(batch.found.ids, np.concatenate([run.found.ids for run in alone]))


@settings(max_examples=50, deadline=None)
@given(memories())
def test_more_neighbours_than_entries_take_one_round_that_sends_every_entry_once(memory: Memory):
    run = carry_out(memory.shards, memory.queries, len(memory.whole) + 1)
    assert len(run.rounds) == (1 if len(memory.whole) else 0)
    assert sum(run.num_sent(shard) for shard in range(len(memory.shards))) == NUM_QUERIES * len(memory.whole)


@settings(max_examples=50, deadline=None)
@given(memories(), st.integers(2, 60), st.sets(st.integers(0, NUM_ITEMS - 1)))
def test_the_same_lists_serve_fewer_neighbours_and_exclusion_takes_items_out(memory: Memory, num_neighbors: int, banned: set[int]):
    sizes = [len(shard) for shard in memory.shards]
    merge = LocalMerge(memory.queries, num_neighbors, sizes)
    while asked := merge.requests():
        merge.add({shard: local_candidates(memory.shards[shard], request) for shard, request in asked.items()})
    fewer = merge.top_k(K, num_neighbors=num_neighbors // 2)
    np.testing.assert_array_equal(fewer.ids, carry_out(memory.shards, memory.queries, num_neighbors // 2).found.ids)
    cut = merge.top_k(NUM_ITEMS, excluded=[np.array(sorted(banned), dtype=np.int64)] * NUM_QUERIES)
    for before, after in zip(merge.top_k(NUM_ITEMS).ids, cut.ids, strict=True):
        assert [item for item in before if item >= 0 and item not in banned] == [item for item in after if item >= 0]


@pytest.mark.parametrize("block", [1, 2, 5])
def test_prefixes_added_up_in_blocks_are_the_same_bits(monkeypatch: pytest.MonkeyPatch, block: int):
    rng = np.random.default_rng(2)
    items = np.where(rng.random(60) < 0.4, 3, rng.integers(-1, 9, 60))  # -1: an item that the catalogue lacks
    shard = ToyShard(rng.permutation(60), items, (rng.normal(size=(60, 5)) * 30).astype(np.float16))
    request = LocalRequest(rng.normal(size=(2, 5)).astype(np.float32), np.array([50, 50]))
    whole = local_candidates(shard, request)
    assert -1 in whole.entries["item_index"]
    monkeypatch.setattr("l2d_ray.decode.local.PREFIX_BLOCK", block)
    np.testing.assert_array_equal(local_candidates(shard, request).entries, whole.entries)
    assert whole.lengths.tolist() == [50, 50]


class ForgetfulShard(ToyShard):
    """An approximate index: the fewer it is asked for, the more it misses."""

    def nearest(self, queries: np.ndarray, num_neighbors: int) -> Neighbors:
        kept = self.sample_ids % 5 >= (2 if num_neighbors < 20 else 0)
        found = self.part(kept).nearest(queries, num_neighbors)
        return Neighbors(found.squared_distances, found.sample_ids, np.flatnonzero(kept)[found.positions])


def test_an_approximate_index_that_finds_more_when_asked_again_sends_nothing_twice():
    rng = np.random.default_rng(5)
    vectors = np.abs(rng.normal(size=(200, DIM))).astype(np.float16)
    vectors[:100] /= 8
    entries = [ForgetfulShard(np.arange(100) + 100 * s, np.arange(100) % 12 + 12 * s, vectors[100 * s : 100 * s + 100]) for s in (0, 1)]
    run = carry_out(entries, np.zeros((1, DIM), dtype=np.float32), 24, spread=0.0)
    assert len(run.rounds) == 2
    sent = [entry for _, answers in run.rounds for answer in answers.values() for entry in answer.entries["sample_id"].tolist()]
    assert len(set(sent)) == len(sent) > 24
    assert (run.found.ids >= 0).sum() >= 6


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=64), st.integers(1, 20_000), st.floats(0, 10))
def test_first_limits_cover_num_neighbors_and_stay_within_what_is_there(num_entries: list[int], num_neighbors: int, spread: float):
    limits = first_limits(num_neighbors, num_entries, spread=spread)
    most = np.minimum(num_entries, num_neighbors)
    assert (limits <= most).all()
    assert (limits >= np.minimum(1, most)).all()
    assert limits.sum() >= min(num_neighbors, sum(num_entries))
    assert first_limits(num_neighbors, [sum(num_entries)], spread=spread).tolist() == [min(num_neighbors, sum(num_entries))]


def test_the_first_request_is_a_fraction_of_num_neighbors_where_there_are_many_shards():
    assert first_limits(500, [1000] * 64).max() <= 30
    large, *small = first_limits(100, [7000] + [100] * 30)
    assert 70 < large < 100
    assert max(small) < 10


def test_the_spread_is_learnt_until_one_search_in_twenty_needs_a_second_round():
    """Survivors in clumps of up to 30, in which the spread of single draws is far too small."""
    rng = np.random.default_rng(0)
    spread, asked_again = LearntSpread(), []
    for _ in range(1500):
        num_survivors = 5 + 30 * rng.random()
        asked_again.append(float(num_survivors > first_limits(100, [500] * 20, spread=spread.value)[0]))
        spread.learn(asked_again[-1])
    assert np.mean(asked_again[:20]) > 0.4
    assert np.mean(asked_again[-1000:]) == pytest.approx(0.05, abs=0.02)
    for _ in range(2000):
        spread.learn(0.0)
    assert spread.value == LEAST_SPREAD


def test_an_entry_is_28_bytes_on_the_wire():
    rng = np.random.default_rng(1)
    shard = ToyShard(np.arange(900), rng.integers(0, 40, 900), rng.normal(size=(900, DIM)).astype(np.float16))
    sizes = []
    for limit in (0, 10, 800):
        sent = local_candidates(shard, LocalRequest(np.zeros((1, DIM), dtype=np.float32), np.array([limit])))
        received = pickle.loads(pickle.dumps(sent))
        assert received.lengths.tolist() == [limit]
        np.testing.assert_array_equal(received.entries, sent.entries)
        sizes.append(len(pickle.dumps(sent, protocol=5)))
    assert ENTRY.itemsize == 28
    assert sizes[0] < 150
    assert sizes[1] - sizes[0] == pytest.approx(10 * 28, abs=8)
    assert sizes[2] - sizes[0] == pytest.approx(800 * 28, abs=8)
