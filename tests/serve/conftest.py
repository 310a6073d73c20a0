"""A tiny real run: an untrained mini model, 60 titles, and an index of two shards over encoded random histories."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target
from l2d_ray.decode.decoder import LatentDecoder, PromptWriter, load_latent_decoder
from l2d_ray.decode.search import ShardAnswer, ShardHoldings, ShardRequest, ShardSearcher
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.errors import RequestError
from l2d_ray.memory.entries import entries_table
from l2d_ray.memory.sequences import RememberedSequence, store_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, make_mini, save_checkpoint
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.backend import ServedVersions
from l2d_ray.serve.logic import RecommendationLogic
from l2d_ray.serve.service import Recommender
from l2d_ray.serve.state import State
from l2d_ray.text.prompts import PromptSettings, TokenIds
from tests.toys import build_toy_index

NUM_ITEMS, NUM_ENTRIES, NUM_SHARDS = 60, 400, 2
ADJECTIVES, NOUNS = ("Red", "Lost", "Silent", "Golden", "Last", "Broken"), ("River", "Empire", "Garden", "Signal", "Winter", "Mirror")
PROMPTS = PromptSettings(prompt_format="sequence", window_items=8, min_history=3, history_length=5, max_title_tokens=16)


@dataclass(frozen=True)
class TinyRun:
    checkpoint_dir: Path
    index_dir: Path
    memory_uri: str
    catalogue: Catalogue
    oracle: LatentDecoder

    def histories(self, count: int, *, seed: int) -> list[list[int | str]]:
        """Histories as the oracle takes them: item indexes, and some titles that the catalogue does not have."""
        rng = random.Random(seed)
        choices: list[int | str] = [*range(NUM_ITEMS), "A Film Nobody Listed (1999)", "Über die Brücke"]
        return [rng.choices(choices, k=rng.randint(1, 14)) for _ in range(count)]

    def as_sent(self, history: list[int | str], *, by_title: bool = False) -> list[str | dict[str, str]]:
        """The same history as a request has it; ``by_title`` sends titles of the catalogue in place of ids."""
        titled = [{"title": item if isinstance(item, str) else self.catalogue.titles[item]} for item in history]
        pairs = zip(history, titled, strict=True)
        return [title if by_title or isinstance(item, str) else self.catalogue.item_ids[item] for item, title in pairs]

    def expected_ids(self, history: list[int | str], k: int, *, exclude_history: bool = True, **options) -> list[str]:
        """What the oracle recommends, as item_ids."""
        excluded = [i for i in history if isinstance(i, int)] if exclude_history else []
        found = self.oracle.recommend([history], k, excluded=[excluded], **options)
        return [self.catalogue.item_ids[index] for index in found.ids[0] if index >= 0]


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Threads that wait for each other on busy cores make a tiny model a hundred times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    folder = tmp_path_factory.mktemp("run")
    catalogue = made_up_catalogue()
    language_model = save_checkpoint(tiny_model(catalogue, seed=0), folder / "checkpoint")
    write_index(folder, language_model, catalogue)
    oracle = load_latent_decoder(folder / "checkpoint", folder / "index", DecoderSettings())
    return TinyRun(folder / "checkpoint", folder / "index", str(folder / "memory"), catalogue, oracle)


@pytest.fixture(scope="session")
def other_checkpoint(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same shape."""
    folder = tmp_path_factory.mktemp("other") / "checkpoint"
    save_checkpoint(tiny_model(tiny_run.catalogue, seed=1), folder)
    return folder


class InProcessBackend:
    """Encoder and shards called directly, where Serve would have handles."""

    def __init__(self, encoder: Encoder, version_to_searchers: Mapping[int, Sequence[ShardSearcher]]) -> None:
        self.encoder = encoder
        self.version_to_searchers = version_to_searchers
        self.missing: list[str] = []
        self.silent: set[int] = set()
        """Shards that never answer in time."""
        self.served = ServedVersions(tuple(version_to_searchers), max(version_to_searchers))

    async def encode(self, prompts: Sequence[TokenIds], deadline: float | None) -> np.ndarray:
        return self.encoder.encode(prompts)

    async def search(self, requests: Mapping[int, ShardRequest], version: int, deadline: float | None) -> dict[int, ShardAnswer]:
        searchers = self.version_to_searchers[version]
        return {shard: searchers[shard].search(request) for shard, request in reversed(requests.items()) if shard not in self.silent}

    async def holdings(self, version: int) -> dict[int, ShardHoldings]:
        held = enumerate(self.version_to_searchers[version])
        return {shard: searcher.holdings() for shard, searcher in held if shard not in self.silent}

    async def missing_parts(self) -> list[str]:
        return self.missing

    async def versions(self) -> ServedVersions:
        return self.served

    async def activate(self, version: int | None) -> ServedVersions:
        if version is not None and version not in self.served.versions:
            raise RequestError("version", f"Version {version} is not served.")
        chosen = max(self.served.versions) if version is None else version
        self.served = replace(self.served, current=chosen, is_pinned=version is not None)
        return self.served


