"""The loss: next-token cross-entropy on the completions' tokens only, projected onto the vocabulary only there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from l2d_ray.text.packing import pad_batch
from l2d_ray.text.prompts import TokenWindow

ROWS_PER_PROJECTION = 2048
"""Tokens projected onto the vocabulary at once: bounds memory with vocabularies of 10^5 and more."""


@dataclass(frozen=True)
class TrainingBatch:
    """Texts and what is predicted in them.

    Attributes:
        token_ids: (b, t) int64, right-padded.
        rows, columns: (m,) int64: the tokens before the predicted ones.
        targets: (m,) int64: the predicted tokens.
    """

    token_ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> TrainingBatch:
        return TrainingBatch(*(t.to(device) for t in (self.token_ids, self.rows, self.columns, self.targets)))


def make_batch(windows: Sequence[TokenWindow]) -> TrainingBatch:
    """Pad windows and list every predicted token (``token_ids[loss_start:]`` of each window)."""
    token_ids, _ = pad_batch([w.token_ids for w in windows], pad_id=0)
    rows = np.repeat(np.arange(len(windows)), [len(w.token_ids) - w.loss_start for w in windows])
    columns = np.concatenate([np.arange(w.loss_start, len(w.token_ids)) for w in windows]) - 1
    targets = np.concatenate([w.token_ids[w.loss_start :] for w in windows]).astype(np.int64)
    return TrainingBatch(*(torch.from_numpy(array) for array in (token_ids, rows, columns, targets)))


class CompletionLoss(nn.Module):
    """Wraps a Hugging Face causal LM; ``forward`` gives the sum of the negative log-likelihoods (a float32 scalar).

    The body runs once without a mask (right padding, causal attention); the head runs on the predicted tokens alone, in blocks that
    are recomputed in the backward pass.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Tensor, rows: Tensor, columns: Tensor, targets: Tensor) -> Tensor:
        hidden = self._causal_lm().base_model(input_ids=token_ids, use_cache=False).last_hidden_state[rows, columns]
        losses = [
            checkpoint(self._block_loss, h, t, use_reentrant=False)
            for h, t in zip(torch.split(hidden, ROWS_PER_PROJECTION), torch.split(targets, ROWS_PER_PROJECTION), strict=True)
        ]
        return torch.stack(losses).sum()

    def _causal_lm(self) -> Any:
        """The causal LM itself, also where peft has wrapped it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _block_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self._causal_lm().get_output_embeddings()(hidden)
        return nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
