"""The memory's storage: a Lance table of entries, and beside it the catalogue and the user sequences, on a local disk or an object store.

    MEMORY/entries.lance   one row an entry (schema.entries_schema); its schema metadata holds the model's fingerprint
    MEMORY/files/          catalogue and user sequences, immutable files that a version names (memory.files)
    MEMORY/decoder.json    the settings that jobs.tune_decoder chose

Invariants: a commit is atomic and makes one new version of all three; of two writers that start from one version one is told to start
again; a reader is pinned to the version it opened; every sample_id stands once; what was made by another model is refused; rows that differ
from their checksums, and versions whose rows do not add up to their digest, are refused. Vectors are written where they are computed
(``write_entries``) and only the small description of the files travels to whoever commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata, LanceFragment
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError, ConflictError
from l2d_ray.memory.commits import NO_CHANGES, FileChanges, commit, create_table, restore, state_of, writing
from l2d_ray.memory.deletions import check_deletions
from l2d_ray.memory.difference import Difference, RowVersions, rows_without
from l2d_ray.memory.entries import NOTHING_WRITTEN, EntryBatch, WrittenEntries, read_fragment, write_entries
from l2d_ray.memory.files import read_table, write_table
from l2d_ray.memory.layout import Reading, files_of, manifest_of, versions_of
from l2d_ray.memory.state import MemoryState, author, now, seal, unseal
from l2d_ray.memory.tails import check_tails, tails_without
from l2d_ray.schema import FORMAT_VERSION, REMEMBERED_ITEMS, entries_schema

METADATA_KEY = b"l2d_ray"


@dataclass(frozen=True)
class MemoryMetadata:
    """What a memory was made with; the same in every version."""

    fingerprint: str
    dim: int
    data_hash: str
    dtype: str = "float16"
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, entries: lance.LanceDataset) -> MemoryMetadata:
        """As a table's schema holds it; ArtefactError names the manifest where it is damaged."""
        try:
            return cls(**unseal((entries.schema.metadata or {}).get(METADATA_KEY, b"").decode(errors="replace")))
        except (ValueError, TypeError) as error:
            manifest = manifest_of(entries.uri, entries.version)
            raise ArtefactError(
                f"{manifest} is damaged ({error}), or of another format; restore the file, or build the memory again."
            ) from None


@dataclass(frozen=True)
class VersionEntry:
    """One line of the memory's history."""

    version: int
    state: MemoryState


