"""Every system of the field on one protocol, with its cost, and what the memory is worth.

    python -m benchmarks.quality data/amazon_Video_Games_2015 [--small] [--run-dir runs/NAME] [--rows popularity,l2d-w,default]
        [--grids quick|full] [--seeds 3] [--model-seeds 1] [--language-samples 1000] [--samples N] [key=value ...]

The folder went through the D3 protocol already, as for benchmarks.amazon_mini: a finished run directory of that benchmark (same settings)
is not computed again. Or it holds raw Amazon files (2018 release: meta_Video_Games.json.gz and Video_Games_5.json.gz), which are brought
through the protocol; the sizes that the paper states are then targets too. ``movielens`` in its place is MovieLens-100K, as the quickstart
has it. Everything is tuned on validation, test is scored once. Each result is kept below RUN_DIR/quality, so the benchmark can be
interrupted and goes on where it was; delete a file there to have it made anew. With --model-seeds the language model is trained and the
decoders are tuned with other seeds too, below RUN_DIR/seed-N, which takes as long again for each.

To publish a run: keep the printed line as benchmarks/results/quality-NAME.json, then ``python -m benchmarks.quality.report``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

from benchmarks.amazon_mini import SMALL as SMALL_RUN
from benchmarks.folders import folder_arguments, paper_targets, run_config, run_dir_of
from benchmarks.quality.ablations import ablations
from benchmarks.quality.bench import Bench, Options, say
from benchmarks.quality.cost import measure_cost
from benchmarks.quality.grids import NAME_TO_GRIDS, QUICK, SMALL
from benchmarks.quality.inputs import read_inputs
from benchmarks.quality.living import living_memory, retrained_rows
from benchmarks.quality.rows import all_rows, chosen_names
from benchmarks.quality.scoring import decoder_metrics, score_row
from benchmarks.quality.store import Store, rounded
from benchmarks.quality.summary import row_figures, setting, targets_of
from benchmarks.quality.sweep import sweep_memory
from benchmarks.result import print_result
from jobs.quickstart import TUNED_RUN
from jobs.stages import FinishedStage, run_stages
from l2d_ray.config import RunConfig
from l2d_ray.memory.on_ray import hash_of_data

NUM_SEEDS = 3
SMALL_SAMPLES = 300
SMALL_OPTIONS = Options(SMALL, beams=(1, 4), language_samples=50, cost_requests=4, decoder_requests=32, cost_rounds=1, num_bootstrap=200)


def main() -> None:
    options = _parser().parse_intermixed_args()
    run_dir = run_dir_of(options)
    overrides = [*(SMALL_RUN if options.small else []), *options.overrides]
    max_samples = options.samples or (SMALL_SAMPLES if options.small else None)

    def run_of(config: RunConfig) -> tuple[Bench, dict[str, FinishedStage]]:
        finished = run_stages(TUNED_RUN, config)
        return make_bench(config, _options(options, config), max_samples=max_samples), finished

    config = run_config(options.folder, run_dir, overrides)
    bench, finished = run_of(config)
    names = chosen_names(bench.rows, options.rows)
    num_seeds = options.seeds or (1 if options.small else NUM_SEEDS)
    figures = measure(bench, names, seeds=range(1, num_seeds), config=config)
    for seed in range(1, options.model_seeds):
        again, _ = run_of(run_config(options.folder, run_dir / f"seed-{seed}", [*overrides, f"seed={config.seed + seed}"]))
        for name, metrics in decoder_metrics(again, names).items():
            figures["rows"][name]["seeds"][str(seed)] = metrics
    is_small = options.small or options.samples is not None or options.grids == "small"
    head = {"small": is_small, "data": options.folder.name, "grids": options.grids or ("small" if options.small else "quick")}
    targets = targets_of(options.folder.name, figures) | paper_targets(options.folder, config.data_dir)
    print_result("quality", rounded(head | _model(finished) | figures), targets)


def make_bench(config: RunConfig, options: Options, *, max_samples: int | None) -> Bench:
    """A finished run with a store beside it."""
    folder = config.run_dir / "quality"
    store = Store(folder, [hash_of_data(config.data_dir), max_samples, config.seed])
    inputs = read_inputs(config, folder, max_samples=max_samples)
    decoder = inputs.run.decoder
    decoder_key = json.dumps([inputs.language_model.fingerprint, inputs.memory_digest, vars(decoder.settings), vars(inputs.decay)])
    return Bench(inputs, options, store, all_rows(options.beams, decoder.decoders), decoder_key=decoder_key)


def measure(bench: Bench, names: list[str], *, seeds: range, config: RunConfig) -> dict[str, Any]:
    """Scores, cost, the memory sweep and the living memory."""
    started = time.perf_counter()
    scored = {name: score_row(bench, name) for name in names}
    rows = row_figures(bench, scored, seeds)
    living = living_memory(bench, names)
    retrained = retrained_rows(bench, names)
    sweep = sweep_memory(bench, bench.inputs.valid.latest(config.decoder.max_samples))
    tried = ablations(bench, config.decoder.max_samples)
    cost = measure_cost(bench, names)
    say(f"done in {time.perf_counter() - started:.0f} s")
    return {
        **setting(bench),
        "rows": rows,
        "cost": cost,
        "living": living,
        "retrained": retrained,
        "memory_sweep": sweep,
        "ablations": tried,
    }


def _options(options: argparse.Namespace, config: RunConfig) -> Options:
    chosen = SMALL_OPTIONS if options.small else Options(QUICK, num_bootstrap=config.evaluate.num_bootstrap)
    if options.grids is not None:
        chosen = replace(chosen, grids=NAME_TO_GRIDS[options.grids])
    if options.language_samples is not None:
        chosen = replace(chosen, language_samples=options.language_samples)
    return replace(chosen, seed=config.seed)


def _model(finished: dict[str, FinishedStage]) -> dict[str, Any]:
    """What all rows of the language model share."""
    return {
        "num_epochs": len(finished["train"].result.get("curve", [])),
        "shared_seconds": {name: stage.seconds for name, stage in finished.items()},
        "num_decoder_trials": len(finished["tune_decoder"].result["trials"]),
        "num_decoder_samples": finished["tune_decoder"].result["num_samples"],
    }


def _parser() -> argparse.ArgumentParser:
    parser = folder_arguments(__doc__)
    parser.add_argument("--rows", default=None, help="rows to do, separated by commas; all by default")
    parser.add_argument("--grids", choices=list(NAME_TO_GRIDS), default=None, help="what is tried on validation; quick by default")
    parser.add_argument("--seeds", type=int, default=None, help="seeds of the trained rows, the tuned one (0) included; 3 by default")
    parser.add_argument("--model-seeds", type=int, default=1, help="seeds of the language model, the run's own included; 1 by default")
    parser.add_argument("--language-samples", type=int, default=None, help="test samples for rows that write titles; 1,000 by default")
    parser.add_argument("--samples", type=int, default=None, help="at most so many validation and test samples; all by default")
    return parser


if __name__ == "__main__":
    main()
