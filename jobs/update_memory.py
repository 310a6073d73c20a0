"""Changes a memory that is there: appends interactions, forgets users, retires or renames items, lets entries expire or decay, compacts.

    python -m jobs.update_memory --config jobs/configs/quickstart.yaml update.interactions=new.csv update.items=new_items.csv
    python -m jobs.update_memory --config jobs/configs/quickstart.yaml 'update.forget_users=[42]' update.compact=true update.clean_up_days=0
    ray job submit --working-dir . -- python -m jobs.update_memory --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one ...

Needs jobs.build_memory. Every change is one atomic version of the memory; sending one again changes nothing; where another writer is first,
a change is made again from the newest version. Only the tails of the users concerned are encoded. Run jobs.build_index afterwards: it
extends the index by what changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig, UpdateConfig
from l2d_ray.data.sequences import UserSequence
from l2d_ray.data.sources.files import TABLE_SUFFIXES, list_files
from l2d_ray.data.sources.table import read_interactions, read_items
from l2d_ray.errors import ConfigError, DataError
from l2d_ray.memory.append import Append, Event, with_new_items
from l2d_ray.memory.compaction import clean_up, compact
from l2d_ray.memory.entries import NOTHING_WRITTEN, WrittenEntries
from l2d_ray.memory.on_ray import encode_tails
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import Change, expire_before, forget_users, rename_items, retire_items, retried, set_half_life
from l2d_ray.model.loading import read_metadata, resolve_device
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import SECONDS_PER_DAY


def main(config: RunConfig) -> dict[str, Any]:
    started = time.monotonic()
    if config.update == UpdateConfig():
        raise ConfigError("No change of the memory was asked for; give one, such as update.interactions=FILE or update.compact=true.")
    memory = Memory.open(config.memory_uri, fingerprint=read_metadata(config.checkpoint_dir)["fingerprint"])
    version_before = memory.version
    for change in changes_of(config):
        memory = retried(change, memory)
    made = [entry for entry in memory.history() if entry.version > version_before]
    deleted = _clean_up(memory, config.update)
    return {
        "job": "update_memory",
        "memory_uri": config.memory_uri,
        "version_before": version_before,
        "version": memory.version,
        "num_entries": len(memory),
        "changes": [{"version": entry.version, "kind": entry.state.kind, "message": entry.state.message} for entry in made],
        "clean_up": deleted,
        "update_s": round(time.monotonic() - started, 2),
    }


def changes_of(config: RunConfig) -> list[Change]:
    """The changes that the settings ask for, in order."""
    settings = config.update
    found: list[Change] = []
    if settings.interactions or settings.items:
        found.append(_append(config))
    if settings.forget_users:
        found.append(partial(forget_users, user_ids=settings.forget_users))
    if settings.retire_items:
        found.append(partial(retire_items, item_ids=settings.retire_items))
    if settings.rename_items:
        found.append(partial(rename_items, item_id_to_title=settings.rename_items))
    if settings.expire_before is not None:
        found.append(partial(expire_before, timestamp=settings.expire_before))
    if settings.half_life_days is not None:
        half_life_s = round(settings.half_life_days * SECONDS_PER_DAY) or None
        found.append(partial(set_half_life, half_life_s=half_life_s, reference_time=settings.reference_time))
    if settings.compact:
        found.append(compact)
    return found


def _append(config: RunConfig) -> Append:
    settings = config.update
    events = read_events(settings.interactions) if settings.interactions else []
    files = list_files(settings.items, TABLE_SUFFIXES) if settings.items else ()
    items = [{"item_id": i.item_id, "title": i.title or "", "attributes": i.attributes} for path in files for i in read_items(path)]

    def encode(sequences: Sequence[UserSequence], left_out: frozenset[int]) -> WrittenEntries:
        if not sequences:
            return NOTHING_WRITTEN
        memory = Memory.open(config.memory_uri)
        spec = EncoderSpec(str(config.checkpoint_dir), resolve_device(config.device), config.memory.batch_tokens)
        with connect(config.ray.address, config.ray.num_cpus):
            return encode_tails(
                memory,
                sequences,
                left_out,
                catalogue=with_new_items(memory, items),
                staging_dir=config.run_dir,
                spec=spec,
                num_workers=config.memory.num_workers,
            )

    return Append(events, items, encode)


def read_events(location: str) -> list[Event]:
    """Interactions of a file or folder; DataError where one has no time, which is what tells it from a repeat."""
    tables = [table for path in list_files(location, TABLE_SUFFIXES) for table in read_interactions(path)]
    table = pa.concat_tables(tables)
    if table["timestamp"].null_count:
        raise DataError(f"{location} has no timestamps: without a time a new interaction cannot be told from one that is there; add them.")
    columns = (table[name].to_pylist() for name in ("user_id", "timestamp", "item_id"))
    return [Event(*row) for row in zip(*columns, strict=True)]


def _clean_up(memory: Memory, settings: UpdateConfig) -> dict[str, Any] | None:
    if settings.clean_up_days is None:
        return None
    older_than_s = settings.clean_up_days * SECONDS_PER_DAY
    return asdict(clean_up(memory, older_than_s=older_than_s, unfinished_too=settings.clean_up_unfinished))


if __name__ == "__main__":
    run(main, __doc__)
