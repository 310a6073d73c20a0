"""How a request is to be answered before anything of it is looked up: by which version, in which arm, from where in the ranking."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from l2d_ray.decode.settings import DecoderName
from l2d_ray.errors import RequestError
from l2d_ray.serve.backend import ServedVersions
from l2d_ray.serve.cursor import Cursor, digest_of
from l2d_ray.serve.experiments import arm_of
from l2d_ray.serve.messages import ExperimentArm, RankingOptions, RecommendationRequest
from l2d_ray.serve.state_messages import Arm, Experiment
from l2d_ray.store.records import check_id


@dataclass(frozen=True)
class Plan:
    """A request with its arm's settings.

    Attributes:
        digest: of the request as it was sent.
        num_stored: interactions of the user's stored history to be seen; None: all.
    """

    request: RecommendationRequest
    version: int
    digest: str
    offset: int = 0
    num_stored: int | None = None
    arm: ExperimentArm | None = None


def plan_of(
    request: RecommendationRequest, versions: ServedVersions, experiment: Experiment | None, decoders: Sequence[DecoderName]
) -> Plan:
    """RequestError where the user_id cannot be one, the cursor is none of ours, or its version is gone.

    Args:
        decoders: those that are served; an arm that names another one answers nobody.
    """
    if request.user_id is not None:
        check_id("user_id", request.user_id)
    digest = digest_of(request.model_dump(mode="json", by_alias=True, exclude={"cursor"}))
    arm = None if experiment is None else _arm_of(request, experiment, versions, decoders)
    version = versions.current if arm is None or arm.memory_version is None else arm.memory_version
    plan = Plan(request, version, digest)
    if experiment is not None and arm is not None:
        settings = {"decoder": arm.decoder, "num_neighbors": arm.num_neighbors}
        plan = Plan(request.model_copy(update=settings), version, digest, arm=ExperimentArm(name=experiment.name, arm=arm.name))
    if request.cursor is None:
        return plan
    cursor = Cursor.read(request.cursor, digest)
    if cursor.version not in versions.versions:
        raise RequestError(
            "cursor", f"The memory version {cursor.version} of the cursor is no longer served; begin again without a cursor."
        )
    return Plan(plan.request, cursor.version, digest, cursor.offset, cursor.num_stored, plan.arm)


def deadline_of(requests: Iterable[RankingOptions]) -> float | None:
    """The earliest of them on time.monotonic(), counted from now; None where none has a timeout."""
    timeouts = [request.timeout_ms for request in requests if request.timeout_ms is not None]
    return time.monotonic() + min(timeouts) / 1000 if timeouts else None


@contextmanager
def fields_below(prefix: str) -> Iterator[None]:
    """Put a prefix before the field of a RequestError."""
    try:
        yield
    except RequestError as error:
        if not prefix:
            raise
        raise type(error)(prefix + error.field, str(error)) from None


def _arm_of(
    request: RecommendationRequest, experiment: Experiment, versions: ServedVersions, decoders: Sequence[DecoderName]
) -> Arm | None:
    """The arm that answers; none for somebody unknown, who could not be kept in it, and where the request says itself what it wants."""
    if request.user_id is None or request.decoder is not None or request.num_neighbors is not None:
        return None
    arm = arm_of(experiment, request.user_id)
    is_served = (arm.memory_version is None or arm.memory_version in versions.versions) and (arm.decoder is None or arm.decoder in decoders)
    return arm if is_served else None
