"""Rows that join the whitened decoder with what knows no text: item-kNN, SASRec, both. Other information, so rows of their own.

Three ways, the best of them on the latest validation samples, with weights chosen there too. Item-kNN gives each item evidence e and
a request evidence E in all; p are probabilities over the catalogue, and t < 1, since the whitened decoder is surer than it is right.

    log-linear  log p = log p_whitened + a log p_sasrec + b log(e/E + SMALL): all must find an item likely
    mixture     p = (1 - a - b) softmax(t log p_whitened) + a p_sasrec + b e/E: it is enough that one does. Where item-kNN knows pairs of
                items that no title tells, this is the way
    back-off    p = (e + b q) / (E + b), q = (1 - a) softmax(t log p_whitened) + a p_sasrec: a mixture in which item-kNN counts for as much
                as it has evidence (Dirichlet smoothing, as n-gram models fall back on shorter contexts; MacKay and Peto 1995)
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

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
WEIGHTS: Final = (0.0, 0.3, 0.8, 2.0, 5.0, 10.0, 20.0, 40.0)
SHARES: Final = (0.0, 0.2, 0.4, 0.6, 0.8)
STRENGTHS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
TEMPERING: Final = (1.0, 0.2, 0.1, 0.05)
TUNING_SAMPLES: Final = 3000
SAMPLES_PER_BLOCK: Final = 512

FloatArray = NDArray[np.float64]
Histories = Sequence[Sequence[int]]


Way = Literal["log-linear", "mixture", "back-off"]


@dataclass(frozen=True)
class Joining:
    """How parts are joined.

    Attributes:
        sasrec, knn: a and b.
        tempering: t; of no use to log-linear.
    """

    way: Way
    sasrec: float
    knn: float
    tempering: float = 1.0

    def scores(self, parts: Mapping[str, FloatArray]) -> FloatArray:
        """(n, num_items), larger is better, of ``Fusion.parts``; a part that is not there has no weight."""
        whitened, sasrec, evidence = parts["whitened"], parts.get("sasrec"), parts.get("knn")
        a, b = self.sasrec if sasrec is not None else 0.0, self.knn if evidence is not None else 0.0
        share = 0.0 if evidence is None else evidence / np.maximum(evidence.sum(axis=1, keepdims=True), 1e-12)
        if self.way == "log-linear":
            added: FloatArray = whitened + (0.0 if sasrec is None else a * sasrec) + b * np.log(share + SMALL)
            return added
        from_whitened, from_sasrec = softmax(self.tempering * whitened, axis=1), 0.0 if sasrec is None else a * np.exp(sasrec)
        if self.way == "mixture":
            mixed: FloatArray = (1 - a - b) * from_whitened + from_sasrec + b * share
            return mixed
        backed: FloatArray = b * ((1 - a) * from_whitened + from_sasrec)
        return backed if evidence is None else backed + evidence


@dataclass(frozen=True, eq=False)
class Fusion:
    """Fits ``interface.Baseline``; a part without a weight is not asked.

    Attributes:
        layer: the whitened decoder as a linear layer; is_ranked: (num_items,) the items that it ranks.
    """

    decoder: LatentDecoder
    layer: LinearScores
    is_ranked: NDArray[np.bool_]
    sasrec: SequenceRanker | None
    knn: ItemKnn | None
    joining: Joining

    def rank(self, histories: Histories, k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history, (n, k) int64 padded with -1."""
        return rank_in_blocks(histories, self._scores, k, exclude, num_items=len(self.is_ranked))

    def _scores(self, histories: Histories) -> FloatArray:
        return self.joining.scores(self.parts(histories))

    def parts(self, histories: Histories) -> dict[str, FloatArray]:
        """(n, num_items) of each part: log-probabilities, and item-kNN's evidence; at least one history, none of them empty."""
        found = {"whitened": self._whitened(self.decoder.encode(histories))}
        if self.sasrec is not None and self.joining.sasrec:
            found["sasrec"] = self.sasrec.log_probabilities(histories)
        if self.knn is not None and self.joining.knn:
            found["knn"] = np.maximum(self.knn.scores(histories), 0)
        return found

    def _whitened(self, queries: NDArray[np.float32]) -> FloatArray:
        scores = (queries @ self.layer.weights.T + self.layer.offsets).astype(np.float64)
        scores[:, ~self.is_ranked] = scores[:, self.is_ranked].min(axis=1, keepdims=True) - 1.0
        normalised: FloatArray = log_softmax(scores, axis=1)
        return normalised


