"""One training loop and one ranking for the models that read item sequences (SASRec, GRU4Rec).

Every position of a training sequence predicts its next item by cross-entropy over all items (full softmax; the output layer is the table
of item embeddings). Sequences are packed by length under a token budget and padded on the right: the models are causal, so what stands
behind a position does not matter and no mask is needed. Training stops when ndcg@20 on validation has not risen for ``patience``
epochs; the best epoch's weights are kept. Equal seeds give equal models on one device.

Ranking reads what a history holds of items with training data, its last ``max_length`` of them; where that is nothing, the answer is the
popularity order. Items without training data come after all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from l2d_ray.baselines.early_stopping import train_until_best
from l2d_ray.baselines.interface import interaction_counts, rows_at_once, top_items
from l2d_ray.baselines.tuning import ValidationSamples, validation_ndcg
from l2d_ray.text.packing import pack_by_length

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingSettings:
    """How a sequence model is trained.

    Attributes:
        batch_items: padded positions in one step, and so about the number of predictions.
        max_epochs: epochs at most; exactly so many where there is no validation.
        patience: epochs without a better validation before training stops.
        max_grad_norm: gradients are scaled down to this norm.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    batch_items: int = 1024
    max_epochs: int = 100
    patience: int = 3
    max_grad_norm: float = 1.0
    seed: int = 0


class ItemSequenceModel(nn.Module):
    """Item embeddings, a causal body, and the same embeddings as output layer with a bias per item.

    Args:
        body: (b, t, d) embeddings -> (b, t, d) states; the state at a position depends on no later position.
    """

    def __init__(self, body: nn.Module, num_items: int, dim: int) -> None:
        super().__init__()
        self.body = body
        self.embedding = nn.Embedding(num_items + 1, dim, padding_idx=num_items)
        self.bias = nn.Parameter(torch.zeros(num_items))
        nn.init.normal_(self.embedding.weight[:num_items].detach(), std=dim**-0.5)

    @property
    def num_items(self) -> int:
        return len(self.bias)

    def forward(self, items: Tensor) -> Tensor:
        """States (b, t, d) of item indexes (b, t) int64, padded on the right with ``num_items``."""
        states: Tensor = self.body(self.embedding(items))
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(m, d) -> (m, num_items)."""
        return nn.functional.linear(states, self.embedding.weight[: self.num_items], self.bias)


class SequenceRanker:
    """A trained model as a recommender; fits ``interface.Baseline``.

    Args:
        counts: (num_items,) training interactions of each item.
        max_length: history items read at most.

    Attributes:
        num_epochs: those that the weights have seen.
    """

    def __init__(self, model: ItemSequenceModel, counts: IntArray, *, max_length: int) -> None:
        self.model = model.eval()
        self._is_warm = counts > 0
        self._log_popularity = np.log((counts + 1) / (counts + 1).sum())
        self._max_length = max_length
        self.num_epochs = 0

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> IntArray:
        """The k best items of each history (oldest first), (n, k) int64 padded with -1."""
        ranked = np.empty((len(histories), k), np.int64)
        known = self._known(histories)
        for rows in self._blocks(known):
            for row, scores in zip(rows.tolist(), self._scores([known[row] for row in rows.tolist()]), strict=True):
                ranked[row] = top_items(scores, k, () if exclude is None else exclude[row])
        return ranked

    def log_probabilities(self, histories: Sequence[Sequence[int]]) -> FloatArray:
        """(n, num_items) float64: log of each item's probability to be next; finite, also for items without training data."""
        found = np.empty((len(histories), len(self._is_warm)))
        known = self._known(histories)
        for rows in self._blocks(known):
            scores = self._scores([known[row] for row in rows.tolist()])
            largest = scores.max(axis=1, keepdims=True)
            found[rows] = scores - largest - np.log(np.exp(scores - largest).sum(axis=1, keepdims=True))
        return found

    def _known(self, histories: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[item for item in history if self._is_warm[item]][-self._max_length :] for history in histories]

    def _blocks(self, known: Sequence[Sequence[int]]) -> list[IntArray]:
        """Rows by length, so that little is padded, as many at a time as their scores allow."""
        order = np.argsort([len(items) for items in known], kind="stable")
        rows = rows_at_once(len(self._is_warm))
        return [order[start : start + rows] for start in range(0, len(order), rows)]

    @torch.inference_mode()
    def _scores(self, known: Sequence[Sequence[int]]) -> FloatArray:
        """(n, num_items) float64 of histories of warm items."""
        scores = np.tile(self._log_popularity, (len(known), 1))
        rows = np.flatnonzero([len(items) > 0 for items in known])
        if len(rows):
            windows = _Windows.of([known[row] for row in rows.tolist()])
            items = windows.padded(np.arange(len(rows)), self.model.num_items)
            device = self.model.bias.device
            states = self.model(torch.from_numpy(items).to(device))
            last = states[torch.arange(len(rows), device=device), torch.from_numpy(windows.lengths - 1).to(device)]
            scores[rows] = self.model.logits(last).float().cpu().numpy()
            scores[np.ix_(rows, np.flatnonzero(~self._is_warm))] = scores[rows].min(axis=1, keepdims=True) - 1.0
        return scores


