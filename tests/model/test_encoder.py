"""The encoder against the plain forward pass of Hugging Face, on two families of models with random weights."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from l2d_ray.errors import ArtefactError
from l2d_ray.model.encoder import Encoder
from l2d_ray.text.prompts import SequencePrompts
from tests.toys import tiny_model

VOCAB_SIZE, SEPARATOR = 90, 9


def make_gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()


MAKERS = {"llama": lambda: tiny_model().model.eval(), "gpt2": make_gpt2}


@pytest.fixture(params=sorted(MAKERS))
def model(request):
    return MAKERS[request.param]()


def make_prompts(count: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, VOCAB_SIZE, rng.integers(1, 25)).astype(np.int32) for _ in range(count)]


def plain_states(model, prompt: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.tensor([prompt.tolist()]), output_hidden_states=True).hidden_states[-1][0].numpy()


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("max_batch_tokens", [1, 40, 10_000])
def test_equals_the_plain_forward_pass_alone_and_in_any_batch(model, max_batch_tokens, padding_side):
    prompts = make_prompts()
    assert len({len(p) for p in prompts}) > 3
    found = Encoder(model, max_batch_tokens=max_batch_tokens, padding_side=padding_side).encode(prompts)
    expected = np.stack([plain_states(model, prompt)[-1] for prompt in prompts])
    assert found.shape == (len(prompts), 32)
    assert found.dtype == np.float32
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_states_of_a_packed_sequence_equal_prompts_encoded_one_by_one(model, padding_side):
    prompts = SequencePrompts((1,), SEPARATOR, window_items=5, min_history=2)
    titles = [np.full(1 + i % 3, 10 + i, dtype=np.int32) for i in range(14)]
    windows = [w for stop in (14, 3, 8) for w in prompts.windows(titles[:stop], completions=False)]
    found = Encoder(model, max_batch_tokens=50, padding_side=padding_side).encode_windows(windows)
    alone = Encoder(model, max_batch_tokens=1)
    expected = np.concatenate([alone.encode([prompts.prompt(titles[:position])]) for w in windows for position in w.target_positions])
    assert len(expected) == 13 + 2 + 7
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_progress_counts_every_state():
    windows = SequencePrompts((1,), SEPARATOR, 5, 2).windows([np.array([10 + i], dtype=np.int32) for i in range(12)], completions=False)
    counts: list[int] = []
    Encoder(tiny_model().model, max_batch_tokens=12).encode_windows(windows, counts.append)
    assert len(counts) > 1
    assert sum(counts) == 11


def test_nothing_in_nothing_out():
    assert Encoder(tiny_model().model).encode([]).shape == (0, 32)


class Forbidden(nn.Module):
    def forward(self, *tensors):
        raise AssertionError("The vocabulary projection was computed.")


def test_the_vocabulary_projection_is_never_computed(model):
    model.set_output_embeddings(Forbidden())
    with pytest.raises(AssertionError, match="projection"):
        model(torch.tensor([[1, 2]]))
    assert np.isfinite(Encoder(model).encode(make_prompts(3))).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_refused(model, value):
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = value
    healthy, damaged = np.array([3, 4], dtype=np.int32), np.array([3, 7], dtype=np.int32)
    assert Encoder(model).encode([healthy]).shape == (1, 32)
    with pytest.raises(ArtefactError, match="NaN or infinite"):
        Encoder(model).encode([healthy, damaged])
