"""Choice of a baseline's settings on validation: every candidate is fitted and scored alike; only the best system is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from l2d_ray.baselines.interface import Baseline
from l2d_ray.errors import ConfigError, DataError
from l2d_ray.evaluate.metrics import ndcg_values, target_ranks

Settings = TypeVar("Settings")
System = TypeVar("System")
Fitted = TypeVar("Fitted", bound=Baseline)


@dataclass(frozen=True, eq=False)
class ValidationSamples:
    """What settings are chosen and training is stopped by: histories (item indexes, oldest first) and their targets (n,) int64."""

    histories: Sequence[Sequence[int]]
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not len(self.targets) or self.targets.shape != (len(self.histories),):
            raise DataError(
                f"There are {len(self.histories)} histories and targets of shape {self.targets.shape}; "
                "validation needs one target for each history, and at least one."
            )


@dataclass(frozen=True)
class Tuned(Generic[Settings, System]):
    """The chosen settings, the system fitted with them, and the ndcg@20 on validation of every candidate, in the order tried."""

    settings: Settings
    system: System = field(repr=False, compare=False)
    ndcg_at_20: tuple[tuple[Settings, float], ...]


@dataclass(frozen=True)
class Steps(Generic[Settings]):
    """A grid for what has many settings or takes long to fit: the best of ``starts``, then field by field other values for it.

    Attributes:
        starts: dataclasses.
        fields: (name, values) in the order in which they are chosen, each with the best values of those before.
    """

    starts: tuple[Settings, ...]
    fields: tuple[tuple[str, tuple[Any, ...]], ...] = ()


def validation_ndcg(system: Baseline, validation: ValidationSamples) -> float:
    """Mean ndcg@20 by item id, nothing excluded."""
    ranked = system.rank(validation.histories, 20)
    return float(ndcg_values(target_ranks(ranked, validation.targets), 20).mean())


def tune(grid: Iterable[Settings], fit: Callable[[Settings], Fitted], validation: ValidationSamples) -> Tuned[Settings, Fitted]:
    """The candidate of best ndcg@20; the earlier one wins a tie. ConfigError for an empty grid."""
    return choose(grid, fit, lambda system: validation_ndcg(system, validation))


def choose(grid: Iterable[Settings], fit: Callable[[Settings], System], score: Callable[[System], float]) -> Tuned[Settings, System]:
    """Like ``tune``, for systems that rank something else than histories; ``score`` is their ndcg@20."""
    tried: list[tuple[Settings, float]] = []
    best: tuple[Settings, System, float] | None = None
    for settings in grid:
        system = fit(settings)
        reached = score(system)
        tried.append((settings, reached))
        if best is None or reached > best[2]:
            best = (settings, system, reached)
    if best is None:
        raise ConfigError("The grid holds no settings to try; give at least one.")
    return Tuned(best[0], best[1], tuple(tried))


def tune_in_steps(steps: Steps[Settings], fit: Callable[[Settings], Fitted], validation: ValidationSamples) -> Tuned[Settings, Fitted]:
    """Like ``tune``: each field's candidates differ in it from the best so far."""
    best = tune(steps.starts, fit, validation)
    for name, values in steps.fields:
        candidates = [replace(best.settings, **{name: value}) for value in values]  # type: ignore[type-var]
        found = tune(candidates, fit, validation)
        tried = best.ndcg_at_20 + found.ndcg_at_20
        is_better = max(score for _, score in found.ndcg_at_20) > max(score for _, score in best.ndcg_at_20)
        best = replace(found if is_better else best, ndcg_at_20=tried)
    return best
