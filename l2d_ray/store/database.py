"""What the store asks of a database: transactions, and the few words of SQL in which databases differ. SQL is written with ``?``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Cursor(Protocol):
    """What runs SQL inside one transaction."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> object:
        """Run one statement."""

    def fetchall(self) -> list[Any]:
        """All rows of the last statement, as tuples."""

    @property
    def rowcount(self) -> int:
        """Rows that the last statement changed."""


class Database(Protocol):
    """One database. Its methods raise StorageError, UnavailableError or ArtefactError in place of a driver's errors."""

    @property
    def words(self) -> Mapping[str, str]:
        """For the schema: NUMBER (a 64-bit integer), IDENTITY (an ascending primary key), TEXT (compared by bytes), BYTES, FLOAT."""

    def reading(self) -> AbstractContextManager[Cursor]:
        """A transaction that sees one moment and changes nothing."""

    def writing(self, *, in_turn: bool = False) -> AbstractContextManager[Cursor]:
        """A transaction that is on disk when the block ends, or undone where it raises.

        Args:
            in_turn: wait until no other such transaction is open, so that numbers are given in the order of the commits.
        """

    def erase(self) -> None:
        """Leave as little as the database can of what has been deleted."""

    def close(self) -> None:
        """Close all connections."""
