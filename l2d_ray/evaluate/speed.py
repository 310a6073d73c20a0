"""Seconds per request of several systems, side by side: same requests, same batches, interleaved, medians. Pure timing, no models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

Answer = Callable[[Sequence[int]], object]
"""Answers the requests at these positions, as one batch."""


def seconds_per_request(
    sides: Mapping[str, Answer],
    num_requests: int,
    *,
    batch_size: int,
    num_rounds: int = 3,
    on_batch: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median over rounds of each side's seconds a request.

    Every side answers one batch that is not counted; then in each round every side answers all requests, the sides taking turns batch by
    batch, so that a slow spell of the machine falls on all of them.
    """
    batches = [range(start, min(start + batch_size, num_requests)) for start in range(0, num_requests, batch_size)]
    for answer in sides.values():
        answer(batches[0])
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(num_rounds):
        totals = dict.fromkeys(sides, 0.0)
        for batch in batches:
            for name, answer in sides.items():
                started = time.perf_counter()
                answer(batch)
                totals[name] += time.perf_counter() - started
            on_batch()
        for name, total in totals.items():
            rounds[name].append(total / num_requests)
    return {name: median(seconds) for name, seconds in rounds.items()}
