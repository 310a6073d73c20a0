"""Encodes parts of user sequences on Ray Data: a pool of actors, each with the model loaded once.

What becomes of the hidden states is the caller's: its ``sink`` runs inside the actor, so that vectors need not travel (the memory build
writes them to storage there) unless they are wanted (evaluation). An actor holds two parts at most: while one is encoded the other is
read or given to the sink, so that model and storage work at the same time. A part's row appears after its sink has returned.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target, read_part
from l2d_ray.errors import L2DError
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, load_checkpoint, verify_checkpoint
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import title_prompts, tokenize_titles

Sink = Callable[[Path, list[Target], NDArray[np.float32]], dict[str, Any]]
"""A part's path, the targets of its samples and their states (n, d) -> one row of plain values."""


PARTS_PER_ACTOR = 2
TITLES_PER_TASK = 65_536
SWITCH_INTERVAL_S = 0.0002
"""Python's usual 5 ms would hold the encoding thread up after every operation of the model for as long as the other thread computes."""


@dataclass(frozen=True)
class EncoderSpec:
    """How an actor makes its encoder.

    Attributes:
        max_batch_tokens: padded tokens in one forward pass at most.
        num_threads: torch's threads in an actor on a CPU; None shares a node's cores among the actors there.
    """

    checkpoint_dir: str
    device: str
    max_batch_tokens: int
    num_threads: int | None = None


class PartEncoder:
    """An actor: the path of a part -> what the sink makes of its samples and their states.

    It is called from ``PARTS_PER_ACTOR`` threads, of which one encodes at a time.
    """

    def __init__(self, spec: EncoderSpec, catalogue: Catalogue, split: int, sink: Sink) -> None:
        if spec.device == "cpu":
            torch.set_num_threads(spec.num_threads or 1)
        language_model = load_checkpoint(Path(spec.checkpoint_dir), device=spec.device)
        titles = tokenize_titles(language_model.tokenizer, catalogue.titles, language_model.settings.max_title_tokens)
        self._item_id_to_title = dict(zip(catalogue.item_ids, titles, strict=True))
        self._prompts = language_model.prompts
        self._encoder = Encoder(
            language_model.model, max_batch_tokens=spec.max_batch_tokens, shared_prefix=language_model.prompts.shared_prefix
        )
        self._encoding = threading.Lock()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._split, self._sink = split, sink

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (path,) = batch["path"]
        try:
            found = harvest(read_part(Path(path)), self._split, item_id_to_title=self._item_id_to_title, prompts=self._prompts)
            with self._encoding:
                states = self._encoder.encode_windows(found.windows)
            row = {"path": path} | self._sink(Path(path), found.targets, states)
        except L2DError as error:  # a value, since Ray Data would hand on its text alone
            row = {"path": path, "error": error}
        return {name: [value] for name, value in row.items()}


def encode_parts(
    paths: Sequence[str], split: int, *, spec: EncoderSpec, catalogue: Catalogue, sink: Sink, num_workers: int
) -> Iterator[dict[str, Any]]:
    """One row a part, ``path`` and what the sink gave, in the order in which parts are done; an actor's L2DError is raised here."""
    if not paths:
        return
    verify_checkpoint(Path(spec.checkpoint_dir))
    num_actors = min(num_workers, len(paths))
    spec = replace(spec, num_threads=spec.num_threads or shared_threads(_cores_of_nodes(), num_actors))
    parts_at_once = PARTS_PER_ACTOR if len(paths) >= PARTS_PER_ACTOR * num_actors else 1  # else an early actor takes a late one's part
    parts = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths))
    encoded = parts.map_batches(
        PartEncoder,
        fn_constructor_args=(spec, catalogue, split, sink),
        batch_size=1,
        compute=ActorPoolStrategy(
            size=num_actors,
            max_tasks_in_flight_per_actor=parts_at_once,
            max_concurrent_calls_per_actor=parts_at_once,
            enable_true_multi_threading=True,
        ),
        num_gpus=1 if spec.device == "cuda" else None,
    )
    for row in encoded.iter_rows():
        if isinstance(row.get("error"), L2DError):
            raise row["error"]
        yield row


def title_encoder(spec: EncoderSpec) -> Callable[[Sequence[str]], NDArray[np.float16]]:
    """Encodes titles in tasks, (n, d): the state of a request whose history is the title alone."""
    verify_checkpoint(Path(spec.checkpoint_dir))
    task = ray.remote(num_gpus=1 if spec.device == "cuda" else 0)(_title_states)

    def encode(titles: Sequence[str]) -> NDArray[np.float16]:
        blocks = [titles[start : start + TITLES_PER_TASK] for start in range(0, len(titles), TITLES_PER_TASK)]
        return np.concatenate(ray.get([task.remote(spec, block) for block in blocks]))

    return encode


def _title_states(spec: EncoderSpec, titles: Sequence[str]) -> NDArray[np.float16]:
    encoder, language_model = _loaded(spec)
    found = tokenize_titles(language_model.tokenizer, titles, language_model.settings.max_title_tokens)
    return encoder.encode(title_prompts(found, language_model.prompts)).astype(np.float16)


@lru_cache(maxsize=1)
def _loaded(spec: EncoderSpec) -> tuple[Encoder, LanguageModel]:
    """A task's model, kept for the next task in the same process."""
    language_model = load_checkpoint(Path(spec.checkpoint_dir), device=spec.device)
    return Encoder(language_model.model, max_batch_tokens=spec.max_batch_tokens), language_model


def shared_threads(cores_of_nodes: Sequence[int], num_actors: int) -> int:
    """Threads of each actor where Ray Data spreads the actors evenly over the nodes: as fits the smallest node, at least one."""
    return max(1, min(cores_of_nodes, default=1) // -(-num_actors // max(len(cores_of_nodes), 1)))


def _cores_of_nodes() -> list[int]:
    """Of every node that runs tasks, its CPUs as Ray counts them, which heeds a container's limit.

    Of this node never more than it really has, since a laptop's cluster may be given more logical CPUs than cores.
    """
    here, real = ray.get_runtime_context().get_node_id(), os.cpu_count() or 1
    logical = {n["NodeID"]: int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]}
    return [min(cores, real) if node_id == here else cores for node_id, cores in logical.items() if cores]
