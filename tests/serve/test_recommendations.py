"""What a request may ask of a ranking, against the oracle in one process: ids bit for bit, and k of them wherever k exist."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2d_ray.decode.paired import shares_of
from l2d_ray.decode.settings import DECODERS
from l2d_ray.errors import NotFoundError, RequestError, UnavailableError
from l2d_ray.memory.table import Memory
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.messages import BatchRequest, RankingOptions, RecommendationAnswer, RecommendationRequest, RecommendedItem
from l2d_ray.serve.service import Recommender
from tests.serve.conftest import NUM_ITEMS, NUM_SHARDS, backend_of, recommender_of

SHARED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
THREE = ("item-03", "item-09", "item-21")
SEQUELS = {"attribute": "is_sequel", "equals": True}
Recommend = Callable[..., RecommendationAnswer]


@pytest.fixture
def recommender(artefacts: ServedArtefacts, backend) -> Recommender:
    return recommender_of(artefacts, backend)


@pytest.fixture
def recommend(recommender: Recommender) -> Recommend:
    def answer(**body: Any) -> RecommendationAnswer:
        return asyncio.run(recommender.recommend(RecommendationRequest.model_validate(body), "test"))

    return answer


def ids_of(answer: RecommendationAnswer) -> list[str]:
    return [item.item_id for item in answer.items]


def item_ids(indexes) -> list[str]:
    return [f"item-{index:02d}" for index in indexes]


def is_sequel(tiny_run, index: int) -> bool:
    return tiny_run.catalogue.attributes[index].get("is_sequel") is True


restrictions = st.fixed_dictionaries(
    {},
    optional={
        "candidate_item_ids": st.lists(st.integers(0, NUM_ITEMS - 1), max_size=NUM_ITEMS),
        "exclude_item_ids": st.lists(st.integers(0, NUM_ITEMS + 5), max_size=20),
        "from_year": st.integers(1945, 1990),
        "exclude_history": st.booleans(),
    },
)


@SHARED
@given(st.integers(0, 10**6), st.sampled_from(DECODERS), st.integers(1, 70), restrictions)
def test_restrictions_are_the_oracle_s_and_before_the_top_k(tiny_run, recommend, seed: int, decoder: str, k: int, limits):
    history = tiny_run.histories(1, seed=seed)[0]
    body: dict[str, Any] = {"history": tiny_run.as_sent(history), "k": k, "decoder": decoder, "num_neighbors": 30}
    allowed = set(range(NUM_ITEMS))
    excluded = {item for item in history if isinstance(item, int)} if limits.get("exclude_history", True) else set()
    body["exclude_history"] = limits.get("exclude_history", True)
    if "candidate_item_ids" in limits:
        body["candidate_item_ids"] = item_ids(limits["candidate_item_ids"])
        allowed &= set(limits["candidate_item_ids"])
    if "exclude_item_ids" in limits:
        body["exclude_item_ids"] = item_ids(limits["exclude_item_ids"])
        excluded |= set(limits["exclude_item_ids"])
    if "from_year" in limits:
        body["filter"] = {"attribute": "year", "range": {"gte": limits["from_year"]}}
        allowed &= {i for i in range(NUM_ITEMS) if int(tiny_run.catalogue.attributes[i]["year"]) >= limits["from_year"]}
    found = tiny_run.oracle.recommend([history], k, decoder=decoder, num_neighbors=30, excluded=[excluded], allowed=[allowed])
    answer = recommend(**body)
    assert ids_of(answer) == item_ids(index for index in found.ids[0] if index >= 0)
    assert [item.score for item in answer.items] == [score for score in found.scores[0] if np.isfinite(score)]
    if decoder != "local":
        with_entries = set(tiny_run.oracle.recommend([history], NUM_ITEMS, decoder=decoder).ids[0].tolist())
        assert len(answer.items) == min(k, len((allowed - excluded) & with_entries))


@SHARED
@given(
    st.integers(0, 10**6), st.sampled_from(DECODERS), st.integers(1, 20), st.lists(st.sampled_from([-50.0, -1.0, 0.5, 100.0]), max_size=4)
)
def test_boosts_rank_everything_with_them_added(tiny_run, recommend, seed: int, decoder: str, k: int, weights: list[float]):
    history = tiny_run.histories(1, seed=seed)[0]
    filters = [SEQUELS, {"attribute": "year", "range": {"lt": 1960}}, {"attribute": "words", "in": ["Red", "Lost"]}, {"not": SEQUELS}]
    boosts = [{"filter": condition, "weight": weight} for condition, weight in zip(filters, weights, strict=False)]
    full = tiny_run.oracle.recommend([history], NUM_ITEMS, decoder=decoder, num_neighbors=30)
    attributes = tiny_run.catalogue.attributes
    meets = [
        lambda i: attributes[i].get("is_sequel") is True,
        lambda i: attributes[i]["year"] < 1960,
        lambda i: bool({"Red", "Lost"} & set(attributes[i]["words"])),
        lambda i: attributes[i].get("is_sequel") is not True,
    ]
    scored = [
        (score + sum(weight for weight, met in zip(weights, meets, strict=False) if met(index)), index)
        for index, score in zip(full.ids[0].tolist(), full.scores[0].tolist(), strict=True)
        if index >= 0
    ]
    expected = sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:k]
    body = {"history": tiny_run.as_sent(history), "k": k, "decoder": decoder, "num_neighbors": 30, "exclude_history": False}
    answer = recommend(**body, boosts=boosts)
    assert ids_of(answer) == item_ids(index for _, index in expected)
    assert [item.score for item in answer.items] == pytest.approx([score for score, _ in expected])


def test_boosts_that_overlap_in_too_many_ways_are_refused(recommend):
    boosts = [{"filter": {"attribute": "year", "range": {"gte": 1950 + 4 * n}}, "weight": 2.0**n} for n in range(8)]
    assert recommend(history=["item-01"], boosts=boosts).items
    crossing = [
        {"filter": {"attribute": "year", "in": [y for y in range(1950, 1986) if y >> bit & 1]}, "weight": 2.0**bit} for bit in range(6)
    ]
    with pytest.raises(RequestError, match="different values") as caught:
        recommend(history=["item-01"], boosts=crossing)
    assert caught.value.field == "boosts"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("diversity", [0.0, 0.4])
def test_pages_joined_are_the_ranking(tiny_run, recommend, decoder: str, diversity: float):
    history = tiny_run.as_sent(tiny_run.histories(1, seed=11)[0])
    body = {"history": history, "decoder": decoder, "k": 7, "diversity": diversity, "filter": {"not": SEQUELS}}
    pages = [recommend(**body)]
    while pages[-1].next_cursor is not None:
        pages.append(recommend(**body, cursor=pages[-1].next_cursor))
    joined = [item for page in pages for item in page.items]
    assert len(pages) > 2
    assert [item.rank for item in joined] == list(range(1, len(joined) + 1))
    assert len({item.item_id for item in joined}) == len(joined)
    if not diversity:
        assert [item.item_id for item in joined] == ids_of(recommend(**{**body, "k": 500}))


def test_a_cursor_belongs_to_its_request(recommend):
    first = recommend(history=["item-01"], k=5)
    assert first.next_cursor is not None
    assert recommend(history=["item-01"], k=5, cursor=first.next_cursor, timeout_ms=60_000).items[0].rank == 6
    for body in ({"history": ["item-02"], "k": 5}, {"history": ["item-01"], "k": 6}, {"history": ["item-01"], "k": 5, "decoder": "local"}):
        with pytest.raises(RequestError, match="another request"):
            recommend(**body, cursor=first.next_cursor)
    for forged in ("", "AAAA", "é", first.next_cursor[:-3], "bnVsbA", "e30"):
        with pytest.raises(RequestError) as caught:
            recommend(history=["item-01"], k=5, cursor=forged)
        assert caught.value.field == "cursor"


def test_diversity_trades_score_for_difference(tiny_run, recommend):
    def likeness(answer: RecommendationAnswer) -> float:
        means = np.concatenate([searcher.shard.statistics.means() for searcher in tiny_run.oracle._searchers])
        items = np.concatenate([searcher.shard.statistics.item_indexes for searcher in tiny_run.oracle._searchers])
        vectors = np.stack([means[items == tiny_run.catalogue.item_id_to_index[i]][0] for i in ids_of(answer)]) - means.mean(axis=0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return float((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].mean())

    history = tiny_run.as_sent(tiny_run.histories(1, seed=5)[0])
    answers = [recommend(history=history, k=8, diversity=diversity) for diversity in (0.0, 0.3, 0.9)]
    plain, mild, strong = map(likeness, answers)
    assert plain > mild > strong
    assert answers[1].items[0].item_id == answers[0].items[0].item_id
    assert sum(i.score for i in answers[0].items) >= sum(i.score for i in answers[1].items) >= sum(i.score for i in answers[2].items)


def test_a_batch_gives_what_its_requests_give_alone_in_one_encoding_and_one_search_a_kind(
    tiny_run, recommender: Recommender, backend, monkeypatch: pytest.MonkeyPatch
):
    calls: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        original = getattr(backend, name)

        def counted(*arguments: Any) -> Any:
            calls[name] += 1
            return original(*arguments)

        return counted

    for name in ("encode", "search"):
        monkeypatch.setattr(backend, name, counting(name))
    drawn = random.Random(3)
    bodies = [
        {
            "history": tiny_run.as_sent(history),
            "k": drawn.randint(1, 40),
            "decoder": DECODERS[number % len(DECODERS)],
            "filter": SEQUELS if number % 4 == 0 else None,
            "boosts": [{"filter": SEQUELS, "weight": 1.0}] if number % 5 == 0 else [],
        }
        for number, history in enumerate(tiny_run.histories(64, seed=9))
    ]
    requests = [RecommendationRequest.model_validate(body) for body in bodies]
    together = asyncio.run(recommender.recommend_all(requests, "test"))
    assert calls["encode"] == 1
    assert calls["search"] <= 5  # one each for global, whitened and paired, at most two rounds for local
    alone = [asyncio.run(recommender.recommend(request, "test")) for request in requests]
    assert [ids_of(answer) for answer in together] == [ids_of(answer) for answer in alone]
    assert sum(len(answer.items) for answer in together) > 500


def test_a_mistake_in_a_batch_is_told_with_its_position(recommender: Recommender):
    requests = BatchRequest.model_validate({"requests": [{"history": ["item-01"]}, {"history": ["item-01", "nope"]}]}).requests
    with pytest.raises(RequestError) as caught:
        asyncio.run(recommender.recommend_all(requests, "test"))
    assert caught.value.field == "requests.1.history.1"


@pytest.mark.parametrize("decoder", DECODERS)
def test_without_a_shard_the_answer_is_partial_and_says_so(tiny_run, recommend, backend, decoder: str):
    whole = recommend(history=["item-03"], k=60, decoder=decoder)
    assert (whole.complete.shards_ok, whole.complete.shards_total) == (NUM_SHARDS, NUM_SHARDS)
    backend.silent = {1}
    partial = recommend(history=["item-03"], k=60, decoder=decoder)
    assert (partial.complete.shards_ok, partial.complete.shards_total) == (NUM_SHARDS - 1, NUM_SHARDS)
    assert 0 < len(partial.items) < len(whole.items) or decoder == "local"
    with pytest.raises(UnavailableError, match="1 of 2 shards") as caught:
        recommend(history=["item-03"], decoder=decoder, require_complete=True)
    assert caught.value.retry_after_s is not None
    backend.silent = {0, 1}
    with pytest.raises(UnavailableError, match="2 of 2 shards"):
        recommend(history=["item-03"], decoder=decoder)


def test_explanations_are_the_nearest_samples_of_each_item_without_their_users(tiny_run):
    explained = ServedArtefacts.pin(tiny_run.checkpoint_dir, tiny_run.index_dir, memory_uri=tiny_run.memory_uri)
    recommender = recommender_of(explained, backend_of(explained))
    body = RecommendationRequest.model_validate({"history": ["item-03", "item-09"], "k": 5, "explain": True})
    answer = asyncio.run(recommender.recommend(body, "test"))
    query = tiny_run.oracle.encode([[3, 9]])[0]
    rows = [(batch, row) for batch in Memory.open(tiny_run.memory_uri).scan() for row in range(len(batch))]
    num_told = 0
    for item in answer.items:
        assert item.reasons
        distances = sorted(
            float(np.linalg.norm(batch.vectors[row].astype(float) - query))
            for batch, row in rows
            if batch.item_ids[row].as_py() == item.item_id
        )
        assert [reason.distance for reason in item.reasons] == pytest.approx(distances[:3], rel=1e-5)
        for reason in item.reasons:
            assert 1 <= len(reason.history) <= 5
            assert set(reason.history) <= set(tiny_run.catalogue.titles)
            num_told += len(reason.history)
    assert num_told > 10
    assert "user" not in answer.model_dump_json()


def test_what_pairs_say_is_told_where_the_decoder_reads_them(tiny_run):
    explained = ServedArtefacts.pin(tiny_run.checkpoint_dir, tiny_run.index_dir, memory_uri=tiny_run.memory_uri)
    recommender = recommender_of(explained, backend_of(explained))

    def ask(decoder: str, *history: Any, explain: bool = True) -> list[RecommendedItem]:
        body = {"history": list(history), "k": 60, "decoder": decoder, "explain": explain, "exclude_history": False}
        return asyncio.run(recommender.recommend(RecommendationRequest.model_validate(body), "test")).items

    told = {item.item_id: [(cause.item_id, cause.share) for cause in item.because] for item in ask("paired", *THREE)}
    (why,) = tiny_run.oracle.reasons(tiny_run.oracle.encode([[3, 9, 21]]), [np.arange(NUM_ITEMS)], 0, histories=[[3, 9, 21]])
    expected = {item_id: [] for item_id in told}
    for index, terms in why.pairs.items():
        shares = shares_of(terms)
        expected[f"item-{index:02d}"] = [(f"item-{t.item_index:02d}", pytest.approx(s)) for t, s in zip(terms, shares, strict=True)]
    assert not why.entries
    assert told == expected
    assert any(len(causes) > 1 for causes in told.values())
    assert all(item.because == [] for item in ask("paired", {"title": "A Film Nobody Listed (1999)"}))
    assert all(item.because is None and item.reasons is not None for item in ask("whitened", *THREE))
    assert all(item.because is None and item.reasons is None for item in ask("paired", *THREE, explain=False))


def test_what_cannot_be_explained_is_refused(recommend):
    with pytest.raises(RequestError, match="memory_uri") as caught:
        recommend(history=["item-03"], explain=True)
    assert caught.value.field == "explain"


@pytest.mark.parametrize("decoder", DECODERS)
def test_similar_items_follow_the_item_s_representation(tiny_run, recommender: Recommender, decoder: str):
    statistics = [searcher.shard.statistics for searcher in tiny_run.oracle._searchers]
    vector = next(s.means()[s.item_indexes == 17] for s in statistics if 17 in s.item_indexes)
    found = tiny_run.oracle.search(vector, 9, histories=[[17]], decoder=decoder, excluded=[[17]])
    answer = asyncio.run(recommender.similar("item-17", RankingOptions(k=9, decoder=decoder), "test"))
    assert ids_of(answer) == item_ids(index for index in found.ids[0] if index >= 0)
    with pytest.raises(NotFoundError, match="'nope'"):
        asyncio.run(recommender.similar("nope", RankingOptions(), "test"))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "history"),
        ({"history": ["item-01", "item-99"]}, "history.1"),
        ({"history": ["item-01"], "candidate_item_ids": ["item-02", "item-99"]}, "candidate_item_ids.1"),
        ({"user_id": "u"}, "user_id"),
    ],
)
def test_what_cannot_be_used_is_named(recommend, body, field: str):
    with pytest.raises(RequestError) as caught:
        recommend(**body)
    assert caught.value.field == field
