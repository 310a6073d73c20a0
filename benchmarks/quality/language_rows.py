"""Rows that write titles with the fine-tuned model: BIGRec, GPT4Rec and D3. All use that one model and its prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from benchmarks.quality.bench import Bench, Fitted, Row, num_parameters
from l2d_ray.baselines.bigrec import BigRec
from l2d_ray.baselines.bm25 import Bm25Index
from l2d_ray.baselines.d3 import D3, D3Settings, Tail
from l2d_ray.baselines.gpt4rec import Gpt4Rec, Gpt4RecSettings
from l2d_ray.baselines.tuning import tune

ASSISTANT: Final = "sasrec"


def bigrec(bench: Bench, *, num_beams: int) -> Fitted:
    """Nothing to tune."""
    started = time.perf_counter()
    system = BigRec(bench.title_writer, bench.space, bench.counts, num_beams=num_beams)
    settings = {"num_beams": num_beams}
    return Fitted(system, settings, fit_s=time.perf_counter() - started, num_parameters=bench.num_language_parameters)


def gpt4rec(bench: Bench) -> Fitted:
    """BM25 as the row bm25 was tuned; queries and what each adds on the few validation samples."""
    words = bench.fitted("bm25").settings
    index = Bm25Index(bench.inputs.run.catalogue.titles, k1=words.k1, b=words.b)

    def fit(settings: Mapping[str, int]) -> Gpt4Rec:
        return Gpt4Rec(bench.title_writer, index, bench.counts, Gpt4RecSettings(**settings))

    chosen = _chosen(bench, "gpt4rec-tuning", tuple(asdict(settings) for settings in bench.grids.gpt4rec), fit)
    settings = {**chosen["best"], "k1": words.k1, "b": words.b}
    return Fitted(fit(chosen["best"]), settings, _tried(chosen), chosen["fit_s"], bench.num_language_parameters)


def d3(bench: Bench, *, num_beams: int) -> Fitted:
    """Without an assistant: what no beam reaches is grounded by title distance. Nothing to tune."""
    tail, settings = Tail(bench.counts, space=bench.space), D3Settings(num_beams=num_beams, alpha=0.0)
    started = time.perf_counter()
    system = D3(bench.inputs.language_model, bench.title_writer.prompts, tail, settings, titles_tree=bench.titles_tree)
    return Fitted(system, settings, fit_s=time.perf_counter() - started, num_parameters=bench.num_language_parameters)


def d3_assisted(bench: Bench, *, num_beams: int) -> Fitted:
    """SASRec guides the beams and ranks what they do not reach; its weight is tuned once, for all numbers of beams."""
    assistant = bench.fitted(ASSISTANT)
    system: Any = assistant.system
    tail = Tail(bench.counts, assistant=system)

    def fit(beams: int, alpha: float) -> D3:
        settings = D3Settings(num_beams=beams, alpha=alpha)
        return D3(bench.inputs.language_model, bench.title_writer.prompts, tail, settings, titles_tree=bench.titles_tree)

    beams = bench.options.beams[-2:][0]
    chosen = _chosen(bench, f"d3-tuning-{beams}", bench.grids.alphas, partial(fit, beams))
    settings = D3Settings(num_beams=num_beams, alpha=chosen["best"])
    total = bench.num_language_parameters + num_parameters(assistant.system)
    return Fitted(fit(num_beams, settings.alpha), settings, _tried(chosen), chosen["fit_s"], total)


def language_rows(beams: tuple[int, ...]) -> dict[str, Row]:
    """One d3 row for each number of beams, with and without its assistant."""
    rows = {f"bigrec-{num}": _row(partial(bigrec, num_beams=num)) for num in (1, 4)}
    rows["gpt4rec"] = _row(gpt4rec, "bm25", "gpt4rec")
    rows |= {f"d3-{num}": _row(partial(d3, num_beams=num)) for num in beams}
    return rows | {f"d3-{ASSISTANT}-{num}": _row(partial(d3_assisted, num_beams=num), ASSISTANT, "alphas") for num in beams}


def _row(fit: Callable[[Bench], Fitted], *grid_names: str) -> Row:
    return Row("language", fit, grid_names=grid_names, made_of="model")


def _chosen(bench: Bench, name: str, grid: tuple[Any, ...], fit: Any) -> dict[str, Any]:
    """The best of a grid on the few validation samples, remembered: writing titles is slow."""

    def search() -> dict[str, Any]:
        started = time.perf_counter()
        tuned = tune(grid, fit, bench.language_validation)
        return {"best": tuned.settings, "tried": list(tuned.ndcg_at_20), "fit_s": time.perf_counter() - started}

    samples = len(bench.language_validation.targets)
    return bench.store.record(name, [bench.model_key, grid, samples, bench.grids.sasrec, bench.grids.bm25], search)


def _tried(chosen: dict[str, Any]) -> tuple[tuple[Any, float], ...]:
    return tuple((settings, score) for settings, score in chosen["tried"])
