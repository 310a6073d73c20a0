"""Samples of a split with their query vectors: what tuning and evaluation rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import read_part
from l2d_ray.evaluate.protocol import EvaluationSamples


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """Samples and, row by row, their query vectors (n, d) float32 and timestamps (n,) int64 (-1 where unknown)."""

    samples: EvaluationSamples
    queries: NDArray[np.float32]
    timestamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.samples)

    def latest(self, max_samples: int) -> EncodedSplit:
        """The latest ``max_samples`` samples, in the order they stand in; all where there are fewer."""
        return self.take(self.latest_rows(max_samples))

    def latest_rows(self, max_samples: int) -> NDArray[np.int64]:
        """Their positions, ascending."""
        return np.sort(np.argsort(self.timestamps, kind="stable")[-max_samples:])

    def take(self, rows: NDArray[np.int64]) -> EncodedSplit:
        histories = [self.samples.histories[row] for row in rows]
        samples = EvaluationSamples(histories, self.samples.targets[rows], self.samples.titles)
        return EncodedSplit(samples, self.queries[rows], self.timestamps[rows])


def samples_of_parts(paths: Iterable[Path], split: int, catalogue: Catalogue) -> tuple[EvaluationSamples, NDArray[np.int64]]:
    """All samples of a split in the order in which ``text.harvest`` gives their states, and their timestamps."""
    histories, targets, timestamps = [], [], []
    for path in paths:
        for sequence in read_part(path):
            items = catalogue.indexes_of(sequence.item_ids)
            for target in sequence.targets(split):
                histories.append(items[: target.position])
                targets.append(items[target.position])
                timestamps.append(-1 if target.timestamp is None else target.timestamp)
    samples = EvaluationSamples(histories, np.array(targets, dtype=np.int64), catalogue.titles)
    return samples, np.array(timestamps, dtype=np.int64)
