"""What the store holds: immutable records that check themselves, so that every database is given only what each of them can keep.

A record that cannot be stored raises RequestError with the name of its field; who takes it out of a longer request puts the path before
it. Text must be UTF-8 without NUL (PostgreSQL keeps none), ids at most MAX_ID_BYTES long (what its indexes hold), times Unix seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from l2d_ray.errors import RequestError

MAX_ID_BYTES: Final = 1000
"""Bytes of an id in UTF-8. Two of them and a time fit one index row of PostgreSQL (2,704 bytes)."""

MAX_TEXT_BYTES: Final = 1_000_000
"""Bytes of a title, of an item's attributes as JSON, or of a setting."""

MAX_TIMESTAMP: Final = 253_402_300_799
"""The last second of the year 9999; milliseconds of our days lie beyond it."""

Scope = Literal["read", "write", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("read", "write", "admin")

Action = Literal["add_interactions", "edit_items", "forget_user", "add_key", "revoke_key", "write_setting"]


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes: the id of the API key (None: access control is off, or a job) and of the request."""

    key_id: str | None
    request_id: str

    def __post_init__(self) -> None:
        check_id("request_id", self.request_id)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One event: a user met an item at a time (Unix seconds).

    ``event_id`` is the caller's and makes sending again harmless. An interaction is known by its user, item and time, as it is in the
    memory: a second event of the same three changes nothing either.
    """

    event_id: str
    user_id: str
    item_id: str
    timestamp: int

    def __post_init__(self) -> None:
        for name in ("event_id", "user_id", "item_id"):
            check_id(name, getattr(self, name))
        if not 0 <= self.timestamp <= MAX_TIMESTAMP:
            raise RequestError("timestamp", f"The time {self.timestamp} is not in Unix seconds from 1970 to 9999; is it in milliseconds?")


@dataclass(frozen=True, slots=True)
class PendingInteraction:
    """An interaction that the memory does not have yet, with its number in the store and when it was acknowledged (Unix seconds)."""

    number: int
    interaction: Interaction
    accepted_at: float


@dataclass(frozen=True, slots=True)
class AddedInteractions:
    """How many of a batch are new, and how many the store had already."""

    num_added: int
    num_known: int


@dataclass(frozen=True, slots=True)
class CatalogueEdit:
    """A change of one item, over whatever catalogue the service has.

    put     the item has this title and these attributes;
    patch   its title changes where one is given, the attributes named get the values given; the value None removes one;
    delete  there is no such item.
    """

    kind: Literal["put", "patch", "delete"]
    item_id: str
    title: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id("item_id", self.item_id)
        if self.kind == "put" and self.title is None:
            raise RequestError("title", f"The item {self.item_id!r} is put without a title; give one, or patch the item.")
        if self.kind == "delete" and (self.title is not None or self.attributes):
            raise RequestError("title", f"The item {self.item_id!r} is deleted and given a title or attributes; delete or put it.")
        if self.title is not None:
            check_text("title", self.title, MAX_TEXT_BYTES)
        check_text("attributes", attributes_json(self.attributes), MAX_TEXT_BYTES)

    def after(self, earlier: CatalogueEdit | None) -> CatalogueEdit:
        """The one edit that does what ``earlier`` and then this one do; RequestError where a deleted item is patched."""
        if earlier is None or self.kind != "patch":
            return self
        if earlier.kind == "delete":
            raise RequestError("item_id", f"The item {self.item_id!r} was deleted, so it cannot be patched; put it.")
        attributes = {**earlier.attributes, **self.attributes}
        return CatalogueEdit(earlier.kind, self.item_id, earlier.title if self.title is None else self.title, attributes)

    def apply(self, item: tuple[str, Mapping[str, Any]] | None) -> tuple[str, Mapping[str, Any]] | None:
        """Title and attributes after the edit; None where there is no such item, which a patch does not make."""
        if self.kind == "delete" or (self.kind == "patch" and item is None):
            return None
        title, attributes = item if item is not None and self.kind == "patch" else (self.title or "", {})
        changed = {**attributes, **self.attributes}
        return (title if self.title is None else self.title, {name: value for name, value in changed.items() if value is not None})


@dataclass(frozen=True, slots=True)
class EditedItem:
    """All edits of one item as one, the number of the last of them, and the memory version that has it (None: none yet).

    Numbers ascend in the order in which edits became visible, so that a reader who asks for those after the last it saw misses none.
    """

    edit: CatalogueEdit
    number: int
    memory_version: int | None


@dataclass(frozen=True, slots=True)
class ForgottenUser:
    """A user whose data must be gone: the tombstone stays until no memory version that had it is left.

    ``memory_version`` is the first that has forgotten the user; None: none yet.
    """

    user_id: str
    number: int
    forgotten_at: float
    memory_version: int | None


@dataclass(frozen=True, slots=True)
class PendingWork:
    """What the memory does not have yet, read at one moment. To be done in this order: forget, edit, append.

    An interaction of a forgotten user that stands here came after the user was forgotten. Interactions are in order of acknowledgement.
    """

    forgotten: tuple[ForgottenUser, ...]
    edits: tuple[EditedItem, ...]
    interactions: tuple[PendingInteraction, ...]

    def __bool__(self) -> bool:
        return bool(self.forgotten or self.edits or self.interactions)


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits for the memory; ``oldest_at`` (Unix seconds) is when the oldest waiting interaction was acknowledged."""

    num_interactions: int
    num_edits: int
    num_forgotten: int
    oldest_at: float | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: never its secret, only the salted hash.

    Attributes:
        requests_per_s, burst: the token bucket of this key: what it is refilled with, and how much it holds.
        expires_at, revoked_at: Unix seconds from which the key is refused; None: never.
    """

    key_id: str
    name: str
    scopes: frozenset[Scope]
    salt: bytes
    digest: bytes
    requests_per_s: float
    burst: int
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def __post_init__(self) -> None:
        check_id("key_id", self.key_id)
        check_id("name", self.name)
        if not self.scopes or not self.scopes <= set(SCOPES):
            raise RequestError("scopes", f"The scopes {sorted(self.scopes)} are not some of {', '.join(SCOPES)}; name at least one.")
        if not self.requests_per_s > 0 or self.burst < 1:
            raise RequestError(
                "requests_per_s", "A key needs requests_per_s above 0 and burst of 1 or more; revoke one that may do nothing."
            )

    def is_valid(self, now: float) -> bool:
        """Whether it is neither revoked nor expired at a time (Unix seconds)."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One committed write. ``subject`` is the id of the item, key or setting written, or a keyed hash of a user_id; ``count`` the rows."""

    number: int
    at: float
    action: Action
    key_id: str | None
    request_id: str
    subject: str | None
    count: int


def attributes_json(attributes: Mapping[str, Any]) -> str:
    """Attributes as canonical JSON; RequestError where they are not JSON (NaN, objects)."""
    try:
        return json.dumps(dict(attributes), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError("attributes", f"The attributes are no JSON ({error}); give text, numbers, booleans and lists of them.") from None


def check_text(name: str, text: str, max_bytes: int) -> None:
    """RequestError naming the field where a database cannot keep the text."""
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise RequestError(name, f"The {name} holds half a surrogate pair, which is no Unicode text; send valid UTF-8.") from None
    if "\0" in text:
        raise RequestError(name, f"The {name} holds a NUL character; leave it out.")
    if num_bytes > max_bytes:
        raise RequestError(name, f"The {name} takes {num_bytes} bytes, at most {max_bytes} are kept.")


def check_id(name: str, text: str) -> None:
    """RequestError naming the field where the text is no id."""
    check_text(name, text, MAX_ID_BYTES)
    if not text:
        raise RequestError(name, f"The {name} is empty; give at least one character.")
