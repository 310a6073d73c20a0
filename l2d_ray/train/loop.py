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

from l2d_ray.text.prompts import TokenWindow
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
    """Mean negative log-likelihood a predicted token, over all workers."""

    loss: float
    num_tokens: int


def train_epoch(engine: Engine, batches: Iterable[Sequence[TokenWindow]], on_step: Callable[[float], None]) -> EpochLoss:
    """Optimise over the batches; ``on_step`` gets this worker's mean loss of each batch."""
    engine.train()
    total = torch.zeros(2, dtype=torch.float64)
    for windows in batches:
        batch, weight = _batch_or_blank(windows)
        summed = engine(*_tensors(batch, engine.device)) * weight
        num_tokens = weight * len(batch.targets)
        mean_tokens = _sum_over_workers(torch.tensor([float(num_tokens)], dtype=torch.float64), engine.device)[0] / _num_workers()
        engine.backward(summed / max(float(mean_tokens), 1.0))
        engine.step()
        total += torch.tensor([float(summed.detach()), num_tokens], dtype=torch.float64)
        on_step(float(summed.detach()) / max(num_tokens, 1))
    return _mean(total, engine.device)


@torch.no_grad()
def validate(engine: Engine, batches: Iterable[Sequence[TokenWindow]]) -> EpochLoss:
    """Loss over the batches without learning from them."""
    engine.train(False)
    total = torch.zeros(2, dtype=torch.float64)
    for windows in batches:
        batch, weight = _batch_or_blank(windows)
        summed = engine(*_tensors(batch, engine.device)) * weight
        total += torch.tensor([float(summed), weight * len(batch.targets)], dtype=torch.float64)
    return _mean(total, engine.device)


def _batch_or_blank(windows: Sequence[TokenWindow]) -> tuple[TrainingBatch, int]:
    """The batch and weight 1; for no windows a blank one with weight 0, since every worker must take every step."""
    if windows:
        return make_batch(windows), 1
    blank = TokenWindow(np.zeros(2, dtype=np.int32), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), 1)
    return make_batch([blank]), 0


def _tensors(batch: TrainingBatch, device: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    moved = batch.to(device)
    return moved.token_ids, moved.rows, moved.columns, moved.targets


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
