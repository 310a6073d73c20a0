"""Weights in and out of training: who decays, and that what is saved is a plain model with the adapters in it."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from l2d_ray.train.loss import CompletionLoss
from l2d_ray.train.weights import load_for_training, parameter_groups, save_plain_model
from tests.toys import tiny_model

LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}
TOKENS = torch.tensor([[1, 5, 6, 7]])


@pytest.fixture
def base_dir(tmp_path):
    tiny_model().model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_matrices_decay_and_vectors_do_not():
    model = CompletionLoss(tiny_model().model)
    frozen = model.model.model.norm.weight.requires_grad_(False)
    decayed, plain = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert decayed["params"]
    assert plain["params"]
    assert all(p.dim() == 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in plain["params"])
    grouped = {id(p) for group in (decayed, plain) for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters()} - {id(frozen)}


def test_adapters_alone_are_one_group(base_dir):
    """Adapters are matrices: a group without parameters would be dropped by ZeRO-3 and leave its scheduler with one rate too many."""
    model = load_for_training(base_dir, dtype=torch.float32, lora=LORA)
    (group,) = parameter_groups(model, 0.1)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora" in name for name in names)
    assert len(group["params"]) == len(names)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_plain_model_says_what_the_trained_one_said(base_dir, tmp_path, lora):
    model = load_for_training(base_dir, dtype=torch.float32, lora=lora)
    start = AutoModelForCausalLM.from_pretrained(base_dir)(TOKENS).logits
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.2)
    trained = model.eval()(TOKENS).logits
    assert (trained - start).abs().max() > 0.1
    save_plain_model(dict(model.named_parameters()), base_dir, tmp_path / "plain", lora=lora)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("adapter*"))
    torch.testing.assert_close(plain(TOKENS).logits, trained, rtol=1e-3, atol=1e-3)
