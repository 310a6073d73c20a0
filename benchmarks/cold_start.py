"""Items that nobody has chosen yet: 5 % of all items are hidden from fine-tuning and memory, and recommended by their titles alone.

    python -m benchmarks.cold_start data/amazon_Video_Games_2015 [--small] [--run-dir runs/NAME] [--share 0.05] [key=value ...]

Their training interactions are taken out before anything is trained; validation and test samples stay whole, those whose target is hidden
are the cold ones. ``default`` counts an item without entries as jobs.tune_decoder chose, on all validation samples alike; ``bounded`` as
many entries as cost the warm validation samples at most 1.5 % of Recall@50. Test is scored once.
"""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.amazon_mini import SMALL
from benchmarks.d3_folder import convert
from benchmarks.folders import run_dir_of
from benchmarks.quality.inputs import Inputs, read_inputs
from benchmarks.quality.state_rows import LatentRow, decoder_of
from benchmarks.result import arguments, print_result, target
from jobs.quickstart import TUNED_RUN
from jobs.stages import run_stages
from l2d_ray.baselines.popularity import Popularity
from l2d_ray.baselines.title_space import TitleSpace
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig, load_config
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, part_paths, read_part, write_part
from l2d_ray.decode.settings import BY_DISTANCE
from l2d_ray.evaluate.metrics import metric_means, target_ranks
from l2d_ray.evaluate.protocol import NUM_RANKED
from l2d_ray.evaluate.queries import EncodedSplit
from l2d_ray.schema import TRAIN

COLD_COUNTS: Final = (None, 0.0, 0.1, 0.3, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 30.0)
WARM_LOSS: Final = 0.015
METRICS: Final = ("recall@10", "recall@20", "recall@50")
HIDDEN: Final = "hidden.json"
Ranked = NDArray[np.int64]


def main() -> None:
    options = _options()
    run_dir = run_dir_of(options, "{}_cold")
    small = SMALL if options.small else []
    config = load_config(["--config", "jobs/configs/amazon_games.yaml", f"run_dir={run_dir}", *small, *options.overrides])
    config.run_dir.mkdir(parents=True, exist_ok=True)
    whole = config.run_dir / "whole"
    convert(options.folder, whole, users_per_part=config.data.users_per_part)
    hide_items(whole, config.data_dir, share=options.share, seed=config.seed)
    with connect(config.ray.address, config.ray.num_cpus):
        run_stages(TUNED_RUN, config)
    figures = measure(config)
    cold, warm = figures["test"]["bounded"]["cold"]["recall@50"], figures["test"]["bounded"]["warm"]["recall@50"]
    plain = figures["test"]["without cold items"]["warm"]["recall@50"]
    targets = {
        "cold recall@50 over warm": target(round(cold / max(warm, 1e-9), 3), 0.4),
        "warm recall@50 lost": target(round(1 - warm / max(plain, 1e-9), 4), 0.02, at_most=True),
    }
    print_result("cold_start", {"small": options.small, "data": options.folder.name, "share": options.share} | figures, targets)


def hide_items(whole: Path, data_dir: Path, *, share: float, seed: int) -> None:
    """The prepared data without the training interactions of some items, drawn among those that have any; nothing where it is there."""
    if data_dir.is_dir():
        return
    trained = sorted({item for path in part_paths(whole) for s in read_part(path) for item in s.item_ids[: s.num_train]})
    hidden = set(np.random.default_rng(seed).choice(trained, round(share * len(trained)), replace=False).tolist())
    partial = data_dir.with_name(data_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "sequences").mkdir(parents=True)
    for path in part_paths(whole):
        kept = (without_training_on(sequence, hidden) for sequence in read_part(path))
        write_part(partial / "sequences" / path.name, [sequence for sequence in kept if len(sequence)])
    shutil.copy(whole / "items.parquet", partial)
    card = json.loads((whole / "card.json").read_text()) | {"num_hidden_items": len(hidden), "seed": seed}
    (partial / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    (partial / HIDDEN).write_text(json.dumps(sorted(hidden)) + "\n")
    partial.rename(data_dir)


def without_training_on(sequence: UserSequence, hidden: set[str]) -> UserSequence:
    """The same user without training interactions with these items."""
    rows = zip(sequence.item_ids, sequence.timestamps, sequence.splits, strict=True)
    kept = [row for row in rows if row[2] != TRAIN or row[0] not in hidden]
    items, times, splits = zip(*kept, strict=True) if kept else ((), (), ())
    return UserSequence(sequence.user_id, tuple(items), tuple(times), tuple(splits))


@dataclass(frozen=True, eq=False)
class Protocol:
    """What is ranked, and which of a split's samples have a hidden target."""

    inputs: Inputs
    is_hidden: NDArray[np.bool_]

    def scores(self, ranked: Ranked, split: EncodedSplit) -> dict[str, dict[str, float]]:
        """Recall on the cold, the warm and all samples."""
        ranks, is_cold = target_ranks(ranked, split.samples.targets), self.is_hidden[split.samples.targets]
        parts = {"cold": is_cold, "warm": ~is_cold, "mixed": np.ones(len(ranks), dtype=bool)}
        means = {name: metric_means(ranks[mask]) for name, mask in parts.items()}
        return {name: {metric: found[metric] for metric in METRICS} for name, found in means.items()}

    def decoded(self, cold_count: float | None, split: EncodedSplit) -> Ranked:
        """The tuned decoder (the whitened one where that ranks no cold items) with another count for items without entries."""
        inputs = self.inputs
        settings = replace(inputs.run.decoder.settings, cold_count=cold_count, shrinks_to_titles=True)
        decoder = decoder_of(inputs, inputs.entries, sequences=inputs.train, settings=settings)
        row = LatentRow(decoder, "whitened" if settings.decoder in BY_DISTANCE else settings.decoder)
        return row.rank_queries(split.queries, split.samples.histories, NUM_RANKED)

    def nearest_titles(self, states: NDArray[np.float32], num_recent: int, split: EncodedSplit) -> Ranked:
        """A text-embedding kNN: titles by their cosine to the mean of the last items' titles."""
        unit = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-9)
        queries = np.stack([unit[history[-num_recent:]].mean(axis=0) for history in split.samples.histories])
        return np.argsort(-(queries @ unit.T), axis=1, kind="stable")[:, :NUM_RANKED]


