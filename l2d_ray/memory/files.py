"""Files beside the table: immutable ones named after their content's hash, and small texts that may be replaced.

MEMORY/files/NAME-<hash>.parquet    written before the version that names them, verified whenever they are read
MEMORY/decoder.json                 the settings that jobs.tune_decoder chose
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.storage import location, read_bytes, remove_file, write_bytes

FOLDER: Final = "files"


def write_table(uri: str, stem: str, table: pa.Table) -> str:
    """Store a table; returns its name, which holds its hash. The same table has the same name, and is stored once."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    name = f"{stem}-{_hash(content)}.parquet"
    write_bytes(uri, f"{FOLDER}/{name}", content)
    return name


def read_table(uri: str, name: str, schema: pa.Schema) -> pa.Table:
    """A stored table; ArtefactError names a file that is missing or changed."""
    content = read_bytes(uri, f"{FOLDER}/{name}") or b""
    if _hash(content) != name.rpartition("-")[2].removesuffix(".parquet"):
        raise ArtefactError(f"{uri}/{FOLDER}/{name} is missing, truncated or changed; restore the memory's files, or build it again.")
    # Not pq.read_table: its pool threads may outlive the call with the last reference to these bytes, and end a process that is exiting.
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False).cast(schema)


def remove_unused(uri: str, used: set[str], *, older_than_s: float) -> int:
    """Delete stored tables that are not among ``used`` and are older than that (younger ones may await their commit); how many."""
    filesystem, path = location(uri)
    selector = fs.FileSelector(f"{path}/{FOLDER}", allow_not_found=True)
    limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
    unused = {info.base_name for info in filesystem.get_file_info(selector) if info.base_name not in used and info.mtime <= limit}
    remove(uri, unused)
    return len(unused)


def remove(uri: str, names: set[str]) -> None:
    """Delete stored tables; those that are gone already are passed over."""
    for name in names:
        remove_file(uri, f"{FOLDER}/{name}")


def read_text(uri: str, name: str) -> str | None:
    """A small text file beside the tables, which says for itself whether it is whole; None where it is absent."""
    content = read_bytes(uri, name)
    return None if content is None else content.decode(errors="replace")


def write_text(uri: str, name: str, text: str) -> None:
    """Write or replace a small text file beside the tables, whole or not at all."""
    write_bytes(uri, name, text.encode())


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
