"""New interactions into a memory: only the tails of the users concerned are encoded, and one version holds all of it.

An interaction is known by its user, item and time, so sending it again changes nothing. Interactions may come in any order: one that lies
before others of its user changes what those had seen, so their entries are made anew. Among interactions of one time those that came
later stand after those that are there, in order of item_id. The memory then equals one that was built from all interactions at once
(tested), as far as float16 goes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence
from l2d_ray.data.titles import clean_title
from l2d_ray.errors import ArtefactError, DataError
from l2d_ray.memory.commits import FileChanges
from l2d_ray.memory.entries import WrittenEntries
from l2d_ray.memory.sequences import RECENT, RememberedSequence, load_sequences, store_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import changed_items, remove_samples
from l2d_ray.schema import REMEMBERED_ITEMS, TRAIN, VALID

MAX_RECENT_FILES: Final = 16
"""Files of appended sequences after which they are written anew, as one."""


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One interaction; ``timestamp`` in Unix seconds."""

    user_id: str
    timestamp: int
    item_id: str


@dataclass(frozen=True)
class Tail:
    """A user whose sequence has changed from ``first_changed`` on."""

    sequence: RememberedSequence
    first_changed: int

    def as_split(self) -> UserSequence:
        """The sequence with its tail as VALID: what ``text.harvest`` encodes of that split is exactly the tail."""
        num_new = len(self.sequence.item_ids) - self.first_changed
        splits = (TRAIN,) * self.first_changed + (VALID,) * num_new
        return UserSequence(self.sequence.user_id, self.sequence.item_ids, self.sequence.timestamps, splits)


@dataclass(frozen=True)
class AppendPlan:
    """What an append to one version has to do.

    Attributes:
        num_events: interactions that the memory did not have.
        tails: users concerned, ascending by user_id.
        replaced: sample_ids that are there and whose history changes, so that their rows are made anew.
        left_out: sample_ids of the tails that get no row: of retired items, or gone before (expired).
        items: rows of new items (schema.REMEMBERED_ITEMS).
    """

    num_events: int
    tails: tuple[Tail, ...]
    replaced: frozenset[int]
    left_out: frozenset[int]
    items: tuple[Mapping[str, Any], ...]


EncodeTails = Callable[[Sequence[UserSequence], frozenset[int]], WrittenEntries]
"""Users with their tails as VALID, and sample_ids that get no row -> the rows, written and not committed."""


class Append:
    """A change of the memory (``update.Change``): the same interactions, planned anew for each version that it is made from.

    Args:
        new_items: each with item_id, title and attributes (a mapping); those that the memory has are passed over.
        encode: called once for a plan; a plan that another writer's commit did not change is not encoded again.
    """

    def __init__(self, events: Iterable[Event], new_items: Iterable[Mapping[str, Any]], encode: EncodeTails) -> None:
        self._events = tuple(events)
        self._new_items = tuple(new_items)
        self._encode = encode
        self._encoded: tuple[AppendPlan, WrittenEntries] | None = None

    def __call__(self, memory: Memory) -> Memory:
        plan = plan_append(memory, self._events, self._new_items)
        if not plan.tails and not plan.items:
            return memory
        if self._encoded is None or self._encoded[0] != plan:
            self._encoded = (plan, self._encode([tail.as_split() for tail in plan.tails], plan.left_out))
        return _commit(memory, plan, self._encoded[1])


def plan_append(memory: Memory, events: Sequence[Event], new_items: Sequence[Mapping[str, Any]] = ()) -> AppendPlan:
    """What these interactions change.

    Raises DataError where one is of an item that neither the memory nor ``new_items`` has, ArtefactError where a build is unfinished.
    """
    _refuse_unfinished(memory)
    items = _new_item_rows(memory, new_items)
    known = {*memory.items["item_id"].to_pylist(), *(row["item_id"] for row in items)}
    by_user: dict[str, list[Event]] = {}
    for event in sorted(set(events)):
        if event.item_id not in known:
            raise DataError(
                f"Item {event.item_id!r} of a new interaction is not among the memory's {len(known)} items; "
                "give it a title with update.items."
            )
        by_user.setdefault(event.user_id, []).append(event)
    stored = load_sequences(memory.uri, memory.state.sequences, by_user)
    changes = [_insert(stored.get(user_id, RememberedSequence(user_id)), by_user[user_id]) for user_id in sorted(by_user)]
    moved = {sample_id for change in changes for sample_id in change.moved}
    replaced = memory.present(sorted(moved))
    return AppendPlan(
        num_events=sum(change.num_new for change in changes),
        tails=tuple(change.tail for change in changes if change.num_new),
        replaced=frozenset(replaced),
        left_out=frozenset(moved - replaced) | _of_retired(memory, changes),
        items=tuple(items),
    )


