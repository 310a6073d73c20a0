"""The index on a real Ray cluster: built, extended and reused as in one process; a driver killed half-way loses nothing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from jobs.build_index import main
from l2d_ray.errors import ArtefactError
from l2d_ray.index.layout import MANIFEST, generations, open_index
from l2d_ray.index.on_ray import build_index
from l2d_ray.index.plan import IndexOptions, plan_index
from l2d_ray.index.shard import SUMMARY
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import forget_users
from tests.index.memories import (
    DIM,
    answers_of,
    append_rows,
    brute_force,
    entries_of,
    files_of,
    make_memory,
    open_built,
    random_items,
    rows_of,
)
from tests.toys import build_toy_run, toy_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parents[2]
KILL_TIMEOUT_S = 180
NUM_MANY = 80
"""Shards that take a build so long that it is killed before they are all done."""
QUERIES = np.random.default_rng(9).normal(size=(4, DIM)).astype(np.float32)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return make_memory(str(tmp_path / "memory"), random_items())


def test_an_index_is_built_extended_reused_and_resharded(memory, tmp_path):
    built = build_index(memory, 3, tmp_path / "index")
    assert (built.action, built.reason) == ("built", "there is no index that this release reads")
    assert entries_of(open_built(tmp_path / "index")) == rows_of(memory)
    newer = forget_users(append_rows(memory, [1, 2, 3], first=500), ["u4"])
    extended = build_index(newer, 3, tmp_path / "index")
    assert (extended.action, extended.reason, extended.manifest.memory_version) == ("extended", "", newer.version)
    assert extended.manifest == open_built(tmp_path / "index").manifest
    assert answers_of(open_index(tmp_path / "index").shards(), QUERIES, 30) == brute_force(newer, QUERIES, 30)
    before = files_of(tmp_path / "index")
    assert build_index(newer, 3, tmp_path / "index").action == "reused"
    assert files_of(tmp_path / "index") == before
    memory_files = files_of(tmp_path / "memory")
    resharded = build_index(newer, 5, tmp_path / "index", options=IndexOptions(num_previous=0))
    assert (resharded.action, resharded.manifest.num_shards) == ("built", 5)
    assert generations(tmp_path / "index") == [resharded.manifest.generation]
    assert files_of(tmp_path / "memory") == memory_files
    assert entries_of(open_built(tmp_path / "index")) == rows_of(newer)


def test_what_goes_wrong_in_a_task_arrives_as_its_sentence(memory, tmp_path):
    stranger = append_rows(memory, [99], first=900)
    with pytest.raises(ArtefactError, match=r"^The memory at \S+, version \d+, holds item 'item-99', which its catalogue lacks"):
        build_index(stranger, 2, tmp_path / "index")
    assert not (tmp_path / "index" / MANIFEST).exists()


def test_a_killed_driver_leaves_its_sealed_shards_to_the_next_build(tmp_path):
    """The job itself is killed once the first of many shards is sealed."""
    run = build_toy_run(tmp_path)
    address = f"ray.address={ray.get_runtime_context().gcs_address}"
    command = [sys.executable, "-m", "jobs.build_index", f"run_dir={tmp_path}", "device=cpu", "index.device=cpu"]
    plan = plan_index(run.memory, NUM_MANY, tmp_path / "index")
    with (tmp_path / "driver.log").open("w") as log:
        driver = subprocess.Popen([*command, f"index.num_shards={NUM_MANY}", address], cwd=ROOT, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + KILL_TIMEOUT_S
            while not any(plan.shard_dir(0).parent.glob(f"*/{SUMMARY}")):
                assert driver.poll() is None, (tmp_path / "driver.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "driver.log").read_text()
                time.sleep(0.01)
        finally:
            driver.kill()
        assert driver.wait() == -signal.SIGKILL
    assert not (tmp_path / "index" / MANIFEST).exists()
    sealed = {path: path.stat().st_mtime_ns for path in plan.shard_dir(0).parent.glob(f"*/{SUMMARY}")}
    assert 0 < len(sealed) < NUM_MANY
    assert build_index(run.memory, NUM_MANY, tmp_path / "index").action == "built"
    assert {path: path.stat().st_mtime_ns for path in sealed} == sealed
    assert entries_of(open_built(tmp_path / "index")) == rows_of(run.memory)


def test_the_job_says_what_it_did(tmp_path):
    run = build_toy_run(tmp_path)
    config = toy_config(tmp_path, index={"num_shards": 2, "device": "cpu"})
    built = main(config)
    assert (built["action"], built["num_shards"], sum(built["num_entries"])) == ("built", 2, len(run.memory))
    assert built["largest_share"] == round(max(built["num_entries"]) / len(run.memory), 4)
    assert built["disk_bytes"] > sum(built["entries_bytes"]) > 0
    assert main(config)["action"] == "reused"
    users = [f"user-{number:03d}" for number in range(2)]
    forgotten = forget_users(run.memory, users)
    assert len(forgotten) < len(run.memory)
    assert main(config)["action"] == "extended"
    statistics = main(toy_config(tmp_path, index={"num_shards": 2, "device": "cpu", "kind": "statistics"}))
    assert (statistics["action"], sum(statistics["entries_bytes"])) == ("built", 0)
    assert statistics["reason"].startswith("the index has 2 shards of kind exact")
