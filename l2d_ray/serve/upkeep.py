"""Brings what was written to the state into the memory and the index: the living memory behind a service. Knows no Ray.

    state: forgotten users, edits, interactions  ->  one or a few versions of the memory  ->  the next generation of the index

A round may be cut off anywhere, by ``kill -9`` too, and made again: appends know their interactions, edits and removals change nothing the
second time, and work is marked as done only once the memory has committed it. Nothing acknowledged is lost, nothing doubled (tested).
One process does this for an application; of two, each version has one writer, and the other starts again from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.sequences import UserSequence
from l2d_ray.errors import ArtefactError
from l2d_ray.index.layout import generations, only_builder, open_index, remove_generations
from l2d_ray.index.plan import IndexOptions, finish_index, make_shard, plan_index
from l2d_ray.memory.append import Append, Event
from l2d_ray.memory.compaction import clean_up, compact
from l2d_ray.memory.entries import NOTHING_WRITTEN, WrittenEntries, entries_table
from l2d_ray.memory.items import ItemContent, known_items, put_items
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import Change, forget_users, retire_items, retried
from l2d_ray.schema import VALID
from l2d_ray.serve.takeover import note_histories, take_over_histories
from l2d_ray.store.interface import StateStore
from l2d_ray.store.records import EditedItem, PendingWork
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import PromptFormat, TokenIds, TokenWindow, title_prompts, tokenize_titles

logger = logging.getLogger(__name__)

MAX_INTERACTIONS: Final = 20_000
"""Of one round; the next round takes the rest."""


@dataclass(frozen=True)
class TextEncoder:
    """The memory's model, wherever it runs.

    Attributes:
        windows: every state of every window, windows in order, states ascending, (n, d) float32.
        prompts: the state of each prompt's last token, (n, d) float32.
    """

    windows: Callable[[Sequence[TokenWindow]], NDArray[np.float32]]
    prompts: Callable[[Sequence[TokenIds]], NDArray[np.float32]]


@dataclass(frozen=True)
class Writing:
    """How titles become tokens, as the memory's model has it."""

    tokenizer: Any
    prompts: PromptFormat
    max_title_tokens: int

    def titles(self, titles: Sequence[str]) -> list[TokenIds]:
        return tokenize_titles(self.tokenizer, titles, self.max_title_tokens)


