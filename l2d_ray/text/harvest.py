"""From user sequences to the texts whose states belong to samples: shared by the memory build, tuning and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from l2d_ray.data.sequences import Target, UserSequence
from l2d_ray.errors import DataError
from l2d_ray.text.prompts import PromptFormat, TokenIds, TokenWindow


@dataclass(frozen=True)
class Harvest:
    """Texts to encode and the targets of the samples whose states come out, in the same order (windows in order, states ascending)."""

    windows: list[TokenWindow]
    targets: list[Target]


def harvest(sequences: Iterable[UserSequence], split: int, *, item_id_to_title: Mapping[str, TokenIds], prompts: PromptFormat) -> Harvest:
    """Every sample of ``split``, its state in exactly one window; users in the order given.

    Raises DataError where a sequence names an item without a title.
    """
    windows: list[TokenWindow] = []
    targets: list[Target] = []
    for sequence in sequences:
        positions = sequence.target_positions(split)
        if positions:
            windows += prompts.windows(_titles(sequence, positions.stop, item_id_to_title), positions.start, completions=False)
            targets += sequence.targets(split)
    assert sum(len(w.state_indexes) for w in windows) == len(targets)
    return Harvest(windows, targets)


def completion_windows(
    sequence: UserSequence, split: int, *, item_id_to_title: Mapping[str, TokenIds], prompts: PromptFormat
) -> list[TokenWindow]:
    """Texts with completions, for the loss on a split's targets; the user's later splits are not in them."""
    positions = sequence.target_positions(split)
    return prompts.windows(_titles(sequence, positions.stop, item_id_to_title), positions.start, completions=True) if positions else []


def _titles(sequence: UserSequence, stop: int, item_id_to_title: Mapping[str, TokenIds]) -> list[TokenIds]:
    try:
        return [item_id_to_title[item_id] for item_id in sequence.item_ids[:stop]]
    except KeyError as error:
        raise DataError(
            f"User {sequence.user_id!r} has item {error.args[0]!r}, which the catalogue lacks; run jobs.prepare_data again."
        ) from None
