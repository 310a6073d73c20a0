"""What a store says when its database is wrong, full, busy, newer or gone; and that it goes on when the server comes back."""

import sqlite3
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from l2d_ray.errors import ArtefactError, ConfigError, StorageError, UnavailableError
from l2d_ray.store import migrations
from l2d_ray.store import postgres as postgres_module
from l2d_ray.store import sqlite as sqlite_module
from l2d_ray.store.migrations import VERSION
from l2d_ray.store.open import open_store
from l2d_ray.store.records import Interaction
from tests.store.conftest import AUTHOR


def events(start: int, stop: int) -> list[Interaction]:
    return [Interaction(f"e{n}", "u", f"i{n}" + "x" * 500, n) for n in range(start, stop)]


@pytest.mark.parametrize(
    "url", ["state.db", "sqlite:state.db", "sqlite://state.db", "sqlite:///s.db?mode=ro", "mysql://host/db", "", "/s.db"]
)
def test_a_url_that_names_no_store_is_refused_with_examples(url):
    with pytest.raises(ConfigError, match="sqlite:///absolute/path"):
        open_store(url)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        open_store(f"sqlite://{tmp_path}/nowhere/state.db")


def test_postgresql_without_psycopg_says_which_extra_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "l2d_ray.store.postgres", None)
    with pytest.raises(ConfigError, match=r"l2d_ray\[postgres\]"):
        open_store("postgresql://nowhere/state")


def test_a_server_or_database_that_is_not_there_is_told_at_once(postgres, tmp_path):
    with pytest.raises(UnavailableError, match="no_such_database"):
        open_store(postgres.url("no_such_database"))
    with pytest.raises(UnavailableError, match="cannot be used"):
        open_store(f"postgresql:///state?host={tmp_path}")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_store("postgresql://host/state?no_such_option=1")


def test_tables_of_a_newer_version_are_refused_and_left_alone(store, store_url):
    store.add_interactions(events(0, 1), AUTHOR)
    with store._database.writing() as cursor:
        cursor.execute("UPDATE l2d_store SET version = ?", (VERSION + 1,))
    with pytest.raises(ArtefactError, match=f"schema version {VERSION + 1}, this l2d_ray knows {VERSION}"):
        open_store(store_url)
    assert len(store.histories(["u"])["u"]) == 1


def test_tables_of_an_older_version_are_brought_to_the_newest_with_all_that_they_hold(store, store_url, monkeypatch):
    store.write_setting("name", "1", AUTHOR)
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, ("ALTER TABLE settings ADD COLUMN note {TEXT}",)))
    monkeypatch.setattr(migrations, "VERSION", VERSION + 1)
    for _ in range(2):
        with open_store(store_url) as newer:
            assert newer.settings() == {"name": "1"}
            with newer._database.reading() as cursor:
                cursor.execute("SELECT version, (SELECT COUNT(*) FROM settings WHERE note IS NULL) FROM l2d_store")
                assert cursor.fetchall() == [(VERSION + 1, 1)]


def test_many_processes_may_make_the_store_at_once(store_url):
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: open_store(store_url), range(8)))
    assert len({store.user_subject("u") for store in stores}) == 1
    for store in stores:
        store.close()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "state.db").write_bytes(b"This is a text, and longer than the header of a database would be. " * 20)
    with pytest.raises(ArtefactError, match="damaged or no SQLite database"):
        open_store(f"sqlite://{tmp_path}/state.db")


def test_the_files_are_their_owners_alone_and_every_write_is_synced(tmp_path):
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        store.add_interactions(events(0, 1), AUTHOR)
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        with store._database.reading() as cursor:
            settings = {
                name: cursor.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("journal_mode", "synchronous", "secure_delete")
            }
    assert found == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}


def test_postgresql_acknowledges_nothing_before_it_is_on_disk(postgres):
    url = postgres.new_store()
    with open_store(f"{url}%20-c%20synchronous_commit%3Doff") as store, store._database.writing() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchall() == [("on",)]


def test_a_forgotten_user_is_in_no_file_any_more_while_the_store_is_in_use(tmp_path):
    def written() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        store.add_interactions([Interaction("secret-event", "secret-user", "i", 1)], AUTHOR)
        assert b"secret-event" in written()
        store.forget_user("secret-user", AUTHOR)
        store.mark_in_memory(store.pending(max_interactions=10), 1)
        assert store.finish_forgetting(1) == 1
        assert b"forget_user" in written()
        assert b"secret" not in written()


def test_a_full_disk_refuses_the_write_whole_and_the_store_goes_on(tmp_path):
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        store.add_interactions(events(0, 10), AUTHOR)
        writer = store._database._writer
        [(num_pages,)] = writer.execute("PRAGMA page_count").fetchall()
        writer.execute(f"PRAGMA max_page_count = {num_pages + 5}")
        with pytest.raises(StorageError, match="refused a write"):
            store.add_interactions(events(10, 500), AUTHOR)
        assert store.backlog().num_interactions == 10
        writer.execute("PRAGMA max_page_count = 100000")
        assert store.add_interactions(events(10, 500), AUTHOR).num_added == 490


def test_another_process_that_writes_for_long_makes_the_store_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "BUSY_TIMEOUT_S", 0.1)
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match="busy") as refused:
            store.add_interactions(events(0, 1), AUTHOR)
        assert refused.value.retry_after_s == 1
        assert store.histories(["u"]) == {"u": ()}
        other.execute("ROLLBACK")
        assert store.add_interactions(events(0, 1), AUTHOR).num_added == 1
        other.close()


def test_a_block_that_raises_is_undone_and_its_error_stays_what_it_is(store):
    def write_and_fail() -> None:
        with store._database.writing() as cursor:
            cursor.execute("INSERT INTO settings (name, value) VALUES (?, ?)", ("name", "1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert store.settings() == {}


def test_a_server_killed_with_all_its_processes_keeps_what_it_acknowledged(postgres, monkeypatch):
    monkeypatch.setattr(postgres_module, "TIMEOUT_S", 2)
    with open_store(postgres.new_store()) as store:
        store.add_interactions(events(0, 50), AUTHOR)
        postgres.kill()
        try:
            with pytest.raises(UnavailableError, match="does not answer now") as refused:
                store.add_interactions(events(50, 60), AUTHOR)
        finally:
            postgres.start()
        assert refused.value.retry_after_s == 1
        assert store.add_interactions(events(0, 60), AUTHOR).num_added == 10
        assert len(store.histories(["u"])["u"]) == 60
