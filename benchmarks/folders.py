"""The data set that a benchmark is told by its folder, and the settings that go with it.

movielens                                 MovieLens-100K, as the quickstart has it
a folder with a split of its own          items.txt.gz with samples and interactions, or with sequences (d3_folder.py here)
a folder of raw Amazon files              meta_CATEGORY.json.gz and CATEGORY_5.json.gz of the 2018 release: the protocol is applied here
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.d3_folder import convert
from benchmarks.result import arguments, target
from jobs import prepare_data
from l2d_ray.config import RunConfig, load_config
from l2d_ray.data.card import read_card
from l2d_ray.errors import ConfigError

MOVIELENS: Final = Path("movielens")
"""In the place of a folder: MovieLens-100K."""


@dataclass(frozen=True)
class Sizes:
    """Of a prepared data set."""

    num_users: int
    num_items: int
    num_train_samples: int


CATEGORY_TO_PAPER: Final = {"CDs_and_Vinyl": Sizes(21_347, 14_239, 148_685), "Video_Games": Sizes(34_089, 11_037, 201_613)}
"""The sizes that arXiv 2509.11524 states."""


def folder_arguments(description: str | None) -> ArgumentParser:
    """``result.arguments`` with the folder and settings that differ, which ``parse_intermixed_args`` takes after options too."""
    parser = arguments(description)
    parser.add_argument("folder", type=Path, help="a data set in the D3 protocol, raw Amazon files, or movielens")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ")
    return parser


def run_dir_of(options: Namespace, name: str = "{}") -> Path:
    """The run directory that was asked for, else runs/NAME, in which ``{}`` is the folder's name."""
    return Path(options.run_dir or Path("runs") / (name.format(options.folder.name) + ("_small" if options.small else "")))


def config_file(folder: Path) -> str:
    """The file of the settings that go with a data set."""
    return f"jobs/configs/{'quickstart' if folder == MOVIELENS else 'amazon_games'}.yaml"


def run_config(folder: Path, run_dir: Path, overrides: Sequence[str]) -> RunConfig:
    """Settings of the file for that data set, with the run's data in place; data that other settings prepared are refused."""
    categories = raw_categories(folder)
    raw = [f"data.path={json.dumps(str(folder))}", f"data.name={json.dumps(folder.resolve().name)}"] if categories else []
    config = load_config(["--config", config_file(folder), f"run_dir={run_dir}", *raw, *overrides])
    config.run_dir.mkdir(parents=True, exist_ok=True)
    if folder != MOVIELENS and not categories:
        convert(folder, config.data_dir, users_per_part=config.data.users_per_part)
    elif not config.data_dir.is_dir():
        prepare_data.main(config)
    else:
        _check_prepared(config)
    return config


def _check_prepared(config: RunConfig) -> None:
    there, wanted = read_card(config.data_dir).settings, config.data.model_dump(mode="json")
    moved = {"start_time"} if config.data.least_items is not None else set()
    differing = sorted(name for name in wanted.keys() - moved if there.get(name) != wanted[name])
    if differing:
        raise ConfigError(f"{config.data_dir} was prepared with another data.{differing[0]}; choose another --run-dir, or remove it.")


def raw_categories(folder: Path) -> list[str]:
    """Categories whose raw files of the 2018 release the folder holds; none of a folder that went through the protocol already."""
    if (folder / "items.txt.gz").is_file():
        return []
    paths = [*folder.glob("meta_*.json"), *folder.glob("meta_*.json.gz")]
    return sorted({path.name.removeprefix("meta_").split(".")[0] for path in paths})


def paper_targets(folder: Path, data_dir: Path) -> dict[str, dict[str, Any]]:
    """Whether the raw files of one Amazon category gave the sizes that the paper states, one row more or less; nothing for other data."""
    categories = raw_categories(folder)
    if len(categories) != 1 or categories[0] not in CATEGORY_TO_PAPER:
        return {}
    card, stated = read_card(data_dir), vars(CATEGORY_TO_PAPER[categories[0]])
    return {f"{name} off the paper's {size:,}": target(abs(getattr(card, name) - size), 1, at_most=True) for name, size in stated.items()}
