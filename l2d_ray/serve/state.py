"""The durable state as the service sees it: asynchronous, and read once for all that a request needs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from l2d_ray.errors import RequestError, UnavailableError
from l2d_ray.serve.state_messages import Experiment
from l2d_ray.store.interface import StateStore
from l2d_ray.store.records import Author, EditedItem

Result = TypeVar("Result")

EXPERIMENT: Final = "experiment"
"""Name of the setting that holds the running experiment."""
SETTINGS_TTL_S: Final = 1.0


@dataclass(frozen=True)
class Snapshot:
    """What the store says at one moment: edits after a number, and users' items, oldest first."""

    edits: Sequence[EditedItem]
    histories: Mapping[str, tuple[str, ...]]


class State:
    """Over a store, or over nothing: then there are no users, and nothing can be written."""

    def __init__(self, store: StateStore | None) -> None:
        self._store = store
        self._experiment: Experiment | None = None
        self._experiment_read_at = float("-inf")

    @property
    def is_kept(self) -> bool:
        return self._store is not None

    async def snapshot(self, user_ids: Sequence[str], *, after: int) -> Snapshot:
        """RequestError where there are user_ids and no store."""
        if self._store is None:
            if user_ids:
                raise RequestError("user_id", "This deployment keeps no users (it was given no state_url); send the history instead.")
            return Snapshot((), {})
        return await asyncio.to_thread(_read, self._store, tuple(user_ids), after)

    async def experiment(self) -> Experiment | None:
        """The running experiment, as it was at most SETTINGS_TTL_S ago."""
        if self._store is not None and time.monotonic() - self._experiment_read_at > SETTINGS_TTL_S:
            self._experiment_read_at = time.monotonic()
            self._experiment = _experiment_in(await asyncio.to_thread(self._store.settings))
        return self._experiment

    async def forgotten_users(self) -> frozenset[str]:
        """Users whose histories must not be shown."""
        if self._store is None:
            return frozenset()
        return frozenset(user.user_id for user in await asyncio.to_thread(self._store.forgotten_users))

    async def set_experiment(self, experiment: Experiment | None, author: Author) -> None:
        text = None if experiment is None else experiment.model_dump_json()
        await self.write(lambda store: store.write_setting(EXPERIMENT, text, author))
        self._experiment, self._experiment_read_at = experiment, time.monotonic()

    async def write(self, work: Callable[[StateStore], Result]) -> Result:
        """Do something with the store in a thread; UnavailableError where there is none."""
        store = self._store
        if store is None:
            raise UnavailableError("This deployment keeps no state; deploy it with a state_url to write items, interactions and settings.")
        return await asyncio.to_thread(work, store)


def _read(store: StateStore, user_ids: tuple[str, ...], after: int) -> Snapshot:
    histories = store.histories(user_ids) if user_ids else {}
    items = {user_id: tuple(interaction.item_id for interaction in history) for user_id, history in histories.items()}
    return Snapshot(store.edited_items(after=after), items)


def _experiment_in(settings: Mapping[str, str]) -> Experiment | None:
    """None also where a newer release has written what this one cannot read."""
    text = settings.get(EXPERIMENT)
    if text is None:
        return None
    try:
        return Experiment.model_validate(json.loads(text))
    except (ValueError, ValidationError):
        return None
