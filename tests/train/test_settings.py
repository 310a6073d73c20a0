"""The schedule of the learning rate, by hand, and what DeepSpeed is told."""

import pytest

from l2d_ray.train.settings import deepspeed_settings, learning_rate_factor


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.5), (1, 1.0), (2, 1.0), (4, 0.1 + 0.9 * (1 + 0.5**0.5) / 2), (6, 0.55), (10, 0.1), (500, 0.1)],
)
def test_warm_up_then_a_cosine_to_a_tenth(step, factor):
    assert learning_rate_factor(step, num_steps=10, warmup_fraction=0.2) == pytest.approx(factor)


def test_without_a_warm_up_the_first_step_is_the_peak():
    assert learning_rate_factor(0, num_steps=10, warmup_fraction=0.0) == 1.0
    assert learning_rate_factor(0, num_steps=1, warmup_fraction=0.05) == 1.0


def test_the_rate_rises_and_then_only_falls():
    factors = [learning_rate_factor(step, num_steps=50, warmup_fraction=0.1) for step in range(60)]
    assert factors[:5] == sorted(factors[:5])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert min(factors[5:]) == pytest.approx(0.1)


def test_deepspeed_settings():
    found = deepspeed_settings(zero_stage=3, precision="bf16", accumulation_steps=4, max_grad_norm=0.5)
    assert found["zero_optimization"] == {"stage": 3}
    assert (found["bf16"]["enabled"], found["gradient_accumulation_steps"], found["gradient_clipping"]) == (True, 4, 0.5)
    assert not deepspeed_settings(zero_stage=0, precision="float32", accumulation_steps=1, max_grad_norm=1.0)["bf16"]["enabled"]