class Memory:
    """One version of a memory, open for reading; ``commit`` makes the next version and gives it back opened."""

    def __init__(self, uri: str, entries: lance.LanceDataset, metadata: MemoryMetadata, state: MemoryState) -> None:
        self.uri = uri
        self.metadata = metadata
        self.state = state
        self._entries = entries

    @classmethod
    def create(cls, uri: str, *, fingerprint: str, dim: int, catalogue: Catalogue, data_hash: str = "") -> Memory:
        """An empty memory for samples of the prepared data named by ``data_hash``; ConflictError where one is there already."""
        if exists(uri):
            raise ConflictError(f"There is a memory at {uri} already; open it, or give another place.")
        with writing(uri):
            items = write_table(uri, "items", items_table(catalogue))
        metadata = MemoryMetadata(fingerprint, dim, data_hash)
        schema = entries_schema(dim).with_metadata({METADATA_KEY: seal(asdict(metadata))})
        create_table(entries_uri(uri), schema, MemoryState("create", "create", now(), author(), items=(items,)))
        return cls.open(uri)

    @classmethod
    def open(cls, uri: str, *, version: int | None = None, fingerprint: str | None = None) -> Memory:
        """Open the newest or the given version; refuses a memory whose fingerprint is not the one given."""
        try:
            memory = cls._of_version(uri, version)
        except ArtefactError:
            if exists(uri):
                raise
            raise ArtefactError(f"There is no memory at {uri}; run jobs.build_memory first.") from None
        _check_fingerprint(uri, memory.metadata, fingerprint)
        return memory

    @classmethod
    def _of_version(cls, uri: str, version: int | None) -> Memory:
        table_uri = entries_uri(uri)
        with Reading(lambda: f"The memory at {uri}, version {version or 'newest'} ({manifest_of(table_uri, version)}),"):
            entries = lance.dataset(table_uri, version=version)
            metadata = MemoryMetadata.of(entries)
            _check_format(uri, metadata)
            return cls(uri, entries, metadata, state_of(entries))

    @property
    def named(self) -> str:
        """How errors about its rows begin."""
        return f"The memory at {self.uri}, version {self.version},"

    @property
    def version(self) -> int:
        return int(self._entries.version)

    @property
    def dim(self) -> int:
        return self.metadata.dim

    @property
    def fingerprint(self) -> str:
        return self.metadata.fingerprint

    @property
    def digest(self) -> int:
        """Sum of all rows' checksums modulo 2^64."""
        return self.state.digest

    @property
    def half_life_s(self) -> int | None:
        return self.state.half_life_s

    @property
    def reference_time(self) -> int:
        return self.state.reference_time

    def __len__(self) -> int:
        return self.state.num_entries

    @cached_property
    def items(self) -> pa.Table:
        """The catalogue with its retired items (schema.REMEMBERED_ITEMS), ascending by item_id."""
        rows = {row["item_id"]: row for name in self.state.items for row in read_table(self.uri, name, REMEMBERED_ITEMS).to_pylist()}
        return pa.Table.from_pylist([rows[item_id] for item_id in sorted(rows)], schema=REMEMBERED_ITEMS)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Every item that has a title, retired ones too: histories may hold them."""
        return Catalogue.from_arrow(self.items)

    @cached_property
    def retired_item_ids(self) -> frozenset[str]:
        return frozenset(self.items.filter(self.items["is_retired"])["item_id"].to_pylist())

    @cached_property
    def _tails(self) -> frozenset[str]:
        return frozenset(self.state.tails)

    def history(self) -> list[VersionEntry]:
        """Every version up to this one that can be opened, oldest first, with what made it."""
        versions = [version for version in versions_of(self._entries.uri) if version <= self.version]
        return [VersionEntry(version, Memory.open(self.uri, version=version).state) for version in versions]

    def scan(self, buckets: range | None = None, *, with_vectors: bool = True, batch_rows: int = 8192) -> Iterator[EntryBatch]:
        """Stream rows, verified, all or those of a range of buckets; at its end a scan of all is compared with the version's digest."""
        digest = num_entries = 0
        for fragment in self._entries.get_fragments():
            for batch in self._read(fragment, _condition(buckets), with_vectors, batch_rows):
                digest, num_entries = digest + batch.digest, num_entries + len(batch)
                yield batch
        if buckets is None:
            self.check_digest(digest % 2**64, num_entries)

    def check_digest(self, digest: int, num_entries: int) -> None:
        """Raise ArtefactError unless rows that were read, all shards together, are the version's."""
        if (digest, num_entries) != (self.digest, len(self)):
            raise ArtefactError(
                f"The memory at {self.uri} is damaged at version {self.version}: its files hold {num_entries} rows with digest "
                f"{digest:016x}, wanted {len(self)} with {self.digest:016x}; one of {', '.join(self._version_files())} has changed. "
                "Restore it, or go back to another version with jobs.memory."
            )

    def present(self, sample_ids: Sequence[int]) -> set[int]:
        """Which of these sample_ids the memory holds."""
        wanted = np.array(sorted(sample_ids), dtype=np.int64)
        found: set[int] = set()
        for batch in self.scan(with_vectors=False) if len(wanted) else ():
            found.update(batch.sample_ids[np.isin(batch.sample_ids, wanted)].tolist())
        return found

    def difference(self, older: Memory, buckets: range | None = None) -> Difference:
        """What changed since an older version of the same memory, reading only files that differ.

        Raises ArtefactError where the other is no older version of this memory.
        """
        if (older.uri, older.fingerprint) != (self.uri, self.fingerprint) or older.version > self.version:
            raise ArtefactError(
                f"Version {older.version} of the memory at {older.uri} is no older version of {self.uri}, version {self.version}; "
                "give two versions of one memory."
            )
        mine, theirs = self._changed_files(older), older._changed_files(self)
        here, gone = self._rows_in(mine, buckets), older._rows_in(theirs, buckets)
        new, removed = rows_without(here, gone), rows_without(gone, here)
        return Difference(removed, older._rows_among(theirs, removed, buckets), self._rows_among(mine, new, buckets))

    def write(self, table: pa.Table) -> WrittenEntries:
        """Write rows of ``entries_table`` as files that ``commit`` may add; StorageError where storage refuses."""
        return write_to(self.uri, table)

    def commit(self, state: MemoryState, *, added: WrittenEntries = NOTHING_WRITTEN, changes: FileChanges = NO_CHANGES) -> Memory:
        """Make the next version: rows that were written, files that were changed, and the state, whose counts the caller has kept."""
        written = [FragmentMetadata.from_json(fragment) for fragment in added.fragments]
        removed = [fragment.metadata for fragment in self.fragments if fragment.fragment_id in changes.removed]
        state = replace(state, tails=(*tails_without(self.state.tails, removed), *added.tails))
        entries = commit(self._entries, FileChanges(changes.removed, changes.updated, [*changes.added, *written]), state)
        return Memory(self.uri, entries, self.metadata, state)

    def append(self, written: WrittenEntries, *, kind: str = "append", message: str, **state: object) -> Memory:
        """Commit rows that were written; ``state`` are further changes of the state."""
        num_entries, digest = len(self) + written.num_entries, (self.digest + written.digest) % 2**64
        return self.commit(self.state.next(kind, message, num_entries=num_entries, digest=digest, **state), added=written)

    def roll_back(self, version: int) -> Memory:
        """Make a version whose rows, catalogue and sequences are those of an earlier one."""
        earlier = Memory.open(self.uri, version=version)
        state = earlier.state.next("rollback", f"back to version {version}")
        return Memory(self.uri, restore(self._entries, version, state), self.metadata, state)

    @property
    def fragments(self) -> list[LanceFragment]:
        """The version's files of rows."""
        return list(self._entries.get_fragments())

    def rows_of(self, fragment: LanceFragment, condition: str | None = None, *, with_vectors: bool = False) -> Iterator[EntryBatch]:
        """Rows of one of the version's files that meet an SQL condition, verified."""
        return self._read(fragment, condition, with_vectors, 8192)

    def _read(self, fragment: LanceFragment, condition: str | None, with_vectors: bool, batch_rows: int) -> Iterator[EntryBatch]:
        data, *others = files_of(self._entries.uri, fragment.metadata)
        where = " or ".join([data, *others, manifest_of(self._entries.uri, self.version)])
        with Reading(lambda: where):
            check_deletions(self._entries.uri, fragment.metadata)
            check_tails(self._entries.uri, fragment.metadata, self._tails)
            yield from read_fragment(fragment, condition, with_vectors=with_vectors, batch_rows=batch_rows, where=where)

    def _changed_files(self, other: Memory) -> list[LanceFragment]:
        """Files of this version that the other does not have in the same form."""
        forms = {_form(fragment.metadata) for fragment in other.fragments}
        return [fragment for fragment in self.fragments if _form(fragment.metadata) not in forms]

    def _rows_in(self, fragments: Sequence[LanceFragment], buckets: range | None) -> RowVersions:
        batches = [batch for fragment in fragments for batch in self._read(fragment, _condition(buckets), False, 65536)]
        return RowVersions.of(batches)

    def _rows_among(self, fragments: Sequence[LanceFragment], sample_ids: NDArray[np.int64], buckets: range | None) -> Iterator[EntryBatch]:
        for fragment in fragments if len(sample_ids) else ():
            for batch in self._read(fragment, _condition(buckets), True, 8192):
                chosen = np.isin(batch.sample_ids, sample_ids)
                if chosen.any():
                    yield batch.where(chosen)

    def _version_files(self) -> list[str]:
        """Files that say which rows the version has: its manifest and its lists of deleted rows."""
        deleted = [path for fragment in self.fragments for path in files_of(self._entries.uri, fragment.metadata)[1:]]
        return [manifest_of(self._entries.uri, self.version), *deleted]


