"""Why an item was recommended, with titles: the items of the history that users took shortly before it, and the training samples of that
item that lie nearest to the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence
from l2d_ray.decode.lookup import NearEntry
from l2d_ray.decode.paired import PairReason, shares_of
from l2d_ray.evaluate.report import Cause, Reason
from l2d_ray.schema import TRAIN

SHOWN_HISTORY = 3


def reasons_of(entries: Sequence[NearEntry], sample_id_to_titles: Mapping[int, tuple[tuple[str, ...], str]]) -> tuple[Reason, ...]:
    """The entries as reasons: distance, the last titles before the target, the target's title."""
    return tuple(Reason(entry.distance, *sample_id_to_titles[entry.sample_id]) for entry in entries)


def causes_of(pairs: Sequence[PairReason], catalogue: Catalogue) -> tuple[Cause, ...]:
    """The items of a history whose pairs raised an item, the one that did most first."""
    return tuple(Cause(share, catalogue.titles[pair.item_index]) for share, pair in zip(shares_of(pairs), pairs, strict=True))


def titles_of_samples(
    sequences: Iterable[UserSequence], sample_ids: set[int], catalogue: Catalogue
) -> dict[int, tuple[tuple[str, ...], str]]:
    """For each of these training samples: the last titles of its history, and its target's title."""
    found = {}
    for sequence in sequences:
        for target in sequence.targets(TRAIN):
            if target.sample_id in sample_ids:
                shown = sequence.item_ids[max(0, target.position - SHOWN_HISTORY) : target.position + 1]
                *history, title = (catalogue.titles[index] for index in catalogue.indexes_of(shown))
                found[target.sample_id] = (tuple(history), title)
    return found
