"""Which generations can answer and which one does: the newest that fits, or the pinned one; what does not fit is passed over, once told."""

import shutil
from pathlib import Path

import pytest

from l2d_ray.errors import RequestError, UnavailableError
from l2d_ray.index.layout import read_manifest, remove_generations
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import forget_users
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.generations import Generations
from tests.serve.conftest import NUM_SHARDS
from tests.toys import build_toy_index


@pytest.fixture
def index_dir(tiny_run, tmp_path: Path) -> Path:
    for name in ("memory", "index"):
        shutil.copytree(tiny_run.index_dir.parent / name, tmp_path / name)
    return tmp_path / "index"


@pytest.fixture
def deployed(tiny_run, index_dir: Path) -> Generations:
    return Generations.of(ServedArtefacts.pin(tiny_run.checkpoint_dir, index_dir))


def newer(index_dir: Path, *, num_shards: int = NUM_SHARDS, num_previous: int = 3) -> int:
    """Make the next memory version and its index; returns its number."""
    memory = Memory.open(str(index_dir.parent / "memory"))
    memory = forget_users(memory, [f"u{memory.version}"])
    return build_toy_index(memory, index_dir, num_shards, num_previous=num_previous).memory_version


def test_a_newer_generation_becomes_current_and_the_older_ones_can_still_be_asked_for(deployed: Generations, index_dir: Path):
    first = deployed.versions.current
    assert deployed.seen() == deployed
    second = newer(index_dir)
    seen = deployed.seen()
    assert (seen.versions.versions, seen.versions.current, seen.versions.is_pinned) == ((first, second), second, False)
    assert [seen.of_version(version).manifest.memory_version for version in (first, second)] == [first, second]
    waiting = seen.staying_at(deployed.current, is_pinned=False)
    assert (waiting.versions.versions, waiting.versions.current) == ((first, second), first)
    assert seen.seen() == seen


def test_a_pinned_version_stays_current_until_it_is_let_go(deployed: Generations, index_dir: Path):
    first, second = deployed.versions.current, newer(index_dir)
    seen = deployed.seen()
    assert seen.versions.current == second
    seen.pin(first)
    third = newer(index_dir, num_previous=0)
    pinned = seen.seen().seen()
    assert pinned.versions.current == first
    assert pinned.versions.is_pinned
    assert pinned.versions.versions == (first, third)
    pinned.pin(None)
    assert pinned.seen().versions.current == third
    with pytest.raises(RequestError, match="Version 99 is not served") as caught:
        pinned.pin(99)
    assert caught.value.field == "version"


def test_what_cannot_take_the_place_is_passed_over_with_one_warning(
    deployed: Generations, index_dir: Path, caplog: pytest.LogCaptureFixture
):
    newer(index_dir, num_shards=NUM_SHARDS + 1)
    seen = deployed.seen()
    assert seen.versions.current == deployed.versions.current
    assert len(seen.unfit) == 1
    assert "3 shards, the application was deployed with 2" in caplog.text
    caplog.clear()
    assert seen.seen() == seen
    assert caplog.text == ""


def test_a_version_whose_index_is_gone_is_refused_and_the_current_one_stays(deployed: Generations, index_dir: Path):
    first, second = deployed.versions.current, newer(index_dir)
    seen = deployed.seen()
    remove_generations(index_dir, keep={read_manifest(index_dir).generation})
    after = seen.seen()
    assert after.versions.versions == (second,)
    with pytest.raises(UnavailableError, match=f"memory version {first} is no longer there"):
        after.of_version(first)