def fused(bench: Bench, *, parts: tuple[str, ...]) -> Fitted:
    """``parts``: sasrec, knn, or both."""
    depends = [
        bench.decoder_key,
        *(bench.depends(name) for name in ("sasrec", "item-knn")),
        WEIGHTS,
        SHARES,
        STRENGTHS,
        TEMPERING,
        TUNING_SAMPLES,
    ]
    chosen = bench.store.record(f"fusion-{'-'.join(parts)}-tuning", depends, partial(_search, bench, parts))
    system = _fusion(bench, parts, Joining(**chosen["best"]))
    total = bench.num_language_parameters + (num_parameters(system.sasrec) if system.sasrec is not None else 0)
    return Fitted(system, chosen["best"], tuple((settings, score) for settings, score in chosen["tried"]), chosen["fit_s"], total)


def joinings(parts: tuple[str, ...]) -> list[Joining]:
    """All that are tried."""

    def pairs(sasrec: Sequence[float], knn: Sequence[float]) -> list[tuple[float, float]]:
        return list(product(sasrec if "sasrec" in parts else (0.0,), knn if "knn" in parts else (0.0,)))

    log_linear = [Joining("log-linear", *pair) for pair in pairs(WEIGHTS, WEIGHTS)]
    mixture = [Joining("mixture", *pair, t) for pair in pairs(SHARES, SHARES) if 0 < sum(pair) < 1 for t in TEMPERING]
    back_off = [Joining("back-off", *pair, t) for pair in pairs(SHARES, STRENGTHS) for t in TEMPERING] if "knn" in parts else []
    return log_linear + mixture + back_off


def _fusion(bench: Bench, parts: tuple[str, ...], joining: Joining) -> Fusion:
    run, layer = bench.inputs.run, closed_form(bench)
    sasrec: Any = bench.fitted("sasrec").system if "sasrec" in parts else None
    knn: Any = bench.fitted("item-knn").system if "knn" in parts else None
    return Fusion(run.decoder, layer, np.abs(layer.weights).sum(axis=1) > 0, sasrec, knn, joining)


def _search(bench: Bench, parts: tuple[str, ...]) -> dict[str, Any]:
    started, split = time.perf_counter(), bench.inputs.valid.latest(TUNING_SAMPLES)
    everything = _fusion(bench, parts, Joining("mixture", 1.0, 1.0))
    candidates = joinings(parts)
    ranks: list[list[NDArray[np.int64]]] = [[] for _ in candidates]
    for start in range(0, len(split), SAMPLES_PER_BLOCK):
        rows = slice(start, start + SAMPLES_PER_BLOCK)
        found = everything.parts(split.samples.histories[rows])
        for place, joining in enumerate(candidates):
            ranks[place].append(ranks_of(joining.scores(found).astype(np.float32), split.samples.targets[rows]))
    scored = [float(ndcg_values(np.concatenate(of_one), 20).mean()) for of_one in ranks]
    tried = [[asdict(joining), score] for joining, score in zip(candidates, scored, strict=True)]
    return {"best": asdict(candidates[int(np.argmax(scored))]), "tried": tried, "fit_s": time.perf_counter() - started}


FUSION_ROWS: Final = {
    "l2d-w+item-knn": Row("items", partial(fused, parts=("knn",)), grid_names=("item_knn",), is_fitted=False),
    "l2d-w+sasrec": Row("items", partial(fused, parts=("sasrec",)), grid_names=("sasrec",), is_fitted=False),
    "l2d-w+both": Row("items", partial(fused, parts=("sasrec", "knn")), grid_names=("sasrec", "item_knn"), is_fitted=False),
}
