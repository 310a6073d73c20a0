"""The memory's storage: a Lance table of entries and one of the catalogue, on a local disk or an object store.

    MEMORY/entries.lance   one row an entry (schema.entries_schema); its schema metadata holds the model's fingerprint
    MEMORY/items.lance     the catalogue (schema.ITEMS)
    MEMORY/decoder.json    the settings that jobs.tune_decoder chose

Invariants: a commit is atomic and makes one new version; a reader is pinned to the version it opened; every sample_id stands once;
what was made by another model is refused. Vectors are written where they are computed (``write_fragments``) and only the small
description of the files travels to whoever commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments
from numpy.typing import NDArray
from pyarrow import fs

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target
from l2d_ray.errors import ArtefactError
from l2d_ray.schema import FORMAT_VERSION, ITEMS, bucket_of, entries_schema

METADATA_KEY = b"l2d_ray"


@dataclass(frozen=True)
class MemoryMetadata:
    """What a memory was made with."""

    fingerprint: str
    dim: int
    data_hash: str
    dtype: str = "float16"
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class VersionEntry:
    """One line of the memory's history."""

    version: int
    timestamp: str
    message: str


class Memory:
    """One version of a memory, open for reading; ``append`` commits the next version and gives it back opened."""

    def __init__(self, uri: str, entries: lance.LanceDataset, metadata: MemoryMetadata) -> None:
        self.uri = uri
        self.metadata = metadata
        self._entries = entries

    @classmethod
    def create(cls, uri: str, *, fingerprint: str, dim: int, catalogue: Catalogue, data_hash: str = "") -> Memory:
        """An empty memory for samples of the prepared data named by ``data_hash``; ArtefactError where one is there already."""
        if exists(uri):
            raise ArtefactError(f"There is a memory at {uri} already; open it, or give another place.")
        metadata = MemoryMetadata(fingerprint, dim, data_hash)
        lance.write_dataset(catalogue.to_arrow(), _items_uri(uri), schema=ITEMS, mode="overwrite")
        schema = entries_schema(dim).with_metadata({METADATA_KEY: json.dumps(metadata.__dict__)})
        lance.write_dataset(schema.empty_table(), _entries_uri(uri), schema=schema, mode="create", commit_message="create")
        return cls.open(uri)

    @classmethod
    def open(cls, uri: str, *, version: int | None = None, fingerprint: str | None = None) -> Memory:
        """Open the newest or the given version; refuses a memory whose fingerprint is not the one given."""
        if not exists(uri):
            raise ArtefactError(f"There is no memory at {uri}; run jobs.build_memory first.")
        try:
            entries = lance.dataset(_entries_uri(uri), version=version)
            metadata = MemoryMetadata(**json.loads(entries.schema.metadata[METADATA_KEY]))
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"The memory at {uri} cannot be read at version {version or 'newest'} ({str(error)[:200]}); "
                "choose a version that exists, restore its files or build it again."
            ) from error
        memory = cls(uri, entries, metadata)
        memory._check(fingerprint)
        return memory

    def _check(self, fingerprint: str | None) -> None:
        if self.metadata.format_version != FORMAT_VERSION:
            raise ArtefactError(
                f"The memory at {self.uri} has format version {self.metadata.format_version}, this release reads {FORMAT_VERSION}; "
                "build it again."
            )
        if fingerprint is not None and fingerprint != self.metadata.fingerprint:
            raise ArtefactError(
                f"The memory at {self.uri} was made by the model {self.metadata.fingerprint}, the model here is {fingerprint}; "
                "use that model, or build a memory with this one in another place."
            )

    @property
    def version(self) -> int:
        return int(self._entries.version)

    @property
    def dim(self) -> int:
        return self.metadata.dim

    @property
    def fingerprint(self) -> str:
        return self.metadata.fingerprint

    def __len__(self) -> int:
        return int(self._entries.count_rows())

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue.from_arrow(lance.dataset(_items_uri(self.uri)).to_table())

    def history(self) -> list[VersionEntry]:
        """Every version up to this one, oldest first, with what made it."""
        found = []
        for entry in self._entries.versions():
            transaction = self._entries.read_transaction(entry["version"])
            message = (transaction.transaction_properties or {}).get("__lance_commit_message", "")
            found.append(VersionEntry(entry["version"], entry["timestamp"].isoformat(timespec="seconds"), message))
        return [entry for entry in found if entry.version <= self.version]

    def present(self, sample_ids: Sequence[int]) -> set[int]:
        """Which of these sample_ids the memory holds."""
        if not sample_ids:
            return set()
        wanted = np.array(sorted(sample_ids), dtype=np.int64)
        found: set[int] = set()
        for batch in self.scan(["sample_id"]):
            ids = batch["sample_id"].to_numpy()
            found.update(ids[np.isin(ids, wanted)].tolist())
        return found

    def scan(self, columns: list[str], *, buckets: range | None = None, batch_rows: int = 8192) -> Iterator[pa.RecordBatch]:
        """Stream rows in stored order, all or those of a range of buckets."""
        condition = None if buckets is None else f"bucket >= {buckets.start} AND bucket < {buckets.stop}"
        yield from self._entries.scanner(columns=columns, filter=condition, batch_size=batch_rows, scan_in_order=True).to_batches()

    def rows(self, sample_ids: Sequence[int], columns: list[str]) -> pa.Table:
        """The rows of these sample_ids, in no order."""
        condition = f"sample_id IN ({', '.join(str(int(i)) for i in sample_ids)})" if sample_ids else "false"
        return self._entries.to_table(columns=columns, filter=condition)

    def append(self, fragments: Iterable[str], *, message: str) -> Memory:
        """Commit rows written by ``write_entries`` as one new version."""
        operation = lance.LanceOperation.Append([FragmentMetadata.from_json(f) for f in fragments])
        entries = lance.LanceDataset.commit(self._entries, operation, read_version=self.version, commit_message=message)
        return Memory(self.uri, entries, self.metadata)


