"""Rows that read query vectors: the ID heads, and the latent-space decoders as the run tuned them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.bench import Bench, Fitted, Row
from benchmarks.quality.inputs import Entries, Inputs, Interactions
from l2d_ray.baselines.id_head import IdHead, LinearScores, QuerySamples, tune_id_head, whitened_start
from l2d_ray.decode.decoder import LatentDecoder
from l2d_ray.decode.linear import WhitenedRule
from l2d_ray.decode.settings import SYSTEM_NAMES, DecoderName, DecoderSettings
from l2d_ray.index.shard import shard_of_arrays
from l2d_ray.memory.statistics import Decay, statistics_of

DEFAULT: Final = "default"
"""The row of the decoder that jobs.tune_decoder made the default."""

QUERIES_PER_BLOCK: Final = 256


@dataclass(frozen=True, eq=False)
class LatentRow:
    """A decoder of ours; None is the default one."""

    decoder: LatentDecoder
    name: DecoderName | None

    def rank_queries(self, queries: NDArray[np.float32], histories: Sequence[Sequence[int]], k: int) -> NDArray[np.int64]:
        """(n, k) int64 item indexes, padded with -1."""
        blocks = []
        for start in range(0, len(queries), QUERIES_PER_BLOCK):
            rows = slice(start, start + QUERIES_PER_BLOCK)
            blocks.append(self.decoder.search(queries[rows], k, histories=histories[rows], decoder=self.name).ids)
        return np.concatenate(blocks)


def decoder_of(
    inputs: Inputs,
    entries: Entries,
    *,
    decay: Decay | None = None,
    sequences: Interactions | None = None,
    settings: DecoderSettings | None = None,
) -> LatentDecoder:
    """The run's decoder over another memory, one shard of it in this process.

    Args:
        sequences: the user sequences that this memory remembers; None: it has no item pairs.
        settings: None: those that were tuned on the whole memory.
    """
    run = inputs.run.decoder
    statistics = statistics_of(entries.item_indexes, entries.vectors, entries.timestamps, decay=decay or inputs.decay)
    shard = shard_of_arrays(entries.sample_ids, entries.item_indexes, entries.vectors, statistics, device=inputs.run.device)
    pairs = None if sequences is None else sequences.pairs(statistics, num_items=inputs.num_items)
    shard, pooled = replace(shard, titles=inputs.titles, pairs=pairs), inputs.pooled(statistics)
    return LatentDecoder(run.writer, run.encoder, shards=[shard], pooled=pooled, settings=settings or run.settings)


def latent(bench: Bench, *, name: DecoderName | None) -> Fitted:
    """Tuned by jobs.tune_decoder, on the latest validation samples."""
    decoder = bench.inputs.run.decoder
    chosen = decoder.settings if name is None else replace(decoder.settings, decoder=name)
    settings = asdict(chosen) | {"half_life_s": bench.inputs.decay.half_life_s}
    return Fitted(LatentRow(decoder, name), settings, num_parameters=bench.num_language_parameters)


def living_latent(bench: Bench, _fitted: Fitted, *, name: DecoderName | None) -> LatentRow:
    """The memory with the validation samples; counts that decay do so from the newest entry."""
    entries, decay = _living(bench)
    return LatentRow(decoder_of(bench.inputs, entries, decay=decay, sequences=bench.inputs.until_valid), name)


def closed_form(bench: Bench) -> LinearScores:
    """The whitened decoder, with its tuned settings, as a linear layer."""
    return _closed_form(bench, bench.inputs.entries, bench.inputs.decay)


def _closed_form(bench: Bench, entries: Entries, decay: Decay) -> LinearScores:
    settings = bench.inputs.run.decoder.settings
    statistics = statistics_of(entries.item_indexes, entries.vectors, entries.timestamps, decay=decay)
    rule = WhitenedRule.of(bench.inputs.pooled(statistics), settings)
    return whitened_start(statistics, rule, bench.inputs.titles, num_items=bench.inputs.num_items)


def _living(bench: Bench) -> tuple[Entries, Decay]:
    """The memory with the validation samples; counts that decay do so from the newest entry."""
    entries = Entries.joined([bench.inputs.entries, bench.inputs.valid_entries])
    return entries, replace(bench.inputs.decay, reference_time=int(entries.timestamps.max()))


def _head_row(grid_name: str, *, is_whitened: bool) -> Row:
    """A head on the memory's states. Retrained, it takes as many epochs as the tuned one's weights had seen."""

    def tuned(bench: Bench) -> Fitted:
        samples, start = _samples(bench.inputs.entries), closed_form(bench) if is_whitened else None
        num_items, device, validation = bench.inputs.num_items, bench.inputs.run.device, _validation(bench)
        return bench.timed(
            lambda: tune_id_head(
                samples, num_items, validation=validation, start=start, grid=getattr(bench.grids, grid_name), device=device
            ),
            num_shared=bench.num_language_parameters,
        )

    def again(bench: Bench, settings: Any, seed: int) -> IdHead:
        start, seeded = closed_form(bench) if is_whitened else None, replace(settings, seed=seed)
        samples, device = _samples(bench.inputs.entries), bench.inputs.run.device
        return IdHead(samples, bench.inputs.num_items, seeded, validation=_validation(bench), start=start, device=device)

    def retrained(bench: Bench, fitted: Fitted) -> IdHead:
        assert isinstance(fitted.system, IdHead)
        entries, decay = _living(bench)
        settings = replace(fitted.settings, max_epochs=fitted.system.num_epochs)
        start = _closed_form(bench, entries, decay) if is_whitened else None
        return IdHead(_samples(entries), bench.inputs.num_items, settings, start=start, device=bench.inputs.run.device)

    return Row("states", tuned, again, retrain=retrained, grid_names=(grid_name,), made_of="decoder" if is_whitened else "model")


def _samples(entries: Entries) -> QuerySamples:
    return QuerySamples(entries.vectors.astype(np.float32), entries.item_indexes)


def _validation(bench: Bench) -> QuerySamples:
    return QuerySamples(bench.inputs.valid.queries, bench.inputs.valid.samples.targets)


def _latent_row(name: DecoderName | None) -> Row:
    return Row(
        "decoder",
        lambda bench: latent(bench, name=name),
        extend=lambda bench, fitted: living_latent(bench, fitted, name=name),
    )


def state_rows(decoders: Sequence[DecoderName]) -> dict[str, Row]:
    """Heads, the decoders that the run can answer with, and the default one."""
    heads = {
        "id-head": _head_row("id_head", is_whitened=False),
        "id-head-whitened": _head_row("id_head_whitened", is_whitened=True),
    }
    return heads | {SYSTEM_NAMES[name]: _latent_row(name) for name in decoders} | {DEFAULT: _latent_row(None)}
