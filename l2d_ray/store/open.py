"""``open_store(url)``: the one place that knows which databases there are."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from l2d_ray.errors import ConfigError
from l2d_ray.store.database import Database
from l2d_ray.store.interface import StateStore
from l2d_ray.store.migrations import migrate
from l2d_ray.store.sql import SqlStore
from l2d_ray.store.sqlite import SqliteDatabase

EXAMPLES: Final = "sqlite:///absolute/path/state.db or postgresql://user@host/database"


def open_store(url: str) -> StateStore:
    """The store at a URL, made or brought to this version of its tables.

    Raises ConfigError for a URL that names none, ArtefactError where the tables are newer or damaged, UnavailableError where no server
    answers.
    """
    with ExitStack() as on_failure:
        database = _open_database(url)
        on_failure.callback(database.close)
        store = SqlStore(database, migrate(database))
        on_failure.pop_all()
    return store


def is_store(url: str) -> bool:
    """Whether there may be a store to open; False where it would be an SQLite file that does not exist yet."""
    parts = urlsplit(url)
    return parts.scheme != "sqlite" or Path(unquote(parts.path)).is_file()


def _open_database(url: str) -> Database:
    parts = urlsplit(url)
    match parts.scheme:
        case "sqlite" if not parts.netloc and parts.path.startswith("/") and not parts.query:
            return SqliteDatabase(Path(unquote(parts.path)))
        case "postgresql" | "postgres":
            return _open_postgres(url)
        case _:
            raise ConfigError(f"The store's URL begins with {parts.scheme!r} or has no absolute path; write {EXAMPLES}.")


def _open_postgres(url: str) -> Database:
    try:
        from l2d_ray.store.postgres import PostgresDatabase
    except ImportError as error:
        raise ConfigError(f"A store in PostgreSQL needs psycopg ({error}); install l2d_ray[postgres].") from error
    return PostgresDatabase(url)