def exists(uri: str) -> bool:
    """Whether a memory was created at this place."""
    filesystem, path = fs.FileSystem.from_uri(_absolute(uri))
    return bool(filesystem.get_file_info(f"{path}/entries.lance/_versions").type != fs.FileType.NotFound)


def entries_table(targets: Sequence[Target], vectors: NDArray[np.float32]) -> pa.Table:
    """Rows of the memory for targets and their samples' hidden states, (n, d); ArtefactError where a state does not fit float16."""
    with np.errstate(over="ignore"):
        stored = vectors.astype(np.float16)
    if not np.isfinite(stored).all():
        raise ArtefactError(
            f"A hidden state holds {np.abs(vectors).max():g}, beyond float16's 65504; this model's states cannot be stored as they are."
        )
    dim = vectors.shape[1]
    values = pa.array(stored.reshape(-1), type=pa.float16())
    schema = entries_schema(dim)
    columns: list[Any] = [
        np.array([s.sample_id for s in targets], dtype=np.int64),
        [s.user_id for s in targets],
        [s.item_id for s in targets],
        pa.array([s.timestamp for s in targets], type=pa.int64()),
        np.array([bucket_of(s.item_id) for s in targets], dtype=np.int16),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("vector").type),
    ]
    return pa.table(columns, schema=schema)


def write_entries(uri: str, table: pa.Table) -> list[str]:
    """Write rows as files of the memory without committing them; returns what ``append`` takes. Empty tables write nothing."""
    if not table.num_rows:
        return []
    return [json.dumps(f.to_json()) for f in write_fragments(table, _entries_uri(uri), schema=table.schema, mode="append")]


def vectors_of(batch: pa.RecordBatch | pa.Table) -> NDArray[np.float16]:
    """(n, d) float16 view of the vector column."""
    column = batch["vector"]
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = array.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float16).reshape(len(array), array.type.list_size)


def read_text(uri: str, name: str) -> str | None:
    """A small text file beside the tables; None where it is absent."""
    filesystem, path = fs.FileSystem.from_uri(_absolute(uri))
    if filesystem.get_file_info(f"{path}/{name}").type != fs.FileType.File:
        return None
    with filesystem.open_input_stream(f"{path}/{name}") as stream:
        return str(stream.read().decode())


def write_text(uri: str, name: str, text: str) -> None:
    """Write or replace a small text file beside the tables, whole or not at all."""
    filesystem, path = fs.FileSystem.from_uri(_absolute(uri))
    with filesystem.open_output_stream(f"{path}/{name}.partial") as stream:
        stream.write(text.encode())
    filesystem.move(f"{path}/{name}.partial", f"{path}/{name}")


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).absolute())


def _entries_uri(uri: str) -> str:
    return f"{uri.rstrip('/')}/entries.lance"


def _items_uri(uri: str) -> str:
    return f"{uri.rstrip('/')}/items.lance"
