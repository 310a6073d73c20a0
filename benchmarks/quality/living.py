"""The living memory, a protocol of its own: the validation samples are added before test, for every system that takes them without
retraining, with the settings that were tuned before. Not comparable with the main table. Systems that must be trained are shown beside it,
trained anew with those samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.quality.bench import Bench, say
from benchmarks.quality.scoring import evaluate_split


def living_memory(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """Test figures in both settings of the rows that can be extended; one record a row."""
    rows = [name for name in names if bench.rows[name].extend is not None]
    return {name: bench.store.record(f"living-{name}", _depends(bench, name), partial(_scored, bench, name)) for name in rows}


def retrained_rows(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """The same figures of the rows that are trained anew, with the seconds that it takes."""
    rows = [name for name in names if bench.rows[name].retrain is not None]
    return {name: bench.store.record(f"retrained-{name}", _depends(bench, name), partial(_retrained, bench, name)) for name in rows}


def _depends(bench: Bench, name: str) -> list[Any]:
    return [*bench.depends(name), bench.options.num_bootstrap, bench.options.seed]


def _scored(bench: Bench, name: str) -> dict[str, Any]:
    say(f"{name}: living memory")
    row = bench.rows[name]
    assert row.extend is not None
    return _figures(bench, name, row.extend(bench, bench.fitted(name)))


def _retrained(bench: Bench, name: str) -> dict[str, Any]:
    say(f"{name}: trained anew with the validation samples")
    row, started = bench.rows[name], time.perf_counter()
    assert row.retrain is not None
    system = row.retrain(bench, bench.fitted(name))
    seconds = time.perf_counter() - started
    return {**_figures(bench, name, system), "fit_s": seconds}


def _figures(bench: Bench, name: str, system: Any) -> dict[str, Any]:
    scores = evaluate_split(bench, bench.rows[name], system, name=name, split=bench.inputs.test).to_json()
    return {"num_samples": scores["num_samples"], "unmasked": scores["unmasked"], "masked": scores["masked"]}
