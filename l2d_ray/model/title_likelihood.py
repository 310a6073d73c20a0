"""How likely the model finds given titles after a prompt: the accurate, slower judge of a few candidates.

The prompt is read once; its keys and values are shared by all candidates (``model.shared_prefix``), which are read packed into one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from l2d_ray.model.shared_prefix import as_prefix
from l2d_ray.text.packing import pad_batch
from l2d_ray.text.prompts import TokenIds


@torch.inference_mode()
def title_log_likelihoods(model: Any, prompt: TokenIds, titles: Sequence[TokenIds], terminator_id: int) -> NDArray[np.float64]:
    """(n,) float64: log-probability of each title and the terminator after the prompt, over the full vocabulary.

    Args:
        model: a Hugging Face causal LM in eval mode with rotary positions and full attention.
        titles: (t,) int32 each, at least one token; at least one title.
    """
    weight = next(model.parameters())
    prompt_ids = torch.from_numpy(prompt.astype(np.int64)).to(weight.device)[None]
    read = model.base_model(input_ids=prompt_ids, use_cache=True)
    completions = [np.append(title, np.int32(terminator_id)) for title in titles]
    token_ids, _ = pad_batch(completions, pad_id=0)
    inputs = torch.from_numpy(token_ids).to(weight.device)
    states = model.base_model(input_ids=inputs, **as_prefix(prompt, read.past_key_values).inputs(inputs.shape[1], weight)).last_hidden_state
    first = read.last_hidden_state[:, -1:].expand(len(titles), -1, -1)
    before = torch.cat([first, states[:, :-1]], dim=1)  # the state from which each token is predicted
    lengths = torch.tensor([len(completion) for completion in completions], device=weight.device)
    is_real = torch.arange(inputs.shape[1], device=weight.device) < lengths[:, None]
    logits = model.get_output_embeddings()(before[is_real]).float()
    scores = torch.zeros(inputs.shape, dtype=torch.float64, device=weight.device)
    scores[is_real] = -torch.nn.functional.cross_entropy(logits, inputs[is_real], reduction="none").double()
    found: NDArray[np.float64] = scores.sum(dim=1).cpu().numpy()
    return found
