"""Names and types of everything stored: column names, Arrow schemas, stable ids, format versions.

Invariants that other modules rely on:

- ``item_id`` and ``user_id`` are strings everywhere a person or a file sees them. Inside arrays an item is its ``item_index``: the
  position of its id in the catalogue, which is sorted by item_id, so "smaller id first" and "smaller index first" agree.
- ``sample_id`` is a stable 63-bit hash of user, target and event time (or position where no time is known): the key that makes a
  build or an event idempotent. Non-negative, so -1 is free to mean "no entry".
- ``bucket`` is a stable hash of item_id modulo NUM_BUCKETS: all entries of an item are in one bucket, a shard is a range of buckets.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import pyarrow as pa

NUM_BUCKETS: Final = 4096
"""Hash slots of items; fixed for ever, since stored rows carry their slot."""

FORMAT_VERSION: Final = 3
"""Version of every stored layout (data, checkpoint metadata, memory, index)."""

SECONDS_PER_DAY: Final = 86_400

TRAIN: Final = 0
VALID: Final = 1
TEST: Final = 2
SPLIT_NAMES: Final = ("train", "valid", "test")

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),  # one JSON object
    ]
)
"""The catalogue: one row an item, ascending by item_id, ids unique."""

SEQUENCES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string()), nullable=False),
        pa.field("timestamps", pa.list_(pa.int64()), nullable=False),  # seconds; null where unknown
        pa.field("splits", pa.list_(pa.int8()), nullable=False),  # TRAIN, VALID or TEST of each interaction
    ]
)
"""One row a user: the whole user sequence, oldest first. The TRAIN interactions are a prefix, TEST ones a suffix."""

REMEMBERED_ITEMS = ITEMS.append(pa.field("is_retired", pa.bool_(), nullable=False))
"""Rows of the memory's catalogue files: a retired item keeps its title, since histories hold it, but has no entries."""

REMEMBERED_SEQUENCES = pa.schema([SEQUENCES.field("user_id"), SEQUENCES.field("item_ids"), SEQUENCES.field("timestamps")])
"""Rows of the memory's files of user sequences: what a user's next interactions follow."""


def entries_schema(dim: int) -> pa.Schema:
    """Arrow schema of the memory's table for hidden states that are ``dim`` wide."""
    return pa.schema(
        [
            pa.field("sample_id", pa.int64(), nullable=False),
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("timestamp", pa.int64(), nullable=True),
            pa.field("bucket", pa.int16(), nullable=False),
            pa.field("checksum", pa.uint64(), nullable=False),  # memory.checksums
            pa.field("vector", pa.list_(pa.field("item", pa.float16(), nullable=False), dim), nullable=False),
        ]
    )


def stable_hash(*parts: str) -> int:
    """63-bit non-negative hash of the parts, the same in every process and release (BLAKE2b, parts length-prefixed)."""
    digest = blake2b(digest_size=8)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little") >> 1


def sample_id_of(user_id: str, item_id: str, *, timestamp: int | None, position: int) -> int:
    """Identity of the sample whose target is this interaction; the position counts only where no time is known."""
    when = f"p{position}" if timestamp is None else f"t{timestamp}"
    return stable_hash(user_id, item_id, when)


def bucket_of(item_id: str) -> int:
    """Hash slot of an item, in [0, NUM_BUCKETS)."""
    return stable_hash(item_id) % NUM_BUCKETS
