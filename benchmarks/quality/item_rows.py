"""Rows that read item indexes: popularity, the neighbourhoods, BM25 over titles, and the trained sequence and graph models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from benchmarks.quality.bench import Bench, Fitted, Row
from benchmarks.quality.inputs import Interactions
from l2d_ray.baselines.alpharec import AlphaRec, tune_alpharec
from l2d_ray.baselines.bm25 import tune_bm25
from l2d_ray.baselines.gru4rec import fit_gru4rec
from l2d_ray.baselines.item_knn import ItemKnn, tune_item_knn
from l2d_ray.baselines.popularity import Popularity, tune_popularity
from l2d_ray.baselines.sasrec import fit_sasrec
from l2d_ray.baselines.sequence_training import SequenceRanker
from l2d_ray.baselines.session_knn import SessionKnn, tune_session_knn
from l2d_ray.baselines.tuning import ValidationSamples, tune_in_steps


def popularity(bench: Bench) -> Fitted:
    times = bench.inputs.train.known_times
    half_lives = None if times is None else bench.grids.half_lives_s  # without times they are counted in positions
    return bench.timed(
        lambda: tune_popularity(bench.train, bench.inputs.num_items, validation=bench.validation, times=times, half_lives=half_lives)
    )


def living_popularity(bench: Bench, fitted: Fitted) -> Popularity:
    data = bench.inputs.until_valid
    return Popularity(data.items, bench.inputs.num_items, fitted.settings, times=data.known_times)


def item_knn(bench: Bench) -> Fitted:
    times, steps = bench.inputs.train.known_times, bench.grids.item_knn
    return bench.timed(lambda: tune_item_knn(bench.train, bench.inputs.num_items, validation=bench.validation, times=times, steps=steps))


def living_item_knn(bench: Bench, fitted: Fitted) -> ItemKnn:
    data = bench.inputs.until_valid
    return ItemKnn(data.items, bench.inputs.num_items, fitted.settings, times=data.known_times)


def session_knn(bench: Bench) -> Fitted:
    last_times, grid = bench.inputs.train.last_times, bench.grids.session_knn
    return bench.timed(
        lambda: tune_session_knn(bench.train, bench.inputs.num_items, validation=bench.validation, last_times=last_times, grid=grid)
    )


def living_session_knn(bench: Bench, fitted: Fitted) -> SessionKnn:
    data: Interactions = bench.inputs.until_valid
    return SessionKnn(data.items, bench.inputs.num_items, fitted.settings, last_times=data.last_times)


def bm25(bench: Bench) -> Fitted:
    titles = bench.inputs.run.catalogue.titles
    return bench.timed(lambda: tune_bm25(titles, bench.counts, validation=bench.validation, grid=bench.grids.bm25))


class Fit(Protocol):
    """fit_sasrec or fit_gru4rec."""

    def __call__(
        self,
        train_sequences: Sequence[Sequence[int]],
        num_items: int,
        settings: Any,
        *,
        validation: ValidationSamples | None = None,
        device: str = "cpu",
    ) -> SequenceRanker: ...


def sequence_row(fit: Fit, grid_name: str) -> Row:
    """A row of a model that reads item sequences. Retrained, it takes as many epochs as the tuned one's weights had seen."""

    def tuned(bench: Bench) -> Fitted:
        steps = getattr(bench.grids, grid_name)
        return bench.timed(lambda: tune_in_steps(steps, lambda settings: again(bench, settings, settings.training.seed), bench.validation))

    def again(bench: Bench, settings: Any, seed: int) -> SequenceRanker:
        seeded = replace(settings, training=replace(settings.training, seed=seed))
        return fit(bench.train, bench.inputs.num_items, seeded, validation=bench.validation, device=bench.inputs.run.device)

    def retrained(bench: Bench, fitted: Fitted) -> SequenceRanker:
        assert isinstance(fitted.system, SequenceRanker)
        training = replace(fitted.settings.training, max_epochs=fitted.system.num_epochs)
        settings = replace(fitted.settings, training=training)
        return fit(bench.inputs.until_valid.items, bench.inputs.num_items, settings, device=bench.inputs.run.device)

    return Row("items", tuned, again, retrain=retrained, grid_names=(grid_name,), made_of="data")


def alpharec(bench: Bench) -> Fitted:
    """Titles as the fine-tuned model embeds them."""
    titles, device = bench.space.vectors, bench.inputs.run.device
    return bench.timed(lambda: tune_alpharec(bench.train, titles, validation=bench.validation, grid=bench.grids.alpharec, device=device))


def alpharec_again(bench: Bench, settings: Any, seed: int) -> AlphaRec:
    again = replace(settings, seed=seed)
    return AlphaRec(bench.train, bench.space.vectors, again, validation=bench.validation, device=bench.inputs.run.device)


def living_alpharec(bench: Bench, fitted: Fitted) -> AlphaRec:
    """The new interactions are new edges."""
    assert isinstance(fitted.system, AlphaRec)
    return fitted.system.extended(bench.inputs.until_valid.items)


ITEM_ROWS: Final = {
    "popularity": Row("items", popularity, extend=living_popularity, grid_names=("half_lives_s",), made_of="data"),
    "item-knn": Row("items", item_knn, extend=living_item_knn, grid_names=("item_knn",), made_of="data"),
    "session-knn": Row("items", session_knn, extend=living_session_knn, grid_names=("session_knn",), made_of="data"),
    "bm25": Row("items", bm25, grid_names=("bm25",), made_of="data"),
    "sasrec": sequence_row(fit_sasrec, "sasrec"),
    "gru4rec": sequence_row(fit_gru4rec, "gru4rec"),
    "alpharec": Row("items", alpharec, alpharec_again, extend=living_alpharec, grid_names=("alpharec",), made_of="model"),
}
