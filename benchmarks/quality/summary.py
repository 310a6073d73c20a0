"""The figures of the JSON line, put together from the records, and the targets of the data sets that have some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.quality.bench import Bench
from benchmarks.quality.fusion import FUSION_ROWS
from benchmarks.quality.scoring import ScoredRow, differences, seed_metrics, slice_metrics, slices_of, subset_metrics, unreachable_share
from benchmarks.quality.state_rows import DEFAULT
from benchmarks.result import target


@dataclass(frozen=True)
class Wanted:
    """Least figures of the default decoder on test, unmasked, by item id; None is no target."""

    recall_at_10: float | None = None
    recall_at_50: float | None = None
    living_recall_at_10: float | None = None
    living_recall_at_50: float | None = None


FOLDER_TO_WANTED: Final = {
    "amazon_Video_Games_2015": Wanted(0.105, 0.26, 0.13, 0.30),
    "amazon_CDs_and_Vinyl_2015": Wanted(recall_at_10=0.16),
}
RATIO_TO_LOCAL: Final = 1.15
COST_TO_GLOBAL: Final = 1.1


def row_figures(bench: Bench, scored: Mapping[str, ScoredRow], seeds: Sequence[int]) -> dict[str, Any]:
    """Every row's record with its slices, its figures on the language subset, its seeds, and the default decoder's lead over it."""
    slices = slices_of(bench)
    default, options = scored.get(DEFAULT), bench.options
    found = {}
    for name, row in scored.items():
        figures = dict(row.record)
        figures["language_subset"] = subset_metrics(row, bench.language_rows)
        figures["slices"] = slice_metrics(row, slices)
        figures["seeds"] = seed_metrics(bench, name, seeds)
        if default is not None and name != DEFAULT:
            figures["default_minus_row"] = differences(default, row, num_bootstrap=options.num_bootstrap, seed=options.seed)
        found[name] = figures
    return found


def setting(bench: Bench) -> dict[str, Any]:
    """How the figures were taken, in words and numbers."""
    inputs, slices = bench.inputs, slices_of(bench)
    return {
        "num_items": inputs.num_items,
        "num_memory_entries": len(inputs.entries),
        "num_samples": {"valid": len(inputs.valid), "test": len(inputs.test), "language_subset": len(bench.language_rows)},
        "language_subset": (
            f"rows that write titles are scored on {len(bench.language_rows)} test samples drawn with seed {bench.options.seed}, "
            "and compared with the other rows on these"
        ),
        "tuning": (
            f"all on validation, ndcg@20, unmasked, by item id; rows that write titles on "
            f"{len(bench.language_validation.targets)} validation samples"
        ),
        "thresholds": dict(slices.thresholds),
        "slice_sizes": {name: int(mask.sum()) for name, mask in slices.masks.items()},
        "unreachable_share": unreachable_share(bench),
        "decoder_settings": {**vars(inputs.run.decoder.settings), "half_life_s": inputs.decay.half_life_s},
        "num_language_parameters": bench.num_language_parameters,
    }


def targets_of(folder: str, figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is wanted of this data set, of any the leads and the cost alone; a figure that the chosen rows did not give is None."""
    wanted, rows = FOLDER_TO_WANTED.get(folder, Wanted()), figures["rows"]
    by_id, living = _metrics(rows), _metrics(figures["living"])
    found = {
        "recall@10 of default": _at_least(by_id.get("recall@10"), wanted.recall_at_10),
        "recall@50 of default": _at_least(by_id.get("recall@50"), wanted.recall_at_50),
        "living recall@10 of default": _at_least(living.get("recall@10"), wanted.living_recall_at_10),
        "living recall@50 of default": _at_least(living.get("recall@50"), wanted.living_recall_at_50),
        "recall@20 of default over l2d-l": target(_recall_ratio(rows, "l2d-l"), RATIO_TO_LOCAL),
        "cost of default over l2d-g, batch 1": target(_cost_ratio(figures, "batch 1"), COST_TO_GLOBAL, at_most=True),
        "cost of default over l2d-g, batch 32": target(_cost_ratio(figures, "batch 32"), COST_TO_GLOBAL, at_most=True),
    }
    leads = {
        f"recall@10 of default minus {name}, low end": target(row["default_minus_row"]["unmasked"]["recall@10"]["low"], 0)
        for name, row in rows.items()
        if row["family"] != "decoder" and "default_minus_row" in row and name not in FUSION_ROWS
    }
    return {name: found_target for name, found_target in found.items() if found_target is not None} | leads


def _at_least(measured: float | None, wanted: float | None) -> dict[str, Any] | None:
    return None if wanted is None else target(measured, wanted)


def _metrics(rows: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = rows[DEFAULT]["unmasked"]["metrics"] if DEFAULT in rows else {}
    return found


def _recall_ratio(rows: Mapping[str, Any], other: str) -> float | None:
    if DEFAULT not in rows or other not in rows:
        return None
    first, second = (rows[name]["unmasked"]["metrics"]["recall@20"] for name in (DEFAULT, other))
    return round(first / second, 3) if second else None


def _cost_ratio(figures: Mapping[str, Any], batch: str) -> float | None:
    seconds = figures["cost"].get("decoders", {}).get(batch, {})
    return round(seconds[DEFAULT] / seconds["l2d-g"], 3) if {DEFAULT, "l2d-g"} <= seconds.keys() else None
