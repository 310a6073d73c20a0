"""Toy data with a pattern that a model can learn, a tiny model, and a whole run built in one process: what the Ray tests must equal."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2d_ray.config import RunConfig, parse_config
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target, UserSequence, iter_sequences, write_part
from l2d_ray.index.layout import IndexManifest
from l2d_ray.index.plan import IndexOptions, finish_index, make_shard, plan_index
from l2d_ray.index.titles import EncodeTitles
from l2d_ray.memory.entries import entries_table
from l2d_ray.memory.sequences import store_sequences, trained_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, make_mini, save_checkpoint
from l2d_ray.schema import TEST, TRAIN, VALID
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import PromptSettings, TokenWindow, tokenize_titles
from l2d_ray.train.batches import TrainingText

NUM_ITEMS = 20
TITLES = tuple(
    f"{adjective} {noun}" for adjective in ("Red", "Lost", "Silent", "Golden") for noun in ("River", "Empire", "Sun", "Moon", "Sea")
)
PROMPTS = PromptSettings(prompt_format="sequence", window_items=6, min_history=2, history_length=3, max_title_tokens=12)
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
VOCAB_SIZE = 320


@dataclass(frozen=True)
class ToyRun:
    """Folders of a run, and its memory open."""

    data_dir: Path
    checkpoint_dir: Path
    memory: Memory


def toy_catalogue() -> Catalogue:
    return Catalogue.from_rows((f"item-{number:02d}", title, {}) for number, title in enumerate(TITLES))


def toy_sequences(num_users: int, *, seed: int = 0) -> list[UserSequence]:
    """Users who walk round the catalogue in steps of one from a random item; the last item is TEST, the one before it VALID."""
    rng = np.random.default_rng(seed)
    sequences = []
    for user in range(num_users):
        length, start = int(rng.integers(4, 11)), int(rng.integers(NUM_ITEMS))
        item_ids = tuple(f"item-{(start + step) % NUM_ITEMS:02d}" for step in range(length))
        splits = (TRAIN,) * (length - 2) + (VALID, TEST)
        sequences.append(UserSequence(f"user-{user:03d}", item_ids, tuple(range(1000, 1000 + length)), splits))
    return sequences


def write_toy_data(data_dir: Path, *, num_users: int = 24, users_per_part: int = 6) -> list[Path]:
    """A prepared data folder; returns its parts."""
    folder = data_dir / "sequences"
    folder.mkdir(parents=True)
    toy_catalogue().write(data_dir / "items.parquet")
    (data_dir / "card.json").write_text(json.dumps({"name": "toy"}))
    sequences = toy_sequences(num_users)
    paths = []
    for number, start in enumerate(range(0, num_users, users_per_part)):
        paths.append(folder / f"part-{number:05d}.parquet")
        write_part(paths[-1], sequences[start : start + users_per_part])
    return paths


def tiny_model(*, seed: int = 0, settings: PromptSettings = PROMPTS) -> LanguageModel:
    return make_mini(TITLES, settings, vocab_size=VOCAB_SIZE, shape=SHAPE, seed=seed)


def toy_config(run_dir: Path, **sections: object) -> RunConfig:
    """Settings of a tiny run; ``sections`` replace those of the same name."""
    shape = SHAPE | {"vocab_size": VOCAB_SIZE}
    model = {
        "name": "mini",
        "window_items": PROMPTS.window_items,
        "min_history": PROMPTS.min_history,
        "max_title_tokens": 12,
        "mini": shape,
    }
    return parse_config({"run_dir": str(run_dir), "device": "cpu", "model": model, **sections})


def training_texts_of(windows: Iterable[TokenWindow]) -> list[TrainingText]:
    """Windows with completions as texts to learn from, of a user whose n-th interaction is with item n."""
    return [TrainingText(window.token_ids, window.loss_start, window.state_indexes, window.target_positions) for window in windows]


def encode_in_process(language_model: LanguageModel, data_dir: Path, split: int = TRAIN) -> tuple[list[Target], np.ndarray]:
    """Targets of a split and their states (n, d) float32."""
    catalogue = Catalogue.read(data_dir / "items.parquet")
    titles = tokenize_titles(language_model.tokenizer, catalogue.titles, language_model.settings.max_title_tokens)
    item_id_to_title = dict(zip(catalogue.item_ids, titles, strict=True))
    found = harvest(iter_sequences(data_dir), split, item_id_to_title=item_id_to_title, prompts=language_model.prompts)
    return found.targets, Encoder(language_model.model).encode_windows(found.windows)


def build_toy_run(run_dir: Path, *, num_users: int = 24) -> ToyRun:
    """Data, an untrained checkpoint and the memory of its training samples, without Ray."""
    write_toy_data(run_dir / "data", num_users=num_users)
    language_model = save_checkpoint(tiny_model(), run_dir / "checkpoint")
    uri = str(run_dir / "memory")
    memory = Memory.create(uri, fingerprint=language_model.fingerprint, dim=language_model.dim, catalogue=toy_catalogue())
    table = entries_table(*encode_in_process(language_model, run_dir / "data"))
    stored = store_sequences(uri, trained_sequences(iter_sequences(run_dir / "data")))
    memory = memory.append(memory.write(table), message="toy", sequences=(stored,))
    return ToyRun(run_dir / "data", run_dir / "checkpoint", memory)


def build_toy_index(
    memory: Memory, index_dir: Path, num_shards: int, *, encode_titles: EncodeTitles | None = None, **options: Any
) -> IndexManifest:
    """The index of a memory, without Ray; options as in ``IndexOptions``."""
    plan = plan_index(memory, num_shards, index_dir, options=IndexOptions(**options))
    return finish_index(plan, memory, [make_shard(plan, shard) for shard in range(num_shards)], encode_titles=encode_titles)


def letter_states(titles: Sequence[str], *, dim: int) -> np.ndarray:
    """(n, dim) float16 states of titles that need no model: how often each of some letters stands in a title."""
    letters = "aeioutnsrhldcumfpgwybvkxjq"[:dim]
    return np.array([[title.lower().count(letter) for letter in letters] for title in titles], dtype=np.float16)
