"""The paired decoder: its evidence by hand, and its ranking over any partition against brute force, on toys with many exact ties."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.decode.paired import NUM_RECENT, Evidence, PairLookup, PairReason, older_items, recent_items, shares_of
from l2d_ray.decode.restriction import ascending
from l2d_ray.decode.search import SearchRequest, ShardSearcher, available_decoders, search_shards
from l2d_ray.decode.settings import DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK
from l2d_ray.index.shard import Shard, shard_of_arrays
from l2d_ray.memory.pairs import ItemSequences, count_pairs
from l2d_ray.memory.statistics import PooledStatistics, statistics_of
from l2d_ray.memory.titles import TitleMap, TitleStates

NUM_ITEMS, DIM = 12, 4
SETTINGS = DecoderSettings(pair_weight=3.0, pair_scale=50.0, pair_recency_power=0.8)
REPEATS = st.sampled_from([-100.0, -1.5, 0.0, 1.5])
EVERY = (None,)


def test_the_latest_items_newest_first_each_once_titles_aged():
    assert recent_items([]).tolist() == []
    assert recent_items([7, 3, "a title", 7, 5]).tolist() == [5, 7, -1, 3, -1]
    assert recent_items(list(range(30))).tolist() == list(range(29, 29 - NUM_RECENT, -1))


def test_evidence_by_hand():
    pairs = count_pairs(lambda: [ItemSequences.of([[0, 2], [1, 2], [1, 3]])], np.array([2, 3]), np.array([2, 1]), 4)
    similarity = {}
    for source in (0, 1):
        for place in range(pairs.starts[source], pairs.starts[source + 1]):
            similarity[source, 2 + int(pairs.places[place])] = pairs.similarities[place]
    found = PairLookup(pairs, np.array([2, 3])).evidence(recent_items([0, "unknown", 1]), 0.6)
    assert found.item_indexes.tolist() == [2, 3]
    np.testing.assert_allclose(found.amounts, [similarity[1, 2] + 3**-0.6 * similarity[0, 2], similarity[1, 3]])
    options = DecoderSettings(pair_weight=2.0, pair_scale=10.0)
    shifts = found.shifts(np.array([0, 1]), options)
    assert shifts.item_indexes.tolist() == [2, 3]
    np.testing.assert_allclose(shifts.amounts, 2 * np.log1p(10 * found.amounts))
    with_repeats = found.shifts(np.array([3, 1, 0]), replace(options, repeat_weight=-0.5))
    assert with_repeats.item_indexes.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(with_repeats.amounts, [-0.5, -0.5, shifts.amounts[0], shifts.amounts[1] - 0.5])
    assert older_items(recent_items([1, "unknown", 0, 2])).tolist() == [0, 1]
    told = PairLookup(pairs, np.array([2, 3])).reasons(recent_items([0, "unknown", 1]), 0.6, np.array([1, 2, 3]))
    assert {item: [term.item_index for term in terms] for item, terms in told.items()} == {2: [1, 0], 3: [1]}
    assert [term.amount for term in told[2]] == pytest.approx([similarity[1, 2], 3**-0.6 * similarity[0, 2]])
    assert shares_of([PairReason(1, 3.0), PairReason(0, 1.0)]) == [0.75, 0.25]
    assert shares_of([]) == []
    nothing = PairLookup(pairs, np.array([2, 3])).evidence(recent_items(["unknown", 99]), 0.6)
    assert (nothing.item_indexes.tolist(), nothing.amounts.tolist()) == ([], [])
    joined = Evidence.joined([Evidence(np.array([3]), np.array([0.5])), Evidence(np.array([1]), np.array([0.25]))])
    assert (joined.item_indexes.tolist(), joined.amounts.tolist()) == ([1, 3], [0.25, 0.5])


@st.composite
def memories(draw):
    """Entries on a coarse grid with user sequences of their own; one shard of all, and the same in several shards drawn at random."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, num_shards = draw(st.integers(1, 60)), draw(st.integers(1, 5))
    items = rng.integers(0, NUM_ITEMS, size)
    vectors = rng.integers(-2, 3, (size, DIM)).astype(np.float16) / 2
    sequences = [ItemSequences.of([rng.integers(0, NUM_ITEMS, rng.integers(1, 8)).tolist() for _ in range(6)])]
    shard_of_item = rng.integers(0, num_shards, NUM_ITEMS)

    def made(mine: np.ndarray) -> Shard:
        statistics = statistics_of(items[mine], vectors[mine], np.full(mine.sum(), -1, dtype=np.int64))
        shard = shard_of_arrays(np.flatnonzero(mine), items[mine], vectors[mine], statistics)
        pairs = count_pairs(lambda: sequences, statistics.item_indexes, statistics.counts, NUM_ITEMS)
        return Shard(shard.statistics, shard.segments, pairs=pairs)

    histories = [rng.integers(0, NUM_ITEMS, rng.integers(0, 14)).tolist() for _ in range(3)]
    queries = rng.integers(-2, 3, (3, DIM)).astype(np.float32) / 2
    return made(np.ones(size, bool)), [made(shard_of_item[items] == shard) for shard in range(num_shards)], queries, histories


