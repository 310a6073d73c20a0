"""``kill -9`` of writing processes at places drawn by seed: nothing acknowledged is lost, nothing sent again is doubled."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from l2d_ray.store.open import open_store
from tests.store.writer_process import BATCH, events_of

WRITER = Path(__file__).with_name("writer_process.py")
ROOT = Path(__file__).parents[2]
NUM_KILLS = 4  # of each of the two writers
NEVER = 10**9
"""A last batch that no writer reaches, and more interactions than there are."""


class Writer:
    """A writer process that begins at a batch; ``acknowledged`` is the last that it said it has written."""

    def __init__(self, url: str, first: int, last: int) -> None:
        command = [sys.executable, str(WRITER), url, str(first), str(last)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
        self.acknowledged = first - 1

    def read_until(self, batch: int) -> None:
        while self.acknowledged < batch:
            self._take(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL, wherever it is in its next batch, and read what it had still said."""
        self._process.kill()
        for line in self._process.stdout:
            self._take(line)
        assert self._process.wait() in (-9, 1), "it ended neither by the kill nor because its server was killed"

    def finish(self) -> None:
        for line in self._process.stdout:
            self._take(line)
        assert self._process.wait() == 0

    def _take(self, line: str) -> None:
        assert line.strip().isdigit(), f"the writer ended with {self._process.wait()}"
        self.acknowledged = int(line)


def refuse_losses(url: str, writers: list[Writer]) -> None:
    """Fail unless everything acknowledged is there, everything once, and every batch whole."""
    with open_store(url) as store:
        found = [event for history in store.histories([f"user-{n}" for n in range(5)], limit=NEVER).values() for event in history]
        acknowledged = {event for batch in range(max(writer.acknowledged for writer in writers) + 1) for event in events_of(batch)}
        assert len(found) == len(set(found)) == store.backlog().num_interactions
        assert acknowledged <= set(found)
        assert len(found) % BATCH == 0, "a batch is there in part"
        assert sum(entry.count for entry in store.audit_entries(limit=NEVER)) == len(found)


def finish(url: str, reached: list[int]) -> None:
    """Let both writers go on to an end: then the store holds all batches, once."""
    assert min(reached) >= NUM_KILLS
    last = max(reached) + 5
    for writer in [Writer(url, first, last) for first in reached]:
        writer.finish()
    with open_store(url) as store:
        assert store.backlog().num_interactions == (last + 1) * BATCH


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_writers_of_the_same_events_killed_again_and_again_lose_and_double_nothing(store_url, seed):
    rng = random.Random(seed)
    open_store(store_url).close()
    reached = [0, 0]
    for _ in range(NUM_KILLS):
        writers = [Writer(store_url, first, NEVER) for first in reached]
        for number, writer in enumerate(writers):
            writer.read_until(reached[number] + rng.randint(0, 20))
            writer.kill()
        refuse_losses(store_url, writers)
        reached = [writer.acknowledged + 1 for writer in writers]
    finish(store_url, reached)


@pytest.mark.slow
def test_a_server_killed_under_its_writers_loses_and_doubles_nothing(postgres):
    url, rng = postgres.new_store(), random.Random(3)
    open_store(url).close()
    reached = [0, 0]
    for _ in range(NUM_KILLS):
        writers = [Writer(url, first, NEVER) for first in reached]
        for number, writer in enumerate(writers):
            writer.read_until(reached[number] + rng.randint(0, 20))
        postgres.kill()
        for writer in writers:
            writer.kill()
        postgres.start()
        refuse_losses(url, writers)
        reached = [writer.acknowledged + 1 for writer in writers]
    finish(url, reached)
