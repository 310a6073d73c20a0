"""The losses against naive ones: all logits of each text alone, cross-entropy on the completions' tokens, and on the items."""

import numpy as np
import pytest
import torch
from torch import nn

from l2d_ray.text.prompts import SequencePrompts
from l2d_ray.train import loss as loss_module
from l2d_ray.train.batches import TrainingText
from l2d_ray.train.loss import CompletionLoss, make_batch
from tests.toys import tiny_model, training_texts_of

PROMPTS = SequencePrompts((1,), 9, window_items=4, min_history=1)


def make_texts() -> list[TrainingText]:
    """Texts of several lengths: first windows, later windows (a long context without loss), and one with a late start."""
    titles = [np.full(1 + i % 3, 20 + i, dtype=np.int32) for i in range(9)]
    cuts = ((9, 1), (3, 1), (7, 5))
    return training_texts_of(w for stop, first in cuts for w in PROMPTS.windows(titles[:stop], first, completions=True))


def forward(model, texts: list[TrainingText]) -> torch.Tensor:
    return CompletionLoss(model)(*make_batch(texts).tensors())


def naive_loss(model, texts: list[TrainingText]) -> torch.Tensor:
    total = torch.zeros(())
    for text in texts:
        ids = torch.from_numpy(text.token_ids.astype(np.int64))
        logits = model(ids[None]).logits[0].float()
        predicted = logits[text.loss_start - 1 : -1]
        total = total + nn.functional.cross_entropy(predicted, ids[text.loss_start :], reduction="sum")
    return total


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("rows_per_projection", [2048, 3, 1])
def test_loss_and_gradient_equal_the_naive_ones(monkeypatch, rows_per_projection):
    monkeypatch.setattr(loss_module, "ROWS_PER_PROJECTION", rows_per_projection)
    model, texts = tiny_model().model.train(), make_texts()
    assert len(texts) >= 4
    ours, naive = forward(model, texts), naive_loss(model, texts)
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-4)
    assert float(naive.detach()) > 1
    expected = gradients(model, naive)
    found = gradients(model, ours)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


def test_only_completion_tokens_count():
    texts = make_texts()
    batch = make_batch(texts)
    assert len(batch.targets) == sum(len(text.token_ids) - text.loss_start for text in texts)
    for row, column, target in zip(batch.rows, batch.columns, batch.targets, strict=True):
        assert column >= texts[row].loss_start - 1
        assert batch.token_ids[row, column + 1] == target == int(texts[row].token_ids[column + 1])


def test_padding_and_other_texts_do_not_matter():
    model, texts = tiny_model().model.eval(), make_texts()
    alone = sum(float(forward(model, [text]).detach()) for text in texts)
    assert float(forward(model, texts).detach()) == pytest.approx(alone, rel=1e-5)


TITLES = [np.full(1 + i % 3, 20 + i, dtype=np.int32) for i in range(8)] + [np.array([20, 25, 21], dtype=np.int32)]


def item_logits(loss: CompletionLoss, state: torch.Tensor) -> torch.Tensor:
    """An item at a time: the title's mean embedding through the matrix, what is the item's own, its offset."""
    embed, head = loss.model.get_input_embeddings().weight, loss.item_head
    of_titles = torch.stack([head.of_titles.weight @ embed[torch.from_numpy(title).long()].mean(dim=0) for title in TITLES])
    return (of_titles + head.own[:, :-1]) @ state + head.own[:, -1]


def naive_item_loss(loss: CompletionLoss, texts: list[TrainingText]) -> torch.Tensor:
    total = torch.zeros(())
    for text in texts:
        states = loss.model.base_model(input_ids=torch.from_numpy(text.token_ids.astype(np.int64))[None]).last_hidden_state[0]
        assert len(text.state_indexes) == len(text.target_items) > 0
        for position, item in zip(text.state_indexes.tolist(), text.target_items.tolist(), strict=True):
            total = total - torch.log_softmax(item_logits(loss, states[position]), dim=0)[item]
    return total


@pytest.mark.parametrize("rows_per_projection", [2048, 2])
def test_items_have_a_loss_of_their_own_at_the_samples_states(monkeypatch, rows_per_projection):
    monkeypatch.setattr(loss_module, "ROWS_PER_PROJECTION", rows_per_projection)
    texts = make_texts()
    loss = CompletionLoss(tiny_model().model.train(), item_weight=0.5, titles=TITLES)
    with torch.no_grad():
        loss.item_head.own.normal_(std=0.3)
    ours, items = loss(*make_batch(texts).tensors()), naive_item_loss(loss, texts)
    naive = naive_loss(loss.model, texts) + 0.5 * items
    assert float(items.detach()) > 1
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-4)
    expected = gradients(loss, naive)
    assert min(expected[f"item_head.{name}"].abs().max() for name in ("own", "of_titles.weight")) > 0
    found = gradients(loss, ours)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("item_weight", [0.0, 2.0])
def test_dropout_is_of_training_alone_and_of_embeddings_and_states(item_weight):
    batch = make_batch(make_texts()).tensors()
    plain, dropping = (
        CompletionLoss(tiny_model().model, item_weight=item_weight, titles=TITLES, dropout=dropout) for dropout in (0.0, 0.5)
    )
    if item_weight:
        dropping.item_head.load_state_dict(plain.item_head.state_dict())
    with torch.no_grad():
        assert float(dropping.eval()(*batch)) == pytest.approx(float(plain.eval()(*batch)), rel=1e-6)
        embedded = plain.model.get_input_embeddings()(batch[0])
        seen: list[torch.Tensor] = []
        dropping.model.base_model.layers[0].register_forward_hook(lambda module, given, states: seen.append(given[0]))
        torch.manual_seed(0)
        losses = [float(dropping.train()(*batch)) for _ in range(2)]
    assert losses[0] != losses[1]
    is_dropped = [(states == 0)[embedded != 0] for states in seen]
    assert not torch.equal(*is_dropped)
    assert [float(dropped.float().mean()) for dropped in is_dropped] == pytest.approx([0.5, 0.5], abs=0.05)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], 2 * embedded[kept])
    assert set(dropping.dropout(torch.ones(1000)).unique().tolist()) == {0.0, 2.0}
