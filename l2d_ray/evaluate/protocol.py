"""The one protocol of every system: same samples, full ranking over the catalogue, by item id and by title, in two settings.

- **unmasked**: nothing is excluded from the ranking; an item of the history may be recommended again.
- **masked**: every item of the history except the last one is excluded. A target that is among the excluded items then counts as a miss,
  for every system alike, so masked and unmasked figures are not comparable with each other.

A system is a function: whatever ranks items, in one process or behind HTTP, is scored by ``evaluate_system``. Where ranks were computed
elsewhere (for example in parts, on Ray), ``score_ranks`` makes the same record of them. Nothing here is tuned; a test split is only read.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import DataError
from l2d_ray.evaluate.metrics import CUTOFFS, Interval, Ranks, bootstrap_intervals, metric_means, target_ranks, target_title_ranks

NUM_RANKED: Final = max(CUTOFFS)
"""Items every system is asked for."""


class Ranker(Protocol):
    """A system under evaluation."""

    def __call__(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None, /) -> NDArray[np.int64]:
        """Best items first: (n, k) int64 item indexes padded with -1, row i for ``histories[i]`` (oldest first), none of ``exclude[i]``."""


@dataclass(frozen=True)
class EvaluationSamples:
    """Samples as item indexes; row i of ``histories`` (oldest first) and of ``targets`` (n,) int64 belong together.

    ``titles[j]`` is the title of item j, for every item of the catalogue.
    """

    histories: Sequence[Sequence[int]]
    targets: NDArray[np.int64]
    titles: Sequence[str]

    def __post_init__(self) -> None:
        if self.targets.shape != (len(self.histories),):
            raise DataError(f"{len(self.histories)} histories do not fit targets of shape {self.targets.shape}; wanted one target each.")
        if self.targets.size and not 0 <= self.targets.min() <= self.targets.max() < len(self.titles):
            raise DataError(f"Targets lie in {self.targets.min()}..{self.targets.max()}, wanted item indexes below {len(self.titles)}.")

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class SettingScores:
    """A system in one setting. ``ranks`` and ``title_ranks`` (n,) int64 are kept for paired comparisons, not for the JSON."""

    by_id: dict[str, Interval]
    by_title: dict[str, float]
    ranks: Ranks = field(repr=False, compare=False)
    title_ranks: Ranks = field(repr=False, compare=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Means by item id: ``{"recall@10": 0.1, ...}``."""
        return {name: interval.mean for name, interval in self.by_id.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals by item id: ``{"recall@10": (low, high), ...}``."""
        return {name: (interval.low, interval.high) for name, interval in self.by_id.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "metrics": self.metrics,
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "by_title": dict(self.by_title),
        }


@dataclass(frozen=True)
class SystemScores:
    """A system in both settings; ``seconds_per_request`` is None where it was not measured."""

    name: str
    num_samples: int
    unmasked: SettingScores
    masked: SettingScores
    seconds_per_request: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "num_samples": self.num_samples,
            "unmasked": self.unmasked.to_json(),
            "masked": self.masked.to_json(),
            "seconds_per_request": self.seconds_per_request,
        }


def masked_items(history: Sequence[int]) -> set[int]:
    """What the masked setting excludes: every item of the history that is not its last one."""
    return set(history) - set(history[-1:])


def score_ranks(ranks: Ranks, title_ranks: Ranks, *, num_bootstrap: int = 1000, seed: int = 0) -> SettingScores:
    """Scores of one setting from the targets' 0-based ranks, by item id and by title; (n,) int64 each, -1 is a miss."""
    return SettingScores(
        by_id=bootstrap_intervals(ranks, num_bootstrap=num_bootstrap, seed=seed),
        by_title=metric_means(title_ranks),
        ranks=ranks,
        title_ranks=title_ranks,
    )


def evaluate_system(name: str, rank: Ranker, *, samples: EvaluationSamples, num_bootstrap: int = 1000, seed: int = 0) -> SystemScores:
    """Score a system in both settings. Seconds per request are the unmasked call's wall time divided by the number of samples."""
    started = time.perf_counter()
    unmasked = rank(samples.histories, NUM_RANKED, None)
    seconds = time.perf_counter() - started
    masked = rank(samples.histories, NUM_RANKED, [masked_items(history) for history in samples.histories])
    return SystemScores(
        name=name,
        num_samples=len(samples),
        unmasked=_score(unmasked, samples, num_bootstrap=num_bootstrap, seed=seed),
        masked=_score(masked, samples, num_bootstrap=num_bootstrap, seed=seed),
        seconds_per_request=seconds / max(len(samples), 1),
    )


def _score(ranked: NDArray[np.int64], samples: EvaluationSamples, *, num_bootstrap: int, seed: int) -> SettingScores:
    ranks = target_ranks(ranked, samples.targets)
    title_ranks = target_title_ranks(ranked, samples.targets, titles=samples.titles)
    return score_ranks(ranks, title_ranks, num_bootstrap=num_bootstrap, seed=seed)


def format_table(systems: Sequence[SystemScores]) -> str:
    """Text table of all systems in the order given: one block a setting, then one by title; columns aligned, no trailing blanks."""
    blocks = [
        ("unmasked, by item id", [system.unmasked.metrics for system in systems]),
        ("masked (history except its last item), by item id", [system.masked.metrics for system in systems]),
        ("unmasked, by title", [system.unmasked.by_title for system in systems]),
    ]
    return "\n\n".join(f"{title}\n{_format_block(systems, rows)}" for title, rows in blocks)


def _format_block(systems: Sequence[SystemScores], rows: Sequence[dict[str, float]]) -> str:
    columns = list(rows[0]) if rows else []
    table = [["system", *columns, "ms/request"]]
    for system, metrics in zip(systems, rows, strict=True):
        table.append([system.name, *(f"{metrics[column]:.4f}" for column in columns), _format_ms(system.seconds_per_request)])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(_format_row(row, widths) for row in table)


def _format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def _format_ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3f}"
