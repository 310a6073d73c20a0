"""Processes of a running application, found by asking the replicas themselves, and load that goes on while they are killed.

Signals go to these processes alone: a replica tells its own pid, a whole service is the process that was started here and its children.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import psutil
from ray import serve

from benchmarks.open_loop import OK, Bodies, Connections, Load, connections, post

PID_TIMEOUT_S: Final = 30.0


def pids_of(deployment: str, app: str) -> list[int]:
    """One process a replica."""

    async def ask() -> list[Any]:
        found: list[Any] = (
            await serve.get_deployment_handle(deployment, app)
            .broadcast("ping")
            .results_async(timeout_s=PID_TIMEOUT_S, return_exceptions=True)
        )
        return found

    answers = asyncio.run_coroutine_threadsafe(ask(), _loop()).result()
    return sorted(pid for pid in answers if isinstance(pid, int))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Where handles live: in Serve's throughput mode they need a running loop, always the same."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def kill(deployment: str, app: str) -> int:
    """``kill -9`` of one replica; its pid."""
    pid = pids_of(deployment, app)[0]
    os.kill(pid, signal.SIGKILL)
    return pid


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A ``with`` block during which a process does not move (SIGSTOP); it may be gone at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def kill_tree(pid: int) -> None:
    """``kill -9`` of a process and everything that it started."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=60)


def resident_bytes(pids: list[int]) -> int:
    """Memory of the processes that is theirs alone, so that shared pages do not hide a leak or feign one."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids)


@dataclass
class Watched:
    """A load whose answers are looked into.

    Attributes:
        partial: answers without some shard.
    """

    load: Load = field(default_factory=Load)
    partial: int = 0

    def summary(self) -> dict[str, Any]:
        return {
            "requests": self.load.outcomes.total(),
            "failed": self.load.num_failed,
            "partial": self.partial,
            "p50_ms": round(self.load.percentile(50), 1),
            "longest_ms": round(self.load.percentile(100), 1),
            "outcomes": dict(self.load.outcomes),
        }


@contextmanager
def under_load(route: str, bodies: Bodies, rate: float) -> Iterator[Watched]:
    """Requests at even distances for the length of a ``with`` block, from a thread; at its end all have been answered."""
    watched, is_over = Watched(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_send(route, bodies, rate, watched, is_over)))
    thread.start()
    try:
        yield watched
    finally:
        is_over.set()
        thread.join()


async def _send(route: str, bodies: Bodies, rate: float, watched: Watched, is_over: threading.Event) -> None:
    tasks, number = [], 0
    async with connections(route) as http:
        while not is_over.is_set():
            due = watched.load.started + number / rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(_look(http, bodies[number % len(bodies)], watched, due)))
            number += 1
        await asyncio.gather(*tasks)
    watched.load.ended = time.perf_counter()


async def _look(http: Connections, body: dict[str, Any], watched: Watched, due: float) -> None:
    before = watched.load.outcomes[OK]
    content = await post(http, http.payload(body), watched.load, due)
    if watched.load.outcomes[OK] > before and content.startswith(b"{"):
        complete = json.loads(content).get("complete")
        watched.partial += complete is not None and complete["shards_ok"] < complete["shards_total"]
