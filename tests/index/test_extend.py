"""An extended index is the index of the newer version: the same entries, neighbours and statistics as one built from scratch."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.errors import ArtefactError
from l2d_ray.index.extend import Versions, extend_shard
from l2d_ray.index.layout import POOLED, Index, load_shards, open_index
from l2d_ray.index.plan import IndexOptions, make_shard, plan_index, why_not_extended
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import changed_items, expire_before, forget_users, remove_samples, rename_items, retire_items, set_half_life
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
from tests.toys import NUM_ITEMS, build_toy_index

QUERIES = np.random.default_rng(9).normal(size=(4, DIM)).astype(np.float32)
NUM_SHARDS = 2


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return make_memory(str(tmp_path / "memory"), random_items())


def with_new_item(memory: Memory, item_id: str) -> Memory:
    row = {"item_id": item_id, "title": "New Island", "attributes": "{}", "is_retired": False}
    return memory.commit(memory.state.next("append", "new item", items=changed_items(memory, [row])))


def assert_is_index_of(index: Index, memory: Memory, tmp_path: Path) -> None:
    """Compare with an index built from scratch, and neighbours with brute force."""
    build_toy_index(memory, tmp_path / "scratch", index.manifest.num_shards, is_extended=False, kind="exact")
    scratch = open_index(tmp_path / "scratch")
    assert entries_of(index) == rows_of(memory)
    assert answers_of(index.shards(), QUERIES, 40) == brute_force(memory, QUERIES, 40)
    assert_has_statistics_of(index, scratch)


def assert_has_statistics_of(index: Index, scratch: Index) -> None:
    assert sum(len(shard.pairs) for shard in scratch.shards()) > 50
    assert index.catalogue() == scratch.catalogue()
    assert index.manifest.num_entries == scratch.manifest.num_entries
    for found, expected in zip(index.shards(), scratch.shards(), strict=True):
        for name in ("item_indexes", "counts", "sums", "last_timestamps", "decayed_counts"):
            np.testing.assert_array_equal(getattr(found.statistics, name), getattr(expected.statistics, name), err_msg=name)
        np.testing.assert_allclose(found.statistics.scatter, expected.statistics.scatter, rtol=1e-9, atol=1e-9)
        for name in ("starts", "places", "similarities"):
            np.testing.assert_array_equal(getattr(found.pairs, name), getattr(expected.pairs, name), err_msg=name)
    for name in POOLED:
        mine, theirs = (getattr(whole.pooled(), name) for whole in (index, scratch))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def random_change(memory: Memory, rng: np.random.Generator, step: int) -> Memory:
    match rng.integers(0, 7):
        case 0 | 1:
            items = rng.choice([i for i in range(NUM_ITEMS) if f"item-{i:02d}" not in memory.retired_item_ids], rng.integers(1, 15))
            return append_rows(memory, items, first=1000 * (step + 1))
        case 2:
            return forget_users(memory, [f"u{number}" for number in rng.integers(0, 150, 6)])
        case 3:
            return retire_items(memory, [f"item-{rng.integers(0, NUM_ITEMS):02d}"])
        case 4:
            return expire_before(memory, int(100 + rng.integers(0, 20)))
        case 5:
            return with_new_item(memory, f"item-{rng.integers(0, NUM_ITEMS):02d}-{step}")
    return set_half_life(memory, int(rng.integers(1, 100)))


@pytest.mark.parametrize("seed", range(6))
def test_any_chain_of_changes_and_extensions_equals_a_build_from_scratch(memory, tmp_path, seed):
    rng, actions = np.random.default_rng(seed), []
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS, kind="exact")
    for step in range(6):
        memory = random_change(memory, rng, step)
        actions.append(plan_index(memory, NUM_SHARDS, tmp_path / "index").action)
        build_toy_index(memory, tmp_path / "index", NUM_SHARDS, rebuild_fraction=(0.25, 10.0)[seed % 2])
        assert_is_index_of(open_built(tmp_path / "index"), memory, tmp_path / str(step))
    assert "extended" in actions


@pytest.mark.parametrize("seed", range(4))
def test_statistics_alone_follow_any_chain_of_changes_without_a_rebuild(memory, tmp_path, seed):
    rng, num_read = np.random.default_rng(seed), []
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS, kind="statistics")
    for step in range(6):
        newer = random_change(memory, rng, step)
        plan = plan_index(newer, NUM_SHARDS, tmp_path / "index", options=IndexOptions(kind="statistics"))
        assert plan.action == ("extended" if newer is not memory else "reused")
        difference = newer.difference(memory)
        num_read.append(sum(map(len, difference.added)) + sum(map(len, difference.gone)))
        memory = newer
        build_toy_index(memory, tmp_path / "index", NUM_SHARDS, kind="statistics")
        index = open_built(tmp_path / "index")
        build_toy_index(memory, tmp_path / str(step), NUM_SHARDS, is_extended=False, kind="exact")
        assert_has_statistics_of(index, open_index(tmp_path / str(step)))
        assert not any(index.manifest.entries_bytes)
    assert 0 < sum(num_read) < 2 * len(memory)


def test_an_extension_shares_the_old_files_and_adds_one_segment(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
    old = open_index(tmp_path / "index")
    newer = forget_users(append_rows(memory, random_items(9), first=500), ["u3", "u77"])
    manifest = build_toy_index(newer, tmp_path / "index", NUM_SHARDS)
    new = open_index(tmp_path / "index")
    assert sum(manifest.num_dead) == 2
    for shard in range(NUM_SHARDS):
        before, after = (index.shard_dir(shard) / "segment-00000" / "vectors.npy" for index in (old, new))
        assert before.stat().st_ino == after.stat().st_ino
        assert sorted(path.name for path in new.shard_dir(shard).glob("segment-*") if path.is_dir()) == ["segment-00000", "segment-00001"]
    assert_is_index_of(new, newer, tmp_path)
    assert entries_of(old) == rows_of(memory)


def test_files_are_copied_where_links_are_refused(memory, tmp_path, monkeypatch):
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "links are not supported")

    build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
    monkeypatch.setattr(os, "link", refuse)
    newer = append_rows(memory, [1, 2], first=500)
    build_toy_index(newer, tmp_path / "index", NUM_SHARDS)
    assert_is_index_of(open_built(tmp_path / "index"), newer, tmp_path)


def test_many_extensions_leave_few_segments(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", 1)
    for step in range(17):
        memory = append_rows(memory, [step], first=1000 + step)
        build_toy_index(memory, tmp_path / "index", 1, rebuild_fraction=10.0)
    (shard,) = open_built(tmp_path / "index").shards()
    assert [len(live.segment) for live in shard.live_segments] == [150, 16, 1]
    assert_is_index_of(open_index(tmp_path / "index"), memory, tmp_path)


@pytest.mark.parametrize(("num_new", "num_segments"), [(20, 2), (60, 1)])
def test_a_shard_that_is_mostly_new_is_built_anew(memory, tmp_path, num_new, num_segments):
    build_toy_index(memory, tmp_path / "index", 1)
    newer = append_rows(memory, random_items(num_new), first=500)
    assert plan_index(newer, 1, tmp_path / "index").action == "extended"
    build_toy_index(newer, tmp_path / "index", 1)
    assert len(load_shards(tmp_path / "index")[0].live_segments) == num_segments
    assert_is_index_of(open_built(tmp_path / "index"), newer, tmp_path)


def test_add_then_forget_is_the_index_before(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
    before = load_shards(tmp_path / "index")
    added = append_rows(memory, random_items(12), first=500)
    build_toy_index(added, tmp_path / "index", NUM_SHARDS)
    build_toy_index(forget_users(added, [f"u{500 + i}" for i in range(12)]), tmp_path / "index", NUM_SHARDS)
    after = load_shards(tmp_path / "index")
    assert answers_of(after, QUERIES, 60) == answers_of(before, QUERIES, 60)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.statistics.sums, new.statistics.sums)
        np.testing.assert_allclose(old.statistics.scatter, new.statistics.scatter, rtol=1e-9)


def test_a_sample_that_comes_back_counts_once(memory, tmp_path):
    """Dead in an old segment, alive in a new one: with its own id, and its other vector."""
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
    for step in range(3):
        memory = append_rows(forget_users(memory, ["u5"]), [int(random_items()[5])], first=5, seed=step)
        build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
        assert_is_index_of(open_built(tmp_path / "index"), memory, tmp_path / str(step))


def test_renaming_an_item_rewrites_no_entry(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
    renamed = rename_items(memory, {"item-03": "Another Title"})
    manifest = build_toy_index(renamed, tmp_path / "index", NUM_SHARDS)
    assert (manifest.memory_version, sum(manifest.num_dead)) == (renamed.version, 0)
    assert open_index(tmp_path / "index").catalogue().titles[3] == "Another Title"


def test_a_killed_extension_goes_on_with_the_shards_it_had_sealed(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
    newer = append_rows(memory, random_items(9), first=500)
    plan = plan_index(newer, NUM_SHARDS, tmp_path / "index")
    make_shard(plan, 1)
    sealed = files_of(plan.shard_dir(1))
    assert entries_of(open_index(tmp_path / "index")) == rows_of(memory)
    build_toy_index(newer, tmp_path / "index", NUM_SHARDS)
    assert files_of(plan.shard_dir(1)) == sealed
    assert_is_index_of(open_built(tmp_path / "index"), newer, tmp_path)


def test_without_extension_dead_entries_leave_the_files(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS)
    newer = forget_users(memory, ["u3"])
    assert sum(build_toy_index(newer, tmp_path / "index", NUM_SHARDS).num_dead) == 1
    manifest = build_toy_index(newer, tmp_path / "index", NUM_SHARDS, is_extended=False)
    assert sum(manifest.num_dead) == 0
    assert_is_index_of(open_built(tmp_path / "index"), newer, tmp_path)
    assert plan_index(newer, NUM_SHARDS, tmp_path / "index", options=IndexOptions(is_extended=False)).action == "reused"


def test_a_compressed_index_is_extended_by_a_segment_that_is_searched_exactly(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", 1, kind="compressed")
    newer = forget_users(append_rows(memory, random_items(9), first=500), ["u3"])
    build_toy_index(newer, tmp_path / "index", 1, kind="compressed")
    index = open_built(tmp_path / "index")
    codes = sorted(path.parent.name for path in index.shard_dir(0).rglob("codes.faiss"))
    assert codes == ["segment-00000"]
    assert answers_of(index.shards(), QUERIES, 45) == brute_force(newer, QUERIES, 45)


def test_what_cannot_be_extended_is_built_and_says_why(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", NUM_SHARDS, kind="exact")
    older, newer = memory, append_rows(memory, [1], first=500)
    manifest = open_index(tmp_path / "index").manifest
    assert why_not_extended(manifest, newer, NUM_SHARDS, "exact") is None
    reasons = {
        "2 shards of kind exact, wanted are 3 of kind exact": why_not_extended(manifest, newer, 3, "exact"),
        "wanted are 2 of kind compressed": why_not_extended(manifest, newer, NUM_SHARDS, "compressed"),
    }
    other = Memory.create(str(tmp_path / "other"), fingerprint="bbbb", dim=DIM, catalogue=memory.catalogue)
    reasons["made by the model aaaa, the memory by bbbb"] = why_not_extended(manifest, other, NUM_SHARDS, "exact")
    wide = Memory.create(str(tmp_path / "wide"), fingerprint="aaaa", dim=DIM + 1, catalogue=memory.catalogue)
    reasons["are 6 wide, those of the memory 7"] = why_not_extended(manifest, wide, NUM_SHARDS, "exact")
    twin = make_memory(str(tmp_path / "twin"), random_items(seed=5))
    reasons["holds other rows than the index was made from"] = why_not_extended(manifest, twin, NUM_SHARDS, "exact")
    build_toy_index(newer, tmp_path / "index", NUM_SHARDS)
    reasons["newer than version"] = why_not_extended(open_index(tmp_path / "index").manifest, older, NUM_SHARDS, "exact")
    for expected, reason in reasons.items():
        assert reason is not None
        assert expected in reason
    plan = plan_index(older, NUM_SHARDS, tmp_path / "index")
    assert (plan.action, plan.base) == ("built", None)
    build_toy_index(older, tmp_path / "index", NUM_SHARDS)
    assert entries_of(open_built(tmp_path / "index")) == rows_of(older)


def test_a_base_that_lost_entries_is_refused(memory, tmp_path):
    """An index that claims another version than it was made from."""
    build_toy_index(memory, tmp_path / "index", 1)
    newer = forget_users(memory, ["u3", "u4"])
    build_toy_index(newer, tmp_path / "index", 1)
    newest = forget_users(newer, ["u5"])
    folder = open_index(tmp_path / "index").shard_dir(0)
    with pytest.raises(ArtefactError, match="lacks entries of the memory version that it was made from"):
        extend_shard(Versions(newest, memory, 0, 1), folder, tmp_path / "shard")


def test_a_damaged_vector_is_not_carried_into_the_statistics(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", 1)
    index = open_index(tmp_path / "index")
    path = index.shard_dir(0) / "segment-00000" / "vectors.npy"
    content = np.load(path)
    content[:, 0] += 1
    np.save(path, content)
    removal = remove_samples(memory, [int(np.load(path.with_name("sample_ids.npy"))[7])])
    digest = (memory.digest - removal.digest) % 2**64
    newer = memory.commit(memory.state.next("forget", "one", num_entries=len(memory) - 1, digest=digest), changes=removal.changes)
    with pytest.raises(ArtefactError, match=r"segment-00000/vectors\.npy was changed since it was built"):
        make_shard(plan_index(newer, 1, tmp_path / "index"), 0)


def test_pairs_are_left_out_and_counted_later_without_a_new_version(memory, tmp_path):
    assert not build_toy_index(memory, tmp_path / "index", NUM_SHARDS, has_pairs=False).has_pairs
    assert [shard.pairs for shard in load_shards(tmp_path / "index")] == [None] * NUM_SHARDS
    assert plan_index(memory, NUM_SHARDS, tmp_path / "index", options=IndexOptions(has_pairs=False)).action == "reused"
    assert plan_index(memory, NUM_SHARDS, tmp_path / "index").action == "extended"
    assert build_toy_index(memory, tmp_path / "index", NUM_SHARDS).has_pairs
    assert_is_index_of(open_index(tmp_path / "index"), memory, tmp_path)
