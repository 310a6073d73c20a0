"""Reads a data set that has its split already: ``items.txt.gz`` with ``samples.tsv.gz`` and ``interactions.tsv.gz`` (as the D3 protocol
left it), or with ``sequences.tsv.gz``.

The folder's own split is kept (a digit per target, in global time order), so figures are comparable with others on the same files.
User sequences come from ``interactions.tsv.gz``; a user's samples stand in the order of their targets, which is checked row by row
against the stored histories. Timestamps there are starts of 10-day buckets, and a third are missing; since samples stand in global time
order, a missing one is that of the sample before it. The position is added as seconds, to keep the order within a user.
``sequences.tsv.gz`` has users, their items in order and a digit for each (0 train, 1 valid, 2 test), and no times.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, write_part
from l2d_ray.errors import DataError
from l2d_ray.schema import SPLIT_NAMES, stable_hash

SEQUENCES: Final = "sequences.tsv.gz"


def convert(folder: Path, data_dir: Path, *, users_per_part: int = 512) -> None:
    """Write ``data_dir`` as jobs.prepare_data would; does nothing where it is there already."""
    if data_dir.is_dir():
        return
    found = _stored_sequences(folder) if (folder / SEQUENCES).is_file() else _sequences(folder)
    sequences = sorted(found, key=lambda s: (stable_hash(s.user_id), s.user_id))
    catalogue = Catalogue.from_rows((item_id, title, {}) for title, item_id in _rows(folder / "items.txt.gz", header=False))
    partial = data_dir.with_name(data_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "sequences").mkdir(parents=True)
    catalogue.write(partial / "items.parquet")
    for part, start in enumerate(range(0, len(sequences), users_per_part)):
        write_part(partial / "sequences" / f"part-{part:05d}.parquet", sequences[start : start + users_per_part])
    num_samples = [sum(len(s.target_positions(split)) for s in sequences) for split in range(len(SPLIT_NAMES))]
    sizes = {f"num_{name}_samples": number for name, number in zip(SPLIT_NAMES, num_samples, strict=True)}
    card = {"name": folder.name, "num_users": len(sequences), "num_items": len(catalogue), **sizes}
    (partial / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    partial.rename(data_dir)


def _stored_sequences(folder: Path) -> Iterator[UserSequence]:
    for row in _rows(folder / SEQUENCES):
        item_ids, digits = (row[1].split(), row[2]) if len(row) == 3 else ([], "")
        if not item_ids or len(item_ids) != len(digits) or list(digits) != sorted(digits) or not set(digits) <= set("012"):
            raise DataError(f"User {row[0]} in {folder / SEQUENCES} has not one split (0, 1, 2, ascending) an item; the folder is damaged.")
        yield UserSequence(row[0], tuple(item_ids), (None,) * len(item_ids), tuple(map(int, digits)))


def _sequences(folder: Path) -> Iterator[UserSequence]:
    items: dict[str, list[str]] = defaultdict(list)
    times: dict[str, list[int | None]] = defaultdict(list)
    for user_id, stored_position, item_id, _rating, _exact, bucket_start in _rows(folder / "interactions.tsv.gz"):
        assert int(stored_position) == len(items[user_id])
        items[user_id].append(item_id)
        times[user_id].append(int(bucket_start) if bucket_start else None)
    splits: dict[str, list[int]] = defaultdict(list)
    latest = None
    for split, user_id, _timestamp, history, item_id in _rows(folder / "samples.tsv.gz"):
        position = len(splits[user_id]) + 1
        if items[user_id][max(0, position - 10) : position + 1] != [*history.split(), item_id]:
            raise DataError(f"Sample {position} of user {user_id} in {folder} does not match interactions.tsv.gz; the folder is damaged.")
        splits[user_id].append(SPLIT_NAMES.index(split))
        latest = times[user_id][position] = _first_known(times[user_id][position], latest)
    for user_id, of_user in items.items():
        first, *others = times[user_id]
        filled = [_first_known(first, *others), *others]
        seconds = [None if time is None else time + position for position, time in enumerate(filled)]
        yield UserSequence(user_id, tuple(of_user), tuple(seconds), (splits[user_id][0], *splits[user_id]))


def _first_known(*times: int | None) -> int | None:
    return next((time for time in times if time is not None), None)


def _rows(path: Path, *, header: bool = True) -> Iterator[list[str]]:
    if not path.is_file():
        raise DataError(f"There is no {path}; give a folder with items.txt.gz, and samples.tsv.gz with interactions.tsv.gz or {SEQUENCES}.")
    with gzip.open(path, "rt", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if header:
            next(rows)
        yield from rows
