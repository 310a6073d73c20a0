"""The service on Ray Serve: ``build_app(arguments)``, and the thin deployments that hold the logic.

    Ingress (HTTP)  ->  Encoder (dynamic batches)  ->  Shard-0, Shard-1, ... at once  ->  Ingress merges, and asks a few shards again

Replicas of one deployment are interchangeable and a shard is another piece of data, so every shard is a deployment of its own name
with its own replica count. Between deployments travel numpy arrays in the records of ``decode.search``. Arithmetic runs in threads, so
that a replica's event loop always answers pings. Queues are bounded: what no longer fits is answered 503 with Retry-After.

No ``from __future__ import annotations`` here: Serve reads the annotation of ``build_app`` to turn YAML arguments into ``ServeArguments``.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from l2d_ray.decode.search import ShardAnswer, ShardHoldings, ShardRequest
from l2d_ray.decode.settings import DECODERS, DecoderName
from l2d_ray.errors import RequestError, UnavailableError
from l2d_ray.model.loading import resolve_device
from l2d_ray.serve.api import build_api
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.backend import ServedVersions
from l2d_ray.serve.service import Recommender
from l2d_ray.text.prompts import TokenIds

ENCODER: Final = "Encoder"
PING_TIMEOUT_S: Final = 2.0
RETRY_AFTER_S: Final = 1


class ServeArguments(BaseModel):
    """Arguments of ``build_app``: of a Serve configuration file's ``args``, or of jobs.serve.

    Number and names of the shard deployments come from the index. The ``deployments`` section of a Serve configuration file sets
    options of a single one, such as ``num_replicas`` of ``Shard-0``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    checkpoint_dir: Path = Field(description="The model, as jobs.train wrote it; a path that every node sees.")
    index_dir: Path = Field(description="The index, as jobs.build_index wrote it; a path that every node sees.")
    memory_uri: str | None = Field(None, description="Memory with the tuned decoder settings; none means the default settings.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs; auto takes CUDA where a replica has a GPU.")
    decoders: tuple[DecoderName, ...] = Field(
        DECODERS,
        min_length=1,
        description="Decoders that requests may name. Only local needs entries: without it a shard loads item statistics alone. Where the "
        "tuned decoder is not among them, the first is the default.",
    )
    shard_device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="Where shards are searched.")
    ingress_replicas: int = Field(1, ge=1, description="Replicas that speak HTTP, tokenise and merge.")
    encoder_replicas: int = Field(1, ge=1, description="Replicas of the encoder.")
    shard_replicas: int = Field(1, ge=1, description="Replicas of every shard.")
    ingress_num_cpus: float = Field(0.25, ge=0, description="Logical CPUs of an ingress replica.")
    encoder_num_cpus: float = Field(1.0, ge=0, description="Logical CPUs, and threads, of an encoder replica.")
    encoder_num_gpus: float = Field(0.0, ge=0, description="GPUs of an encoder replica.")
    shard_num_cpus: float = Field(0.25, ge=0, description="Logical CPUs, and threads, of a shard replica.")
    shard_num_gpus: float = Field(0.0, ge=0, description="GPUs of a shard replica.")
    max_batch_size: int = Field(32, ge=1, description="Prompts of different requests in one batch at most.")
    max_batch_tokens: int = Field(8192, ge=64, description="Tokens in one forward pass at most.")
    batch_wait_s: float = Field(0.002, ge=0, description="Longest wait of a prompt for others to share its batch.")
    max_ongoing_requests: int = Field(64, ge=1, description="Requests that a replica of the encoder or a shard holds at once.")
    max_queued_requests: int = Field(256, ge=1, description="Requests that wait for such a replica; more are answered 503.")

    @model_validator(mode="after")
    def _a_batch_fits(self) -> "ServeArguments":
        if self.max_ongoing_requests < self.max_batch_size:
            raise ValueError(f"max_ongoing_requests ({self.max_ongoing_requests}) is less than max_batch_size ({self.max_batch_size}).")
        return self


def build_app(arguments: ServeArguments) -> serve.Application:
    """The application over one checkpoint and one index; raises ArtefactError before anything is deployed."""
    artefacts = ServedArtefacts.pin(
        arguments.checkpoint_dir, arguments.index_dir, memory_uri=arguments.memory_uri, decoders=arguments.decoders
    )
    encoder = serve.deployment(EncoderReplica, name=ENCODER).options(**_encoder_options(arguments)).bind(artefacts, arguments)
    shards = {
        shard_name(shard): serve.deployment(ShardReplica, name=shard_name(shard))
        .options(**_shard_options(arguments))
        .bind(artefacts, shard, arguments.shard_device)
        for shard in range(artefacts.manifest.num_shards)
    }
    ingress = serve.deployment(serve.ingress()(Ingress), name="Ingress").options(**_ingress_options(arguments))
    application: serve.Application = ingress.bind(artefacts, encoder, shards)
    return application


def shard_name(shard: int) -> str:
    """Name of a shard's deployment."""
    return f"Shard-{shard}"


class EncoderReplica:
    """Prompts of different requests, encoded in one forward pass."""

    def __init__(self, artefacts: ServedArtefacts, arguments: ServeArguments) -> None:
        device = resolve_device(arguments.device)
        self._encoder = artefacts.load_encoder(device=device, max_batch_tokens=arguments.max_batch_tokens)
        self._encoder.encode([np.zeros(1, dtype=np.int32)])  # the first pass is slow: now, before this replica counts as ready
        self.encode.set_max_batch_size(arguments.max_batch_size)
        self.encode.set_batch_wait_timeout_s(arguments.batch_wait_s)

    @serve.batch  # type: ignore[untyped-decorator]
    async def encode(self, prompts: list[TokenIds]) -> list[NDArray[np.float32]]:
        """The query vector (d,) of each prompt; a caller gives one prompt and gets one vector."""
        return list(await asyncio.to_thread(self._encoder.encode, prompts))

    async def ping(self) -> None:
        """Answer, which says that the model is loaded."""


