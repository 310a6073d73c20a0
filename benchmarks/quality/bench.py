"""What a row is, and what rows share: the inputs, the fine-tuned language model's parts, and each other's fitted systems.

A row's factory tunes on validation alone and returns a fitted system; ``Bench.fitted`` keeps it, on disk too where fitting takes time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.quality.grids import Grids
from benchmarks.quality.inputs import Inputs, drawn
from benchmarks.quality.store import Store
from l2d_ray.baselines.interface import Baseline, interaction_counts
from l2d_ray.baselines.title_space import TitleSpace
from l2d_ray.baselines.title_writing import TitleWriter
from l2d_ray.baselines.tuning import Tuned, ValidationSamples
from l2d_ray.evaluate.queries import EncodedSplit
from l2d_ray.text.prefix_tree import PrefixTree

Family = Literal["items", "language", "states", "decoder"]
"""What a row reads: item indexes; titles, writing some itself (scored on a subset); query vectors; the same, as a decoder of ours."""


class StateSystem(Protocol):
    """Ranks query vectors."""

    def rank_queries(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """(n, k) int64 item indexes, best first, padded with -1."""


class DecoderSystem(Protocol):
    """Ranks query vectors, knowing the histories that they are of."""

    def rank_queries(self, queries: NDArray[np.float32], histories: Sequence[Sequence[int]], k: int) -> NDArray[np.int64]:
        """As ``StateSystem``."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A system and how it came about.

    Attributes:
        settings: those chosen, whatever their type.
        tried: candidates with their ndcg@20 on validation, in order; empty where nothing was tuned here.
        fit_s: of the whole tuning; what rows share (fine-tuning, the memory) is not in it.
        num_parameters: trained ones, the language model's included where a request is read by it.
    """

    system: Baseline | StateSystem | DecoderSystem
    settings: Any
    tried: tuple[tuple[Any, float], ...] = ()
    fit_s: float = 0.0
    num_parameters: int = 0


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Attributes:
        fit: tunes and fits.
        refit: the system with these settings and another seed; None where nothing is random.
        extend: the same given the validation samples too, without retraining or tuning; None where it must retrain.
        retrain: the system trained anew with the validation samples, for the living memory's second table.
        grid_names: fields of ``Grids`` that decide what is fitted.
        made_of: what else decides it: the data alone, the fine-tuned model too, or the memory and the decoder's settings as well.
        is_fitted: whether there is more to it than putting other rows' systems together.
    """

    family: Family
    fit: Callable[[Bench], Fitted]
    refit: Callable[[Bench, Any, int], Baseline | StateSystem] | None = None
    extend: Callable[[Bench, Fitted], Baseline | StateSystem | DecoderSystem] | None = None
    retrain: Callable[[Bench, Fitted], Baseline | StateSystem] | None = None
    grid_names: tuple[str, ...] = ()
    made_of: Literal["data", "model", "decoder"] = "decoder"
    is_fitted: bool = True

    @property
    def is_stored(self) -> bool:
        """Whether the fitted system is worth a file: the others are made of the run's own files."""
        return self.family in ("items", "states") and self.is_fitted


@dataclass(frozen=True)
class Options:
    """How much is done.

    Attributes:
        beams: of d3; the largest but one, or the only one, is what its assistant is tuned with.
        language_samples: test samples on which language-space rows are scored, a fixed random subset; half as many for their tuning.
        cost_requests, decoder_requests: timed for all rows, and once more for the decoders alone.
    """

    grids: Grids
    beams: tuple[int, ...] = (1, 10, 20, 50)
    language_samples: int = 1000
    cost_requests: int = 64
    decoder_requests: int = 512
    cost_rounds: int = 3
    num_bootstrap: int = 1000
    seed: int = 0


