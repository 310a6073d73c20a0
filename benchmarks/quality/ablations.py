"""What may be added to the whitened decoder, or left out of it, each by itself: on validation alone, on cached states.

A variant is a number of candidates, of which the best (ndcg@20, as in all tuning) is told with how many there were: with few thousand
samples the best of many is flattered, so a gain of a few thousandths is none. Nothing here reads the test split.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.quality import variants
from benchmarks.quality.bench import Bench, say
from benchmarks.quality.inputs import Inputs, drawn, pooled_with
from benchmarks.quality.variants import FloatArray, IntArray, Neighborhoods
from l2d_ray.config import DecoderConfig
from l2d_ray.decode.linear import RepresentedItems, ScoreShifts, WhitenedRule
from l2d_ray.decode.paired import Evidence, PairLookup, older_items, recent_items
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.evaluate.metrics import metric_means
from l2d_ray.evaluate.queries import EncodedSplit
from l2d_ray.memory.statistics import NO_DECAY, Decay, ItemStatistics, PooledStatistics, statistics_of
from l2d_ray.memory.titles import TitleStates
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.title_likelihood import title_log_likelihoods
from l2d_ray.schema import TRAIN, VALID
from l2d_ray.text.prompts import title_prompts

METRICS: Final = ("recall@10", "recall@20", "recall@50", "ndcg@20")
NUM_NEIGHBORS: Final = (100, 500)
WIDTHS: Final = (0.1, 0.2, 0.4)
WEIGHTS: Final = (0.1, 0.25, 0.5, 1.0)
RERANKED: Final = 50
RERANK_WEIGHTS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
NOTHING_OLDER: Final = np.zeros(0, np.int64)
NO_EVIDENCE: Final = Evidence(np.zeros(0, np.int64), np.zeros(0))
Candidate = tuple[dict[str, Any], Callable[[], FloatArray]]
"""What is set, and the scores (n, num_items) that come of it."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """The memory and the queries, and what all variants share."""

    bench: Bench
    split: EncodedSplit
    rows: IntArray

    @property
    def settings(self) -> DecoderSettings:
        return self.bench.inputs.run.decoder.settings

    @property
    def num_items(self) -> int:
        return self.bench.inputs.num_items

    @property
    def targets(self) -> IntArray:
        return self.split.samples.targets

    @cached_property
    def vectors(self) -> FloatArray:
        return self.bench.inputs.entries.vectors.astype(np.float32)

    @property
    def entry_items(self) -> IntArray:
        return self.bench.inputs.entries.item_indexes

    @cached_property
    def statistics(self) -> ItemStatistics:
        return self.statistics_with(self.bench.inputs.decay)

    def statistics_with(self, decay: Decay) -> ItemStatistics:
        entries = self.bench.inputs.entries
        return statistics_of(entries.item_indexes, entries.vectors, entries.timestamps, decay=decay)

    @cached_property
    def pooled(self) -> PooledStatistics:
        return self.bench.inputs.pooled(self.statistics)

    @cached_property
    def rule(self) -> WhitenedRule:
        return WhitenedRule.of(self.pooled, self.settings)

    @cached_property
    def items(self) -> RepresentedItems:
        return self.rule.represent(self.statistics, self.bench.inputs.titles)

    @cached_property
    def base(self) -> FloatArray:
        """The tuned whitened decoder."""
        return variants.whitened_scores(self.split.queries, self.items, self.rule.precision, self.num_items)

    @cached_property
    def log_base(self) -> FloatArray:
        return variants.normalised(self.base)

    @cached_property
    def white(self) -> NDArray[np.float64]:
        return variants.square_root(self.rule.precision)

    @cached_property
    def spaces(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Queries and entries in both spaces."""
        white = self.white.astype(np.float32)
        return {"plain": (self.split.queries, self.vectors), "white": (self.split.queries @ white, self.vectors @ white)}

    @cached_property
    def neighborhoods(self) -> dict[str, Neighborhoods]:
        most = min(max(NUM_NEIGHBORS), len(self.vectors))
        return {name: variants.nearest(queries, vectors, most) for name, (queries, vectors) in self.spaces.items()}

    def changed(self, decay: Decay | None = None, **settings: Any) -> FloatArray:
        """The whitened decoder with other settings."""
        rule = WhitenedRule.of(self.pooled, replace(self.settings, **settings))
        statistics = self.statistics if decay is None else self.statistics_with(decay)
        return variants.whitened_scores(
            self.split.queries, rule.represent(statistics, self.bench.inputs.titles), rule.precision, self.num_items
        )

    def fused(self, other: FloatArray, weight: float) -> FloatArray:
        return self.log_base + np.float32(weight) * other


