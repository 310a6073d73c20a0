"""Builds of a tiny memory in which one process, or a whole cluster, dies by SIGKILL: what benchmarks.build_crashes does many times.

Processes are found by handles alone: the driver's, its children, and the pids that actors note in the journal (benchmarks.crash_points).
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from benchmarks.crash_points import ACTOR_POINTS, DRIVER_POINTS, HALTED, STARTED, Event, Journal
from l2d_ray.cluster import connect
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, part_number, part_paths, write_part
from l2d_ray.memory.on_ray import build_memory
from l2d_ray.memory.table import Memory, exists
from l2d_ray.model.loading import make_mini, save_checkpoint
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import TRAIN
from l2d_ray.text.prompts import PromptSettings

WORKER, DRIVER, CLUSTER = "worker", "driver", "cluster"
RANDOM: Final = "random moment"
NUM_PARTS, USERS_PER_PART, NUM_ITEMS = 12, 4, 40
DEADLINE_S: Final = 600
RAY_IS_LATE: Final = "or the GCS has become overloaded."
POLL_S: Final = 0.005


@dataclass(frozen=True)
class Kill:
    """What dies where: at a point that is reached for the ``occurrence``-th time, or ``delay_s`` after the build has begun to work.

    A driver or a cluster that dies at a random moment of its start (``at_start``) need not have begun to work.
    """

    what: str
    point: str
    occurrence: int = 1
    delay_s: float = 0.0
    at_start: bool = False


@dataclass(frozen=True)
class Place:
    """Data and model, which all memories share, and one memory with its journal."""

    run_dir: Path
    number: int

    @property
    def uri(self) -> str:
        return str(self.run_dir / f"memory-{self.number:03d}")

    @property
    def journal(self) -> Journal:
        return Journal(self.run_dir / f"journal-{self.number:03d}")

    def committed(self) -> frozenset[int]:
        """Parts that the memory holds."""
        return frozenset(Memory.open(self.uri).state.parts if exists(self.uri) else ())


@dataclass(frozen=True)
class Outcome:
    """A run: what was killed (None where the build had ended before), and committed parts that were encoded again all the same."""

    killed: Kill | None
    num_encoded_again: int
    has_ended: bool


@dataclass(frozen=True)
class Comparison:
    """A memory beside the undisturbed one: samples that it lacks, rows that it has too often or should not have."""

    num_lost: int
    num_doubled: int
    has_same_digest: bool


def run(place: Place, kill: Kill, address: str) -> Outcome:
    """One build of a memory in which something is killed, unless it ends before."""
    committed = place.committed()
    journal = place.journal
    journal.note(Event(STARTED, -1, os.getpid()))
    if kill.point != RANDOM:
        journal.order(kill.point, kill.occurrence)
    driver = start(place, None if kill.what == CLUSTER else address)
    try:
        is_due = wait_for(lambda: _is_due(kill, journal), driver)
        if is_due:
            end(kill.what, driver, _pid(journal))
        driver.join(DEADLINE_S)
        if not is_due or kill.what == WORKER:
            _check_end(place, driver)
    finally:
        driver.kill()
    has_ended = driver.exitcode == 0
    return Outcome(kill if is_due else None, num_encoded_again(_since_start(journal), committed), has_ended)


def finish(place: Place, address: str) -> Outcome:
    """A build that nobody disturbs."""
    return run(place, Kill(WORKER, "nowhere"), address)


def start(place: Place, address: str | None) -> BaseProcess:
    """A build in a process of its own, on the cluster at the address or on one that it starts."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["l2d_ray.cluster", "l2d_ray.memory.on_ray", "torch"])
    process = context.Process(target=drive, args=(place, address))
    process.start()
    return process


def drive(place: Place, address: str | None) -> None:
    """The process that builds; what it prints goes to a file beside the memory."""
    with (place.run_dir / f"log-{place.number:03d}").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    with connect(address, 2):
        spec = EncoderSpec(str(place.run_dir / "checkpoint"), "cpu", 256, num_threads=1)
        build_memory(place.run_dir / "data", place.uri, spec=spec, num_workers=1, crash_point=place.journal)


