"""The loss against a naive one: all logits of each text alone, cross-entropy on the completions' tokens."""

import numpy as np
import pytest
import torch
from torch import nn

from l2d_ray.text.prompts import SequencePrompts, TokenWindow
from l2d_ray.train import loss as loss_module
from l2d_ray.train.loss import CompletionLoss, make_batch
from tests.toys import tiny_model

PROMPTS = SequencePrompts((1,), 9, window_items=4, min_history=1)


def make_windows() -> list[TokenWindow]:
    """Texts of several lengths: first windows, later windows (a long context without loss), and one with a late start."""
    titles = [np.full(1 + i % 3, 20 + i, dtype=np.int32) for i in range(9)]
    return [w for stop, first in ((9, 1), (3, 1), (7, 5)) for w in PROMPTS.windows(titles[:stop], first, completions=True)]


def forward(model, windows: list[TokenWindow]) -> torch.Tensor:
    batch = make_batch(windows)
    return CompletionLoss(model)(batch.token_ids, batch.rows, batch.columns, batch.targets)


def naive_loss(model, windows: list[TokenWindow]) -> torch.Tensor:
    total = torch.zeros(())
    for window in windows:
        ids = torch.from_numpy(window.token_ids.astype(np.int64))
        logits = model(ids[None]).logits[0].float()
        predicted = logits[window.loss_start - 1 : -1]
        total = total + nn.functional.cross_entropy(predicted, ids[window.loss_start :], reduction="sum")
    return total


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("rows_per_projection", [2048, 3, 1])
def test_loss_and_gradient_equal_the_naive_ones(monkeypatch, rows_per_projection):
    monkeypatch.setattr(loss_module, "ROWS_PER_PROJECTION", rows_per_projection)
    model, windows = tiny_model().model.train(), make_windows()
    assert len(windows) >= 4
    ours, naive = forward(model, windows), naive_loss(model, windows)
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-4)
    assert float(naive.detach()) > 1
    expected = gradients(model, naive)
    found = gradients(model, ours)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


def test_only_completion_tokens_count():
    windows = make_windows()
    batch = make_batch(windows)
    assert len(batch.targets) == sum(len(w.token_ids) - w.loss_start for w in windows)
    for row, column, target in zip(batch.rows, batch.columns, batch.targets, strict=True):
        assert column >= windows[row].loss_start - 1
        assert batch.token_ids[row, column + 1] == target == int(windows[row].token_ids[column + 1])


def test_padding_and_other_texts_do_not_matter():
    model, windows = tiny_model().model.eval(), make_windows()
    alone = sum(float(forward(model, [w]).detach()) for w in windows)
    assert float(forward(model, windows).detach()) == pytest.approx(alone, rel=1e-5)
