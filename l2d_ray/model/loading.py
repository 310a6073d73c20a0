"""Models in and out: a hub id, a local folder, smollm2 or mini in; a plain Hugging Face folder with ``l2d.json`` out.

``l2d.json`` records how the model is to be prompted and the model's fingerprint: a hash of weights, tokenizer, prompt settings and
layer. Hidden states of different fingerprints must never meet in one memory. Weights are safetensors only; remote code is never run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from l2d_ray.errors import ArtefactError, ConfigError
from l2d_ray.model.mini import make_model, make_tokenizer
from l2d_ray.model.smollm2 import smollm2_dir
from l2d_ray.schema import FORMAT_VERSION
from l2d_ray.text.prompts import PromptFormat, PromptSettings, prompt_format

METADATA = "l2d.json"
LAYER = "last, after the final norm"
CpuDtype = Literal["float32", "bfloat16"]
_PROMPT_FIELDS = {field.name for field in fields(PromptSettings)}


@dataclass(frozen=True)
class LanguageModel:
    """A causal LM with its tokenizer and the way it is prompted. ``fingerprint`` is empty until the model has been saved."""

    model: Any
    tokenizer: Any
    settings: PromptSettings
    fingerprint: str

    @property
    def prompts(self) -> PromptFormat:
        return prompt_format(self.tokenizer, self.settings)

    @property
    def dim(self) -> int:
        """Width of a hidden state."""
        return int(self.model.config.hidden_size)


def resolve_device(device: str) -> str:
    """``auto`` becomes cuda where there is a CUDA device, else cpu; cuda without one is a ConfigError."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no CUDA device here; use device=cpu or auto.")
    return device


def resolve_name(name: str, device: str) -> str:
    """``auto`` becomes smollm2 on CUDA and mini on a CPU."""
    if name == "auto":
        return "smollm2" if device == "cuda" else "mini"
    return name


def make_mini(
    training_titles: Sequence[str],
    settings: PromptSettings,
    *,
    vocab_size: int,
    shape: dict[str, Any],
    seed: int,
) -> LanguageModel:
    """A fresh mini model; ``shape`` as in ``make_model``."""
    tokenizer = make_tokenizer(training_titles, vocab_size)
    return LanguageModel(make_model(tokenizer, **shape, seed=seed), tokenizer, settings, "")


def load_pretrained(name: str, settings: PromptSettings, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A pretrained causal LM: ``smollm2``, a local folder or a hub id."""
    hf_logging.disable_progress_bar()  # transformers' bars for reading local shards would garble the jobs' own
    source = str(smollm2_dir()) if name == "smollm2" else name
    if source.startswith((".", "/")) and not Path(source).is_dir():
        raise ArtefactError(f"There is no model folder at {source}; give mini, smollm2, a folder that exists, or a hub id.")
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtefactError(
            f"No causal LM could be loaded from {name!r} ({_first_line(error)}); give mini, smollm2, a folder with config.json, "
            "safetensors and a tokenizer, or the id of such a model on the hub."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ArtefactError(f"The tokenizer of {name!r} has no end-of-text token, which ends a completion; give one to its folder.")
    return LanguageModel(model, tokenizer, settings, "")


def save_checkpoint(language_model: LanguageModel, destination: Path, *, cpu_dtype: CpuDtype = "float32") -> LanguageModel:
    """Write the folder whole or not at all (replacing one that is there); returns the model with its fingerprint.

    Args:
        cpu_dtype: in which every CPU that loads the checkpoint is to compute.
    """
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    hf_logging.disable_progress_bar()
    language_model.model.save_pretrained(partial, safe_serialization=True)
    language_model.tokenizer.save_pretrained(partial)
    fingerprint = fingerprint_of(partial, language_model.settings)
    metadata = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "layer": LAYER,
        "dim": language_model.dim,
        "cpu_dtype": cpu_dtype,
        "prompts": asdict(language_model.settings),
    }
    (partial / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)
    return LanguageModel(language_model.model, language_model.tokenizer, language_model.settings, fingerprint)


def load_checkpoint(folder: Path, *, device: str = "cpu", dtype: torch.dtype | None = None) -> LanguageModel:
    """Read a checkpoint that this project wrote; ArtefactError where it is missing, damaged or not what l2d.json says.

    Args:
        dtype: None means bfloat16 on a CUDA device and what the checkpoint says (float32 unless it was asked for) elsewhere.
    """
    settings, fingerprint = verify_checkpoint(folder)
    is_narrow = device.startswith("cuda") or read_metadata(folder).get("cpu_dtype") == "bfloat16"
    usual = torch.bfloat16 if is_narrow else torch.float32
    loaded = load_pretrained(str(folder), settings, dtype=dtype or usual)
    return LanguageModel(loaded.model.to(device).eval(), loaded.tokenizer, settings, fingerprint)


def verify_checkpoint(folder: Path) -> tuple[PromptSettings, str]:
    """Prompt settings and fingerprint of a checkpoint, every byte of it read and compared with l2d.json; raises ArtefactError."""
    metadata = read_metadata(folder)
    settings = PromptSettings(**metadata["prompts"])
    seen = fingerprint_of(folder, settings)
    if seen != metadata["fingerprint"]:
        raise ArtefactError(
            f"The checkpoint in {folder} has fingerprint {seen}, its {METADATA} says {metadata['fingerprint']}: "
            "a file was changed or damaged; restore the folder or train again."
        )
    return settings, seen


def read_metadata(folder: Path) -> dict[str, Any]:
    """``l2d.json`` of a checkpoint, its format version checked."""
    path = folder / METADATA
    if not path.is_file():
        raise ArtefactError(f"{folder} is not a checkpoint of l2d_ray: it has no {METADATA}; run jobs.train first.")
    damaged = ArtefactError(f"{path} is damaged: it is not the JSON object that jobs.train wrote; train again.")
    try:
        metadata: dict[str, Any] = json.loads(path.read_text())
        version = metadata["format_version"]
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if version != FORMAT_VERSION:
        raise ArtefactError(f"{path} has format version {version}, this release reads {FORMAT_VERSION}; train again.")
    prompts = metadata.get("prompts")
    if not {"fingerprint", "dim"} <= metadata.keys() or not isinstance(prompts, dict) or prompts.keys() != _PROMPT_FIELDS:
        raise damaged
    return metadata


def fingerprint_of(folder: Path, settings: PromptSettings) -> str:
    """16 hex digits over the bytes of weights, architecture and tokenizer, the prompt settings and the layer."""
    files = [*sorted(folder.glob("*.safetensors")), folder / "config.json", folder / "tokenizer.json"]
    lacking = [path.name for path in files if not path.is_file()] or (["*.safetensors"] if len(files) == 2 else [])
    if lacking:
        raise ArtefactError(f"{folder} lacks its {' and '.join(lacking)}; restore the folder or train again.")
    digest = blake2b(digest_size=8)
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    digest.update(json.dumps([asdict(settings), LAYER], sort_keys=True).encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
