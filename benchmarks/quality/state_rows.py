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


def living_latent(bench: Bench, _settings: Any, *, name: DecoderName | None) -> LatentRow:
    """The memory with the validation samples; counts that decay do so from the newest entry."""
    entries = Entries.joined([bench.inputs.entries, bench.inputs.valid_entries])
    decay = replace(bench.inputs.decay, reference_time=int(entries.timestamps.max()))
    return LatentRow(decoder_of(bench.inputs, entries, decay=decay, sequences=bench.inputs.until_valid), name)


def id_head(bench: Bench) -> Fitted:
    return _id_head(bench, None)


def id_head_whitened(bench: Bench) -> Fitted:
    return _id_head(bench, closed_form(bench))


def id_head_again(bench: Bench, settings: Any, seed: int) -> IdHead:
    return _refit(bench, None, settings, seed)


def id_head_whitened_again(bench: Bench, settings: Any, seed: int) -> IdHead:
    return _refit(bench, closed_form(bench), settings, seed)


def closed_form(bench: Bench) -> LinearScores:
    """The whitened decoder, with its tuned settings, as a linear layer."""
    entries, settings = bench.inputs.entries, bench.inputs.run.decoder.settings
    statistics = statistics_of(entries.item_indexes, entries.vectors, entries.timestamps, decay=bench.inputs.decay)
    rule = WhitenedRule.of(bench.inputs.pooled(statistics), settings)
    return whitened_start(statistics, rule, bench.inputs.titles, num_items=bench.inputs.num_items)


def _id_head(bench: Bench, start: LinearScores | None) -> Fitted:
    samples, validation = _samples(bench)
    num_items, grid, device = bench.inputs.num_items, bench.grids.id_head, bench.inputs.run.device
    return bench.timed(
        lambda: tune_id_head(samples, num_items, validation=validation, start=start, grid=grid, device=device),
        num_shared=bench.num_language_parameters,
    )


def _refit(bench: Bench, start: LinearScores | None, settings: Any, seed: int) -> IdHead:
    samples, validation = _samples(bench)
    again = replace(settings, seed=seed)
    return IdHead(samples, bench.inputs.num_items, again, validation=validation, start=start, device=bench.inputs.run.device)


def _samples(bench: Bench) -> tuple[QuerySamples, QuerySamples]:
    """The memory's entries to train on, and the validation queries."""
    inputs = bench.inputs
    train = QuerySamples(inputs.entries.vectors.astype(np.float32), inputs.entries.item_indexes)
    return train, QuerySamples(inputs.valid.queries, inputs.valid.samples.targets)


def _latent_row(name: DecoderName | None) -> Row:
    return Row(
        "decoder",
        lambda bench: latent(bench, name=name),
        extend=lambda bench, settings: living_latent(bench, settings, name=name),
    )


def state_rows(decoders: Sequence[DecoderName]) -> dict[str, Row]:
    """Heads, the decoders that the run can answer with, and the default one."""
    heads = {
        "id-head": Row("states", id_head, id_head_again, grid_names=("id_head",)),
        "id-head-whitened": Row("states", id_head_whitened, id_head_whitened_again, grid_names=("id_head",)),
    }
    return heads | {SYSTEM_NAMES[name]: _latent_row(name) for name in decoders} | {DEFAULT: _latent_row(None)}
