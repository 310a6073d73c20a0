"""Interactions -> samples on Ray: places the functions of ``staging`` and ``parts`` and adds up what they count.

Every step is one task a file, a partition or a run of parts; tasks hand data to each other through files in a scratch folder beside the
destination, which every node must see. The driver holds the catalogue, one count an item and a summary a partition, never an
interaction, so 10^9 interactions take the same driver as 10^5. Ray Data streams the files of interactions through those tasks; its own
readers are not used, since they do not tell a row's place in its file, which decides ties in time.

Results appear whole or not at all, and depend on data and settings alone: not on timing, the cluster, or the number of partitions.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayTaskError
from tqdm import tqdm

from l2d_ray.config import DataConfig
from l2d_ray.data.card import CARD_NAME, CardCounts, DataCard, make_card
from l2d_ray.data.interactions import FilterCounts, Filters
from l2d_ray.data.items import CleanItems, catalogue_of, clean_items, merge_items
from l2d_ray.data.k_core import core_items
from l2d_ray.data.parts import PartSettings, PartSummary, merge_summaries, plan_parts, write_parts
from l2d_ray.data.sources.amazon import open_amazon
from l2d_ray.data.sources.files import total_bytes
from l2d_ray.data.sources.movielens import open_movielens
from l2d_ray.data.sources.source import Source
from l2d_ray.data.sources.table import open_table
from l2d_ray.data.splits import GlobalCuts, SampleKey, cut_ranks, key_at_rank
from l2d_ray.data.staging import (
    PartitionSummary,
    count_core_items,
    count_hashes_below,
    count_times_below,
    group_partition,
    sample_keys_at,
    sort_partition,
    stage_file,
)
from l2d_ray.data.titles import TitleRule
from l2d_ray.data.whole import whole_folder
from l2d_ray.errors import ConfigError, DataError, L2DError

PARTITION_BYTES: Final = 64 << 20  # raw bytes a partition: about two million rows of CSV
PARTS_PER_TASK: Final = 32

T = TypeVar("T")


def prepare(config: DataConfig, destination: Path, *, num_partitions: int | None = None) -> DataCard:
    """Write items.parquet, sequences/part-NNNNN.parquet and card.json into ``destination``; Ray must be connected.

    Args:
        num_partitions: pieces of the work between start and end, chosen by the size of the input where None; never changes the result.

    Raises DataError or ConfigError for input that cannot be used; then nothing is left behind.
    """
    with whole_folder(destination.absolute(), marker=CARD_NAME) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        source = _open_source(config, scratch / "raw")
        items, num_items_without_title = _read_items(source, config)
        item_ids = items["item_id"].combine_chunks()
        core = _core_of_window(source, item_ids, config, scratch, num_partitions)
        staged, filtered = core.staged, core.filtered
        groups = list(staged.run(group_partition, "grouping by user", ray.put(core.item_is_alive), k=config.k_core))
        settings = PartSettings(_find_cuts(config, groups, staged, filtered), filtered.has_timestamps, config.history_length)
        summary = _write_parts(groups, staged, item_ids, settings, config.users_per_part, sequences_dir=folder / "sequences")
        catalogue = catalogue_of(items, core.item_is_alive)
        catalogue.write(folder / "items.parquet")
        card = make_card(
            CardCounts(filtered, core.num_duplicates, num_items_without_title, groups, summary),
            catalogue.titles,
            name=config.name,
            settings=core.config.model_dump(mode="json"),
        )
        (folder / CARD_NAME).write_text(card.to_json())
        shutil.rmtree(scratch)
    return card


@dataclass(frozen=True)
class Partitions:
    """The staged partitions in one folder; answers questions about all of them with one task each (a ``splits.SampleKeys``)."""

    folder: Path
    num_partitions: int

    def run(self, function: Callable[..., T], label: str, *arguments: Any, **settings: Any) -> Iterator[T]:
        """``function(folder, partition, *arguments, **settings)`` of every partition, in partition order."""
        return _run(function, label, [(self.folder, partition, *arguments) for partition in range(self.num_partitions)], settings)

    def count_times_below(self, edges: np.ndarray) -> np.ndarray:
        return sum(self.run(count_times_below, "cutting by time", ray.put(edges)), np.zeros(len(edges), dtype=np.int64))

    def count_hashes_below(self, edges: np.ndarray, timestamp: int) -> np.ndarray:
        return sum(self.run(count_hashes_below, "cutting ties", ray.put(edges), timestamp), np.zeros(len(edges), dtype=np.int64))

    def keys_at(self, timestamp: int, user_hash: int) -> list[SampleKey]:
        return [key for keys in self.run(sample_keys_at, "cutting ties", timestamp, user_hash) for key in keys]


@dataclass(frozen=True)
class Core:
    """The k-core of the interactions inside the window of ``config``, whose start_time is the one that the window came to, staged."""

    config: DataConfig
    staged: Partitions
    filtered: FilterCounts
    num_duplicates: int
    item_is_alive: np.ndarray


def _core_of_window(source: Source, item_ids: pa.Array, config: DataConfig, scratch: Path, num_partitions: int | None) -> Core:
    """Of the widest window that had to be looked at: see ``DataConfig.least_items``."""
    num_partitions = num_partitions or 1 + total_bytes(source.interaction_files) // PARTITION_BYTES
    while True:
        staged = Partitions(scratch / f"window-{config.start_time}", num_partitions)
        staged.folder.mkdir()
        filtered = _stage(source, item_ids, config, staged)
        flags = {"has_timestamps": filtered.has_timestamps, "drops_duplicates": config.drop_duplicates}
        num_duplicates = sum(staged.run(sort_partition, "sorting", **flags))
        core = Core(config, staged, filtered, num_duplicates, _core_items(len(item_ids), config.k_core, staged))
        num_items, start_time = int(core.item_is_alive.sum()), config.start_time
        if start_time is None or config.least_items is None or num_items >= config.least_items:
            return core
        found = f"{num_items:,} items since {datetime.fromtimestamp(start_time, UTC):%Y-%m-%d}, wanted {config.least_items:,}"
        if not filtered.num_before_window or start_time <= 0:
            tqdm.write(f"{found}: there is nothing earlier.", file=sys.stderr)
            return core
        tqdm.write(f"{found}: from a year earlier.", file=sys.stderr)
        config = config.model_copy(update={"start_time": a_year_before(start_time)})
        shutil.rmtree(staged.folder)


def a_year_before(time: int) -> int:
    """The same moment a year earlier, Unix seconds (UTC); of 29 February 28 February."""
    moment = datetime.fromtimestamp(time, UTC)
    day = 28 if (moment.month, moment.day) == (2, 29) else moment.day
    return int(moment.replace(year=moment.year - 1, day=day).timestamp())


def _run(function: Callable[..., T], label: str, calls: Sequence[tuple[Any, ...]], settings: dict[str, Any] | None = None) -> Iterator[T]:
    """Results of one task a call, in order, as they are fetched; an error of ours in a task is raised here as itself."""
    task = ray.remote(function)
    waiting = [task.remote(*call, **(settings or {})) for call in calls][::-1]
    with tqdm(total=len(calls), desc=label, file=sys.stderr, delay=1, leave=False) as bar:
        try:
            while waiting:
                result = ray.get(waiting[-1])
                waiting.pop()
                bar.update()
                yield result
        except RayTaskError as error:
            if isinstance(error.cause, L2DError):
                raise error.cause from None
            raise
        finally:
            for reference in waiting:
                ray.cancel(reference)


def _open_source(config: DataConfig, scratch_dir: Path) -> Source:
    if config.source == "movielens":
        return open_movielens(config.path, scratch_dir)
    if config.source == "amazon":
        return open_amazon(config.path, config.interactions, config.items)
    if config.interactions is None or config.items is None:
        raise ConfigError("data.source table needs both data.interactions and data.items: a file, a folder or a URI each.")
    return open_table(config.interactions, config.items)


def _read_items(source: Source, config: DataConfig) -> tuple[pa.Table, int]:
    """All items with a usable title (schema ITEMS, ascending), and how many rows have none."""
    calls = [(source, path, config.max_title_words, config.title_rule) for path in source.item_files]
    files = list(_run(_clean_file, "reading items", calls))
    items = merge_items([file.table for file in files], first_title_wins=source.first_title_wins)
    if config.title_rule == "d3":  # one row without a usable title takes out the item, whatever the others say
        refused = set().union(*(file.refused for file in files))
        items = items.filter(pc.invert(pc.is_in(items["item_id"], pa.array(sorted(refused), pa.string()))))
    if not items.num_rows:
        raise DataError(
            f"No item of {', '.join(source.item_files[:3])} has a usable title (at most {config.max_title_words} words); "
            "correct the titles or raise data.max_title_words."
        )
    return items, sum(file.num_without_usable_title for file in files)


def _clean_file(source: Source, path: str, max_title_words: int, title_rule: TitleRule) -> CleanItems:
    return clean_items(source.read_items(path), max_title_words=max_title_words, title_rule=title_rule)


def _stage(source: Source, item_ids: pa.Array, config: DataConfig, staged: Partitions) -> FilterCounts:
    """Read every file of interactions with Ray Data, one task a file, and write what passes the filters to the partitions."""
    known_ids, filters = ray.put(item_ids), Filters(config.min_rating, config.start_time, config.end_time)

    def stage(row: dict[str, Any]) -> dict[str, FilterCounts | L2DError]:
        """The file's counts; an error of ours is a value here, since Ray Data would hand on its text alone."""
        shared = {"item_ids": ray.get(known_ids), "num_partitions": staged.num_partitions, "folder": staged.folder}
        try:
            return {"outcome": stage_file(source.read_interactions(row["path"]), row["file_index"], filters=filters, **shared)}
        except L2DError as error:
            return {"outcome": error}

    files = [{"path": path, "file_index": index} for index, path in enumerate(source.interaction_files)]
    rows = ray.data.from_items(files, override_num_blocks=len(files)).map(stage).iter_rows()
    total = FilterCounts()
    for row in tqdm(rows, total=len(files), desc="reading interactions", file=sys.stderr, delay=1, leave=False):
        if isinstance(row["outcome"], L2DError):
            raise row["outcome"]
        total += row["outcome"]
    return total


