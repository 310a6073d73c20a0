"""Kills a memory build by seed, again and again, until it ends: every sample is there once, and no committed part was encoded again.

    python -m benchmarks.build_crashes [--small] [--runs N] [--seed N]

A run is one ``kill -9`` of a worker (an encoder actor's process), of the driver, or of the whole cluster (the driver and all processes of
the Ray it started), at a named crash point when it is reached for the n-th time, or at a random moment. After the driver or the cluster
was killed the next run goes on with the same memory; after a worker was killed the build has to end by itself. Every memory that has
ended is compared with the one that an undisturbed build of the same data and model made (benchmarks.crash_runs).
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ray

from benchmarks.crash_points import ACTOR_POINTS, DRIVER_POINTS
from benchmarks.crash_runs import (
    CLUSTER,
    DRIVER,
    NUM_PARTS,
    RANDOM,
    WORKER,
    Comparison,
    Kill,
    Outcome,
    Place,
    compare,
    finish,
    make_run_dir,
    run,
)
from benchmarks.result import arguments, print_result, target
from l2d_ray.cluster import connect


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num_runs = options.runs or (4 if options.small else 54)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, connect(None, 4):
        make_run_dir(options.run_dir or Path(folder))
        undisturbed = Place(options.run_dir or Path(folder), 0)
        finish(undisturbed, ray.get_runtime_context().gcs_address)
        outcomes, comparisons = run_all(undisturbed, kills(options.seed), num_runs)
    killed = [outcome.killed for outcome in outcomes if outcome.killed]
    figures = {
        "small": options.small,
        "seed": options.seed,
        "num_parts": NUM_PARTS,
        "runs": len(killed),
        "by_kind": dict(Counter(kill.what for kill in killed)),
        "by_point": dict(Counter(kill.point for kill in killed)),
        "memories": len(comparisons),
        "lost": sum(c.num_lost for c in comparisons),
        "doubled": sum(c.num_doubled for c in comparisons),
        "committed_parts_encoded_again": sum(outcome.num_encoded_again for outcome in outcomes),
        "same_digest": sum(c.has_same_digest for c in comparisons),
        "seconds": round(time.monotonic() - started, 1),
    }
    targets = {
        "runs": target(len(killed), num_runs),
        "samples lost": target(figures["lost"], 0, at_most=True),
        "samples doubled": target(figures["doubled"], 0, at_most=True),
        "committed parts encoded again": target(figures["committed_parts_encoded_again"], 0, at_most=True),
        "memories with the undisturbed digest": target(figures["same_digest"], len(comparisons)),
    }
    print_result("build_crashes", figures, targets)


def run_all(undisturbed: Place, drawn: Iterator[Kill], num_runs: int) -> tuple[list[Outcome], list[Comparison]]:
    """Runs until so many processes have been killed, and every memory that was begun has ended."""
    outcomes: list[Outcome] = []
    comparisons: list[Comparison] = []
    address = ray.get_runtime_context().gcs_address
    place = Place(undisturbed.run_dir, 1)
    while sum(outcome.killed is not None for outcome in outcomes) < num_runs:
        outcomes.append(run(place, next(drawn), address))
        if outcomes[-1].has_ended:
            comparisons.append(compare(place, undisturbed))
            place = Place(place.run_dir, place.number + 1)
    if place.journal.path.exists():
        outcomes.append(finish(place, address))
        comparisons.append(compare(place, undisturbed))
    return outcomes, comparisons


def kills(seed: int) -> Iterator[Kill]:
    """Every kind in turn, the rest by seed."""
    rng = np.random.default_rng(seed)
    while True:
        for what in (DRIVER, CLUSTER, WORKER):
            points = ACTOR_POINTS if what == WORKER else (*ACTOR_POINTS, *DRIVER_POINTS)
            if rng.random() < 0.7:
                yield Kill(what, str(rng.choice(points)), occurrence=int(rng.integers(1, 4)))
            else:
                at_start = what != WORKER and rng.random() < 0.3
                yield Kill(what, RANDOM, delay_s=float(rng.uniform(0, 4.0 if at_start else 0.4)), at_start=at_start)


if __name__ == "__main__":
    main()
