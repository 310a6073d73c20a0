"""Histories of training samples, for explanations: which titles somebody had met before choosing an item. Users stay hidden.

A sample is known by its sample_id alone; the memory says whose it is and the user's sequence what came before. Users who were forgotten are
never shown, wherever their rows still stand. Reads the memory, so it takes milliseconds to seconds with its size; what was found is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Final

from l2d_ray.memory.sequences import RememberedSequence, load_sequences
from l2d_ray.memory.table import Memory

MAX_KEPT: Final = 20_000
SHOWN_HISTORY: Final = 5


@dataclass(frozen=True)
class SampleHistory:
    """Whose sample it is, and its last items before the target, oldest first."""

    user_id: str
    item_ids: tuple[str, ...]


class SampleHistories:
    """Of one version of a memory; any thread may ask, one is answered at a time."""

    def __init__(self, memory_uri: str, version: int) -> None:
        self._memory_uri = memory_uri
        self._version = version
        self._kept: OrderedDict[int, SampleHistory | None] = OrderedDict()
        self._lock = Lock()

    def find(self, sample_ids: Collection[int]) -> Mapping[int, SampleHistory]:
        """The histories of samples; those that the memory lacks are missing. ArtefactError where the version can no longer be read."""
        with self._lock:
            unknown = sorted(set(sample_ids) - self._kept.keys())
            if unknown:
                found = self._read(unknown)
                self._kept.update({sample_id: found.get(sample_id) for sample_id in unknown})
            answer = {sample_id: history for sample_id in sample_ids if (history := self._kept[sample_id]) is not None}
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return answer

    def _read(self, sample_ids: Collection[int]) -> dict[int, SampleHistory]:
        memory = Memory.open(self._memory_uri, version=self._version)
        condition = f"sample_id IN ({', '.join(map(str, sample_ids))})"
        batches = (batch for fragment in memory.fragments for batch in memory.rows_of(fragment, condition))
        users = {user_id for batch in batches for user_id in batch.user_ids.to_pylist()}
        sequences = load_sequences(memory.uri, memory.state.sequences, users)
        return _histories_in(sequences, set(sample_ids))


def _histories_in(sequences: Mapping[str, RememberedSequence], sample_ids: set[int]) -> dict[int, SampleHistory]:
    return {
        target.sample_id: SampleHistory(user_id, sequence.item_ids[max(0, target.position - SHOWN_HISTORY) : target.position])
        for user_id, sequence in sequences.items()
        for target in sequence.targets_from(1)
        if target.sample_id in sample_ids
    }
