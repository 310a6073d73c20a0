"""The service on Ray Serve: ``build_app(arguments)``, which a Serve configuration file names as its import path.

    Ingress (HTTP)  ->  Encoder (batches by tokens)  ->  Shard-0, Shard-1, ... at once  ->  Ingress merges, and asks a few shards again
    Updater  ->  Encoder: what was written comes into memory and index, which ingress and shards then follow

Replicas of one deployment are interchangeable and a shard is another piece of data, so every shard is a deployment of its own name
with its own replica count. Between deployments travel numpy arrays in the records of ``decode.search``. Queues are bounded everywhere:
what no longer fits is answered 503 with Retry-After. This folder holds all that knows Ray; its pure twins lie beside it.

No ``from __future__ import annotations`` here: Serve reads the annotation of ``build_app`` to turn YAML arguments into ``ServeArguments``.
"""

from typing import Any, Final

from ray import serve
from ray.serve.config import BackpressureConfig

from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.batching import RETRY_AFTER_S
from l2d_ray.serve.on_ray.ingress import Ingress
from l2d_ray.serve.on_ray.replicas import EncoderReplica, ShardReplica
from l2d_ray.serve.on_ray.updater import Updater

ENCODER: Final = "Encoder"
INGRESS: Final = "Ingress"
UPDATER: Final = "Updater"
CALLS_QUEUED: Final = 100
"""Calls of an ingress that wait for a replica of encoder or shard at most; ingresses hold back by themselves long before."""


def build_app(arguments: ServeArguments) -> serve.Application:
    """The application over one checkpoint and one index; raises ArtefactError before anything is deployed."""
    artefacts = ServedArtefacts.pin(
        arguments.checkpoint_dir, arguments.index_dir, memory_uri=arguments.memory_uri, decoders=arguments.decoders
    )
    encoder = serve.deployment(EncoderReplica, name=ENCODER).options(**_encoder_options(arguments)).bind(artefacts, arguments)
    shards = {
        shard_name(shard): serve.deployment(ShardReplica, name=shard_name(shard))
        .options(**_shard_options(arguments))
        .bind(artefacts, shard, arguments)
        for shard in range(artefacts.manifest.num_shards)
    }
    updater = serve.deployment(Updater, name=UPDATER).options(**_updater_options(arguments)).bind(artefacts, arguments, encoder)
    ingress = serve.deployment(serve.ingress()(Ingress), name=INGRESS).options(**_ingress_options(arguments))
    application: serve.Application = ingress.bind(artefacts, arguments, encoder, shards, updater if arguments.is_updated else None)
    return application


def shard_name(shard: int) -> str:
    """Name of a shard's deployment."""
    return f"Shard-{shard}"


def _options(num_replicas: int, *, num_cpus: float, num_gpus: float, arguments: ServeArguments) -> dict[str, Any]:
    return {
        "num_replicas": num_replicas,
        "ray_actor_options": {"num_cpus": num_cpus, "num_gpus": num_gpus},
        "health_check_period_s": arguments.health_check_period_s,
        "health_check_timeout_s": arguments.health_check_timeout_s,
        "max_surge_percent": arguments.max_surge_percent,
    }


def _called_options(num_replicas: int, *, num_cpus: float, num_gpus: float, arguments: ServeArguments) -> dict[str, Any]:
    """Of a deployment behind the ingress: room for the calls of all ingress replicas, and a bounded queue."""
    room = arguments.ingress_replicas * arguments.calls_per_replica * num_replicas + 1
    queues = {"max_ongoing_requests": room, "max_queued_requests": CALLS_QUEUED}
    return _options(num_replicas, num_cpus=num_cpus, num_gpus=num_gpus, arguments=arguments) | queues


def _encoder_options(arguments: ServeArguments) -> dict[str, Any]:
    cpus, gpus = arguments.encoder_num_cpus, arguments.encoder_num_gpus
    return _called_options(arguments.encoder_replicas, num_cpus=cpus, num_gpus=gpus, arguments=arguments)


def _shard_options(arguments: ServeArguments) -> dict[str, Any]:
    cpus, gpus = arguments.shard_num_cpus, arguments.shard_num_gpus
    return _called_options(arguments.shard_replicas, num_cpus=cpus, num_gpus=gpus, arguments=arguments)


def _updater_options(arguments: ServeArguments) -> dict[str, Any]:
    """One of them: never two at once, so none in advance of the old one's end."""
    return _options(1, num_cpus=arguments.updater_num_cpus, num_gpus=0, arguments=arguments) | {"max_surge_percent": 0}


def _ingress_options(arguments: ServeArguments) -> dict[str, Any]:
    """Serve refuses what is too much, in plain text with Retry-After, before anything of a request is read.

    A refusal of our own, a problem answer, costs three times as much, and then a flood of five times the capacity left a third of it for
    answers instead of two (benchmarks.serve_load). Serve counts a request as queued until the event loop has come round to it, so its queue
    has room for as many as may come in one round.
    """
    queues = {
        "max_ongoing_requests": arguments.max_requests,
        "max_queued_requests": arguments.max_requests,
        "backpressure_config": BackpressureConfig(retry_after_s=RETRY_AFTER_S),
    }
    return _options(arguments.ingress_replicas, num_cpus=arguments.ingress_num_cpus, num_gpus=0, arguments=arguments) | queues
