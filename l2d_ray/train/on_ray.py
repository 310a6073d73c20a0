"""Fine-tuning on Ray: texts stream from Ray Data to Ray Train workers, DeepSpeed steps, one checkpoint an epoch.

A run is resumed by its name and storage path: a killed worker restarts all of them from the last checkpoint, and a killed driver goes on
where it stopped when the job is run again. Everything a worker needs comes through its settings.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
from deepspeed.utils import logger as deepspeed_logger
from ray.data import Dataset
from ray.exceptions import RayError
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer
from torch.utils.tensorboard import SummaryWriter
from transformers.utils import logging as hf_logging

from l2d_ray.data.sequences import part_paths, read_part
from l2d_ray.errors import DataError
from l2d_ray.schema import TRAIN, VALID
from l2d_ray.text.prompts import PromptFormat, TokenIds
from l2d_ray.train.batches import TrainingText, batches_per_epoch, packed_batches, training_texts, without_some_titles
from l2d_ray.train.loop import train_epoch, validate
from l2d_ray.train.loss import CompletionLoss
from l2d_ray.train.progress import ProgressBoard, Snapshot, shown
from l2d_ray.train.settings import deepspeed_settings, learning_rate_factor
from l2d_ray.train.weights import load_for_training, parameter_groups, save_plain_model

MODEL_FOLDER = "model"
STATE_FOLDER = "state"
TELL_S = 0.5
TEXT_COLUMNS = {
    "token_ids": pa.list_(pa.int32()),
    "loss_start": pa.int32(),
    "state_indexes": pa.list_(pa.int32()),
    "target_items": pa.list_(pa.int32()),
}
"""Fields of TrainingText, in its order."""


@dataclass(frozen=True)
class TrainSettings:
    """What a worker gets; the names are those of config.TrainConfig."""

    base_dir: str
    log_dir: str
    use_gpu: bool
    num_workers: int
    num_epochs: int
    batch_tokens: int
    accumulation_steps: int
    learning_rate: float
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float
    patience: int
    item_loss_weight: float
    title_dropout: float
    dropout: float
    zero_stage: int
    precision: str
    lora: dict[str, Any] | None
    gradient_checkpointing: bool
    seed: int
    num_texts: int = 0
    mean_tokens: float = 0.0
    mean_valid_tokens: float = 0.0


@dataclass(frozen=True)
class TrainResult:
    """The best epoch's plain model folder and the curve, one record an epoch."""

    model_dir: Path
    curve: list[dict[str, float]]


def texts_dataset(data_dir: Path, split: int, *, item_id_to_title: dict[str, TokenIds], prompts: PromptFormat) -> Dataset:
    """Rows with the fields of TrainingText: the texts of a split, put together by Ray Data tasks and kept in the object store."""
    known = ray.put((item_id_to_title, {item_id: index for index, item_id in enumerate(item_id_to_title)}))

    def to_texts(batch: dict[str, Any]) -> pa.Table:
        (path,) = batch["path"]
        titles, indexes = ray.get(known)
        made = (
            training_texts(sequence, split, item_id_to_title=titles, item_id_to_index=indexes, prompts=prompts)
            for sequence in read_part(Path(path))
        )
        texts = [text for of_user in made for text in of_user]
        return pa.table({name: pa.array([getattr(text, name) for text in texts], type=kind) for name, kind in TEXT_COLUMNS.items()})

    paths = part_paths(data_dir)
    # Not read_parquet, which starts up to 32 processes that look at the files' footers first.
    parts = ray.data.from_items([{"path": str(path)} for path in paths], override_num_blocks=len(paths))
    texts = parts.map_batches(to_texts, batch_size=1).materialize()
    if not texts.count():
        raise DataError(f"No user under {data_dir} has two interactions in the {('training', 'validation')[split]} split; use more data.")
    return texts


