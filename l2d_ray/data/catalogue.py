"""The catalogue: what can be recommended, sorted by item_id, so that an item_index orders as its id does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from l2d_ray.errors import DataError
from l2d_ray.schema import ITEMS


@dataclass(frozen=True)
class Catalogue:
    """Items in ascending item_id order; ``item_index`` is the position in these tuples."""

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    attributes: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        assert len(self.item_ids) == len(self.titles) == len(self.attributes)
        if any(left >= right for left, right in pairwise(self.item_ids)):
            raise DataError("The catalogue's item_ids are not unique and ascending; build it with Catalogue.from_rows.")

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def item_id_to_index(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.item_ids)}

    @cached_property
    def title_to_index(self) -> dict[str, int]:
        """First item of each exact title (titles are not unique: the smallest item_id wins)."""
        first: dict[str, int] = {}
        for index, title in enumerate(self.titles):
            first.setdefault(title, index)
        return first

    def indexes_of(self, item_ids: Sequence[str]) -> list[int]:
        """item_index of every id; raises DataError naming the first id that is not in the catalogue."""
        try:
            return [self.item_id_to_index[item_id] for item_id in item_ids]
        except KeyError as error:
            raise DataError(
                f"Item {error.args[0]!r} is not among the catalogue's {len(self)} items; use an item_id of items.parquet."
            ) from None

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, Mapping[str, Any]]]) -> Catalogue:
        """Catalogue of (item_id, title, attributes) rows in any order; a repeated id is an error."""
        ordered = sorted(rows, key=lambda row: row[0])
        for left, right in pairwise(ordered):
            if left[0] == right[0]:
                raise DataError(f"Item {left[0]!r} stands twice in the items table; give each item one row.")
        return cls(tuple(r[0] for r in ordered), tuple(r[1] for r in ordered), tuple(r[2] for r in ordered))

    def to_arrow(self) -> pa.Table:
        attributes = [json.dumps(dict(a), sort_keys=True, ensure_ascii=False) for a in self.attributes]
        return pa.table([list(self.item_ids), list(self.titles), attributes], schema=ITEMS)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Catalogue:
        return cls(
            tuple(table["item_id"].to_pylist()),
            tuple(table["title"].to_pylist()),
            tuple(json.loads(text) for text in table["attributes"].to_pylist()),
        )

    def write(self, path: Path) -> None:
        pq.write_table(self.to_arrow(), path)

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """Read ``items.parquet``; DataError where it is absent."""
        if not path.is_file():
            raise DataError(f"There is no catalogue at {path}; run jobs.prepare_data first.")
        return cls.from_arrow(pq.read_table(path, schema=ITEMS))
