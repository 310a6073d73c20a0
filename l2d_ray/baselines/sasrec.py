"""SASRec: a causal transformer over item embeddings (Kang and McAuley 2018, arXiv 1808.09781), trained with the full softmax.

As published: learned positions, one feed-forward layer of the model's width, dropout everywhere, tied item embeddings. Unlike it, and
stronger: cross-entropy over all items in the place of one sampled negative (Klenitskiy and Vasilev 2023, arXiv 2309.07602), layer norms
before the blocks, and a bias per item. Histories stand on the left of their row: a position is the number of items before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from l2d_ray.baselines.sequence_training import SequenceRanker, TrainingSettings, fit_sequence_model
from l2d_ray.baselines.tuning import Steps, ValidationSamples
from l2d_ray.errors import ConfigError


@dataclass(frozen=True)
class SasRecSettings:
    """Shape and training; ``max_length`` is the history items it reads at most."""

    dim: int = 64
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.4
    max_length: int = 50
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ConfigError(f"dim is {self.dim} and num_heads {self.num_heads}; the width of a head must be a whole number.")


STEPS: Final = Steps(
    (SasRecSettings(dropout=0.5),),
    (
        ("dim", (128, 256)),
        ("dropout", (0.2, 0.35)),
        ("num_layers", (1, 3)),
        ("training", (TrainingSettings(learning_rate=1e-3), TrainingSettings(learning_rate=4e-3))),
    ),
)
"""What is tried by default."""


def fit_sasrec(
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    settings: SasRecSettings = SasRecSettings(),
    *,
    validation: ValidationSamples | None = None,
    device: str = "cpu",
) -> SequenceRanker:
    """Trained until validation no longer improves; without validation for exactly ``max_epochs``. ``device`` is torch's."""
    return fit_sequence_model(
        lambda: Transformer(settings), train_sequences, num_items, settings=settings, validation=validation, device=device
    )


class Transformer(nn.Module):
    """(b, t, d) embeddings -> (b, t, d) states, causal, t at most ``max_length``."""

    def __init__(self, settings: SasRecSettings) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(settings.max_length, settings.dim) * settings.dim**-0.5)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.Sequential(*(_Block(settings) for _ in range(settings.num_layers)))
        self.norm = nn.LayerNorm(settings.dim)

    def forward(self, embeddings: Tensor) -> Tensor:
        states: Tensor = self.norm(self.blocks(self.dropout(embeddings + self.positions[: embeddings.shape[1]])))
        return states


class _Block(nn.Module):
    """Attention to the left, then the feed-forward layer, each added to its input."""

    def __init__(self, settings: SasRecSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.num_heads, self.dropout = settings.num_heads, nn.Dropout(settings.dropout)
        self.attention_norm, self.feed_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.attention_output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(dim, dim))

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.dropout(self._attention(self.attention_norm(states)))
        updated: Tensor = states + self.dropout(self.feed(self.feed_norm(states)))
        return updated

    def _attention(self, states: Tensor) -> Tensor:
        b, t, d = states.shape
        query, key, value = self.query_key_value(states).view(b, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        heads = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        output: Tensor = self.attention_output(heads.transpose(1, 2).reshape(b, t, d))
        return output
