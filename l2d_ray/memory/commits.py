"""Commits to the memory's Lance table: compare-and-swap, one version a change, the version's state inside it.

Lance rebases a commit on what others committed meanwhile where the two do not touch the same files. Here that would be wrong: a version's
state (digest, committed parts, files of the catalogue) follows from the state before. So every commit also touches the lowest file of the
version it started from, or, where there is none, is of the kind that Lance never rebases: of two writers that start from one version
one succeeds and the other gets ConflictError. Conflict rules: https://lance.org/format/table/transaction/ ("Conflict Resolution").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.dataset import Transaction
from lance.fragment import FragmentMetadata

from l2d_ray.errors import ArtefactError, ConflictError, StorageError
from l2d_ray.memory.deletions import with_named_deletions
from l2d_ray.memory.layout import manifest_of
from l2d_ray.memory.state import PROPERTY, MemoryState


@dataclass(frozen=True)
class FileChanges:
    """What a commit does to a version's files of rows.

    Attributes:
        removed: ids of files that the next version does not have.
        updated: files that lost rows.
        added: new files.
    """

    removed: Sequence[int] = ()
    updated: Sequence[FragmentMetadata] = ()
    added: Sequence[FragmentMetadata] = ()


NO_CHANGES = FileChanges()


def create_table(table_uri: str, schema: pa.Schema, state: MemoryState) -> None:
    """An empty table, its first version; ConflictError where another writer has just made one.

    ``write_dataset(mode="create")`` would replace what another writer made since it looked; read version 0 without retries does not.
    """
    made = Transaction(0, lance.LanceOperation.Overwrite(schema, []), transaction_properties={PROPERTY: state.to_json()})
    try:
        with writing(table_uri):
            lance.LanceDataset.commit(table_uri, made, max_retries=0)
    except StorageError as error:
        if "already exists" in str(error) or "_versions/0.manifest was not found" in str(error):
            raise ConflictError(f"Another writer has just made the table {table_uri}; open it, or give another place.") from error
        raise


def commit(table: lance.LanceDataset, changes: FileChanges, state: MemoryState) -> lance.LanceDataset:
    """The next version; ConflictError where another writer was first, StorageError where it cannot be written."""
    fragments = {fragment.fragment_id: fragment.metadata for fragment in table.get_fragments()}
    with writing(table.uri):
        updated = [with_named_deletions(table.uri, fragment) for fragment in changes.updated]
    if not fragments:
        operation = lance.LanceOperation.Merge(_numbered(changes.added), table.schema)
    else:
        lowest = min(fragments)
        touched = {*changes.removed, *(fragment.id for fragment in changes.updated)}
        unchanged = [] if lowest in touched else [fragments[lowest]]
        operation = lance.LanceOperation.Update(
            removed_fragment_ids=list(changes.removed),
            updated_fragments=[*updated, *unchanged],
            new_fragments=list(changes.added),
        )
    return _commit(table, operation, state)


def restore(table: lance.LanceDataset, version: int, state: MemoryState) -> lance.LanceDataset:
    """The next version, with the files of an earlier one.

    Not by Lance's own operation for that, which is never refused: it would undo what another writer has committed meanwhile.
    """
    earlier = {fragment.fragment_id: fragment.metadata for fragment in table.checkout_version(version).get_fragments()}
    present = {fragment.fragment_id: fragment.metadata for fragment in table.get_fragments()}
    changes = FileChanges(
        removed=[number for number in present if number not in earlier],
        updated=[fragment for number, fragment in earlier.items() if number in present and fragment != present[number]],
        added=[fragment for number, fragment in earlier.items() if number not in present],
    )
    return commit(table, changes, state)


def state_of(table: lance.LanceDataset) -> MemoryState:
    """The state that the open version was committed with; ArtefactError names the manifest where it is damaged or has none."""
    transaction = table.read_transaction(table.version)
    properties = transaction.transaction_properties or {}
    if PROPERTY not in properties:
        raise ArtefactError(
            f"{manifest_of(table.uri, table.version)} does not describe a version that l2d_ray committed; choose another version."
        )
    try:
        if transaction.read_version + 1 != table.version:
            raise ValueError(f"it follows version {transaction.read_version}, but calls itself {table.version}")
        return MemoryState.from_json(properties[PROPERTY])
    except ValueError as error:
        raise ArtefactError(
            f"{manifest_of(table.uri, table.version)} is damaged: {error}; restore the file, or go back to another version."
        ) from None


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Turn what storage says about a failed write into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Writing to {place} failed ({str(error)[:300]}); nothing was committed. Free space or mend the storage, "
            "then run the same again."
        ) from error


def _numbered(fragments: Sequence[FragmentMetadata]) -> list[FragmentMetadata]:
    """The first files of a table, with numbers from 1 where they have none.

    Lance would begin with 0, and takes 0 for "no number" when a rollback brings the file back: its list of deleted rows, which is found by
    the number, would be lost then.
    """
    return [replace(fragment, id=fragment.id or 1 + place) for place, fragment in enumerate(fragments)]


def _commit(table: lance.LanceDataset, operation: lance.LanceOperation.BaseOperation, state: MemoryState) -> lance.LanceDataset:
    transaction = Transaction(table.version, operation, transaction_properties={PROPERTY: state.to_json()})
    with writing(table.uri):
        try:
            return lance.LanceDataset.commit(table, transaction)
        except CommitConflictError as error:
            raise ConflictError(
                f"Another writer changed the memory at {table.uri} after version {table.version} was read; "
                "nothing was changed here, so run the same again."
            ) from error
