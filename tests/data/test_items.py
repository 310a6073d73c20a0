"""Titles are cleaned once, items merged without repeats."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.data.items import RawItem, clean_items, merge_items
from l2d_ray.data.titles import clean_title, usable_title
from l2d_ray.errors import DataError
from l2d_ray.schema import ITEMS


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("  Tom &amp; Jerry \n the\tMovie ", "Tom & Jerry the Movie"),
        ("a\x00b\u2028c\u00a0d", "a b c d"),
        ('"Quoted"', "Quoted"),
        ("<span id=x>", ""),
        ("var aPageStart = (new Date()).getTime();", ""),
        ("東京物語", "東京物語"),
        (None, ""),
        ("   ", ""),
    ],
)
def test_clean_title(raw, clean):
    assert clean_title(raw) == clean


@given(st.text())
def test_a_clean_title_is_one_line_without_outer_or_double_spaces(raw):
    title = clean_title(raw)
    assert len(title.splitlines()) <= 1
    assert title == title.strip()
    assert "  " not in title


def test_usable_titles_have_two_characters_and_few_words():
    def usable(raw, rule="strict"):
        return usable_title(raw, max_words=3, rule=rule)

    assert [usable(raw) for raw in ("a b c", " a  b c ", "a b c d", "X", "", None)] == ["a b c", "a b c", "", "", "", ""]
    script = "var a = 1; (new Date()).getTime();"
    assert usable_title(script, max_words=20, rule="strict") == ""
    assert usable_title(script, max_words=20, rule="d3") == script
    assert [usable(raw, "d3") for raw in ("a b c", " a b c ", "a  b c", "Tom &amp; Jerry", "X", "<span id=1>", None)] == [
        "a b c",
        "a b c",
        "",
        "Tom & Jerry",
        "",
        "",
        "",
    ]


def test_clean_items_keeps_order_and_counts_what_it_drops():
    rows = [RawItem("b", "Two", {"year": 2}), RawItem("x", None, {}), RawItem("a", " One &amp; ", {})]
    cleaned = clean_items(rows, max_title_words=20, title_rule="strict")
    assert cleaned.num_without_usable_title == 1
    assert cleaned.refused == {"x"}
    assert cleaned.table.to_pylist() == [
        {"item_id": "b", "title": "Two", "attributes": '{"year": 2}'},
        {"item_id": "a", "title": "One &", "attributes": "{}"},
    ]


def _items(*rows):
    return pa.Table.from_pylist([{"item_id": i, "title": t, "attributes": a} for i, t, a in rows], schema=ITEMS)


def test_merge_sorts_and_keeps_the_first_of_equal_rows():
    merged = merge_items([_items(("b", "B", "1")), _items(("a", "A", "2"), ("b", "B", "3"))], first_title_wins=False)
    assert [tuple(row.values()) for row in merged.to_pylist()] == [("a", "A", "2"), ("b", "B", "1")]


def test_merge_refuses_two_titles_of_one_item_unless_the_first_wins():
    tables = [_items(("b", "B", "")), _items(("b", "C", ""))]
    with pytest.raises(DataError, match="'b' has two titles, 'B' and 'C'"):
        merge_items(tables, first_title_wins=False)
    assert merge_items(tables, first_title_wins=True)["title"].to_pylist() == ["B"]
    assert merge_items([], first_title_wins=False).num_rows == 0
