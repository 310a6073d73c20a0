"""Stages of a run: each is done once for its settings and what came before it, and says so when it is reused.

RUN_DIR/stages/NAME.json holds a finished stage's key, result and seconds; NAME.started the key of one that has begun. A stage whose
settings or predecessors changed drops its old results and starts anew; one that was interrupted goes on where its job can.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from l2d_ray import __version__
from l2d_ray.config import RunConfig


@dataclass(frozen=True)
class Stage:
    """A job as a stage.

    Attributes:
        sections: names of the settings that decide its result, beside all stages before it.
        outputs: what it writes below RUN_DIR; dropped when the stage has to start anew.
    """

    name: str
    main: Callable[[RunConfig], dict[str, Any]]
    sections: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FinishedStage:
    result: dict[str, Any]
    seconds: float


def run_stages(stages: Sequence[Stage], config: RunConfig) -> dict[str, FinishedStage]:
    """Run what is not done yet, in order; progress goes to stderr."""
    finished, key = {}, __version__
    for number, stage in enumerate(stages, 1):
        key = _key(key, stage, config)
        label = f"[{number}/{len(stages)}] {stage.name}"
        done = _read_finished(config, stage, key)
        if done is None:
            print(f"{label} ...", file=sys.stderr, flush=True)
            done = _run(stage, key, config)
            print(f"{label}: {done.seconds:.1f} s", file=sys.stderr, flush=True)
        else:
            print(f"{label}: reused from {config.run_dir} (took {done.seconds:.1f} s)", file=sys.stderr, flush=True)
        finished[stage.name] = done
    return finished


def _run(stage: Stage, key: str, config: RunConfig) -> FinishedStage:
    record, started_mark = _paths(config, stage)
    record.parent.mkdir(parents=True, exist_ok=True)
    if not started_mark.is_file() or started_mark.read_text() != key:
        record.unlink(missing_ok=True)
        for output in stage.outputs:
            _drop(config.run_dir / output)
        started_mark.write_text(key)
    started = time.monotonic()
    result = stage.main(config)
    finished = FinishedStage(result, round(time.monotonic() - started, 2))
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps({"key": key, "result": result, "seconds": finished.seconds}, indent=2) + "\n")
    partial.rename(record)
    return finished


def _read_finished(config: RunConfig, stage: Stage, key: str) -> FinishedStage | None:
    record, _ = _paths(config, stage)
    if not record.is_file() or not all((config.run_dir / output).exists() for output in stage.outputs):
        return None
    fields = json.loads(record.read_text())
    return FinishedStage(fields["result"], fields["seconds"]) if fields["key"] == key else None


def _key(previous: str, stage: Stage, config: RunConfig) -> str:
    settings = config.model_dump(mode="json", include=set(stage.sections))
    return blake2b(json.dumps([previous, stage.name, settings], sort_keys=True).encode(), digest_size=8).hexdigest()


def _paths(config: RunConfig, stage: Stage) -> tuple[Path, Path]:
    folder = config.run_dir / "stages"
    return folder / f"{stage.name}.json", folder / f"{stage.name}.started"


def _drop(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
