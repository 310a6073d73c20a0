"""Shards built from a memory: a partition of it, in order, with the right statistics, whatever their number; swapped in whole."""

import errno
import fcntl
import resource

import numpy as np
import pytest

from l2d_ray.errors import ArtefactError, ConflictError, StorageError
from l2d_ray.index.build import build_shard
from l2d_ray.index.layout import (
    generations,
    load_catalogue,
    load_pooled,
    load_shards,
    only_builder,
    open_index,
    pin_generation,
    pinned_generation,
    read_manifest,
    shard_dir,
)
from l2d_ray.index.plan import finish_index, make_shard, plan_index
from l2d_ray.index.shard import Shard, buckets_of_shard, load_shard
from l2d_ray.memory.statistics import PooledStatistics, merge_statistics, statistics_of
from l2d_ray.memory.table import Memory
from l2d_ray.schema import NUM_BUCKETS, bucket_of
from tests.index.memories import (
    DIM,
    NUM_ENTRIES,
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

QUERIES = np.random.default_rng(9).normal(size=(5, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def memory(tmp_path_factory) -> Memory:
    return make_memory(str(tmp_path_factory.mktemp("memory")), random_items())


@pytest.mark.parametrize("num_shards", [1, 2, 5, 4096])
def test_the_shards_buckets_partition_all_buckets(num_shards):
    covered = [bucket for shard in range(num_shards) for bucket in buckets_of_shard(shard, num_shards)]
    assert covered == list(range(NUM_BUCKETS))


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_shards_partition_the_memory(memory, tmp_path, num_shards):
    manifest = build_toy_index(memory, tmp_path / "index", num_shards)
    index = open_built(tmp_path / "index")
    assert len(rows_of(memory)) == NUM_ENTRIES
    assert entries_of(index) == rows_of(memory)
    for number, shard in enumerate(index.shards()):
        positions = shard.live_positions()
        keys = list(zip(shard.items_at(positions).tolist(), shard.sample_ids_at(positions).tolist(), strict=True))
        assert keys == sorted(keys)
        assert all(bucket_of(memory.catalogue.item_ids[item]) in buckets_of_shard(number, num_shards) for item, _ in keys)
    assert manifest == read_manifest(tmp_path / "index")
    assert manifest.num_entries == tuple(len(shard) for shard in load_shards(tmp_path / "index"))
    assert (manifest.memory_version, int(manifest.digest, 16)) == (memory.version, memory.digest)
    assert load_catalogue(tmp_path / "index") == memory.catalogue


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize(("kind", "asked"), [("exact", (1, 40, 1000)), ("compressed", (40, 1000))])
def test_neighbours_equal_brute_force_for_any_number_of_shards(memory, tmp_path, num_shards, kind, asked):
    """Four times 40 entries are all there are, so the compressed kind re-scores every one."""
    build_toy_index(memory, tmp_path / "index", num_shards, kind=kind)
    for num_neighbors in asked:
        found = answers_of(load_shards(tmp_path / "index"), QUERIES, num_neighbors)
        assert [len(pairs) for pairs in found] == [min(num_neighbors, NUM_ENTRIES)] * len(QUERIES)
        assert found == brute_force(memory, QUERIES, num_neighbors)


def statistics_of_shard(shard: Shard, memory: Memory):
    rows, positions = rows_of(memory), shard.live_positions()
    times = np.array([rows[i][1] for i in shard.sample_ids_at(positions).tolist()], dtype=np.int64)
    return statistics_of(shard.items_at(positions), shard.vectors_at(positions), times)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "statistics"])
def test_streamed_statistics_equal_those_of_all_rows_at_once(memory, tmp_path, num_shards, kind):
    build_toy_index(memory, tmp_path / "entries", num_shards)
    build_toy_index(memory, tmp_path / "index", num_shards, kind=kind)
    shards = load_shards(tmp_path / "index")
    for shard, with_entries in zip(shards, load_shards(tmp_path / "entries"), strict=True):
        expected = statistics_of_shard(with_entries, memory)
        for name in ("item_indexes", "counts", "sums", "last_timestamps", "decayed_counts"):
            np.testing.assert_array_equal(getattr(shard.statistics, name), getattr(expected, name))
        np.testing.assert_allclose(shard.statistics.scatter, expected.scatter, rtol=1e-12)
    merged = merge_statistics([shard.statistics for shard in shards])
    assert len(merged.item_indexes) == NUM_ITEMS
    pooled, wanted = load_pooled(tmp_path / "index"), PooledStatistics.of([merged])
    np.testing.assert_allclose(pooled.within_covariance, wanted.within_covariance, rtol=1e-9)
    np.testing.assert_array_equal(pooled.mean, wanted.mean)


def test_statistics_are_loaded_without_opening_one_file_of_an_entry(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", 2)
    entries = [path for path in (tmp_path / "index").rglob("*") if "segment-" in str(path.relative_to(tmp_path)) and path.is_file()]
    assert len(entries) == 2 * 9
    for path in entries:
        path.unlink()
    shards = load_shards(tmp_path / "index", with_entries=False)
    assert [shard.has_entries for shard in shards] == [False, False]
    assert sum(len(shard) for shard in shards) == NUM_ENTRIES
    with pytest.raises(ArtefactError, match="item statistics alone, so it has no entries to search"):
        shards[0].nearest(QUERIES, 3)
    with pytest.raises(ArtefactError, match=r"segment\.json is missing, truncated or changed"):
        load_shards(tmp_path / "index")


def test_an_index_of_statistics_alone_has_no_entries(memory, tmp_path):
    manifest = build_toy_index(memory, tmp_path / "index", 2, kind="statistics")
    whole = build_toy_index(memory, tmp_path / "whole", 2, kind="exact")
    assert manifest.statistics_bytes == whole.statistics_bytes
    assert (sum(manifest.entries_bytes), sum(manifest.num_entries)) == (0, NUM_ENTRIES)
    assert sum(whole.entries_bytes) >= NUM_ENTRIES * DIM * 2
    assert not any(shard.has_entries for shard in load_shards(tmp_path / "index"))


def test_shards_without_entries_are_whole_and_empty(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), np.zeros(4, dtype=np.int64), num_commits=1)
    build_toy_index(memory, tmp_path / "index", 3)
    shards = open_built(tmp_path / "index").shards()
    assert sorted(len(shard) for shard in shards) == [0, 0, 4]
    for shard in shards:
        found = shard.nearest(np.ones((2, DIM), dtype=np.float32), 3)
        assert found.sample_ids.shape == (2, min(3, len(shard)))


def test_one_item_with_a_third_of_all_entries_builds_and_answers(tmp_path):
    items = np.where(np.arange(NUM_ENTRIES) % 10 < 3, 7, random_items())
    memory = make_memory(str(tmp_path / "memory"), items)
    manifest = build_toy_index(memory, tmp_path / "index", 4)
    shards = load_shards(tmp_path / "index")
    assert answers_of(shards, QUERIES, 60) == brute_force(memory, QUERIES, 60)
    owner = next(shard for shard in shards if len(shard.positions_of_item(7)))
    assert len(owner.positions_of_item(7)) == (items == 7).sum() >= 0.3 * NUM_ENTRIES
    assert manifest.largest_share == max(manifest.num_entries) / NUM_ENTRIES >= 0.3


def test_resharding_touches_no_file_of_the_memory(memory, tmp_path):
    before = files_of(tmp_path.parent / memory.uri)
    answers = []
    for num_shards in (2, 5, 3):
        assert build_toy_index(memory, tmp_path / "index", num_shards).num_shards == num_shards
        answers.append(answers_of(open_built(tmp_path / "index").shards(), QUERIES, 30))
    assert answers[0] == answers[1] == answers[2] == brute_force(memory, QUERIES, 30)
    assert len(before) > 5
    assert files_of(tmp_path.parent / memory.uri) == before


def test_a_sealed_shard_is_kept_and_one_that_is_not_whole_is_built_anew(memory, tmp_path):
    folder = shard_dir(tmp_path, 0)
    vectors = folder / "segment-00000" / "vectors.npy"
    assert build_shard(memory, 0, 2, folder).num_entries == len(load_shard(folder))
    sealed = vectors.stat().st_mtime_ns
    assert build_shard(memory, 0, 2, folder).num_entries == len(load_shard(folder))
    assert vectors.stat().st_mtime_ns == sealed
    vectors.write_bytes(b"half")
    progress: list[int] = []
    build_shard(memory, 0, 2, folder, on_progress=progress.append)
    assert sum(progress) == len(load_shard(folder)) > 0


def test_a_killed_build_goes_on_with_the_shards_it_had_sealed(memory, tmp_path):
    plan = plan_index(memory, 3, tmp_path / "index")
    make_shard(plan, 1)
    sealed = files_of(plan.shard_dir(1))
    with pytest.raises(ArtefactError, match="There is no index at"):
        open_index(tmp_path / "index")
    build_toy_index(memory, tmp_path / "index", 3)
    assert files_of(plan.shard_dir(1)) == sealed
    assert entries_of(open_built(tmp_path / "index")) == rows_of(memory)


def test_an_index_of_the_same_version_is_reused(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", 2)
    before = files_of(tmp_path / "index")
    assert plan_index(memory, 2, tmp_path / "index").action == "reused"
    assert plan_index(memory, 3, tmp_path / "index").reason == "the index has 2 shards of kind exact, wanted are 3 of kind exact"
    assert files_of(tmp_path / "index") == before


def test_a_reader_keeps_the_index_that_it_opened(tmp_path):
    """Until the swap after next; what was half-built is gone after each."""
    memory = make_memory(str(tmp_path / "memory"), random_items())
    build_toy_index(memory, tmp_path / "index", 2)
    opened, expected = open_index(tmp_path / "index"), rows_of(memory)
    make_shard(plan_index(memory, 4, tmp_path / "index"), 0)
    memory = append_rows(memory, [1, 2, 3], first=1000)
    build_toy_index(memory, tmp_path / "index", 2)
    assert entries_of(opened) == expected
    assert len(generations(tmp_path / "index")) == 2
    build_toy_index(append_rows(memory, [4], first=2000), tmp_path / "index", 2)
    assert len(generations(tmp_path / "index")) == len([path for path in (tmp_path / "index").iterdir() if path.is_dir()]) == 2
    with pytest.raises(ArtefactError, match="is missing, truncated or changed"):
        opened.shards()


def test_shards_that_are_not_the_whole_memory_are_refused(memory, tmp_path):
    plan = plan_index(memory, 2, tmp_path / "index")
    summaries = [make_shard(plan, 0), make_shard(plan, 0)]
    with pytest.raises(ArtefactError, match=r"damaged at version \d+: its files hold \d+ rows with digest"):
        finish_index(plan, memory, summaries)
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_a_sample_that_stands_twice_is_refused(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), np.zeros(2, dtype=np.int64), num_commits=1)
    doubled = append_rows(memory, [0], first=0)
    with pytest.raises(ArtefactError, match=f"version {doubled.version}, holds a sample_id twice"):
        build_shard(doubled, 0, 1, tmp_path / "shard")


def test_an_item_that_the_catalogue_lacks_is_refused(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), np.zeros(2, dtype=np.int64), num_commits=1)
    with pytest.raises(ArtefactError, match=r"holds item 'item-99', which its catalogue lacks"):
        build_shard(append_rows(memory, [99], first=50), 0, 1, tmp_path / "shard")


