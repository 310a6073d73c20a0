"""A run to serve, made in a minute without training, and the applications over it: what the benchmarks of serving share.

The model is a mini with random weights (its speed does not depend on them), the catalogue is made up. Entries are the states of random
histories, each many times with a little noise, so that a memory of any size is made from few passes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target
from l2d_ray.decode.decoder import LatentDecoder, PromptWriter, load_latent_decoder
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.index.plan import finish_index, make_shard, plan_index
from l2d_ray.memory.entries import entries_table
from l2d_ray.memory.table import Memory
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import make_mini, save_checkpoint
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.text.prompts import PromptSettings

ROUTE = "/v1/recommendations"
NUM_STATES, NOISE = 2000, 0.05
PROMPTS = PromptSettings(prompt_format="sequence", window_items=50, min_history=10, history_length=10, max_title_tokens=16)
SHAPE = {"hidden_size": 128, "num_layers": 3, "num_heads": 4, "dropout": 0.0}
WORDS = (
    "Red",
    "Lost",
    "Silent",
    "Golden",
    "Last",
    "Broken",
    "River",
    "Empire",
    "Garden",
    "Signal",
    "Winter",
    "Mirror",
    "House",
    "Road",
    "Sea",
)
READY_S = 240.0


@dataclass(frozen=True)
class ServedRun:
    """Folders of a run with one index for each number of shards."""

    run_dir: Path

    @property
    def checkpoint_dir(self) -> Path:
        return self.run_dir / "checkpoint"

    @property
    def memory_uri(self) -> str:
        return str(self.run_dir / "memory")

    def index_dir(self, num_shards: int) -> Path:
        return self.run_dir / f"index-{num_shards}"

    def arguments(self, num_shards: int, **settings: Any) -> ServeArguments:
        """Of an application on two cores."""
        given = {"device": "cpu", "encoder_num_cpus": 1, "ingress_num_cpus": 0.2, "shard_num_cpus": 0.1, "access_control": False}
        return ServeArguments(checkpoint_dir=self.checkpoint_dir, index_dir=self.index_dir(num_shards), **given | settings)

    def decoder(self, num_shards: int) -> LatentDecoder:
        """The same in this process."""
        return load_latent_decoder(self.checkpoint_dir, self.index_dir(num_shards), DecoderSettings())

    def histories(self, count: int, *, seed: int, length: int = 10) -> list[list[str]]:
        """Different random histories, as item_ids."""
        item_ids = Catalogue.read(self.run_dir / "items.parquet").item_ids
        return [[item_ids[i] for i in history] for history in draw_histories(len(item_ids), count, seed=seed, length=length)]


def draw_histories(num_items: int, count: int, *, seed: int, length: int = 10) -> list[list[int]]:
    """Random histories, as item indexes."""
    drawn: list[list[int]] = np.random.default_rng(seed).integers(0, num_items, (count, length)).tolist()
    return drawn


def make_run(run_dir: Path, *, num_items: int, num_entries: int, shards: tuple[int, ...]) -> ServedRun:
    """A run; what is there is kept."""
    run = ServedRun(run_dir)
    torch.set_num_threads(1)
    if not (run_dir / "items.parquet").is_file():
        run_dir.mkdir(parents=True, exist_ok=True)
        _write_memory(run, num_items, num_entries)
    memory = Memory.open(run.memory_uri)
    for num_shards in shards:
        plan = plan_index(memory, num_shards, run.index_dir(num_shards))
        if plan.action != "reused":
            finish_index(plan, memory, [make_shard(plan, shard) for shard in range(num_shards)])
    return run


def _write_memory(run: ServedRun, num_items: int, num_entries: int) -> None:
    rng = np.random.default_rng(0)
    titles = [f"The {' '.join(rng.choice(WORDS, 3))} {number}" for number in range(num_items)]
    catalogue = Catalogue.from_rows((f"item-{number:06d}", title, {}) for number, title in enumerate(titles))
    language_model = save_checkpoint(make_mini(titles, PROMPTS, vocab_size=2048, shape=SHAPE, seed=0), run.checkpoint_dir)
    writer = PromptWriter.of(language_model, catalogue)
    histories = [rng.integers(0, num_items, rng.integers(2, 12)).tolist() for _ in range(min(NUM_STATES, num_entries))]
    states = Encoder(language_model.model).encode([writer.write(history) for history in histories])
    vectors = states[rng.integers(0, len(states), num_entries)]
    vectors += NOISE * states.std() * rng.normal(size=vectors.shape).astype(np.float32)
    items = rng.integers(0, num_items, num_entries)
    targets = [Target(f"u{number}", catalogue.item_ids[item], 1_000_000 + number, 1) for number, item in enumerate(items)]
    dim = int(SHAPE["hidden_size"])
    memory = Memory.create(run.memory_uri, fingerprint=language_model.fingerprint, dim=dim, catalogue=catalogue)
    memory.append(memory.write(entries_table(targets, vectors)), message="benchmark")
    catalogue.write(run.run_dir / "items.parquet")


@contextmanager
def cluster(port: int, *, num_cpus: int = 8) -> Iterator[str]:
    """A local Ray with Serve's HTTP at the port; gives its URL. The environment must be set before (serve.environment)."""
    import ray
    from ray import serve

    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=128 << 20,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def application(base_url: str, arguments: ServeArguments, name: str = "l2d_ray") -> Iterator[str]:
    """One application on the connected cluster, ready; gives the URL of its recommendations."""
    from ray import serve

    from l2d_ray.serve.on_ray import build_app

    serve.run(build_app(arguments), name=name, route_prefix=f"/{name}", logging_config={"enable_access_log": False})
    try:
        wait_until_ready(f"{base_url}/{name}")
        yield f"{base_url}/{name}{ROUTE}"
    finally:
        serve.delete(name)


def wait_until_ready(base_url: str, *, timeout_s: float = READY_S) -> float:
    """Seconds until /readyz says so; RuntimeError where that does not come about."""
    started = time.monotonic()
    while time.monotonic() < started + timeout_s:
        if status_of(f"{base_url}/readyz") == 200:
            return time.monotonic() - started
        time.sleep(0.1)
    raise RuntimeError(f"{base_url} is not ready after {timeout_s} s.")


def status_of(url: str) -> int:
    """HTTP status of a GET; 0 where nobody answers."""
    try:
        return httpx.get(url, timeout=10).status_code
    except httpx.TransportError:
        return 0


def answer_of(url: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and body of a POST; 0 and nothing where nobody answers."""
    try:
        response = httpx.post(url, json=dict(body), timeout=60)
    except httpx.TransportError:
        return 0, {}
    is_json = "json" in response.headers.get("content-type", "")
    return response.status_code, response.json() if is_json else {}
