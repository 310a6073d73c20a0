"""The loop over an engine that is plain torch: it learns, it counts tokens, and a batch without texts changes nothing."""

import numpy as np
import pytest
import torch

from l2d_ray.text.prompts import SequencePrompts
from l2d_ray.train.batches import TrainingText
from l2d_ray.train.loop import train_epoch, validate
from l2d_ray.train.loss import CompletionLoss, make_batch
from tests.toys import tiny_model, training_texts_of

PROMPTS = SequencePrompts((1,), 9, window_items=6, min_history=2)


class PlainEngine:
    """The calls of DeepSpeed's engine on one process."""

    device = "cpu"

    def __init__(self, learning_rate: float) -> None:
        self.loss = CompletionLoss(tiny_model().model)
        self.optimizer = torch.optim.SGD(self.loss.parameters(), lr=learning_rate)
        self.losses: list[float] = []

    def __call__(self, *tensors):
        return self.loss(*tensors)

    def backward(self, loss) -> None:
        self.losses.append(float(loss.detach()))
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, mode: bool = True) -> None:
        self.loss.train(mode)

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.loss.parameters()]).clone()


@pytest.fixture
def batches() -> list[list[TrainingText]]:
    titles = [np.full(1 + i % 2, 20 + i, dtype=np.int32) for i in range(12)]
    texts = training_texts_of(w for stop in (12, 5, 9) for w in PROMPTS.windows(titles[:stop], completions=True))
    return [texts[:2], texts[2:]]


def test_an_epoch_lowers_the_loss_and_validation_does_not_learn(batches):
    engine = PlainEngine(learning_rate=0.1)
    before, weights = validate(engine, batches), engine.weights()
    assert before == validate(engine, batches)
    assert torch.equal(weights, engine.weights())
    assert not engine.loss.training
    for _ in range(5):
        trained = train_epoch(engine, batches, lambda loss: None)
    assert engine.loss.training
    after = validate(engine, batches)
    assert after.loss < trained.loss < before.loss
    assert after.loss < 0.9 * before.loss


def test_losses_are_means_over_predicted_tokens(batches):
    engine, seen = PlainEngine(learning_rate=0.0), []
    counts = [len(make_batch(texts).targets) for texts in batches]
    found = train_epoch(engine, batches, seen.append)
    sums = [float(engine(*make_batch(texts).tensors()).detach()) for texts in batches]
    assert found.num_tokens == sum(counts)
    assert found.loss == pytest.approx(sum(sums) / sum(counts), rel=1e-5)
    assert seen == pytest.approx([s / n for s, n in zip(sums, counts, strict=True)], rel=1e-5)
    assert engine.losses == pytest.approx(seen, rel=1e-5)


def test_a_batch_without_texts_counts_nothing(batches):
    engine = PlainEngine(learning_rate=0.1)
    weights = engine.weights()
    found = train_epoch(engine, [[]], lambda loss: None)
    assert (found.loss, found.num_tokens) == (0.0, 0)
    assert torch.equal(weights, engine.weights())
    assert engine.losses == [0.0]
    assert validate(engine, [[], *batches, []]) == validate(engine, batches)
    assert validate(engine, batches).num_tokens > 0
