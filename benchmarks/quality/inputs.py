"""What the rows are made of: a finished run, its user sequences as item indexes, its encoded splits, its memory as arrays.

Query vectors are encoded once, in this process, and kept as ``queries-SPLIT-FINGERPRINT-DATA.npy``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.inputs import LoadedRun, load_run
from l2d_ray.config import RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, iter_sequences, part_paths
from l2d_ray.evaluate.queries import EncodedSplit, samples_of_parts
from l2d_ray.index.layout import Index, open_index
from l2d_ray.memory.on_ray import hash_of_data
from l2d_ray.memory.pairs import ItemPairs, ItemSequences, count_pairs
from l2d_ray.memory.statistics import NO_TIMESTAMP, Decay, ItemStatistics, PooledStatistics
from l2d_ray.memory.titles import TitleMap, TitleStates
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, load_checkpoint
from l2d_ray.schema import SPLIT_NAMES, TEST, TRAIN, VALID
from l2d_ray.text.harvest import Harvest, harvest


@dataclass(frozen=True)
class Interactions:
    """Users' items up to the end of a split, oldest first, and their times (-1 where unknown); parallel lists."""

    items: list[list[int]]
    times: list[list[int]]

    @cached_property
    def known_times(self) -> list[list[int]] | None:
        """The times, or None where none is known."""
        return self.times if any(time >= 0 for of_user in self.times for time in of_user) else None

    @cached_property
    def last_times(self) -> list[int] | None:
        """Each user's last time, -1 for a user without any; None where none is known."""
        return None if self.known_times is None else [of_user[-1] if of_user else NO_TIMESTAMP for of_user in self.known_times]

    def pairs(self, statistics: ItemStatistics, *, num_items: int) -> ItemPairs:
        """Item pairs of a memory with these statistics that remembers these interactions."""
        sequences = [ItemSequences.of(self.items, self.times)]
        return count_pairs(lambda: sequences, statistics.item_indexes, statistics.counts, num_items)


@dataclass(frozen=True, eq=False)
class Entries:
    """Memory entries: sample_ids, item_indexes, timestamps (n,) int64 and vectors (n, d) float16."""

    sample_ids: NDArray[np.int64]
    item_indexes: NDArray[np.int64]
    vectors: NDArray[np.float16]
    timestamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def take(self, rows: NDArray[np.int64]) -> Entries:
        return Entries(self.sample_ids[rows], self.item_indexes[rows], self.vectors[rows], self.timestamps[rows])

    @classmethod
    def joined(cls, parts: Iterable[Entries]) -> Entries:
        """All entries of at least one part."""
        listed = list(parts)
        names = ("sample_ids", "item_indexes", "vectors", "timestamps")
        return cls(*(np.concatenate([getattr(part, name) for part in listed]) for name in names))