def _refuse_unfinished(memory: Memory) -> None:
    """Raise ArtefactError while parts of the build are missing: one of them may hold these interactions too."""
    build = memory.state.build
    if build is not None and len(memory.state.parts) < build.num_parts:
        raise ArtefactError(
            f"The memory at {memory.uri} holds {len(memory.state.parts)} of the {build.num_parts} parts that it is built from; run "
            "jobs.build_memory to its end, then append."
        )


def with_new_items(memory: Memory, new_items: Sequence[Mapping[str, Any]]) -> Catalogue:
    """The memory's catalogue and what ``new_items`` adds to it; DataError as ``plan_append``."""
    added = pa.Table.from_pylist(_new_item_rows(memory, new_items), schema=REMEMBERED_ITEMS)
    rows = pa.concat_tables([memory.items, added])
    return Catalogue.from_arrow(rows.take(pc.sort_indices(rows["item_id"])))


@dataclass(frozen=True)
class _Insertion:
    """A user's sequence with its new interactions, and the sample_ids of old ones whose history changed."""

    tail: Tail
    num_new: int
    moved: frozenset[int]


def _insert(old: RememberedSequence, events: Sequence[Event]) -> _Insertion:
    """Put a user's events (ascending) where they belong."""
    keys = [(-1 if time is None else time, item) for time, item in zip(old.timestamps, old.item_ids, strict=True)]
    seen, first_changed, num_new = set(keys), len(keys), 0
    merged = list(zip(old.timestamps, old.item_ids, strict=True))
    for event in events:
        key = (event.timestamp, event.item_id)
        if key not in seen:
            place = _place(keys, key)
            keys.insert(place, key)
            merged.insert(place, key)
            first_changed, num_new = min(first_changed, place), num_new + 1
    sequence = RememberedSequence(old.user_id, tuple(item for _, item in merged), tuple(time for time, _ in merged))
    moved = frozenset(target.sample_id for target in old.targets_from(first_changed))
    return _Insertion(Tail(sequence, first_changed), num_new, moved)


def _place(keys: list[tuple[int, str]], key: tuple[int, str]) -> int:
    """After everything earlier, and among one time after those whose item_id is smaller."""
    times = [time for time, _ in keys]
    stop = bisect_right(times, key[0])
    while stop and keys[stop - 1][0] == key[0] and keys[stop - 1][1] > key[1]:
        stop -= 1
    return stop


def _of_retired(memory: Memory, changes: Sequence[_Insertion]) -> frozenset[int]:
    retired = memory.retired_item_ids
    targets = (t for change in changes for t in change.tail.sequence.targets_from(change.tail.first_changed)) if retired else ()
    return frozenset(target.sample_id for target in targets if target.item_id in retired)


def _new_item_rows(memory: Memory, new_items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of items that the memory does not have; DataError where one that it has comes with another title, or one without text."""
    known = {row["item_id"]: row for row in memory.items.to_pylist()} if new_items else {}
    rows = {}
    for item in new_items:
        title, there = clean_title(item["title"]), known.get(item["item_id"])
        if not title:
            raise DataError(f"Nothing is left of the title {item['title']!r} of item {item['item_id']!r} once it is cleaned; give text.")
        if there is None:
            attributes = json.dumps(dict(item["attributes"]), sort_keys=True, ensure_ascii=False, default=str)
            rows[item["item_id"]] = {"item_id": item["item_id"], "title": title, "attributes": attributes, "is_retired": False}
        elif there["title"] != title:
            raise DataError(
                f"Item {item['item_id']!r} has the title {there['title']!r}, not {title!r}; rename it with update.rename_items."
            )
    return [rows[item_id] for item_id in sorted(rows)]


def _commit(memory: Memory, plan: AppendPlan, written: WrittenEntries) -> Memory:
    removal = remove_samples(memory, plan.replaced)
    state = memory.state.next(
        "append",
        f"append {plan.num_events} interactions of {len(plan.tails)} users, {written.num_entries} entries",
        num_entries=len(memory) - removal.num_entries + written.num_entries,
        digest=(memory.digest - removal.digest + written.digest) % 2**64,
        sequences=_with_recent(memory, [tail.sequence for tail in plan.tails]),
        items=changed_items(memory, [dict(row) for row in plan.items]) if plan.items else memory.state.items,
    )
    return memory.commit(state, added=written, changes=FileChanges(removal.changes.removed, removal.changes.updated))


def _with_recent(memory: Memory, changed: Collection[RememberedSequence]) -> tuple[str, ...]:
    """Names of the files of sequences with these added, appended ones written as one where they have become many."""
    if not changed:
        return memory.state.sequences
    recent = [name for name in memory.state.sequences if name.startswith(RECENT)]
    if len(recent) < MAX_RECENT_FILES:
        return (*memory.state.sequences, store_sequences(memory.uri, list(changed), stem=RECENT))
    together = load_sequences(memory.uri, recent) | {sequence.user_id: sequence for sequence in changed}
    others = [name for name in memory.state.sequences if name not in recent]
    return (*others, store_sequences(memory.uri, [together[user_id] for user_id in sorted(together)], stem=RECENT))
