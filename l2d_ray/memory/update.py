"""Changes of a living memory that need no model: forget users, retire or rename items, expire entries, decay. One version each.

Every function takes the version it starts from and returns the next one, or the same where there is nothing to change, so that sending
a change again changes nothing. ConflictError says that another writer was first; ``retried`` starts again from the newest version then.
What a version no longer has stays in its files until ``memory.compaction`` has rewritten them and cleaned old versions away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.data.titles import clean_title
from l2d_ray.errors import ConflictError, DataError
from l2d_ray.memory.commits import FileChanges, writing
from l2d_ray.memory.files import read_table, write_table
from l2d_ray.memory.statistics import NO_TIMESTAMP
from l2d_ray.memory.table import Memory
from l2d_ray.schema import REMEMBERED_ITEMS, REMEMBERED_SEQUENCES

NUM_ATTEMPTS: Final = 20
MAX_ITEM_FILES: Final = 16
"""Files of changed items after which the catalogue is written anew, as one."""

Change = Callable[[Memory], Memory]


@dataclass(frozen=True)
class Removal:
    """Rows that are to go: files that changed, and what they held."""

    changes: FileChanges
    num_entries: int
    digest: int


def retried(change: Change, memory: Memory) -> Memory:
    """Make a change, again from the newest version where another writer was first; ConflictError after NUM_ATTEMPTS."""
    for _ in range(NUM_ATTEMPTS - 1):
        try:
            return change(memory)
        except ConflictError:
            memory = Memory.open(memory.uri, fingerprint=memory.fingerprint)
    return change(memory)


def forget_users(memory: Memory, user_ids: Collection[str]) -> Memory:
    """Remove the users' entries and their sequences. Users that the memory does not know change nothing."""
    removal = remove_rows(memory, _is_among("user_id", user_ids))
    sequences = _sequences_without(memory, user_ids)
    if not removal.num_entries and sequences == memory.state.sequences:
        return memory
    message = f"forget {len(set(user_ids))} users, {removal.num_entries} entries"
    return _commit(memory, "forget", message, removal, sequences=sequences)


def retire_items(memory: Memory, item_ids: Collection[str]) -> Memory:
    """Remove the items' entries, and make none for them any more; their titles stay, since histories hold them."""
    rows = [row | {"is_retired": True} for row in _known_items(memory, item_ids) if not row["is_retired"]]
    if not rows:
        return memory
    removal = remove_rows(memory, _is_among("item_id", item_ids))
    return _commit(memory, "retire", f"retire {len(rows)} items, {removal.num_entries} entries", removal, items=changed_items(memory, rows))


def rename_items(memory: Memory, item_id_to_title: Mapping[str, str]) -> Memory:
    """Give items other titles, cleaned as all are. Vectors that saw an old title stay; new histories are read with the new one."""
    cleaned = {item_id: clean_title(title) for item_id, title in item_id_to_title.items()}
    for item_id, title in cleaned.items():
        if not title:
            raise DataError(
                f"Nothing is left of the title {item_id_to_title[item_id]!r} of item {item_id!r} once it is cleaned; give text."
            )
    rows = [row | {"title": cleaned[row["item_id"]]} for row in _known_items(memory, cleaned) if row["title"] != cleaned[row["item_id"]]]
    if not rows:
        return memory
    return memory.commit(memory.state.next("rename", f"rename {len(rows)} items", items=changed_items(memory, rows)))


def expire_before(memory: Memory, timestamp: int) -> Memory:
    """Remove entries of interactions before this time (Unix seconds); entries whose time is unknown stay, and so do the sequences."""
    removal = remove_rows(memory, f"timestamp < {int(timestamp)}")
    if not removal.num_entries:
        return memory
    return _commit(memory, "expire", f"expire {removal.num_entries} entries before {int(timestamp)}", removal)


