"""Keys and values of the text that every prompt starts with (the instruction), read once and reused by every pass.

With causal attention the keys and values of a text's first tokens do not depend on what follows, so a pass over the rest of each
prompt, which attends to them, gives exactly the states of the whole prompts. The prefix is never copied to the cache of a batch: each
layer joins it to the batch's own keys for the moment of its attention, and the same object serves every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from l2d_ray.text.prompts import TokenIds

MIN_TOKENS = 16
"""A shorter prefix is not worth the mask that it needs."""

TRIAL_TOKENS = 8


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A text of p tokens, ``token_ids (p,) int32``, that a model has read."""

    token_ids: TokenIds
    cache: Cache

    def __len__(self) -> int:
        return len(self.token_ids)

    def starts(self, text: TokenIds, first_state: int) -> bool:
        """Whether the text begins with the prefix and its states lie behind it."""
        return first_state >= len(self) and np.array_equal(text[: len(self)], self.token_ids)

    def inputs(self, num_tokens: int, like: torch.Tensor) -> dict[str, Any]:
        """What a pass over the rest of some texts, ``(b, num_tokens)``, needs besides the tokens.

        The additive mask ``(1, 1, t, p + t)`` shows each token the prefix and the tokens up to itself; its device and dtype are those of
        ``like``.
        """
        visible = torch.ones(num_tokens, len(self) + num_tokens, dtype=torch.bool, device=like.device).tril(len(self))
        return {"past_key_values": self.cache, "use_cache": True, "attention_mask": additive_mask(visible, like.dtype)[None, None]}


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention scores: 0 where a token is visible, the dtype's least number elsewhere; any shape."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def as_prefix(token_ids: TokenIds, read: Cache) -> SharedPrefix:
    """A text whose keys and values are in ``read``, shared by whatever follows it; of a model that shares (``read_prefix``)."""
    return SharedPrefix(token_ids, Cache(layers=[_PrefixLayer(layer.keys, layer.values) for layer in read.layers]))


@torch.inference_mode()
def read_prefix(body: Any, token_ids: TokenIds) -> SharedPrefix | None:
    """The prefix as ``body`` (a transformer without its vocabulary projection) has read it; None where it cannot be shared.

    Shared are the plain keys and values of full attention with rotary positions. Other models (a sliding window, learned positions, a
    recurrent state, an attention kernel that takes no mask) and models that fail the trial read their texts whole.
    """
    config, weight = body.config, next(body.parameters())
    is_plain = getattr(config, "rope_parameters", None) is not None and not getattr(config, "alibi", False)
    if len(token_ids) < MIN_TOKENS or not is_plain or config._attn_implementation not in ("sdpa", "eager"):
        return None
    device_ids = torch.from_numpy(token_ids.astype(np.int64)).to(weight.device)[None]
    read = body(input_ids=device_ids, use_cache=True).get("past_key_values")
    if not isinstance(read, Cache) or any(type(layer) is not DynamicLayer for layer in read.layers):
        return None
    prefix = as_prefix(token_ids, read)
    return prefix if _agrees(body, prefix, device_ids, weight) else None


def _agrees(body: Any, prefix: SharedPrefix, device_ids: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the states of a text after the prefix are those of the whole text: the trial of an unknown architecture."""
    tail = device_ids[:, :TRIAL_TOKENS].expand(2, -1)
    whole = body(input_ids=torch.cat([device_ids.expand(2, -1), tail], dim=1), use_cache=False).last_hidden_state[:, len(prefix) :]
    shared = body(input_ids=tail, **prefix.inputs(TRIAL_TOKENS, weight)).last_hidden_state
    tolerance = torch.finfo(weight.dtype).eps ** 0.5
    return bool(((whole - shared).abs().max() <= tolerance * whole.abs().max()).item())


class _PrefixLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """A layer's keys and values of the prefix, (1, heads, p, head width), before those of any batch; it never grows."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to initialise."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The prefix's and the batch's keys and values, (b, heads, p + t, head width)."""
        return self._before(self.keys, key_states), self._before(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return int(self.keys.shape[-2])

    def get_max_length(self) -> int:
        return -1

    def _before(self, prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([prefix.expand(len(states), -1, -1, -1), states], dim=-2)