def train(
    settings: TrainSettings,
    data_dir: Path,
    *,
    item_id_to_title: dict[str, TokenIds],
    prompts: PromptFormat,
    run_name: str,
    storage_path: str,
    max_failures: int,
    callbacks: list[UserCallback] | None = None,
) -> TrainResult:
    """Train, or go on with the run of this name; returns the epoch of lowest validation loss."""
    datasets = {
        name: texts_dataset(data_dir, split, item_id_to_title=item_id_to_title, prompts=prompts)
        for name, split in (("train", TRAIN), ("valid", VALID))
    }
    num_texts, mean_tokens = _size(datasets["train"])
    num_valid_texts, mean_valid_tokens = _size(datasets["valid"])
    if min(num_texts, num_valid_texts) < settings.num_workers:
        raise DataError(
            f"There are {num_texts} training and {num_valid_texts} validation texts for {settings.num_workers} workers, one each at "
            "least; use fewer workers or more data."
        )
    sized = asdict(settings) | {"num_texts": num_texts, "mean_tokens": mean_tokens, "mean_valid_tokens": mean_valid_tokens}
    board = ray.remote(num_cpus=0)(ProgressBoard).remote()
    keep = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="valid_loss", checkpoint_score_order="min")
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"settings": sized, "board": board, "titles": ray.put(list(item_id_to_title.values()))},
        scaling_config=ScalingConfig(num_workers=settings.num_workers, use_gpu=settings.use_gpu),
        run_config=RunConfig(
            name=run_name,
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=keep,
            callbacks=callbacks,
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
        datasets=datasets,
    )
    with shown(partial(_read_board, board)):
        result = trainer.fit()
    best, _ = min(result.best_checkpoints, key=lambda pair: pair[1]["valid_loss"])
    return TrainResult(Path(best.path) / MODEL_FOLDER, result.metrics["curve"])


def _read_board(board: Any, num_lines_read: int) -> Snapshot | None:
    """None where the board is lost, which must not fail a training."""
    try:
        snapshot: Snapshot = ray.get(board.read.remote(num_lines_read))
    except RayError:
        return None
    return snapshot


def _size(texts: Dataset) -> tuple[int, float]:
    """Number of texts and their mean length in tokens."""

    def counted(table: pa.Table) -> pa.Table:
        lengths = pa.compute.list_value_length(table["token_ids"])
        return pa.table({"tokens": [pa.compute.sum(lengths, min_count=0).as_py()]})

    blocks = texts.map_batches(counted, batch_format="pyarrow", batch_size=None)
    num_texts = texts.count()
    return num_texts, sum(row["tokens"] for row in blocks.iter_rows()) / num_texts


def _train_worker(given: dict[str, Any]) -> None:
    """The loop of one worker: an epoch, its validation, its checkpoint; again until the epochs or the patience are used up."""
    settings, board = TrainSettings(**given["settings"]), given["board"]
    torch.manual_seed(settings.seed)
    hf_logging.disable_progress_bar()
    deepspeed_logger.setLevel(logging.WARNING)
    # DeepSpeed's all-reduce in shared memory would be compiled at first use: a C++ compiler, 3 GB and a minute for gradients of megabytes.
    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
    if not settings.use_gpu:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ray.train.get_context().get_local_world_size()))
    engine, scheduler_steps = _make_engine(settings, ray.get(given["titles"]) if settings.item_loss_weight else [])
    progress = _restore(engine)
    writer = SummaryWriter(settings.log_dir) if _rank() == 0 else None
    for epoch in range(len(progress["curve"]), settings.num_epochs):
        if progress["stale_epochs"] >= settings.patience:
            break
        record = _run_epoch(engine, settings, epoch, scheduler_steps, board)
        best = min((r["valid_loss"] for r in progress["curve"]), default=float("inf"))
        progress["curve"].append(record)
        progress["stale_epochs"] = 0 if record["valid_loss"] < best else progress["stale_epochs"] + 1
        if writer:
            for name in ("train_loss", "valid_loss", "learning_rate"):
                writer.add_scalar(name, record[name], int(record["step"]))
            writer.flush()
        _report(engine, settings, progress)


