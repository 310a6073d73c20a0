"""Interactions as every source gives them, checked, and the filters that look at one interaction alone.

Columns: user_id and item_id as text, rating (float64, null where unknown), timestamp (whole seconds since 1970 UTC, null where unknown).
Bad values are refused with the file's name; they are never guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.errors import ConfigError, DataError
from l2d_ray.schema import SECONDS_PER_DAY

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("rating", pa.float64()),
        pa.field("timestamp", pa.int64()),
    ]
)
"""What every source yields; rows in file order."""

LATEST_PLAUSIBLE_S: Final = 10**11  # the year 5138: larger numbers are milliseconds or finer
CLOCK_SKEW_S: Final = SECONDS_PER_DAY
"""How far in the future an interaction's time may lie: a clock that is wrong by a day."""


@dataclass(frozen=True)
class FilterCounts:
    """How many interactions were read, and how many each filter dropped (filters apply in this order)."""

    num_read: int = 0
    num_low_rating: int = 0
    num_before_window: int = 0
    num_after_window: int = 0
    num_without_title: int = 0
    num_without_time: int = 0  # not a filter: kept, but their time is unknown

    @property
    def num_outside_window(self) -> int:
        return self.num_before_window + self.num_after_window

    @property
    def has_timestamps(self) -> bool:
        return self.num_without_time == 0

    def describe(self) -> str:
        """Half a sentence for people: how many were read, and what the filters dropped."""
        return (
            f"of {self.num_read:,} interactions read, {self.num_low_rating:,} are rated too low, {self.num_outside_window:,} lie outside "
            f"the time window and {self.num_without_title:,} are of items without a usable title"
        )

    def __add__(self, other: FilterCounts) -> FilterCounts:
        return FilterCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Filters:
    """Which interactions count; None switches a filter off. The window is [start_time, end_time) in seconds."""

    min_rating: float | None
    start_time: int | None
    end_time: int | None


@dataclass(frozen=True)
class Filtered:
    """What passed: row numbers in the table that came in and item_index in the catalogue, (n,) int64 and (n,) int32."""

    row_index: np.ndarray
    item_index: np.ndarray
    counts: FilterCounts


def to_interactions(table: pa.Table, *, where: str) -> pa.Table:
    """Check and convert columns user_id, item_id and, where present, rating and timestamp to the schema INTERACTIONS."""
    unknown = pa.nulls(table.num_rows)
    columns = [
        text_ids(table["user_id"], column="user_id", where=where),
        text_ids(table["item_id"], column="item_id", where=where),
        _ratings(table["rating"], where=where) if "rating" in table.column_names else unknown.cast(pa.float64()),
        whole_seconds(table["timestamp"], where=where) if "timestamp" in table.column_names else unknown.cast(pa.int64()),
    ]
    return pa.table(columns, schema=INTERACTIONS)


