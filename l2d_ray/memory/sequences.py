"""The user sequences that a memory remembers: what a user's next interactions follow. Text is derivable from them, vectors are not kept.

Stored as immutable files (schema.REMEMBERED_SEQUENCES) that a version names in order; a later row of a user replaces the earlier ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from l2d_ray.data.sequences import Target, UserSequence
from l2d_ray.memory.files import read_table, write_table
from l2d_ray.schema import REMEMBERED_SEQUENCES

BUILT: Final = "sequences"
RECENT: Final = "recent"
"""Stems of the files' names: of a part of the build, or of a compaction; and of an append."""


@dataclass(frozen=True, slots=True)
class RememberedSequence:
    """A user's interactions up to now, oldest first; the tuples are parallel."""

    user_id: str
    item_ids: tuple[str, ...] = ()
    timestamps: tuple[int | None, ...] = ()

    def targets_from(self, position: int) -> list[Target]:
        """Targets at this position and later; position 0 is no target."""
        positions = range(max(position, 1), len(self.item_ids))
        return [Target(self.user_id, self.item_ids[p], self.timestamps[p], p) for p in positions]


def store_sequences(uri: str, sequences: Sequence[RememberedSequence], *, stem: str = BUILT) -> str:
    """Store a file of sequences; returns its name."""
    columns = [
        [s.user_id for s in sequences],
        [list(s.item_ids) for s in sequences],
        [list(s.timestamps) for s in sequences],
    ]
    return write_table(uri, stem, pa.table(columns, schema=REMEMBERED_SEQUENCES))


def trained_sequences(sequences: Iterable[UserSequence]) -> list[RememberedSequence]:
    """What a build remembers of prepared data: every user's training interactions."""
    cuts = [(s, s.num_train) for s in sequences]
    return [RememberedSequence(s.user_id, s.item_ids[:n], s.timestamps[:n]) for s, n in cuts if n]


def load_sequences(uri: str, names: Sequence[str], user_ids: Collection[str] | None = None) -> dict[str, RememberedSequence]:
    """Sequences by user, of all or of these users; users without one are left out."""
    wanted = None if user_ids is None else pa.array(sorted(user_ids), type=pa.string())
    found: dict[str, RememberedSequence] = {}
    for name in names:
        table = read_table(uri, name, REMEMBERED_SEQUENCES)
        rows = table if wanted is None else table.filter(pc.is_in(table["user_id"], value_set=wanted))
        for row in rows.to_pylist():
            found[row["user_id"]] = RememberedSequence(row["user_id"], tuple(row["item_ids"]), tuple(row["timestamps"]))
    return found


def iter_newest(uri: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """Tables of sequences (schema.REMEMBERED_SEQUENCES), file by file, each user's newest row alone."""
    seen: set[str] = set()
    for name in reversed(names):
        table = read_table(uri, name, REMEMBERED_SEQUENCES)
        if seen:
            table = table.filter(pc.invert(pc.is_in(table["user_id"], value_set=pa.array(sorted(seen), type=pa.string()))))
        if name.startswith(RECENT):  # the other files have no user twice
            seen.update(table["user_id"].to_pylist())
        yield table
