"""The general source: tables of interactions and items as CSV (or TSV), Parquet or JSON lines; files, folders or URIs.

Interactions need user_id and item_id; timestamp (Unix seconds, timestamps or ISO 8601; may be absent where the order of the rows is all
that is known) and rating are used where present. Items need item_id and title; their attributes are the column ``attributes`` (a JSON
object) where there is one, else all further columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from l2d_ray.data.interactions import text_ids, to_interactions
from l2d_ray.data.items import RawItem
from l2d_ray.data.sources.files import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    column_names,
    csv_tables,
    json_rows,
    json_tables,
    list_files,
    parquet_tables,
)
from l2d_ray.data.sources.source import Source
from l2d_ray.errors import DataError

TEXT = pa.string()
NEEDED = ("user_id", "item_id")
OPTIONAL = ("timestamp", "rating")


def open_table(interactions: str, items: str) -> Source:
    """Source of two tables, after a look at every file's columns."""
    source = Source(list_files(interactions, TABLE_SUFFIXES), list_files(items, TABLE_SUFFIXES), read_interactions, read_items)
    has_time = {_checked_columns(path, NEEDED).count("timestamp") for path in source.interaction_files}
    if len(has_time) > 1:
        raise DataError(f"Some files of {interactions} have a timestamp column and some have none; wanted all or none.")
    for path in source.item_files:
        _checked_columns(path, ("item_id", "title"))
    return source


def read_interactions(path: str) -> Iterator[pa.Table]:
    """One file's interactions in file order."""
    seen = _checked_columns(path, NEEDED)
    columns = [name for name in (*NEEDED, *OPTIONAL) if name in seen]
    for table in _tables(path, columns):
        yield to_interactions(table, where=path)


def _tables(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    if path.endswith(".parquet"):
        return parquet_tables(path, columns)
    if path.endswith(JSON_SUFFIXES):
        return json_tables(path, _json_types(path, columns))
    return csv_tables(path, dict.fromkeys((*NEEDED, "timestamp"), TEXT) | {"rating": pa.float64()})


def _json_types(path: str, columns: Sequence[str]) -> dict[str, pa.DataType]:
    """Types of the columns as the first line has them, ratings always decimal."""
    first = next(json_rows(path))
    python_to_arrow: dict[type, pa.DataType] = {int: pa.int64(), float: pa.float64()}
    return {name: pa.float64() if name == "rating" else python_to_arrow.get(type(first[name]), TEXT) for name in columns}


def read_items(path: str) -> Iterator[RawItem]:
    """One file's items in file order."""
    has_attributes = "attributes" in _checked_columns(path, ("item_id", "title"))
    for row in _item_rows(path):
        item_id, title = row.pop("item_id", None), row.pop("title", None)
        if item_id in (None, "") or isinstance(item_id, float | bool | list | dict):
            raise DataError(f"{path}: an item has the item_id {item_id!r}, wanted text or a whole number; correct or leave out the row.")
        yield RawItem(str(item_id), None if title is None else str(title), _attributes(row, has_attributes, f"{path}, item {item_id!r}"))


def _item_rows(path: str) -> Iterator[dict[str, Any]]:
    if path.endswith(JSON_SUFFIXES):
        yield from json_rows(path)
        return
    tables = (
        parquet_tables(path, None) if path.endswith(".parquet") else csv_tables(path, {"item_id": TEXT, "title": TEXT, "attributes": TEXT})
    )
    for table in tables:
        text_ids(table["item_id"], column="item_id", where=path)
        yield from table.to_pylist()


def _attributes(row: dict[str, Any], has_attributes: bool, where: str) -> dict[str, Any]:
    if not has_attributes:
        return {name: value for name, value in row.items() if value is not None}
    value = row.get("attributes")
    try:
        attributes = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise DataError(f"{where}: the attributes {value!r} are no JSON ({error}); give one JSON object.") from None
    if not isinstance(attributes or {}, dict):
        raise DataError(f"{where}: the attributes are {value!r}, wanted one JSON object.")
    return attributes or {}


def _checked_columns(path: str, wanted: Sequence[str]) -> tuple[str, ...]:
    seen = column_names(path)
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)} (seen: {', '.join(seen) or 'none'}); rename its columns.")
    return seen
