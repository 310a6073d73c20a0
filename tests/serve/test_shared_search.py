"""A joint question to a shard, cut up again, gives each request what it would have got alone: every decoder, both rounds of local."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from l2d_ray.decode.local import LocalCandidates, LocalRequest
from l2d_ray.decode.local_merge import LocalMerge
from l2d_ray.decode.lookup import VectorsRequest
from l2d_ray.decode.search import SearchRequest, ShardAnswer, ShardRequest, ShardSearcher
from l2d_ray.decode.topk import TopK
from l2d_ray.serve.shared_search import joined, sharing_key, split
from tests.serve.conftest import NUM_SHARDS


@pytest.fixture
def queries(tiny_run) -> list[np.ndarray]:
    return [tiny_run.oracle.encode(tiny_run.histories(1 + number % 3, seed=number)) for number in range(6)]


@pytest.fixture
def searchers(backend) -> Sequence[ShardSearcher]:
    return backend.version_to_searchers[backend.served.current]


def answers_match(joint: Sequence[ShardAnswer], alone: Sequence[ShardAnswer]) -> bool:
    assert len(joint) == len(alone) > 1
    for one, other in zip(joint, alone, strict=True):
        if isinstance(one, TopK) and isinstance(other, TopK):
            assert (one.ids == other.ids).all()
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)
        else:
            assert isinstance(one, LocalCandidates)
            assert isinstance(other, LocalCandidates)
            assert (one.lengths == other.lengths).all()
            assert one.entries.tobytes() == other.entries.tobytes()
    return True


def shared(searcher: ShardSearcher, requests: Sequence[ShardRequest]) -> list[ShardAnswer]:
    assert len({sharing_key(request) for request in requests}) == 1
    return split(searcher.search(joined(requests)), requests)


@pytest.mark.parametrize("decoder", ["global", "whitened", "paired"])
def test_rankings_of_different_k_and_exclusions(queries, searchers, decoder):
    requests = []
    for number, (q, k) in enumerate(zip(queries, itertools.cycle((1, 7, 60)), strict=False)):
        excluded = tuple(np.arange(number, number + row, dtype=np.int64) for row in range(len(q)))
        allowed = tuple(None if row % 2 else np.arange(0, 60, 1 + number, dtype=np.int64) for row in range(len(q)))
        recent = tuple(np.arange(number, number + 4 * row, 4, dtype=np.int64) for row in range(len(q)))
        requests.append(SearchRequest(q, decoder, k, 10, excluded, allowed, recent))
    for searcher in searchers:
        assert answers_match(shared(searcher, requests), [searcher.search(request) for request in requests])


def test_both_rounds_of_local_decoding(queries, searchers):
    sizes = [len(searcher.shard) for searcher in searchers]
    merges = [LocalMerge(q, 25 + 5 * number, sizes, spread=0.0) for number, q in enumerate(queries)]
    num_second = 0
    for merge in merges:
        merge.add({shard: searchers[shard].search(request) for shard, request in merge.requests().items()})
    for shard in range(NUM_SHARDS):
        first = [LocalMerge(q, 25, sizes, spread=0.0).requests()[shard] for q in queries]
        assert answers_match(shared(searchers[shard], first), [searchers[shard].search(request) for request in first])
        second = [merge.requests()[shard] for merge in merges if shard in merge.requests()]
        num_second += len(second)
        if len(second) > 1:
            assert all(isinstance(request, LocalRequest) and request.after is not None for request in second)
            assert answers_match(shared(searchers[shard], second), [searchers[shard].search(request) for request in second])
    assert num_second > 2


def test_other_decoders_and_other_rounds_do_not_share(queries, searchers):
    nothing = (np.zeros(0, dtype=np.int64),) * len(queries[0])
    whitened, by_mean = (SearchRequest(queries[0], decoder, 5, 10, nothing, (None,) * len(nothing)) for decoder in ("whitened", "global"))
    merge = LocalMerge(queries[0], 25, [len(searcher.shard) for searcher in searchers], spread=0.0)
    first = merge.requests()
    merge.add({shard: searchers[shard].search(request) for shard, request in first.items()})
    second = merge.requests()
    assert second
    about_items = VectorsRequest(np.arange(3))
    asked = (whitened, by_mean, next(iter(first.values())), next(iter(second.values())), about_items, about_items)
    assert len({sharing_key(request) for request in asked}) == 6
