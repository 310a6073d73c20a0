"""The tables, as a list of steps: step n turns version n - 1 of the schema into version n. A database of a newer version is refused.

A step that has been released is never edited; the next change of the schema is one more step.
"""

from __future__ import annotations

import secrets
from typing import Final

from l2d_ray.errors import ArtefactError
from l2d_ray.store.database import Cursor, Database

VERSION_TABLE: Final = "CREATE TABLE IF NOT EXISTS l2d_store (version {NUMBER} NOT NULL, salt {BYTES} NOT NULL)"

STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE interactions (
            number {IDENTITY}, event_id {TEXT} NOT NULL UNIQUE, user_id {TEXT} NOT NULL, item_id {TEXT} NOT NULL,
            timestamp {NUMBER} NOT NULL, accepted_at {FLOAT} NOT NULL, memory_version {NUMBER}, UNIQUE (user_id, timestamp, item_id))""",
        "CREATE INDEX interactions_pending ON interactions (number) WHERE memory_version IS NULL",
        """CREATE TABLE edited_items (
            item_id {TEXT} PRIMARY KEY, number {NUMBER} NOT NULL UNIQUE, kind {TEXT} NOT NULL, title {TEXT}, attributes {TEXT} NOT NULL,
            memory_version {NUMBER})""",
        """CREATE TABLE forgotten_users (
            number {IDENTITY}, user_id {TEXT} NOT NULL UNIQUE, forgotten_at {FLOAT} NOT NULL, memory_version {NUMBER})""",
        """CREATE TABLE api_keys (
            key_id {TEXT} PRIMARY KEY, name {TEXT} NOT NULL, scopes {TEXT} NOT NULL, salt {BYTES} NOT NULL, digest {BYTES} NOT NULL,
            requests_per_s {FLOAT} NOT NULL, burst {NUMBER} NOT NULL, created_at {FLOAT} NOT NULL, expires_at {FLOAT},
            revoked_at {FLOAT})""",
        "CREATE TABLE settings (name {TEXT} PRIMARY KEY, value {TEXT} NOT NULL)",
        """CREATE TABLE audit (
            number {IDENTITY}, at {FLOAT} NOT NULL, action {TEXT} NOT NULL, key_id {TEXT}, request_id {TEXT} NOT NULL, subject {TEXT},
            count {NUMBER} NOT NULL)""",
    ),
)
VERSION: Final = len(STEPS)


def migrate(database: Database) -> bytes:
    """Bring the tables to this version; returns the store's salt. ArtefactError where they are newer."""
    with database.writing(in_turn=True) as cursor:
        cursor.execute(VERSION_TABLE.format_map(database.words))
        version, salt = _found(cursor)
        if version > VERSION:
            raise ArtefactError(f"The store has schema version {version}, this l2d_ray knows {VERSION} and older; use the newer release.")
        for statement in (statement for step in STEPS[version:] for statement in step):
            cursor.execute(statement.format_map(database.words))
        cursor.execute("UPDATE l2d_store SET version = ?", (VERSION,))
    return salt


def _found(cursor: Cursor) -> tuple[int, bytes]:
    """Version and salt of the store, which is begun where there is none."""
    cursor.execute("SELECT version, salt FROM l2d_store")
    rows = cursor.fetchall()
    if rows:
        version, salt = rows[0]
        return int(version), bytes(salt)
    salt = secrets.token_bytes(32)
    cursor.execute("INSERT INTO l2d_store (version, salt) VALUES (0, ?)", (salt,))
    return 0, salt