def _core_items(num_items: int, k: int, staged: Partitions) -> np.ndarray:
    def count_items(item_is_alive: np.ndarray) -> np.ndarray:
        totals = np.zeros(num_items, dtype=np.int64)
        for part in staged.run(count_core_items, f"{k}-core", ray.put(item_is_alive), k):
            totals[part.item_index] += part.counts
        return totals

    return core_items(num_items, k, count_items)


def _find_cuts(config: DataConfig, groups: Sequence[PartitionSummary], staged: Partitions, filtered: FilterCounts) -> GlobalCuts | None:
    """Where valid and test begin; None for leave-one-out. Refuses data that hold no sample."""
    num_samples = sum(group.num_samples for group in groups)
    if not num_samples:
        raise DataError(
            f"No user has two interactions left: {filtered.describe()}; the {config.k_core}-core of the rest holds "
            f"{sum(group.num_interactions for group in groups)}. Loosen data.min_rating, the time window, data.k_core or the titles."
        )
    if config.split == "leave-one-out":
        return None
    if not filtered.has_timestamps:
        raise ConfigError("data.split is global-time, but the interactions have no timestamp; set data.split=leave-one-out.")
    first = min(group.first_timestamp for group in groups if group.first_timestamp is not None)
    last = max(group.last_timestamp for group in groups if group.last_timestamp is not None)
    ranks = cut_ranks(num_samples, valid_fraction=config.valid_fraction, test_fraction=config.test_fraction)
    return GlobalCuts(*(key_at_rank(rank, staged, first_timestamp=first, last_timestamp=last) for rank in ranks))


def _write_parts(
    groups: Sequence[PartitionSummary],
    staged: Partitions,
    item_ids: pa.Array,
    settings: PartSettings,
    users_per_part: int,
    *,
    sequences_dir: Path,
) -> PartSummary:
    sequences_dir.mkdir()
    plans = plan_parts([group.num_users for group in groups], users_per_part)
    runs = [plans[first : first + PARTS_PER_TASK] for first in range(0, len(plans), PARTS_PER_TASK)]
    shared_ids = ray.put(item_ids)
    calls = [(staged.folder, run, shared_ids, settings) for run in runs]
    return merge_summaries(list(_run(write_parts, "writing parts", calls, {"destination": sequences_dir})))
