"""DeepSpeed's settings and the learning rate's schedule, as plain values."""

from __future__ import annotations

import math
from typing import Any


def deepspeed_settings(*, zero_stage: int, precision: str, accumulation_steps: int, max_grad_norm: float) -> dict[str, Any]:
    """What ``deepspeed.initialize`` gets. Batches are packed by tokens, so DeepSpeed's own batch size is a formality of 1."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": {"stage": zero_stage},
        "bf16": {"enabled": precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def learning_rate_factor(step: int, *, num_steps: int, warmup_fraction: float, floor: float = 0.1) -> float:
    """Share of the peak rate at an optimizer step: a linear warm-up, then a cosine down to ``floor``."""
    num_warmup = max(1, round(num_steps * warmup_fraction))
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
