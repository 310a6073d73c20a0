"""Lists of deleted rows: checked to be whole when they are committed, named after the hash of their content, checked again before Lance
reads them.

Lance gives such a file a random number as part of its name, does not notice where a full disk cut it short, and believes what it reads: one
flipped byte in its footer can ask for an allocation that ends the process. So a commit puts the content's hash in the place of that number.

Source of both forms: https://lance.org/format/table/ ("Deletion Files"); https://github.com/RoaringBitmap/RoaringFormatSpec.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Final

import numpy as np
import pyarrow as pa
from lance.fragment import DeletionFile, FragmentMetadata

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.storage import read_bytes, remove_file, write_bytes

BITMAP_WITHOUT_RUNS: Final = 12346
MAX_ARRAY: Final = 4096
"""Rows of a Roaring container that are stored as two bytes each; from one more on, as 8,192 bytes of bits."""


def with_named_deletions(table_uri: str, fragment: FragmentMetadata) -> FragmentMetadata:
    """The fragment with its list of deleted rows under its hash; the same one where there is no list, or it has that name.

    Raises OSError where the list is not whole.
    """
    listed = fragment.deletion_file
    if listed is None:
        return fragment
    path = listed.path(fragment.id)
    content = read_bytes(table_uri, path) or b""
    if listed.id == _hash(content):
        return fragment
    if _num_rows(content, listed.file_type) != listed.num_deleted_rows:
        raise OSError(f"{path} does not hold the {listed.num_deleted_rows} rows that were to be deleted; the disk may be full")
    renamed = DeletionFile(listed.read_version, _hash(content), listed.file_type, listed.num_deleted_rows, listed.base_id)
    write_bytes(table_uri, renamed.path(fragment.id), content)
    remove_file(table_uri, path)
    return replace(fragment, deletion_file=renamed)


def check_deletions(table_uri: str, fragment: FragmentMetadata) -> None:
    """Raise ArtefactError, which names the file, where a list of deleted rows is missing or not as it was committed."""
    listed = fragment.deletion_file
    if listed is not None and _hash(read_bytes(table_uri, listed.path(fragment.id)) or b"") != listed.id:
        raise ArtefactError(
            f"{table_uri}/{listed.path(fragment.id)} is missing, truncated or changed; restore the file, or go back to another version."
        )


def _num_rows(content: bytes, file_type: str) -> int | None:
    """How many rows a list holds; None where it is cut short."""
    try:
        if file_type == "bitmap":
            return _num_bits(content)
        return int(pa.ipc.open_file(pa.BufferReader(content)).read_all().num_rows)
    except (pa.ArrowInvalid, ValueError):
        return None


def _num_bits(content: bytes) -> int:
    """Bits of a Roaring bitmap; ValueError where its length is not what its header says."""
    cookie, num_containers = np.frombuffer(content, "<u4", 2).tolist()
    counts = np.frombuffer(content, "<u2", 2 * num_containers, offset=8)[1::2].astype(np.int64) + 1
    num_bytes = 8 + 8 * num_containers + int(np.where(counts <= MAX_ARRAY, 2 * counts, 8192).sum())
    if cookie != BITMAP_WITHOUT_RUNS or num_bytes != len(content):
        raise ValueError
    return int(counts.sum())


def _hash(content: bytes) -> int:
    """A number below 2^63."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 1
