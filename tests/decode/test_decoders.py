"""The laws of the three decoders and of their merge, against brute force in plain numpy, on toys with many exact ties."""

from collections.abc import Collection, Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.decode.linear import FEW, WhitenedDecoder, WhitenedRule, precision_matrix
from l2d_ray.decode.local_merge import LearntSpread
from l2d_ray.decode.restriction import ascending
from l2d_ray.decode.search import SearchRequest, ShardSearcher, begin_search, search_shards
from l2d_ray.decode.settings import DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK, merge_top_k
from l2d_ray.index.shard import Shard, shard_of_arrays
from l2d_ray.memory.statistics import NO_DECAY, Decay, ItemStatistics, PooledStatistics, merge_statistics, statistics_of

NUM_ITEMS, DIM = 12, 4


def make_shard(sample_ids: np.ndarray, items: np.ndarray, vectors: np.ndarray) -> Shard:
    return shard_of_arrays(sample_ids, items, vectors, statistics_of(items, vectors, np.full(len(items), -1, dtype=np.int64)))


def entries_of(shard: Shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sample_ids, item indexes and vectors by position."""
    positions = shard.live_positions()
    return shard.sample_ids_at(positions), shard.items_at(positions), shard.vectors_at(positions).astype(float)


def search(
    shards: Sequence[Shard],
    queries: np.ndarray,
    decoder: DecoderName,
    *,
    k: int = 5,
    num_neighbors: int = 10,
    excluded: Sequence[Collection[int]] | None = None,
    allowed: Sequence[Collection[int] | None] | None = None,
) -> TopK:
    pooled = PooledStatistics.of([shard.statistics for shard in shards])
    banned = tuple(map(ascending, excluded or [[]] * len(queries)))
    only = tuple(None if items is None else ascending(items) for items in allowed or [None] * len(queries))
    request = SearchRequest(queries, decoder, k, num_neighbors, banned, only)
    return search_shards([ShardSearcher(s, pooled, DecoderSettings()) for s in shards], request)


@st.composite
def memories(draw):
    """Entries on a coarse grid, so that equal vectors and equal distances are common; each item's shard drawn at random."""
    size = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items = rng.integers(0, NUM_ITEMS, size)
    vectors = rng.integers(-2, 3, (size, DIM)).astype(np.float16) / 2
    sample_ids = rng.permutation(1000)[:size].astype(np.int64)
    num_shards = draw(st.integers(1, 6))
    shard_of_item = rng.integers(0, num_shards, NUM_ITEMS)
    queries = rng.integers(-2, 3, (3, DIM)).astype(np.float32) / 2
    shards = [make_shard(*(a[shard_of_item[items] == s] for a in (sample_ids, items, vectors))) for s in range(num_shards)]
    return make_shard(sample_ids, items, vectors), shards, queries


def brute_force_local(memory: Shard, query: np.ndarray, num_neighbors: int) -> list[int]:
    sample_ids, items, vectors = entries_of(memory)
    nearest = np.lexsort((sample_ids, np.square(vectors - query).sum(1)))[:num_neighbors]
    scored = []
    for item in np.unique(items[nearest]):
        mean = vectors[nearest[items[nearest] == item]].mean(0).astype(np.float32)
        difference = (mean.astype(float) - query)[None]
        # Summed as the decoder sums: means that are equally far in the numbers' own arithmetic may differ in the last bit of another order.
        scored.append((float(np.einsum("ij,ij->i", difference, difference)[0]), int(item)))
    return [item for _, item in sorted(scored)]


def whitened_formula(statistics: ItemStatistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, representations and priors, written out once more."""
    defaults, pooled = DecoderSettings(), PooledStatistics.of([statistics])
    counts, kappa = statistics.counts[:, None], defaults.mean_shrinkage
    assert kappa > 0
    representations = (statistics.sums + kappa * pooled.mean) / (counts + kappa)
    precision = precision_matrix(pooled.within_covariance, defaults.shrinkage)
    return precision, representations, defaults.prior_weight * np.log(statistics.counts + defaults.prior_smoothing)


def brute_force_linear(memory: Shard, query: np.ndarray, decoder: DecoderName) -> list[int]:
    statistics = memory.statistics
    means = statistics.means().astype(float)
    if decoder == "global":
        keys = np.square(means - query).sum(1)
    else:
        precision, means, priors = whitened_formula(statistics)
        keys = np.array([c @ precision @ c / 2 - query @ precision @ c for c in means])
        keys = np.round(keys - priors, 4)
    return [int(statistics.item_indexes[i]) for i in np.lexsort((statistics.item_indexes, keys))]


@settings(max_examples=150, deadline=None)
@given(memories(), st.integers(1, 70), st.integers(1, 15))
def test_local_over_any_partition_equals_brute_force(drawn, num_neighbors: int, k: int):
    memory, shards, queries = drawn
    found = search(shards, queries, "local", k=k, num_neighbors=num_neighbors)
    for query, ids in zip(queries, found.ids, strict=True):
        expected = brute_force_local(memory, query, num_neighbors)[:k]
        assert ids.tolist() == expected + [-1] * (k - len(expected))


@settings(max_examples=100, deadline=None)
@given(memories(), st.integers(1, 15))
def test_global_over_any_partition_equals_brute_force(drawn, k: int):
    memory, shards, queries = drawn
    found = search(shards, queries, "global", k=k)
    for query, ids in zip(queries, found.ids, strict=True):
        expected = brute_force_linear(memory, query, "global")[:k]
        assert ids.tolist() == expected + [-1] * (k - len(expected))


@settings(max_examples=100, deadline=None)
@given(memories())
def test_whitened_scores_over_any_partition_equal_the_formula(drawn):
    memory, shards, queries = drawn
    one, many = search([memory], queries, "whitened", k=NUM_ITEMS), search(shards, queries, "whitened", k=NUM_ITEMS)
    np.testing.assert_array_equal(one.ids, many.ids)
    statistics = memory.statistics
    precision, representations, priors = whitened_formula(statistics)
    for query, ids, scores in zip(queries.astype(float), many.ids, many.scores, strict=True):
        rows = np.searchsorted(statistics.item_indexes, ids[ids >= 0])
        means = representations[rows]
        expected = means @ precision @ query - np.einsum("vi,ij,vj->v", means, precision, means) / 2
        expected += priors[rows]
        np.testing.assert_allclose(scores[ids >= 0], expected, rtol=1e-4, atol=1e-4)
        assert len(rows) == len(statistics.item_indexes)


def test_the_prior_of_the_whitened_decoder_follows_decayed_counts():
    """Two items in one place: with a half-life the one chosen lately comes first, without one the one chosen more often."""
    items = np.array([0] * 5 + [1] * 3)
    vectors, times = np.ones((8, DIM), dtype=np.float16), np.array([0] * 5 + [1000] * 3)
    query = np.ones((1, DIM), dtype=np.float32)
    rule = WhitenedRule(np.eye(DIM), np.zeros(DIM), mean_shrinkage=0.0, prior_weight=2.0, prior_smoothing=1.0)
    for decay, order, weights in ((NO_DECAY, [0, 1], [5, 3]), (Decay(100, 1000), [1, 0], [3, 5 * 2.0**-10])):
        statistics = statistics_of(items, vectors, times, decay=decay)
        found = WhitenedDecoder(statistics, rule).top_k(query, 2)
        assert found.ids.tolist() == [order]
        np.testing.assert_allclose(found.scores[0], DIM / 2 + 2.0 * np.log1p(weights), rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(memories())
def test_local_with_all_entries_equals_global_bit_for_bit(drawn):
    memory, shards, queries = drawn
    local = search(shards, queries, "local", k=NUM_ITEMS, num_neighbors=1000)
    everything = search([memory], queries, "global", k=NUM_ITEMS)
    np.testing.assert_array_equal(local.ids, everything.ids)
    np.testing.assert_array_equal(local.scores, everything.scores)


@settings(max_examples=60, deadline=None)
@given(memories(), st.sampled_from(["global", "local", "whitened"]), st.sets(st.integers(0, NUM_ITEMS - 1)))
def test_exclusion_removes_exactly_those_items(drawn, decoder: DecoderName, banned: set[int]):
    _, shards, queries = drawn
    full = search(shards, queries, decoder, k=NUM_ITEMS)
    cut = search(shards, queries, decoder, k=NUM_ITEMS, excluded=[sorted(banned)] * len(queries))
    for before, after in zip(full.ids, cut.ids, strict=True):
        assert [i for i in before if i >= 0 and i not in banned] == [i for i in after if i >= 0]


only_or_any = st.none() | st.sets(st.integers(-1, NUM_ITEMS + 3))


@settings(max_examples=150, deadline=None)
@given(
    memories(),
    st.sampled_from(["global", "local", "whitened"]),
    st.lists(st.tuples(only_or_any, st.sets(st.integers(0, NUM_ITEMS - 1))), min_size=3, max_size=3),
    st.integers(1, 15),
    st.sampled_from([0, 2, FEW]),
)
def test_a_restriction_ranks_exactly_what_it_permits_before_the_top_k(drawn, decoder: DecoderName, limits, k: int, few: int):
    """Brute force: rank everything, strike what is not permitted, cut. Each query of the batch has a restriction of its own."""
    memory, shards, queries = drawn
    allowed, excluded = [only for only, _ in limits], [banned for _, banned in limits]
    everything = search([memory], queries, decoder, k=NUM_ITEMS, num_neighbors=20)
    with patch("l2d_ray.decode.linear.FEW", few):
        found = search(shards, queries, decoder, k=k, num_neighbors=20, excluded=excluded, allowed=allowed)
    for query, (only, banned) in enumerate(limits):
        pairs = zip(everything.ids[query].tolist(), everything.scores[query].tolist(), strict=True)
        kept = [(i, s) for i, s in pairs if i >= 0 and i not in banned and (only is None or i in only)][:k]
        assert found.ids[query].tolist() == [i for i, _ in kept] + [-1] * (k - len(kept))
        assert found.scores[query, : len(kept)].tolist() == [s for _, s in kept]


@settings(max_examples=60, deadline=None)
@given(memories(), st.sampled_from(["global", "local", "whitened"]), st.sets(st.integers(0, 5)))
def test_without_some_shards_the_others_answer_as_if_they_were_all(drawn, decoder: DecoderName, silent: set[int]):
    """What is lost is what those shards hold; the search ends, also where nobody answers."""
    _, shards, queries = drawn
    answering = [shard for number, shard in enumerate(shards) if number not in silent]
    pooled = PooledStatistics.of([shard.statistics for shard in shards])
    searchers = [ShardSearcher(shard, pooled, DecoderSettings()) for shard in shards]
    nothing = (np.zeros(0, dtype=np.int64),) * len(queries)
    exchange = begin_search(
        SearchRequest(queries, decoder, 5, 1000, nothing, (None,) * len(queries)), [len(shard) for shard in shards], LearntSpread()
    )
    num_rounds = 0
    while asked := exchange.requests():
        num_rounds += 1
        exchange.add({shard: searchers[shard].search(question) for shard, question in asked.items() if shard not in silent})
    assert num_rounds <= 2
    some = [searcher for searcher in searchers if searcher.shard in answering]
    request = SearchRequest(queries, decoder, 5, 1000, nothing, (None,) * len(queries))
    expected = search_shards(some, request).ids if some else np.full((len(queries), 5), -1)
    np.testing.assert_array_equal(exchange.top_k().ids, expected)


def test_an_item_with_one_entry_is_represented_by_that_entry():
    vectors = np.array([[1.0, 0, 0, 0], [0, 2.0, 0, 0]], dtype=np.float16)
    shard = make_shard(np.array([5, 6]), np.array([3, 7]), vectors)
    found = search([shard], vectors[1:].astype(np.float32), "global", k=2)
    assert found.ids.tolist() == [[7, 3]]
    assert found.scores.tolist() == [[0.0, -5.0]]


def test_ranking_by_inverse_distance_and_by_inner_product_agree():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(300, DIM)).astype(np.float16)
    shard = make_shard(np.arange(300), np.arange(300) % 50, vectors)
    query = rng.normal(size=(1, DIM)).astype(np.float32)
    means = shard.statistics.means().astype(float)
    distances = np.sqrt(np.square(means - query).sum(1))
    inner = means @ query[0] - np.square(means).sum(1) / 2
    found = search([shard], query, "global", k=50).ids[0].tolist()
    assert found == np.argsort(-1 / distances).tolist() == np.argsort(-inner).tolist()


@given(st.lists(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.0, 0.5, 1.0])), max_size=6), min_size=1, max_size=5))
def test_merge_of_top_k_equals_sorting_everything(parts):
    seen: set[int] = set()
    lists = []
    for part in parts:
        fresh = [(i, s) for i, s in dict(part).items() if i not in seen]
        seen |= {i for i, _ in fresh}
        lists.append(sorted(fresh, key=lambda p: (-p[1], p[0])))
    width = max(len(part) for part in lists) + 1
    padded = [part + [(-1, -np.inf)] * (width - len(part)) for part in lists]
    arrays = [TopK(np.array([[i for i, _ in p]]), np.array([[s for _, s in p]])) for p in padded]
    expected = sorted((pair for part in lists for pair in part), key=lambda p: (-p[1], p[0]))[:4]
    found = merge_top_k(arrays, 4)
    assert [i for i in found.ids[0].tolist() if i >= 0] == [i for i, _ in expected]
    assert found.ids.shape == (1, 4)


def test_statistics_merge_to_the_same_bits_in_any_order():
    rng = np.random.default_rng(1)
    items, vectors = rng.integers(0, 9, 200), (rng.normal(size=(200, 3)) * 30).astype(np.float16)
    times = rng.integers(0, 99, 200)
    whole = statistics_of(items, vectors, times)
    shuffled = rng.permutation(200)
    parts = [statistics_of(items[p], vectors[p], times[p]) for p in np.array_split(shuffled, 7)]
    merged = merge_statistics(parts[::-1])
    for name in ("item_indexes", "counts", "sums", "last_timestamps"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(merged, name))
    np.testing.assert_allclose(whole.scatter, merged.scatter, rtol=1e-12)
    centred = vectors.astype(float) - np.stack([vectors[items == i].astype(float).mean(0) for i in items])
    np.testing.assert_allclose(
        PooledStatistics.of([whole]).within_covariance, centred.T @ centred / (200 - len(whole.counts)), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("num_neighbors", [1, 7, 64])
def test_near_ties_beyond_the_slack_are_still_exact(num_neighbors: int):
    """Hundreds of entries closer together than float32 can tell in a matrix product: the search must widen until it is sure."""
    rng = np.random.default_rng(0)
    vectors = np.full((500, 8), 100, dtype=np.float16)
    vectors[:, 0] += rng.choice([0, 0.0625], 500).astype(np.float16)
    shard = make_shard(rng.permutation(500), np.arange(500), vectors)
    query = np.full((1, 8), 100.03, dtype=np.float32)
    found = shard.nearest(query, num_neighbors)
    sample_ids, _, stored = entries_of(shard)
    expected = np.lexsort((sample_ids, np.square(stored - query.astype(float)).sum(1)))[:num_neighbors]
    assert found.positions[0].tolist() == expected.tolist()
