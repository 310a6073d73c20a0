"""The service's logic composed in one process gives exactly what LatentDecoder gives, and refuses what it cannot use."""

import asyncio
import itertools
from functools import partial

import pytest

from l2d_ray.decode.local_merge import LearntSpread
from l2d_ray.decode.settings import DECODERS
from l2d_ray.errors import RequestError
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.messages import RecommendationAnswer, RecommendationRequest
from tests.serve.conftest import NUM_SHARDS, recommender_of


@pytest.fixture
def recommend(artefacts: ServedArtefacts, backend):
    recommender = recommender_of(artefacts, backend)

    def answer(**body) -> RecommendationAnswer:
        return asyncio.run(recommender.recommend(RecommendationRequest.model_validate(body), "test"))

    return answer


def test_the_composition_equals_the_oracle(tiny_run, recommend):
    cases = itertools.product(tiny_run.histories(8, seed=1), DECODERS, (1, 10, 500), (True, False))
    num_checked = 0
    for history, decoder, k, exclude in cases:
        answer = recommend(history=tiny_run.as_sent(history), k=k, decoder=decoder, exclude_history=exclude)
        assert [i.item_id for i in answer.items] == tiny_run.expected_ids(history, k, decoder=decoder, exclude_history=exclude)
        assert answer.decoder == decoder
        num_checked += len(answer.items)
    assert num_checked > 1000


def test_a_second_round_asks_only_who_may_hold_more_and_gives_the_oracle_s_items(
    tiny_run, artefacts: ServedArtefacts, backend, monkeypatch: pytest.MonkeyPatch
):
    rounds: list[list[int]] = []

    async def noted(requests, version, deadline):
        rounds.append(sorted(requests))
        return await searched(requests, version, deadline)

    searched = backend.search

    monkeypatch.setattr(backend, "search", noted)
    monkeypatch.setattr("l2d_ray.serve.shards.LearntSpread", partial(LearntSpread, 0.0))
    recommender = recommender_of(artefacts, backend)
    for history in tiny_run.histories(10, seed=5):
        body = RecommendationRequest(history=tiny_run.as_sent(history), k=60, decoder="local", num_neighbors=25)
        answer = asyncio.run(recommender.recommend(body, "test"))
        assert [i.item_id for i in answer.items] == tiny_run.expected_ids(history, 60, decoder="local", num_neighbors=25)
    assert rounds.count(list(range(NUM_SHARDS))) == 10
    assert 0 < len(rounds) - 10 <= 10
    assert all(len(asked) < NUM_SHARDS for asked in rounds if asked != list(range(NUM_SHARDS)))


@pytest.mark.parametrize("num_neighbors", [1, 30, 100_000])
def test_num_neighbors_of_the_request_counts(tiny_run, recommend, num_neighbors: int):
    history = tiny_run.histories(1, seed=2)[0]
    answer = recommend(history=tiny_run.as_sent(history), k=100, decoder="local", num_neighbors=num_neighbors)
    assert [i.item_id for i in answer.items] == tiny_run.expected_ids(history, 100, decoder="local", num_neighbors=num_neighbors)


def test_the_answer_is_ranked_titled_and_signed(tiny_run, recommend, artefacts: ServedArtefacts):
    answer = recommend(history=["item-03"], k=7)
    assert [i.rank for i in answer.items] == list(range(1, 8))
    assert [i.score for i in answer.items] == sorted((i.score for i in answer.items), reverse=True)
    assert all(i.title == tiny_run.catalogue.titles[tiny_run.catalogue.item_id_to_index[i.item_id]] for i in answer.items)
    assert answer.decoder == artefacts.settings.decoder
    assert (answer.memory_version, answer.model_fingerprint) == (artefacts.manifest.memory_version, artefacts.manifest.fingerprint)
    timings = answer.timings_ms
    assert timings.total == pytest.approx(timings.tokenize + timings.encode + timings.search + timings.merge, abs=0.01)


def test_a_title_of_the_catalogue_is_that_item(tiny_run, recommend):
    history = [3, 17, 5]
    by_title = recommend(history=tiny_run.as_sent(history, by_title=True), k=60)
    assert [i.item_id for i in by_title.items] == tiny_run.expected_ids(history, 60)
    assert "item-17" not in [i.item_id for i in by_title.items]
    untidy = recommend(history=[{"title": f"  {tiny_run.catalogue.titles[i]}\n"} for i in history], k=60)
    assert untidy.items == by_title.items


@pytest.mark.parametrize(
    ("entry", "field", "said"),
    [("item-99", "history.2", "'item-99'"), ({"title": " \n "}, "history.2.title", "readable")],
)
def test_an_entry_that_cannot_be_used_is_named(recommend, entry, field: str, said: str):
    with pytest.raises(RequestError, match=said) as caught:
        recommend(history=["item-01", {"title": "New"}, entry])
    assert caught.value.field == field
