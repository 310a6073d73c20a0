"""Builds the memory on Ray Data: parts of user sequences stream through a pool of encoder actors into atomic commits.

An actor holds the model, encodes one part at a time and writes the rows itself, straight to the memory's storage; what travels through Ray
is the description of the files. The driver commits a part as soon as its description arrives, one version a part.

Exactly once: a part's commit is atomic and its sample_ids are stable, so a part is in the memory if and only if its first
sample_id is. A build killed anywhere and run again encodes the missing parts alone; files that were written but never committed belong
to no version.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy
from tqdm import tqdm

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import part_paths, read_part
from l2d_ray.errors import DataError
from l2d_ray.memory.table import Memory, entries_table, exists, write_entries
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import load_checkpoint, read_metadata
from l2d_ray.schema import TRAIN
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import tokenize_titles


@dataclass(frozen=True)
class BuildSummary:
    """What one call of ``build_memory`` did."""

    version: int
    num_entries: int
    num_parts: int
    num_parts_reused: int
    num_entries_encoded: int
    seconds: float


class PartEncoder:
    """An actor: part path -> rows written to the memory, and the files' description."""

    def __init__(self, checkpoint_dir: str, memory_uri: str, catalogue: Catalogue, device: str, max_batch_tokens: int) -> None:
        if device == "cpu":
            torch.set_num_threads(max(1, os.cpu_count() or 1))
        language_model = load_checkpoint(Path(checkpoint_dir), device=device)
        titles = tokenize_titles(language_model.tokenizer, catalogue.titles, language_model.settings.max_title_tokens)
        self._item_id_to_title = dict(zip(catalogue.item_ids, titles, strict=True))
        self._prompts = language_model.prompts
        self._encoder = Encoder(language_model.model, max_batch_tokens=max_batch_tokens)
        self._memory_uri = memory_uri

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (path,) = batch["path"]
        found = harvest(read_part(Path(path)), TRAIN, item_id_to_title=self._item_id_to_title, prompts=self._prompts)
        vectors = self._encoder.encode_windows(found.windows)
        fragments = write_entries(self._memory_uri, entries_table(found.targets, vectors))
        return {"path": [path], "fragments": ["\n".join(fragments)], "num_entries": [len(found.targets)]}


def build_memory(
    data_dir: Path,
    checkpoint_dir: Path,
    memory_uri: str,
    *,
    device: str,
    num_workers: int,
    max_batch_tokens: int,
) -> BuildSummary:
    """Bring the memory to hold every training sample, each once; does only what is missing."""
    started = time.monotonic()
    catalogue = Catalogue.read(data_dir / "items.parquet")
    memory = _open_or_create(memory_uri, checkpoint_dir, catalogue)
    first_ids = _first_sample_ids(part_paths(data_dir))
    committed = memory.present(list(first_ids.values()))
    pending = [path for path, sample_id in first_ids.items() if sample_id not in committed]
    num_encoded = 0
    with tqdm(total=len(first_ids), initial=len(first_ids) - len(pending), desc="memory", unit="part") as progress:
        for row in _encoded_parts(pending, (str(checkpoint_dir), memory_uri, catalogue, device, max_batch_tokens), num_workers):
            memory = memory.append(row["fragments"].split("\n"), message=f"build {Path(row['path']).stem}")
            num_encoded += row["num_entries"]
            progress.set_postfix(entries=num_encoded)
            progress.update()
    seconds = time.monotonic() - started
    return BuildSummary(memory.version, len(memory), len(first_ids), len(first_ids) - len(pending), num_encoded, round(seconds, 2))


def _open_or_create(memory_uri: str, checkpoint_dir: Path, catalogue: Catalogue) -> Memory:
    metadata = read_metadata(checkpoint_dir)
    if exists(memory_uri):
        return Memory.open(memory_uri, fingerprint=metadata["fingerprint"])
    return Memory.create(memory_uri, fingerprint=metadata["fingerprint"], dim=metadata["dim"], catalogue=catalogue)


def _first_sample_ids(paths: list[Path]) -> dict[str, int]:
    """For every part with training samples, the sample_id that is in the memory exactly if the part is."""
    first_ids = {}
    for path in paths:
        targets = (target for sequence in read_part(path) for target in sequence.targets(TRAIN))
        first = next(targets, None)
        if first is not None:
            first_ids[str(path)] = first.sample_id
    if not first_ids:
        raise DataError("No user has two training interactions, so there is nothing to remember; use more data.")
    return first_ids


def _encoded_parts(paths: list[str], constructor_args: tuple[Any, ...], num_workers: int) -> Any:
    """Rows of PartEncoder, as they come."""
    if not paths:
        return iter(())
    on_gpu = constructor_args[3] == "cuda"
    parts = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths))
    encoded = parts.map_batches(
        PartEncoder,
        fn_constructor_args=constructor_args,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(num_workers, len(paths))),
        num_gpus=1 if on_gpu else None,
    )
    return encoded.iter_rows()
