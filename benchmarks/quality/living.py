"""The living memory, a protocol of its own: the validation samples are added before test, for every system that takes them without
retraining, with the settings that were tuned before. Not comparable with the main table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.quality.bench import Bench, say
from benchmarks.quality.scoring import evaluate_split


def living_memory(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """Test figures in both settings of the rows that can be extended; one record a row."""
    found = {}
    for name in names:
        row = bench.rows[name]
        if row.extend is not None:
            found[name] = bench.store.record(f"living-{name}", _depends(bench, name), partial(_scored, bench, name))
    return found


def _depends(bench: Bench, name: str) -> list[Any]:
    return [*bench.depends(name), bench.options.num_bootstrap, bench.options.seed]


def _scored(bench: Bench, name: str) -> dict[str, Any]:
    say(f"{name}: living memory")
    row = bench.rows[name]
    assert row.extend is not None
    system = row.extend(bench, bench.fitted(name).settings)
    scores = evaluate_split(bench, row, system, name=name, split=bench.inputs.test).to_json()
    return {"num_samples": scores["num_samples"], "unmasked": scores["unmasked"], "masked": scores["masked"]}
