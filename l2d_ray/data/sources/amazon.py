"""Amazon reviews by the UCSD group, as JSON lines.

    2018 (Ni et al. 2019)     meta_*.json.gz   *_5.json.gz   reviewerID, asin, overall, unixReviewTime in seconds (whole days)
    2023 (Hou et al. 2024)    meta_*.jsonl.gz  *.jsonl.gz    user_id, parent_asin (or asin), rating, timestamp in milliseconds

The release is told by a file's first line. The metadata repeat some items, so the first row of an item counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.data.interactions import to_interactions
from l2d_ray.data.items import RawItem
from l2d_ray.data.sources.files import JSON_SUFFIXES, column_names, json_rows, json_tables, list_files
from l2d_ray.data.sources.source import Source
from l2d_ray.errors import ConfigError, DataError

REVIEWS_2018: Final = {"reviewerID": pa.string(), "asin": pa.string(), "overall": pa.float64(), "unixReviewTime": pa.int64()}
REVIEWS_2023: Final = {"user_id": pa.string(), "parent_asin": pa.string(), "rating": pa.float64(), "timestamp": pa.int64()}
INTERACTION_COLUMNS: Final = ("user_id", "item_id", "rating", "timestamp")


def open_amazon(path: str | None, interactions: str | None, items: str | None) -> Source:
    """Source of a folder with reviews and metadata, or of the two locations."""
    if path is None and (interactions is None or items is None):
        raise ConfigError(
            "data.source amazon needs data.path (a folder with reviews and meta_* files), or data.interactions and data.items."
        )
    below = list_files(path, JSON_SUFFIXES) if path is not None else ()
    meta = list_files(items, JSON_SUFFIXES) if items else tuple(name for name in below if _is_meta(name))
    reviews = list_files(interactions, JSON_SUFFIXES) if interactions else _review_files(below)
    if not meta or not reviews:
        raise DataError(
            f"{path} holds {len(meta)} metadata files (meta_*) and {len(reviews)} files of reviews, wanted at least one of each."
        )
    return Source(reviews, meta, read_interactions, read_items, first_title_wins=True)


def _is_meta(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith("meta_")


def _review_files(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Files that are no metadata; beside a 5-core file (``X_5.json.gz``) the full one (``X.json.gz``) holds the same reviews again."""
    reviews = [path for path in paths if not _is_meta(path)]
    in_core = {path.replace("_5.json", ".json") for path in reviews if "_5.json" in path}
    return tuple(path for path in reviews if path not in in_core)


def read_interactions(path: str) -> Iterator[pa.Table]:
    """One file's reviews in file order."""
    seen = column_names(path)
    types, times_per_second = _review_types(seen, path)
    for table in json_tables(path, types):
        columns = dict(zip(INTERACTION_COLUMNS, table.select(list(types)).columns, strict=True))
        if times_per_second != 1:
            columns["timestamp"] = pc.divide(columns["timestamp"], times_per_second)
        yield to_interactions(pa.table(columns), where=path)


def _review_types(seen: tuple[str, ...], path: str) -> tuple[Mapping[str, pa.DataType], int]:
    """Fields to read, in the order of INTERACTION_COLUMNS, and the timestamp's ticks a second."""
    if set(REVIEWS_2018) <= set(seen):
        return REVIEWS_2018, 1
    if set(REVIEWS_2023) <= set(seen):
        return REVIEWS_2023, 1000
    if {name.replace("parent_asin", "asin") for name in REVIEWS_2023} <= set(seen):
        return {name.replace("parent_asin", "asin"): kind for name, kind in REVIEWS_2023.items()}, 1000
    raise DataError(
        f"{path} has the fields {', '.join(seen) or 'none'}; wanted {', '.join(REVIEWS_2018)} (2018) or {', '.join(REVIEWS_2023)} (2023)."
    )


def read_items(path: str) -> Iterator[RawItem]:
    """One file's metadata in file order; categories, brand (or store) and main category become attributes."""
    for row in json_rows(path):
        item_id = row.get("parent_asin") or row.get("asin")
        if not isinstance(item_id, str):
            raise DataError(f"{path}: a row has neither parent_asin nor asin (its fields: {', '.join(row)}); wanted Amazon metadata.")
        title = row.get("title")
        yield RawItem(item_id, title if isinstance(title, str) else None, _attributes(row))


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "categories": row.get("categories") or row.get("category"),
        "brand": row.get("store") or row.get("brand"),
        "main_category": row.get("main_category") or row.get("main_cat"),
    }
    return {name: value for name, value in found.items() if value}
