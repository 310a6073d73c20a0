"""A classification head: one linear layer from a request's hidden state to a score per item, trained with cross-entropy.

What a language model's states are worth when items are classes: the same query vectors as latent-space decoding gets, but with parameters
per item. Training may start from the closed form of the whitened decoder (``decode.linear``), which is such a layer too:

    score(v) = h' P r_v - r_v' P r_v / 2 + beta log(m_v + epsilon).

Inputs are standardised per dimension inside; the start is carried over exactly. Items that are no training target come last.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from l2d_ray.baselines.early_stopping import train_until_best
from l2d_ray.baselines.interface import rank_in_blocks
from l2d_ray.baselines.tuning import Tuned, choose
from l2d_ray.decode.linear import WhitenedRule
from l2d_ray.errors import DataError
from l2d_ray.evaluate.metrics import ndcg_values, target_ranks
from l2d_ray.memory.statistics import ItemStatistics
from l2d_ray.memory.titles import TitleStates


@dataclass(frozen=True)
class IdHeadSettings:
    """How the head is trained."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 512
    max_epochs: int = 50
    patience: int = 3
    seed: int = 0


GRID: Final = tuple(
    IdHeadSettings(learning_rate=rate, weight_decay=decay) for rate, decay in product((1e-4, 3e-4, 1e-3, 3e-3), (1e-2, 1e-1))
)
"""What ``tune_id_head`` tries by default."""


@dataclass(frozen=True, eq=False)
class QuerySamples:
    """Query vectors (n, d) float32 and the item index that followed each, (n,) int64. DataError where the shapes do not fit."""

    queries: NDArray[np.float32]
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.queries.ndim != 2 or self.targets.shape != self.queries.shape[:1]:
            raise DataError(
                f"Queries of shape {self.queries.shape} do not fit targets of shape {self.targets.shape}; wanted (n, d) and (n,)."
            )


@dataclass(frozen=True, eq=False)
class LinearScores:
    """score(h) = weights h + offsets: weights (num_items, d) float32, offsets (num_items,) float32."""

    weights: NDArray[np.float32]
    offsets: NDArray[np.float32]


def whitened_start(statistics: ItemStatistics, rule: WhitenedRule, titles: TitleStates | None = None, *, num_items: int) -> LinearScores:
    """The whitened decoder as a linear layer; items that it does not rank get zeros."""
    items = rule.represent(statistics, titles)
    rows = items.representations.astype(np.float64)
    whitened = rows @ rule.precision
    weights, offsets = np.zeros((num_items, rows.shape[1]), np.float32), np.zeros(num_items, np.float32)
    weights[items.item_indexes] = whitened
    offsets[items.item_indexes] = items.priors - (whitened * rows).sum(axis=1) / 2
    return LinearScores(weights, offsets)


class IdHead:
    """Ranks query vectors, not histories.

    Args:
        samples: training samples, at least one.
        validation: stops training at the best ndcg@20; without it there are exactly ``max_epochs``.
        start: scores to start from; None starts from zeros and the targets' log frequencies.
        device: of torch; training and ranking stay there.

    Attributes:
        num_epochs: those that the layer has seen.

    Raises:
        DataError: no samples, or a target outside 0..num_items-1.
    """

    def __init__(
        self,
        samples: QuerySamples,
        num_items: int,
        settings: IdHeadSettings = IdHeadSettings(),
        *,
        validation: QuerySamples | None = None,
        start: LinearScores | None = None,
        device: str = "cpu",
    ) -> None:
        if not len(samples.targets) or not 0 <= samples.targets.min() <= samples.targets.max() < num_items:
            raise DataError(
                f"{len(samples.targets)} training targets do not lie in 0..{num_items - 1}; give at least one, all item indexes."
            )
        counts = np.bincount(samples.targets, minlength=num_items)
        self._is_warm = counts > 0
        self._device = device
        self._mean = samples.queries.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = samples.queries.std(axis=0, dtype=np.float64).astype(np.float32)
        self._spread = np.where(spread > 0, spread, np.float32(1))
        self._layer = self._first_layer(counts, start).to(device)
        self._train(samples, settings, validation)
        self._layer.eval()

    def rank_queries(self, queries: NDArray[np.float32], k: int, excluded: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each query vector (n, d): (n, k) int64 padded with -1, none of ``excluded[i]``."""
        return rank_in_blocks(queries, self._scores, k, excluded, num_items=len(self._is_warm))

    @torch.inference_mode()
    def _scores(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self._layer(self._inputs(queries)).float().cpu().numpy().astype(np.float64)
        scores[:, ~self._is_warm] = scores.min(axis=1, keepdims=True) - 1.0
        return scores

    def _inputs(self, queries: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy((queries - self._mean) / self._spread).to(self._device)

    def _first_layer(self, counts: NDArray[np.int64], start: LinearScores | None) -> nn.Linear:
        layer = nn.Linear(len(self._mean), len(counts))
        weights, offsets = np.zeros(layer.weight.shape, np.float32), np.log(counts + 1.0)
        if start is not None:
            weights, offsets = start.weights * self._spread, start.offsets + start.weights @ self._mean
        layer.weight.data = torch.from_numpy(weights.astype(np.float32))
        layer.bias.data = torch.from_numpy(offsets.astype(np.float32))
        return layer

    def _train(self, samples: QuerySamples, settings: IdHeadSettings, validation: QuerySamples | None) -> None:
        inputs, targets = self._inputs(samples.queries), torch.from_numpy(samples.targets).to(self._device)
        optimizer = torch.optim.AdamW(self._layer.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        generator = torch.Generator().manual_seed(settings.seed)

        def train_epoch() -> None:
            order = torch.randperm(len(targets), generator=generator).to(self._device)
            for batch in torch.split(order, settings.batch_size):
                loss = nn.functional.cross_entropy(self._layer(inputs[batch]), targets[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        score = None if validation is None else lambda: query_ndcg(self, validation)
        self.num_epochs = train_until_best(self._layer, train_epoch, score, max_epochs=settings.max_epochs, patience=settings.patience)


def query_ndcg(head: IdHead, samples: QuerySamples) -> float:
    """Mean ndcg@20 by item id, nothing excluded; at least one sample."""
    ranks = target_ranks(head.rank_queries(samples.queries, 20), samples.targets)
    return float(ndcg_values(ranks, 20).mean())


def tune_id_head(
    samples: QuerySamples,
    num_items: int,
    *,
    validation: QuerySamples,
    start: LinearScores | None = None,
    grid: Sequence[IdHeadSettings] = GRID,
    device: str = "cpu",
) -> Tuned[IdHeadSettings, IdHead]:
    """The candidate with the best ndcg@20 on validation, which stops each one's training too."""
    return choose(
        grid,
        lambda settings: IdHead(samples, num_items, settings, validation=validation, start=start, device=device),
        lambda head: query_ndcg(head, validation),
    )
