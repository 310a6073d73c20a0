"""Housekeeping: files with deleted rows, or too small ones, are written anew; old versions and files that no version names are deleted.

Compaction changes no row: the version it makes has the digest of the one before. What was forgotten, retired or expired is out of the
files once a compaction has been committed and the versions before it have been cleaned away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import lance
from lance.fragment import LanceFragment

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.commits import FileChanges
from l2d_ray.memory.entries import NOTHING_WRITTEN, EntryBatch, WrittenEntries, table_of
from l2d_ray.memory.files import remove, remove_unused, write_table
from l2d_ray.memory.layout import LANCE_ERRORS
from l2d_ray.memory.sequences import RECENT, load_sequences, store_sequences
from l2d_ray.memory.table import Memory, entries_uri

BYTES_PER_FILE: Final = 256 << 20
"""Vectors in a file that compaction writes."""


UNFINISHED_S: Final = timedelta(days=7).total_seconds()
"""Age from which a file that no version names is a leftover of a killed writer, not the work of a running one (as in Lance)."""


@dataclass(frozen=True)
class CleanUp:
    """What ``clean_up`` deleted: versions, and files of the catalogue and of sequences; bytes of rows and versions."""

    num_versions: int
    num_files: int
    bytes_freed: int


def compact(memory: Memory, *, bytes_per_file: int = BYTES_PER_FILE) -> Memory:
    """A version with the same rows, catalogue and sequences in fewer files; the same version where that would change nothing."""
    rows_per_file = max(1, bytes_per_file // (2 * memory.dim))
    chosen = [fragment for fragment in memory.fragments if _is_worth_it(fragment, rows_per_file)]
    if len(chosen) == 1 and not chosen[0].num_deletions:
        chosen = []
    sequences, items = _compact_sequences(memory), _compact_items(memory)
    if not chosen and (sequences, items) == (memory.state.sequences, memory.state.items):
        return memory
    written = _rewrite(memory, chosen, rows_per_file)
    state = memory.state.next("compact", f"compact {len(chosen)} files into {len(written.fragments)}", sequences=sequences, items=items)
    return memory.commit(state, added=written, changes=FileChanges(removed=[fragment.fragment_id for fragment in chosen]))


def clean_up(memory: Memory, *, older_than_s: float, unfinished_too: bool = False) -> CleanUp:
    """Delete versions that are older than that, except the newest, and files that no version has.

    Args:
        unfinished_too: also files that were written less than seven days ago and belong to no version: leftovers of killed writers, or
            work of a writer that runs now, which would fail. Only where no writer runs.
    """
    named_before = _named_files(memory.uri)
    table = lance.dataset(entries_uri(memory.uri))
    try:
        done = table.cleanup_old_versions(older_than=timedelta(seconds=older_than_s), delete_unverified=unfinished_too)
    except LANCE_ERRORS as error:
        raise ArtefactError(
            f"The old versions of {memory.uri} cannot be deleted ({str(error)[:300]}); mend the storage, then run the same again."
        ) from error
    named = _named_files(memory.uri)
    remove(memory.uri, named_before - named)
    num_unnamed = remove_unused(memory.uri, named, older_than_s=0 if unfinished_too else UNFINISHED_S)
    return CleanUp(int(done.old_versions), len(named_before - named) + num_unnamed, int(done.bytes_removed))


def _named_files(uri: str) -> set[str]:
    """Files of the catalogue and of sequences that some version names."""
    return {name for entry in Memory.open(uri).history() for name in (*entry.state.items, *entry.state.sequences)}


def _is_worth_it(fragment: LanceFragment, rows_per_file: int) -> bool:
    return bool(fragment.num_deletions) or fragment.count_rows() < rows_per_file // 2


def _rewrite(memory: Memory, fragments: list[LanceFragment], rows_per_file: int) -> WrittenEntries:
    """The fragments' rows in new files; the digest says that none was lost on the way."""
    written, num_read, digest = NOTHING_WRITTEN, 0, 0
    for group in _groups(memory, fragments, rows_per_file):
        written += memory.write(table_of(group))
        num_read, digest = num_read + sum(map(len, group)), digest + sum(batch.digest for batch in group)
    assert (written.num_entries, written.digest) == (num_read, digest % 2**64)
    return written


def _groups(memory: Memory, fragments: list[LanceFragment], rows_per_file: int) -> Iterator[list[EntryBatch]]:
    group: list[EntryBatch] = []
    for fragment in fragments:
        for batch in memory.rows_of(fragment, with_vectors=True):
            group.append(batch)
            if sum(map(len, group)) >= rows_per_file:
                yield group
                group = []
    if group:
        yield group


def _compact_sequences(memory: Memory) -> tuple[str, ...]:
    """Appended sequences take the place of the built ones; users that no built file has come in one of their own."""
    recent = [name for name in memory.state.sequences if name.startswith(RECENT)]
    if not recent:
        return memory.state.sequences
    changed = load_sequences(memory.uri, recent)
    names = []
    for name in (name for name in memory.state.sequences if name not in recent):
        before = load_sequences(memory.uri, [name])
        together = [changed.pop(user_id, sequence) for user_id, sequence in before.items()]
        names.append(store_sequences(memory.uri, together))
    left = [changed[user_id] for user_id in sorted(changed)]
    return (*names, store_sequences(memory.uri, left)) if left else tuple(names)


def _compact_items(memory: Memory) -> tuple[str, ...]:
    return memory.state.items if len(memory.state.items) == 1 else (write_table(memory.uri, "items", memory.items),)
