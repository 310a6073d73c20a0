"""What is looked up and written beside recommendations: items, interactions, users, versions, the experiment, status. Knows no Ray.

A write is answered once the store has it on disk, and the next request of anybody sees it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from l2d_ray.data.titles import clean_title
from l2d_ray.errors import RequestError
from l2d_ray.serve.backend import ServedVersions
from l2d_ray.serve.logic import RecommendationLogic
from l2d_ray.serve.plans import fields_below
from l2d_ray.serve.service import Recommender, index_of
from l2d_ray.serve.state_messages import (
    BacklogStatus,
    Experiment,
    ForgottenAnswer,
    FoundItems,
    InteractionEvent,
    InteractionsAnswer,
    Item,
    ItemPatch,
    NewItem,
    ServiceStatus,
    ShardStatus,
    VersionsAnswer,
)
from l2d_ray.store.records import Author, Backlog, CatalogueEdit, Interaction


class Management:
    """Over the recommender whose answers it changes."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._backend = recommender.backend
        self._state = recommender.state

    async def find_items(self, query: str, *, limit: int, offset: int) -> FoundItems:
        """Items whose titles match; see ``catalogue_search``."""
        logic = await self._recommender.current()
        edits = await self._recommender.off_loop(logic.catalogue.changed_titles)
        found = await asyncio.to_thread(lambda: logic.title_search.find(query, edits))
        page = found.item_indexes[offset : offset + limit]
        items = await self._recommender.off_loop(lambda: [logic.catalogue.item(index) for index in page])
        return FoundItems(items=items, num_found=found.num_found)

    async def item(self, item_id: str) -> Item:
        """NotFoundError where there is none."""
        logic = await self._recommender.current()
        return await self._recommender.off_loop(lambda: logic.catalogue.item(index_of(logic, item_id)))

    async def put_item(self, item_id: str, item: NewItem, author: Author) -> Item:
        """Make or replace an item; it can be recommended from now on."""
        edit = CatalogueEdit("put", item_id, _readable(item.title), item.attributes)
        await self._state.write(lambda store: store.edit_items([edit], author))
        return await self.item(item_id)

    async def patch_item(self, item_id: str, patch: ItemPatch, author: Author) -> Item:
        await self.item(item_id)
        title = None if patch.title is None else _readable(patch.title)
        edit = CatalogueEdit("patch", item_id, title, patch.attributes)
        await self._state.write(lambda store: store.edit_items([edit], author))
        return await self.item(item_id)

    async def delete_item(self, item_id: str, author: Author) -> None:
        """It is recommended no more; histories may still hold it."""
        await self.item(item_id)
        edit = CatalogueEdit("delete", item_id)
        await self._state.write(lambda store: store.edit_items([edit], author))

    async def add_interactions(self, events: Sequence[InteractionEvent], author: Author) -> InteractionsAnswer:
        """Returns once all are durable; RequestError names the event that cannot be stored, and then none is."""
        logic = await self._recommender.current()
        interactions = await self._recommender.off_loop(_read_events, logic, events)
        added = await self._state.write(lambda store: store.add_interactions(interactions, author))
        return InteractionsAnswer(num_added=added.num_added, num_known=added.num_known)

    async def forget_user(self, user_id: str, author: Author) -> ForgottenAnswer:
        return ForgottenAnswer(num_interactions=await self._state.write(lambda store: store.forget_user(user_id, author)))

    async def versions(self) -> VersionsAnswer:
        return _told(await self._backend.versions())

    async def activate(self, version: int | None) -> VersionsAnswer:
        """RequestError where the version is not served."""
        return _told(await self._backend.activate(version))

    async def experiment(self) -> Experiment | None:
        return await self._state.experiment()

    async def set_experiment(self, experiment: Experiment | None, author: Author) -> Experiment | None:
        """RequestError where an arm names a decoder or a version that is not served."""
        for position, arm in enumerate(experiment.arms if experiment else ()):
            logic, versions = await self._recommender.current(), await self._backend.versions()
            with fields_below(f"arms.{position}."):
                logic.check_decoder(arm.decoder)
                _check_version(arm.memory_version, versions)
        await self._state.set_experiment(experiment, author)
        return experiment

    async def status(self) -> ServiceStatus:
        """What is served, by the shards that answer."""
        logic, versions = await self._recommender.current(), await self._backend.versions()
        manifest, holdings = logic.manifest, await self._backend.holdings(logic.manifest.memory_version)
        shards = [
            ShardStatus(
                shard=shard,
                num_entries=held.num_entries,
                num_items=held.num_items,
                statistics_bytes=held.statistics_bytes,
                entries_bytes=manifest.entries_bytes[shard] if held.has_entries else 0,
            )
            for shard, held in sorted(holdings.items())
        ]
        return ServiceStatus(
            status="complete" if len(shards) == manifest.num_shards else "partial",
            memory_version=manifest.memory_version,
            model_fingerprint=manifest.fingerprint,
            index_kind=manifest.kind,
            decoders=list(logic.decoders),
            default_decoder=logic.settings.decoder,
            num_items=await self._recommender.off_loop(lambda: logic.catalogue.num_items),
            shards=shards,
            shards_total=manifest.num_shards,
            statistics_bytes=sum(shard.statistics_bytes for shard in shards),
            entries_bytes=sum(shard.entries_bytes for shard in shards),
            versions=_told(versions),
            backlog=_waiting(await self._state.write(lambda store: store.backlog())) if self._state.is_kept else None,
        )


def _readable(title: str) -> str:
    cleaned = clean_title(title)
    if not cleaned:
        raise RequestError("title", f"Nothing is left of the title {title!a} once it is cleaned; give readable text.")
    return cleaned


def _read_events(logic: RecommendationLogic, events: Sequence[InteractionEvent]) -> list[Interaction]:
    interactions = []
    for position, event in enumerate(events):
        with fields_below(f"events.{position}."):
            if logic.catalogue.find(event.item_id) is None:
                raise RequestError("item_id", f"There is no item {event.item_id!r} in the catalogue; put it first.")
            interactions.append(Interaction(event.event_id, event.user_id, event.item_id, event.timestamp))
    return interactions


def _check_version(version: int | None, versions: ServedVersions) -> None:
    if version is not None and version not in versions.versions:
        raise RequestError("memory_version", f"Version {version} is not served; name one of {', '.join(map(str, versions.versions))}.")


def _told(versions: ServedVersions) -> VersionsAnswer:
    return VersionsAnswer(versions=list(versions.versions), current=versions.current, is_pinned=versions.is_pinned)


def _waiting(backlog: Backlog) -> BacklogStatus:
    return BacklogStatus(
        num_interactions=backlog.num_interactions,
        num_edits=backlog.num_edits,
        num_forgotten=backlog.num_forgotten,
        oldest_age_s=None if backlog.oldest_at is None else max(0.0, time.time() - backlog.oldest_at),
    )
