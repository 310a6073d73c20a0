"""SQLite: one file, many readers beside one writer (WAL), on disk before a write returns (synchronous=FULL).

For all processes of one machine; a network file system does not keep WAL's locks, so several machines need PostgreSQL. What is deleted is
overwritten (secure_delete; in the log of writes by ``erase``), and the files are their owner's alone: they hold what users did.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Final

from l2d_ray.errors import ArtefactError, ConfigError, StorageError, UnavailableError

BUSY_TIMEOUT_S: Final = 10.0
"""How long a write waits for those of other processes."""

BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
REFUSED: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


class SqliteDatabase:
    """``Database`` in one file, made where there is none; its folder must exist."""

    words: Final[Mapping[str, str]] = {
        "NUMBER": "INTEGER",
        "IDENTITY": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "TEXT": "TEXT",
        "BYTES": "BLOB",
        "FLOAT": "REAL",
    }

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise ConfigError(f"There is no folder {path.parent} for the store {path.name}; make it, or correct the store's URL.")
        self._path = path
        self._turn = threading.Lock()
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        with _told(path):
            path.touch(mode=0o600)  # before SQLite makes it for all to read; its other files take over the mode
            self._writer = self._connected()
            self._writer.execute("PRAGMA journal_mode = WAL")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Cursor]:
        """A transaction that sees one moment and changes nothing."""
        with _told(self._path):
            connection = self._reader()
            try:
                connection.execute("BEGIN")
                yield connection.cursor()
            finally:
                connection.rollback()
                self._idle.put(connection)

    @contextmanager
    def writing(self, *, in_turn: bool = False) -> Iterator[sqlite3.Cursor]:
        """A transaction that is on disk when the block ends, or undone where it raises. There is one writer, so all are in turn."""
        with self._turn, _told(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer.cursor()
                self._writer.commit()
            finally:
                self._writer.rollback()

    def erase(self) -> None:
        """Move the log of writes into the database, where deleted rows are overwritten, and cut it to nothing."""
        with self._turn, _told(self._path):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close all connections."""
        with self._turn:
            self._writer.close()
        while (connection := self._next_idle()) is not None:
            connection.close()

    def _reader(self) -> sqlite3.Connection:
        return self._next_idle() or self._connected()

    def _next_idle(self) -> sqlite3.Connection | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            return None

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        return connection


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; one that is a fault of our SQL stays what it is."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"The store {path} cannot be written: {error}.") from error
    except sqlite3.DatabaseError as error:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case code if code in BUSY:
                raise UnavailableError(f"The store {path} is busy with another process's write; try again.", retry_after_s=1) from error
            case code if code in DAMAGED:
                raise ArtefactError(f"The store {path} is damaged or no SQLite database ({error}); restore a backup.") from error
            case code if code in REFUSED:
                raise StorageError(f"The store {path} refused a write ({error}); free space or correct the file's rights.") from error
            case _:
                raise
