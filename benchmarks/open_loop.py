"""Load on an HTTP service: open loop (requests leave when they are due, whatever comes back) and closed loop (so many at once).

In an open loop a latency counts from the moment the request was due, so a generator or a service that falls behind shows in the
percentiles and does not hide them (coordinated omission). Everything that is no 200 is counted by what it was.

The generator stands on the machine that it loads, so a request must cost it little: bodies are encoded beforehand, and answers are parsed
by httptools over plain connections. The loops are for ``uvloop.run``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httptools
import numpy as np

TIMEOUT_S: Final = 60.0
MAX_CONNECTIONS: Final = 1000
"""Of one load; a request for which none is free waits, and that counts into its latency."""
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
    async with connections(url) as http:
        payloads = itertools.cycle([http.payload(body) for body in bodies])
        load.started = time.perf_counter()
        tasks = []
        for payload, due in zip(payloads, _arrivals(load.started, rate, duration_s, rng), strict=False):
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(post(http, payload, load, due)))
        await asyncio.gather(*tasks)
    load.ended = max(time.perf_counter(), load.started + duration_s)
    return load


async def closed_loop(url: str, bodies: Bodies, *, concurrency: int, duration_s: float) -> Load:
    """So many clients that each send the next request once the last one is answered, for so long."""
    load = Load()

    async def client(http: Connections) -> None:
        while time.perf_counter() < until:
            await post(http, next(payloads), load, time.perf_counter())

    async with connections(url) as http:
        payloads = itertools.cycle([http.payload(body) for body in bodies])
        load.started = time.perf_counter()
        until = load.started + duration_s
        await asyncio.gather(*(client(http) for _ in range(concurrency)))
    load.ended = time.perf_counter()
    return load


async def post(http: Connections, payload: bytes, load: Load, due: float) -> bytes:
    """One request, noted in the load; what was answered, empty where nothing was."""
    try:
        answer = await http.send(payload)
    except (TimeoutError, OSError) as error:
        load.outcomes[type(error).__name__] += 1
        return b""
    outcome = str(answer.status)
    load.outcomes[outcome] += 1
    if outcome == OK:
        now = time.perf_counter()
        load.done.append((now, (now - due) * 1000))
    elif answer.status in (429, 503) and not answer.has_retry_after:
        load.without_retry_after += 1
    return bytes(answer.content)


@dataclass
class Answer:
    """What came back for one request."""

    status: int = 0
    has_retry_after: bool = False
    content: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def connections(url: str) -> AsyncIterator[Connections]:
    """Connections, kept from one request to the next, closed at the end of the block."""
    http = Connections(url)
    try:
        yield http
    finally:
        http.close()


class Connections:
    """HTTP/1.1 connections to a URL that takes POSTs of JSON, ``MAX_CONNECTIONS`` at most."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._address = parts.hostname, parts.port or 80
        self._head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        self._free: list[_Connection] = []
        self._may_use = asyncio.Semaphore(MAX_CONNECTIONS)
        self._all: set[_Connection] = set()

    def payload(self, body: Any) -> bytes:
        """A body as ``send`` takes it."""
        content = json.dumps(body).encode()
        return self._head + f"{len(content)}\r\n\r\n".encode() + content

    async def send(self, payload: bytes) -> Answer:
        """The answer; TimeoutError after ``TIMEOUT_S``, ConnectionError where the connection was cut."""
        async with self._may_use:
            connection = self._next_free() or await self._new()
            answer = await asyncio.wait_for(connection.send(payload), TIMEOUT_S)
            if connection.is_open:
                self._free.append(connection)
            return answer

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def _next_free(self) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                return connection
        return None

    async def _new(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        self._all.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    """One connection, one request at a time. The methods named ``on_`` are the parser's."""

    def __init__(self) -> None:
        self.is_open = False
        self._answer = Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._done: asyncio.Future[Answer] | None = None

    def send(self, payload: bytes) -> asyncio.Future[Answer]:
        self._answer, self._parser = Answer(), httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(payload)
        return self._done

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(ConnectionError(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._end(ConnectionResetError("The connection was closed before the answer was there."))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.has_retry_after |= name.lower() == b"retry-after"

    def on_body(self, body: bytes) -> None:
        self._answer.content += body

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.is_open = False
            self._transport.close()
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(self._answer)
        else:
            self.is_open = False
            self._transport.close()
            self._done.set_exception(error)


def _arrivals(start: float, rate: float, duration_s: float, rng: np.random.Generator) -> Iterator[float]:
    due = start
    gaps: Iterable[float] = (float(rng.exponential(1 / rate)) for _ in itertools.count())
    for gap in gaps:
        due += gap
        if due > start + duration_s:
            return
        yield due