@dataclass(frozen=True, eq=False)
class Inputs:
    """A run, read once.

    Attributes:
        train, until_valid: user sequences without and with the validation split.
        valid, test: what is tuned on, and what is scored once.
        entries: the memory, training samples alone.
        valid_entries: the validation samples as entries of a memory: what the living memory gets.
        titles: states of all titles; None where the index has none.
        entry_users, valid_users: numbers of the users, of every entry and validation sample.
        memory_digest: of the memory version that the index was built from.
    """

    run: LoadedRun
    language_model: LanguageModel
    train: Interactions
    until_valid: Interactions
    valid: EncodedSplit
    test: EncodedSplit
    entries: Entries
    valid_entries: Entries
    decay: Decay
    memory_digest: str
    titles: TitleStates | None
    entry_users: NDArray[np.int64]
    valid_users: NDArray[np.int64]
    num_users: int
    data_dir: Path

    @property
    def num_items(self) -> int:
        return len(self.run.catalogue)

    def pooled(self, statistics: ItemStatistics) -> PooledStatistics:
        """Of a memory with these statistics, with its title map."""
        return pooled_with(statistics, self.titles)

    def encode(self, encoder: Encoder, split: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """sample_ids and states (n, d) of all samples of a split, in the order of the users."""
        found = _harvested(self.run, self.data_dir, split)
        return np.array([target.sample_id for target in found.targets], np.int64), encoder.encode_windows(found.windows)


def pooled_with(statistics: ItemStatistics, titles: TitleStates | None) -> PooledStatistics:
    """Of a memory with these statistics, with its title map where there are titles."""
    found = PooledStatistics.of([statistics])
    return found if titles is None else replace(found, title_map=TitleMap.fit([statistics.titled(titles)]))


def read_inputs(config: RunConfig, cache_dir: Path, *, max_samples: int | None = None) -> Inputs:
    """Everything of a finished run.

    Args:
        max_samples: at most so many validation samples (the latest) and test samples (drawn with the run's seed); None takes all.
    """
    run = load_run(config)
    sequences = list(iter_sequences(config.data_dir))
    index = open_index(config.index_dir)
    valid, test = (read_split(config, run, split, cache_dir) for split in (VALID, TEST))
    sample_ids = np.array([target.sample_id for sequence in sequences for target in sequence.targets(VALID)], np.int64)
    valid_entries = Entries(sample_ids, valid.samples.targets, valid.queries.astype(np.float16), valid.timestamps)
    users = {split: _users(sequences, split) for split in (TRAIN, VALID)}
    valid_users = np.array([users[VALID][sample_id] for sample_id in sample_ids.tolist()], np.int64)
    entries = _entries_of(index)
    titled = [index.titles(shard) for shard in range(index.manifest.num_shards)]
    if max_samples is not None:
        valid_users = valid_users[valid.latest_rows(max_samples)]
        valid, test = valid.latest(max_samples), test.take(drawn(len(test), max_samples, seed=config.seed))
    return Inputs(
        run=run,
        language_model=load_checkpoint(config.checkpoint_dir, device=run.device),
        train=_interactions(sequences, run.catalogue, last_split=0),
        until_valid=_interactions(sequences, run.catalogue, last_split=VALID),
        valid=valid,
        test=test,
        entries=entries,
        valid_entries=valid_entries,
        decay=Decay(index.manifest.half_life_s, index.manifest.reference_time),
        memory_digest=index.manifest.digest,
        titles=TitleStates.joined([part for part in titled if part is not None]) if all(titled) else None,
        entry_users=np.array([users[TRAIN][sample_id] for sample_id in entries.sample_ids.tolist()], np.int64),
        valid_users=valid_users,
        num_users=len(sequences),
        data_dir=config.data_dir,
    )


def _users(sequences: Iterable[UserSequence], split: int) -> dict[int, int]:
    """sample_id -> place of its user."""
    return {target.sample_id: user for user, sequence in enumerate(sequences) for target in sequence.targets(split)}


def drawn(num_samples: int, count: int, *, seed: int) -> NDArray[np.int64]:
    """``count`` distinct positions below ``num_samples``, ascending; all where there are fewer."""
    return np.sort(np.random.default_rng(seed).permutation(num_samples)[:count])


def read_split(config: RunConfig, run: LoadedRun, split: int, cache_dir: Path) -> EncodedSplit:
    """All samples of a split with their query vectors, encoded where the cache does not have them."""
    samples, timestamps = samples_of_parts(part_paths(config.data_dir), split, run.catalogue)
    fingerprint = open_index(config.index_dir).manifest.fingerprint
    path = cache_dir / f"queries-{SPLIT_NAMES[split]}-{fingerprint}-{hash_of_data(config.data_dir)}.npy"
    if not path.is_file():
        partial = path.with_suffix(".partial.npy")
        np.save(partial, run.decoder.encoder.encode_windows(_harvested(run, config.data_dir, split).windows))
        partial.rename(path)
    return EncodedSplit(samples, np.load(path, allow_pickle=False), timestamps)


def _harvested(run: LoadedRun, data_dir: Path, split: int) -> Harvest:
    """All samples of a split as texts, in the order of the users."""
    writer = run.decoder.writer
    item_id_to_title = dict(zip(run.catalogue.item_ids, writer.titles, strict=True))
    return harvest(iter_sequences(data_dir), split, item_id_to_title=item_id_to_title, prompts=writer.prompts)


def _interactions(sequences: Iterable[UserSequence], catalogue: Catalogue, *, last_split: int) -> Interactions:
    items, times = [], []
    for sequence in sequences:
        stop = sum(1 for split in sequence.splits if split <= last_split)
        items.append(catalogue.indexes_of(sequence.item_ids[:stop]))
        times.append([NO_TIMESTAMP if time is None else time for time in sequence.timestamps[:stop]])
    return Interactions(items, times)


def _entries_of(index: Index) -> Entries:
    parts = []
    for shard in index.shards():
        for live in shard.live_segments:
            rows, segment = live.live_positions(), live.segment
            items = live.item_indexes[segment.item_slots[rows]]
            parts.append(Entries(segment.sample_ids[rows], items, segment.vectors[rows], segment.timestamps[rows].astype(np.int64)))
    return Entries.joined(parts)
