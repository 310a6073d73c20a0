"""Epochs until validation no longer improves; the one stopping rule of every trained baseline."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def train_until_best(
    model: nn.Module,
    train_epoch: Callable[[], object],
    score: Callable[[], float] | None,
    *,
    max_epochs: int,
    patience: int,
) -> int:
    """Train until ``patience`` epochs in a row were no better than the best, then restore the best weights, if need be those of the start.

    Where ``score`` is None, train exactly ``max_epochs``. Returns the epochs that the weights have seen. The model is in train mode during
    an epoch and in eval mode otherwise.
    """
    model.eval()
    if score is None:
        for _ in range(max_epochs):
            _run(model, train_epoch)
        return max_epochs
    best_score, best_weights, best_epoch, num_worse = score(), _copied_weights(model), 0, 0
    for epoch in range(1, max_epochs + 1):
        _run(model, train_epoch)
        reached = score()
        num_worse = 0 if reached > best_score else num_worse + 1
        if reached > best_score:
            best_score, best_weights, best_epoch = reached, _copied_weights(model), epoch
        if num_worse == patience:
            break
    model.load_state_dict(best_weights)
    return best_epoch


def _copied_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def _run(model: nn.Module, train_epoch: Callable[[], object]) -> None:
    model.train()
    train_epoch()
    model.eval()