def _make_engine(settings: TrainSettings, titles: list[TokenIds]) -> tuple[Any, int]:
    """DeepSpeed's engine over the loss, and the optimizer steps of one epoch."""
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    model = load_for_training(Path(settings.base_dir), dtype=dtype, lora=settings.lora)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()  # else nothing below frozen embeddings would be recomputed with gradients
    loss = CompletionLoss(model, item_weight=settings.item_loss_weight, titles=titles, dropout=settings.dropout)
    optimizer = torch.optim.AdamW(parameter_groups(loss, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
    share = settings.num_texts // settings.num_workers
    steps = max(1, batches_per_epoch(share, settings.batch_tokens, settings.mean_tokens) // settings.accumulation_steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(step, num_steps=steps * settings.num_epochs, warmup_fraction=settings.warmup_fraction),
    )
    engine, *_ = deepspeed.initialize(
        model=loss,
        optimizer=optimizer,
        lr_scheduler=scheduler,
        config=deepspeed_settings(
            zero_stage=settings.zero_stage,
            precision=settings.precision,
            accumulation_steps=settings.accumulation_steps,
            max_grad_norm=settings.max_grad_norm,
        ),
        dist_init_required=False,
    )
    return engine, steps


def _run_epoch(engine: Any, settings: TrainSettings, epoch: int, num_steps: int, board: Any) -> dict[str, float]:
    rng = np.random.default_rng([settings.seed, epoch, _rank()])
    texts = _texts("train")
    if settings.title_dropout:
        texts = (without_some_titles(text, settings.title_dropout, rng) for text in texts)
    batches = packed_batches(texts, batch_tokens=settings.batch_tokens, mean_tokens=settings.mean_tokens, rng=rng)
    tell = _teller(engine, board, num_steps * settings.num_epochs)
    trained = train_epoch(engine, batches, lambda loss: tell())
    held_out = packed_batches(_texts("valid"), batch_tokens=settings.batch_tokens, mean_tokens=settings.mean_valid_tokens, rng=rng)
    valid = validate(engine, held_out)
    record = {
        "epoch": epoch + 1,
        "step": float(engine.global_steps),
        "train_loss": trained.loss,
        "valid_loss": valid.loss,
        "learning_rate": float(engine.get_lr()[0]),
    }
    if _rank() == 0:
        board.add_line.remote(" ".join(f"{name}={value:g}" for name, value in record.items()))
    return record


def _teller(engine: Any, board: Any, num_steps: int) -> Callable[[], None]:
    """Tells the board how far rank 0 is, at most twice a second."""
    told = time.monotonic()

    def tell() -> None:
        nonlocal told
        if _rank() == 0 and time.monotonic() - told > TELL_S:
            told = time.monotonic()
            board.advance.remote(engine.global_steps, num_steps)

    return tell


def _texts(name: str) -> Iterator[TrainingText]:
    """This worker's share of a dataset, streamed."""
    for batch in ray.train.get_dataset_shard(name).iter_batches(batch_size=1024, batch_format="pyarrow"):
        columns = (batch[field] for field in TEXT_COLUMNS)
        for token_ids, start, states, items in zip(*columns, strict=True):
            yield TrainingText(token_ids.values.to_numpy(), start.as_py(), states.values.to_numpy(), items.values.to_numpy())


def _report(engine: Any, settings: TrainSettings, progress: dict[str, Any]) -> None:
    """Save optimizer state (every rank its part) and the plain model (rank 0), and hand both to Ray Train: a barrier for all."""
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag=STATE_FOLDER, client_state={"progress": progress})
        state = _gathered_parameters(engine)
        if _rank() == 0:
            save_plain_model(state, Path(settings.base_dir), Path(folder) / MODEL_FOLDER, lora=settings.lora)
        metrics = progress["curve"][-1] | {"curve": progress["curve"], "worker_pid": os.getpid()}
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _restore(engine: Any) -> dict[str, Any]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return {"curve": [], "stale_epochs": 0}
    with checkpoint.as_directory() as folder:
        _, client_state = engine.load_checkpoint(folder, tag=STATE_FOLDER)
    progress: dict[str, Any] = client_state["progress"]
    return progress


def _gathered_parameters(engine: Any) -> dict[str, torch.Tensor]:
    """Every parameter whole, on the CPU of rank 0 (empty elsewhere), one at a time where ZeRO-3 has taken them apart."""
    state = {}
    for name, parameter in engine.module.model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if _rank() == 0:
                state[name] = parameter.detach().cpu().clone()
    return state


def _rank() -> int:
    return int(ray.train.get_context().get_world_rank())
