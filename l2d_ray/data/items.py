"""Raw item rows -> clean item tables -> one table of everything that could be recommended.

Raw rows come from any number of files in a known order. Each file is cleaned alone (streamed, in parallel), then the clean tables are
merged: sorted by item_id, each id once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.titles import TitleRule, usable_title
from l2d_ray.errors import DataError
from l2d_ray.schema import ITEMS


@dataclass(frozen=True, slots=True)
class RawItem:
    """One row of an items table, as its source gives it."""

    item_id: str
    title: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class CleanItems:
    """Items of one file with a usable title (schema ITEMS, file order), how many rows had none, and the items of these rows."""

    table: pa.Table
    num_without_usable_title: int
    refused: frozenset[str] = frozenset()


def clean_items(rows: Iterable[RawItem], *, max_title_words: int, title_rule: TitleRule) -> CleanItems:
    """Clean the titles of a stream of items and keep the usable ones, in order."""
    refused: list[str] = []
    item_ids: list[str] = []
    titles: list[str] = []
    attributes: list[str] = []
    for row in rows:
        title = usable_title(row.title, max_words=max_title_words, rule=title_rule)
        if not title:
            refused.append(row.item_id)
            continue
        item_ids.append(row.item_id)
        titles.append(title)
        attributes.append(json.dumps(dict(row.attributes), sort_keys=True, ensure_ascii=False, default=str))
    return CleanItems(pa.table([item_ids, titles, attributes], schema=ITEMS), len(refused), frozenset(refused))


def merge_items(tables: Sequence[pa.Table], *, first_title_wins: bool) -> pa.Table:
    """One table (schema ITEMS) ascending by item_id, ids unique; of rows with one id and one title the first is kept.

    Rows with one id and different titles raise DataError, or with ``first_title_wins`` the first row is kept.
    """
    merged = pa.concat_tables([ITEMS.empty_table(), *tables])
    row_of: dict[str, int] = {}
    titles = merged["title"].to_pylist()
    for row, item_id in enumerate(merged["item_id"].to_pylist()):
        first = row_of.setdefault(item_id, row)
        if titles[first] != titles[row] and not first_title_wins:
            raise DataError(f"Item {item_id!r} has two titles, {titles[first]!r} and {titles[row]!r}; give each item one row.")
    return merged.take(pa.array([row_of[item_id] for item_id in sorted(row_of)], pa.int64())).combine_chunks()


def catalogue_of(items: pa.Table, is_kept: np.ndarray) -> Catalogue:
    """Catalogue of the rows of a merged items table that ``is_kept`` marks, (n,) bool."""
    return Catalogue.from_arrow(items.filter(pa.array(is_kept, pa.bool_())))
