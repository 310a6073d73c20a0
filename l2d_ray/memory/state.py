"""What a version of the memory says of itself, beside its rows: one small JSON document that is committed with them, atomically.

Each version's document is whole: a reader of version V needs no other version, and old versions can be cleaned away.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import groupby
from typing import Any

PROPERTY = "l2d_ray"
"""Name of the document among the properties of a Lance transaction."""


@dataclass(frozen=True)
class BuildRecord:
    """Who built the memory, from which samples, how long. ``seconds`` adds up over interrupted runs."""

    built_by: str
    data_name: str
    data_hash: str
    num_parts: int
    started_at: str
    finished_at: str
    seconds: float
    num_workers: int


@dataclass(frozen=True)
class MemoryState:
    """One version.

    Attributes:
        kind: what made this version: create, build, append, forget, retire, rename, put, expire, decay, compact or rollback.
        message: one line for people; never a user's id.
        num_entries: live rows.
        digest: sum of the live rows' checksums, modulo 2^64.
        parts: parts of the prepared data that were committed; the identity that makes a build exactly once.
        tails: files of rows, each with the hash of its metadata (``tails.py``).
        items: files of the catalogue, later rows replace earlier ones of the same item.
        sequences: files of user sequences, later rows replace earlier ones of the same user.
        half_life_s: entries' weight in decayed counts halves in this many seconds; None: every entry counts one.
        reference_time: Unix seconds that decayed counts refer to.
        build: what the memory was built from.
    """

    kind: str
    message: str
    created_at: str
    created_by: str
    num_entries: int = 0
    digest: int = 0
    parts: tuple[int, ...] = ()
    tails: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    half_life_s: int | None = None
    reference_time: int = 0
    build: BuildRecord | None = None

    def next(self, kind: str, message: str, **changes: Any) -> MemoryState:
        """The state after a change, made here and now."""
        return replace(self, kind=kind, message=message, created_at=now(), created_by=author(), **changes)

    def to_json(self) -> str:
        """One JSON object with its own hash."""
        fields = asdict(self) | {"parts": _to_ranges(self.parts), "digest": f"{self.digest:016x}"}
        return seal(fields)

    @classmethod
    def from_json(cls, text: str) -> MemoryState:
        """Raises ValueError where the text is not what ``to_json`` wrote."""
        fields = unseal(text)
        if fields.keys() != {field.name for field in dataclass_fields(cls)}:
            raise ValueError("its description of the memory has other fields than this release writes")
        build = fields["build"] and BuildRecord(**fields["build"])
        lists = {name: tuple(fields[name]) for name in ("tails", "items", "sequences")}
        return cls(**(fields | lists | {"parts": _from_ranges(fields["parts"]), "digest": int(fields["digest"], 16), "build": build}))


def seal(fields: dict[str, Any]) -> str:
    """One JSON object with its own hash."""
    return json.dumps({"fields": fields, "hash": _hash(fields)}, separators=(",", ":"))


def unseal(text: str) -> dict[str, Any]:
    """What was sealed; ValueError where the text is not what ``seal`` wrote."""
    try:
        document = json.loads(text)
        fields: dict[str, Any] = document["fields"]
        is_whole = document["hash"] == _hash(fields)
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise ValueError("its description of the memory differs from its own hash")
    return fields


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def author() -> str:
    """Who runs this process, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _hash(fields: dict[str, Any]) -> str:
    return blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=8).hexdigest()


def _to_ranges(numbers: Iterable[int]) -> str:
    """``0-9,12``: thousands of parts in a few characters."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0][1]}-{run[-1][1]}" for run in runs)


def _from_ranges(text: str) -> tuple[int, ...]:
    bounds = [run.split("-") for run in text.split(",") if run]
    return tuple(number for first, last in bounds for number in range(int(first), int(last) + 1))
