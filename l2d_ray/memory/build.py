"""Commits of a build: which encoded parts become a version together, each once, whoever else commits. Knows no Ray; its twin is ``on_ray``.

Exactly once: a version names the parts that it holds, and the rows of a part and its name are committed together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from l2d_ray.data.sequences import part_number
from l2d_ray.errors import ArtefactError, ConflictError
from l2d_ray.memory.entries import NOTHING_WRITTEN, WrittenEntries
from l2d_ray.memory.state import BuildRecord
from l2d_ray.memory.table import Memory

PARTS_PER_COMMIT: Final = 1 / 64
"""Parts that wait for one commit, as a share of those that are committed: so much work at most is done again after a crash, and 20,000
parts take 440 versions instead of 20,000."""

CrashPoint = Callable[[str, int], object]
"""Called with a point and a part's number: ``before-write`` and ``after-write`` in the actor, ``before-commit`` and ``after-commit`` in the
driver. Tests die in it; so it must travel to actors."""


def nowhere(point: str, part: int) -> None:
    """No crash."""


@dataclass(frozen=True)
class EncodedPart:
    """A part whose rows and user sequences are in storage, uncommitted."""

    number: int
    written: WrittenEntries
    sequences: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> EncodedPart:
        return cls(part_number(Path(row["path"])), WrittenEntries(**row["written"]), row["sequences"])


def commit_groups(parts: Iterable[EncodedPart], num_committed: int) -> Iterator[list[EncodedPart]]:
    """Parts as they are committed together, in their order."""
    group: list[EncodedPart] = []
    for part in parts:
        group.append(part)
        if len(group) >= num_committed * PARTS_PER_COMMIT:
            yield group
            num_committed, group = num_committed + len(group), []
    if group:
        yield group


def commit_parts(memory: Memory, group: Sequence[EncodedPart], record: BuildRecord, crash_point: CrashPoint = nowhere) -> Memory:
    """Commit every part once, whoever else commits at the same time."""
    while True:
        missing = [part for part in group if part.number not in memory.state.parts]
        if not missing:
            return memory
        refuse_living(memory)
        for part in missing:
            crash_point("before-commit", part.number)
        state, written = memory.state, sum((part.written for part in missing), start=NOTHING_WRITTEN)
        changes = {
            "parts": (*state.parts, *(part.number for part in missing)),
            "sequences": (*state.sequences, *(part.sequences for part in missing)),
            "build": record,
        }
        message = f"build {', '.join(f'part-{part.number:05d}' for part in missing[:3])}{' ...' if len(missing) > 3 else ''}"
        try:
            memory = memory.append(written, kind="build", message=message, **changes)
        except ConflictError:
            memory = Memory.open(memory.uri, fingerprint=memory.fingerprint)
        else:
            for part in missing:
                crash_point("after-commit", part.number)
            return memory


def refuse_living(memory: Memory) -> None:
    """Raise ArtefactError where interactions were appended to a memory that no build has begun."""
    if memory.state.build is None and memory.state.sequences:
        raise ArtefactError(
            f"The memory at {memory.uri} was made by jobs.update_memory (version {memory.version}: {memory.state.message}), so a "
            "build could add samples that it has; build in another place, or append what is missing."
        )