def test_a_second_builder_of_one_place_is_told_so(tmp_path):
    with only_builder(tmp_path / "index"), pytest.raises(ConflictError, match=r"Another jobs\.build_index is at work"):
        only_builder(tmp_path / "index").__enter__()
    with only_builder(tmp_path / "index"):
        assert list(tmp_path.joinpath("index").iterdir()) == [tmp_path / "index" / "lock"]


def test_a_file_system_without_locks_is_built_on_all_the_same(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with only_builder(tmp_path / "index"), only_builder(tmp_path / "index"):
        pass


def test_a_full_disk_is_a_sentence_and_the_build_goes_on_later(memory, tmp_path):
    """A limit on the size of files stands for the disk: refused before the memory-mapped vectors are touched."""
    plan, (soft, hard) = plan_index(memory, 2, tmp_path / "index"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(StorageError, match=r"Writing to .*index failed .*run the same again"):
            make_shard(plan, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    build_toy_index(memory, tmp_path / "index", 2)
    assert entries_of(open_built(tmp_path / "index")) == rows_of(memory)


def test_an_index_of_another_model_is_refused_naming_both(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", 1)
    assert read_manifest(tmp_path / "index", fingerprint="aaaa").dim == DIM
    with pytest.raises(ArtefactError, match="made by the model aaaa, the model here is bbbb"):
        read_manifest(tmp_path / "index", fingerprint="bbbb")


def test_a_pinned_generation_stays_whatever_is_built(tmp_path):
    """So a service can go back, and stay there; all others go as they would."""
    memory, folder = make_memory(str(tmp_path / "memory"), random_items()), tmp_path / "index"
    first, expected = build_toy_index(memory, folder, 2).generation, rows_of(memory)
    assert pinned_generation(folder) is None
    pin_generation(folder, first)
    for number in range(1, 4):
        memory = append_rows(memory, [number], first=1000 * number)
        build_toy_index(memory, folder, 2, num_previous=2)
    names = generations(folder)
    assert (len(names), names[0], names[-1]) == (4, first, read_manifest(folder).generation)
    assert pinned_generation(folder) == first
    assert entries_of(open_index(folder, generation=first)) == expected
    pin_generation(folder, None)
    build_toy_index(append_rows(memory, [9], first=9000), folder, 2, num_previous=0)
    assert generations(folder) == [read_manifest(folder).generation]
    with pytest.raises(ArtefactError, match=f"There is no index at .*{first}.json"):
        open_index(folder, generation=first)
