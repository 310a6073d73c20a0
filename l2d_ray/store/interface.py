"""``StateStore``: what must outlive every process and is no part of the memory. SQLite by default, PostgreSQL where several machines serve.

Every method is one transaction, and one that writes returns only once the change is on disk: what was acknowledged is never lost, what
was not may be sent again and changes nothing twice. Each write leaves its line in the audit log in the same transaction. Methods block
(a service calls them in threads), any number of threads may call them at once, and so may other processes with a store on the same URL.

The way of a write into the memory: ``pending`` gives the work of one moment; who has committed it to the memory calls ``mark_in_memory``;
who dies between the two is given the same work again, which changes nothing the second time.

All raise StorageError where a write is refused (the disk is full), UnavailableError where the database does not answer now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from l2d_ray.store.records import (
    AddedInteractions,
    ApiKey,
    AuditEntry,
    Author,
    Backlog,
    CatalogueEdit,
    EditedItem,
    ForgottenUser,
    Interaction,
    PendingWork,
)

MAX_HISTORY: Final = 10_000
"""Interactions of one user that ``histories`` gives at most, unless told."""


class StateStore(Protocol):
    """Open with ``open_store(url)``, close at the end; usable in a ``with`` statement."""

    def __enter__(self) -> Self:
        """The store itself; closed at the end of the ``with`` block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def add_interactions(
        self, interactions: Sequence[Interaction], author: Author, *, memory_version: int | None = None
    ) -> AddedInteractions:
        """All of them, or none.

        Args:
            memory_version: the one that has them already (histories taken over from a memory); None: they wait for the memory.

        Raises RequestError (field ``events.POSITION.event_id``) where an event_id is known with another user, item or time.
        """

    def histories(self, user_ids: Sequence[str], *, limit: int = MAX_HISTORY) -> Mapping[str, tuple[Interaction, ...]]:
        """The newest ``limit`` interactions of each user, oldest first, those of one time by item_id; users without any have ``()``."""

    def forget_user(self, user_id: str, author: Author) -> int:
        """Delete the user's interactions, leave a tombstone for the memory; returns how many there were. Again: 0, a newer tombstone."""

    def forgotten_users(self) -> Sequence[ForgottenUser]:
        """Tombstones, in order of time: whose interactions and histories must not be shown, wherever they still stand."""

    def edit_items(self, edits: Sequence[CatalogueEdit], author: Author) -> Sequence[EditedItem]:
        """All of them in order, or none; returns each edited item once, as it is now. An edit that changes nothing keeps the number.

        Raises RequestError (field ``item_id``) where a deleted item is patched.
        """

    def edited_items(self, *, after: int = 0) -> Sequence[EditedItem]:
        """Items whose last edit has a greater number, in order of number: what a catalogue of memory version 0 must be changed by."""

    def pending(self, *, max_interactions: int) -> PendingWork:
        """What the memory does not have; all users and edits, and the oldest interactions."""

    def mark_in_memory(self, work: PendingWork, memory_version: int) -> None:
        """This work is in the memory from this version on. What has been edited or forgotten again meanwhile stays pending."""

    def mark_rolled_back(self, memory_version: int) -> None:
        """The memory was rolled back to this version: what newer ones had is pending again."""

    def finish_forgetting(self, oldest_memory_version: int) -> int:
        """Drop tombstones of users whom this version and all newer ones have forgotten, once storage holds none older and no older index
        is served; returns how many."""

    def backlog(self) -> Backlog:
        """How much is pending."""

    def add_key(self, key: ApiKey, author: Author) -> None:
        """RequestError (field ``key_id``) where the id is taken."""

    def find_key(self, key_id: str) -> ApiKey | None:
        """The key, also a revoked one."""

    def list_keys(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""

    def revoke_key(self, key_id: str, author: Author) -> bool:
        """Refuse the key from now on; False where there is no such key or it was revoked before."""

    def settings(self) -> Mapping[str, str]:
        """What an operator has set for all replicas at once (the served version, experiments), by name; values are JSON."""

    def write_setting(self, name: str, value: str | None, author: Author) -> None:
        """Set, or with None remove."""

    def audit_entries(self, *, limit: int, before: int | None = None) -> Sequence[AuditEntry]:
        """The newest writes, newest first; with ``before`` those with smaller numbers."""

    def user_subject(self, user_id: str) -> str:
        """How the audit log names this user: a hash under a key that only this store has."""

    def close(self) -> None:
        """Let go of the database. Nothing is lost without it."""
