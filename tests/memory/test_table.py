"""The memory's table: versions that reopen, commits, what is refused, and reading by bucket."""

from itertools import pairwise

import numpy as np
import pytest

from l2d_ray.data.sequences import Target
from l2d_ray.errors import ArtefactError
from l2d_ray.memory.table import Memory, entries_table, exists, read_text, vectors_of, write_entries, write_text
from l2d_ray.schema import NUM_BUCKETS, bucket_of
from tests.toys import NUM_ITEMS, toy_catalogue

DIM = 4


def make_targets(first: int, count: int) -> list[Target]:
    return [Target(f"user-{i}", f"item-{i % NUM_ITEMS:02d}", None if i % 5 == 0 else 1000 + i, i) for i in range(first, first + count)]


def make_vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def append(memory: Memory, targets: list[Target], vectors: np.ndarray, message: str = "more") -> Memory:
    return memory.append(write_entries(memory.uri, entries_table(targets, vectors)), message=message)


@pytest.fixture
def uri(tmp_path) -> str:
    return str(tmp_path / "memory")


@pytest.fixture
def empty(uri) -> Memory:
    return Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())


def test_create_and_open(uri):
    assert not exists(uri)
    created = Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())
    assert exists(uri)
    opened = Memory.open(uri, fingerprint="aaaa")
    assert (opened.version, len(opened), opened.dim, opened.fingerprint) == (created.version, 0, DIM, "aaaa")
    assert opened.catalogue == toy_catalogue()
    with pytest.raises(ArtefactError, match="There is a memory at"):
        Memory.create(uri, fingerprint="bbbb", dim=DIM, catalogue=toy_catalogue())


def test_rows_come_back_as_they_were_written(empty, uri):
    targets, vectors = make_targets(0, 30), make_vectors(30)
    append(empty, targets, vectors)
    memory = Memory.open(uri)
    (batch,) = memory.scan(["sample_id", "user_id", "item_id", "timestamp", "bucket", "vector"])
    assert batch["sample_id"].to_pylist() == [t.sample_id for t in targets]
    assert batch["user_id"].to_pylist() == [t.user_id for t in targets]
    assert batch["item_id"].to_pylist() == [t.item_id for t in targets]
    assert batch["timestamp"].to_pylist() == [t.timestamp for t in targets]
    assert None in batch["timestamp"].to_pylist()
    assert batch["bucket"].to_pylist() == [bucket_of(t.item_id) for t in targets]
    np.testing.assert_array_equal(vectors_of(batch), vectors.astype(np.float16))


def test_every_commit_is_a_version_and_old_ones_reopen(empty, uri):
    first = append(empty, make_targets(0, 3), make_vectors(3), "first")
    second = append(first, make_targets(3, 4), make_vectors(4), "second")
    assert first.version < second.version == Memory.open(uri).version
    assert [len(m) for m in (empty, first, second)] == [0, 3, 7]
    assert len(Memory.open(uri, version=first.version)) == 3
    assert [entry.message for entry in second.history()] == ["create", "first", "second"]
    assert [entry.message for entry in Memory.open(uri, version=first.version).history()] == ["create", "first"]
    assert [entry.version for entry in second.history()] == sorted({entry.version for entry in second.history()})


def test_rows_without_a_commit_belong_to_no_version(empty, uri):
    fragments = write_entries(uri, entries_table(make_targets(0, 3), make_vectors(3)))
    assert len(fragments) == 1
    assert len(Memory.open(uri)) == 0
    empty.append(fragments, message="now")
    assert len(Memory.open(uri)) == 3


def test_an_empty_table_writes_nothing(empty, uri):
    assert write_entries(uri, entries_table([], np.zeros((0, DIM), dtype=np.float32))) == []


def test_appends_from_an_old_version_lose_nothing(empty, uri):
    append(empty, make_targets(0, 3), make_vectors(3))
    append(empty, make_targets(3, 4), make_vectors(4))
    ids = [i for batch in Memory.open(uri).scan(["sample_id"]) for i in batch["sample_id"].to_pylist()]
    assert sorted(ids) == sorted(t.sample_id for t in make_targets(0, 7))


def test_another_models_memory_is_refused_naming_both(empty, uri):
    with pytest.raises(ArtefactError, match=r"made by the model aaaa, the model here is bbbb; use that model"):
        Memory.open(uri, fingerprint="bbbb")


def test_what_is_not_there_is_refused(empty, uri, tmp_path):
    with pytest.raises(ArtefactError, match=r"There is no memory at .*; run jobs.build_memory first"):
        Memory.open(str(tmp_path / "absent"))
    with pytest.raises(ArtefactError, match="cannot be read at version 99"):
        Memory.open(uri, version=99)


def test_states_beyond_float16_are_refused():
    vectors = make_vectors(2)
    vectors[1, 2] = 70_000
    with pytest.raises(ArtefactError, match="holds 70000, beyond float16's 65504"):
        entries_table(make_targets(0, 2), vectors)
    vectors[1, 2] = 65_504
    assert entries_table(make_targets(0, 2), vectors).num_rows == 2


def test_present_and_rows(empty):
    targets = make_targets(0, 12)
    memory = append(append(empty, targets[:6], make_vectors(6)), targets[6:], make_vectors(6))
    ids = [t.sample_id for t in targets]
    assert memory.present([ids[0], 17, ids[7]]) == {ids[0], ids[7]}
    assert memory.present([17]) == memory.present([]) == set()
    rows = memory.rows([ids[3], ids[8]], ["sample_id", "item_id"])
    assert sorted(rows["item_id"].to_pylist()) == [targets[3].item_id, targets[8].item_id]
    assert memory.rows([], ["sample_id"]).num_rows == 0


@pytest.mark.parametrize("num_ranges", [1, 2, 7])
def test_scans_of_disjoint_buckets_partition_the_rows(empty, num_ranges):
    targets = make_targets(0, 60)
    memory = append(empty, targets, make_vectors(60))
    edges = [NUM_BUCKETS * i // num_ranges for i in range(num_ranges + 1)]
    found = []
    for start, stop in pairwise(edges):
        for batch in memory.scan(["sample_id", "bucket"], buckets=range(start, stop), batch_rows=7):
            assert len(batch) <= 7
            assert all(start <= b < stop for b in batch["bucket"].to_pylist())
            found += batch["sample_id"].to_pylist()
    assert sorted(found) == sorted(t.sample_id for t in targets)


def test_a_text_beside_the_tables(empty, uri):
    assert read_text(uri, "decoder.json") is None
    write_text(uri, "decoder.json", "one")
    write_text(uri, "decoder.json", "zwei ü")
    assert read_text(uri, "decoder.json") == "zwei ü"
    assert len(Memory.open(uri)) == 0
