"""Encodes parts of user sequences on Ray Data: a pool of actors, each with the model loaded once, each working on one part at a time.

What becomes of the hidden states is the caller's: its ``sink`` runs inside the actor, so that vectors need not travel (the memory build
writes them to storage there) unless they are wanted (evaluation).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from l2d_ray.model.loading import load_checkpoint, verify_checkpoint
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import tokenize_titles

Sink = Callable[[Path, list[Target], NDArray[np.float32]], dict[str, Any]]
"""A part's path, the targets of its samples and their states (n, d) -> one row of plain values."""


@dataclass(frozen=True)
class EncoderSpec:
    """How an actor makes its encoder."""

    checkpoint_dir: str
    device: str
    max_batch_tokens: int


class PartEncoder:
    """An actor: the path of a part -> what the sink makes of its samples and their states."""

    def __init__(self, spec: EncoderSpec, catalogue: Catalogue, split: int, sink: Sink) -> None:
        if spec.device == "cpu":
            torch.set_num_threads(os.cpu_count() or 1)
        language_model = load_checkpoint(Path(spec.checkpoint_dir), device=spec.device)
        titles = tokenize_titles(language_model.tokenizer, catalogue.titles, language_model.settings.max_title_tokens)
        self._item_id_to_title = dict(zip(catalogue.item_ids, titles, strict=True))
        self._prompts = language_model.prompts
        self._encoder = Encoder(language_model.model, max_batch_tokens=spec.max_batch_tokens)
        self._split, self._sink = split, sink

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (path,) = batch["path"]
        try:
            found = harvest(read_part(Path(path)), self._split, item_id_to_title=self._item_id_to_title, prompts=self._prompts)
            row = {"path": path} | self._sink(Path(path), found.targets, self._encoder.encode_windows(found.windows))
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
    parts = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths))
    encoded = parts.map_batches(
        PartEncoder,
        fn_constructor_args=(spec, catalogue, split, sink),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(num_workers, len(paths))),
        num_gpus=1 if spec.device == "cuda" else None,
    )
    for row in encoded.iter_rows():
        if isinstance(row.get("error"), L2DError):
            raise row["error"]
        yield row