class Bench:
    """Everything a factory may ask for. ``decoder_key`` stands for the run's model, memory and decoder settings."""

    def __init__(self, inputs: Inputs, options: Options, store: Store, rows: Mapping[str, Row], *, decoder_key: str) -> None:
        self.inputs, self.options, self.store, self.rows = inputs, options, store, rows
        self.decoder_key = decoder_key
        self._fitted: dict[str, Fitted] = {}

    @property
    def grids(self) -> Grids:
        return self.options.grids

    @property
    def model_key(self) -> str:
        """Stands for the run's model alone."""
        return self.inputs.language_model.fingerprint

    @property
    def train(self) -> list[list[int]]:
        return self.inputs.train.items

    @cached_property
    def validation(self) -> ValidationSamples:
        return ValidationSamples(self.inputs.valid.samples.histories, self.inputs.valid.samples.targets)

    @cached_property
    def language_validation(self) -> ValidationSamples:
        """The few validation samples for what has to write titles."""
        rows = drawn(len(self.inputs.valid), max(1, self.options.language_samples // 2), seed=self.options.seed)
        chosen = self.inputs.valid.take(rows).samples
        return ValidationSamples(chosen.histories, chosen.targets)

    @cached_property
    def language_rows(self) -> NDArray[np.int64]:
        """Positions in the test split of the language-space rows' samples."""
        return drawn(len(self.inputs.test), self.options.language_samples, seed=self.options.seed)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(num_items,) training interactions."""
        return interaction_counts(self.train, self.inputs.num_items)

    @cached_property
    def num_language_parameters(self) -> int:
        return num_parameters(self.inputs.language_model.model)

    @cached_property
    def space(self) -> TitleSpace:
        """Titles in the fine-tuned model's space."""
        model = self.inputs.language_model
        return TitleSpace(self.inputs.run.decoder.encoder, model.tokenizer, self.inputs.run.catalogue.titles)

    @cached_property
    def title_writer(self) -> TitleWriter:
        return TitleWriter(self.inputs.language_model, self.inputs.run.decoder.writer)

    @cached_property
    def titles_tree(self) -> PrefixTree:
        writer = self.inputs.run.decoder.writer
        return PrefixTree([[*title.tolist(), writer.prompts.terminator_id] for title in writer.titles])

    def fitted(self, name: str) -> Fitted:
        """The row's system, fitted at most once."""
        if name not in self._fitted:
            row = self.rows[name]
            self._fitted[name] = self.store.fitted(name, self.depends(name), lambda: self._fit(name)) if row.is_stored else self._fit(name)
        return self._fitted[name]

    def depends(self, name: str) -> list[Any]:
        """What the row's system is made of, beside the data: a stored result of something else is not used."""
        row = self.rows[name]
        key = {"data": None, "model": self.model_key, "decoder": self.decoder_key}[row.made_of]
        return [key, *(getattr(self.grids, field) for field in row.grid_names)]

    def timed(self, tune: Callable[[], Tuned[Any, Any]], *, num_shared: int = 0) -> Fitted:
        """A tuning as a fitted system; ``num_shared`` parameters are added to its own."""
        started = time.perf_counter()
        tuned = tune()
        return Fitted(
            tuned.system, tuned.settings, tuned.ndcg_at_20, time.perf_counter() - started, num_shared + num_parameters(tuned.system)
        )

    def _fit(self, name: str) -> Fitted:
        say(f"{name}: fit")
        return self.rows[name].fit(self)


def rank_split(row: Row, system: Any, split: EncodedSplit, k: int) -> NDArray[np.int64]:
    """The k best items of every sample of a split, nothing excluded."""
    return _ranked(row, system, lambda: split.queries, split.samples.histories, k)


def answer(bench: Bench, row: Row, system: Any, histories: Sequence[Sequence[int]], k: int) -> NDArray[np.int64]:
    """The whole way from histories to items."""
    return _ranked(row, system, lambda: bench.inputs.run.decoder.encode(histories), histories, k)


def _ranked(
    row: Row, system: Any, queries: Callable[[], NDArray[np.float32]], histories: Sequence[Sequence[int]], k: int
) -> NDArray[np.int64]:
    """Query vectors are asked for where the row reads them."""
    ranked: NDArray[np.int64]
    if row.family == "decoder":
        ranked = system.rank_queries(queries(), histories, k)
    elif row.family == "states":
        ranked = system.rank_queries(queries(), k)
    else:
        ranked = system.rank(histories, k)
    return ranked


def num_parameters(system: Any) -> int:
    """Parameters of the torch modules that a baseline holds; a weight that is used twice counts once."""
    if isinstance(system, nn.Module):
        return sum(parameter.numel() for parameter in system.parameters())
    parts = getattr(system, "__dict__", {}).values() if type(system).__module__.startswith("l2d_ray.baselines") else ()
    return sum(num_parameters(part) for part in parts)


def say(text: str) -> None:
    """Progress, to stderr."""
    print(f"quality: {text}", file=sys.stderr, flush=True)
