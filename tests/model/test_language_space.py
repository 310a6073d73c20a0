"""Language-space decoding against a brute-force oracle (every title scored alone) and against ``generate``, on toy random models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from l2d_ray.errors import ArtefactError, ConfigError, DataError
from l2d_ray.model import language_space
from l2d_ray.model.generation import generate_titles, greedy_titles
from l2d_ray.model.language_space import constrained_beam_search
from l2d_ray.text.prefix_tree import PrefixTree

PAD, END, FIRST, VOCAB = 0, 1, 2, 40


def make_model(family, attention="sdpa"):
    torch.manual_seed(0)
    ids = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": END, "pad_token_id": PAD, "initializer_range": 0.4}
    if family == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, attn_implementation=attention, **ids)
        return GPT2LMHeadModel(config).eval()
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
        **ids,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return make_model(request.param)


def make_completions(num_items, *, num_tokens, seed=0):
    """Titles over few tokens, so that they branch deep; repeated titles are kept."""
    rng = np.random.default_rng(seed)
    return [[*rng.integers(FIRST, FIRST + num_tokens, size=rng.integers(1, 7)).tolist(), END] for _ in range(num_items)]


def make_prompts(*lengths):
    rng = np.random.default_rng(1)
    return [rng.integers(FIRST, VOCAB, size=length).astype(np.int32) for length in lengths]


PROMPTS = make_prompts(9, 3, 14, 1)


def oracle(model, prompt, completions, length_penalty=0.0):
    """(ranking, scores): each completion's teacher-forced log-probability, one forward pass a completion."""
    scores = []
    for completion in completions:
        token_ids = torch.tensor([[*prompt.tolist(), *completion]])
        with torch.inference_mode():
            log_probs = model(token_ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
        total = log_probs[torch.arange(len(completion)), torch.tensor(completion)].sum().item()
        scores.append(total / len(completion) ** length_penalty)
    by_title = {tuple(completion): score for completion, score in zip(completions, scores, strict=True)}
    scores = np.array([by_title[tuple(completion)] for completion in completions])
    return np.lexsort((np.arange(len(scores)), -scores)), scores


def search(model, prompts, completions, *, num_beams=8, k=8, **settings):
    return constrained_beam_search(model, prompts, PrefixTree(completions), num_beams=num_beams, k=k, pad_token_id=PAD, **settings)


def assert_same(left, right):
    assert left.item_indexes.tolist() == right.item_indexes.tolist()
    np.testing.assert_allclose(left.scores, right.scores, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_with_enough_beams_the_ranking_is_the_brute_force_ranking(model, length_penalty):
    completions = make_completions(60, num_tokens=4)
    num_titles = len({tuple(completion) for completion in completions})
    assert num_titles < len(completions), "the toy must hold repeated titles"
    beams = search(model, PROMPTS, completions, num_beams=num_titles, k=len(completions), length_penalty=length_penalty)
    assert len(beams) == len(PROMPTS)
    for prompt, result in zip(PROMPTS, beams, strict=True):
        ranking, scores = oracle(model, prompt, completions, length_penalty)
        assert result.item_indexes.tolist() == ranking.tolist()
        np.testing.assert_allclose(result.scores, scores[ranking], rtol=1e-5, atol=1e-4)
        assert (result.item_indexes.dtype, result.scores.dtype) == (np.int64, np.float32)


def generate_reference(model, prompts, completions, num_beams):
    """Titles and scores of ``generate`` under the same constraint, left padded."""
    longest = max(map(len, prompts))
    followers = {}
    for completion in completions:
        for length in range(len(completion)):
            followers.setdefault(tuple(completion[:length]), set()).add(completion[length])
    rows = [[PAD] * (longest - len(prompt)) + prompt.tolist() for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = model.generate(
        torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        prefix_allowed_tokens_fn=lambda _, written: sorted(followers.get(tuple(written[longest:].tolist()), {END})),
        max_new_tokens=max(map(len, completions)),
        eos_token_id=END,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
    )
    titles = [row[: row.index(END) + 1] for row in output.sequences[:, longest:].tolist()]
    scores = output.sequences_scores.view(len(prompts), num_beams).numpy()
    return [titles[start : start + num_beams] for start in range(0, len(titles), num_beams)], scores


@pytest.mark.parametrize("num_beams", [3, 7])
@pytest.mark.parametrize("num_tokens", [4, 30])
def test_equals_generate_with_the_same_beams(model, num_beams, num_tokens):
    drawn = {tuple(completion) for completion in make_completions(300, num_tokens=num_tokens)}
    completions = [list(completion) for completion in sorted(drawn)]
    assert len(completions) > 100
    titles, scores = generate_reference(model, PROMPTS, completions, num_beams)
    results = search(model, PROMPTS, completions, num_beams=num_beams, k=num_beams)
    for result, expected, expected_scores in zip(results, titles, scores, strict=True):
        assert [completions[index] for index in result.item_indexes] == expected
        np.testing.assert_allclose(result.scores, expected_scores, rtol=1e-5, atol=1e-4)


def test_a_prompt_has_the_same_answer_alone_and_in_a_batch(model):
    completions = make_completions(200, num_tokens=5)
    together = search(model, PROMPTS, completions)
    for prompt, result in zip(PROMPTS, together, strict=True):
        assert len(result.item_indexes) == 8
        assert_same(search(model, [prompt], completions)[0], result)


def test_fewer_items_wanted_are_the_head_of_more(model):
    completions = make_completions(200, num_tokens=5)
    for short, full in zip(search(model, PROMPTS, completions, k=3), search(model, PROMPTS, completions), strict=True):
        assert short.item_indexes.tolist() == full.item_indexes[:3].tolist()
        np.testing.assert_allclose(short.scores, full.scores[:3], rtol=1e-5, atol=1e-4)


def test_long_titles_are_scored_alike_in_one_pass_and_in_many(model, monkeypatch):
    completions = make_completions(100, num_tokens=30)
    whole = search(model, PROMPTS, completions)
    monkeypatch.setattr(language_space, "MAX_LOGITS", 1)
    for one, many in zip(whole, search(model, PROMPTS, completions), strict=True):
        assert_same(one, many)


def test_eager_attention_gives_the_answer_of_sdpa():
    completions = make_completions(100, num_tokens=5)
    for fused, eager in zip(*(search(make_model("llama", name), PROMPTS, completions) for name in ("sdpa", "eager")), strict=True):
        assert_same(fused, eager)


def test_items_of_one_title_share_its_score_in_ascending_order(model):
    completions = [[5, 6, END], [7, END], [5, 6, END], [5, 6, END]]
    result = search(model, PROMPTS[:1], completions, num_beams=2, k=10)[0]
    assert sorted(result.item_indexes.tolist()) == [0, 1, 2, 3]
    assert [index for index in result.item_indexes.tolist() if index != 1] == [0, 2, 3]
    assert len(set(result.scores.tolist())) == 2
    assert len(search(model, PROMPTS[:1], completions, num_beams=2, k=2)[0].item_indexes) == 2


def test_a_catalogue_of_one_title(model):
    result = search(model, PROMPTS, [[5, 6, 7, END]], k=4)
    assert [beams.item_indexes.tolist() for beams in result] == [[0]] * len(PROMPTS)


def test_no_prompts_no_answers(model):
    assert search(model, [], [[5, END]]) == []
    assert greedy_titles(model, [], max_new_tokens=3, terminator_id=END, pad_token_id=PAD) == []


def test_greedy_writes_the_most_probable_token_until_the_terminator(model):
    written = greedy_titles(model, PROMPTS, max_new_tokens=6, terminator_id=END, pad_token_id=PAD)
    assert len(written) == len(PROMPTS)
    for prompt, title in zip(PROMPTS, written, strict=True):
        token_ids = prompt.tolist()
        while len(token_ids) < len(prompt) + 6:
            with torch.inference_mode():
                token = int(model(torch.tensor([token_ids])).logits[0, -1].argmax())
            if token == END:
                break
            token_ids.append(token)
        assert title == token_ids[len(prompt) :]


def test_greedy_stops_before_the_terminator(model):
    free = greedy_titles(model, PROMPTS, max_new_tokens=5, terminator_id=END, pad_token_id=PAD)[0]
    stopped = greedy_titles(model, PROMPTS[:1], max_new_tokens=5, terminator_id=free[2], pad_token_id=PAD)[0]
    assert stopped == free[: free.index(free[2])]


def test_refuses_what_it_cannot_decode(model):
    with pytest.raises(ConfigError, match="num_beams is 0"):
        search(model, PROMPTS, [[5, END]], num_beams=0)
    with pytest.raises(ConfigError, match="token 99, but the model's vocabulary ends at 39"):
        search(model, PROMPTS, [[99, END]])
    with pytest.raises(DataError, match="Prompt 1 has no tokens"):
        search(model, [PROMPTS[0], np.array([], dtype=np.int32)], [[5, END]])


def test_refuses_attention_it_cannot_mask_and_damaged_weights():
    broken = make_model("llama")
    torch.nn.init.constant_(broken.lm_head.weight, float("nan"))
    with pytest.raises(ArtefactError, match="NaN"):
        search(broken, PROMPTS, [[5, END]])
    broken.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="flash_attention_2"):
        search(broken, PROMPTS, [[5, END]])


@pytest.mark.parametrize("num_beams", [2, 8])
def test_the_librarys_constrained_generate_gives_the_same_titles(model, num_beams):
    completions = [list(c) for c in sorted({tuple(c) for c in make_completions(150, num_tokens=6)})]
    titles = generate_titles(model, PROMPTS, PrefixTree(completions), num_beams=num_beams, terminator_id=END, pad_token_id=PAD)
    results = search(model, PROMPTS, completions, num_beams=num_beams, k=num_beams)
    for found, result in zip(titles, results, strict=True):
        assert found == [completions[index] for index in result.item_indexes]
