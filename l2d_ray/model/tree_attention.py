"""Tree attention: all beams of a request share one row of the batch and one cache of keys and values.

A beam's new token attends, by a four-dimensional mask, to the prompt and to its own ancestors alone. The cache is never copied to
beams and never reordered; a beam that moves takes over its parent's row of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from l2d_ray.errors import ArtefactError, DataError
from l2d_ray.model.shared_prefix import additive_mask
from l2d_ray.text.packing import pad_batch
from l2d_ray.text.prompts import TokenIds

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


class SharedCache:
    """Keys and values of the prompts and of all that was ever fed after them, one row a request, shared by its beams.

    ``_visible (n, w, t) bool`` says which of the t cached positions each beam has behind it. ``_logits (m, vocabulary)`` are those of
    the last pass: one row a request after the prompts, then one row per token fed.
    """

    def __init__(self, model: Any, prompts: Sequence[TokenIds], pad_token_id: int) -> None:
        token_ids, is_real = pad_batch(prompts, pad_token_id, side="left")
        self._model, self._device = model, model.device
        mask = self._tensor(is_real)
        self._cache = DynamicCache()
        self._lengths = mask.sum(1)
        self._visible = mask[:, None]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        self._forward(self._tensor(token_ids), mask.long(), positions, logits_to_keep=1)

    @property
    def vocab_size(self) -> int:
        return int(self._logits.shape[-1])

    def log_probs(self, rows: IntArray, tokens: IntArray) -> FloatArray:
        """(m,) float32: log-probability of each token after the fed token ``row`` (row-major over the last ``feed``)."""
        picked = self._tensor(rows)
        log_probs: FloatArray = (self._logits[picked, self._tensor(tokens)].float() - self._log_norms[picked]).cpu().numpy()
        if np.isnan(log_probs).any():
            raise ArtefactError("The model gave NaN as a log-probability; its weights are damaged or the dtype is too narrow for it.")
        return log_probs

    def keep(self, is_kept: NDArray[np.bool_]) -> None:
        """Forget the other requests; the next pass must come before the next ``log_probs``."""
        if is_kept.all():
            return
        rows = self._tensor(np.flatnonzero(is_kept))
        self._cache.batch_select_indices(rows)
        self._lengths, self._visible = self._lengths[rows], self._visible[rows]

    def feed(self, parents: IntArray, tokens: IntArray) -> None:
        """Append to each beam ``(n, w)``, child of beam ``parents (n, w)``, its tokens ``(n, w, length)``, in one pass."""
        (num_requests, width, length), device = tokens.shape, self._device
        inherited = self._tensor(parents)[:, :, None].expand(-1, -1, self._visible.shape[-1])
        past = self._visible.gather(1, inherited).repeat_interleave(length, dim=1)
        own = torch.kron(torch.eye(width, device=device), torch.ones(length, length, device=device).tril()).bool()
        visible = torch.cat([past, own.expand(num_requests, -1, -1)], dim=-1)
        mask = additive_mask(visible, self._model.dtype)
        positions = (self._lengths[:, None] + torch.arange(length, device=device)).repeat(1, width)
        self._forward(self._tensor(tokens.reshape(num_requests, -1)), mask[:, None], positions, logits_to_keep=0)
        self._visible = visible[:, length - 1 :: length]
        self._lengths = self._lengths + length

    def _forward(self, token_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *, logits_to_keep: int) -> None:
        output = self._model(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        self._logits = output.logits.flatten(0, 1)
        self._log_norms = self._logits.float().logsumexp(-1)

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)


def refuse_empty(prompts: Sequence[TokenIds]) -> None:
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise DataError(f"Prompt {empty[0]} has no tokens; a title can only follow at least one token, for example the begin token.")
