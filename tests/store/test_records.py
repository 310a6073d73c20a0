"""Records refuse what a database cannot keep, and edits of an item compose."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.errors import RequestError
from l2d_ray.store.records import ApiKey, Author, CatalogueEdit, Interaction, PendingWork

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.one_of(st.none(), st.integers(0, 3), st.text(max_size=2), st.lists(st.integers(0, 2), max_size=2))
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=3)
PUTS = st.builds(CatalogueEdit, st.just("put"), st.just("i"), st.text("xyz", min_size=1, max_size=2), ATTRIBUTES)
PATCHES = st.builds(CatalogueEdit, st.just("patch"), st.just("i"), st.none() | st.text("xyz", min_size=1, max_size=2), ATTRIBUTES)
DELETES = st.just(CatalogueEdit("delete", "i"))
ITEMS = st.none() | st.tuples(st.text("xyz", min_size=1, max_size=2), st.dictionaries(NAMES, st.integers(0, 3), max_size=3))


@given(st.lists(PUTS | PATCHES | DELETES, min_size=1, max_size=5), ITEMS)
def test_edits_composed_do_what_they_do_one_after_another(edits, item):
    composed, changed = None, item
    for edit in edits:
        if composed is not None and composed.kind == "delete" and edit.kind == "patch":
            with pytest.raises(RequestError, match="deleted"):
                edit.after(composed)
            return
        composed, changed = edit.after(composed), edit.apply(changed)
        assert composed.apply(item) == changed


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"event_id": ""}, "event_id"),
        ({"user_id": "u\0"}, "user_id"),
        ({"item_id": "\ud800"}, "item_id"),
        ({"item_id": "é" * 501}, "item_id"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 1_700_000_000_000}, "timestamp"),
    ],
)
def test_an_interaction_that_no_database_keeps_is_refused_by_the_name_of_its_field(change, field):
    good = {"event_id": "e", "user_id": "u", "item_id": "é" * 500, "timestamp": 1_700_000_000}
    assert Interaction(**good).timestamp == 1_700_000_000
    with pytest.raises(RequestError) as refused:
        Interaction(**{**good, **change})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (("put", "i"), "title"),
        (("delete", "i", "Title"), "title"),
        (("delete", "i", None, {"a": 1}), "title"),
        (("put", "i", "\ud800"), "title"),
        (("put", "i", "t" * 1_000_001), "title"),
        (("put", "i", "Title", {"a": math.nan}), "attributes"),
        (("put", "i", "Title", {"a": object()}), "attributes"),
        (("put", "i", "Title", {"a": "\ud800"}), "attributes"),
        (("patch", "", "Title"), "item_id"),
    ],
)
def test_an_edit_that_means_nothing_is_refused_by_the_name_of_its_field(edit, field):
    with pytest.raises(RequestError) as refused:
        CatalogueEdit(*edit)
    assert refused.value.field == field


@pytest.mark.parametrize("change", [{"scopes": frozenset()}, {"scopes": frozenset({"root"})}, {"requests_per_s": 0}, {"burst": 0}])
def test_a_key_that_could_do_nothing_is_refused(change):
    good = {"scopes": frozenset({"read"}), "salt": b"", "digest": b"", "requests_per_s": 1, "burst": 1, "created_at": 0}
    assert ApiKey("k", "name", **good).is_valid(1e12)
    with pytest.raises(RequestError):
        ApiKey("k", "name", **{**good, **change})


def test_a_key_is_valid_until_it_expires():
    key = ApiKey("k", "name", frozenset({"read"}), b"", b"", 1, 1, created_at=0, expires_at=10.0)
    assert [key.is_valid(now) for now in (0, 9.99, 10.0)] == [True, True, False]


def test_work_is_false_where_there_is_none():
    assert not PendingWork((), (), ())
    with pytest.raises(RequestError):
        Author(None, "")