def search(
    shards: Sequence[Shard],
    queries: np.ndarray,
    histories: Sequence[Sequence[int]],
    *,
    decoder: DecoderName = "paired",
    k: int,
    excluded: Sequence[Sequence[int]] = ((), (), ()),
    allowed: Sequence[Sequence[int] | None] = (None, None, None),
    options: DecoderSettings = SETTINGS,
) -> TopK:
    pooled = PooledStatistics.of([shard.statistics for shard in shards])
    only = tuple(None if items is None else ascending(items) for items in allowed)
    request = SearchRequest(queries, decoder, k, 1, tuple(map(ascending, excluded)), only, tuple(map(recent_items, histories)))
    return search_shards([ShardSearcher(shard, pooled, options) for shard in shards], request)


@given(memories())
def test_reasons_are_the_terms_of_the_evidence_in_any_shard(memory):
    whole, shards, _, histories = memory
    for history in histories:
        recent = recent_items(history)
        evidence = lookup_of(whole).evidence(recent, 0.8)
        told = {}
        for shard in shards:
            told |= lookup_of(shard).reasons(recent, 0.8, np.arange(NUM_ITEMS))
        assert sorted(told) == evidence.item_indexes.tolist()
        for item, amount in zip(evidence.item_indexes.tolist(), evidence.amounts.tolist(), strict=True):
            amounts, sources = [term.amount for term in told[item]], [term.item_index for term in told[item]]
            assert sum(amounts) == pytest.approx(amount)
            assert amounts == sorted(amounts, reverse=True)
            assert len(set(sources)) == len(sources)
            assert set(sources) <= set(history)


def lookup_of(shard: Shard) -> PairLookup:
    return PairLookup(shard.pairs, shard.statistics.item_indexes)


def brute_force(memory: Shard, queries: np.ndarray, histories: Sequence[Sequence[int]], options: DecoderSettings) -> list[dict[int, float]]:
    """Scores by item: the whitened decoder's, and what pairs and repeats add, written out once more."""
    whitened = search([memory], queries, histories, decoder="whitened", k=NUM_ITEMS)
    scored = []
    for row, history in enumerate(histories):
        latest = history[::-1][:NUM_RECENT]
        scores = {}
        for item, score in zip(whitened.ids[row].tolist(), whitened.scores[row].tolist(), strict=True):
            evidence = 0.0
            for age, source in enumerate(latest):
                pairs = memory.pairs
                rows = slice(pairs.starts[source], pairs.starts[source + 1])
                targets = memory.statistics.item_indexes[pairs.places[rows]]
                if source not in latest[:age] and item in targets:
                    evidence += (1 + age) ** -options.pair_recency_power * float(pairs.similarities[rows][targets == item][0])
            if item >= 0:
                repeated = options.repeat_weight if item in latest[1:] and item != latest[0] else 0.0
                scores[item] = score + options.pair_weight * np.log1p(options.pair_scale * evidence) + repeated
        scored.append(scores)
    return scored


@settings(max_examples=100, deadline=None)
@given(memories(), st.integers(1, 15), REPEATS)
def test_over_any_partition_the_ranking_is_that_of_brute_force(drawn, k: int, repeat_weight: float):
    memory, shards, queries, histories = drawn
    options = replace(SETTINGS, repeat_weight=repeat_weight)
    found = search(shards, queries, histories, k=k, options=options)
    for row, scores in enumerate(brute_force(memory, queries, histories, options)):
        listed = [item for item in found.ids[row].tolist() if item >= 0]
        assert len(listed) == min(k, len(scores))
        np.testing.assert_allclose(found.scores[row][: len(listed)], sorted(scores.values(), reverse=True)[:k], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose([scores[item] for item in listed], found.scores[row][: len(listed)], rtol=1e-5, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(memories(), st.integers(1, 15), st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=6), min_size=6, max_size=6), REPEATS)