def text_ids(values: pa.ChunkedArray, *, column: str, where: str) -> pa.ChunkedArray:
    """Ids as text; nulls, empty texts and types other than text and integers are refused."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.null_count:
        raise DataError(f"{where}: {values.null_count} rows have no {column}; give every row one or leave the rows out.")
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or pa.types.is_integer(values.type)):
        raise DataError(f"{where}: {column} is of type {values.type}, wanted text or whole numbers.")
    ids = values.cast(pa.string())
    if pc.any(pc.equal(ids, "")).as_py():
        raise DataError(f"{where}: some rows have an empty {column}; give every row one or leave the rows out.")
    return ids


def whole_seconds(values: pa.ChunkedArray, *, where: str) -> pa.ChunkedArray:
    """Unix seconds (int64) from whole or decimal numbers, dates, timestamps (UTC where no zone is given) or their ISO 8601 text."""
    seconds = _parse_times(values, where)
    if seconds.null_count:
        raise DataError(f"{where}: {seconds.null_count} rows have no timestamp; give every row one, or drop the whole column.")
    largest = pc.max(seconds).as_py()
    if largest is not None and largest >= LATEST_PLAUSIBLE_S:
        raise DataError(f"{where}: timestamp {largest} is no time in seconds; wanted Unix seconds, so divide milliseconds by 1000.")
    refuse_future(largest, where=where)
    return seconds


def refuse_future(seconds: int | None, *, where: str) -> None:
    """Raise DataError for a time (Unix seconds) that has not come yet; None passes."""
    now = int(time.time())
    if seconds is not None and seconds > now + CLOCK_SKEW_S:
        raise DataError(
            f"{where}: timestamp {seconds} lies in the future (now {now}); wanted Unix seconds of when it happened, so correct "
            "or leave out such rows."
        )


def _parse_times(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return values.cast(pa.int64())
    if pa.types.is_floating(kind):
        _refuse_unreal(values, "timestamp", where)
        return pc.floor(values).cast(pa.int64())
    if pa.types.is_temporal(kind):
        return values.cast(pa.timestamp("s", tz=getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parse_time_texts(values, where)
    raise DataError(f"{where}: timestamp is of type {kind}, wanted numbers (Unix seconds), timestamps or ISO 8601 text.")


def _parse_time_texts(texts: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    for kind in (pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return _parse_times(texts.cast(kind), where)
        except pa.ArrowInvalid:
            continue
    odd = texts.filter(pc.invert(pc.match_substring_regex(texts, r"^-?\d+$")))
    raise DataError(
        f"{where}: timestamps such as {odd[0].as_py()!r} cannot be read; wanted Unix seconds or ISO 8601, one form in a column."
    )


def _ratings(values: pa.ChunkedArray, *, where: str) -> pa.ChunkedArray:
    try:
        ratings = values.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{where}: rating is no number ({error}); correct the column or leave it out.") from None
    _refuse_unreal(ratings, "rating", where)
    return ratings


def _refuse_unreal(values: pa.ChunkedArray, column: str, where: str) -> None:
    num_unreal = pc.sum(pc.invert(pc.fill_null(pc.is_finite(values), False))).as_py() or 0
    if num_unreal:
        raise DataError(f"{where}: {num_unreal} rows have no finite {column} (empty, NaN or infinite); correct or leave out these rows.")


def filter_interactions(table: pa.Table, filters: Filters, index_items: Callable[[pa.ChunkedArray], np.ndarray]) -> Filtered:
    """Apply rating, window and title filters to a table of schema INTERACTIONS.

    Args:
        index_items: maps item_ids to item_index, -1 where the item has no usable title.
    """
    rows = np.arange(table.num_rows)
    num_read = len(rows)
    if filters.min_rating is not None:
        _require_known(table["rating"], "min_rating", "rating")
        rows = rows[table["rating"].to_numpy()[rows] >= filters.min_rating]
    num_rated = len(rows)
    rows = _from_start(table["timestamp"], rows, filters.start_time)
    num_from_start = len(rows)
    rows = _until_end(table["timestamp"], rows, filters.end_time)
    num_inside = len(rows)
    item_index = index_items(table["item_id"].take(pa.array(rows)))
    has_title = item_index >= 0
    counts = FilterCounts(
        num_read=num_read,
        num_low_rating=num_read - num_rated,
        num_before_window=num_rated - num_from_start,
        num_after_window=num_from_start - num_inside,
        num_without_title=num_inside - int(has_title.sum()),
        num_without_time=table["timestamp"].null_count,
    )
    return Filtered(rows[has_title], item_index[has_title].astype(np.int32), counts)


def _from_start(timestamps: pa.ChunkedArray, rows: np.ndarray, start_time: int | None) -> np.ndarray:
    if start_time is None:
        return rows
    _require_known(timestamps, "start_time", "timestamp")
    found: np.ndarray = rows[timestamps.to_numpy()[rows] >= start_time]
    return found


def _until_end(timestamps: pa.ChunkedArray, rows: np.ndarray, end_time: int | None) -> np.ndarray:
    if end_time is None:
        return rows
    _require_known(timestamps, "end_time", "timestamp")
    found: np.ndarray = rows[timestamps.to_numpy()[rows] < end_time]
    return found


def _require_known(values: pa.ChunkedArray, setting: str, column: str) -> None:
    if values.null_count:
        raise ConfigError(f"data.{setting} cannot be applied because the interactions have no {column}; set data.{setting} to null.")
