"""A build that is killed with SIGKILL at named points, and two builds at once: every sample is there once.

``python -m benchmarks.build_crashes`` does the same at 54 places drawn by seed.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest
import ray

from benchmarks.crash_points import HALTED, ORDER, Event, Journal
from benchmarks.crash_runs import (
    CLUSTER,
    DRIVER,
    NUM_PARTS,
    WORKER,
    Kill,
    Place,
    compare,
    finish,
    make_run_dir,
    num_encoded_again,
    run,
)
from l2d_ray.cluster import connect
from l2d_ray.memory.on_ray import build_memory
from l2d_ray.memory.table import Memory
from l2d_ray.model.on_ray import EncoderSpec
from tests.clusters import own_cluster

TIMEOUT_S = 500


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of its own, whose workers have done nothing yet."""
    with own_cluster(num_cpus=4, logging_level="WARNING"):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="module")
def undisturbed(address, tmp_path_factory) -> Place:
    run_dir = tmp_path_factory.mktemp("crashes")
    make_run_dir(run_dir)
    place = Place(run_dir, 0)
    assert finish(place, address).has_ended
    return place


def check_whole(place: Place, undisturbed: Place) -> None:
    found = compare(place, undisturbed)
    assert (found.num_lost, found.num_doubled, found.has_same_digest) == (0, 0, True)


@pytest.mark.slow
def test_a_driver_and_a_cluster_that_die_lose_and_double_nothing(undisturbed, address):
    """The driver after its second commit, then all processes while a part is written but not committed."""
    place = Place(undisturbed.run_dir, 1)
    first = run(place, Kill(DRIVER, "after-commit", occurrence=2), address)
    assert (first.killed.what, first.has_ended, len(place.committed())) == (DRIVER, False, 2)
    second = run(place, Kill(CLUSTER, "before-commit", occurrence=2), address)
    assert (second.killed.what, second.has_ended, len(place.committed())) == (CLUSTER, False, 3)
    last = finish(place, address)
    assert [outcome.num_encoded_again for outcome in (first, second, last)] == [0, 0, 0]
    check_whole(place, undisturbed)
    messages = [entry.state.message for entry in Memory.open(place.uri).history()]
    assert len(messages) == len(set(messages)) == 1 + NUM_PARTS


@pytest.mark.slow
def test_a_build_ends_by_itself_after_a_worker_died(undisturbed, address):
    place = Place(undisturbed.run_dir, 2)
    outcome = run(place, Kill(WORKER, "after-write", occurrence=3), address)
    assert (outcome.killed.what, outcome.has_ended, outcome.num_encoded_again) == (WORKER, True, 0)
    written = Counter(event.part for event in place.journal.events() if event.kind == "before-write")
    assert len(written) == NUM_PARTS < written.total()
    check_whole(place, undisturbed)


@dataclass(frozen=True)
class Together:
    """Keeps a build's first part back until two builds encode."""

    journal: Journal

    def __call__(self, point: str, part: int) -> None:
        self.journal(point, part)
        while point == "before-write" and len({event.pid for event in self.journal.events() if event.kind == point}) < 2:
            time.sleep(0.05)


def build_together(place: Place, address: str) -> None:
    with connect(address, 1):
        spec = EncoderSpec(str(place.run_dir / "checkpoint"), "cpu", 256, num_threads=1)
        build_memory(place.run_dir / "data", place.uri, spec=spec, num_workers=1, crash_point=Together(place.journal))


@pytest.mark.slow
def test_two_builds_at_once_end_with_every_sample_once(undisturbed, address):
    place = Place(undisturbed.run_dir, 3)
    drivers = [get_context("spawn").Process(target=build_together, args=(place, address)) for _ in range(2)]
    try:
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join(TIMEOUT_S)
        assert [driver.exitcode for driver in drivers] == [0, 0]
    finally:
        for driver in drivers:
            driver.kill()
    check_whole(place, undisturbed)
    assert len(Memory.open(place.uri).history()) == 1 + NUM_PARTS
    reached = Counter(event.kind for event in place.journal.events())
    assert reached["after-commit"] == NUM_PARTS < reached["before-write"]
    assert len({event.pid for event in place.journal.events() if event.kind == "before-write"}) == 2


def test_a_journal_halts_whom_the_last_order_is_about(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.order("before-write", 1)
    journal.order("after-write", 2)
    for point in ("before-write", "after-write", "before-write"):
        journal(point, 0)
    kinds = [event.kind for event in journal.events()]
    assert kinds == [ORDER, ORDER, "before-write", "after-write", "before-write"]
    assert HALTED not in kinds


def test_what_was_committed_is_known_when_it_is_encoded_again():
    events = [Event(kind, part, 1) for kind, part in (("before-write", 1), ("after-commit", 1), ("before-write", 2), ("before-write", 1))]
    assert num_encoded_again(events, frozenset()) == 1
    assert num_encoded_again(events, frozenset({2})) == 2
    assert num_encoded_again(events[:3], frozenset({3})) == 0