class ShardReplica:
    """One shard of the index."""

    def __init__(self, artefacts: ServedArtefacts, shard: int, device: str) -> None:
        self._searcher = artefacts.load_searcher(shard, device=resolve_device(device))

    async def search(self, request: ShardRequest) -> ShardAnswer:
        return await asyncio.to_thread(self._searcher.search, request)

    async def holdings(self) -> ShardHoldings:
        return self._searcher.holdings()

    async def ping(self) -> None:
        """Answer, which says that the shard is loaded."""


class Ingress:
    """HTTP in and out; the recommender does the rest."""

    def __init__(self, artefacts: ServedArtefacts, encoder: DeploymentHandle, shards: dict[str, DeploymentHandle]) -> None:
        logic = artefacts.load_logic()
        backend = HandleBackend(encoder, shards, version=logic.manifest.memory_version)
        self._recommender = Recommender(lambda version: logic, backend)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._recommender)


class HandleBackend:
    """``Backend`` whose parts are deployments.

    Args:
        shards: handle of every shard by the name of its deployment.
        version: the only one that is served.
    """

    def __init__(self, encoder: DeploymentHandle, shards: dict[str, DeploymentHandle], *, version: int) -> None:
        self._encoder = encoder
        self._shards = shards
        self._versions = ServedVersions((version,), version)

    async def encode(self, prompts: Sequence[TokenIds], deadline: float | None) -> NDArray[np.float32]:
        with _unavailable(ENCODER):
            return np.stack(await asyncio.gather(*(self._encoder.encode.remote(prompt) for prompt in prompts)))

    async def versions(self) -> ServedVersions:
        return self._versions

    async def activate(self, version: int | None) -> ServedVersions:
        if version not in (None, self._versions.current):
            raise RequestError("version", f"Version {version} is not served; only {self._versions.current} is.")
        return self._versions

    async def search(self, requests: Mapping[int, ShardRequest], version: int, deadline: float | None) -> Mapping[int, ShardAnswer]:
        answers = await asyncio.gather(*(self._search(shard_name(shard), request) for shard, request in requests.items()))
        return dict(zip(requests, answers, strict=True))

    async def holdings(self, version: int) -> Mapping[int, ShardHoldings]:
        return dict(enumerate(await asyncio.gather(*(self._holdings(name) for name in self._shards))))

    async def missing_parts(self) -> list[str]:
        handles = {ENCODER: self._encoder} | self._shards
        answered = await asyncio.gather(*(_answers_ping(handle) for handle in handles.values()))
        return [name for name, is_there in zip(handles, answered, strict=True) if not is_there]

    async def _holdings(self, name: str) -> ShardHoldings:
        with _unavailable(name):
            held: ShardHoldings = await self._shards[name].holdings.remote()
        return held

    async def _search(self, name: str, request: ShardRequest) -> ShardAnswer:
        with _unavailable(name):
            answer: ShardAnswer = await self._shards[name].search.remote(request)
        return answer


async def _answers_ping(handle: DeploymentHandle) -> bool:
    try:
        await asyncio.wait_for(handle.ping.remote(), PING_TIMEOUT_S)
    except BackPressureError:
        return True  # busy, so it is there
    except (TimeoutError, DeploymentUnavailableError, ReplicaUnavailableError, RayActorError):
        return False
    return True


@contextmanager
def _unavailable(part: str) -> Iterator[None]:
    """Turn Serve's ways of saying "not now" into UnavailableError."""
    try:
        yield
    except BackPressureError as error:
        raise UnavailableError("The service has as many requests waiting as it takes; try again later.", RETRY_AFTER_S) from error
    except (DeploymentUnavailableError, ReplicaUnavailableError, RayActorError) as error:
        raise UnavailableError(f"{part} does not answer at the moment; try again later.", RETRY_AFTER_S) from error


def _replica_options(num_replicas: int, *, num_cpus: float, num_gpus: float, arguments: ServeArguments) -> dict[str, Any]:
    """Options of a deployment behind the ingress, its queue bounded."""
    return {
        "num_replicas": num_replicas,
        "ray_actor_options": {"num_cpus": num_cpus, "num_gpus": num_gpus},
        "max_ongoing_requests": arguments.max_ongoing_requests,
        "max_queued_requests": arguments.max_queued_requests,
    }


def _encoder_options(arguments: ServeArguments) -> dict[str, Any]:
    cpus, gpus = arguments.encoder_num_cpus, arguments.encoder_num_gpus
    return _replica_options(arguments.encoder_replicas, num_cpus=cpus, num_gpus=gpus, arguments=arguments)


def _shard_options(arguments: ServeArguments) -> dict[str, Any]:
    cpus, gpus = arguments.shard_num_cpus, arguments.shard_num_gpus
    return _replica_options(arguments.shard_replicas, num_cpus=cpus, num_gpus=gpus, arguments=arguments)


def _ingress_options(arguments: ServeArguments) -> dict[str, Any]:
    """Room for everything that the encoder may hold and queue, so that its queue is full first and our problem answer is given."""
    room = arguments.max_queued_requests + 2 * arguments.encoder_replicas * arguments.max_ongoing_requests
    return {
        "num_replicas": arguments.ingress_replicas,
        "ray_actor_options": {"num_cpus": arguments.ingress_num_cpus},
        "max_ongoing_requests": room,
        "max_queued_requests": arguments.max_queued_requests,
    }
