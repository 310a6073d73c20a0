"""Rows that join the whitened decoder with what knows no text: item-kNN, SASRec, both. Other information, so rows of their own.

Log-linear: log p = log p_whitened + a log p_sasrec + b log(share of item-kNN's evidence + SMALL), normalised over the catalogue where a
system gives scores; the two weights are chosen on the latest validation samples.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from benchmarks.quality.bench import Bench, Fitted, Row, num_parameters
from benchmarks.quality.state_rows import closed_form
from benchmarks.quality.variants import ranks_of
from l2d_ray.baselines.id_head import LinearScores
from l2d_ray.baselines.interface import rank_in_blocks
from l2d_ray.baselines.item_knn import ItemKnn
from l2d_ray.baselines.sequence_training import SequenceRanker
from l2d_ray.decode.decoder import LatentDecoder
from l2d_ray.evaluate.metrics import ndcg_values

SMALL: Final = 1e-3
"""Share of all evidence that an item without any is taken to have."""
WEIGHTS: Final = (0.0, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0, 3.5)
TUNING_SAMPLES: Final = 3000
SAMPLES_PER_BLOCK: Final = 512

FloatArray = NDArray[np.float64]
Histories = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Fusion:
    """Fits ``interface.Baseline``; a part without a weight is not asked.

    Attributes:
        layer: the whitened decoder as a linear layer; is_ranked: (num_items,) the items that it ranks.
        weights: of ``sasrec`` and ``knn``.
    """

    decoder: LatentDecoder
    layer: LinearScores
    is_ranked: NDArray[np.bool_]
    sasrec: SequenceRanker | None
    knn: ItemKnn | None
    weights: Mapping[str, float]

    def rank(self, histories: Histories, k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history, (n, k) int64 padded with -1."""
        return rank_in_blocks(histories, self._scores, k, exclude, num_items=len(self.is_ranked))

    def _scores(self, histories: Histories) -> FloatArray:
        parts = self.parts(histories)
        return parts["whitened"] + sum(self.weights[name] * found for name, found in parts.items() if name != "whitened")

    def parts(self, histories: Histories) -> dict[str, FloatArray]:
        """Log-probabilities (n, num_items) of each part; at least one history, none of them empty."""
        found = {"whitened": self._whitened(self.decoder.encode(histories))}
        if self.sasrec is not None and self.weights["sasrec"]:
            found["sasrec"] = self.sasrec.log_probabilities(histories)
        if self.knn is not None and self.weights["knn"]:
            evidence = np.maximum(self.knn.scores(histories), 0)
            found["knn"] = np.log(evidence / np.maximum(evidence.sum(axis=1, keepdims=True), 1e-12) + SMALL)
        return found

    def _whitened(self, queries: NDArray[np.float32]) -> FloatArray:
        scores = (queries @ self.layer.weights.T + self.layer.offsets).astype(np.float64)
        scores[:, ~self.is_ranked] = scores[:, self.is_ranked].min(axis=1, keepdims=True) - 1.0
        normalised: FloatArray = log_softmax(scores, axis=1)
        return normalised


def fused(bench: Bench, *, parts: tuple[str, ...]) -> Fitted:
    """``parts``: sasrec, knn, or both."""
    chosen = bench.store.record(
        f"fusion-{'-'.join(parts)}-tuning",
        [bench.model_key, *(bench.depends(name) for name in ("sasrec", "item-knn")), WEIGHTS, TUNING_SAMPLES],
        partial(_search, bench, parts),
    )
    system = _fusion(bench, parts, {name: chosen["best"][name] for name in ("sasrec", "knn")})
    total = bench.num_language_parameters + (num_parameters(system.sasrec) if system.sasrec is not None else 0)
    return Fitted(system, chosen["best"], tuple((settings, score) for settings, score in chosen["tried"]), chosen["fit_s"], total)


def _fusion(bench: Bench, parts: tuple[str, ...], weights: Mapping[str, float]) -> Fusion:
    run, layer = bench.inputs.run, closed_form(bench)
    sasrec: Any = bench.fitted("sasrec").system if "sasrec" in parts else None
    knn: Any = bench.fitted("item-knn").system if "knn" in parts else None
    return Fusion(run.decoder, layer, np.abs(layer.weights).sum(axis=1) > 0, sasrec, knn, weights)


def _search(bench: Bench, parts: tuple[str, ...]) -> dict[str, Any]:
    started, split = time.perf_counter(), bench.inputs.valid.latest(TUNING_SAMPLES)
    everything = _fusion(bench, parts, dict.fromkeys(("sasrec", "knn"), 1.0))
    candidates = [
        dict(zip(("sasrec", "knn"), pair, strict=True))
        for pair in product(*(WEIGHTS if name in parts else (0.0,) for name in ("sasrec", "knn")))
    ]
    ranks: list[list[NDArray[np.int64]]] = [[] for _ in candidates]
    for start in range(0, len(split), SAMPLES_PER_BLOCK):
        rows = slice(start, start + SAMPLES_PER_BLOCK)
        found = everything.parts(split.samples.histories[rows])
        for place, weights in enumerate(candidates):
            scores = found["whitened"] + sum(weights[name] * found[name] for name in parts)
            ranks[place].append(ranks_of(scores.astype(np.float32), split.samples.targets[rows]))
    scored = [float(ndcg_values(np.concatenate(of_one), 20).mean()) for of_one in ranks]
    tried = [[settings, score] for settings, score in zip(candidates, scored, strict=True)]
    return {"best": candidates[int(np.argmax(scored))], "tried": tried, "fit_s": time.perf_counter() - started}


FUSION_ROWS: Final = {
    "default+item-knn": Row("items", partial(fused, parts=("knn",)), grid_names=("item_knn",), is_fitted=False),
    "default+sasrec": Row("items", partial(fused, parts=("sasrec",)), grid_names=("sasrec",), is_fitted=False),
    "default+both": Row("items", partial(fused, parts=("sasrec", "knn")), grid_names=("sasrec", "item_knn"), is_fitted=False),
}
