"""Conditions on attributes: columns say what one item at a time says, and what a person would."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from l2d_ray.serve.filters import MAX_CONDITIONS, MAX_DEPTH, AttributeTable, Filter, is_met
from l2d_ray.serve.messages import RecommendationRequest, field_errors

READ = TypeAdapter(Filter)
FILMS: list[dict[str, Any]] = [
    {"year": 1995, "genres": ["Crime", "Drama"], "seen": True},
    {"year": 1977.0, "genres": ["Adventure"], "seen": 1},
    {"genres": "Drama", "title": "Ödipus", "year": None},
    {"year": [1980, 1999], "nested": {"year": 1995}},
    {},
]


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ({"attribute": "year", "equals": 1995}, [0]),
        ({"attribute": "year", "equals": 1977}, [1]),
        ({"attribute": "genres", "equals": "Drama"}, [0, 2]),
        ({"attribute": "seen", "equals": True}, [0]),
        ({"attribute": "seen", "equals": 1.0}, [1]),
        ({"attribute": "genres", "in": ["Adventure", "Crime", 5]}, [0, 1]),
        ({"attribute": "year", "range": {"gte": 1977, "lt": 1995}}, [1, 3]),
        ({"attribute": "year", "range": {"gt": 1977}}, [0, 3]),
        ({"attribute": "genres", "range": {"gte": "B", "lte": "Crime"}}, [0]),
        ({"attribute": "year", "range": {"gte": "1"}}, []),
        ({"attribute": "nowhere", "equals": 1}, []),
        ({"not": {"attribute": "year", "range": {"gte": 0}}}, [2, 4]),
        ({"and": [{"attribute": "genres", "equals": "Drama"}, {"not": {"attribute": "seen", "equals": True}}]}, [2]),
        ({"or": [{"attribute": "year", "equals": 1999}, {"attribute": "title", "equals": "Ödipus"}]}, [2, 3]),
    ],
)
def test_what_a_person_would_say(condition, met):
    read = READ.validate_python(condition)
    assert AttributeTable(FILMS).mask(read).nonzero()[0].tolist() == met
    assert [index for index, film in enumerate(FILMS) if is_met(read, film)] == met


values = st.sampled_from([0, 1, 1.0, -2, 2.5, True, False, "", "a", "b", "ab"])
stored = st.one_of(values, st.none(), st.lists(values, max_size=3), st.just({"a": 1}), st.just(float("nan")))
bounds = st.one_of(
    st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), st.sampled_from([-2, 0, 1, 1.5, 2.5]), min_size=1),
    st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), st.sampled_from(["", "a", "ab", "b"]), min_size=1),
)
names = st.sampled_from(["x", "y"])
leaves = st.one_of(
    st.fixed_dictionaries({"attribute": names, "equals": values}),
    st.fixed_dictionaries({"attribute": names, "in": st.lists(values, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"attribute": names, "range": bounds}),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=6,
)


def holds(condition: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """The same once more, as plainly as possible."""
    if "and" in condition:
        return all(holds(inner, attributes) for inner in condition["and"])
    if "or" in condition:
        return any(holds(inner, attributes) for inner in condition["or"])
    if "not" in condition:
        return not holds(condition["not"], attributes)
    value = attributes.get(condition["attribute"])
    here = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str | int | float) and v == v]
    kinds = {str: "text", bool: "truth"}
    alike = [(v, kinds.get(type(v), "number")) for v in here]
    if "range" in condition:
        tests = {"gte": "__ge__", "gt": "__gt__", "lte": "__le__", "lt": "__lt__"}
        limits = condition["range"]
        kind = "text" if isinstance(next(iter(limits.values())), str) else "number"
        wanted = [v if kind == "text" else float(v) for v, k in alike if k == kind]
        return any(
            all(getattr(v, tests[name])(limit if kind == "text" else float(limit)) for name, limit in limits.items()) for v in wanted
        )
    sought = condition.get("in", [condition.get("equals")])
    return any((s, kinds.get(type(s), "number")) == pair for s in sought for pair in alike)


@settings(max_examples=300, deadline=None)
@given(conditions, st.lists(st.dictionaries(names, stored), max_size=6))
def test_columns_single_items_and_the_plain_reading_agree(condition, items):
    read = READ.validate_python(condition)
    expected = [holds(condition, attributes) for attributes in items]
    assert AttributeTable(items).mask(read).tolist() == expected
    assert [is_met(read, attributes) for attributes in items] == expected


def nested(depth: int) -> dict[str, Any]:
    condition: dict[str, Any] = {"attribute": "x", "equals": 1}
    for _ in range(depth):
        condition = {"not": condition}
    return condition


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        ({}, "filter"),
        (5, "filter"),
        ({"attribute": "x"}, "filter"),
        ({"attribute": "x", "equals": [1]}, "filter.equals"),
        ({"attribute": "x", "equals": 1, "extra": 1}, "filter.extra"),
        ({"attribute": "x", "in": []}, "filter.in"),
        ({"attribute": "x", "range": {}}, "filter.range"),
        ({"attribute": "x", "range": {"gte": 1, "lt": "2"}}, "filter.range"),
        ({"attribute": "x", "range": {"gte": float("nan")}}, "filter.range.gte"),
        ({"and": [{"attribute": "x", "equals": 1}, {"or": [{"attribute": 5, "equals": 1}]}]}, "filter.and.1.or.0.attribute"),
        (nested(MAX_DEPTH), "filter"),
        (nested(5000), "filter"),
        ({"or": [{"attribute": "x", "equals": 1}] * (MAX_CONDITIONS + 1)}, "filter"),
    ],
)
def test_a_mistake_is_told_with_its_path(condition, field: str):
    with pytest.raises(ValidationError) as caught:
        RecommendationRequest.model_validate({"history": ["a"], "filter": condition})
    assert [error.field for error in field_errors(caught.value.errors())] == [field]
