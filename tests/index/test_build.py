"""Shards built from a memory: a partition of it, in order, with the right statistics; and anything damaged is refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.data.sequences import Target
from l2d_ray.errors import ArtefactError
from l2d_ray.index.build import build_shard
from l2d_ray.index.layout import load_catalogue, load_covariance, load_shards, read_manifest, shard_dir
from l2d_ray.index.shard import ENTRY_FILES, STATISTICS_FILES, Shard, buckets_of_shard, load_shard
from l2d_ray.memory.statistics import merge_statistics, statistics_of, within_covariance
from l2d_ray.memory.table import Memory, entries_table, write_entries
from l2d_ray.schema import NUM_BUCKETS, bucket_of
from tests.toys import NUM_ITEMS, build_toy_index, toy_catalogue

DIM, NUM_ENTRIES = 6, 150
FILES = [f"{name}.npy" for name in ENTRY_FILES + STATISTICS_FILES]


def make_memory(uri: str, item_numbers: np.ndarray, *, num_commits: int = 3) -> Memory:
    rng = np.random.default_rng(0)
    memory = Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())
    for rows in np.array_split(np.arange(len(item_numbers)), num_commits):
        targets = [Target(f"u{i}", f"item-{item_numbers[i]:02d}", None if i % 4 == 0 else 100 + int(i), int(i)) for i in rows]
        table = entries_table(targets, rng.normal(size=(len(rows), DIM)).astype(np.float32))
        memory = memory.append(write_entries(uri, table), message="rows")
    return memory


@pytest.fixture(scope="module")
def memory(tmp_path_factory) -> Memory:
    return make_memory(str(tmp_path_factory.mktemp("memory")), np.random.default_rng(1).integers(0, NUM_ITEMS, NUM_ENTRIES))


@pytest.fixture(scope="module")
def whole(memory, tmp_path_factory) -> Path:
    index_dir = tmp_path_factory.mktemp("whole") / "index"
    build_toy_index(memory, index_dir, 2)
    return index_dir


@pytest.fixture
def index_dir(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "index"))


def rows_of(memory: Memory) -> dict[int, tuple[str, int | None, bytes]]:
    """sample_id -> item_id, timestamp and the vector's bytes."""
    return {
        row["sample_id"]: (row["item_id"], row["timestamp"], np.array(row["vector"], dtype=np.float16).tobytes())
        for batch in memory.scan(["sample_id", "item_id", "timestamp", "vector"])
        for row in batch.to_pylist()
    }


@pytest.mark.parametrize("num_shards", [1, 2, 5, 4096])
def test_the_shards_buckets_partition_all_buckets(num_shards):
    covered = [bucket for shard in range(num_shards) for bucket in buckets_of_shard(shard, num_shards)]
    assert covered == list(range(NUM_BUCKETS))


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_shards_partition_the_memory(memory, tmp_path, num_shards):
    build_toy_index(memory, tmp_path / "index", num_shards)
    shards = load_shards(tmp_path / "index")
    wanted, item_ids = rows_of(memory), memory.catalogue.item_ids
    assert len(shards) == num_shards
    assert len(wanted) == NUM_ENTRIES == sum(len(shard) for shard in shards)
    found = {}
    for number, shard in enumerate(shards):
        keys = list(zip(shard.item_indexes.tolist(), shard.sample_ids.tolist(), strict=True))
        assert keys == sorted(keys)
        assert all(bucket_of(item_ids[item]) in buckets_of_shard(number, num_shards) for item, _ in keys)
        for (item, sample_id), vector in zip(keys, shard.vectors, strict=True):
            found[sample_id] = (item_ids[item], wanted[sample_id][1], vector.tobytes())
    assert found == wanted
    assert read_manifest(tmp_path / "index").num_entries == tuple(len(shard) for shard in shards)
    assert load_catalogue(tmp_path / "index") == memory.catalogue


def statistics_of_shard(shard: Shard, memory: Memory):
    sample_id_to_time = {sample_id: -1 if time is None else time for sample_id, (_, time, _) in rows_of(memory).items()}
    times = np.array([sample_id_to_time[i] for i in shard.sample_ids.tolist()], dtype=np.int64)
    return statistics_of(shard.item_indexes, np.asarray(shard.vectors), times)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_streamed_statistics_equal_those_of_all_rows_at_once(memory, tmp_path, num_shards):
    build_toy_index(memory, tmp_path / "index", num_shards)
    shards = load_shards(tmp_path / "index")
    for shard in shards:
        expected = statistics_of_shard(shard, memory)
        for name in ("item_indexes", "counts", "sums", "last_timestamps"):
            np.testing.assert_array_equal(getattr(shard.statistics, name), getattr(expected, name))
        np.testing.assert_allclose(shard.statistics.scatter, expected.scatter, rtol=1e-12)
    merged = merge_statistics([shard.statistics for shard in shards])
    assert len(merged.item_indexes) == NUM_ITEMS
    np.testing.assert_allclose(load_covariance(tmp_path / "index"), within_covariance([merged]), rtol=1e-9)


