"""Fine-tuning on a real Ray cluster: DeepSpeed's stages, adapters, dropout, a killed worker, and a run that is already done."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.train
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import train as train_job
from l2d_ray.model.loading import load_checkpoint, save_checkpoint
from l2d_ray.text.prompts import tokenize_titles
from l2d_ray.train.on_ray import TrainResult, TrainSettings, train
from tests.clusters import own_cluster
from tests.toys import TITLES, tiny_model, toy_catalogue, toy_config, write_toy_data

pytestmark = pytest.mark.slow

QUICK = {"batch_tokens": 64, "learning_rate": 0.01}


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray cluster; the folder in which extensions that its workers compile would be."""
    folder = tmp_path_factory.mktemp("extensions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
        with own_cluster(num_cpus=4, logging_level="WARNING"):
            yield folder


def check_plain_folder(folder: Path) -> None:
    """A folder that transformers opens without us, all weights finite, no adapters."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "llama"
    state = model.state_dict()
    assert not [name for name in state if "lora" in name]
    assert not list(folder.glob("adapter*"))
    assert all(torch.isfinite(weights).all() for weights in state.values())
    assert tokenizer.decode(tokenizer("Red River")["input_ids"], skip_special_tokens=True) == "Red River"
    assert np.isfinite(load_checkpoint(folder).model(torch.tensor([[1, 5]])).logits.detach().numpy()).all()


def distance_from_the_start(folder: Path, base: Path) -> float:
    """How far training moved the weights."""
    trained, start = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).state_dict() for f in (folder, base))
    assert trained.keys() == start.keys()
    return max(float((trained[name] - start[name]).abs().max()) for name in trained)


def test_zero_3_in_bf16_with_adapters_leaves_a_plain_model_and_is_not_trained_again(tmp_path):
    settings = QUICK | {"num_epochs": 1, "zero_stage": 3, "precision": "bf16", "lora": {"rank": 4}, "item_loss_weight": 1.0}
    config = toy_config(tmp_path, train=settings)
    write_toy_data(config.data_dir)
    result = train_job.main(config)
    check_plain_folder(config.checkpoint_dir)
    assert len(result["curve"]) == 1
    assert np.isfinite(result["curve"][0]["valid_loss"])
    assert json.loads((config.checkpoint_dir / train_job.CURVE).read_text()) == result["curve"]
    assert load_checkpoint(config.checkpoint_dir).fingerprint == result["fingerprint"]
    assert list((tmp_path / "train" / "tensorboard").rglob("events.*"))
    assert distance_from_the_start(config.checkpoint_dir, tmp_path / "train" / "base") > 1e-3
    saved = list((tmp_path / "train").rglob("*model_states.pt"))
    assert len(saved) == 1
    assert train_job.main(config) | {"train_s": 0} == result | {"train_s": 0}
    assert list((tmp_path / "train").rglob("*model_states.pt")) == saved


def test_no_training_takes_the_model_as_it_comes(tmp_path):
    config = toy_config(tmp_path, train="none")
    write_toy_data(config.data_dir)
    result = train_job.main(config)
    check_plain_folder(config.checkpoint_dir)
    assert result["curve"] == []
    assert not (tmp_path / "train").exists()
    untrained = save_checkpoint(train_job.base_model(config, toy_catalogue(), "cpu"), tmp_path / "again")
    assert result["fingerprint"] == untrained.fingerprint


def make_observer(folder: Path, *, kill_after_epoch: int) -> ray.train.UserCallback:
    """Writes down every report, in the controller; after one of them it kills the worker that sent it."""

    class Observer(ray.train.UserCallback):
        def after_report(self, run_context, metrics, checkpoint):
            record = metrics[0]
            with (folder / "reports.jsonl").open("a") as file:
                file.write(json.dumps({name: record[name] for name in ("epoch", "step", "worker_pid")}) + "\n")
            if record["epoch"] == kill_after_epoch and not (folder / "killed").exists():
                (folder / "killed").write_text(str(record["worker_pid"]))
                os.kill(record["worker_pid"], signal.SIGKILL)

    return Observer()


def run_toy_training(folder: Path, observer: ray.train.UserCallback) -> TrainResult:
    language_model = tiny_model()
    titles = tokenize_titles(language_model.tokenizer, TITLES, 12)
    settings = TrainSettings(
        base_dir=str(folder / "base"),
        log_dir=str(folder / "logs"),
        use_gpu=False,
        num_workers=2,
        num_epochs=3,
        accumulation_steps=1,
        warmup_fraction=0.05,
        weight_decay=0.01,
        max_grad_norm=1.0,
        patience=3,
        item_loss_weight=3.0,
        title_dropout=0.1,
        dropout=0.05,
        zero_stage=2,
        precision="float32",
        lora=None,
        gradient_checkpointing=False,
        seed=0,
        **QUICK,
    )
    return train(
        settings,
        folder / "data",
        item_id_to_title=dict(zip(toy_catalogue().item_ids, titles, strict=True)),
        prompts=language_model.prompts,
        run_name="run",
        storage_path=str(folder / "storage"),
        max_failures=2,
        callbacks=[observer],
    )


def reports(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "reports.jsonl").read_text().splitlines()]


def test_of_two_workers_with_zero_2_one_is_killed_and_both_resume(tmp_path, compiled: Path):
    write_toy_data(tmp_path / "data")
    save_checkpoint(tiny_model(), tmp_path / "base")
    result = run_toy_training(tmp_path, make_observer(tmp_path, kill_after_epoch=1))
    seen = reports(tmp_path)
    assert (tmp_path / "killed").read_text() == str(seen[0]["worker_pid"])
    assert [r["epoch"] for r in seen] == [1, 2, 3] == [r["epoch"] for r in result.curve]
    assert seen[1]["worker_pid"] != seen[0]["worker_pid"]
    steps = [r["step"] for r in result.curve]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]
    assert result.curve[-1]["valid_loss"] < 0.97 * result.curve[0]["valid_loss"]  # of next tokens and, three times as heavy, next items
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"]
    assert steps[0] > 2
    assert list(compiled.iterdir()) == []
    assert AutoModelForCausalLM.from_pretrained(result.model_dir).config.model_type == "llama"
    assert 1e-3 < distance_from_the_start(result.model_dir, tmp_path / "base") < np.inf