def test_any_partition_gives_the_same_bits_under_restrictions(drawn, k: int, limits, repeat_weight: float):
    memory, shards, queries, histories = drawn
    options = replace(SETTINGS, repeat_weight=repeat_weight)
    restricted = {"k": k, "excluded": limits[:3], "allowed": [items or None for items in limits[3:]], "options": options}
    one, many = search([memory], queries, histories, **restricted), search(shards, queries, histories, **restricted)
    np.testing.assert_array_equal(one.ids, many.ids)
    np.testing.assert_array_equal(one.scores, many.scores)
    for row, items in enumerate(restricted["allowed"]):
        found = set(many.ids[row].tolist()) - {-1}
        assert found <= (set(range(NUM_ITEMS)) if items is None else set(items)) - set(limits[row])


@settings(max_examples=40, deadline=None)
@given(memories())
def test_without_weight_or_history_it_is_the_whitened_decoder(drawn):
    _, shards, queries, histories = drawn
    plain = search(shards, queries, histories, decoder="whitened", k=NUM_ITEMS)
    for found in (
        search(shards, queries, [[], [], []], k=NUM_ITEMS),
        search(shards, queries, histories, k=NUM_ITEMS, options=DecoderSettings(pair_weight=0.0)),
    ):
        np.testing.assert_array_equal(found.ids, plain.ids)
        np.testing.assert_array_equal(found.scores, plain.scores)


def test_an_item_of_the_history_that_only_its_title_represents_is_weighed_too():
    items, vectors = np.repeat(np.arange(6), 3), np.random.default_rng(1).normal(size=(18, DIM)).astype(np.float16)
    statistics = statistics_of(items, vectors, np.full(18, -1, dtype=np.int64))
    titles = TitleStates(np.arange(8), np.random.default_rng(2).normal(size=(8, DIM)).astype(np.float16))
    pairs = count_pairs(lambda: [ItemSequences.of([[0, 1]])], statistics.item_indexes, statistics.counts, 8)
    shard = replace(shard_of_arrays(np.arange(18), items, vectors, statistics), titles=titles, pairs=pairs)
    pooled = replace(PooledStatistics.of([statistics]), title_map=TitleMap.fit([statistics.titled(titles)]))
    query, recent = np.ones((1, DIM), np.float32), (recent_items([3, 7, 0]),)

    def ranked(options: DecoderSettings) -> list[int]:
        request = SearchRequest(query, "paired", 8, 1, (np.zeros(0, np.int64),), EVERY, recent)
        return search_shards([ShardSearcher(shard, pooled, options)], request).ids[0].tolist()

    options = DecoderSettings(cold_count=50.0, repeat_weight=-1e4)
    assert set(ranked(options)[-2:]) == {3, 7}
    assert set(ranked(replace(options, repeat_weight=1e4))[:2]) == {3, 7}
    assert set(ranked(replace(options, cold_count=None))) == {-1, 0, 1, 2, 3, 4, 5}


def test_a_pair_lifts_an_item_from_the_end_of_the_ranking():
    rng = np.random.default_rng(0)
    items, vectors = np.repeat(np.arange(200), 3), rng.normal(size=(600, DIM)).astype(np.float16)
    statistics = statistics_of(items, vectors, np.full(600, -1, dtype=np.int64))
    plain = shard_of_arrays(np.arange(600), items, vectors, statistics)
    query = rng.normal(size=(1, DIM)).astype(np.float32)
    last = int(search([plain], query, [[]], decoder="whitened", k=200, excluded=[()], allowed=EVERY).ids[0, -1])
    pairs = count_pairs(lambda: [ItemSequences.of([[7, last]] * 50)], statistics.item_indexes, statistics.counts, 200)
    shard, strong = Shard(plain.statistics, plain.segments, pairs=pairs), DecoderSettings(pair_weight=1e4)
    found = search([shard], query, [[3, 7]], k=2, excluded=[()], allowed=EVERY, options=strong)
    assert found.ids[0, 0] == last
    assert search([shard], query, [[3, 8]], k=1, excluded=[()], allowed=EVERY, options=strong).ids[0, 0] != last


@pytest.mark.parametrize(("with_entries", "with_pairs"), [(True, True), (False, True), (True, False), (False, False)])
def test_decoders_are_those_that_the_shards_were_loaded_for(with_entries: bool, with_pairs: bool):
    items, vectors = np.array([0, 1]), np.eye(2, DIM, dtype=np.float16)
    statistics = statistics_of(items, vectors, np.full(2, -1, dtype=np.int64))
    pairs = count_pairs(lambda: [ItemSequences.of([[0, 1]])], statistics.item_indexes, statistics.counts, 2)
    shard = Shard(statistics, () if with_entries else None, pairs=pairs if with_pairs else None)
    found = available_decoders([shard])
    assert {"global", "whitened"} <= set(found)
    assert ("local" in found, "paired" in found) == (with_entries, with_pairs)
