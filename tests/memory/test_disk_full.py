"""A disk that fills in the middle of a change (a small tmpfs): one clear sentence, nothing committed, and with more space it goes on."""

import re
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.errors import StorageError
from l2d_ray.memory.entries import entries_table
from l2d_ray.memory.on_ray import build_memory
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import forget_users, rename_items
from l2d_ray.model.loading import save_checkpoint
from l2d_ray.model.on_ray import EncoderSpec
from tests.memory.built import check_memory
from tests.memory.test_table import make_targets
from tests.toys import tiny_model, toy_catalogue, write_toy_data

SIZE = "4m"
PAGE_BYTES = 4096
DIM = 64
SENTENCE = r"Writing to .* failed \(.*(No space left|the disk may be full).*\); nothing was committed. Free space or mend the storage"
ERROR_WITHIN_S = 60


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """An empty disk of SIZE; skips where mounting is not permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"A small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, free_bytes: int) -> Path:
    """A file that takes all of the disk but so many bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE_BYTES))
        except OSError:
            file.truncate(file.tell() // PAGE_BYTES * PAGE_BYTES - free_bytes)
    return filler


def rows(first: int, count: int):
    vectors = np.random.default_rng(first).normal(size=(count, DIM)).astype(np.float32)
    return entries_table(make_targets(first, count), vectors)


@pytest.fixture
def memory(small_disk) -> Memory:
    empty = Memory.create(str(small_disk / "memory"), fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())
    return empty.append(empty.write(rows(0, 50)), message="first")


def test_an_append_writes_nothing_and_goes_on_after_space_is_freed(memory, small_disk):
    filler = fill(small_disk, 25 * PAGE_BYTES)
    with pytest.raises(StorageError, match=SENTENCE):
        memory.write(rows(100, 2000))
    assert (Memory.open(memory.uri).version, len(list(memory.scan()))) == (memory.version, 1)
    filler.unlink()
    assert len(memory.append(memory.write(rows(100, 2000)), message="second")) == 2050


@pytest.mark.parametrize("change", ["append", "forget", "rename"])
def test_a_commit_changes_nothing_and_goes_on_after_space_is_freed(memory, small_disk, change):
    """With a little more free space each time, until it succeeds: so the disk fills at every step of the commit."""
    written = memory.write(rows(100, 20))
    changes = {
        "append": lambda: memory.append(written, message="second"),
        "forget": lambda: forget_users(memory, ["user-3", "user-4"]),
        "rename": lambda: rename_items(memory, {"item-03": "Red Sea"}),
    }
    failures: list[str] = []
    for free_pages in range(30):
        filler = fill(small_disk, free_pages * PAGE_BYTES)
        try:
            changed = changes[change]()
        except StorageError as error:
            failures.append(str(error))
        filler.unlink()
        if Memory.open(memory.uri).version != memory.version:
            break
        assert sum(map(len, Memory.open(memory.uri).scan())) == 50
    assert 0 < len(failures) < 30
    assert [failure for failure in failures if not re.match(SENTENCE, failure)] == []
    reopened = Memory.open(memory.uri)
    assert reopened.version == changed.version == memory.version + 1
    assert sum(map(len, reopened.scan())) == {"append": 70, "forget": 48, "rename": 50}[change]
    assert (reopened.catalogue.titles[3] == "Red Sea") == (change == "rename")


@pytest.mark.slow
def test_a_build_stops_with_a_sentence_and_goes_on_where_it_stopped(small_disk, tmp_path, ray_cluster):
    write_toy_data(tmp_path / "data", num_users=60, users_per_part=3)
    save_checkpoint(tiny_model(), tmp_path / "checkpoint")
    spec, uri = EncoderSpec(str(tmp_path / "checkpoint"), "cpu", 256), str(small_disk / "memory")
    filler = fill(small_disk, 40 * PAGE_BYTES)
    with pytest.raises(StorageError, match=SENTENCE):
        build_memory(tmp_path / "data", uri, spec=spec, num_workers=1)
    stopped = Memory.open(uri)
    assert time.time() - datetime.fromisoformat(stopped.state.created_at).timestamp() < ERROR_WITHIN_S
    assert 0 < len(stopped.state.parts) < 20
    assert sum(map(len, stopped.scan())) == len(stopped)
    filler.unlink()
    summary = build_memory(tmp_path / "data", uri, spec=spec, num_workers=1)
    assert (summary.num_parts, summary.num_parts_reused) == (20, len(stopped.state.parts))
    check_memory(Memory.open(uri), tmp_path / "checkpoint", tmp_path / "data")
