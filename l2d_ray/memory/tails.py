"""The end of a file of rows, where it says what lies where: hashed when it is written, compared before Lance reads it.

Rows carry checksums of their own, but a reader finds them by the file's metadata, and Lance believes that: one flipped byte there can ask
for an allocation that ends the process. So a version's state names every file of rows with the hash of its metadata.

Source of the form: https://lance.org/format/file/ (version 2: buffers, column metadata, two tables of offsets, a footer of 40 bytes).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import pyarrow as pa
from lance.fragment import FragmentMetadata
from pyarrow import fs

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.storage import location

FOOTER: Final = struct.Struct("<QQQIIHH4s")
"""Starts of the column metadata, of the table of their offsets and of that of the global buffers' places; counts; version; magic."""
PLACE: Final = struct.Struct("<QQ")


def tails_of(table_uri: str, fragment: FragmentMetadata) -> tuple[str, ...]:
    """For each of a fragment's files ``"NAME HASH"``."""
    return tuple(f"{file.path} {_hash_of_tail(table_uri, file.path)}" for file in fragment.files)


def check_tails(table_uri: str, fragment: FragmentMetadata, known: frozenset[str]) -> None:
    """Raise ArtefactError, which names the file, where the end of a file of rows is not among those that were written."""
    for tail in tails_of(table_uri, fragment):
        if tail not in known:
            name = tail.partition(" ")[0]
            raise ArtefactError(f"{table_uri}/data/{name} is truncated or changed; restore the file, or build the memory again.")


def tails_without(tails: Sequence[str], removed: Sequence[FragmentMetadata]) -> list[str]:
    """Those that are left once these fragments are gone."""
    gone = {file.path for fragment in removed for file in fragment.files}
    return [tail for tail in tails if tail.partition(" ")[0] not in gone]


def _hash_of_tail(table_uri: str, name: str) -> str:
    filesystem, path = location(f"{table_uri}/data/{name}")
    if filesystem.get_file_info(path).type != fs.FileType.File:
        raise ArtefactError(f"{table_uri}/data/{name} is missing; restore the file, or build the memory again.")
    with filesystem.open_input_file(path) as file:
        size = file.size()
        start = _start_of_tail(file, size)
        content = file.read_at(size - start, start)
    return blake2b(content, digest_size=8).hexdigest()


def _start_of_tail(file: pa.NativeFile, size: int) -> int:
    """Where the metadata begin; 0, so all of the file, where what it says of that cannot be."""
    if size < FOOTER.size:
        return 0
    columns, _, buffers, num_buffers, *_ = FOOTER.unpack(file.read_at(FOOTER.size, size - FOOTER.size))
    if not columns <= buffers <= size - FOOTER.size - PLACE.size * num_buffers:
        return 0
    places = file.read_at(PLACE.size * num_buffers, buffers)
    start = min([columns, *(place for place, _ in PLACE.iter_unpack(places))])
    return int(start) if start < size else 0
