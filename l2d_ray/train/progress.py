"""How far training has got, told by a worker, shown by the driver. Knows no Ray: ``on_ray`` makes an actor of the board."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

POLL_S = 0.5


@dataclass(frozen=True)
class Snapshot:
    """Optimizer steps done and wanted, and the lines that were not read yet."""

    step: int
    num_steps: int
    lines: tuple[str, ...]


class ProgressBoard:
    """Holds the state between a worker that writes and a driver that reads."""

    def __init__(self) -> None:
        self._step, self._num_steps = 0, 0
        self._lines: list[str] = []

    def advance(self, step: int, num_steps: int) -> None:
        self._step, self._num_steps = step, num_steps

    def add_line(self, line: str) -> None:
        """A line for people, such as an epoch's metrics."""
        self._lines.append(line)

    def read(self, num_lines_read: int) -> Snapshot:
        return Snapshot(self._step, self._num_steps, tuple(self._lines[num_lines_read:]))


@contextmanager
def shown(read: Callable[[int], Snapshot | None]) -> Iterator[None]:
    """Show a board for the length of a ``with`` block: a bar on stderr, the lines on stdout. Nothing where ``read`` gives None."""
    stop = threading.Event()
    with tqdm(desc="training", unit="step") as bar:
        num_lines = 0

        def show_once() -> None:
            nonlocal num_lines
            snapshot = read(num_lines)
            if snapshot is None:
                return
            num_lines += len(snapshot.lines)
            bar.total = snapshot.num_steps or None
            bar.update(snapshot.step - bar.n)
            for line in snapshot.lines:
                tqdm.write(line)

        def show_until_stopped() -> None:
            while not stop.wait(POLL_S):
                show_once()

        thread = threading.Thread(target=show_until_stopped, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            show_once()
