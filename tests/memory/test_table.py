"""The memory's table: versions that reopen, commits, what is refused, and reading by bucket."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from l2d_ray.data.sequences import Target
from l2d_ray.errors import ArtefactError, ConflictError
from l2d_ray.memory.entries import NOTHING_WRITTEN, entries_table
from l2d_ray.memory.files import read_text, write_text
from l2d_ray.memory.statistics import NO_TIMESTAMP
from l2d_ray.memory.table import Memory, exists
from l2d_ray.schema import NUM_BUCKETS, bucket_of
from tests.toys import NUM_ITEMS, toy_catalogue

DIM = 4


def make_targets(first: int, count: int) -> list[Target]:
    return [Target(f"user-{i}", f"item-{i % NUM_ITEMS:02d}", None if i % 5 == 0 else 1000 + i, i) for i in range(first, first + count)]


def make_vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def append(memory: Memory, targets: list[Target], vectors: np.ndarray, message: str = "more") -> Memory:
    return memory.append(memory.write(entries_table(targets, vectors)), message=message)


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


def rows_of(memory: Memory) -> dict[int, tuple]:
    """sample_id -> everything else of the row; fails where a sample_id stands twice."""
    found = {}
    for batch in memory.scan():
        assert batch.vectors is not None
        users, items = batch.user_ids.to_pylist(), batch.item_ids.to_pylist()
        for row, sample_id in enumerate(batch.sample_ids.tolist()):
            assert sample_id not in found
            found[sample_id] = (users[row], items[row], int(batch.timestamps[row]), int(batch.buckets[row]), batch.vectors[row].tolist())
    return found


def test_rows_come_back_as_they_were_written(empty, uri):
    targets, vectors = make_targets(0, 30), make_vectors(30)
    append(empty, targets, vectors)
    times = [NO_TIMESTAMP if t.timestamp is None else t.timestamp for t in targets]
    assert NO_TIMESTAMP in times
    assert rows_of(Memory.open(uri)) == {
        t.sample_id: (t.user_id, t.item_id, time, bucket_of(t.item_id), vector.astype(np.float16).tolist())
        for t, time, vector in zip(targets, times, vectors, strict=True)
    }


def test_rows_of_a_file_are_sorted_by_bucket(empty):
    memory = append(empty, make_targets(0, 60), make_vectors(60))
    (batch,) = memory.scan()
    keys = list(zip(batch.buckets.tolist(), batch.sample_ids.tolist(), strict=True))
    assert len(set(batch.buckets.tolist())) > 10
    assert keys == sorted(keys)


def test_every_commit_is_a_version_and_old_ones_reopen(empty, uri):
    first = append(empty, make_targets(0, 3), make_vectors(3), "first")
    second = append(first, make_targets(3, 4), make_vectors(4), "second")
    assert first.version < second.version == Memory.open(uri).version
    assert [len(m) for m in (empty, first, second)] == [0, 3, 7]
    assert len(Memory.open(uri, version=first.version)) == 3
    assert [entry.state.message for entry in second.history()] == ["create", "first", "second"]
    assert [entry.state.num_entries for entry in Memory.open(uri, version=first.version).history()] == [0, 3]
    assert [entry.version for entry in second.history()] == sorted({entry.version for entry in second.history()})


def test_rows_without_a_commit_belong_to_no_version(empty, uri):
    written = empty.write(entries_table(make_targets(0, 3), make_vectors(3)))
    assert (written.num_entries, len(written.fragments)) == (3, 1)
    assert len(Memory.open(uri)) == 0
    empty.append(written, message="now")
    assert len(rows_of(Memory.open(uri))) == 3


def test_an_empty_table_writes_nothing(empty):
    assert empty.write(entries_table([], np.zeros((0, DIM), dtype=np.float32))) == NOTHING_WRITTEN


def test_of_two_writers_from_one_version_one_is_told_to_start_again(empty, uri):
    first = append(empty, make_targets(0, 3), make_vectors(3))
    for stale in (empty, append(first, make_targets(3, 4), make_vectors(4)) and first):
        with pytest.raises(ConflictError, match=r"Another writer changed the memory .*; nothing was changed here, so run the same again"):
            append(stale, make_targets(7, 2), make_vectors(2))
    assert rows_of(Memory.open(uri)).keys() == {t.sample_id for t in make_targets(0, 7)}


def test_many_writers_at_once_lose_nothing(empty, uri):
    def write(writer: int) -> int:
        conflicts = 0
        for number in range(3):
            targets = make_targets(100 * writer + 10 * number, 5)
            while True:
                try:
                    append(Memory.open(uri), targets, make_vectors(5))
                    break
                except ConflictError:
                    conflicts += 1
        return conflicts

    with ThreadPoolExecutor(4) as pool:
        conflicts = sum(pool.map(write, range(4)))
    memory = Memory.open(uri)
    assert len(rows_of(memory)) == len(memory) == 4 * 3 * 5
    assert [entry.state.num_entries for entry in memory.history()] == list(range(0, 61, 5))
    assert conflicts > 0


def test_a_memory_is_made_by_one_writer(uri):
    def create(_: int) -> bool:
        try:
            Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())
        except ArtefactError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create, range(4))) == 1
    assert Memory.open(uri).state.kind == "create"


def test_rolling_back_makes_a_version_that_equals_the_earlier_one(empty, uri):
    first = append(empty, make_targets(0, 3), make_vectors(3), "first")
    second = append(first, make_targets(3, 4), make_vectors(4), "second")
    back = second.roll_back(first.version)
    assert back.version == Memory.open(uri).version > second.version
    assert rows_of(Memory.open(uri)) == rows_of(first)
    assert (back.digest, len(back), back.state.message) == (first.digest, 3, f"back to version {first.version}")
    again = append(back, make_targets(3, 4), make_vectors(4), "again")
    assert (again.digest, rows_of(again)) == (second.digest, rows_of(second))


def test_difference_is_what_was_appended_and_what_went(empty):
    first = append(empty, make_targets(0, 30), make_vectors(30))
    second = append(first, make_targets(30, 10), make_vectors(10, seed=1))
    forward, same = second.difference(first), second.difference(second)
    assert {i for batch in forward.added for i in batch.sample_ids.tolist()} == {t.sample_id for t in make_targets(30, 10)}
    assert (forward.removed.tolist(), same.removed.tolist(), list(same.added)) == ([], [], [])
    back = second.roll_back(first.version)
    assert back.difference(second).removed.tolist() == sorted(t.sample_id for t in make_targets(30, 10))
    assert back.difference(first).removed.tolist() == list(back.difference(first).added) == []
    half = range(NUM_BUCKETS // 2)
    expected = {t.sample_id for t in make_targets(30, 10) if bucket_of(t.item_id) in half}
    assert 0 < len(expected) < 10
    assert {i for batch in second.difference(first, half).added for i in batch.sample_ids.tolist()} == expected


def test_a_difference_needs_an_older_version_of_the_same_memory(empty, tmp_path):
    newer = append(empty, make_targets(0, 3), make_vectors(3))
    other = Memory.create(str(tmp_path / "other"), fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())
    for older in (other, newer):
        with pytest.raises(ArtefactError, match=r"is no older version of .*; give two versions of one memory"):
            empty.difference(older)


def test_a_digest_that_rows_do_not_add_up_to_is_refused_naming_the_versions_files(empty, uri):
    written = empty.write(entries_table(make_targets(0, 3), make_vectors(3)))
    wrong = empty.commit(empty.state.next("append", "wrong", num_entries=3, digest=written.digest ^ 1), added=written)
    with pytest.raises(ArtefactError, match=r"is damaged at version 2: its files hold 3 rows .*_versions/.*\.manifest"):
        list(wrong.scan(with_vectors=False))


def test_another_models_memory_is_refused_naming_both(empty, uri):
    with pytest.raises(ArtefactError, match=r"made by the model aaaa, the model here is bbbb; use that model"):
        Memory.open(uri, fingerprint="bbbb")


def test_what_is_not_there_is_refused(empty, uri, tmp_path):
    with pytest.raises(ArtefactError, match=r"There is no memory at .*; run jobs.build_memory first"):
        Memory.open(str(tmp_path / "absent"))
    with pytest.raises(ArtefactError, match=r"version 99 .*\.manifest\), cannot be read"):
        Memory.open(uri, version=99)


def test_states_beyond_float16_are_refused():
    vectors = make_vectors(2)
    vectors[1, 2] = 70_000
    with pytest.raises(ArtefactError, match="holds 70000, beyond float16's 65504"):
        entries_table(make_targets(0, 2), vectors)
    vectors[1, 2] = 65_504
    assert entries_table(make_targets(0, 2), vectors).num_rows == 2


def test_states_that_are_not_finite_are_refused_naming_the_sample():
    targets, vectors = make_targets(0, 3), make_vectors(3)
    for value in (np.nan, np.inf):
        vectors[2, 1] = value
        with pytest.raises(ArtefactError, match=f"hidden state of sample {targets[2].sample_id} holds NaN or infinite values"):
            entries_table(targets, vectors)


def test_present(empty):
    targets = make_targets(0, 12)
    memory = append(append(empty, targets[:6], make_vectors(6)), targets[6:], make_vectors(6))
    ids = [t.sample_id for t in targets]
    assert memory.present([ids[0], 17, ids[7]]) == {ids[0], ids[7]}
    assert memory.present([17]) == memory.present([]) == set()


@pytest.mark.parametrize("num_ranges", [1, 2, 7])
def test_scans_of_disjoint_buckets_partition_the_rows(empty, num_ranges):
    targets = make_targets(0, 60)
    memory = append(empty, targets, make_vectors(60))
    edges = [NUM_BUCKETS * i // num_ranges for i in range(num_ranges + 1)]
    found, digest = [], 0
    for start, stop in pairwise(edges):
        for batch in memory.scan(range(start, stop), with_vectors=False, batch_rows=7):
            assert len(batch) <= 7
            assert all(start <= b < stop for b in batch.buckets.tolist())
            assert batch.vectors is None
            found += batch.sample_ids.tolist()
            digest += batch.digest
    assert sorted(found) == sorted(t.sample_id for t in targets)
    assert digest % 2**64 == memory.digest


def test_a_text_beside_the_tables(empty, uri):
    assert read_text(uri, "decoder.json") is None
    write_text(uri, "decoder.json", "one")
    write_text(uri, "decoder.json", "zwei ü")
    assert read_text(uri, "decoder.json") == "zwei ü"
    assert len(Memory.open(uri)) == 0
