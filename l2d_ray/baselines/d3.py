"""D3: beams kept inside the catalogue, no length normalisation, and optionally a text-free assistant (arXiv 2406.14900).

The beams give the head of a list. A full ranking needs a tail, which the paper does not have; items that no beam reached follow

- by the assistant's probability where there is an assistant,
- else by grounding as in BIGRec, the L2 distance of their title to the best beam's title, where a title space is given,
- else by popularity.

The head does not depend on the length asked for, so a shorter list is the beginning of a longer one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from l2d_ray.baselines.assisted_beams import NodeMasses, assisted_beam_search
from l2d_ray.baselines.interface import head_first, top_items
from l2d_ray.baselines.title_space import TitleSpace
from l2d_ray.decode.decoder import PromptWriter
from l2d_ray.errors import ConfigError
from l2d_ray.model.language_space import TitleBeams, constrained_beam_search
from l2d_ray.model.loading import LanguageModel
from l2d_ray.text.packing import pack_by_length
from l2d_ray.text.prefix_tree import PrefixTree


class Assistant(Protocol):
    """A recommender that knows no text, such as a SequenceRanker."""

    def log_probabilities(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(n, num_items) float64, finite: log of each item's probability to be next."""


@dataclass(frozen=True)
class D3Settings:
    """``alpha`` is the assistant's weight, 0 leaves it to the tail alone; ``max_batch_tokens`` bounds the prompts of one pass."""

    num_beams: int = 20
    alpha: float = 0.5
    max_batch_tokens: int = 4096


@dataclass(frozen=True)
class Tail:
    """What ranks the items that no beam reached; see the module. ``counts`` (num_items,): training interactions of each item."""

    counts: NDArray[np.int64]
    space: TitleSpace | None = None
    assistant: Assistant | None = None


class D3:
    """Fits ``interface.Baseline``; an empty history is answered with popularity.

    Args:
        language_model: on its device, in eval mode.
        prompts: of the same model and catalogue.
        tail: its assistant, where it has one, also guides the beams.
        titles_tree: the catalogue's completions; None builds it from the prompts' titles.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        prompts: PromptWriter,
        tail: Tail,
        settings: D3Settings = D3Settings(),
        *,
        titles_tree: PrefixTree | None = None,
    ) -> None:
        if len(tail.counts) != len(prompts.titles):
            raise ConfigError(f"There are {len(tail.counts)} counts for a catalogue of {len(prompts.titles)} titles; give one an item.")
        self._model, self._prompts, self._tail, self._settings = language_model, prompts, tail, settings
        terminator = prompts.prompts.terminator_id
        self._tree = titles_tree or PrefixTree([[*title.tolist(), terminator] for title in prompts.titles])
        is_guided = tail.assistant is not None and settings.alpha > 0
        self._masses = NodeMasses(self._tree) if is_guided else None

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history (oldest first), (n, k) int64 padded with -1."""
        ranked = np.empty((len(histories), k), np.int64)
        for row, history in enumerate(histories):
            if not history:
                ranked[row] = top_items(self._tail.counts.astype(np.float64), k, () if exclude is None else exclude[row])
        asked = [row for row, history in enumerate(histories) if history]
        prompts = [self._prompts.write(histories[row]) for row in asked]
        for batch in pack_by_length([len(prompt) for prompt in prompts], self._settings.max_batch_tokens):
            rows = [asked[place] for place in batch.tolist()]
            scores = self._scores([histories[row] for row in rows], [prompts[place] for place in batch.tolist()])
            for row, of_items in zip(rows, scores, strict=True):
                ranked[row] = top_items(of_items, k, () if exclude is None else exclude[row])
        return ranked

    def _scores(self, histories: Sequence[Sequence[int]], prompts: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float64]]:
        """(num_items,) float64 of each history: beams first, then the tail."""
        log_probabilities = None if self._tail.assistant is None else self._tail.assistant.log_probabilities(histories)
        beams = self._beams(prompts, log_probabilities)
        if log_probabilities is not None:
            tails = log_probabilities
        elif self._tail.space is not None:
            best = np.array([found.item_indexes[0] for found in beams], np.int64)
            tails = -self._tail.space.distances(self._tail.space.vectors[best])
        else:
            tails = np.tile(self._tail.counts.astype(np.float64), (len(beams), 1))
        return [head_first(found.item_indexes, scores) for found, scores in zip(beams, tails, strict=True)]

    def _beams(self, prompts: Sequence[NDArray[np.int32]], log_probabilities: NDArray[np.float64] | None) -> list[TitleBeams]:
        num_beams, tokenizer = self._settings.num_beams, self._prompts.tokenizer
        padding = self._prompts.prompts.terminator_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if self._masses is None or log_probabilities is None:
            return constrained_beam_search(
                self._model.model, prompts, self._tree, num_beams=num_beams, k=self._tree.num_items, pad_token_id=padding
            )
        return assisted_beam_search(
            self._model.model,
            prompts,
            self._tree,
            log_masses=self._masses.log_masses(log_probabilities),
            alpha=self._settings.alpha,
            num_beams=num_beams,
            pad_token_id=padding,
        )