def wait_for(is_due: Callable[[], bool], driver: BaseProcess) -> bool:
    """Whether it came about before the driver ended; RuntimeError past the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_due():
        if driver.exitcode is not None:
            return False
        if time.monotonic() > deadline:
            raise RuntimeError(f"Nothing happened for {DEADLINE_S} seconds.")
        time.sleep(POLL_S)
    return True


def end(what: str, driver: BaseProcess, worker_pid: int | None) -> None:
    """``kill -9``: of one worker, of the driver, or of the driver and everything that it started."""
    if what == WORKER:
        assert worker_pid is not None
        os.kill(worker_pid, signal.SIGKILL)
        return
    assert driver.pid is not None
    started = psutil.Process(driver.pid).children(recursive=True) if what == CLUSTER else []
    driver.kill()
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(started, timeout=30)


def _is_due(kill: Kill, journal: Journal) -> bool:
    """Waits out the random moment where there is one."""
    events = _since_start(journal)
    if kill.point != RANDOM:
        return any(event.kind == HALTED for event in events)
    is_begun = kill.at_start or any(event.kind in ACTOR_POINTS for event in events)
    if is_begun:
        time.sleep(kill.delay_s)
    return is_begun


def _pid(journal: Journal) -> int | None:
    """The actor that has halted, or that was heard of last."""
    pids = [event.pid for event in _since_start(journal) if event.kind in (*ACTOR_POINTS, HALTED)]
    return pids[-1] if pids else None


def _since_start(journal: Journal) -> list[Event]:
    events = journal.events()
    return events[max(place for place, event in enumerate(events) if event.kind == STARTED) :]


def num_encoded_again(events: list[Event], committed: frozenset[int]) -> int:
    """Parts of one build that were encoded although they had been committed, before it or in it."""
    done, num_again = set(committed), 0
    for event in events:
        if event.kind == ACTOR_POINTS[0]:
            num_again += event.part in done
        elif event.kind == DRIVER_POINTS[1]:
            done.add(event.part)
    return num_again


def compare(place: Place, undisturbed: Place) -> Comparison:
    memory, whole = Memory.open(place.uri), Memory.open(undisturbed.uri)
    found, wanted = Counter(_sample_ids(memory)), Counter(_sample_ids(whole))
    assert set(wanted.values()) == {1}
    assert len(memory.state.parts) == NUM_PARTS
    return Comparison((wanted - found).total(), (found - wanted).total(), memory.digest == whole.digest)


def _sample_ids(memory: Memory) -> list[int]:
    """Of all rows, verified with their vectors."""
    return [sample_id for batch in memory.scan() for sample_id in batch.sample_ids.tolist()]


def _check_end(place: Place, driver: BaseProcess) -> None:
    """Raise RuntimeError unless the build has ended well, or never begun, since a busy machine was too slow for Ray to start."""
    log = (place.run_dir / f"log-{place.number:03d}").read_text()[-4000:]
    if driver.exitcode != 0 and not log.rstrip().endswith(RAY_IS_LATE):
        raise RuntimeError(f"The build of {place.uri} ended with {driver.exitcode}, wanted 0:\n{log}")


def make_run_dir(run_dir: Path) -> None:
    """Prepared data in NUM_PARTS parts and an untrained model, both tiny."""
    titles = [f"Title {number} of {NUM_ITEMS}" for number in range(NUM_ITEMS)]
    catalogue = Catalogue.from_rows((f"item-{number:02d}", title, {}) for number, title in enumerate(titles))
    (run_dir / "data" / "sequences").mkdir(parents=True)
    catalogue.write(run_dir / "data" / "items.parquet")
    rng = np.random.default_rng(0)
    for part in range(NUM_PARTS):
        users = [_user(f"user-{part}-{number}", rng) for number in range(USERS_PER_PART)]
        write_part(run_dir / "data" / "sequences" / f"part-{part:05d}.parquet", users)
    assert [part_number(path) for path in part_paths(run_dir / "data")] == list(range(NUM_PARTS))
    settings = PromptSettings(prompt_format="sequence", window_items=8, min_history=2, history_length=4, max_title_tokens=12)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
    save_checkpoint(make_mini(titles, settings, vocab_size=320, shape=shape, seed=0), run_dir / "checkpoint")


def _user(user_id: str, rng: np.random.Generator) -> UserSequence:
    length = int(rng.integers(3, 12))
    items = tuple(f"item-{number:02d}" for number in rng.integers(0, NUM_ITEMS, length))
    return UserSequence(user_id, items, tuple(range(1000, 1000 + length)), (TRAIN,) * length)
