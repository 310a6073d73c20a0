"""Builds the memory on Ray Data: parts of user sequences stream through a pool of encoder actors into atomic commits.

An actor encodes a part and writes the rows itself, straight to the memory's storage; what travels through Ray is the description of the
files. The driver commits a part as soon as its description arrives, one version a part.

Exactly once: a part's commit is atomic and its sample_ids are stable, so a part is in the memory if and only if its first
sample_id is. A build killed anywhere and run again encodes the missing parts alone; files that were written but never committed belong
to no version.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target, part_paths, read_part
from l2d_ray.errors import ArtefactError, DataError
from l2d_ray.memory.table import Memory, entries_table, exists, write_entries
from l2d_ray.model.loading import read_metadata
from l2d_ray.model.on_ray import EncoderSpec, encode_parts
from l2d_ray.schema import TRAIN


@dataclass(frozen=True)
class BuildSummary:
    """What one call of ``build_memory`` did."""

    version: int
    num_entries: int
    num_parts: int
    num_parts_reused: int
    num_entries_encoded: int
    seconds: float


def build_memory(data_dir: Path, memory_uri: str, *, spec: EncoderSpec, num_workers: int) -> BuildSummary:
    """Bring the memory to hold every training sample, each once; does only what is missing."""
    started = time.monotonic()
    catalogue = Catalogue.read(data_dir / "items.parquet")
    memory = _open_or_create(memory_uri, Path(spec.checkpoint_dir), catalogue, hash_of_data(data_dir))
    path_to_first_id = _first_sample_ids(part_paths(data_dir))
    committed = memory.present(list(path_to_first_id.values()))
    pending = [path for path, sample_id in path_to_first_id.items() if sample_id not in committed]
    num_encoded, sink = 0, partial(_write_part, memory_uri)
    num_reused = len(path_to_first_id) - len(pending)
    with tqdm(total=len(path_to_first_id), initial=num_reused, desc="memory", unit="part") as progress:
        for row in encode_parts(pending, TRAIN, spec=spec, catalogue=catalogue, sink=sink, num_workers=num_workers):
            memory = memory.append(row["fragments"].split("\n"), message=f"build {Path(row['path']).stem}")
            num_encoded += row["num_entries"]
            progress.set_postfix(entries=num_encoded)
            progress.update()
    seconds = round(time.monotonic() - started, 2)
    return BuildSummary(memory.version, len(memory), len(path_to_first_id), num_reused, num_encoded, seconds)


def _write_part(memory_uri: str, targets: list[Target], vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Sink of the encoder actors: rows to storage, uncommitted."""
    return {"fragments": "\n".join(write_entries(memory_uri, entries_table(targets, vectors))), "num_entries": len(targets)}


def hash_of_data(data_dir: Path) -> str:
    """Names the prepared data: the parts' bytes. Another k-core, filter or size of part is other data."""
    digest = blake2b(digest_size=8)
    for path in part_paths(data_dir):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _open_or_create(memory_uri: str, checkpoint_dir: Path, catalogue: Catalogue, data_hash: str) -> Memory:
    metadata = read_metadata(checkpoint_dir)
    if exists(memory_uri):
        memory = Memory.open(memory_uri, fingerprint=metadata["fingerprint"])
        if memory.metadata.data_hash != data_hash:
            raise ArtefactError(
                f"The memory at {memory_uri} was built from the data {memory.metadata.data_hash}, the data here is {data_hash}; "
                "delete that memory, or build one in another place."
            )
        return memory
    return Memory.create(memory_uri, fingerprint=metadata["fingerprint"], dim=metadata["dim"], catalogue=catalogue, data_hash=data_hash)


def _first_sample_ids(paths: list[Path]) -> dict[str, int]:
    """For every part with training samples, the sample_id that is in the memory exactly if the part is."""
    path_to_first_id = {}
    for path in paths:
        targets = (target for sequence in read_part(path) for target in sequence.targets(TRAIN))
        first = next(targets, None)
        if first is not None:
            path_to_first_id[str(path)] = first.sample_id
    if not path_to_first_id:
        raise DataError("No user has two training interactions, so there is nothing to remember; use more data.")
    return path_to_first_id
