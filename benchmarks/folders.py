"""The data set that a benchmark is told by its folder, and the settings that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.d3_folder import convert
from jobs import prepare_data
from l2d_ray.config import RunConfig, load_config

MOVIELENS: Final = Path("movielens")
"""In the place of a folder in the D3 protocol: MovieLens-100K, as the quickstart has it."""


def config_file(folder: Path) -> str:
    """The file of the settings that go with a data set."""
    return f"jobs/configs/{'quickstart' if folder == MOVIELENS else 'amazon_games'}.yaml"


def run_config(folder: Path, run_dir: Path, overrides: Sequence[str]) -> RunConfig:
    """Settings of the file for that data set, with the run's data in place."""
    config = load_config(["--config", config_file(folder), f"run_dir={run_dir}", *overrides])
    config.run_dir.mkdir(parents=True, exist_ok=True)
    if folder != MOVIELENS:
        convert(folder, config.data_dir, users_per_part=config.data.users_per_part)
    elif not config.data_dir.is_dir():
        prepare_data.main(config)
    return config
