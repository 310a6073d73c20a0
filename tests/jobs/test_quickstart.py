"""The whole line in one process on a small table of interactions: every figure is there, and only what changed is done again."""

import csv
import json
import random
from pathlib import Path

import pytest

from jobs import quickstart, tune_decoder
from jobs.cli import run
from l2d_ray.config import RunConfig
from l2d_ray.index.layout import read_manifest
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import set_half_life
from l2d_ray.schema import SECONDS_PER_DAY
from tests.toys import TITLES, toy_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

NUM_USERS, NUM_ITEMS, LENGTH = 40, 12, 9
SYSTEMS = {"popularity", "item-knn", "l2d-g", "l2d-l", "l2d-w", "l2d-p"}
METRICS = {f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20, 50, 100)}
STAGES = [stage.name for stage in quickstart.STAGES]


def write_table(folder: Path) -> dict[str, object]:
    """Users who walk round twelve items one by one, in step with each other; returns the data section."""
    generator = random.Random(0)
    folder.mkdir()
    with (folder / "interactions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp", "rating"])
        for user in range(NUM_USERS):
            start = generator.randrange(NUM_ITEMS)
            rows.writerows([f"user-{user}", f"item-{(start + n) % NUM_ITEMS}", 1000 * n + user, 5] for n in range(LENGTH))
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title"])
        rows.writerows([f"item-{number}", TITLES[number]] for number in range(NUM_ITEMS))
    places = {"interactions": str(folder / "interactions.csv"), "items": str(folder / "items.csv")}
    return {"source": "table", "name": "walks", "k_core": 2, "users_per_part": 16, **places}


def make_config(run_dir: Path, data: dict[str, object]) -> RunConfig:
    return toy_config(
        run_dir,
        data=data,
        train={"num_epochs": 2, "batch_tokens": 128, "learning_rate": 0.01},
        decoder={"num_neighbors": [20, 100], "shrinkages": [0.1], "prior_weights": [0.0, 1.0], "half_lives_days": [0, 30]},
        evaluate={"num_bootstrap": 100, "speed_k": 5, "speed_beams": 3, "speed_requests": 3, "speed_batch": 2, "language_samples": 4},
    )


def stage_lines(stderr: str) -> dict[str, bool]:
    """Stage -> whether it was reused, from its last line."""
    lines = [line for line in stderr.splitlines() if line.startswith("[") and "] " in line]
    return {line.split("] ")[1].split(":")[0].removesuffix(" ..."): "reused from" in line for line in lines}


def test_the_whole_line_then_nothing_again_then_what_changed(tmp_path, capsys):
    config = make_config(tmp_path / "run", write_table(tmp_path / "raw"))
    run(lambda _: quickstart.main(config), argv=[])
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert stage_lines(captured.err) == dict.fromkeys(STAGES, False)
    assert list(result)[:6] == ["dataset", "num_users", "num_items", "num_memory_entries", "metrics", "seconds"]
    assert (result["dataset"], result["num_users"], result["num_items"]) == ("walks", NUM_USERS, NUM_ITEMS)
    assert result["num_memory_entries"] == len(Memory.open(config.memory_uri)) > 200
    assert result["metrics"].keys() == SYSTEMS
    for figures in result["metrics"].values():
        assert figures.keys() >= METRICS
        assert all(0 <= figures[name] <= 1 for name in METRICS)
    assert result["metrics"]["l2d-g"]["ndcg@10"] > result["metrics"]["popularity"]["ndcg@10"]
    assert list(result["seconds"]) == STAGES
    speedup = result["speedup_vs_language_space"]
    assert (speedup["k"], speedup["beam"]) == (5, 3)
    assert speedup["ratio"] > 0
    assert result["run_dir"] == str(config.run_dir)
    assert "walks" in (config.run_dir / "report.html").read_text()
    stored = json.loads((config.run_dir / "metrics.json").read_text())
    assert {system["name"] for system in stored["systems"]} == SYSTEMS
    assert stored["dataset"] == "walks"

    tuned = json.loads((config.run_dir / "stages" / "tune_decoder.json").read_text())["result"]
    memory, manifest = Memory.open(config.memory_uri), read_manifest(config.index_dir)
    assert {trial["half_life_s"] for trial in tuned["trials"]} == {None, 30 * SECONDS_PER_DAY}
    assert memory.half_life_s == manifest.half_life_s == (tuned["half_life_days"] and 30 * SECONDS_PER_DAY)
    assert manifest.memory_version == memory.version

    again = quickstart.main(config)
    assert stage_lines(capsys.readouterr().err) == dict.fromkeys(STAGES, True)
    assert again["metrics"] == result["metrics"]
    assert again["seconds"] == result["seconds"]

    own = set_half_life(memory, 12_345, reference_time=1000)
    tune_decoder.main(config.model_copy(update={"decoder": config.decoder.model_copy(update={"half_lives_days": ()})}))
    manifest = read_manifest(config.index_dir)
    assert Memory.open(config.memory_uri).version == manifest.memory_version == own.version
    assert (manifest.half_life_s, manifest.reference_time) == (12_345, 1000)

    wider = config.decoder.model_copy(update={"num_neighbors": (20, 100, 300)})
    changed = quickstart.main(config.model_copy(update={"decoder": wider}))
    redone = STAGES[STAGES.index("tune_decoder") :]
    assert stage_lines(capsys.readouterr().err) == {name: name not in redone for name in STAGES}
    assert changed["num_memory_entries"] == len(Memory.open(config.memory_uri)) == result["num_memory_entries"]
    tried = json.loads((config.run_dir / "stages" / "tune_decoder.json").read_text())["result"]["trials"]
    assert {trial["num_neighbors"] for trial in tried} >= {20, 100, 300}
