"""Rows of a search, diversity, cursors and experiments: laws on toys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.decode.topk import TopK
from l2d_ray.errors import RequestError
from l2d_ray.serve.cursor import Cursor, digest_of
from l2d_ray.serve.experiments import arm_of
from l2d_ray.serve.ranking import diversified, merged, rows_of
from l2d_ray.serve.state_messages import Experiment

masks = st.lists(st.booleans(), min_size=12, max_size=12).map(np.array)


@settings(max_examples=150, deadline=None)
@given(st.none() | masks, st.lists(st.tuples(masks, st.sampled_from([-1.0, 0.5, 2.0])), max_size=3), st.sets(st.integers(0, 11)))
def test_rows_share_out_exactly_what_may_be_ranked(mask, boosts, excluded):
    rows = rows_of(excluded, mask, boosts)
    seen = {}
    for row in rows:
        allowed = set(range(12)) if row.allowed is None else set(row.allowed.tolist())
        for item in allowed - set(row.excluded.tolist()):
            assert item not in seen
            seen[item] = row.added
    ranked = {item for item in range(12) if (mask is None or mask[item]) and item not in excluded}
    assert seen == {item: pytest.approx(sum(weight for concerned, weight in boosts if concerned[item])) for item in ranked}


def test_rows_of_one_request_merge_with_their_boosts():
    rows = rows_of(set(), None, [(np.array([True, False, False]), 3.0)])
    found = TopK(np.array([[1, 2], [0, -1]]), np.array([[5.0, 1.0], [2.0, -np.inf]]))
    assert [row.added for row in rows] == [0.0, 3.0]
    best = merged(found, rows, 4)
    assert best.ids.tolist() == [[0, 1, 2, -1]]
    assert best.scores[0, :3].tolist() == [5.0, 5.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0, 1))
def test_diversity_gives_each_place_to_the_best_that_is_left(seed: int, size: int, diversity: float):
    rng = np.random.default_rng(seed)
    scores, vectors = np.sort(rng.normal(size=size))[::-1], rng.normal(size=(size, 4)).astype(np.float32)
    order = diversified(scores, vectors, diversity, size)
    assert sorted(order) == list(range(size))
    centred = vectors.astype(float) - vectors.astype(float).mean(axis=0)
    directions = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-300)
    relevance = (scores - scores[-1]) / (scores[0] - scores[-1]) if scores[0] > scores[-1] else np.ones(size)
    for place in range(size):
        left = order[place:]
        worth = [
            (1 - diversity) * relevance[i] - diversity * max((directions[i] @ directions[j] for j in order[:place]), default=0.0)
            for i in left
        ]
        assert worth[0] == pytest.approx(max(worth), abs=1e-9)
    assert diversified(scores, vectors, diversity, 3) == order[:3]


def test_no_diversity_keeps_the_order_and_full_diversity_avoids_what_was_there():
    vectors = np.array([[1, 0], [1, 0.01], [-1, 0]], dtype=np.float32)
    scores = np.array([3.0, 2.9, 1.0])
    assert diversified(scores, vectors, 0.0, 3) == [0, 1, 2]
    assert diversified(scores, vectors, 0.5, 3) == [0, 2, 1]
    assert diversified(np.zeros(0), vectors[:0], 0.5, 3) == []


@given(st.integers(0, 10_000), st.integers(0, 10**6), st.integers(0, 10_000))
def test_a_cursor_comes_back_as_it_was(offset: int, version: int, num_stored: int):
    cursor = Cursor(offset, version, num_stored, "d")
    assert Cursor.read(cursor.to_text(), "d") == cursor


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.hex()))
def test_no_text_that_is_none_of_ours_is_more_than_a_request_error(text: str):
    with pytest.raises(RequestError):
        Cursor.read(text, "d")


def test_a_digest_is_of_what_decides_the_ranking():
    request = {"history": ["a"], "k": 5, "timeout_ms": None}
    assert digest_of(request) == digest_of(request | {"cursor": "x", "timeout_ms": 5})
    assert digest_of(request) != digest_of(request | {"k": 6})


def test_users_keep_their_arm_and_arms_get_their_share():
    arms = [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]
    experiment = Experiment.model_validate({"name": "first", "arms": [arm | {"weight": float(arm["weight"])} for arm in arms]})
    users = [f"user-{number}" for number in range(4000)]
    chosen = [arm_of(experiment, user).name for user in users]
    assert chosen == [arm_of(experiment, user).name for user in users]
    assert 0.22 < chosen.count("a") / len(chosen) < 0.28
    second = experiment.model_copy(update={"name": "second"})
    both = sum(arm_of(second, user).name == name == "a" for user, name in zip(users, chosen, strict=True))
    assert 0.04 < both / len(users) < 0.085  # shared out anew: a quarter of a quarter
