"""GRU4Rec: a gated recurrent network over item embeddings (Hidasi et al. 2016, arXiv 1511.06939), trained with the full softmax.

As in its later strong form (Hidasi and Karatzoglou 2018, arXiv 1706.03847): cross-entropy, embeddings shared between input and output, a
bias per item, dropout on embeddings and states. The softmax is over all items and not over a sample of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor, nn

from l2d_ray.baselines.sequence_training import SequenceRanker, TrainingSettings, fit_sequence_model
from l2d_ray.baselines.tuning import Steps, ValidationSamples


@dataclass(frozen=True)
class Gru4RecSettings:
    """Shape and training; ``max_length`` is the history items it reads at most."""

    dim: int = 64
    num_layers: int = 1
    dropout: float = 0.4
    max_length: int = 50
    training: TrainingSettings = field(default_factory=TrainingSettings)


STEPS: Final = Steps(
    (Gru4RecSettings(dropout=0.5),),
    (
        ("dim", (128, 256)),
        ("dropout", (0.2, 0.35)),
        ("num_layers", (2,)),
        ("training", (TrainingSettings(learning_rate=1e-3), TrainingSettings(learning_rate=4e-3))),
    ),
)
"""What is tried by default."""


def fit_gru4rec(
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    settings: Gru4RecSettings = Gru4RecSettings(),
    *,
    validation: ValidationSamples | None = None,
    device: str = "cpu",
) -> SequenceRanker:
    """Trained until validation no longer improves; without validation for exactly ``max_epochs``. ``device`` is torch's."""
    return fit_sequence_model(
        lambda: Recurrence(settings), train_sequences, num_items, settings=settings, validation=validation, device=device
    )


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
