"""Histories that have grown: keys and values of texts read lately are kept, and a text that begins with one of them is read from there on.

With causal attention the keys and values of a text's first tokens do not depend on what follows, so the state at the end is that of the
whole text (tested). It is for the sequence format, where a history's prompt begins the prompt of the same history with one more item, until
the window moves on; a prompt of the instruction format ends in a response marker and begins no other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from l2d_ray.model.encoder import Encoder, picked_states
from l2d_ray.model.shared_prefix import MIN_TOKENS, additive_mask, read_prefix
from l2d_ray.text.packing import pack_by_length, pad_batch
from l2d_ray.text.prompts import TokenIds

MOST_NEW: Final = 0.5
"""Share of a text that may be new; where more is, the text is read whole, in a pass that needs no mask."""


class ReadTexts:
    """Keys and values of texts, at most ``max_bytes``, the least lately used forgotten first.

    A text's are one tensor (layers, 2, heads, t, head width).
    """

    def __init__(self, max_bytes: int) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._texts: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._texts)

    def take_beginning(self, text: TokenIds) -> torch.Tensor | None:
        """Of the longest text that this one begins with, which is forgotten: what replaces it is longer. None where there is none.

        Only texts that end in this text's last token can be found: the separator, which ends every prompt of the sequence format.
        """
        for end in _ends(text):
            found = self._texts.pop(text[:end].tobytes(), None)
            if found is not None:
                self.num_bytes -= found.nbytes
                return found
        return None

    def keep(self, text: TokenIds, read: torch.Tensor) -> None:
        """Keep a tensor of its own, no view of a batch."""
        before = self._texts.pop(text.tobytes(), None)
        self.num_bytes += read.nbytes - (0 if before is None else before.nbytes)
        self._texts[text.tobytes()] = read
        while self.num_bytes > self._max_bytes:
            _, oldest = self._texts.popitem(last=False)
            self.num_bytes -= oldest.nbytes


class GrowingEncoder:
    """Query vectors as ``Encoder.encode`` gives them, for prompts of users who come back. For one thread at a time.

    Args:
        max_bytes: of keys and values that are kept, where the model is.
        note: told of every call how many tokens were read, and how many were known.
    """

    def __init__(self, encoder: Encoder, max_bytes: int, *, note: Callable[[int, int], None] = lambda read, known: None) -> None:
        self.kept = ReadTexts(max_bytes)
        self._encoder = encoder
        self._note = note
        trial = np.arange(MIN_TOKENS, dtype=np.int32) % encoder.body.config.vocab_size
        self._can_continue = encoder.padding_side == "right" and read_prefix(encoder.body, trial) is not None

    @torch.inference_mode()
    def encode(self, prompts: Sequence[TokenIds]) -> NDArray[np.float32]:
        """(n, d) float32: the state of each prompt's last token, in the order given."""
        if not self._can_continue:
            self._note(sum(map(len, prompts)), 0)
            return self._encoder.encode(prompts)
        begun = [self._beginning(prompt) for prompt in prompts]
        known = np.array([0 if before is None else before.shape[-2] for before in begun])
        lengths = np.array([len(prompt) for prompt in prompts])
        states = np.empty((len(prompts), self._encoder.dim), dtype=np.float32)
        for batch in self._batches(known, lengths):
            texts = [prompts[i][known[i] :] for i in batch]
            parts = [before for i in batch if (before := begun[i]) is not None]
            states[batch], read = self._pass(texts, _joined(parts) if parts else None, known[batch])
            for row, i in enumerate(batch):
                new, before = read[:, :, row, :, : len(texts[row])], begun[i]
                self.kept.keep(prompts[i], new.clone() if before is None else torch.cat([before, new], dim=-2))
        self._note(int((lengths - known).sum()), int(known.sum()))
        return states

    def _beginning(self, prompt: TokenIds) -> torch.Tensor | None:
        """Keys and values from which the prompt is continued; None where it is read whole."""
        before = self.kept.take_beginning(prompt)
        return None if before is None or len(prompt) - before.shape[-2] > MOST_NEW * len(prompt) else before

    def _batches(self, known: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Positions of texts for one pass: those that are read whole, then those that are continued."""
        whole, continued = np.flatnonzero(known == 0), np.flatnonzero(known)
        for rows, budget in ((whole, self._encoder.pass_tokens()), (continued, self._encoder.max_batch_tokens)):
            for batch in pack_by_length(lengths[rows], budget):
                yield rows[batch]

    def _pass(
        self, texts: Sequence[TokenIds], past: torch.Tensor | None, known: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], torch.Tensor]:
        """Last states (b, d) of texts after what is known of each, and the keys and values of the new tokens.

        ``past`` is (layers, 2, b, heads, p, head width), each row's at the end; keys and values are (layers, 2, b, heads, t, head width).
        """
        body, last = self._encoder.body, np.array([len(text) - 1 for text in texts])
        token_ids, _ = pad_batch(texts, pad_id=0)
        weight = next(body.parameters())
        self._encoder.refuse_too_long(int((known + last).max()) + 1)
        layers = [_Layer(None if past is None else past[number]) for number in range(body.config.num_hidden_layers)]
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(token_ids).to(weight.device), "past_key_values": Cache(layers=layers)}
        if past is not None:
            inputs |= _continued(known, token_ids.shape[1], past.shape[-2], weight)
        hidden = body(**inputs, use_cache=True).last_hidden_state
        return picked_states(hidden, np.arange(len(texts)), last), torch.stack([torch.stack(layer.new) for layer in layers])


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """A layer's keys and values of what came before, (2, b, heads, p, head width), and in ``new`` those of the pass."""

    def __init__(self, past: torch.Tensor | None) -> None:
        super().__init__()
        self._past, self.is_initialized = past, True
        self.new: tuple[torch.Tensor, torch.Tensor]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to initialise."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values, (b, heads, p + t, head width)."""
        self.new = key_states, value_states
        if self._past is None:
            return self.new
        return torch.cat([self._past[0], key_states], dim=-2), torch.cat([self._past[1], value_states], dim=-2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self._past is None else int(self._past.shape[-2])

    def get_max_length(self) -> int:
        return -1


def _ends(text: TokenIds) -> list[int]:
    """Lengths of proper beginnings that end in the text's last token, longest first."""
    ends: list[int] = (np.flatnonzero(text[:-1] == text[-1])[::-1] + 1).tolist()
    return ends


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """(layers, 2, b, heads, p, head width) of several texts' (layers, 2, heads, t, head width); shorter ones stand at the end."""
    num_layers, two, num_heads, _, width = parts[0].shape
    longest = max(part.shape[-2] for part in parts)
    joined = parts[0].new_zeros((num_layers, two, len(parts), num_heads, longest, width))
    for row, part in enumerate(parts):
        joined[:, :, row, :, longest - part.shape[-2] :] = part
    return joined


def _continued(known: NDArray[np.int64], num_tokens: int, num_past: int, like: torch.Tensor) -> dict[str, Any]:
    """Positions (b, t) and the additive mask (b, 1, t, p + t): each token sees what is known of its text, and the tokens up to itself."""
    lengths = torch.from_numpy(known).to(like.device)
    is_known = torch.arange(num_past, device=like.device) >= num_past - lengths[:, None]
    before = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=like.device).tril()
    visible = torch.cat([is_known[:, None].expand(-1, num_tokens, -1), before.expand(len(known), -1, -1)], dim=-1)
    mask = additive_mask(visible, like.dtype)
    return {"attention_mask": mask[:, None], "position_ids": lengths[:, None] + torch.arange(num_tokens, device=like.device)}
