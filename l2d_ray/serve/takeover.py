"""User histories of a memory into the state: what a build or a job has put into the memory, the service's users have met too.

The memory keeps sequences in files that hold many users; a request needs one user's at once. So the files that the state has not seen are
read, and their interactions added in blocks, each in one transaction; cut off, the next run goes on, since the same interaction twice
changes nothing. Those without a time get their position for one: they come before everything with a real one, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from l2d_ray.memory.sequences import load_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.schema import sample_id_of
from l2d_ray.store.interface import StateStore
from l2d_ray.store.records import Author, Interaction

SETTING: Final = "histories"
"""Names the memory and those of its files whose histories the state has."""
BLOCK: Final = 5_000
AUTHOR: Final = Author(None, "takeover")
FIRST_VERSION: Final = 1
"""Taken-over interactions count as every version's: going back in the memory must not make them wait for it."""


def take_over_histories(store: StateStore, memory: Memory) -> int:
    """Returns how many interactions were new to the state. Users who wait to be forgotten by the memory are left out."""
    fresh = [name for name in memory.state.sequences if name not in _seen_files(store, memory)]
    interactions = _interactions(memory, fresh, forgotten={user.user_id for user in store.forgotten_users()})
    num_added = 0
    while block := list(islice(interactions, BLOCK)):
        num_added += store.add_interactions(block, AUTHOR, memory_version=FIRST_VERSION).num_added
    if fresh:
        note_histories(store, memory)
    return num_added


def note_histories(store: StateStore, memory: Memory) -> None:
    """The state has all histories of this memory: what it put there itself need not be read."""
    store.write_setting(SETTING, json.dumps({"uri": memory.uri, "files": list(memory.state.sequences)}), AUTHOR)


def _seen_files(store: StateStore, memory: Memory) -> set[str]:
    seen = json.loads(store.settings().get(SETTING, "{}"))
    return set(seen["files"]) if seen.get("uri") == memory.uri else set()


def _interactions(memory: Memory, names: Sequence[str], *, forgotten: set[str]) -> Iterator[Interaction]:
    """Of every user's latest sequence, which stands in the last file that names the user."""
    done = set(forgotten)
    for name in reversed(names):
        sequences = load_sequences(memory.uri, [name])
        for user_id, sequence in sequences.items():
            for position, item_id in enumerate(sequence.item_ids if user_id not in done else ()):
                timestamp = sequence.timestamps[position]
                event_id = f"memory-{sample_id_of(user_id, item_id, timestamp=timestamp, position=position):016x}"
                yield Interaction(event_id, user_id, item_id, position if timestamp is None else timestamp)
        done |= sequences.keys()
