"""The loss: next-token cross-entropy on the completions' tokens only, projected onto the vocabulary only there.

Beside it, where it is wanted, a second one for the latent space: a linear layer must tell from the state that the memory keeps which item
follows. Its weights are what the item's title says (the mean of its tokens' embeddings, through a matrix) and a rest of the item's own.
The layer is dropped after training; what stays is that states of one target lie together, while the model writes titles as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from l2d_ray.text.packing import pad_batch
from l2d_ray.text.prompts import TokenIds
from l2d_ray.train.batches import TrainingText

ROWS_PER_PROJECTION = 2048
"""Tokens projected onto the vocabulary at once: bounds memory with vocabularies of 10^5 and more."""


@dataclass(frozen=True)
class TrainingBatch:
    """Texts and what is predicted in them.

    Attributes:
        token_ids: (b, t) int64, right-padded.
        rows, columns: (m,) int64: the tokens before the predicted ones.
        targets: (m,) int64: the predicted tokens.
        state_rows, state_columns: (s,) int64: the tokens whose state belongs to a sample.
        target_items: (s,) int64: item_index of each sample's target.
    """

    token_ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    state_rows: Tensor
    state_columns: Tensor
    target_items: Tensor

    def to(self, device: torch.device | str) -> TrainingBatch:
        return TrainingBatch(*(tensor.to(device) for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """What ``CompletionLoss.forward`` takes."""
        return tuple(vars(self).values())


def make_batch(texts: Sequence[TrainingText]) -> TrainingBatch:
    """Pad texts and list all that is predicted in them."""
    token_ids, _ = pad_batch([text.token_ids for text in texts], pad_id=0)
    rows = np.repeat(np.arange(len(texts)), [len(text.token_ids) - text.loss_start for text in texts])
    columns = np.concatenate([np.arange(text.loss_start, len(text.token_ids)) for text in texts]) - 1
    targets = np.concatenate([text.token_ids[text.loss_start :] for text in texts]).astype(np.int64)
    state_rows = np.repeat(np.arange(len(texts)), [len(text.state_indexes) for text in texts])
    state_columns, items = (
        np.concatenate([getattr(text, name) for text in texts]).astype(np.int64) for name in ("state_indexes", "target_items")
    )
    return TrainingBatch(*(torch.from_numpy(a) for a in (token_ids, rows, columns, targets, state_rows, state_columns, items)))


class CompletionLoss(nn.Module):
    """Wraps a Hugging Face causal LM; ``forward`` gives the sum of the negative log-likelihoods (a float32 scalar).

    The body runs once without a mask (right padding, causal attention); a head runs on the predicted tokens, or on the samples' states,
    alone, in blocks that are recomputed in the backward pass where they are several.

    Args:
        item_weight: what an item's negative log-likelihood counts beside a token's; 0: there is no layer for items.
        titles: token ids of every item's title, at least one token each.
        dropout: of the input embeddings and of the last hidden states, while training.
    """

    def __init__(self, model: Any, *, item_weight: float = 0.0, titles: Sequence[TokenIds] = (), dropout: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.dropout = nn.Dropout(dropout)
        if dropout:
            self._causal_lm().get_input_embeddings().register_forward_hook(lambda module, given, embedded: self.dropout(embedded))
        self.item_weight = item_weight
        self.item_head = ItemHead(titles, model.config.hidden_size, model.dtype) if item_weight else None

    def forward(
        self,
        token_ids: Tensor,
        rows: Tensor,
        columns: Tensor,
        targets: Tensor,
        state_rows: Tensor,
        state_columns: Tensor,
        target_items: Tensor,
    ) -> Tensor:
        states = self.dropout(self._causal_lm().base_model(input_ids=token_ids, use_cache=False).last_hidden_state)
        loss = _summed_loss(self._causal_lm().get_output_embeddings(), states[rows, columns], targets)
        if self.item_head is not None:
            layer = self.item_head(self._causal_lm().get_input_embeddings()(self.item_head.tokens))
            head = partial(_logits, layer)
            loss = loss + self.item_weight * _summed_loss(head, states[state_rows, state_columns], target_items)
        return loss

    def _causal_lm(self) -> Any:
        """The causal LM itself, also where peft has wrapped it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model


class ItemHead(nn.Module):
    """Logits of v items from states: ``h' (A t_v + r_v) + b_v`` with t_v the mean embedding of the title's tokens.

    Items with few samples, and words that several titles share, learn from each other. ``forward`` makes the layer, (v, d + 1) with the
    offsets last, from the model's embeddings (t, d) of ``tokens``: all parameters are read there, where ZeRO-3 has them whole.

    Args:
        titles: token ids of every item's title, at least one token each.
    """

    tokens: Tensor
    _items: Tensor
    _lengths: Tensor

    def __init__(self, titles: Sequence[TokenIds], dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        lengths = [len(title) for title in titles]
        self.register_buffer("tokens", torch.from_numpy(np.concatenate(titles).astype(np.int64)), persistent=False)
        self.register_buffer("_items", torch.from_numpy(np.repeat(np.arange(len(titles)), lengths)), persistent=False)
        self.register_buffer("_lengths", torch.tensor(lengths), persistent=False)
        self.of_titles = nn.Linear(dim, dim, bias=False, dtype=dtype)
        self.own = nn.Parameter(torch.zeros(len(titles), dim + 1, dtype=dtype))

    def forward(self, embedded: Tensor) -> Tensor:
        sums = torch.zeros(len(self.own), embedded.shape[1], dtype=embedded.dtype, device=embedded.device)
        means = sums.index_add(0, self._items, embedded) / self._lengths[:, None]
        return nn.functional.pad(self.of_titles(means.to(self.own.dtype)), (0, 1)) + self.own


def _summed_loss(head: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of a head over states (m, d), block by block; a single block is not recomputed, since it is held at once either way."""
    if len(states) <= ROWS_PER_PROJECTION:
        return _block_loss(head, states, targets)
    blocks = zip(torch.split(states, ROWS_PER_PROJECTION), torch.split(targets, ROWS_PER_PROJECTION), strict=True)
    return torch.stack([checkpoint(_block_loss, head, block, wanted, use_reentrant=False) for block, wanted in blocks]).sum()


def _logits(layer: Tensor, states: Tensor) -> Tensor:
    return nn.functional.linear(states, layer[:, :-1], layer[:, -1])


def _block_loss(head: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(states).float(), targets, reduction="sum")
