"""Crash points of a memory build: a journal that the driver, its actors and whoever kills them share.

Every process of a build notes in the journal which point it has reached with which part. Where the last order is about that point, the
process that reaches it for the given time goes no further in that thread: it notes its pid, and waits for SIGKILL.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Final

ACTOR_POINTS: Final = ("before-write", "after-write")
DRIVER_POINTS: Final = ("before-commit", "after-commit")
ORDER: Final = "order"
HALTED: Final = "halted"
STARTED: Final = "started"


@dataclass(frozen=True)
class Event:
    """A line of the journal.

    Attributes:
        kind: a crash point that was reached; ``order``; ``halted`` after its point; ``started`` by a build.
        part: number of the part; -1 where there is none.
        pid: process that noted it.
        point, occurrence: of an order.
    """

    kind: str
    part: int
    pid: int
    point: str = ""
    occurrence: int = 0


@dataclass(frozen=True)
class Journal:
    """What ``build_memory`` takes as ``crash_point``; it travels to the actors as its path."""

    path: Path

    def __call__(self, point: str, part: int) -> None:
        """Note the point, and halt where that was ordered."""
        with self._locked() as file:
            events = [*_read(file), Event(point, part, os.getpid())]
            is_last = _is_due(events)
            _append(file, events[-1:] + ([Event(HALTED, part, os.getpid())] if is_last else []))
        while is_last:
            time.sleep(60)

    def order(self, point: str, occurrence: int) -> None:
        """From now on halt whoever reaches the point for the ``occurrence``-th time."""
        self.note(Event(ORDER, -1, os.getpid(), point, occurrence))

    def note(self, event: Event) -> None:
        with self._locked() as file:
            _append(file, [event])

    def events(self) -> list[Event]:
        """Everything noted, in order."""
        with self._locked() as file:
            return _read(file)

    @contextmanager
    def _locked(self) -> Iterator[TextIOWrapper]:
        """The file, held by one process at a time; a process that is killed lets go of it."""
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _is_due(events: list[Event]) -> bool:
    """Whether the last event is the one that the last order is about."""
    places = [place for place, event in enumerate(events) if event.kind == ORDER]
    if not places:
        return False
    order = events[places[-1]]
    reached = [event for event in events[places[-1] :] if event.kind == order.point]
    return events[-1].kind == order.point and len(reached) == order.occurrence


def _read(file: TextIOWrapper) -> list[Event]:
    file.seek(0)
    return [Event(**json.loads(line)) for line in file if line.endswith("\n")]


def _append(file: TextIOWrapper, events: list[Event]) -> None:
    file.write("".join(json.dumps(asdict(event)) + "\n" for event in events))
    file.flush()
