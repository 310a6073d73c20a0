"""Language-space decoding as the library has it: Hugging Face's ``generate``, constrained to the catalogue and free.

What users of generative recommenders run today, and so what the speed of latent-space decoding is first compared with; the faster
search of our own is ``language_space.constrained_beam_search``, which gives the same titles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from l2d_ray.model.tree_attention import refuse_empty
from l2d_ray.text.packing import pad_batch
from l2d_ray.text.prefix_tree import PrefixTree
from l2d_ray.text.prompts import TokenIds


@torch.inference_mode()
def generate_titles(
    model: Any, prompts: Sequence[TokenIds], tree: PrefixTree, *, num_beams: int, terminator_id: int, pad_token_id: int
) -> list[list[list[int]]]:
    """The ``num_beams`` best titles after each prompt, as token ids with the terminator, best first.

    Beam search without length normalisation, kept inside the catalogue by ``prefix_allowed_tokens_fn``. All prompts are one batch, left
    padded with an attention mask. The allowed continuations of a prefix are looked up once and remembered.
    """
    if not prompts:
        return []
    refuse_empty(prompts)
    token_ids, is_real = pad_batch(prompts, pad_token_id, side="left")
    start = token_ids.shape[1]
    allowed: dict[tuple[int, ...], list[int]] = {}

    def followers(_: int, written: torch.Tensor) -> list[int]:
        prefix = tuple(written[start:].tolist())
        if prefix not in allowed:
            allowed[prefix] = _followers(tree, prefix) or [terminator_id]
        return allowed[prefix]

    output = model.generate(
        torch.from_numpy(token_ids).to(model.device),
        attention_mask=torch.from_numpy(is_real).long().to(model.device),
        max_new_tokens=tree.max_depth,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        prefix_allowed_tokens_fn=followers,
        eos_token_id=terminator_id,
        pad_token_id=pad_token_id,
    )
    titles = [row[: row.index(terminator_id) + 1] if terminator_id in row else row for row in output[:, start:].tolist()]
    return [titles[first : first + num_beams] for first in range(0, len(titles), num_beams)]


@torch.inference_mode()
def greedy_titles(
    model: Any, prompts: Sequence[TokenIds], *, max_new_tokens: int, terminator_id: int, pad_token_id: int
) -> list[list[int]]:
    """What the model writes freely after each prompt, most probable token by token: the ids before the terminator (at most max_new_tokens).

    The text need not be a title of the catalogue. All prompts are one batch, left padded. Raises DataError for an empty prompt.
    """
    if not prompts:
        return []
    refuse_empty(prompts)
    token_ids, is_real = pad_batch(prompts, pad_token_id, side="left")
    written = model.generate(
        torch.from_numpy(token_ids).to(model.device),
        attention_mask=torch.from_numpy(is_real).long().to(model.device),
        max_new_tokens=max_new_tokens,
        num_beams=1,
        do_sample=False,
        eos_token_id=terminator_id,
        pad_token_id=pad_token_id,
    )
    rows: list[list[int]] = written[:, token_ids.shape[1] :].tolist()
    return [row[: row.index(terminator_id)] if terminator_id in row else row for row in rows]


def _followers(tree: PrefixTree, prefix: tuple[int, ...]) -> list[int]:
    """Tokens that may follow a prefix of some title; none after a whole title."""
    node = 0
    for token in prefix:
        node = int(tree.step(np.array([node]), np.array([token]))[0])
        if node < 0:
            return []
    return [int(token) for token in tree.children(node).tokens]