def test_shards_without_entries_are_whole_and_empty(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), np.zeros(4, dtype=np.int64), num_commits=1)
    build_toy_index(memory, tmp_path / "index", 3)
    shards = load_shards(tmp_path / "index")
    assert sorted(len(shard) for shard in shards) == [0, 0, 4]
    for shard in shards:
        found = shard.nearest(np.ones((2, DIM), dtype=np.float32), 3)
        assert found.sample_ids.shape == (2, min(3, len(shard)))


def test_a_sealed_shard_is_kept_and_an_unsealed_one_built_anew(memory, tmp_path):
    folder = shard_dir(tmp_path, 0)
    assert build_shard(memory, 0, 2, folder) == len(load_shard(folder))
    sealed = (folder / "vectors.npy").stat().st_mtime_ns
    assert build_shard(memory, 0, 2, folder) == len(load_shard(folder))
    assert (folder / "vectors.npy").stat().st_mtime_ns == sealed
    (folder / "shard.json").unlink()
    (folder / "vectors.npy").write_bytes(b"half")
    progress: list[int] = []
    build_shard(memory, 0, 2, folder, on_progress=progress.append)
    assert sum(progress) == len(load_shard(folder)) > 0


def test_a_sample_that_stands_twice_is_refused(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), np.zeros(2, dtype=np.int64), num_commits=1)
    target = Target("u0", "item-00", None, 0)
    doubled = memory.append(write_entries(memory.uri, entries_table([target], np.ones((1, DIM), dtype=np.float32))), message="again")
    with pytest.raises(ArtefactError, match=f"version {doubled.version}, holds a sample_id twice"):
        build_shard(doubled, 0, 1, tmp_path / "shard")


def test_an_item_that_the_catalogue_lacks_is_refused(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), np.zeros(2, dtype=np.int64), num_commits=1)
    stranger = entries_table([Target("u9", "stranger", None, 0)], np.ones((1, DIM), dtype=np.float32))
    with pytest.raises(ArtefactError, match="holds item 'stranger', which its catalogue lacks"):
        build_shard(memory.append(write_entries(memory.uri, stranger), message="bad"), 0, 1, tmp_path / "shard")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_naming_the_file(index_dir, name):
    path = shard_dir(index_dir, 0) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=f"{path} is missing, truncated or changed"):
        load_shards(index_dir)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_refused_naming_it(index_dir, name):
    path = shard_dir(index_dir, 1) / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=f"{path} is missing, truncated or changed"):
        load_shard(path.parent)
    path.unlink()
    with pytest.raises(ArtefactError, match=f"{path} is missing, truncated or changed"):
        load_shard(path.parent)


@pytest.mark.parametrize("content", [None, "", "{}", '{"files": '])
def test_a_shard_that_is_not_sealed_is_refused(index_dir, content):
    path = shard_dir(index_dir, 0) / "shard.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtefactError, match=rf"{path} is missing or damaged: the shard is not whole"):
        load_shards(index_dir)


def test_an_index_of_another_model_is_refused_naming_both(index_dir):
    assert read_manifest(index_dir, fingerprint="aaaa").dim == DIM
    with pytest.raises(ArtefactError, match="made by the model aaaa, the model here is bbbb"):
        read_manifest(index_dir, fingerprint="bbbb")


def test_a_manifest_that_is_absent_damaged_or_of_another_format_is_refused(index_dir, tmp_path):
    path = index_dir / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"format_version": 99}))
    with pytest.raises(ArtefactError, match="format version 99"):
        read_manifest(index_dir)
    for content in ("", "[]", "{}", json.dumps(fields | {"stranger": 1})):
        path.write_text(content)
        with pytest.raises(ArtefactError, match="is damaged"):
            read_manifest(index_dir)
    path.unlink()
    with pytest.raises(ArtefactError, match=r"There is no index at .*; run jobs.build_index first"):
        load_shards(index_dir)
