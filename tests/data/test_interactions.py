"""Checked interactions: types, times, nulls, and the filters with their counts."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from l2d_ray.data.interactions import INTERACTIONS, FilterCounts, Filters, filter_interactions, to_interactions
from l2d_ray.errors import ConfigError, DataError

DAY = datetime.date(2020, 1, 2)
DAY_S = 1_577_923_200


def _table(**columns):
    return pa.table({"user_id": ["u"], "item_id": ["i"]} | columns)


@pytest.mark.parametrize(
    "value",
    [
        DAY_S,
        float(DAY_S) + 0.9,
        str(DAY_S),
        f"{DAY_S}.5",
        "2020-01-02",
        "2020-01-02 00:00:00",
        "2020-01-02T01:00:00+01:00",
        DAY,
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    ],
)
def test_every_form_of_time_becomes_whole_seconds(value):
    assert to_interactions(_table(timestamp=[value]), where="f")["timestamp"].to_pylist() == [DAY_S]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"timestamp": [float("nan")]}, "1 rows have no finite timestamp"),
        ({"timestamp": pa.array([None], pa.float64())}, "no finite timestamp"),
        ({"timestamp": pa.array([None], pa.int64())}, "1 rows have no timestamp"),
        ({"timestamp": ["yesterday"]}, "'yesterday' cannot be read"),
        ({"timestamp": [DAY_S * 1000]}, "divide milliseconds by 1000"),
        ({"timestamp": [4_000_000_000]}, "timestamp 4000000000 lies in the future"),
        ({"timestamp": [True]}, "type bool"),
        ({"user_id": pa.array([None], pa.string())}, "1 rows have no user_id"),
        ({"item_id": [""]}, "empty item_id"),
        ({"item_id": [1.5]}, "item_id is of type double"),
        ({"rating": ["good"]}, "rating is no number"),
        ({"rating": [float("nan")]}, "no finite rating"),
    ],
)
def test_bad_values_are_refused_with_the_file_named(columns, message):
    with pytest.raises(DataError, match=f"^a.csv: .*{message}"):
        to_interactions(_table(**columns), where="a.csv")


def test_ids_become_text_and_absent_columns_unknown():
    table = to_interactions(pa.table({"user_id": [7], "item_id": pa.array(["i"]).dictionary_encode()}), where="f")
    assert table.schema == INTERACTIONS
    assert table.to_pylist() == [{"user_id": "7", "item_id": "i", "rating": None, "timestamp": None}]


def _rows(*rows):
    return pa.Table.from_pylist([dict(zip(INTERACTIONS.names, row, strict=True)) for row in rows], schema=INTERACTIONS)


def _index(ids):
    return np.array([{"a": 0, "b": 1}.get(item_id, -1) for item_id in ids.to_pylist()])


def test_filters_apply_in_order_and_count():
    table = _rows(("u", "a", 5, 10), ("u", "b", 3, 10), ("u", "b", 4, 9), ("u", "x", 4, 11), ("u", "b", 4, 20), ("u", "b", 4, 19))
    passed = filter_interactions(table, Filters(4.0, 10, 20), _index)
    assert passed.row_index.tolist() == [0, 5]
    assert passed.item_index.tolist() == [0, 1]
    assert passed.counts == FilterCounts(num_read=6, num_low_rating=1, num_before_window=1, num_after_window=1, num_without_title=1)
    assert passed.counts + passed.counts == FilterCounts(12, 2, 2, 2, 2, 0)
    assert passed.counts.num_outside_window == 2


def test_no_filter_keeps_everything_with_a_title():
    passed = filter_interactions(_rows(("u", "a", None, None)), Filters(None, None, None), _index)
    assert passed.row_index.tolist() == [0]
    assert not passed.counts.has_timestamps


@pytest.mark.parametrize(
    ("filters", "setting"),
    [(Filters(4.0, None, None), "min_rating"), (Filters(None, 1, None), "start_time"), (Filters(None, None, 1), "end_time")],
)
def test_a_filter_without_its_column_is_refused(filters, setting):
    with pytest.raises(ConfigError, match=f"data.{setting}"):
        filter_interactions(_rows(("u", "a", None, None)), filters, _index)
