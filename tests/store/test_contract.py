"""The contract of ``StateStore``, held by SQLite and by a real PostgreSQL server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from l2d_ray.errors import RequestError
from l2d_ray.store.open import open_store
from l2d_ray.store.records import AddedInteractions, ApiKey, Author, Backlog, CatalogueEdit, Interaction
from tests.store.conftest import AUTHOR


def event(event_id: str, user_id: str = "u", item_id: str = "i", timestamp: int = 1) -> Interaction:
    return Interaction(event_id, user_id, item_id, timestamp)


def key(key_id: str, **changes) -> ApiKey:
    fields = {"scopes": frozenset({"read", "write"}), "salt": b"\0salt", "digest": b"digest\xff", "requests_per_s": 2.5, "burst": 7}
    return ApiKey(key_id, f"name of {key_id}", **{**fields, "created_at": 1000.25, **changes})


def test_a_history_is_in_order_of_time_then_item_however_its_events_came(store):
    sent = [event("e1", "u", "b", 5), event("e2", "u", "a", 5), event("e3", "other", "z", 1), event("e4", "u", "c", 2)]
    assert store.add_interactions(sent, AUTHOR) == AddedInteractions(4, 0)
    found = store.histories(["u", "nobody", "other"])
    assert [e.item_id for e in found["u"]] == ["c", "a", "b"]
    assert found["other"] == (sent[2],)
    assert found["nobody"] == ()
    assert [e.item_id for e in store.histories(["u"], limit=2)["u"]] == ["a", "b"]
    assert store.histories([]) == {}


def test_ids_are_ordered_by_code_point_as_in_the_memory(store):
    ids = ["Z", "a", "é", "中", "\U0001f600", "ﬀ"]
    store.add_interactions([event(f"e{n}", item_id=item_id) for n, item_id in enumerate(reversed(ids))], AUTHOR)
    assert [e.item_id for e in store.histories(["u"])["u"]] == sorted(ids)


def test_what_is_sent_again_changes_nothing(store):
    store.add_interactions([event("e1"), event("e2", timestamp=2)], AUTHOR)
    again = [event("e1"), event("e3", timestamp=3), event("e3", timestamp=3), event("e4", timestamp=2)]
    assert store.add_interactions(again, AUTHOR) == AddedInteractions(1, 3)
    assert [e.event_id for e in store.histories(["u"])["u"]] == ["e1", "e2", "e3"]
    assert store.add_interactions([], AUTHOR) == AddedInteractions(0, 0)
    assert store.backlog().num_interactions == 3


@pytest.mark.parametrize("other", [{"user_id": "v"}, {"item_id": "j"}, {"timestamp": 9}])
def test_an_event_id_with_another_meaning_is_refused_with_all_of_its_batch(store, other):
    store.add_interactions([event("e1")], AUTHOR)
    with pytest.raises(RequestError, match="was sent before") as refused:
        store.add_interactions([event("new", timestamp=7), event("e1", **other)], AUTHOR)
    assert refused.value.field == "events.1.event_id"
    with pytest.raises(RequestError):
        store.add_interactions([event("new", timestamp=7), event("new", timestamp=8)], AUTHOR)
    assert store.histories(["u"])["u"] == (event("e1"),)
    assert len(store.audit_entries(limit=10)) == 1


def test_large_batches_and_many_users_pass_the_limits_of_one_statement(store):
    sent = [event(f"e{n}", f"u{n % 2500}", f"i{n}", n) for n in range(5000)]
    assert store.add_interactions(sent, AUTHOR) == AddedInteractions(5000, 0)
    assert store.add_interactions(sent, AUTHOR) == AddedInteractions(0, 5000)
    found = store.histories([f"u{n}" for n in range(2500)])
    assert sum(map(len, found.values())) == 5000
    work = store.pending(max_interactions=4000)
    assert len(work.interactions) == 4000
    store.mark_in_memory(work, 1)
    assert store.backlog().num_interactions == 1000


def test_ids_at_the_limit_are_kept_and_found(store):
    wide = "\U0001f600" * 250
    sent = event(wide, wide, wide, 253_402_300_799)
    store.add_interactions([sent], Author(wide, wide))
    store.edit_items([CatalogueEdit("put", wide, "t" * 100_000, {"text": "x" * 100_000})], AUTHOR)
    assert store.histories([wide])[wide] == (sent,)
    assert [len(item.edit.title) for item in store.edited_items()] == [100_000]


def test_pending_work_is_given_until_it_is_marked(store):
    before = time.time()
    store.add_interactions([event("e1"), event("e2", timestamp=2)], AUTHOR)
    store.add_interactions([event("e3", timestamp=3)], AUTHOR)
    store.add_interactions([event("old", timestamp=0)], AUTHOR, memory_version=1)
    store.edit_items([CatalogueEdit("put", "i", "Title")], AUTHOR)
    store.forget_user("gone", AUTHOR)
    work = store.pending(max_interactions=2)
    assert [p.interaction.event_id for p in work.interactions] == ["e1", "e2"]
    assert [item.edit.item_id for item in work.edits] == ["i"]
    assert [user.user_id for user in work.forgotten] == ["gone"]
    assert store.pending(max_interactions=2) == work
    backlog = store.backlog()
    assert backlog == Backlog(3, 1, 1, work.interactions[0].accepted_at)
    assert before <= backlog.oldest_at <= time.time()
    store.mark_in_memory(work, 5)
    rest = store.pending(max_interactions=2)
    assert [p.interaction.event_id for p in rest.interactions] == ["e3"]
    assert not rest.edits
    assert not rest.forgotten
    store.mark_in_memory(rest, 6)
    assert not store.pending(max_interactions=2)
    assert store.backlog() == Backlog(0, 0, 0, None)


def test_what_changed_again_while_the_memory_was_written_stays_pending(store):
    store.add_interactions([event("e1", "gone")], AUTHOR)
    store.edit_items([CatalogueEdit("put", "i", "Title")], AUTHOR)
    store.forget_user("twice", AUTHOR)
    work = store.pending(max_interactions=10)
    store.edit_items([CatalogueEdit("patch", "i", attributes={"year": 1})], AUTHOR)
    store.forget_user("twice", AUTHOR)
    store.forget_user("gone", AUTHOR)
    store.add_interactions([event("e1", "gone")], AUTHOR)
    store.mark_in_memory(work, 2)
    left = store.pending(max_interactions=10)
    assert [item.edit for item in left.edits] == [CatalogueEdit("put", "i", "Title", {"year": 1})]
    assert [user.user_id for user in left.forgotten] == ["twice", "gone"]
    assert [p.interaction.event_id for p in left.interactions] == ["e1"]


def test_a_forgotten_user_is_gone_and_remembered_as_forgotten_until_the_memory_is_clean(store):
    store.add_interactions([event("e1"), event("e2", timestamp=2), event("e3", "v")], AUTHOR)
    assert store.forget_user("u", AUTHOR) == 2
    assert store.histories(["u", "v"]) == {"u": (), "v": (event("e3", "v"),)}
    assert [user.user_id for user in store.forgotten_users()] == ["u"]
    assert store.finish_forgetting(100) == 0
    store.mark_in_memory(store.pending(max_interactions=0), 4)
    assert [user.memory_version for user in store.forgotten_users()] == [4]
    assert store.finish_forgetting(3) == 0
    assert store.finish_forgetting(4) == 1
    assert store.forgotten_users() == []
    assert store.forget_user("u", AUTHOR) == 0
    assert [user.user_id for user in store.pending(max_interactions=0).forgotten] == ["u"]


def test_after_a_roll_back_what_newer_memory_versions_had_is_pending_again(store):
    for version in (1, 2, 3):
        store.add_interactions([event(f"e{version}", timestamp=version)], AUTHOR)
        store.edit_items([CatalogueEdit("put", f"i{version}", "Title")], AUTHOR)
        store.forget_user(f"gone{version}", AUTHOR)
        store.mark_in_memory(store.pending(max_interactions=10), version)
    store.mark_rolled_back(1)
    work = store.pending(max_interactions=10)
    assert [p.interaction.event_id for p in work.interactions] == ["e2", "e3"]
    assert [item.edit.item_id for item in work.edits] == ["i2", "i3"]
    assert [user.user_id for user in work.forgotten] == ["gone2", "gone3"]


def test_edits_of_an_item_become_one_and_a_repeated_one_keeps_its_number(store):
    put, patch = CatalogueEdit("put", "i", "Old", {"year": 1999, "tags": ["a"]}), CatalogueEdit("patch", "i", "New", {"year": None})
    [first, other] = store.edit_items([put, CatalogueEdit("patch", "j", attributes={"x": 0})], AUTHOR)
    assert (first.number, other.number) == (1, 2)
    [now] = store.edit_items([patch], AUTHOR)
    assert now.edit.apply(None) == ("New", {"tags": ["a"]})
    assert store.edit_items([patch], AUTHOR) == [now]
    assert store.edited_items() == [other, now]
    assert store.edited_items(after=other.number) == [now]
    assert store.edited_items(after=now.number) == []
    assert [entry.subject for entry in store.audit_entries(limit=10)] == ["i", "j", "i"]


def test_a_deleted_item_is_put_again_but_not_patched_and_the_refusal_undoes_the_batch(store):
    store.edit_items([CatalogueEdit("delete", "i")], AUTHOR)
    with pytest.raises(RequestError, match="deleted") as refused:
        store.edit_items([CatalogueEdit("put", "j", "Title"), CatalogueEdit("patch", "i", "Title")], AUTHOR)
    assert refused.value.field == "item_id"
    assert [item.edit.item_id for item in store.edited_items()] == ["i"]
    store.edit_items([CatalogueEdit("put", "i", "Back"), CatalogueEdit("patch", "i", "Again")], AUTHOR)
    assert [item.edit for item in store.edited_items()] == [CatalogueEdit("put", "i", "Again")]


def test_keys_come_back_as_they_were_and_are_revoked_once(store):
    plain, full = key("k1"), key("k2", scopes=frozenset({"admin"}), created_at=1001.0, expires_at=2000.5)
    store.add_key(full, AUTHOR)
    store.add_key(plain, AUTHOR)
    assert store.list_keys() == [plain, full]
    assert store.find_key("k2") == full
    assert store.find_key("k3") is None
    with pytest.raises(RequestError, match="already"):
        store.add_key(key("k1", burst=1), AUTHOR)
    assert store.revoke_key("k1", AUTHOR)
    assert not store.revoke_key("k1", AUTHOR)
    assert not store.revoke_key("k3", AUTHOR)
    revoked = store.find_key("k1")
    assert not revoked.is_valid(revoked.revoked_at)
    assert store.find_key("k2") == full


def test_settings_are_written_over_and_removed(store):
    store.write_setting("served_version", "7", AUTHOR)
    store.write_setting("served_version", "8", AUTHOR)
    store.write_setting("experiments", "[]", AUTHOR)
    assert store.settings() == {"experiments": "[]", "served_version": "8"}
    store.write_setting("served_version", None, AUTHOR)
    assert store.settings() == {"experiments": "[]"}


def test_every_write_leaves_one_line_that_names_no_user(store):
    author = Author("key-9", "request-9")
    store.add_interactions([event("e1", "secret-user"), event("e2", "secret-user", timestamp=2)], author)
    store.add_interactions([event("e1", "secret-user")], author)
    store.edit_items([CatalogueEdit("put", "i", "A title")], Author(None, "request-10"))
    store.forget_user("secret-user", author)
    store.add_key(key("k1"), author)
    store.revoke_key("k1", author)
    store.write_setting("s", "1", author)
    entries = store.audit_entries(limit=100)
    assert [(e.action, e.count) for e in entries] == [
        ("write_setting", 1),
        ("revoke_key", 1),
        ("add_key", 1),
        ("forget_user", 2),
        ("edit_items", 1),
        ("add_interactions", 2),
    ]
    assert entries[3].subject == store.user_subject("secret-user") != store.user_subject("other")
    assert [(e.key_id, e.request_id) for e in entries[3:5]] == [("key-9", "request-9"), (None, "request-10")]
    assert "secret-user" not in repr(entries)
    assert "A title" not in repr(entries)
    assert store.audit_entries(limit=2, before=entries[1].number) == entries[2:4]


def test_everything_is_there_in_another_store_on_the_same_url(store, store_url):
    store.add_interactions([event("e1")], AUTHOR)
    store.edit_items([CatalogueEdit("put", "i", "Title")], AUTHOR)
    with open_store(store_url) as other:
        assert other.histories(["u"]) == store.histories(["u"])
        assert other.edited_items() == store.edited_items()
        assert other.user_subject("u") == store.user_subject("u")
        other.forget_user("u", AUTHOR)
    assert store.histories(["u"]) == {"u": ()}


def test_writers_at_once_add_each_event_once(store):
    batches = [[event(f"e{n}", f"u{n % 7}", timestamp=n) for n in range(start, start + 20)] for start in range(0, 200, 5)]
    distinct = {e.event_id for batch in batches for e in batch}
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda batch: store.add_interactions(batch, AUTHOR), batches))
    assert sum(a.num_added for a in added) == len(distinct) == store.backlog().num_interactions
    assert sum(a.num_added + a.num_known for a in added) == 20 * len(batches)
    assert sum(e.count for e in store.audit_entries(limit=1000)) == len(distinct)


def test_a_reader_that_follows_the_numbers_of_edits_misses_none(store, store_url):
    seen, is_over = {}, threading.Event()

    def follow() -> None:
        last, is_last_look = 0, False
        with open_store(store_url) as reader:
            while not is_last_look:
                is_last_look = is_over.is_set()
                for item in reader.edited_items(after=last):
                    seen[item.edit.item_id], last = item.edit, item.number

    reader = threading.Thread(target=follow)
    reader.start()
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda n: store.edit_items([CatalogueEdit("put", f"i{n % 40}", f"Title {n}")], AUTHOR), range(120)))
    is_over.set()
    reader.join(timeout=60)
    assert len(seen) == 40
    assert seen == {item.edit.item_id: item.edit for item in store.edited_items()}
