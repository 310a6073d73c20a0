"""Fine-tunes the LLM on the training sequences, with Ray Train and DeepSpeed; the result is a plain Hugging Face folder.

    python -m jobs.train --config jobs/configs/quickstart.yaml train.num_epochs=3
    ray job submit --working-dir . -- python -m jobs.train --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.prepare_data. With ``train=none`` the model is taken as it comes. Run again after a kill, it goes on from the last epoch.
"""

from __future__ import annotations

import json
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig, TrainConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import iter_sequences
from l2d_ray.model.loading import LanguageModel, load_pretrained, make_mini, resolve_device, resolve_name, save_checkpoint
from l2d_ray.text.prompts import PromptSettings, tokenize_titles
from l2d_ray.train.on_ray import TrainSettings, train
from l2d_ray.train.weights import load_for_training

CURVE = "training.json"


def main(config: RunConfig) -> dict[str, Any]:
    started = time.monotonic()
    curve: list[dict[str, float]] = []
    device = resolve_device(config.device)
    catalogue = Catalogue.read(config.data_dir / "items.parquet")
    base = base_model(config, catalogue, device)
    if isinstance(config.train, str):
        checkpoint = save_checkpoint(base, config.checkpoint_dir, cpu_dtype=config.model.cpu_dtype)
    else:
        with connect(config.ray.address, config.ray.num_cpus):
            settings = config.train.filled(from_scratch=resolve_name(config.model.name, device) == "mini")
            checkpoint, curve = _fine_tune(config, settings, base, catalogue, device)
    (config.checkpoint_dir / CURVE).write_text(json.dumps(curve) + "\n")
    return {
        "job": "train",
        "checkpoint_dir": str(config.checkpoint_dir),
        "fingerprint": checkpoint.fingerprint,
        "num_parameters": sum(p.numel() for p in checkpoint.model.parameters()),
        "curve": curve,
        "train_s": round(time.monotonic() - started, 2),
    }


def base_model(config: RunConfig, catalogue: Catalogue, device: str) -> LanguageModel:
    """The model before fine-tuning."""
    settings = PromptSettings(
        config.model.prompt_format,
        config.model.window_items,
        config.model.min_history,
        config.data.history_length,
        config.model.max_title_tokens,
    )
    name = resolve_name(config.model.name, device)
    if name != "mini":
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        return load_pretrained(name, settings, dtype=dtype)
    shape = config.model.mini.model_dump()
    vocab_size = shape.pop("vocab_size")
    titles = [catalogue.titles[index] for index in _training_items(config.data_dir, catalogue)]
    return make_mini(titles, settings, vocab_size=vocab_size, shape=shape, seed=config.seed)


def _training_items(data_dir: Path, catalogue: Catalogue) -> list[int]:
    """Items of the training interactions, ascending: the tokenizer sees no other title."""
    seen = {item_id for sequence in iter_sequences(data_dir) for item_id in sequence.item_ids[: sequence.num_train]}
    return sorted(catalogue.indexes_of(sorted(seen)))


def _fine_tune(
    config: RunConfig, settings: TrainConfig, base: LanguageModel, catalogue: Catalogue, device: str
) -> tuple[LanguageModel, list[dict[str, float]]]:
    train_dir = config.run_dir / "train"
    storage_path = settings.storage_path or str(train_dir)
    base_checkpoint = save_checkpoint(base, train_dir / "base")
    titles = tokenize_titles(base.tokenizer, catalogue.titles, base.settings.max_title_tokens)
    run_name = f"run-{_run_key(config, settings, base_checkpoint.fingerprint)}"
    fields = settings.model_dump(exclude={"max_failures", "storage_path"})
    result = train(
        TrainSettings(
            **fields,
            base_dir=str(train_dir / "base"),
            log_dir=str(train_dir / "tensorboard" / run_name),
            use_gpu=device == "cuda",
            seed=config.seed,
        ),
        config.data_dir,
        item_id_to_title=dict(zip(catalogue.item_ids, titles, strict=True)),
        prompts=base.prompts,
        run_name=run_name,
        storage_path=storage_path if "://" in storage_path else str(Path(storage_path).absolute()),
        max_failures=settings.max_failures,
    )
    trained = load_for_training(result.model_dir, dtype=torch.bfloat16 if settings.precision == "bf16" else torch.float32, lora=None)
    finished = LanguageModel(trained, base.tokenizer, base.settings, "")
    return save_checkpoint(finished, config.checkpoint_dir, cpu_dtype=config.model.cpu_dtype), result.curve


def _run_key(config: RunConfig, settings: TrainConfig, base_fingerprint: str) -> str:
    """Names the Ray Train run: another model, data, setting or number of workers is another run, the same go on."""
    card = (config.data_dir / "card.json").read_text()
    chosen = json.dumps([settings.model_dump(exclude={"max_failures", "storage_path"}), config.seed, base_fingerprint, card])
    return blake2b(chosen.encode(), digest_size=4).hexdigest()


if __name__ == "__main__":
    run(main, __doc__)
