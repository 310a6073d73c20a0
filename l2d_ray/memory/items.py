"""Items of a living memory that are added or changed as they are, title and attributes; see ``memory.update`` for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import changed_items


@dataclass(frozen=True)
class ItemContent:
    """What the catalogue says of an item; the title is clean."""

    title: str
    attributes: Mapping[str, Any]


def known_items(memory: Memory, item_ids: set[str]) -> dict[str, ItemContent]:
    """Those of the items that the memory has and that are not retired."""
    found = _rows(memory, item_ids)
    return {row["item_id"]: ItemContent(row["title"], json.loads(row["attributes"])) for row in found if not row["is_retired"]}


def put_items(memory: Memory, items: Mapping[str, ItemContent]) -> Memory:
    """Let the items be so: new ones are added, retired ones are back. Vectors that saw an old title stay."""
    before = {row["item_id"]: row for row in _rows(memory, set(items))}
    rows = [_row(item_id, item) for item_id, item in sorted(items.items())]
    changed = [row for row in rows if before.get(row["item_id"]) != row]
    if not changed:
        return memory
    return memory.commit(memory.state.next("put", f"put {len(changed)} items", items=changed_items(memory, changed)))


def _rows(memory: Memory, item_ids: set[str]) -> list[dict[str, Any]]:
    found = memory.items.filter(pc.is_in(memory.items["item_id"], value_set=pa.array(sorted(item_ids), type=pa.string())))
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def _row(item_id: str, item: ItemContent) -> dict[str, Any]:
    attributes = json.dumps(dict(item.attributes), sort_keys=True, ensure_ascii=False, default=str)
    return {"item_id": item_id, "title": item.title, "attributes": attributes, "is_retired": False}
