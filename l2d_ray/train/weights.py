"""Weights in and out of training: adapters (peft), gathering sharded parameters, the plain model that is left at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM


def load_for_training(base_dir: Path, *, dtype: torch.dtype, lora: dict[str, Any] | None) -> Any:
    """The causal LM of a folder, with adapters where ``lora`` (rank, alpha, dropout, target_modules) asks for them."""
    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    if lora is None:
        return model
    modules = lora["target_modules"]
    settings = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors (norms, biases) do not; frozen parameters are left out, and so are empty groups, as ZeRO-3 drops them."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if _num_dims(p) > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if _num_dims(p) <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def save_plain_model(state: dict[str, torch.Tensor], base_dir: Path, destination: Path, *, lora: dict[str, Any] | None) -> None:
    """Write a plain Hugging Face folder (safetensors) from gathered parameters, adapters merged into the weights."""
    model = load_for_training(base_dir, dtype=next(iter(state.values())).dtype, lora=lora)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("lm_head" in name for name in missing), missing  # tied to the embedding, which is there
    plain = model.merge_and_unload() if lora is not None else model
    plain.save_pretrained(destination, safe_serialization=True)


def _num_dims(parameter: nn.Parameter) -> int:
    """Dimensions of a parameter, also where ZeRO-3 has taken it apart and keeps the shape aside."""
    return len(getattr(parameter, "ds_shape", parameter.shape))
