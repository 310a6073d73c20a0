"""What an application is built with: the ``args`` of a Serve configuration file, or what jobs.serve makes of its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from l2d_ray.decode.settings import DECODERS, DecoderName


class ServeArguments(BaseModel):
    """Arguments of ``build_app``; unknown keys are refused.

    Number and names of the shard deployments come from the index. The ``deployments`` section of a Serve configuration file sets
    options of a single one, such as ``num_replicas`` of ``Shard-0``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    checkpoint_dir: Path = Field(description="The model, as jobs.train wrote it; a path that every node sees.")
    index_dir: Path = Field(description="The index, as jobs.build_index wrote it; a path that every node sees.")
    memory_uri: str | None = Field(None, description="Memory with the tuned decoder settings; none means the default settings.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs; auto takes CUDA where a replica has a GPU.")
    state_url: str | None = Field(
        None,
        description="Users, edits, keys and settings: sqlite:///absolute/path or postgresql://user@host/database; none: nothing is kept.",
    )
    access_control: bool = Field(
        True, description="Whether every request needs an API key of the state; false only where nobody else can reach the service."
    )
    audit_log: Path | None = Field(None, description="File for a line about every attempt to write; none: stderr.")
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
    max_surge_percent: int = Field(
        0,
        ge=0,
        le=100,
        description="Share of a deployment that a rolling update starts before old replicas stop, if there is room; 0: they stop first.",
    )

    max_batch_size: int = Field(64, ge=1, description="Requests that share one call of the encoder or of a shard at most; 1: none do.")
    max_batch_tokens: int = Field(8192, ge=64, description="Tokens of the prompts that share one call, and of one forward pass, at most.")
    calls_per_replica: int = Field(
        1,
        ge=1,
        description="Calls of an ingress replica to each replica of encoder and shards at once; what waits shares the next one. A GPU is "
        "busier with 2; on CPUs larger batches are worth more.",
    )
    max_waiting: int = Field(2048, ge=1, description="Histories, and questions to each shard, that wait at an ingress for a call at most.")
    max_requests: int = Field(
        128, ge=1, description="Requests that an ingress replica works on at once; as many wait, and more are answered 503."
    )
    cached_states: int = Field(4096, ge=0, description="Histories whose query vectors an ingress replica keeps; 0: none.")
    kept_history_mib: int = Field(
        256,
        ge=0,
        description="MiB of keys and values that an encoder replica keeps where its model is: of a history that has grown since, the new "
        "items alone are read; 0: none. For the sequence format. A hundred tokens take a mini 0.4 MiB, Llama 3.2 1B 3 MiB.",
    )
    doubled_after_s: float = Field(
        1.0, gt=0, description="A call that takes longer is made again of another replica, where there are some."
    )
    longest_wait_s: float = Field(30.0, gt=0, description="Longest wait for encoder or shards where a request sets no timeout.")

    health_check_period_s: float = Field(2.0, gt=0, description="How often Serve asks whether a replica is healthy.")
    health_check_timeout_s: float = Field(10.0, gt=0, description="A replica that does not say so for this long is replaced.")
    refresh_s: float = Field(1.0, gt=0, description="How often a replica looks whether the index has a newer version.")
    update_s: float = Field(5.0, gt=0, description="How often the updater looks for what the memory does not have yet.")
    updater_num_cpus: float = Field(0.1, ge=0, description="Logical CPUs of the updater; there is none without memory_uri and state_url.")
    kept_versions: int = Field(3, ge=1, description="Versions of the index that the updater keeps beside the newest, for going back.")
    loaded_versions: int = Field(3, ge=2, description="Versions of the index that a replica keeps loaded at most.")

    @property
    def is_updated(self) -> bool:
        """Whether what is written comes into memory and index."""
        return self.memory_uri is not None and self.state_url is not None

    @model_validator(mode="after")
    def _keys_are_kept(self) -> ServeArguments:
        if self.access_control and self.state_url is None:
            raise ValueError(
                "access_control needs state_url, where the keys are; give one, or set access_control to false where nobody else can reach "
                "the service."
            )
        return self
