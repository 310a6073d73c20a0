"""Compaction changes no row; after it and a clean-up nothing that was forgotten is in any file."""

from pathlib import Path

import numpy as np
import pytest

from l2d_ray.data.sequences import Target
from l2d_ray.memory.append import Event
from l2d_ray.memory.compaction import clean_up, compact
from l2d_ray.memory.entries import entries_table, table_of
from l2d_ray.memory.files import write_table
from l2d_ray.memory.sequences import load_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import expire_before, forget_users, rename_items, retire_items
from tests.memory.living import DIM, append, expected_rows, make_events, new_memory, rows_of, vector_of

EVENTS = make_events(8, seed=5)
SECRET = [Event("secret-user", t, f"item-{t:02d}") for t in range(6)]


@pytest.fixture
def memory(tmp_path) -> Memory:
    """Many small files, with deleted rows."""
    memory = new_memory(str(tmp_path / "memory"))
    for start in range(0, len(EVENTS), 4):
        memory = append(memory, EVENTS[start : start + 4])
    return retire_items(rename_items(memory, {"item-01": "X"}), ["item-02"])


def content(memory: Memory):
    return rows_of(memory), memory.items.to_pylist(), load_sequences(memory.uri, memory.state.sequences), memory.digest, len(memory)


@pytest.mark.parametrize("bytes_per_file", [1 << 20, 64])
def test_compaction_changes_no_row(memory, bytes_per_file):
    compacted = compact(memory, bytes_per_file=bytes_per_file)
    assert compacted.version == memory.version + 1
    assert content(compacted) == content(memory)
    assert content(Memory.open(memory.uri)) == content(memory)
    assert all(not fragment.num_deletions for fragment in compacted.fragments)
    assert len(compacted.state.items) == 1
    nothing_changed = compacted.difference(memory)
    assert (nothing_changed.removed.tolist(), list(nothing_changed.added)) == ([], [])


def test_compaction_makes_one_file_of_many_and_again_does_nothing(memory):
    compacted = compact(memory)
    assert len(memory.fragments) > 3
    assert len(compacted.fragments) == 1
    assert compact(compacted) is compacted
    assert rows_of(append(compacted, SECRET)).keys() > rows_of(compacted).keys()


def test_a_memory_without_rows_compacts(tmp_path):
    empty = new_memory(str(tmp_path / "memory"))
    assert compact(empty) is empty
    filled = forget_users(append(empty, SECRET), ["secret-user"])
    assert content(compact(filled))[0] == {}


def files_holding(uri, text: bytes) -> list[str]:
    return [str(path) for path in Path(uri).rglob("*") if path.is_file() and text in path.read_bytes()]


def test_what_was_forgotten_is_in_no_file_after_compaction_and_clean_up(memory):
    added = append(memory, SECRET)
    vector = vector_of([event.item_id for event in SECRET[:5]]).astype(np.float16).tobytes()
    assert files_holding(memory.uri, b"secret-user")
    assert files_holding(memory.uri, vector)
    compacted = compact(forget_users(added, ["secret-user"]))
    cleaned = clean_up(compacted, older_than_s=0)
    assert cleaned.num_versions == compacted.version - 1
    assert cleaned.num_files > 0
    assert cleaned.bytes_freed > 0
    assert files_holding(memory.uri, b"secret-user") == files_holding(memory.uri, vector) == []
    newest = Memory.open(memory.uri)
    assert rows_of(newest) == rows_of(compacted) != {}
    assert [entry.version for entry in newest.history()] == [compacted.version]


def test_what_has_expired_is_in_no_file_after_compaction_and_clean_up(memory):
    limit = sorted(e.timestamp for e in EVENTS)[len(EVENTS) // 2]
    gone = [b.vectors[i].tobytes() for b in memory.scan() for i in range(len(b)) if b.timestamps[i] < limit]
    assert len(gone) > 3
    clean_up(compact(expire_before(memory, limit)), older_than_s=0)
    assert [vector for vector in gone if files_holding(memory.uri, vector)] == []


def test_clean_up_keeps_young_versions_and_files_of_running_writers(memory):
    before = len(memory.history())
    assert clean_up(memory, older_than_s=3600).num_versions == 0
    assert len(Memory.open(memory.uri).history()) == before
    written = memory.write(entries_table([Target("w", "item-00", 1, 1)], np.ones((1, DIM), dtype=np.float32)))
    clean_up(memory, older_than_s=0)
    appended = memory.append(written, message="what had been written before the clean-up")
    assert rows_of(Memory.open(memory.uri)) == rows_of(appended)
    assert len(appended) == len(memory) + 1


def test_leftovers_of_killed_writers_go_only_when_asked(memory):
    memory.write(table_of([next(iter(memory.scan()))]))
    write_table(memory.uri, "recent", memory.items)
    data, files = (Path(memory.uri) / name for name in ("entries.lance/data", "files"))
    num_data, num_files = len(list(data.iterdir())), len(list(files.iterdir()))
    clean_up(memory, older_than_s=3600)
    assert (len(list(data.iterdir())), len(list(files.iterdir()))) == (num_data, num_files)
    clean_up(memory, older_than_s=3600, unfinished_too=True)
    assert (len(list(data.iterdir())), len(list(files.iterdir()))) == (num_data - 1, num_files - 1)
    assert rows_of(Memory.open(memory.uri))


def test_built_sequences_take_appended_ones_in(memory):
    compacted = compact(memory)
    (name,) = compacted.state.sequences
    assert name.startswith("sequences-")
    again = compact(append(compacted, SECRET))
    assert len(again.state.sequences) == 2
    more = compact(append(again, [Event("secret-user", 50, "item-00"), Event(EVENTS[0].user_id, 5000, "item-00")]))
    assert len(more.state.sequences) == 2
    expected = expected_rows([*EVENTS, *SECRET, Event("secret-user", 50, "item-00"), Event(EVENTS[0].user_id, 5000, "item-00")])
    assert rows_of(more) == {i: row for i, row in expected.items() if row[1] != "item-02"}


def test_rolling_back_behind_a_compaction_brings_the_same_rows(memory):
    assert any(fragment.num_deletions for fragment in memory.fragments)
    later = append(compact(memory), SECRET)
    back = later.roll_back(memory.version)
    assert content(back) == content(memory)
    again = append(forget_users(append(back, SECRET), ["secret-user"]), SECRET)
    assert (rows_of(again), again.digest) == (rows_of(later), later.digest)
