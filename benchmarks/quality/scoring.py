"""A row's figures: the protocol in both settings, slices of the test split, other seeds; and differences between rows.

Every system here ranks the whole catalogue by one order, from which the masked setting only takes items out (the baselines' contract, and
the decoders' exclusion). So a split is ranked once, to a depth that leaves 100 items after masking, and both settings are read from that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.bench import Bench, Row, rank_split, say
from l2d_ray.evaluate.metrics import PADDING, metric_means, paired_bootstrap
from l2d_ray.evaluate.protocol import NUM_RANKED, SystemScores, evaluate_system, masked_items
from l2d_ray.evaluate.queries import EncodedSplit

PAIRED_CUTOFFS: Final = (10, 20, 50)
SLICE_CUTOFFS: Final = (10, 20, 50)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RankedOnce:
    """Fits ``protocol.Ranker`` for the samples that ``ranked`` (n, depth) belongs to."""

    ranked: NDArray[np.int64]

    def __call__(self, _histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None) -> NDArray[np.int64]:
        if exclude is None:
            return self.ranked[:, :k]
        left = np.full((len(self.ranked), k), PADDING, np.int64)
        for row, items in enumerate(exclude):
            allowed = self.ranked[row][~np.isin(self.ranked[row], list(items))][:k]
            left[row, : len(allowed)] = allowed
        return left


@dataclass(frozen=True, eq=False)
class ScoredRow:
    """A row's record, and the targets' ranks by setting, of the test samples at ``rows``."""

    record: dict[str, Any]
    ranks: Mapping[str, NDArray[np.int64]]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Slices:
    """Parts of the test split, as masks over it, and what they were cut by."""

    masks: Mapping[str, Mask]
    thresholds: Mapping[str, float]


def slices_of(bench: Bench) -> Slices:
    """Dense and sparse targets by training interactions, long and short histories; the thresholds are medians over the test samples."""
    samples = bench.inputs.test.samples
    counts = bench.counts[samples.targets]
    lengths = np.array([len(history) for history in samples.histories])
    count, length = float(np.median(counts)), float(np.median(lengths))
    masks = {"dense": counts > count, "sparse": counts <= count, "long": lengths > length, "short": lengths <= length}
    return Slices(masks, {"target_count": count, "history_length": length})


def unreachable_share(bench: Bench) -> float:
    """Share of test samples whose target has no memory entry, so that no memory of training samples can hold it."""
    return float((~np.isin(bench.inputs.test.samples.targets, bench.inputs.entries.item_indexes)).mean())


def score_row(bench: Bench, name: str) -> ScoredRow:
    """Test scored once; a finished row is read from its files."""
    row = bench.rows[name]
    rows = bench.language_rows if row.family == "language" else np.arange(len(bench.inputs.test))
    depends = [*bench.depends(name), len(rows), bench.options.num_bootstrap, bench.options.seed]
    record, ranks = bench.store.read_record(name, depends), bench.store.read_arrays(name, depends)
    if record is None or ranks is None:
        fitted = bench.fitted(name)
        say(f"{name}: score {len(rows)} test samples")
        split = bench.inputs.test.take(rows)
        scores = evaluate_split(bench, row, fitted.system, name=name, split=split)
        ranks = {"unmasked": scores.unmasked.ranks, "masked": scores.masked.ranks}
        bench.store.write_arrays(name, depends, ranks)
        record = bench.store.write_record(name, depends, _described(bench, name) | _figures(scores))
    return ScoredRow(record, ranks, rows)


def evaluate_split(bench: Bench, row: Row, system: Any, *, name: str, split: EncodedSplit) -> SystemScores:
    """Both settings, from one ranking."""
    longest = max(len(masked_items(history)) for history in split.samples.histories)
    ranked = rank_split(row, system, split, NUM_RANKED + longest)
    options = bench.options
    return evaluate_system(name, RankedOnce(ranked), samples=split.samples, num_bootstrap=options.num_bootstrap, seed=options.seed)


def seed_metrics(bench: Bench, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Unmasked means of the row's settings with other seeds, one record a seed; nothing where the row knows no seed."""
    if bench.rows[name].refit is None:
        return {}
    return {
        str(seed): bench.store.record(f"{name}-seed{seed}", bench.depends(name), partial(_of_seed, bench, name, seed)) for seed in seeds
    }


def decoder_metrics(bench: Bench, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Unmasked means of those of the rows that are decoders of ours: what a run with another seed gives."""
    decoders = [name for name in names if bench.rows[name].family == "decoder"]
    return {name: dict(score_row(bench, name).record["unmasked"]["metrics"]) for name in decoders}


def differences(first: ScoredRow, other: ScoredRow, *, num_bootstrap: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """(first - other) by setting and metric, paired over the samples of ``other``, which must be among those of ``first``."""
    places = np.searchsorted(first.rows, other.rows)
    assert np.array_equal(first.rows[places], other.rows)
    found = {}
    for setting, ranks in other.ranks.items():
        intervals = paired_bootstrap(first.ranks[setting][places], ranks, PAIRED_CUTOFFS, num_bootstrap=num_bootstrap, seed=seed)
        found[setting] = {name: interval.to_json() for name, interval in intervals.items()}
    return found


def subset_metrics(scored: ScoredRow, subset: NDArray[np.int64]) -> dict[str, float]:
    """Unmasked means on the samples of ``scored`` that are in the subset."""
    return metric_means(scored.ranks["unmasked"][np.isin(scored.rows, subset)])


def slice_metrics(scored: ScoredRow, slices: Slices) -> dict[str, dict[str, float]]:
    """Unmasked means and the number of samples by slice; a slice without samples is left out."""
    found = {}
    for name, mask in slices.masks.items():
        ranks = scored.ranks["unmasked"][mask[scored.rows]]
        if len(ranks):
            found[name] = {"num_samples": len(ranks), **metric_means(ranks, SLICE_CUTOFFS)}
    return found


def _of_seed(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    say(f"{name}: seed {seed}")
    row = bench.rows[name]
    assert row.refit is not None
    system = row.refit(bench, bench.fitted(name).settings, seed)
    return dict(evaluate_split(bench, row, system, name=name, split=bench.inputs.test).unmasked.metrics)


def _plain(settings: Any) -> Any:
    """Settings as JSON."""
    return asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings


def _described(bench: Bench, name: str) -> dict[str, Any]:
    fitted = bench.fitted(name)
    best = max((score for _, score in fitted.tried), default=None)
    return {
        "family": bench.rows[name].family,
        "settings": _plain(fitted.settings),
        "num_trials": len(fitted.tried),
        "validation_ndcg@20": best,
        "fit_s": fitted.fit_s,
        "num_parameters": fitted.num_parameters,
    }


def _figures(scores: SystemScores) -> dict[str, Any]:
    found = scores.to_json()
    return {"num_samples": found["num_samples"], "unmasked": found["unmasked"], "masked": found["masked"]}