def set_half_life(memory: Memory, half_life_s: int | None, *, reference_time: int | None = None) -> Memory:
    """Let an entry's weight in the decayed counts halve in that time; None: all weigh one.

    Args:
        reference_time: Unix seconds at which an entry weighs one; None: the time of the newest entry.
    """
    if half_life_s is not None and half_life_s < 1:
        raise DataError(f"The half-life is {half_life_s} seconds, wanted at least 1, or none.")
    reference = (newest_time(memory) if reference_time is None else reference_time) if half_life_s is not None else 0
    if (half_life_s, reference) == (memory.half_life_s, memory.reference_time):
        return memory
    message = "no decay" if half_life_s is None else f"decay by half in {half_life_s} seconds before {reference}"
    return memory.commit(memory.state.next("decay", message, half_life_s=half_life_s, reference_time=reference))


def newest_time(memory: Memory) -> int:
    """Largest timestamp of all entries; DataError where none has one."""
    newest = max((int(batch.timestamps.max(initial=NO_TIMESTAMP)) for batch in memory.scan(with_vectors=False)), default=NO_TIMESTAMP)
    if newest == NO_TIMESTAMP:
        raise DataError(f"No entry of the memory at {memory.uri} has a time, so none can be weighed by age; build it from data with times.")
    return newest


def remove_rows(memory: Memory, condition: str) -> Removal:
    """Mark the rows that meet an SQL condition as deleted, in files that belong to no version until they are committed."""
    removed, updated, num_entries, digest = [], [], 0, 0
    for fragment in memory.fragments:
        found = list(memory.rows_of(fragment, condition))
        if sum(map(len, found)):
            num_entries, digest = num_entries + sum(map(len, found)), digest + sum(batch.digest for batch in found)
            with writing(memory.uri):
                remaining = fragment.delete(condition)
            if remaining is None:
                removed.append(fragment.fragment_id)
            else:
                updated.append(remaining)
    return Removal(FileChanges(removed, updated), num_entries, digest % 2**64)


def remove_samples(memory: Memory, sample_ids: Collection[int]) -> Removal:
    """As ``remove_rows``, for these sample_ids."""
    return remove_rows(memory, f"sample_id IN ({', '.join(map(str, sorted(sample_ids)))})") if sample_ids else NOTHING_REMOVED


NOTHING_REMOVED: Final = Removal(FileChanges(), 0, 0)


def changed_items(memory: Memory, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names of the catalogue's files once these rows (schema.REMEMBERED_ITEMS) have been added or replaced."""
    with writing(memory.uri):
        if len(memory.state.items) < MAX_ITEM_FILES:
            return (*memory.state.items, write_table(memory.uri, "items", pa.Table.from_pylist(rows, schema=REMEMBERED_ITEMS)))
        changed = {row["item_id"]: row for row in [*memory.items.to_pylist(), *rows]}
        whole = pa.Table.from_pylist([changed[item_id] for item_id in sorted(changed)], schema=REMEMBERED_ITEMS)
        return (write_table(memory.uri, "items", whole),)


def _known_items(memory: Memory, item_ids: Collection[str]) -> list[dict[str, Any]]:
    found = memory.items.filter(pc.is_in(memory.items["item_id"], value_set=pa.array(sorted(item_ids), type=pa.string())))
    unknown = sorted(set(item_ids) - set(found["item_id"].to_pylist()))
    if unknown:
        raise DataError(f"Item {unknown[0]!r} is not among the memory's {memory.items.num_rows} items; give ids that it has.")
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def _sequences_without(memory: Memory, user_ids: Collection[str]) -> tuple[str, ...]:
    """Names of the files of sequences, those with one of the users written anew without them."""
    users = pa.array(sorted(user_ids), type=pa.string())
    names = []
    for name in memory.state.sequences:
        table = read_table(memory.uri, name, REMEMBERED_SEQUENCES)
        remaining = table.filter(pc.invert(pc.is_in(table["user_id"], value_set=users)))
        if remaining.num_rows == table.num_rows:
            names.append(name)
        elif remaining.num_rows:
            with writing(memory.uri):
                names.append(write_table(memory.uri, name.partition("-")[0], remaining))
    return tuple(names)


def _commit(memory: Memory, kind: str, message: str, removal: Removal, **changes: Any) -> Memory:
    num_entries, digest = len(memory) - removal.num_entries, (memory.digest - removal.digest) % 2**64
    return memory.commit(memory.state.next(kind, message, num_entries=num_entries, digest=digest, **changes), changes=removal.changes)


def _is_among(column: str, values: Collection[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(values))
    return f"{column} IN ({quoted})" if quoted else "false"
