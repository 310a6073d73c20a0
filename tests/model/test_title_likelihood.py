"""Likelihoods of candidates that share a prompt against reading every text alone."""

import numpy as np
import torch

from l2d_ray.model.title_likelihood import title_log_likelihoods
from tests.toys import tiny_model


def naive(model, prompt: np.ndarray, title: np.ndarray, terminator_id: int) -> float:
    text = torch.from_numpy(np.concatenate([prompt, title, [terminator_id]]).astype(np.int64))
    log_probs = torch.log_softmax(model(text[None]).logits[0].double(), dim=-1)
    return float(sum(log_probs[at - 1, text[at]] for at in range(len(prompt), len(text))))


@torch.inference_mode()
def test_packed_candidates_are_as_likely_as_each_alone():
    model, rng = tiny_model().model.eval(), np.random.default_rng(0)
    for length in (1, 7, 40):
        prompt = rng.integers(4, 60, length).astype(np.int32)
        titles = [rng.integers(4, 60, size).astype(np.int32) for size in (1, 5, 2, 9)]
        found = title_log_likelihoods(model, prompt, titles, 3)
        wanted = [naive(model, prompt, title, 3) for title in titles]
        assert len(set(np.round(wanted, 3))) == 4
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