class SequenceSettings(Protocol):
    """What the settings of both models have: width, history items read at most, training."""

    @property
    def dim(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def training(self) -> TrainingSettings: ...


def fit_sequence_model(
    make_body: Callable[[], nn.Module],
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    *,
    settings: SequenceSettings,
    validation: ValidationSamples | None,
    device: str,
) -> SequenceRanker:
    """Train a body on windows of at most ``max_length`` + 1 items; every item but the first of a sequence is predicted exactly once."""
    windows = _Windows.of([window for sequence in train_sequences for window in _cut(sequence, settings.max_length)])
    with torch.random.fork_rng():
        torch.manual_seed(settings.training.seed)
        model = ItemSequenceModel(make_body(), num_items, settings.dim).to(device)
        ranker = SequenceRanker(model, interaction_counts(train_sequences, num_items), max_length=settings.max_length)
        if len(windows.lengths):
            _train(ranker, windows, settings.training, validation)
    return ranker


def _train(ranker: SequenceRanker, windows: _Windows, settings: TrainingSettings, validation: ValidationSamples | None) -> None:
    model, generator = ranker.model, np.random.default_rng(settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def train_epoch() -> None:
        for rows in windows.batches(settings.batch_items, generator):
            _step(model, optimizer, windows.padded(rows, model.num_items), settings.max_grad_norm)

    score = None if validation is None else lambda: validation_ndcg(ranker, validation)
    ranker.num_epochs = train_until_best(model, train_epoch, score, max_epochs=settings.max_epochs, patience=settings.patience)


def _step(model: ItemSequenceModel, optimizer: torch.optim.Optimizer, items: IntArray, max_grad_norm: float) -> None:
    """One step on windows (b, t): each position predicts the next."""
    batch = torch.from_numpy(items).to(model.bias.device)
    inputs, targets = batch[:, :-1], batch[:, 1:]
    is_real = targets != model.num_items
    loss = nn.functional.cross_entropy(model.logits(model(inputs)[is_real]), targets[is_real])
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()


@dataclass(frozen=True, eq=False)
class _Windows:
    """Sequences one after another: ``items (total,)``, and ``starts``, ``lengths (n,)``; int64."""

    items: IntArray
    starts: IntArray
    lengths: IntArray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> _Windows:
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        items = np.array([item for sequence in sequences for item in sequence], np.int64)
        return cls(items, np.cumsum(lengths) - lengths, lengths)

    def batches(self, batch_items: int, generator: np.random.Generator) -> list[IntArray]:
        """All rows in random batches of like length and at most ``batch_items`` padded items."""
        shuffled = generator.permutation(len(self.lengths))
        packed = pack_by_length(self.lengths[shuffled], batch_items)
        return [shuffled[packed[index]] for index in generator.permutation(len(packed))]

    def padded(self, rows: IntArray, padding: int) -> IntArray:
        """(b, longest) items of some rows, padded on the right."""
        columns = np.arange(int(self.lengths[rows].max()))
        positions = np.minimum(self.starts[rows, None] + columns, len(self.items) - 1)
        return np.where(columns < self.lengths[rows, None], self.items[positions], padding)


def _cut(sequence: Sequence[int], max_length: int) -> list[Sequence[int]]:
    """Windows of at most ``max_length`` + 1 items, each beginning with the last item of the one before; none for a single item."""
    return [sequence[start : start + max_length + 1] for start in range(0, len(sequence) - 1, max_length)]
