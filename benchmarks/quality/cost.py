"""Seconds per 1,000 requests, from histories to ranked items: all rows take turns batch by batch on the same test requests.

A second measurement has the decoders of ours alone, on more requests: rows that write titles clear the processor's caches for whoever
comes after them, and the ratio of two decoders is a figure of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tqdm import tqdm

from benchmarks.quality.bench import Bench, answer
from benchmarks.quality.inputs import drawn
from l2d_ray.evaluate.speed import Answer, seconds_per_request

K: Final = 20
BATCH_SIZES: Final = (1, 32)
_ORDER: Final = ("language", "items", "states", "decoder")
"""Fast rows stand together, after the slow ones."""


def measure_cost(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    """``{"k", "all": {"num_requests", "batch 1": {row: s}, ...}, "decoders": {...}}``; remembered for the same rows."""
    options = bench.options
    depends = [
        [bench.depends(name) for name in names],
        list(names),
        options.cost_requests,
        options.decoder_requests,
        options.cost_rounds,
    ]
    return bench.store.record("cost", depends, lambda: _measure(bench, names))


def _measure(bench: Bench, names: Sequence[str]) -> dict[str, Any]:
    ordered = sorted(names, key=lambda name: _ORDER.index(bench.rows[name].family))
    decoders = [name for name in ordered if bench.rows[name].family == "decoder"]
    options = bench.options
    found: dict[str, Any] = {"k": K, "rounds": options.cost_rounds, "device": bench.inputs.run.device}
    found["all"] = _turns(bench, ordered, options.cost_requests)
    if decoders:
        found["decoders"] = _turns(bench, decoders, options.decoder_requests)
    return found


def _turns(bench: Bench, names: Sequence[str], num_requests: int) -> dict[str, Any]:
    rows = drawn(len(bench.inputs.test), num_requests, seed=bench.options.seed)
    histories = [bench.inputs.test.samples.histories[row] for row in rows]
    sides = {name: _side(bench, name, histories) for name in names}
    found: dict[str, Any] = {"num_requests": len(histories)}
    for size in BATCH_SIZES:
        found[f"batch {size}"] = _timed(sides, len(histories), size, bench.options.cost_rounds)
    return found


def _timed(sides: Mapping[str, Answer], num_requests: int, batch_size: int, num_rounds: int) -> dict[str, float]:
    num_batches = num_rounds * -(-num_requests // batch_size)
    with tqdm(desc=f"cost of {len(sides)} rows, batch {batch_size}", unit="batch", total=num_batches) as bar:
        seconds = seconds_per_request(sides, num_requests, batch_size=batch_size, num_rounds=num_rounds, on_batch=bar.update)
    return {name: 1000 * value for name, value in seconds.items()}


def _side(bench: Bench, name: str, histories: Sequence[Sequence[int]]) -> Answer:
    row, system = bench.rows[name], bench.fitted(name).system
    return lambda batch: answer(bench, row, system, [histories[place] for place in batch], K)
