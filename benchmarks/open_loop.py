"""Load on an HTTP service: open loop (requests leave when they are due, whatever comes back) and closed loop (so many at once).

In an open loop a latency counts from the moment the request was due, so a generator or a service that falls behind shows in the
percentiles and does not hide them (coordinated omission). Everything that is no 200 is counted by what it was.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import numpy as np

TIMEOUT_S: Final = 60.0
OK: Final = "200"


@dataclass
class Load:
    """What a load met.

    Attributes:
        done: for each 200 the moment it was there (time.perf_counter) and its latency in ms.
        outcomes: how many requests ended how: an HTTP status, or the name of an exception.
        without_retry_after: 429 and 503 answers that did not say when to come back.
    """

    started: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    done: list[tuple[float, float]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.done) / max(self.ended - self.started, 1e-9)

    @property
    def num_failed(self) -> int:
        """Requests that ended as anything but 200."""
        return self.outcomes.total() - self.outcomes[OK]

    def percentile(self, q: float) -> float:
        """Of the latencies of the answers, in ms; infinity where there is none."""
        return float(np.percentile([ms for _, ms in self.done], q)) if self.done else float("inf")

    def summary(self) -> dict[str, Any]:
        latency = {f"p{q:g}": round(self.percentile(q), 2) for q in (50, 95, 99, 100)} if self.done else {}
        return {"per_s": round(self.per_s, 1), "latency_ms": latency, "outcomes": dict(self.outcomes)}


Bodies = Sequence[dict[str, Any]]


async def open_loop(url: str, bodies: Bodies, *, rate: float, duration_s: float, seed: int = 0) -> Load:
    """Poisson arrivals at ``rate`` a second for so long; returns once all have ended."""
    rng, load = np.random.default_rng(seed), Load()
    async with session() as http:
        tasks = []
        for body, due in zip(itertools.cycle(bodies), _arrivals(load.started, rate, duration_s, rng), strict=False):
            pause = due - time.perf_counter()
            await asyncio.sleep(max(pause, 0))
            tasks.append(asyncio.create_task(post(http, url, body, load, due)))
        await asyncio.gather(*tasks)
    load.ended = max(time.perf_counter(), load.started + duration_s)
    return load


async def closed_loop(url: str, bodies: Bodies, *, concurrency: int, duration_s: float) -> Load:
    """So many clients that each send the next request once the last one is answered, for so long."""
    load, supply = Load(), itertools.cycle(bodies)
    until = load.started + duration_s

    async def client(http: aiohttp.ClientSession) -> None:
        while time.perf_counter() < until:
            await post(http, url, next(supply), load, time.perf_counter())

    async with session() as http:
        await asyncio.gather(*(client(http) for _ in range(concurrency)))
    load.ended = time.perf_counter()
    return load


def session() -> aiohttp.ClientSession:
    """As many connections as there are requests under way."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


async def post(http: aiohttp.ClientSession, url: str, body: dict[str, Any], load: Load, due: float) -> bytes:
    """One request, noted in the load; what was answered, empty where nothing was."""
    try:
        async with http.post(url, json=body) as response:
            content = await response.read()
            outcome = str(response.status)
            if response.status in (429, 503) and "Retry-After" not in response.headers:
                load.without_retry_after += 1
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        content, outcome = b"", type(error).__name__
    load.outcomes[outcome] += 1
    if outcome == OK:
        now = time.perf_counter()
        load.done.append((now, (now - due) * 1000))
    return content


def _arrivals(start: float, rate: float, duration_s: float, rng: np.random.Generator) -> Iterator[float]:
    due = start
    gaps: Iterable[float] = (float(rng.exponential(1 / rate)) for _ in itertools.count())
    for gap in gaps:
        due += gap
        if due > start + duration_s:
            return
        yield due
