"""User sequences: every later stage's view of the data. One row a user, stored in parts of a bounded number of users.

``data_dir/sequences/part-00000.parquet`` and so on; a part is the unit that is streamed, encoded and committed. A user is in exactly
one part, and a part's content depends only on the data and the settings, never on timing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from l2d_ray.errors import DataError
from l2d_ray.schema import SEQUENCES, TRAIN, sample_id_of


@dataclass(frozen=True, slots=True)
class Target:
    """A sample without its history: which user chose which item, when, at which position of the user's sequence."""

    user_id: str
    item_id: str
    timestamp: int | None
    position: int

    @property
    def sample_id(self) -> int:
        return sample_id_of(self.user_id, self.item_id, timestamp=self.timestamp, position=self.position)


@dataclass(frozen=True, slots=True)
class UserSequence:
    """A user's interactions, oldest first; the four tuples are parallel."""

    user_id: str
    item_ids: tuple[str, ...]
    timestamps: tuple[int | None, ...]
    splits: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def num_train(self) -> int:
        """How many leading interactions belong to the training split."""
        return self.splits.count(TRAIN)

    def target_positions(self, split: int) -> range:
        """Positions p >= 1 whose interaction is a target of ``split``; the sample's history is everything before p."""
        first = sum(1 for s in self.splits if s < split)
        return range(max(first, 1), first + self.splits.count(split))

    def targets(self, split: int) -> list[Target]:
        """The split's targets, ascending by position."""
        return [Target(self.user_id, self.item_ids[p], self.timestamps[p], p) for p in self.target_positions(split)]


def write_part(path: Path, sequences: Iterable[UserSequence]) -> None:
    """Write one part, rows in the order given."""
    rows = list(sequences)
    columns = [
        [s.user_id for s in rows],
        [list(s.item_ids) for s in rows],
        [list(s.timestamps) for s in rows],
        [list(s.splits) for s in rows],
    ]
    pq.write_table(pa.table(columns, schema=SEQUENCES), path)


def sequences_from_arrow(table: pa.Table) -> list[UserSequence]:
    """Rows of a table with the SEQUENCES schema."""
    columns = (table[name].to_pylist() for name in SEQUENCES.names)
    return [UserSequence(u, tuple(i), tuple(t), tuple(s)) for u, i, t, s in zip(*columns, strict=True)]


def read_part(path: Path) -> list[UserSequence]:
    """All users of one part, in stored order."""
    return sequences_from_arrow(pq.read_table(path, schema=SEQUENCES))


def part_paths(data_dir: Path) -> list[Path]:
    """Every part in ascending order; DataError where there is none."""
    paths = sorted((data_dir / "sequences").glob("part-*.parquet"))
    if not paths:
        raise DataError(f"There are no user sequences under {data_dir / 'sequences'}; run jobs.prepare_data first.")
    return paths


def part_number(path: Path) -> int:
    """The N of ``part-N.parquet``: a part's identity within its prepared data."""
    return int(path.stem.rpartition("-")[2])


def iter_sequences(data_dir: Path) -> Iterator[UserSequence]:
    """Stream every user, part by part."""
    for path in part_paths(data_dir):
        yield from read_part(path)
