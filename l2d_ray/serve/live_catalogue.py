"""The catalogue as it is now: that of an index, and over it the edits that the index does not have yet.

An item keeps its item_index for the life of a process: the index's own, and for new items the numbers after them. Deleted items stay known,
since histories hold them, and are never recommended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.decode.decoder import HistoryItem
from l2d_ray.serve.filters import AttributeTable, Condition, is_met
from l2d_ray.serve.state_messages import Item
from l2d_ray.store.records import EditedItem


class LiveCatalogue:
    """Changed in place by ``apply``; for one thread.

    Attributes:
        last_number: of the edits that were applied.
    """

    def __init__(self, base: Catalogue) -> None:
        self.base = base
        self.last_number = 0
        self._table = AttributeTable(base.attributes)
        self._changed: dict[int, Item] = {}
        self._deleted: set[int] = set()
        self._new_ids: dict[str, int] = {}
        self._title_to_index: dict[str, int] = {}

    def __len__(self) -> int:
        """Indexes given out, deleted items included."""
        return len(self.base) + len(self._new_ids)

    @property
    def num_items(self) -> int:
        return len(self) - len(self._deleted)

    def apply(self, edits: Iterable[EditedItem]) -> None:
        """Take in edits, in order of their numbers; those that were seen already change nothing."""
        for edited in edits:
            if edited.number > self.last_number:
                self._apply(edited)
                self.last_number = edited.number

    def index_of(self, item_id: str) -> int | None:
        """Also of a deleted item; None where there never was one."""
        index = self.base.item_id_to_index.get(item_id)
        return self._new_ids.get(item_id) if index is None else index

    def index_of_title(self, title: str) -> int | None:
        """The first item of the index with exactly this title, else the one edited last; None where none has it now."""
        for known in (self.base.title_to_index, self._title_to_index):
            index = known.get(title)
            if index is not None and index not in self._deleted and self.item(index).title == title:
                return index
        return None

    def item(self, index: int) -> Item:
        """As it is now; a deleted one as it was last."""
        item_id, title, attributes = self.named(index)
        return Item.model_construct(item_id=item_id, title=title, attributes=dict(attributes))

    def named(self, index: int) -> tuple[str, str, Mapping[str, Any]]:
        """item_id, title and attributes as they are now, without a record around them: answers of 500 items are made of these."""
        changed = self._changed.get(index)
        if changed is not None:
            return changed.item_id, changed.title, changed.attributes
        return self.base.item_ids[index], self.base.titles[index], self.base.attributes[index]

    def find(self, item_id: str) -> Item | None:
        """None where there is no such item now."""
        index = self.index_of(item_id)
        return None if index is None or index in self._deleted else self.item(index)

    def history_item(self, index: int) -> HistoryItem:
        """How a prompt names it: by index where its title is the index's, else by its title."""
        is_known = index < len(self.base) and (index not in self._changed or self._changed[index].title == self.base.titles[index])
        return index if is_known else self._changed[index].title

    def deleted(self) -> set[int]:
        return self._deleted

    def edited_titles(self) -> dict[int, str]:
        """Titles of the items that were made or changed and are not deleted."""
        return {index: item.title for index, item in self._changed.items() if index not in self._deleted}

    def changed_titles(self) -> Mapping[int, str | None]:
        """New title of every item that was edited; None where it was deleted."""
        edited = self._deleted | self._changed.keys()
        return {index: None if index in self._deleted else self._changed[index].title for index in edited}

    def mask(self, condition: Condition) -> NDArray[np.bool_]:
        """(n,) which items meet a condition on their attributes."""
        found = np.concatenate([self._table.mask(condition), np.zeros(len(self._new_ids), dtype=np.bool_)])
        for index, item in self._changed.items():
            found[index] = is_met(condition, item.attributes)
        return found

    def _apply(self, edited: EditedItem) -> None:
        index = self.index_of(edited.edit.item_id)
        before = None if index is None else (self.item(index).title, self.item(index).attributes)
        after = edited.edit.apply(before)
        if after is None:
            if index is not None:
                self._deleted.add(index)
            return
        if index is None:
            index = self._new_ids.setdefault(edited.edit.item_id, len(self))
        self._deleted.discard(index)
        self._keep(index, edited.edit.item_id, *after)

    def _keep(self, index: int, item_id: str, title: str, attributes: Mapping[str, Any]) -> None:
        self._changed[index] = Item.model_construct(item_id=item_id, title=title, attributes=dict(attributes))
        self._title_to_index[title] = index
