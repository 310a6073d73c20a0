"""PostgreSQL over psycopg 3 (the extra ``postgres``), for services on several machines. A database of its own; its tables are made in it.

A connection that the server has dropped is replaced before it is used. A write that was cut off may or may not be there: sent again,
it changes nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, LifoQueue
from threading import BoundedSemaphore
from typing import Any, Final

import psycopg

from l2d_ray.errors import ConfigError, StorageError, UnavailableError

MAX_CONNECTIONS: Final = 8
TIMEOUT_S: Final = 10
"""Longest wait for a connection, for a statement, for the network."""

TURN: Final = 7_264_051
"""Key of the advisory lock of writes in turn."""

SETTINGS: Final = f"""SELECT set_config('statement_timeout', '{TIMEOUT_S}s', false),
    CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"""


class PostgresDatabase:
    """``Database`` on a server.

    Args:
        url: ``postgresql://user:password@host:port/database``, or whatever libpq takes.
    """

    words: Final[Mapping[str, str]] = {
        "NUMBER": "BIGINT",
        "IDENTITY": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "TEXT": 'TEXT COLLATE "C"',
        "BYTES": "BYTEA",
        "FLOAT": "DOUBLE PRECISION",
    }

    def __init__(self, url: str) -> None:
        self._url = url
        self._places = BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: LifoQueue[psycopg.Connection] = LifoQueue()
        self._idle.put(_first_connection(url))

    @contextmanager
    def reading(self) -> Iterator[_Cursor]:
        """A transaction that sees one moment and changes nothing."""
        with self._transaction(psycopg.IsolationLevel.REPEATABLE_READ, is_read_only=True) as cursor:
            yield cursor

    @contextmanager
    def writing(self, *, in_turn: bool = False) -> Iterator[_Cursor]:
        """A transaction that is on disk when the block ends, or undone where it raises."""
        with self._transaction(psycopg.IsolationLevel.READ_COMMITTED, is_read_only=False) as cursor:
            if in_turn:
                cursor.execute("SELECT pg_advisory_xact_lock(?)", (TURN,))
            yield cursor

    def erase(self) -> None:
        """Nothing: the server's vacuum clears deleted rows away."""

    def close(self) -> None:
        """Close all connections."""
        while (connection := self._next_idle()) is not None:
            connection.close()

    @contextmanager
    def _transaction(self, level: psycopg.IsolationLevel, *, is_read_only: bool) -> Iterator[_Cursor]:
        with _told(), self._connection() as connection:
            connection.isolation_level, connection.read_only = level, is_read_only
            with connection.transaction():
                yield _Cursor(connection.cursor())

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        """A connection that answers. Not psycopg_pool's: that one waits longer and longer for a server that was away."""
        if not self._places.acquire(timeout=TIMEOUT_S):
            raise UnavailableError(f"All {MAX_CONNECTIONS} connections to the store's PostgreSQL are busy; try again.", retry_after_s=1)
        try:
            connection = self._next_idle()
            while connection is not None and not _answers(connection):
                connection = self._next_idle()
            connection = connection or _connect(self._url)
            try:
                yield connection
            finally:
                if not connection.closed:
                    self._idle.put(connection)
        finally:
            self._places.release()

    def _next_idle(self) -> psycopg.Connection | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            return None


class _Cursor:
    """A psycopg cursor that takes ``?``."""

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        # Bytes, since psycopg types a text as a literal one, and ours is put together from constants.
        self._cursor.execute(sql.replace("?", "%s").encode(), parameters)

    def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount


def _connect(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url, autocommit=True, connect_timeout=TIMEOUT_S, tcp_user_timeout=1000 * TIMEOUT_S)
    connection.execute(SETTINGS)
    return connection


def _first_connection(url: str) -> psycopg.Connection:
    """ConfigError where the URL cannot be read, UnavailableError where there is no such server, user or database."""
    try:
        return _connect(url)
    except psycopg.ProgrammingError as error:
        raise ConfigError(f"The store's URL cannot be read ({error}); write postgresql://user@host/database.") from error
    except psycopg.OperationalError as error:
        raise UnavailableError(f"The store's PostgreSQL cannot be used: {error}") from error


def _answers(connection: psycopg.Connection) -> bool:
    """Whether the server has not dropped it meanwhile, for example because it was started anew."""
    try:
        connection.execute("")
    except psycopg.OperationalError:
        connection.close()
        return False
    return True


@contextmanager
def _told() -> Iterator[None]:
    """Turn the server's errors into ours, without its insides, which callers may read; a fault of our SQL stays what it is."""
    try:
        yield
    except (psycopg.errors.DiskFull, psycopg.errors.ReadOnlySqlTransaction) as error:
        raise StorageError("The store's PostgreSQL refused a write; free space, or name the server that takes writes.") from error
    except psycopg.OperationalError as error:
        raise UnavailableError("The store's PostgreSQL does not answer now; try again.", retry_after_s=1) from error
