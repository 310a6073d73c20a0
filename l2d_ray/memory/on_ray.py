"""Builds the memory on Ray Data: parts of user sequences stream through a pool of encoder actors into atomic commits.

An actor encodes a part and writes its rows and its user sequences itself, straight to the memory's storage; what travels through Ray is the
description of the files. The driver commits a part as soon as its description arrives; once many are committed, a few together
(``build.PARTS_PER_COMMIT``), since every version lists all files before it.

Exactly once: a version names the parts that it holds, and the rows of a part and its name are committed together or not at all. A build
killed anywhere and run again encodes the parts alone that no version names; files that were written but never committed belong to no
version, and jobs.memory cleans them away. Two builds at once do no harm: each drops a part that the other has committed. A memory that
already lives (append) is no place for a build, and a build that is not finished none for an append: a sample could come from both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target, UserSequence, part_number, part_paths, read_part, write_part
from l2d_ray.errors import ArtefactError, ConflictError, DataError
from l2d_ray.memory.build import CrashPoint, EncodedPart, commit_groups, commit_parts, nowhere, refuse_living
from l2d_ray.memory.commits import writing
from l2d_ray.memory.entries import NOTHING_WRITTEN, WrittenEntries, entries_table
from l2d_ray.memory.sequences import store_sequences, trained_sequences
from l2d_ray.memory.state import BuildRecord, author, now
from l2d_ray.memory.table import Memory, exists, write_to
from l2d_ray.model.loading import read_metadata
from l2d_ray.model.on_ray import EncoderSpec, encode_parts
from l2d_ray.schema import TRAIN, VALID

USERS_PER_TAIL: Final = 512
"""Users in one file of tails: the unit that an actor encodes."""


@dataclass(frozen=True)
class BuildSummary:
    """What one call of ``build_memory`` did; ``startup_s`` ends when the first part has been encoded."""

    version: int
    num_entries: int
    num_parts: int
    num_parts_reused: int
    num_entries_encoded: int
    startup_s: float
    work_s: float
    entries_per_s: float


@dataclass(frozen=True)
class _Clock:
    """Seconds of a build, its start-up (Ray, model, first part) apart from its work."""

    started: float
    first_done: float | None = None
    num_first: int = 0

    def after(self, num_entries: int) -> _Clock:
        return self if self.first_done is not None else replace(self, first_done=time.monotonic(), num_first=num_entries)

    def summary(self, memory: Memory, num_parts: int, num_reused: int, num_encoded: int) -> BuildSummary:
        end = time.monotonic()
        first = end if self.first_done is None else self.first_done
        rate = (num_encoded - self.num_first) / (end - first) if end > first else 0.0
        seconds = (round(first - self.started, 2), round(end - first, 2))
        return BuildSummary(memory.version, len(memory), num_parts, num_reused, num_encoded, *seconds, round(rate, 1))


def build_memory(
    data_dir: Path, memory_uri: str, *, spec: EncoderSpec, num_workers: int, data_name: str = "", crash_point: CrashPoint = nowhere
) -> BuildSummary:
    """Bring the memory to hold every training sample, each once; does only what is missing."""
    clock = _Clock(time.monotonic())
    catalogue = Catalogue.read(data_dir / "items.parquet")
    paths = part_paths(data_dir)
    _refuse_empty(paths)
    memory = _open_or_create(memory_uri, Path(spec.checkpoint_dir), catalogue, hash_of_data(data_dir))
    refuse_living(memory)
    record = memory.state.build or BuildRecord(author(), data_name, memory.metadata.data_hash, len(paths), now(), now(), 0.0, num_workers)
    pending = [str(path) for path in paths if part_number(path) not in memory.state.parts]
    sink = partial(_write_part, memory_uri, crash_point)
    rows = encode_parts(pending, TRAIN, spec=spec, catalogue=catalogue, sink=sink, num_workers=num_workers)
    num_encoded = 0
    shown = _shown(rows, num_parts=len(paths), num_reused=len(paths) - len(pending))
    for group in commit_groups((EncodedPart.of(row) for row in shown), len(memory.state.parts)):
        seconds = round(record.seconds + time.monotonic() - clock.started, 2)
        finished = replace(record, finished_at=now(), seconds=seconds, num_workers=num_workers)
        memory = commit_parts(memory, group, finished, crash_point)
        num_group = sum(part.written.num_entries for part in group)
        num_encoded += num_group
        clock = clock.after(num_group)
    if len(memory.state.parts) < len(paths):
        raise ConflictError(f"The memory at {memory_uri} was rolled back while it was built; run the same again for what is missing.")
    return clock.summary(memory, len(paths), len(paths) - len(pending), num_encoded)


def _shown(rows: Iterator[dict[str, Any]], *, num_parts: int, num_reused: int) -> Iterator[dict[str, Any]]:
    """The rows, with a bar that shows parts, time left, entries and entries a second."""
    started, num_entries = time.monotonic(), 0
    with tqdm(total=num_parts, initial=num_reused, desc="memory", unit="part") as bar:
        for row in rows:
            yield row
            num_entries += row["written"]["num_entries"]
            bar.set_postfix_str(f"{num_entries:,} entries, {num_entries / (time.monotonic() - started):,.0f}/s", refresh=False)
            bar.update()


def _write_part(
    memory_uri: str, crash_point: CrashPoint, path: Path, targets: list[Target], vectors: NDArray[np.float32]
) -> dict[str, Any]:
    """Sink of the encoder actors: rows and user sequences to storage, uncommitted."""
    part = part_number(path)
    crash_point("before-write", part)
    written = write_to(memory_uri, entries_table(targets, vectors))
    with writing(memory_uri):
        sequences = store_sequences(memory_uri, trained_sequences(read_part(path)))
    crash_point("after-write", part)
    return {"written": asdict(written), "sequences": sequences}


def hash_of_data(data_dir: Path) -> str:
    """Names the prepared data: the bytes of parts and titles. Another k-core, filter or size of part is other data."""
    digest = blake2b(digest_size=8)
    for path in (data_dir / "items.parquet", *part_paths(data_dir)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _open_or_create(memory_uri: str, checkpoint_dir: Path, catalogue: Catalogue, data_hash: str) -> Memory:
    metadata = read_metadata(checkpoint_dir)
    if not exists(memory_uri):
        with suppress(ConflictError):  # another build has just made it
            made_with = {"fingerprint": metadata["fingerprint"], "dim": metadata["dim"], "data_hash": data_hash}
            return Memory.create(memory_uri, catalogue=catalogue, **made_with)
    memory = Memory.open(memory_uri, fingerprint=metadata["fingerprint"])
    if memory.metadata.data_hash != data_hash:
        raise ArtefactError(
            f"The memory at {memory_uri} was built from the data {memory.metadata.data_hash}, the data here is {data_hash}; "
            "delete that memory, or build one in another place."
        )
    return memory


def _refuse_empty(paths: list[Path]) -> None:
    if not any(sequence.num_train > 1 for path in paths for sequence in read_part(path)):
        raise DataError("No user has two training interactions, so there is nothing to remember; use more data.")


def encode_tails(
    memory: Memory,
    sequences: Sequence[UserSequence],
    left_out: frozenset[int],
    *,
    catalogue: Catalogue,
    staging_dir: Path,
    spec: EncoderSpec,
    num_workers: int,
) -> WrittenEntries:
    """Rows of users' tails (``append.EncodeTails``): encoded by the pool of actors, written to the memory's storage, not committed.

    Args:
        catalogue: the memory's with the new items.
        staging_dir: a folder that every node sees; the tails pass through files in it.
    """
    with tempfile.TemporaryDirectory(dir=staging_dir) as folder:
        paths: list[Path] = []
        for start in range(0, len(sequences), USERS_PER_TAIL):
            paths.append(Path(folder) / f"part-{len(paths):05d}.parquet")
            write_part(paths[-1], sequences[start : start + USERS_PER_TAIL])
        sink = partial(_write_tail, memory.uri, left_out)
        rows = encode_parts([str(path) for path in paths], VALID, spec=spec, catalogue=catalogue, sink=sink, num_workers=num_workers)
        shown = _shown(rows, num_parts=len(paths), num_reused=0)
        return sum((WrittenEntries(**row["written"]) for row in shown), start=NOTHING_WRITTEN)


def _write_tail(
    memory_uri: str, left_out: frozenset[int], path: Path, targets: list[Target], vectors: NDArray[np.float32]
) -> dict[str, Any]:
    """Sink of the encoder actors: the rows of a file of tails, but those that are left out."""
    kept = [row for row, target in enumerate(targets) if target.sample_id not in left_out]
    return {"written": asdict(write_to(memory_uri, entries_table([targets[row] for row in kept], vectors[kept])))}
