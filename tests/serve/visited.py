"""A service to visit: the real application in this process over HTTP, with a memory whose samples know their histories."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI

from l2d_ray.data.sequences import UserSequence
from l2d_ray.decode.decoder import PromptWriter
from l2d_ray.memory.append import Append, Event
from l2d_ray.memory.entries import WrittenEntries, entries_table
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import retried
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import save_checkpoint
from l2d_ray.schema import VALID
from l2d_ray.serve.api import build_api
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.latent_map import map_of
from tests.serve.conftest import NUM_ITEMS, NUM_SHARDS, backend_of, made_up_catalogue, recommender_of, tiny_model
from tests.toys import build_toy_index

NUM_USERS = 50


def app_over(folder: Path) -> FastAPI:
    """Checkpoint, memory and index are made in the folder; users walk through the catalogue in small steps."""
    catalogue, rng = made_up_catalogue(), np.random.default_rng(0)
    language_model = save_checkpoint(tiny_model(catalogue, seed=0), folder / "checkpoint")
    encoder, writer = Encoder(language_model.model), PromptWriter.of(language_model, catalogue)
    uri = str(folder / "memory")
    empty = Memory.create(uri, fingerprint=language_model.fingerprint, dim=language_model.dim, catalogue=catalogue)

    def encode(sequences: Sequence[UserSequence], left_out: frozenset[int]) -> WrittenEntries:
        samples = [(target, sequence.item_ids[: target.position]) for sequence in sequences for target in sequence.targets(VALID)]
        vectors = encoder.encode([writer.write(catalogue.indexes_of(history)) for _, history in samples])
        return Memory.open(uri).write(entries_table([target for target, _ in samples], vectors))

    walks = [np.cumsum(rng.integers(-3, 4, 9)) + rng.integers(NUM_ITEMS) for _ in range(NUM_USERS)]
    events = [
        Event(f"u{user}", time, catalogue.item_ids[item % NUM_ITEMS]) for user, walk in enumerate(walks) for time, item in enumerate(walk)
    ]
    build_toy_index(retried(Append(events, [], encode), empty), folder / "index", NUM_SHARDS)
    artefacts = ServedArtefacts.pin(folder / "checkpoint", folder / "index", memory_uri=uri)
    return build_api(recommender_of(artefacts, backend_of(artefacts)), draw_map=lambda version: map_of(artefacts.index))


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The application on a port of its own; gives its URL."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{own.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
