"""Appending interactions: any order and chunking gives the memory of all at once, repeats change nothing, only tails are encoded."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2d_ray.errors import ArtefactError, ConflictError, DataError
from l2d_ray.memory.append import MAX_RECENT_FILES, Append, Event, plan_append
from l2d_ray.memory.build import EncodedPart, commit_parts
from l2d_ray.memory.entries import NOTHING_WRITTEN
from l2d_ray.memory.sequences import load_sequences
from l2d_ray.memory.state import BuildRecord, now
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import MAX_ITEM_FILES, expire_before, retire_items
from tests.memory.living import Encoder, append, expected_rows, make_events, new_memory, rows_of
from tests.toys import NUM_ITEMS


@pytest.fixture
def empty(tmp_path) -> Memory:
    return new_memory(str(tmp_path / "memory"))


def test_an_append_is_one_version_with_every_sample(empty):
    events = make_events()
    memory = append(empty, events)
    assert memory.version == empty.version + 1
    assert rows_of(Memory.open(memory.uri)) == expected_rows(events)
    assert len(memory) == len(expected_rows(events)) > 10
    users = len({event.user_id for event in events})
    assert memory.state.message == f"append {len(events)} interactions of {users} users, {len(memory)} entries"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_any_order_and_chunking_gives_the_memory_of_all_at_once(tmp_path_factory, seed, num_chunks):
    events, rng = make_events(4, seed=seed), np.random.default_rng(seed)
    memory = new_memory(str(tmp_path_factory.mktemp("memory") / "memory"))
    for chunk in np.array_split(rng.permutation(len(events)), num_chunks):
        memory = append(memory, [events[i] for i in chunk])
    assert rows_of(memory) == expected_rows(events)
    at_once = append(new_memory(str(tmp_path_factory.mktemp("other") / "memory")), events)
    assert (memory.digest, len(memory)) == (at_once.digest, len(at_once))
    assert load_sequences(memory.uri, memory.state.sequences) == load_sequences(at_once.uri, at_once.state.sequences)


def test_sending_events_again_changes_nothing(empty):
    events = make_events()
    memory = append(empty, events[:20])
    assert append(memory, events[:20]) is memory
    assert append(memory, [events[3], events[3]]) is memory
    more = append(memory, events[10:])
    assert rows_of(more) == expected_rows(events)


def test_only_tails_are_encoded(empty):
    history = [Event("u", time, f"item-{time:02d}") for time in range(12)]
    memory, encoder = append(empty, [*history, Event("other", 1, "item-01"), Event("other", 2, "item-02")]), Encoder(empty.uri)
    memory = append(memory, [Event("u", 20, "item-03"), Event("u", 21, "item-04")], encoder=encoder)
    assert encoder.num_encoded == 2
    append(memory, [Event("newcomer", 5, "item-01")], encoder=encoder)
    assert encoder.num_encoded == 2


def test_an_event_from_the_past_makes_later_entries_anew(empty):
    memory = append(empty, [Event("u", 10, "item-00"), Event("u", 20, "item-01"), Event("u", 30, "item-02")])
    later = append(memory, [Event("u", 15, "item-05")])
    assert rows_of(later) == expected_rows([Event("u", t, f"item-{i:02d}") for t, i in ((10, 0), (15, 5), (20, 1), (30, 2))])
    shared = rows_of(memory).keys() & rows_of(later).keys()
    assert len(shared) == 2
    assert all(rows_of(memory)[i] != rows_of(later)[i] for i in shared)
    difference = later.difference(memory)
    assert set(difference.removed.tolist()) == shared
    assert {i for batch in difference.added for i in batch.sample_ids.tolist()} == rows_of(later).keys()


def test_events_of_one_time_stand_in_order_of_item_id(empty, tmp_path):
    events = [Event("u", 5, f"item-{i:02d}") for i in (3, 1, 2)]
    one_by_one = empty
    for event in events:
        one_by_one = append(one_by_one, [event])
    assert rows_of(one_by_one) == rows_of(append(new_memory(str(tmp_path / "other")), events))
    (sequence,) = load_sequences(one_by_one.uri, one_by_one.state.sequences).values()
    assert sequence.item_ids == ("item-01", "item-02", "item-03")


def test_an_entry_that_has_expired_does_not_come_back(empty):
    memory = append(empty, [Event("u", t, f"item-{t:02d}") for t in range(8)])
    memory = expire_before(memory, 5)
    assert len(memory) == 3
    memory = append(memory, [Event("u", 2, "item-09"), Event("u", 9, "item-09")])
    times = sorted(int(row[2]) for row in rows_of(memory).values())
    assert times == [2, 5, 6, 7, 9]


def test_a_retired_item_gets_no_entry_and_stays_in_histories(empty):
    memory = retire_items(append(empty, [Event("u", 1, "item-00"), Event("u", 2, "item-01")]), ["item-07"])
    events = [Event("u", 3, "item-07"), Event("u", 4, "item-02")]
    memory = append(memory, events)
    assert sorted(row[1] for row in rows_of(memory).values()) == ["item-01", "item-02"]
    (sequence,) = load_sequences(memory.uri, memory.state.sequences).values()
    assert sequence.item_ids == ("item-00", "item-01", "item-07", "item-02")
    assert append(memory, events) is memory


def test_new_items_come_with_their_titles(empty):
    item = {"item_id": "fresh", "title": " Fresh &amp; new ", "attributes": {}}
    with pytest.raises(DataError, match=r"Item 'fresh' of a new interaction is not among the memory's 20 items; give it a title"):
        append(empty, [Event("u", 1, "fresh")])
    memory = append(empty, [Event("u", 1, "fresh"), Event("u", 2, "item-00")], items=[item])
    assert len(memory.catalogue) == NUM_ITEMS + 1
    assert memory.catalogue.titles[memory.catalogue.item_id_to_index["fresh"]] == "Fresh & new"
    assert len(Memory.open(memory.uri, version=empty.version).catalogue) == NUM_ITEMS
    assert append(memory, [], items=[item]) is memory
    with pytest.raises(DataError, match=r"has the title 'Fresh & new', not 'Other'; rename it"):
        append(memory, [], items=[item | {"title": "Other"}])
    with pytest.raises(DataError, match=r"Nothing is left of the title ' \" ' of item 'x'"):
        append(memory, [], items=[item | {"item_id": "x", "title": ' " '}])
    assert Memory.open(memory.uri).version == memory.version


def test_an_unfinished_build_takes_no_append_and_a_living_memory_no_build(empty):
    """A sample could come from both."""
    events = make_events()
    record = BuildRecord("someone@here", "toy", "cafe", num_parts=2, started_at=now(), finished_at=now(), seconds=0.0, num_workers=1)
    half = empty.append(NOTHING_WRITTEN, kind="build", message="build part-00000", parts=(0,), build=record)
    with pytest.raises(ArtefactError, match=r"holds 1 of the 2 parts that it is built from; run jobs.build_memory to its end"):
        append(half, events)
    assert Memory.open(half.uri).version == half.version
    whole = half.append(NOTHING_WRITTEN, kind="build", message="build part-00001", parts=(0, 1), build=record)
    assert rows_of(append(whole, events)) == expected_rows(events)


def test_a_build_refuses_a_memory_that_was_begun_by_appends(empty):
    memory = append(empty, make_events())
    part = EncodedPart(0, NOTHING_WRITTEN, "sequences-cafe.parquet")
    record = BuildRecord("someone@here", "toy", "", num_parts=1, started_at=now(), finished_at=now(), seconds=0.0, num_workers=1)
    with pytest.raises(ArtefactError, match=r"was made by jobs.update_memory .*build in another place"):
        commit_parts(memory, [part], record)
    assert Memory.open(memory.uri).version == memory.version


def test_a_writer_that_was_second_starts_again_and_encodes_again_only_what_changed(empty):
    other = [Event("w", t, f"item-{t:02d}") for t in range(4)]
    mine = [Event("u", t, f"item-{t:02d}") for t in range(5)]

    class Interrupted(Encoder):
        def __call__(self, sequences, left_out):
            if not self.num_encoded:
                append(Memory.open(self.uri), other)
            return super().__call__(sequences, left_out)

    encoder = Interrupted(empty.uri)
    change = Append(mine, (), encoder)
    with pytest.raises(ConflictError):
        change(empty)
    memory = change(Memory.open(empty.uri))
    assert encoder.num_encoded == 4
    assert rows_of(memory) == expected_rows([*mine, *other])


def test_the_plan_names_what_is_replaced_and_left_out(empty):
    memory = append(empty, [Event("u", 10, "item-00"), Event("u", 20, "item-01"), Event("u", 30, "item-02")])
    memory = expire_before(memory, 25)
    plan = plan_append(memory, [Event("u", 15, "item-05")])
    assert (plan.num_events, len(plan.replaced), len(plan.left_out)) == (1, 1, 1)
    assert plan.tails[0].first_changed == 1
    assert plan.tails[0].as_split().num_train == 1


def test_many_appends_keep_few_files(empty):
    memory = empty
    for number in range(MAX_RECENT_FILES + 4):
        item = {"item_id": f"new-{number:02d}", "title": f"New {number}", "attributes": {}}
        memory = append(memory, [Event(f"u{number % 3}", number, f"new-{number:02d}")], items=[item])
    assert len(memory.state.sequences) <= MAX_RECENT_FILES
    assert len(memory.state.items) <= MAX_ITEM_FILES
    assert len(memory.catalogue) == NUM_ITEMS + MAX_RECENT_FILES + 4
    assert rows_of(memory) == expected_rows([Event(f"u{n % 3}", n, f"new-{n:02d}") for n in range(MAX_RECENT_FILES + 4)])
