"""Stages: done once for their settings and what came before, dropped and redone when those change, resumed when interrupted."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from jobs import quickstart
from jobs.stages import Stage, run_stages
from l2d_ray.config import RunConfig


class Recorder:
    """A job that writes one file and remembers how often it ran."""

    def __init__(self, name: str) -> None:
        self.name, self.runs, self.fails = name, 0, False

    def __call__(self, config: RunConfig) -> dict[str, int]:
        self.runs += 1
        with (config.run_dir / self.name).open("a") as file:
            file.write("x")
        if self.fails:
            raise KeyboardInterrupt
        return {"runs": self.runs}


@pytest.fixture
def jobs() -> list[Recorder]:
    return [Recorder("first"), Recorder("second")]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(run_dir=tmp_path)


def stages_of(jobs: list[Recorder]) -> list[Stage]:
    return [Stage(job.name, job, (section,), (job.name,)) for job, section in zip(jobs, ("data", "index"), strict=True)]


def test_a_finished_stage_is_reused_and_says_so(jobs, config, capsys):
    first = run_stages(stages_of(jobs), config)
    again = run_stages(stages_of(jobs), config)
    assert [job.runs for job in jobs] == [1, 1]
    assert again == first
    assert capsys.readouterr().err.count("reused") == 2


def test_new_settings_redo_their_stage_and_those_after_it_from_nothing(jobs, config):
    run_stages(stages_of(jobs), config)
    run_stages(stages_of(jobs), config.model_copy(update={"index": config.index.model_copy(update={"num_shards": 3})}))
    assert [job.runs for job in jobs] == [1, 2]
    run_stages(stages_of(jobs), config.model_copy(update={"data": config.data.model_copy(update={"k_core": 3})}))
    assert [job.runs for job in jobs] == [2, 3]
    assert (config.run_dir / "second").read_text() == "x"


def test_an_interrupted_stage_finds_what_it_had_done(jobs, config):
    jobs[0].fails = True
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages_of(jobs), config)
    jobs[0].fails = False
    run_stages(stages_of(jobs), config)
    assert (config.run_dir / "first").read_text() == "xx"
    assert [job.runs for job in jobs] == [2, 1]


def test_a_stage_whose_result_is_gone_runs_again(jobs, config):
    run_stages(stages_of(jobs), config)
    (config.run_dir / "second").unlink()
    run_stages(stages_of(jobs), config)
    assert [job.runs for job in jobs] == [1, 2]


def quickstart_stages_done(config: RunConfig) -> list[str]:
    """Run the quickstart's stages with jobs that only write their outputs, and find none there; returns which of them ran."""
    done = []

    def job(stage: Stage, config: RunConfig) -> dict[str, str]:
        done.append(stage.name)
        for path in (config.run_dir / output for output in stage.outputs):
            assert not path.exists()
            path.mkdir(parents=True)
        return {}

    run_stages([replace(stage, main=partial(job, stage)) for stage in quickstart.STAGES], config)
    return done


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"data": {"k_core": 3}}, "prepare_data"),
        ({"train": {"num_epochs": 1}}, "train"),
        ({"memory": {"num_workers": 3}}, "build_memory"),
        ({"index": {"num_shards": 3}}, "build_index"),
        ({"decoder": {"num_neighbors": (7,)}}, "tune_decoder"),
        ({"evaluate": {"num_bootstrap": 7}}, "evaluate"),
    ],
)
def test_the_quickstart_does_what_changed_and_all_after_it_again(config, changes, first):
    names = [stage.name for stage in quickstart.STAGES]
    assert quickstart_stages_done(config) == names
    assert quickstart_stages_done(config) == []
    changed = {section: getattr(config, section).model_copy(update=values) for section, values in changes.items()}
    assert quickstart_stages_done(config.model_copy(update=changed)) == names[names.index(first) :]