def ablations(bench: Bench, max_samples: int) -> dict[str, Any]:
    """Every variant on the latest validation samples; one record each."""
    rows = bench.inputs.valid.latest_rows(max_samples)
    ablation = Ablation(bench, bench.inputs.valid.take(rows), rows)
    depends = [bench.decoder_key, len(rows), bench.options.seed]
    found = {
        name: bench.store.record(f"ablation-{name.replace(' ', '-')}", depends, partial(_best, name, ablation, make(ablation)))
        for name, make in VARIANTS.items()
    }
    subset = bench.store.record("ablation-rerank", [*depends, bench.options.language_samples], lambda: _reranked(ablation))
    return {"split": "valid", "num_samples": len(rows), "variants": found, "rerank": subset}


def _best(name: str, ablation: Ablation, candidates: Iterator[Candidate]) -> dict[str, Any]:
    say(f"ablation: {name}")
    scored = []
    for settings, make in candidates:
        metrics = metric_means(variants.ranks_of(make(), ablation.targets))
        scored.append({"settings": settings, **{metric: metrics[metric] for metric in METRICS}})
    return {**max(scored, key=lambda found: found["ndcg@20"]), "num_candidates": len(scored)}


def _tuned(ablation: Ablation) -> Iterator[Candidate]:
    yield {}, lambda: ablation.base


def _switched_off(**settings: Any) -> Callable[[Ablation], Iterator[Candidate]]:
    """The tuned decoder without a part, nothing tuned again."""

    def candidates(ablation: Ablation) -> Iterator[Candidate]:
        yield settings, lambda: ablation.changed(**settings)

    return candidates


def _without_decay(ablation: Ablation) -> Iterator[Candidate]:
    yield {}, lambda: ablation.changed(NO_DECAY)


def _binned(ablation: Ablation) -> Iterator[Candidate]:
    """Items cut by count into bins of as many entries."""
    for num, shrinkage in product((2, 3), _shrinkages(ablation)):
        yield {"num_bins": num, "shrinkage": shrinkage}, partial(_binned_scores, ablation, num, shrinkage)


