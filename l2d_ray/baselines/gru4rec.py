"""GRU4Rec: a gated recurrent network over item embeddings (Hidasi et al. 2016, arXiv 1511.06939), trained with the full softmax.

As in its later strong form (Hidasi and Karatzoglou 2018, arXiv 1706.03847): cross-entropy, embeddings shared between input and output, a
bias per item, dropout on embeddings and states. The softmax is over all items and not over a sample of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from l2d_ray.baselines.sequence_training import TrainingSettings, fit_sequence_model
from l2d_ray.baselines.tuning import Tuned, ValidationSamples, tune


@dataclass(frozen=True)
class Gru4RecSettings:
    """Shape and training of Gru4Rec; ``max_length`` is the history items it reads at most."""

    dim: int = 64
    num_layers: int = 1
    dropout: float = 0.4
    max_length: int = 50
    training: TrainingSettings = field(default_factory=TrainingSettings)


GRID: Final = tuple(
    Gru4RecSettings(dim=dim, dropout=dropout, training=TrainingSettings(learning_rate=rate))
    for dim, dropout, rate in product((64, 128, 256), (0.2, 0.5), (1e-3, 3e-3))
)
"""What ``tune_gru4rec`` tries by default."""


class Gru4Rec:
    """Fits ``interface.Baseline``. Without validation it trains for exactly ``max_epochs``.

    Args:
        device: of torch; training and ranking stay there.
    """

    def __init__(
        self,
        train_sequences: Sequence[Sequence[int]],
        num_items: int,
        settings: Gru4RecSettings = Gru4RecSettings(),
        *,
        validation: ValidationSamples | None = None,
        device: str = "cpu",
    ) -> None:
        self._ranker = fit_sequence_model(
            lambda: Recurrence(settings),
            train_sequences,
            num_items,
            dim=settings.dim,
            max_length=settings.max_length,
            settings=settings.training,
            validation=validation,
            device=device,
        )

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history (oldest first), (n, k) int64 padded with -1."""
        return self._ranker.rank(histories, k, exclude)

    def log_probabilities(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(n, num_items) float64: log of each item's probability to be next, over the whole catalogue."""
        return self._ranker.log_probabilities(histories)


def tune_gru4rec(
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    *,
    validation: ValidationSamples,
    grid: Sequence[Gru4RecSettings] = GRID,
    device: str = "cpu",
) -> Tuned[Gru4RecSettings, Gru4Rec]:
    """The candidate with the best ndcg@20 on validation, which stops each one's training too."""
    return tune(grid, lambda settings: Gru4Rec(train_sequences, num_items, settings, validation=validation, device=device), validation)


class Recurrence(nn.Module):
    """(b, t, d) embeddings -> (b, t, d) states, causal."""

    def __init__(self, settings: Gru4RecSettings) -> None:
        super().__init__()
        between = settings.dropout if settings.num_layers > 1 else 0.0
        self.gru = nn.GRU(settings.dim, settings.dim, settings.num_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        states: Tensor = self.dropout(self.gru(self.dropout(embeddings))[0])
        return states
