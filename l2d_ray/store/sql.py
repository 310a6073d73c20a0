"""``SqlStore``: the whole of ``StateStore`` in SQL that SQLite and PostgreSQL both speak. What each method promises stands in interface.py.

An interaction's row says which memory version has it; NULL is pending. Numbers of edits and tombstones are given in turn, so a reader
that asks for greater ones misses none; those of interactions only name rows. A user_id stands in no row but the user's own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from l2d_ray.errors import RequestError
from l2d_ray.store.database import Cursor, Database
from l2d_ray.store.interface import MAX_HISTORY
from l2d_ray.store.records import (
    MAX_TEXT_BYTES,
    Action,
    AddedInteractions,
    ApiKey,
    AuditEntry,
    Author,
    Backlog,
    CatalogueEdit,
    EditedItem,
    ForgottenUser,
    Interaction,
    PendingInteraction,
    PendingWork,
    attributes_json,
    check_id,
    check_text,
)

Value = TypeVar("Value")

MAX_PARAMETERS: Final = 1000
"""Parameters in one list of a statement; both databases take more."""

ADD_INTERACTION: Final = """INSERT INTO interactions (event_id, user_id, item_id, timestamp, accepted_at, memory_version)
    VALUES {rows} ON CONFLICT DO NOTHING"""
HISTORIES: Final = """SELECT event_id, user_id, item_id, timestamp FROM (
    SELECT interactions.*, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY timestamp DESC, item_id DESC) AS place
    FROM interactions WHERE user_id IN ({marks})) AS ranked WHERE place <= ? ORDER BY user_id, timestamp, item_id"""
PENDING_INTERACTIONS: Final = """SELECT number, event_id, user_id, item_id, timestamp, accepted_at FROM interactions
    WHERE memory_version IS NULL ORDER BY number LIMIT ?"""
ITEM: Final = "SELECT kind, item_id, title, attributes, number, memory_version FROM edited_items"
PUT_ITEM: Final = """INSERT INTO edited_items (item_id, number, kind, title, attributes) VALUES {rows}
    ON CONFLICT (item_id) DO UPDATE SET number = excluded.number, kind = excluded.kind, title = excluded.title,
    attributes = excluded.attributes, memory_version = NULL"""
TOMBSTONE: Final = "SELECT user_id, number, forgotten_at, memory_version FROM forgotten_users"
KEY: Final = "SELECT key_id, name, scopes, salt, digest, requests_per_s, burst, created_at, expires_at, revoked_at FROM api_keys"
ADD_KEY: Final = """INSERT INTO api_keys (key_id, name, scopes, salt, digest, requests_per_s, burst, created_at, expires_at, revoked_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
WRITE_SETTING: Final = "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
ADD_AUDIT: Final = "INSERT INTO audit (at, action, key_id, request_id, subject, count) VALUES (?, ?, ?, ?, ?, ?)"
BACKLOG: Final = """SELECT (SELECT COUNT(*) FROM interactions WHERE memory_version IS NULL),
    (SELECT COUNT(*) FROM edited_items WHERE memory_version IS NULL), (SELECT COUNT(*) FROM forgotten_users WHERE memory_version IS NULL),
    (SELECT accepted_at FROM interactions WHERE memory_version IS NULL ORDER BY number LIMIT 1)"""


class SqlStore:
    """``StateStore`` over a migrated database.

    Args:
        salt: the store's own, which keys the hashes of user_ids in the audit log.
    """

    def __init__(self, database: Database, salt: bytes) -> None:
        self._database = database
        self._salt = salt

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def add_interactions(
        self, interactions: Sequence[Interaction], author: Author, *, memory_version: int | None = None
    ) -> AddedInteractions:
        now = time.time()
        # In order, so that of two writers with the same events one waits for the other, and never each for each.
        ordered = sorted(interactions, key=lambda event: event.event_id)
        rows = [(e.event_id, e.user_id, e.item_id, e.timestamp, now, memory_version) for e in ordered]
        with self._database.writing() as cursor:
            num_added = _write_rows(cursor, ADD_INTERACTION, rows)
            _refuse_other_meanings(cursor, interactions)
            _audit(cursor, author, "add_interactions", None, num_added)
        return AddedInteractions(num_added, len(interactions) - num_added)

    def histories(self, user_ids: Sequence[str], *, limit: int = MAX_HISTORY) -> Mapping[str, tuple[Interaction, ...]]:
        for user_id in user_ids:
            check_id("user_id", user_id)
        found: dict[str, list[Interaction]] = {user_id: [] for user_id in user_ids}
        with self._database.reading() as cursor:
            for chunk in _chunks(list(found)):
                for row in _rows(cursor, HISTORIES.format(marks=_marks(chunk)), [*chunk, limit]):
                    found[row[1]].append(Interaction(*row))
        return {user_id: tuple(history) for user_id, history in found.items()}

    def forget_user(self, user_id: str, author: Author) -> int:
        check_id("user_id", user_id)
        with self._database.writing(in_turn=True) as cursor:
            cursor.execute("DELETE FROM interactions WHERE user_id = ?", (user_id,))
            num_deleted = cursor.rowcount
            cursor.execute("DELETE FROM forgotten_users WHERE user_id = ?", (user_id,))
            cursor.execute("INSERT INTO forgotten_users (user_id, forgotten_at) VALUES (?, ?)", (user_id, time.time()))
            _audit(cursor, author, "forget_user", self.user_subject(user_id), max(num_deleted, 1))
        return num_deleted

    def forgotten_users(self) -> Sequence[ForgottenUser]:
        with self._database.reading() as cursor:
            return [ForgottenUser(*row) for row in _rows(cursor, f"{TOMBSTONE} ORDER BY number")]

    def edit_items(self, edits: Sequence[CatalogueEdit], author: Author) -> Sequence[EditedItem]:
        with self._database.writing(in_turn=True) as cursor:
            before = _items_of(cursor, [edit.item_id for edit in edits])
            wanted = {item_id: item.edit for item_id, item in before.items()}
            for edit in edits:
                wanted[edit.item_id] = edit.after(wanted.get(edit.item_id))
            changed = [e for item_id, e in wanted.items() if item_id not in before or before[item_id].edit != e]
            [(first,)] = _rows(cursor, "SELECT COALESCE(MAX(number), 0) + 1 FROM edited_items")
            rows = [(e.item_id, n, e.kind, e.title, attributes_json(e.attributes)) for n, e in enumerate(changed, start=first)]
            _write_rows(cursor, PUT_ITEM, rows)
            for edit in changed:
                _audit(cursor, author, "edit_items", edit.item_id, 1)
        now = {e.item_id: EditedItem(e, n, None) for n, e in enumerate(changed, start=first)}
        return [now.get(item_id) or before[item_id] for item_id in wanted]

    def edited_items(self, *, after: int = 0) -> Sequence[EditedItem]:
        with self._database.reading() as cursor:
            return [_item(row) for row in _rows(cursor, f"{ITEM} WHERE number > ? ORDER BY number", [after])]

    def pending(self, *, max_interactions: int) -> PendingWork:
        with self._database.reading() as cursor:
            forgotten = [ForgottenUser(*row) for row in _rows(cursor, f"{TOMBSTONE} WHERE memory_version IS NULL ORDER BY number")]
            edits = [_item(row) for row in _rows(cursor, f"{ITEM} WHERE memory_version IS NULL ORDER BY number")]
            rows = _rows(cursor, PENDING_INTERACTIONS, [max_interactions])
        interactions = [PendingInteraction(number, Interaction(*event), at) for number, *event, at in rows]
        return PendingWork(tuple(forgotten), tuple(edits), tuple(interactions))

    def mark_in_memory(self, work: PendingWork, memory_version: int) -> None:
        with self._database.writing() as cursor:
            for table, numbers in (
                ("forgotten_users", [user.number for user in work.forgotten]),
                ("edited_items", [item.number for item in work.edits]),
                ("interactions", [pending.number for pending in work.interactions]),
            ):
                for chunk in _chunks(sorted(numbers)):
                    cursor.execute(
                        f"UPDATE {table} SET memory_version = ? WHERE number IN ({_marks(chunk)})",
                        [memory_version, *chunk],
                    )

    def mark_rolled_back(self, memory_version: int) -> None:
        with self._database.writing() as cursor:
            for table in ("forgotten_users", "edited_items", "interactions"):
                cursor.execute(f"UPDATE {table} SET memory_version = NULL WHERE memory_version > ?", (memory_version,))

    def finish_forgetting(self, oldest_memory_version: int) -> int:
        with self._database.writing(in_turn=True) as cursor:
            cursor.execute("DELETE FROM forgotten_users WHERE memory_version <= ?", (oldest_memory_version,))
            num_finished = cursor.rowcount
        if num_finished:
            self._database.erase()
        return num_finished

    def backlog(self) -> Backlog:
        with self._database.reading() as cursor:
            [row] = _rows(cursor, BACKLOG)
        return Backlog(*row)

    def add_key(self, key: ApiKey, author: Author) -> None:
        scopes = " ".join(sorted(key.scopes))
        limits = (float(key.requests_per_s), key.burst)
        row = (key.key_id, key.name, scopes, key.salt, key.digest, *limits, key.created_at, key.expires_at, key.revoked_at)
        with self._database.writing() as cursor:
            cursor.execute(ADD_KEY, row)
            if not cursor.rowcount:
                raise RequestError("key_id", f"There is an API key {key.key_id!r} already; make one with another id.")
            _audit(cursor, author, "add_key", key.key_id, 1)

    def find_key(self, key_id: str) -> ApiKey | None:
        check_id("key_id", key_id)
        with self._database.reading() as cursor:
            found = [_key(row) for row in _rows(cursor, f"{KEY} WHERE key_id = ?", [key_id])]
        return found[0] if found else None

    def list_keys(self) -> Sequence[ApiKey]:
        with self._database.reading() as cursor:
            return [_key(row) for row in _rows(cursor, f"{KEY} ORDER BY created_at, key_id")]

    def revoke_key(self, key_id: str, author: Author) -> bool:
        check_id("key_id", key_id)
        with self._database.writing() as cursor:
            cursor.execute("UPDATE api_keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL", (time.time(), key_id))
            was_valid = cursor.rowcount == 1
            _audit(cursor, author, "revoke_key", key_id, int(was_valid))
        return was_valid

    def settings(self) -> Mapping[str, str]:
        with self._database.reading() as cursor:
            return dict(_rows(cursor, "SELECT name, value FROM settings ORDER BY name"))

    def write_setting(self, name: str, value: str | None, author: Author) -> None:
        check_id("name", name)
        check_text("value", value or "", MAX_TEXT_BYTES)
        with self._database.writing() as cursor:
            if value is None:
                cursor.execute("DELETE FROM settings WHERE name = ?", (name,))
            else:
                cursor.execute(WRITE_SETTING, (name, value))
            _audit(cursor, author, "write_setting", name, cursor.rowcount)

    def audit_entries(self, *, limit: int, before: int | None = None) -> Sequence[AuditEntry]:
        sql = "SELECT number, at, action, key_id, request_id, subject, count FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?"
        with self._database.reading() as cursor:
            return [AuditEntry(*row) for row in _rows(cursor, sql, [2**62 if before is None else before, limit])]

    def user_subject(self, user_id: str) -> str:
        return "user:" + hashlib.blake2b(user_id.encode(), key=self._salt, digest_size=16).hexdigest()


def _refuse_other_meanings(cursor: Cursor, interactions: Sequence[Interaction]) -> None:
    """RequestError where an event_id stands for another interaction, in the store or in this batch."""
    stored: dict[str, Interaction] = {}
    for chunk in _chunks(sorted({event.event_id for event in interactions})):
        sql = f"SELECT event_id, user_id, item_id, timestamp FROM interactions WHERE event_id IN ({_marks(chunk)})"
        stored |= {row[0]: Interaction(*row) for row in _rows(cursor, sql, chunk)}
    for position, event in enumerate(interactions):
        if stored.setdefault(event.event_id, event) != event:
            raise RequestError(
                f"events.{position}.event_id",
                f"The event_id {event.event_id!r} was sent before with another user, item or time; give each interaction its own.",
            )


def _audit(cursor: Cursor, author: Author, action: Action, subject: str | None, count: int) -> None:
    if count:
        cursor.execute(ADD_AUDIT, (time.time(), action, author.key_id, author.request_id, subject, count))


def _items_of(cursor: Cursor, item_ids: Sequence[str]) -> dict[str, EditedItem]:
    found: dict[str, EditedItem] = {}
    for chunk in _chunks(sorted(set(item_ids))):
        found |= {row[1]: _item(row) for row in _rows(cursor, f"{ITEM} WHERE item_id IN ({_marks(chunk)})", chunk)}
    return found


def _item(row: Sequence[Any]) -> EditedItem:
    kind, item_id, title, attributes, number, memory_version = row
    return EditedItem(CatalogueEdit(kind, item_id, title, json.loads(attributes)), number, memory_version)


def _key(row: Sequence[Any]) -> ApiKey:
    key_id, name, scopes, salt, digest, *rest = row
    return ApiKey(key_id, name, frozenset(scopes.split()), bytes(salt), bytes(digest), *rest)


def _rows(cursor: Cursor, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
    cursor.execute(sql, parameters)
    return cursor.fetchall()


def _write_rows(cursor: Cursor, sql: str, rows: Sequence[Sequence[Any]]) -> int:
    """Run a statement for rows of equal length, many in one round trip; returns how many it changed."""
    num_changed = 0
    for chunk in _chunks(rows, MAX_PARAMETERS // len(rows[0]) if rows else 1):
        marks = ", ".join(f"({_marks(row)})" for row in chunk)
        cursor.execute(sql.format(rows=marks), [value for row in chunk for value in row])
        num_changed += cursor.rowcount
    return num_changed


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: Sequence[Value], size: int = MAX_PARAMETERS) -> Iterator[Sequence[Value]]:
    return (values[start : start + size] for start in range(0, len(values), size))
