"""Forgetting, retiring, renaming, expiring, decaying: one version each, exact inverses where there are any, nothing done twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from l2d_ray.errors import DataError
from l2d_ray.memory.append import Event
from l2d_ray.memory.sequences import load_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import expire_before, forget_users, newest_time, rename_items, retire_items, retried, set_half_life
from tests.memory.living import append, expected_rows, make_events, new_memory, rows_of

EVENTS = make_events(8, seed=3)


@pytest.fixture
def memory(tmp_path) -> Memory:
    return append(new_memory(str(tmp_path / "memory")), EVENTS)


def test_add_then_forget_is_the_version_before(memory):
    stranger = [Event("o'stranger", t, f"item-{t:02d}") for t in range(9)]
    before = (rows_of(memory), memory.digest, load_sequences(memory.uri, memory.state.sequences))
    added = append(memory, stranger)
    assert len(added) == len(memory) + 8
    forgotten = forget_users(added, ["o'stranger"])
    assert (rows_of(forgotten), forgotten.digest, load_sequences(forgotten.uri, forgotten.state.sequences)) == before
    assert forgotten.version == added.version + 1
    assert "stranger" not in forgotten.state.to_json()


def test_forgetting_removes_a_user_and_nobody_else(memory):
    forgotten = forget_users(memory, ["u1", "u5", "unknown"])
    assert rows_of(forgotten) == expected_rows(e for e in EVENTS if e.user_id not in ("u1", "u5"))
    assert not load_sequences(forgotten.uri, forgotten.state.sequences, ["u1", "u5"])
    assert forget_users(forgotten, ["u1"]) is forgotten
    assert rows_of(Memory.open(memory.uri, version=memory.version)) == expected_rows(EVENTS)


def test_a_user_with_one_interaction_can_be_forgotten(memory):
    memory = append(memory, [Event("single", 1, "item-00")])
    forgotten = forget_users(memory, ["single"])
    assert forgotten.version == memory.version + 1
    assert not load_sequences(forgotten.uri, forgotten.state.sequences, ["single"])


def test_all_users_can_be_forgotten_and_the_memory_goes_on(memory):
    empty = forget_users(memory, {e.user_id for e in EVENTS})
    assert (len(empty), empty.digest, rows_of(empty)) == (0, 0, {})
    assert rows_of(append(empty, EVENTS)) == expected_rows(EVENTS)


def test_retiring_removes_an_items_entries_and_keeps_its_title(memory):
    item_id = EVENTS[1].item_id
    retired = retire_items(memory, [item_id])
    expected = {i: row for i, row in expected_rows(EVENTS).items() if row[1] != item_id}
    assert rows_of(retired) == expected
    assert len(expected) < len(memory)
    assert retired.catalogue == memory.catalogue
    assert (retired.retired_item_ids, memory.retired_item_ids) == ({item_id}, frozenset())
    assert retire_items(retired, [item_id]) is retired
    with pytest.raises(DataError, match=r"Item 'nothing' is not among the memory's 20 items"):
        retire_items(retired, ["nothing"])


def test_renaming_changes_a_title_and_no_row(memory):
    renamed = rename_items(memory, {"item-03": " New\ttitle "})
    assert rows_of(renamed) == rows_of(memory)
    index = renamed.catalogue.item_id_to_index["item-03"]
    assert renamed.catalogue.titles[index] == "New title"
    assert Memory.open(memory.uri, version=memory.version).catalogue.titles[index] == memory.catalogue.titles[index] != "New title"
    assert rename_items(renamed, {"item-03": "New title"}) is renamed
    with pytest.raises(DataError, match="Nothing is left of the title"):
        rename_items(renamed, {"item-03": " "})
    with pytest.raises(DataError, match="'unknown' is not among"):
        rename_items(renamed, {"unknown": "x"})


def test_entries_expire_by_time_and_histories_stay(memory):
    limit = sorted(e.timestamp for e in EVENTS)[len(EVENTS) // 2]
    expired = expire_before(memory, limit)
    expected = {i: row for i, row in expected_rows(EVENTS).items() if int(row[2]) >= limit}
    assert rows_of(expired) == expected
    assert 0 < len(expected) < len(memory)
    assert expired.state.sequences == memory.state.sequences
    assert expire_before(expired, limit) is expired


def test_a_half_life_refers_to_the_newest_entry_or_a_given_time(memory):
    decayed = set_half_life(memory, 86_400)
    newest = max(int(row[2]) for row in rows_of(memory).values())
    assert (decayed.half_life_s, decayed.reference_time) == (86_400, newest) == (86_400, newest_time(memory))
    assert rows_of(decayed) == rows_of(memory)
    assert set_half_life(decayed, 86_400) is decayed
    earlier = set_half_life(decayed, 86_400, reference_time=5)
    assert earlier.reference_time == 5
    undone = set_half_life(earlier, None)
    assert (undone.half_life_s, undone.reference_time) == (None, 0)
    with pytest.raises(DataError, match="half-life is 0 seconds"):
        set_half_life(memory, 0)


def test_a_half_life_needs_times(tmp_path):
    with pytest.raises(DataError, match=r"No entry of the memory .* has a time"):
        set_half_life(new_memory(str(tmp_path / "memory")), 10)


def test_every_change_is_a_line_of_the_history(memory):
    changed = expire_before(rename_items(retire_items(forget_users(memory, ["u1"]), ["item-00"]), {"item-01": "X"}), 200)
    kinds = [entry.state.kind for entry in set_half_life(changed, 100).history()]
    assert kinds == ["create", "append", "forget", "retire", "rename", "expire", "decay"]
    assert all(entry.state.created_by and entry.state.created_at for entry in changed.history())


def test_rolling_back_brings_titles_and_entries_back(memory):
    changed = rename_items(retire_items(forget_users(memory, ["u1"]), ["item-00"]), {"item-01": "X"})
    back = changed.roll_back(memory.version)
    assert (rows_of(back), back.catalogue, back.retired_item_ids) == (rows_of(memory), memory.catalogue, frozenset())
    assert load_sequences(back.uri, back.state.sequences) == load_sequences(memory.uri, memory.state.sequences)


def test_different_changes_at_once_all_happen(memory):
    changes = [
        lambda m: forget_users(m, ["u2"]),
        lambda m: retire_items(m, ["item-04"]),
        lambda m: rename_items(m, {"item-05": "X"}),
        lambda m: append(m, [Event("w", 1, "item-01"), Event("w", 2, "item-02")]),
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda change: retried(change, memory), changes))
    end = Memory.open(memory.uri)
    expected = expected_rows([*(e for e in EVENTS if e.user_id != "u2"), Event("w", 1, "item-01"), Event("w", 2, "item-02")])
    assert rows_of(end) == {i: row for i, row in expected.items() if row[1] != "item-04"}
    assert end.catalogue.titles[5] == "X"
    assert end.version == memory.version + 4
