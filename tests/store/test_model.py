"""Any sequence of calls leaves a store as it leaves a few lists and dictionaries: the model that the store is held against."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from l2d_ray.errors import RequestError
from l2d_ray.store.records import AddedInteractions, CatalogueEdit, Interaction
from tests.store.conftest import AUTHOR

TABLES = ("interactions", "edited_items", "forgotten_users", "api_keys", "settings", "audit")
USERS, ITEMS = ("u", "v", "ü"), ("a", "b", "中")
EVENTS = st.builds(Interaction, st.integers(0, 12).map("e{}".format), st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 2))
EDITS = st.one_of(
    st.builds(CatalogueEdit, st.just("put"), st.sampled_from(ITEMS), st.sampled_from(["T", "U"])),
    st.builds(
        CatalogueEdit, st.just("patch"), st.sampled_from(ITEMS), st.none(), st.dictionaries(st.just("x"), st.integers(0, 1) | st.none())
    ),
    st.builds(CatalogueEdit, st.just("delete"), st.sampled_from(ITEMS)),
)


class StoreAndModel(RuleBasedStateMachine):
    """``versions`` says of everything which memory version has it; None is pending."""

    def __init__(self, store) -> None:
        super().__init__()
        self.store = store
        self.events: dict[Interaction, int | None] = {}
        self.edits: dict[str, tuple[CatalogueEdit, int | None]] = {}
        self.forgotten: dict[str, int | None] = {}
        self.work = None
        self.version = 0

    @initialize()
    def begin_empty(self) -> None:
        with self.store._database.writing() as cursor:
            for table in TABLES:
                cursor.execute(f"DELETE FROM {table}")

    @rule(batch=st.lists(EVENTS, max_size=4), is_known_to_memory=st.booleans())
    def add(self, batch, is_known_to_memory) -> None:
        version = self.version if is_known_to_memory else None
        kept = dict(self.events)
        for event in sorted(batch, key=lambda e: e.event_id):
            if all(event.event_id != other.event_id and _meaning(event) != _meaning(other) for other in kept):
                kept[event] = version
        meant = {event.event_id: event for event in kept}
        if any(meant.setdefault(event.event_id, event) != event for event in batch):
            with pytest.raises(RequestError):
                self.store.add_interactions(batch, AUTHOR, memory_version=version)
            return
        num_added = len(kept) - len(self.events)
        assert self.store.add_interactions(batch, AUTHOR, memory_version=version) == AddedInteractions(num_added, len(batch) - num_added)
        self.events = kept

    @rule(user_id=st.sampled_from(USERS))
    def forget(self, user_id) -> None:
        mine = [event for event in self.events if event.user_id == user_id]
        assert self.store.forget_user(user_id, AUTHOR) == len(mine)
        self.events = {event: version for event, version in self.events.items() if event.user_id != user_id}
        self.forgotten.pop(user_id, None)
        self.forgotten[user_id] = None

    @rule(batch=st.lists(EDITS, max_size=3))
    def edit(self, batch) -> None:
        after = {item_id: merged for item_id, (merged, _) in self.edits.items()}
        try:
            for edit in batch:
                after[edit.item_id] = edit.after(after.get(edit.item_id))
        except RequestError:
            with pytest.raises(RequestError):
                self.store.edit_items(batch, AUTHOR)
            return
        self.store.edit_items(batch, AUTHOR)
        self.edits |= {i: (merged, None) for i, merged in after.items() if i not in self.edits or self.edits[i][0] != merged}

    @rule(max_interactions=st.integers(0, 5))
    def take_work(self, max_interactions) -> None:
        self.work = self.store.pending(max_interactions=max_interactions)
        waiting = [event for event, version in self.events.items() if version is None]
        given = [pending.interaction for pending in self.work.interactions]
        assert set(given) <= set(waiting)
        assert len(given) == min(len(waiting), max_interactions)
        assert [u.user_id for u in self.work.forgotten] == [u for u, version in self.forgotten.items() if version is None]
        assert {i.edit.item_id: i.edit for i in self.work.edits} == {i: e for i, (e, version) in self.edits.items() if version is None}
        self.version += 1
        self.store.mark_in_memory(self.work, self.version)
        self.events |= dict.fromkeys(given, self.version)
        self.forgotten |= {u.user_id: self.version for u in self.work.forgotten}
        self.edits |= {i.edit.item_id: (i.edit, self.version) for i in self.work.edits}

    @rule(distance=st.integers(0, 2))
    def roll_back(self, distance) -> None:
        to = max(self.version - distance, 0)
        self.store.mark_rolled_back(to)
        self.events = {event: _undone(version, to) for event, version in self.events.items()}
        self.forgotten = {user: _undone(version, to) for user, version in self.forgotten.items()}
        self.edits = {item: (edit, _undone(version, to)) for item, (edit, version) in self.edits.items()}

    @rule(distance=st.integers(0, 2))
    def finish_forgetting(self, distance) -> None:
        oldest = self.version - distance
        done = [user for user, version in self.forgotten.items() if version is not None and version <= oldest]
        assert self.store.finish_forgetting(oldest) == len(done)
        for user in done:
            del self.forgotten[user]

    @invariant()
    def they_are_equal(self) -> None:
        ordered = sorted(self.events, key=lambda e: (e.timestamp, e.item_id))
        assert self.store.histories(USERS) == {u: tuple(e for e in ordered if e.user_id == u) for u in USERS}
        assert [(u.user_id, u.memory_version) for u in self.store.forgotten_users()] == list(self.forgotten.items())
        found = self.store.edited_items()
        assert [item.number for item in found] == sorted({item.number for item in found})
        assert {item.edit.item_id: (item.edit, item.memory_version) for item in found} == self.edits
        backlog = self.store.backlog()
        waiting = [sum(v is None for v in versions) for versions in (self.events.values(), self.forgotten.values())]
        assert [backlog.num_interactions, backlog.num_forgotten] == waiting
        assert backlog.num_edits == sum(version is None for _, version in self.edits.values())


def _meaning(event: Interaction) -> tuple[str, str, int]:
    return event.user_id, event.item_id, event.timestamp


def _undone(version: int | None, to: int) -> int | None:
    return None if version is None or version > to else version


def test_a_store_does_what_the_model_does(store):
    run_state_machine_as_test(lambda: StoreAndModel(store), settings=settings(max_examples=25, stateful_step_count=15))
