"""The encoder: texts -> hidden states of the last layer (after the final norm), by the transformer's body alone.

The vocabulary projection is never computed. Texts are packed by length under a token budget; with causal attention a text's states
do not depend on what stands to its right, so right padding needs no mask at all and the attention kernel keeps its fast causal path.
Left padding (with mask and position ids) gives the same vectors and exists for models that insist on it, and for the test of that law.
What all texts start with (the instruction of the instruction format) is read once; a pass then reads the rest of each text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from l2d_ray.errors import ArtefactError, ConfigError
from l2d_ray.model.shared_prefix import SharedPrefix, read_prefix
from l2d_ray.text.packing import pack_by_length, pad_batch
from l2d_ray.text.prompts import TokenIds, TokenWindow

NO_PREFIX: TokenIds = np.empty(0, dtype=np.int32)
CPU_TOKENS_PER_THREAD = 1024
"""Activations of a larger pass leave the cache. Measured with the mini, one thread: 1,024 tokens a pass encode a third more than 8,192."""


class Encoder:
    """Hidden states of texts.

    Args:
        model: a Hugging Face causal LM, already on its device and in its dtype; put into eval mode.
        max_batch_tokens: padded tokens in one forward pass at most; a CPU takes fewer where that is faster.
        padding_side: see the module.
        shared_prefix: (p,) what texts usually start with, ``prompts.shared_prefix``; texts that start otherwise are read whole.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_batch_tokens: int = 8192,
        padding_side: Literal["right", "left"] = "right",
        shared_prefix: TokenIds = NO_PREFIX,
    ) -> None:
        self.body = model.base_model.eval()
        self.dim = int(model.config.hidden_size)
        self.max_tokens = getattr(model.config, "max_position_embeddings", None)
        self.max_batch_tokens = max_batch_tokens
        self.padding_side = padding_side
        self._prefix = read_prefix(self.body, shared_prefix) if padding_side == "right" else None

    def encode(self, prompts: Sequence[TokenIds]) -> NDArray[np.float32]:
        """(n, d) float32: the state of each prompt's last token, in the order given."""
        last = [np.array([len(prompt) - 1], dtype=np.int32) for prompt in prompts]
        return self._states(prompts, last)

    def encode_windows(self, windows: Sequence[TokenWindow], on_progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """(sum of states, d) float32: every state of every window, windows in the order given, states ascending.

        Memory beyond the answer is that of one pass, however long a user's sequence is.
        """
        return self._states([w.token_ids for w in windows], [w.state_indexes for w in windows], on_progress)

    def _states(
        self,
        texts: Sequence[TokenIds],
        state_indexes: Sequence[NDArray[np.int32]],
        on_progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        ends = np.cumsum([len(indexes) for indexes in state_indexes], dtype=np.int64)
        states = np.empty((int(ends[-1]) if len(ends) else 0, self.dim), dtype=np.float32)
        prefix = self._prefix_of(texts, state_indexes)
        skipped = 0 if prefix is None else len(prefix)
        for batch in pack_by_length([len(text) - skipped for text in texts], self.pass_tokens()):
            rows = np.repeat(np.arange(len(batch)), [len(state_indexes[i]) for i in batch])
            columns = np.concatenate([state_indexes[i] for i in batch]) - skipped
            into = np.concatenate([np.arange(ends[i] - len(state_indexes[i]), ends[i]) for i in batch])
            states[into] = self._forward([texts[i][skipped:] for i in batch], rows, columns, prefix)
            if on_progress:
                on_progress(len(into))
        return states

    def _prefix_of(self, texts: Sequence[TokenIds], state_indexes: Sequence[NDArray[np.int32]]) -> SharedPrefix | None:
        """The shared prefix where every text starts with it."""
        prefix = self._prefix
        if prefix is None or not all(prefix.starts(text, int(at[0])) for text, at in zip(texts, state_indexes, strict=True)):
            return None
        return prefix

    def pass_tokens(self) -> int:
        """Padded tokens of one pass."""
        on_cpu = next(self.body.parameters()).device.type == "cpu"
        return min(self.max_batch_tokens, CPU_TOKENS_PER_THREAD * torch.get_num_threads()) if on_cpu else self.max_batch_tokens

    @torch.inference_mode()
    def _forward(
        self, texts: list[TokenIds], rows: NDArray[np.int64], columns: NDArray[np.int32], prefix: SharedPrefix | None
    ) -> NDArray[np.float32]:
        """States at ``(rows, columns)`` of some texts, which are read after the prefix."""
        token_ids, is_real = pad_batch(texts, pad_id=0, side=self.padding_side)
        self.refuse_too_long(token_ids.shape[1] + (0 if prefix is None else len(prefix)))
        weight = next(self.body.parameters())
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(token_ids).to(weight.device), "use_cache": False}
        shift = np.zeros(len(texts), dtype=np.int64)
        if prefix is not None:
            inputs |= prefix.inputs(token_ids.shape[1], weight)
        if self.padding_side == "left":
            mask = torch.from_numpy(is_real).to(weight.device)
            inputs |= {"attention_mask": mask.long(), "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
            shift = token_ids.shape[1] - is_real.sum(1)
        return picked_states(self.body(**inputs).last_hidden_state, rows, columns + shift[rows])

    def refuse_too_long(self, num_tokens: int) -> None:
        """ConfigError where a text has more tokens than the model reads."""
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            raise ConfigError(
                f"A text has {num_tokens} tokens, the model reads {self.max_tokens}; lower model.window_items or max_title_tokens."
            )


def picked_states(hidden: torch.Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, d) float32 of hidden states (b, t, d); ArtefactError where they are no numbers."""
    device = hidden.device
    picked: NDArray[np.float32] = hidden[torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)].float().cpu().numpy()
    if not np.isfinite(picked).all():
        raise ArtefactError("The model gave NaN or infinite hidden states; its weights are damaged or the dtype is too narrow for it.")
    return picked
