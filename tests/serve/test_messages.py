"""What a request may say, and how a mistake is told: by the path of its value."""

import pytest
from pydantic import ValidationError

from l2d_ray.serve.messages import MAX_ERRORS, RecommendationRequest, TitledItem, field_errors

BAD_REQUESTS = [
    ({"history": "item-1"}, "history"),
    ({"history": ["a", "b", 3]}, "history.2"),
    ({"history": ["a", ""]}, "history.1"),
    ({"history": ["a", None]}, "history.1"),
    ({"history": ["a", {"title": ""}]}, "history.1.title"),
    ({"history": ["a", {"title": 5}]}, "history.1.title"),
    ({"history": ["a", {"title": "x" * 1001}]}, "history.1.title"),
    ({"history": ["a", {"name": "x"}]}, "history.1.title"),
    ({"history": ["a", {"title": "x", "year": 1}]}, "history.1.year"),
    ({"history": ["a"] * 10_001}, "history"),
    ({"history": ["a"], "k": 0}, "k"),
    ({"history": ["a"], "k": 501}, "k"),
    ({"history": ["a"], "k": "10"}, "k"),
    ({"history": ["a"], "k": 10.0}, "k"),
    ({"history": ["a"], "k": True}, "k"),
    ({"history": ["a"], "num_neighbors": 0}, "num_neighbors"),
    ({"history": ["a"], "num_neighbors": 100_001}, "num_neighbors"),
    ({"history": ["a"], "decoder": "beam"}, "decoder"),
    ({"history": ["a"], "exclude_history": "yes"}, "exclude_history"),
    ({"history": ["a"], "top_k": 5}, "top_k"),
]


@pytest.mark.parametrize(("body", "field"), BAD_REQUESTS)
def test_a_mistake_is_told_with_the_path_of_its_value(body, field: str):
    with pytest.raises(ValidationError) as caught:
        RecommendationRequest.model_validate(body)
    assert field in [error.field for error in field_errors(caught.value.errors())]


def test_defaults_and_both_kinds_of_history_entry():
    request = RecommendationRequest.model_validate({"history": ["item-1", {"title": "Heat (1995)"}]})
    assert request.history == ["item-1", TitledItem(title="Heat (1995)")]
    assert (request.k, request.decoder, request.num_neighbors, request.exclude_history) == (10, None, None, True)


def test_a_mistake_shows_the_value_seen_and_shortens_a_long_one():
    with pytest.raises(ValidationError) as caught:
        RecommendationRequest.model_validate({"history": [{"title": "é" * 5000}], "k": 501})
    k, title = field_errors(caught.value.errors())
    assert "(seen: 501)" in k.message
    assert len(title.message) < 500
    assert "of 5000 characters" in title.message


def test_of_thousands_of_mistakes_only_the_first_are_told():
    with pytest.raises(ValidationError) as caught:
        RecommendationRequest.model_validate({"history": [1] * 9000})
    assert [e.field for e in field_errors(caught.value.errors())] == [f"history.{i}" for i in range(MAX_ERRORS)]


def test_a_key_without_a_character_has_a_path_too():
    with pytest.raises(ValidationError) as caught:
        RecommendationRequest.model_validate({"history": ["a"], "": 1})
    assert [error.field for error in field_errors(caught.value.errors())] == ['""']
