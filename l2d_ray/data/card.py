"""The data card: what a prepared data set holds, in figures that a result must be read with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from l2d_ray.data.interactions import FilterCounts
from l2d_ray.data.parts import PartSummary
from l2d_ray.data.staging import PartitionSummary
from l2d_ray.errors import DataError
from l2d_ray.schema import FORMAT_VERSION, TEST, TRAIN, VALID

CARD_NAME = "card.json"


@dataclass(frozen=True)
class DataCard:
    """Figures of one prepared data set. Shares are fractions in [0, 1], or None where there is nothing to count."""

    name: str
    num_users: int
    num_items: int
    num_interactions: int
    num_train_samples: int
    num_valid_samples: int
    num_test_samples: int
    mean_length: float  # interactions a user
    median_length: float
    max_length: int
    sparsity: float  # 1 - interactions / (users x items)
    num_repeated_titles: int  # items whose title another item has too
    share_test_targets_unseen: float | None  # test targets that are never a train target
    share_test_targets_in_history: float | None  # test targets among the last ``history_length`` items
    first_timestamp: int | None  # Unix seconds
    last_timestamp: int | None
    num_read: int  # interactions in the raw data
    num_low_rating: int  # of them dropped, in this order: rated too low,
    num_outside_window: int  # outside the time window,
    num_without_title: int  # of an item without a usable title,
    num_duplicates: int  # exact repetitions of (user, item, timestamp),
    num_outside_core: int  # outside the k-core
    num_items_without_title: int  # rows of the items table whose title cannot be used
    settings: Mapping[str, Any]  # the data section of the run's configuration, with the start_time that the window came to
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DataCard:
        """Inverse of ``to_json``; DataError for a card of another format version or with other fields."""
        values = json.loads(text)
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION or set(values) != {f.name for f in fields(cls)}:
            raise DataError(
                f"The data card has format version {version}, this program reads {FORMAT_VERSION}; run jobs.prepare_data again."
            )
        return cls(**values)


def read_card(data_dir: Path) -> DataCard:
    """Card of a prepared data set; DataError where there is none."""
    path = data_dir / CARD_NAME
    if not path.is_file():
        raise DataError(f"There is no data card at {path}; run jobs.prepare_data first.")
    return DataCard.from_json(path.read_text())


@dataclass(frozen=True)
class CardCounts:
    """What the steps of the preparation counted."""

    filtered: FilterCounts
    num_duplicates: int
    num_items_without_title: int
    partitions: Sequence[PartitionSummary]
    parts: PartSummary


def make_card(counts: CardCounts, titles: Sequence[str], *, name: str, settings: Mapping[str, Any]) -> DataCard:
    """The card of data with at least one user; ``titles`` are those of the catalogue."""
    filtered, parts = counts.filtered, counts.parts
    num_users = sum(p.num_users for p in counts.partitions)
    num_interactions = sum(p.num_interactions for p in counts.partitions)
    length_counts = _add_padded([p.length_counts for p in counts.partitions])
    times = [t for p in counts.partitions for t in (p.first_timestamp, p.last_timestamp) if t is not None and filtered.has_timestamps]
    is_unseen = ~np.isin(parts.test_targets.item_index, parts.train_targets.item_index)
    num_test = int(parts.num_samples[TEST])
    dropped = filtered.num_low_rating + filtered.num_outside_window + filtered.num_without_title + counts.num_duplicates
    return DataCard(
        name=name,
        num_users=num_users,
        num_items=len(titles),
        num_interactions=num_interactions,
        num_train_samples=int(parts.num_samples[TRAIN]),
        num_valid_samples=int(parts.num_samples[VALID]),
        num_test_samples=num_test,
        mean_length=num_interactions / num_users,
        median_length=median_length(length_counts),
        max_length=len(length_counts) - 1,
        sparsity=1 - num_interactions / (num_users * len(titles)),
        num_repeated_titles=count_repeated_titles(titles),
        share_test_targets_unseen=int(parts.test_targets.counts[is_unseen].sum()) / num_test if num_test else None,
        share_test_targets_in_history=parts.num_test_in_history / num_test if num_test else None,
        first_timestamp=min(times, default=None),
        last_timestamp=max(times, default=None),
        num_read=filtered.num_read,
        num_low_rating=filtered.num_low_rating,
        num_outside_window=filtered.num_outside_window,
        num_without_title=filtered.num_without_title,
        num_duplicates=counts.num_duplicates,
        num_outside_core=filtered.num_read - dropped - num_interactions,
        num_items_without_title=counts.num_items_without_title,
        settings=settings,
    )


def _add_padded(histograms: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(max(len(h) for h in histograms), dtype=np.int64)
    for histogram in histograms:
        total[: len(histogram)] += histogram
    return total


def count_repeated_titles(titles: Sequence[str]) -> int:
    """Items whose title another item has too."""
    return sum(count for count in Counter(titles).values() if count > 1)


def median_length(length_counts: np.ndarray) -> float:
    """Median of a histogram: ``length_counts[n]`` users have n interactions; the mean of the two middle ones for an even number."""
    ends = np.cumsum(length_counts)
    middle = np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")
    return float(middle.mean())


def format_card(card: DataCard) -> str:
    """The card as an aligned table for people."""
    rows = [
        ("users", f"{card.num_users:,}"),
        ("items", f"{card.num_items:,}"),
        ("interactions", f"{card.num_interactions:,} (of {card.num_read:,} read)"),
        ("dropped: rating too low", f"{card.num_low_rating:,}"),
        ("dropped: outside the time window", f"{card.num_outside_window:,}"),
        ("dropped: item without usable title", f"{card.num_without_title:,}"),
        ("dropped: exact duplicate", f"{card.num_duplicates:,}"),
        ("dropped: outside the k-core", f"{card.num_outside_core:,}"),
        ("samples train / valid / test", f"{card.num_train_samples:,} / {card.num_valid_samples:,} / {card.num_test_samples:,}"),
        ("interactions a user", f"mean {card.mean_length:.1f}, median {card.median_length:g}, max {card.max_length:,}"),
        ("sparsity", f"{card.sparsity:.2%}"),
        ("items that share their title", f"{card.num_repeated_titles:,}"),
        ("test targets never a train target", _percent(card.share_test_targets_unseen)),
        ("test targets already in the history", _percent(card.share_test_targets_in_history)),
        ("first and last interaction", f"{_day(card.first_timestamp)} to {_day(card.last_timestamp)}"),
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join([f"Data set {card.name}", *(f"  {label:<{width}}  {value}" for label, value in rows)])


def _percent(share: float | None) -> str:
    return "none to count" if share is None else f"{share:.1%}"


def _day(timestamp: int | None) -> str:
    return "unknown" if timestamp is None else datetime.fromtimestamp(timestamp, UTC).date().isoformat()
