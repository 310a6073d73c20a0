"""The data set that a benchmark is told by its folder, and the settings that go with it.

movielens                                 MovieLens-100K, as the quickstart has it
a folder that went through D3's protocol  items.txt.gz with samples and interactions, or with sequences (d3_folder.py here)
a folder of raw Amazon files              meta_CATEGORY.json.gz and CATEGORY_5.json.gz of the 2018 release: the protocol is applied here
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.d3_folder import convert
from benchmarks.result import target
from jobs import prepare_data
from l2d_ray.config import RunConfig, load_config

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


def config_file(folder: Path) -> str:
    """The file of the settings that go with a data set."""
    return f"jobs/configs/{'quickstart' if folder == MOVIELENS else 'amazon_games'}.yaml"


def run_config(folder: Path, run_dir: Path, overrides: Sequence[str]) -> RunConfig:
    """Settings of the file for that data set, with the run's data in place."""
    raw = [f"data.path={folder}", f"data.name={folder.name}"] if is_raw_amazon(folder) else []
    config = load_config(["--config", config_file(folder), f"run_dir={run_dir}", *raw, *overrides])
    config.run_dir.mkdir(parents=True, exist_ok=True)
    if folder != MOVIELENS and not raw:
        convert(folder, config.data_dir, users_per_part=config.data.users_per_part)
    elif not config.data_dir.is_dir():
        prepare_data.main(config)
    return config


def is_raw_amazon(folder: Path) -> bool:
    return any(folder.glob("meta_*.json*"))


def paper_targets(folder: Path, data_dir: Path) -> dict[str, dict[str, Any]]:
    """Whether raw Amazon files gave the sizes that the paper states, one row more or less; nothing for other data."""
    categories = sorted(path.name.removeprefix("meta_").split(".")[0] for path in folder.glob("meta_*.json*"))
    stated = next((CATEGORY_TO_PAPER[category] for category in categories if category in CATEGORY_TO_PAPER), None)
    card = {} if stated is None else json.loads((data_dir / "card.json").read_text())
    sizes = {} if stated is None else vars(stated)
    return {f"{name} off the paper's {size:,}": target(abs(card[name] - size), 1, at_most=True) for name, size in sizes.items()}