def measure(config: RunConfig) -> dict[str, Any]:
    """Everything is chosen on validation."""
    inputs = read_inputs(config, config.run_dir)
    catalogue: Catalogue = inputs.run.catalogue
    hidden = json.loads((config.data_dir / HIDDEN).read_text())
    is_hidden = np.isin(np.arange(len(catalogue)), catalogue.indexes_of(hidden))
    protocol = Protocol(inputs, is_hidden)
    assert not is_hidden[inputs.entries.item_indexes].any()
    sweep = {str(count): protocol.scores(protocol.decoded(count, inputs.valid), inputs.valid) for count in COLD_COUNTS}
    bounded = bounded_count(sweep)
    systems: dict[str, Callable[[EncodedSplit], Ranked]] = {
        "default": lambda split: protocol.decoded(inputs.run.decoder.settings.cold_count, split),
        "bounded": lambda split: protocol.decoded(bounded, split),
        "without cold items": lambda split: protocol.decoded(None, split),
        "nearest titles": chosen_titles(protocol),
        "popularity": lambda split: Popularity(inputs.train.items, len(catalogue), None).rank(split.samples.histories, NUM_RANKED),
    }
    is_cold = is_hidden[inputs.test.samples.targets]
    return {
        "num_hidden_items": len(hidden),
        "num_cold_samples": {"valid": int(is_hidden[inputs.valid.samples.targets].sum()), "test": int(is_cold.sum())},
        "num_test_samples": len(is_cold),
        "settings": vars(inputs.run.decoder.settings),
        "bounded_cold_count": bounded,
        "validation": sweep,
        "test": {name: protocol.scores(rank(inputs.test), inputs.test) for name, rank in systems.items()},
    }


def bounded_count(sweep: Mapping[str, Mapping[str, Mapping[str, float]]]) -> float | None:
    """The largest count that costs warm samples no more than WARM_LOSS of what they have without cold items."""
    least = (1 - WARM_LOSS) * sweep["None"]["warm"]["recall@50"]
    allowed = [float(name) for name, found in sweep.items() if name != "None" and found["warm"]["recall@50"] >= least]
    return max(allowed, default=None)


def chosen_titles(protocol: Protocol) -> Callable[[EncodedSplit], Ranked]:
    """The text-embedding kNN with the space and the length of history that are best for cold targets on validation."""
    inputs = protocol.inputs
    assert inputs.titles is not None
    bare = TitleSpace(inputs.run.decoder.encoder, inputs.language_model.tokenizer, inputs.run.catalogue.titles).vectors
    spaces = (bare, inputs.titles.states.astype(np.float32))

    def rank(space: int, num_recent: int, split: EncodedSplit) -> Ranked:
        return protocol.nearest_titles(spaces[space], num_recent, split)

    candidates = [(space, num_recent) for space in range(len(spaces)) for num_recent in (1, 3, 10)]
    scored = [protocol.scores(rank(*candidate, inputs.valid), inputs.valid)["cold"]["recall@50"] for candidate in candidates]
    best = candidates[int(np.argmax(scored))]
    return lambda split: rank(*best, split)


def _options() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path, help="a data set in the D3 protocol")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ")
    parser.add_argument("--share", type=float, default=0.05, help="share of the items that are hidden")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    main()