@pytest.fixture
def artefacts(tiny_run: TinyRun) -> ServedArtefacts:
    return ServedArtefacts.pin(tiny_run.checkpoint_dir, tiny_run.index_dir)


@pytest.fixture
def linear_artefacts(tiny_run: TinyRun) -> ServedArtefacts:
    """A deployment that answers what needs item statistics alone."""
    return ServedArtefacts.pin(tiny_run.checkpoint_dir, tiny_run.index_dir, decoders=("global", "whitened"))


@pytest.fixture
def backend(artefacts: ServedArtefacts) -> InProcessBackend:
    return backend_of(artefacts)


def backend_of(artefacts: ServedArtefacts) -> InProcessBackend:
    searchers = [artefacts.load_searcher(shard, device="cpu") for shard in range(NUM_SHARDS)]
    return InProcessBackend(artefacts.load_encoder(device="cpu", max_batch_tokens=512), {artefacts.manifest.memory_version: searchers})


def recommender_of(artefacts: ServedArtefacts, backend: InProcessBackend, state: State | None = None) -> Recommender:
    """Every version is served from the same artefacts."""

    def load(version: int) -> RecommendationLogic:
        manifest = replace(artefacts.manifest, memory_version=version)
        return replace(artefacts, index=replace(artefacts.index, manifest=manifest)).load_logic()

    return Recommender(load, backend, state)


def made_up_catalogue() -> Catalogue:
    titles = [f"The {a} {n} ({1950 + i})" for i, (a, n) in enumerate((a, n) for a in ADJECTIVES for n in NOUNS)]
    titles += [f"Return of the {title[4:]}" for title in titles[: NUM_ITEMS - len(titles)]]
    return Catalogue.from_rows((f"item-{i:02d}", title, attributes_of(i, title)) for i, title in enumerate(titles))


def attributes_of(number: int, title: str) -> dict[str, object]:
    """A year, words and, for some items, whether it is a sequel."""
    attributes: dict[str, object] = {"year": 1950 + number % 36, "words": title.split()[-3:-1]}
    return attributes | ({"is_sequel": title.startswith("Return")} if number % 5 else {})


def tiny_model(catalogue: Catalogue, *, seed: int) -> LanguageModel:
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
    return make_mini(catalogue.titles, PROMPTS, vocab_size=400, shape=shape, seed=seed)


def write_index(run_dir: Path, language_model: LanguageModel, catalogue: Catalogue) -> None:
    """Entries are the states of random histories, each with a random target; one user a history."""
    rng = np.random.default_rng(0)
    writer = PromptWriter.of(language_model, catalogue)
    histories = [rng.integers(0, NUM_ITEMS, rng.integers(1, 12)).tolist() for _ in range(NUM_ENTRIES)]
    vectors = Encoder(language_model.model).encode([writer.write(history) for history in histories])
    chosen = rng.integers(0, NUM_ITEMS, NUM_ENTRIES).tolist()
    ids = [tuple(catalogue.item_ids[item] for item in (*history, target)) for history, target in zip(histories, chosen, strict=True)]
    targets = [Target(f"u{i}", items[-1], None, len(items) - 1) for i, items in enumerate(ids)]
    memory = Memory.create(str(run_dir / "memory"), fingerprint=language_model.fingerprint, dim=32, catalogue=catalogue)
    sequences = [RememberedSequence(f"u{i}", items, (None,) * len(items)) for i, items in enumerate(ids)]
    stored = store_sequences(memory.uri, sequences)
    memory = memory.append(memory.write(entries_table(targets, vectors)), message="toy", sequences=(stored,))
    build_toy_index(memory, run_dir / "index", NUM_SHARDS)
