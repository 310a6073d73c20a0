"""The seam between the service's logic and what computes for it, wherever that runs: the encoder, the shards, and which versions they hold.

Deadlines are ``time.monotonic()`` of the process that calls, None for none. A shard that does not answer in time is left out of the
mapping, never an exception: whether a part of the shards is enough is for the service to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.search import ShardAnswer, ShardHoldings, ShardRequest
from l2d_ray.text.prompts import TokenIds


@dataclass(frozen=True)
class ServedVersions:
    """The memory versions whose indexes every shard holds or can load.

    Attributes:
        versions: ascending, at least one.
        current: answers requests that name none.
        is_pinned: whether ``current`` stays until ``activate`` is called again, whatever newer versions come.
    """

    versions: tuple[int, ...]
    current: int
    is_pinned: bool = False


class Backend(Protocol):
    """Encoder and shards. A method raises UnavailableError where it cannot answer at all now."""

    async def encode(self, prompts: Sequence[TokenIds], deadline: float | None) -> NDArray[np.float32]:
        """(n, d) query vectors of n >= 1 prompts; UnavailableError where the deadline has passed before all are there."""

    async def search(self, requests: Mapping[int, ShardRequest], version: int, deadline: float | None) -> Mapping[int, ShardAnswer]:
        """The answers of the shards of one version that are asked, by shard; those that did not answer in time are missing."""

    async def holdings(self, version: int) -> Mapping[int, ShardHoldings]:
        """What every shard holds of a version; those that do not answer are missing."""

    async def missing_parts(self) -> list[str]:
        """Names of the parts that do not answer a ping; empty when a request can be served whole."""

    async def versions(self) -> ServedVersions:
        """What is served now; asked for every request, so it comes from this process's memory."""

    async def activate(self, version: int | None) -> ServedVersions:
        """Answer from that version from now on, in every ingress, and stay there; None follows the newest again.

        RequestError, field ``version``, where it is not among ``versions``.
        """
