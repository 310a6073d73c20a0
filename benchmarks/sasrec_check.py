"""Whether our SASRec is as good as a published implementation: MovieLens-100K, leave-one-out, all items ranked.

    python -m benchmarks.sasrec_check [--small] [--run-dir runs/NAME]

The published figure is that of UniRec's SASRec on the validation items of MovieLens-100K at its best epoch, items of the history left out:
hit@10 .1289, ndcg@10 .0727 (log in https://github.com/recommenders-team/recommenders/issues/2111). Ours is stopped by the same items, so
that both figures are equally flattered; all ratings are kept, users and items with fewer than five are dropped.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.result import arguments, print_result, target
from jobs import prepare_data
from l2d_ray.baselines.sasrec import SasRecSettings, fit_sasrec
from l2d_ray.baselines.sequence_training import TrainingSettings
from l2d_ray.baselines.tuning import ValidationSamples
from l2d_ray.config import load_config
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import iter_sequences
from l2d_ray.evaluate.metrics import metric_means, target_ranks
from l2d_ray.schema import VALID

PUBLISHED: Final = {"recall@10": 0.1289, "ndcg@10": 0.0727}
DROPOUTS: Final = (0.2, 0.5)
SETTINGS: Final = ("data.min_rating=null", "data.split=leave-one-out", "data.k_core=5")


def main() -> None:
    options = arguments(__doc__).parse_args()
    config = load_config([f"run_dir={options.run_dir or Path('runs/sasrec_check')}", *SETTINGS])
    if not config.data_dir.is_dir():
        prepare_data.main(config)
    catalogue = Catalogue.read(config.data_dir / "items.parquet")
    sequences = list(iter_sequences(config.data_dir))
    train = [catalogue.indexes_of(sequence.item_ids[: sequence.num_train]) for sequence in sequences]
    held_out = [
        (catalogue.indexes_of(sequence.item_ids[:position]), catalogue.item_id_to_index[sequence.item_ids[position]])
        for sequence in sequences
        for position in sequence.target_positions(VALID)
    ]
    validation = ValidationSamples([history for history, _ in held_out], np.array([item for _, item in held_out], np.int64))
    training = TrainingSettings(learning_rate=1e-3, max_epochs=2 if options.small else 200, patience=10)
    runs: list[dict[str, Any]] = []
    for dropout in DROPOUTS[: 1 if options.small else None]:
        started = time.perf_counter()
        settings = replace(SasRecSettings(), dropout=dropout, training=training)
        system = fit_sasrec(train, len(catalogue), settings, validation=validation)
        ranked = system.rank(validation.histories, 100, exclude=[set(history) for history in validation.histories])
        metrics = metric_means(target_ranks(ranked, validation.targets))
        runs.append({"dropout": dropout, "epochs": system.num_epochs, "seconds": time.perf_counter() - started, "metrics": metrics})
    best = max(runs, key=lambda run: run["metrics"]["ndcg@10"])
    figures = {"small": options.small, "num_users": len(sequences), "num_items": len(catalogue), "published": PUBLISHED, "runs": runs}
    measured = {name: round(best["metrics"][name], 4) for name in PUBLISHED}
    print_result("sasrec_check", figures, {name: target(measured[name], wanted) for name, wanted in PUBLISHED.items()})


if __name__ == "__main__":
    main()
