"""Reading the instruction once: the states are those of the whole prompts, and models whose cache cannot be shared read everything."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from l2d_ray.errors import ArtefactError, ConfigError
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.shared_prefix import MIN_TOKENS, read_prefix
from l2d_ray.text.prompts import InstructionPrompts
from tests.toys import tiny_model

VOCAB_SIZE = 90
INSTRUCTION = tuple(range(10, 40))
PROMPTS = InstructionPrompts(INSTRUCTION, newline_ids=(2,), response_ids=(3, 4, 5), terminator=1, history_length=3)
SMALL = {"vocab_size": VOCAB_SIZE, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6}


def smollm2_shaped(**changed):
    """SmolLM2's family: grouped queries (three heads share keys and values), tied embeddings, its rotary base."""
    torch.manual_seed(0)
    rotary = {"rope_type": "default", "rope_theta": 100_000.0}
    config = LlamaConfig(**(SMALL | {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": rotary} | changed))
    return LlamaForCausalLM(config).eval()


def sliding_mistral():
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=16)).eval()


def learned_positions():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=2, n_positions=128)).eval()


SHARING = {
    "mini": lambda: tiny_model().model.eval(),
    "smollm2": smollm2_shaped,
    "eager": lambda: smollm2_shaped(attn_implementation="eager"),
}
READING_WHOLE = {"sliding window": sliding_mistral, "learned positions": learned_positions}


@pytest.fixture(params=sorted(SHARING | READING_WHOLE))
def model_and_shares(request):
    return (SHARING | READING_WHOLE)[request.param](), request.param in SHARING


def make_windows(num_titles: int = 14):
    rng = np.random.default_rng(2)
    titles = [rng.integers(40, VOCAB_SIZE, rng.integers(1, 9)).astype(np.int32) for _ in range(num_titles)]
    return PROMPTS.windows(titles, completions=False)


def states_of_whole_prompts(model, prompts) -> np.ndarray:
    with torch.inference_mode():
        alone = [model(torch.tensor([p.tolist()]), output_hidden_states=True).hidden_states[-1][0, -1] for p in prompts]
    return torch.stack(alone).float().numpy()


def texts_read(encoder: Encoder, monkeypatch) -> list[int]:
    """Lengths of the texts that the body is given from now on."""
    lengths: list[int] = []
    forward = encoder.body.forward

    def counted(input_ids, **inputs):
        lengths.append(input_ids.shape[1])
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(encoder.body, "forward", counted)
    return lengths


@pytest.mark.parametrize("max_batch_tokens", [1, 60, 10_000])
def test_equals_the_whole_prompts(model_and_shares, max_batch_tokens, monkeypatch):
    model, shares = model_and_shares
    windows = make_windows()
    encoder = Encoder(model, max_batch_tokens=max_batch_tokens, shared_prefix=PROMPTS.shared_prefix)
    expected = states_of_whole_prompts(model, [w.token_ids for w in windows])
    lengths = texts_read(encoder, monkeypatch)
    found = encoder.encode_windows(windows)
    assert len(windows) == 13
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    longest = max(len(w.token_ids) for w in windows)
    assert max(lengths) == (longest - len(INSTRUCTION) if shares else longest)


def test_one_prompt_and_again(model_and_shares):
    """The prefix serves many calls and is not changed by any."""
    model, _ = model_and_shares
    encoder = Encoder(model, shared_prefix=PROMPTS.shared_prefix)
    prompts = [w.token_ids for w in make_windows()]
    expected = states_of_whole_prompts(model, prompts)
    for _ in range(2):
        np.testing.assert_allclose(np.concatenate([encoder.encode([p]) for p in prompts]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [np.array([7, 8], dtype=np.int32), np.array([*INSTRUCTION[:-1], 5, 6], dtype=np.int32), np.array(INSTRUCTION, dtype=np.int32)],
    ids=["shorter", "another", "nothing after it"],
)
def test_texts_that_start_otherwise_are_read_whole(other):
    model = smollm2_shaped()
    prompts = [other, make_windows()[3].token_ids]
    found = Encoder(model, shared_prefix=PROMPTS.shared_prefix).encode(prompts)
    np.testing.assert_allclose(found, states_of_whole_prompts(model, prompts), rtol=0, atol=1e-4)


def test_states_inside_the_prefix_are_read_whole():
    model, text = smollm2_shaped(), make_windows()[0].token_ids
    encoder = Encoder(model, shared_prefix=text[: MIN_TOKENS + 4])
    np.testing.assert_allclose(
        encoder.encode([text[: MIN_TOKENS + 4]]), states_of_whole_prompts(model, [text[: MIN_TOKENS + 4]]), atol=1e-4
    )


def test_half_precision_shares_too():
    model = smollm2_shaped().to(torch.bfloat16)
    assert read_prefix(model.base_model, PROMPTS.shared_prefix) is not None
    prompts = [w.token_ids for w in make_windows()]
    found = Encoder(model, shared_prefix=PROMPTS.shared_prefix).encode(prompts)
    np.testing.assert_allclose(found, states_of_whole_prompts(model, prompts), rtol=0, atol=0.1)


def test_a_short_prefix_is_not_worth_it():
    assert read_prefix(smollm2_shaped().base_model, PROMPTS.shared_prefix[: MIN_TOKENS - 1]) is None
    assert read_prefix(smollm2_shaped().base_model, PROMPTS.shared_prefix[:MIN_TOKENS]) is not None


def test_a_model_that_fails_the_trial_is_read_whole(monkeypatch):
    """Here one that looks at its cache's length alone and so sees other positions than those of the whole text."""
    model = smollm2_shaped()
    forward = model.base_model.forward

    def shifted(input_ids, past_key_values=None, **inputs):
        position_ids = None if past_key_values is None else torch.arange(input_ids.shape[1])[None]
        return forward(input_ids=input_ids, past_key_values=past_key_values, position_ids=position_ids, **inputs)

    monkeypatch.setattr(model.base_model, "forward", shifted)
    assert read_prefix(model.base_model, PROMPTS.shared_prefix) is None


def test_damaged_weights_and_too_long_texts_are_refused_all_the_same():
    model = smollm2_shaped(max_position_embeddings=50)
    encoder = Encoder(model, shared_prefix=PROMPTS.shared_prefix)
    long = np.array([*INSTRUCTION, *[60] * 21], dtype=np.int32)
    assert encoder.encode([long[:50]]).shape == (1, 48)
    with pytest.raises(ConfigError, match="has 51 tokens, the model reads 50"):
        encoder.encode([long])
    with torch.no_grad():
        model.get_input_embeddings().weight[60] = float("nan")
    with pytest.raises(ArtefactError, match="NaN or infinite"):
        encoder.encode([long[:40]])