def _binned_scores(ablation: Ablation, num: int, shrinkage: float) -> FloatArray:
    statistics, items = ablation.statistics, ablation.items
    order = np.argsort(statistics.counts, kind="stable")
    bins = np.empty(len(order), np.int64)
    bins[order] = np.minimum(np.cumsum(statistics.counts[order]) * num // (statistics.num_entries + 1), num - 1)
    bin_of_item = np.zeros(ablation.num_items, np.int64)  # items without entries are the rarest
    bin_of_item[statistics.item_indexes] = bins
    entries, scatters = ablation.bench.inputs.entries, []
    for number in range(num):
        mine = np.flatnonzero(bin_of_item[entries.item_indexes] == number)
        part = statistics_of(entries.item_indexes[mine], entries.vectors[mine], entries.timestamps[mine])
        scatters.append(PooledStatistics.of([part]).within_covariance)
    return variants.binned_scores(
        ablation.split.queries, items, scatters, bin_of_item[items.item_indexes], shrinkage=shrinkage, num_items=ablation.num_items
    )


def _shrinkages(ablation: Ablation) -> list[float]:
    """Where the covariance is another one: the tuned shrinkage, and others."""
    return sorted({0.01, 0.03, 0.1, ablation.settings.shrinkage})


def _other_states(change: Callable[[Any], None]) -> Callable[[Ablation], Iterator[Candidate]]:
    """The whole method on other states of the same model: memory, titles and queries encoded again."""

    def candidates(ablation: Ablation) -> Iterator[Candidate]:
        inputs = ablation.bench.inputs
        model = copy.deepcopy(inputs.language_model.model)
        change(model)
        encoder = Encoder(model, max_batch_tokens=inputs.run.decoder.encoder.max_batch_tokens)
        sample_ids, vectors = inputs.encode(encoder, TRAIN)
        order = np.argsort(sample_ids)
        entries = inputs.entries
        mine = vectors[order[np.searchsorted(sample_ids[order], entries.sample_ids)]].astype(np.float16)
        statistics = statistics_of(entries.item_indexes, mine, entries.timestamps, decay=inputs.decay)
        titles = None if inputs.titles is None else _encoded_titles(inputs, encoder, inputs.titles.item_indexes)
        pooled, queries = pooled_with(statistics, titles), inputs.encode(encoder, VALID)[1][ablation.rows]
        for shrinkage in _shrinkages(ablation):
            rule = WhitenedRule.of(pooled, replace(ablation.settings, shrinkage=shrinkage))
            items = rule.represent(statistics, titles)
            yield (
                {"shrinkage": shrinkage},
                partial(variants.whitened_scores, queries, items, rule.precision, ablation.num_items),
            )

    return candidates


def _encoded_titles(inputs: Inputs, encoder: Encoder, item_indexes: IntArray) -> TitleStates:
    writer = inputs.run.decoder.writer
    prompts = title_prompts([writer.titles[item] for item in item_indexes.tolist()], writer.prompts)
    return TitleStates(item_indexes, encoder.encode(prompts).astype(np.float16))


def _without_final_norm(model: Any) -> None:
    model.base_model.norm = nn.Identity()


def _without_last_layer(model: Any) -> None:
    model.base_model.layers = model.base_model.layers[:-1]
    model.config.num_hidden_layers -= 1


def _prototypes(ablation: Ablation) -> Iterator[Candidate]:
    for num, least in product((2, 3), (20, 60)):
        yield (
            {"num_prototypes": num, "least_entries": least},
            partial(
                variants.prototype_scores, ablation.split.queries, ablation.vectors, ablation.entry_items, ablation.items,
                white=ablation.white, num=num, least=least, seed=ablation.bench.options.seed, num_items=ablation.num_items,
            ),
        )  # fmt: skip


def _votes(space: str, *, is_fused: bool) -> Callable[[Ablation], Iterator[Candidate]]:
    def candidates(ablation: Ablation) -> Iterator[Candidate]:
        for num, width in product(NUM_NEIGHBORS, WIDTHS):
            vote = variants.votes(
                ablation.neighborhoods[space],
                ablation.entry_items,
                num_neighbors=min(num, len(ablation.vectors)),
                width=width,
                num_items=ablation.num_items,
            )
            settings = {"num_neighbors": num, "width": width}
            if not is_fused:
                yield settings, partial(np.asarray, vote)
            for weight in WEIGHTS if is_fused else ():
                yield settings | {"weight": weight}, partial(ablation.fused, vote, weight)

    return candidates


def _votes_without_own(ablation: Ablation) -> Iterator[Candidate]:
    """The fused vote in the whitened space, a user's own entries passed over."""
    inputs = ablation.bench.inputs
    order = np.argsort(inputs.entry_users, kind="stable")
    starts = np.searchsorted(inputs.entry_users[order], np.arange(inputs.num_users + 1))
    banned = [order[starts[user] : starts[user + 1]] for user in inputs.valid_users[ablation.rows]]
    queries, vectors = ablation.spaces["white"]
    found = variants.nearest(queries, vectors, min(max(NUM_NEIGHBORS), len(vectors)), banned=banned)
    for num, width in product(NUM_NEIGHBORS, WIDTHS):
        size = min(num, len(vectors))
        vote = variants.votes(found, ablation.entry_items, num_neighbors=size, width=width, num_items=ablation.num_items)
        for weight in WEIGHTS:
            yield {"num_neighbors": num, "width": width, "weight": weight}, partial(ablation.fused, vote, weight)


def _local(space: str, *, with_prior: bool) -> Callable[[Ablation], Iterator[Candidate]]:
    def candidates(ablation: Ablation) -> Iterator[Candidate]:
        queries, vectors = ablation.spaces[space]
        priors = np.zeros(ablation.num_items, np.float32)
        if with_prior:
            priors[ablation.items.item_indexes] = ablation.items.priors
        for num in NUM_NEIGHBORS:
            size = min(num, len(vectors))
            scores = variants.local_scores(
                queries, ablation.neighborhoods[space], vectors, ablation.entry_items, num_neighbors=size, num_items=ablation.num_items
            )
            yield {"num_neighbors": num}, partial(np.add, scores, priors)

    return candidates


def _first_tokens(ablation: Ablation) -> Iterator[Candidate]:
    """One matrix product more: the model's own opinion of each title's first token."""
    inputs = ablation.bench.inputs
    head = inputs.language_model.model.get_output_embeddings().weight.detach().float().cpu().numpy()
    first = np.array([title[0] for title in inputs.run.decoder.writer.titles], np.int64)
    scores = variants.first_token_scores(ablation.split.queries, head, first)
    for weight in WEIGHTS:
        yield {"weight": weight}, partial(ablation.fused, scores, weight)


def _item_pairs(ablation: Ablation) -> Iterator[Candidate]:
    """The paired decoder over the weights and scales that it is tuned on, older items weighing as by default, repeats as any item."""
    statistics, grid = ablation.statistics, DecoderConfig()
    lookup = PairLookup(ablation.bench.inputs.train.pairs(statistics, num_items=ablation.num_items), statistics.item_indexes)
    evidence = [lookup.evidence(recent_items(history), DecoderSettings.pair_recency_power) for history in ablation.split.samples.histories]
    for weight, scale in product(grid.pair_weights, grid.pair_scales):
        settings = DecoderSettings(pair_weight=weight, pair_scale=scale)
        shifts = [of_query.shifts(NOTHING_OLDER, settings) for of_query in evidence]
        yield {"pair_weight": weight, "pair_scale": scale}, partial(_shifted_scores, ablation.base, shifts)


def _repeats(ablation: Ablation) -> Iterator[Candidate]:
    """What the paired decoder adds to the history's own items before its last one, without its pairs."""
    for weight in DecoderConfig().repeat_weights:
        settings = DecoderSettings(repeat_weight=weight)
        shifts = [NO_EVIDENCE.shifts(older_items(recent_items(history)), settings) for history in ablation.split.samples.histories]
        yield {"repeat_weight": weight}, partial(_shifted_scores, ablation.base, shifts)


def _shifted_scores(base: FloatArray, shifts: Sequence[ScoreShifts]) -> FloatArray:
    scores = base.copy()
    for row, of_query in enumerate(shifts):
        scores[row, of_query.item_indexes] += of_query.amounts.astype(np.float32)
    return scores


def _histories(change: Callable[[Sequence[int]], Sequence[int]]) -> Callable[[Ablation], Iterator[Candidate]]:
    """Requests whose history is told otherwise; the memory stays."""

    def candidates(ablation: Ablation) -> Iterator[Candidate]:
        histories = [change(history) for history in ablation.split.samples.histories]
        queries = ablation.bench.inputs.run.decoder.encode(histories)
        rule = ablation.rule
        yield {}, partial(variants.whitened_scores, queries, ablation.items, rule.precision, ablation.num_items)

    return candidates


def _last(count: int) -> Callable[[Sequence[int]], Sequence[int]]:
    return lambda history: history[-count:]


def _without_repeats(history: Sequence[int]) -> Sequence[int]:
    """Of an item that stands several times the last place."""
    return list(dict.fromkeys(reversed(history)))[::-1]


def _reversed(history: Sequence[int]) -> Sequence[int]:
    return list(history)[::-1]


VARIANTS: Final[dict[str, Callable[[Ablation], Iterator[Candidate]]]] = {
    "tuned whitened decoder": _tuned,
    "without the prior": _switched_off(prior_weight=0.0),
    "without the prior's decay": _without_decay,
    "without shrinking means": _switched_off(mean_shrinkage=0.0),
    "toward the overall mean, not the title": _switched_off(shrinks_to_titles=False),
    "no whitening (identity)": _switched_off(shrinkage=1.0),
    "a covariance for each frequency bin": _binned,
    "states before the final norm": _other_states(_without_final_norm),
    "states of the layer below": _other_states(_without_last_layer),
    "several prototypes": _prototypes,
    "vote alone": _votes("plain", is_fused=False),
    "vote alone, whitened space": _votes("white", is_fused=False),
    "with a vote": _votes("plain", is_fused=True),
    "with a vote in the whitened space": _votes("white", is_fused=True),
    "with that vote, own entries dropped": _votes_without_own,
    "local, whitened space": _local("white", with_prior=False),
    "local, whitened space, with prior": _local("white", with_prior=True),
    "with the title's first token": _first_tokens,
    "with item pairs": _item_pairs,
    "with a weight of repeats": _repeats,
    "the last item alone": _histories(_last(1)),
    "the last three items": _histories(_last(3)),
    "without repeats": _histories(_without_repeats),
    "history reversed": _histories(_reversed),
}


def _reranked(ablation: Ablation) -> dict[str, Any]:
    """The first of the whitened decoder ranked again by the titles' likelihood, on few samples, and the seconds that it takes."""
    say("ablation: re-ranking by title likelihood")
    bench, inputs = ablation.bench, ablation.bench.inputs
    chosen = drawn(len(ablation.rows), bench.options.language_samples, seed=bench.options.seed)
    writer, model = inputs.run.decoder.writer, inputs.language_model.model.eval()
    likelihoods, started = np.full((len(chosen), ablation.num_items), variants.EXCLUDED), time.perf_counter()
    for place, row in enumerate(chosen.tolist()):
        first = np.argsort(-ablation.base[row], kind="stable")[:RERANKED]
        prompt = writer.write(ablation.split.samples.histories[row])
        likelihoods[place, first] = title_log_likelihoods(model, prompt, [writer.titles[i] for i in first], writer.prompts.terminator_id)
    per_thousand = 1000 * (time.perf_counter() - started) / len(chosen)
    base, targets = ablation.log_base[chosen], ablation.targets[chosen]
    found: dict[str, Any] = {"num_samples": len(chosen), "num_reranked": RERANKED, "seconds_per_1000": per_thousand}
    for name, scores in [("before", base), *((f"weight {w:g}", base + np.float32(w) * likelihoods) for w in RERANK_WEIGHTS)]:
        metrics = metric_means(variants.ranks_of(scores, targets))
        found[name] = {metric: metrics[metric] for metric in METRICS}
    return found
