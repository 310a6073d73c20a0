"""One epoch of training and of validation over an engine (DeepSpeed's, or anything with its three calls). Knows no Ray.

Workers hold different numbers of predicted tokens; every loss is divided by their mean over the workers, so that the averaged gradient
is that of one large batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from l2d_ray.train.batches import TrainingText
from l2d_ray.train.loss import TrainingBatch, make_batch


class Engine(Protocol):
    """What the loop needs of DeepSpeed's engine; calling it runs ``CompletionLoss.forward``."""

    device: Any

    def __call__(self, *tensors: Tensor) -> Tensor: ...
    def backward(self, loss: Tensor) -> object: ...
    def step(self) -> object: ...
    def train(self, mode: bool = True) -> object: ...


@dataclass(frozen=True)
class EpochLoss:
    """The loss a predicted token (its mean negative log-likelihood where items have no loss of their own), over all workers."""

    loss: float
    num_tokens: int


def train_epoch(engine: Engine, batches: Iterable[Sequence[TrainingText]], on_step: Callable[[float], None]) -> EpochLoss:
    """Optimise over the batches; ``on_step`` gets this worker's mean loss of each batch."""
    engine.train()
    total = torch.zeros(2, dtype=torch.float64)
    for texts in batches:
        batch, weight = _batch_or_blank(texts)
        summed = engine(*batch.to(engine.device).tensors()) * weight
        num_tokens = weight * len(batch.targets)
        mean_tokens = _sum_over_workers(torch.tensor([float(num_tokens)], dtype=torch.float64), engine.device)[0] / _num_workers()
        engine.backward(summed / max(float(mean_tokens), 1.0))
        engine.step()
        total += torch.tensor([float(summed.detach()), num_tokens], dtype=torch.float64)
        on_step(float(summed.detach()) / max(num_tokens, 1))
    return _mean(total, engine.device)


@torch.no_grad()
def validate(engine: Engine, batches: Iterable[Sequence[TrainingText]]) -> EpochLoss:
    """Loss over the batches without learning from them."""
    engine.train(False)
    total = torch.zeros(2, dtype=torch.float64)
    for texts in batches:
        batch, weight = _batch_or_blank(texts)
        summed = engine(*batch.to(engine.device).tensors()) * weight
        total += torch.tensor([float(summed), weight * len(batch.targets)], dtype=torch.float64)
    return _mean(total, engine.device)


def _batch_or_blank(texts: Sequence[TrainingText]) -> tuple[TrainingBatch, int]:
    """The batch and weight 1; for no texts a blank one with weight 0, since every worker must take every step."""
    if texts:
        return make_batch(texts), 1
    nothing = np.zeros(1, dtype=np.int32)
    return make_batch([TrainingText(np.zeros(2, dtype=np.int32), 1, nothing, nothing)]), 0


def _mean(total: Tensor, device: Any) -> EpochLoss:
    loss, tokens = _sum_over_workers(total, device).tolist()
    return EpochLoss(loss / max(tokens, 1.0), int(tokens))


def _num_workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _sum_over_workers(values: Tensor, device: Any) -> Tensor:
    if not dist.is_initialized():
        return values
    summed = values.to(device)
    dist.all_reduce(summed)
    return summed.cpu()
