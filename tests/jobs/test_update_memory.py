"""jobs.update_memory and jobs.memory on a real Ray cluster: what is appended equals what is built at once, and the history says it all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs import build_memory, memory, update_memory
from l2d_ray.data.sequences import iter_sequences
from l2d_ray.errors import ConfigError, DataError
from l2d_ray.memory.table import Memory
from l2d_ray.model.loading import load_checkpoint, save_checkpoint
from l2d_ray.schema import TRAIN, VALID
from l2d_ray.store.open import open_store
from l2d_ray.store.records import Author
from tests.toys import encode_in_process, tiny_model, toy_config, write_toy_data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    write_toy_data(folder / "data")
    save_checkpoint(tiny_model(), folder / "checkpoint")
    build_memory.main(toy_config(folder))
    return folder


@pytest.fixture
def run_dir(built: Path, tmp_path: Path) -> Path:
    """A copy of a run with its memory."""
    return Path(shutil.copytree(built, tmp_path / "run"))


def vectors_of(memory: Memory) -> dict[int, np.ndarray]:
    found = {}
    for batch in memory.scan():
        found |= dict(zip(batch.sample_ids.tolist(), batch.vectors.astype(np.float32), strict=True))
    assert len(found) == len(memory)
    return found


def write_valid_events(run_dir: Path) -> Path:
    rows = [f"{s.user_id},{s.item_ids[p]},{s.timestamps[p]}\n" for s in iter_sequences(run_dir / "data") for p in s.target_positions(VALID)]
    assert len(rows) == 24
    path = run_dir / "new.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(reversed(rows)))
    return path


def test_appended_validation_samples_equal_those_encoded_with_all_the_rest(run_dir):
    path = write_valid_events(run_dir)
    before = Memory.open(str(run_dir / "memory"))
    result = update_memory.main(toy_config(run_dir, update={"interactions": str(path)}))
    after = Memory.open(str(run_dir / "memory"))
    assert [change["kind"] for change in result["changes"]] == ["append"]
    assert (result["version"], result["num_entries"]) == (after.version, len(before) + 24)
    expected = {}
    for split in (TRAIN, VALID):
        targets, vectors = encode_in_process(load_checkpoint(run_dir / "checkpoint"), run_dir / "data", split)
        expected |= {target.sample_id: vector for target, vector in zip(targets, vectors, strict=True)}
    found = vectors_of(after)
    assert found.keys() == expected.keys()
    for sample_id, vector in expected.items():
        np.testing.assert_allclose(found[sample_id], vector, rtol=2e-3, atol=2e-3)
    again = update_memory.main(toy_config(run_dir, update={"interactions": str(path)}))
    assert (again["changes"], again["version"]) == ([], after.version)
    forgotten = update_memory.main(toy_config(run_dir, update={"forget_users": ["user-001"]}))
    assert forgotten["num_entries"] < result["num_entries"]
    assert build_memory.main(toy_config(run_dir))["num_entries_encoded"] == 0
    assert len(Memory.open(str(run_dir / "memory"))) == forgotten["num_entries"]


def test_all_changes_in_one_call_are_versions_of_their_own(run_dir):
    (run_dir / "items.jsonl").write_text('{"item_id": "fresh", "title": "Fresh Star", "year": 2024}\n')
    (run_dir / "new.csv").write_text("user_id,item_id,timestamp\nuser-002,fresh,5000\nnew,item-01,5001\nnew,fresh,5002\n")
    update = {
        "interactions": str(run_dir / "new.csv"),
        "items": str(run_dir / "items.jsonl"),
        "forget_users": ["user-001"],
        "retire_items": ["item-03"],
        "rename_items": {"item-04": "Fourth"},
        "expire_before": 1002,
        "half_life_days": 30,
        "compact": True,
        "clean_up_days": 0,
    }
    result = update_memory.main(toy_config(run_dir, update=update))
    assert [change["kind"] for change in result["changes"]] == ["append", "forget", "retire", "rename", "expire", "decay", "compact"]
    assert result["version"] == result["version_before"] + 7
    assert result["clean_up"]["num_versions"] > 6
    shown = memory.main(toy_config(run_dir))
    assert (shown["version"], shown["num_entries"]) == (result["version"], result["num_entries"])
    assert (shown["num_items"], shown["num_retired_items"], shown["half_life_s"], shown["num_deleted_rows"]) == (21, 1, 30 * 86_400, 0)
    assert shown["last_time"] == shown["reference_time"] == 5002
    assert shown["build"]["data_name"] == "ml-100k"
    opened = Memory.open(str(run_dir / "memory"))
    assert opened.items.to_pylist()[0]["item_id"] == "fresh"
    assert json.loads(opened.items.to_pylist()[0]["attributes"]) == {"year": 2024}


def test_the_overview_and_rolling_back_by_command(run_dir):
    config = toy_config(run_dir)
    before = memory.main(config)
    changed = update_memory.main(toy_config(run_dir, update={"retire_items": ["item-03"], "expire_before": 1002}))
    with open_store(config.state_url) as store:
        store.forget_user("user-001", Author(None, "test"))
        store.mark_in_memory(store.pending(max_interactions=10), changed["version"])
        assert not store.pending(max_interactions=10).forgotten
    command = [sys.executable, "-m", "jobs.memory", f"run_dir={run_dir}", f"update.roll_back_to={before['version']}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = json.loads(done.stdout)
    same = ("num_entries", "digest", "num_users", "num_items", "entries_per_item", "largest_share", "first_time", "last_time")
    assert {name: after[name] for name in same} == {name: json.loads(json.dumps(before))[name] for name in same}
    assert [version["kind"] for version in after["versions"]][-3:] == ["retire", "expire", "rollback"]
    assert f"back to version {before['version']}" in done.stderr
    assert after["stored_bytes"] > before["stored_bytes"] > 0
    with open_store(config.state_url) as store:
        assert [user.user_id for user in store.pending(max_interactions=10).forgotten] == ["user-001"]


def test_bad_changes_are_refused_and_lose_nothing(run_dir):
    version = Memory.open(str(run_dir / "memory")).version
    (run_dir / "timeless.csv").write_text("user_id,item_id\nu,item-01\n")
    (run_dir / "future.csv").write_text("user_id,item_id,timestamp\nu,item-01,90000000000\n")
    (run_dir / "unknown.csv").write_text("user_id,item_id,timestamp\nu,nothing,5\n")
    (run_dir / "untitled.csv").write_text('item_id,title\nx,"  "\n')
    for settings, error, message in (
        ({}, ConfigError, "No change of the memory was asked for"),
        ({"interactions": str(run_dir / "timeless.csv")}, DataError, "has no timestamps"),
        ({"interactions": str(run_dir / "future.csv")}, DataError, "lies in the future"),
        ({"interactions": str(run_dir / "unknown.csv")}, DataError, "'nothing' of a new interaction is not among"),
        ({"items": str(run_dir / "untitled.csv")}, DataError, "Nothing is left of the title"),
        ({"retire_items": ["nothing"]}, DataError, "'nothing' is not among the memory's 20 items"),
    ):
        with pytest.raises(error, match=message):
            update_memory.main(toy_config(run_dir, update=settings))
    assert Memory.open(str(run_dir / "memory")).version == version