class Upkeep:
    """See the module.

    Args:
        num_previous: generations of the index that stay beside the newest, for going back.
    """

    def __init__(
        self,
        store: StateStore,
        memory_uri: str,
        index_dir: Path,
        *,
        writing: Writing,
        encoder: TextEncoder,
        num_previous: int,
    ) -> None:
        self._store = store
        self._memory_uri = memory_uri
        self._index_dir = index_dir
        self._writing = writing
        self._encoder = encoder
        self._num_previous = num_previous

    def round(self) -> int | None:
        """Do what is pending; returns the memory version that the index now is of, None where there was nothing to do.

        Before that the state takes over what others (a build, jobs.update_memory) have put into the memory: histories of users.
        """
        newest = open_index(self._index_dir).manifest
        memory = Memory.open(self._memory_uri, fingerprint=newest.fingerprint)
        if memory.version < newest.memory_version:
            raise ArtefactError(
                f"The index at {self._index_dir} is of memory version {newest.memory_version}, the memory at {memory.uri} has only come to "
                f"{memory.version}, so it is another one; correct memory_uri, or run jobs.build_index."
            )
        take_over_histories(self._store, memory)
        work = self._store.pending(max_interactions=MAX_INTERACTIONS)
        if work:
            memory = self._into_memory(memory, work)
            self._store.mark_in_memory(work, memory.version)
            note_histories(self._store, memory)
        must_forget = bool(self._store.forgotten_users())
        is_newer = memory.version > newest.memory_version
        if is_newer:
            self._into_index(memory, num_previous=0 if must_forget else self._num_previous)
        if must_forget:
            self._forget_old_versions(memory)
        return memory.version if is_newer else None

    def _into_memory(self, memory: Memory, work: PendingWork) -> Memory:
        """Forget, edit, append, in this order; after forgetting the files are written anew without the users."""
        put, deleted = _edited(memory, work.edits)
        changes: list[Change] = []
        if work.forgotten:
            changes.append(partial(forget_users, user_ids=[user.user_id for user in work.forgotten]))
        changes.append(partial(put_items, items=put))
        for change in changes:
            memory = retried(change, memory)
        known = set(memory.items["item_id"].to_pylist())
        memory = retried(partial(retire_items, item_ids=deleted & known), memory)
        events = [Event(p.interaction.user_id, p.interaction.timestamp, p.interaction.item_id) for p in work.interactions]
        unknown = {event.item_id for event in events} - known
        if unknown:
            logger.warning(
                "%d items of interactions are not in the memory, for example %s; these are left out.", len(unknown), min(unknown)
            )
        memory = retried(Append([event for event in events if event.item_id not in unknown], (), partial(self._encode, memory)), memory)
        return retried(compact, memory) if work.forgotten else memory

    def _encode(self, memory: Memory, sequences: Sequence[UserSequence], left_out: frozenset[int]) -> WrittenEntries:
        """Rows of users' tails (``append.EncodeTails``)."""
        items = sorted({item_id for sequence in sequences for item_id in sequence.item_ids})
        catalogue = memory.catalogue
        titles = self._writing.titles([catalogue.titles[catalogue.item_id_to_index[item_id]] for item_id in items])
        found = harvest(sequences, VALID, item_id_to_title=dict(zip(items, titles, strict=True)), prompts=self._writing.prompts)
        kept = [row for row, target in enumerate(found.targets) if target.sample_id not in left_out]
        if not kept:
            return NOTHING_WRITTEN
        states = self._encoder.windows(found.windows)
        return memory.write(entries_table([found.targets[row] for row in kept], states[kept]))

    def _into_index(self, memory: Memory, *, num_previous: int) -> None:
        before = open_index(self._index_dir).manifest
        options = IndexOptions(kind=before.kind, num_previous=num_previous, has_pairs=before.has_pairs)
        with only_builder(self._index_dir):
            plan = plan_index(memory, before.num_shards, self._index_dir, options=options)
            shards = [make_shard(plan, shard) for shard in range(plan.num_shards)]
            finish_index(plan, memory, shards, encode_titles=self._title_states if before.has_titles else None)

    def _forget_old_versions(self, memory: Memory) -> None:
        """Delete what still holds forgotten users: older versions of the memory and of the index, except a pinned one."""
        remove_generations(self._index_dir, keep={open_index(self._index_dir).manifest.generation})
        clean_up(memory, older_than_s=0)
        self._store.finish_forgetting(self._oldest_version(memory))

    def _title_states(self, titles: Sequence[str]) -> NDArray[np.float16]:
        """(n, d): the state of a request whose history is the title alone."""
        return self._encoder.prompts(title_prompts(self._writing.titles(titles), self._writing.prompts)).astype(np.float16)

    def _oldest_version(self, memory: Memory) -> int:
        """The oldest memory version that anything can still be read from."""
        served = [open_index(self._index_dir, generation=name).manifest.memory_version for name in generations(self._index_dir)]
        return min([*served, *(entry.version for entry in memory.history())])


def _edited(memory: Memory, edits: Sequence[EditedItem]) -> tuple[dict[str, ItemContent], set[str]]:
    """Items as they are after their edits, and those that are deleted."""
    ids = {edited.edit.item_id for edited in edits}
    known = known_items(memory, ids)
    put, deleted = {}, set()
    for edited in edits:
        item_id = edited.edit.item_id
        before = known.get(item_id)
        after = edited.edit.apply(None if before is None else (before.title, before.attributes))
        if after is None:
            deleted.add(item_id)
        else:
            put[item_id] = ItemContent(*after)
    return put, deleted