def exists(uri: str) -> bool:
    """Whether a memory was created at this place; a creation that was killed before its end is none."""
    return bool(versions_of(entries_uri(uri)))


def write_to(uri: str, table: pa.Table) -> WrittenEntries:
    """Write rows of ``entries_table`` beside a memory's, uncommitted; StorageError where storage refuses."""
    with writing(uri):
        return write_entries(entries_uri(uri), table)


def items_table(catalogue: Catalogue, retired_item_ids: frozenset[str] = frozenset()) -> pa.Table:
    """Rows of a catalogue file."""
    is_retired = pa.array([item_id in retired_item_ids for item_id in catalogue.item_ids], type=pa.bool_())
    return catalogue.to_arrow().append_column(REMEMBERED_ITEMS.field("is_retired"), is_retired)


def entries_uri(uri: str) -> str:
    return f"{uri.rstrip('/')}/entries.lance"


def _check_format(uri: str, metadata: MemoryMetadata) -> None:
    if metadata.format_version != FORMAT_VERSION:
        raise ArtefactError(
            f"The memory at {uri} has format version {metadata.format_version}, this release reads {FORMAT_VERSION}; build it again."
        )


def _check_fingerprint(uri: str, metadata: MemoryMetadata, fingerprint: str | None) -> None:
    if fingerprint is not None and fingerprint != metadata.fingerprint:
        raise ArtefactError(
            f"The memory at {uri} was made by the model {metadata.fingerprint}, the model here is {fingerprint}; "
            "use that model, or build a memory with this one in another place."
        )


def _condition(buckets: range | None) -> str | None:
    return None if buckets is None else f"bucket >= {buckets.start} AND bucket < {buckets.stop}"


def _form(fragment: FragmentMetadata) -> tuple[str, str]:
    """A file and its deleted rows."""
    description = fragment.to_json()
    return fragment.files[0].path, json.dumps(description["deletion_file"], sort_keys=True)
