"""One deployment as its callers see it: a call with a deadline, made again where a replica died or hangs. Calls are harmless when repeated.

Serve finds another replica for what it has not sent yet, and waits for one where there is none. What a replica had begun when it died
comes back as an error; it is asked for again here, of whichever replica Serve picks, until the deadline. Where a part has several replicas,
a call that takes long is made a second time beside the first, and the first answer counts: one of the replicas may hang. Of each part
one call is doubled at a time, so that doubling cannot double the work of a part that is slow because it has much to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from l2d_ray.errors import UnavailableError
from l2d_ray.serve.batching import RETRY_AFTER_S

LOST: Final = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)
"""What Serve raises where a replica died or is not there."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
PING_TIMEOUT_S: Final = 2.0


class Part:
    """A deployment by its name and handle.

    Args:
        note_retry: told the name whenever a call is made again.
        doubled_after_s: after which time without an answer a call is made a second time; None: never.
    """

    def __init__(
        self,
        name: str,
        handle: DeploymentHandle,
        *,
        note_retry: Callable[[str], None] = lambda name: None,
        doubled_after_s: float | None = None,
    ) -> None:
        self.name = name
        self.handle = handle
        self._note_retry = note_retry
        self._doubled_after_s = doubled_after_s
        self._is_doubling = False

    async def call(self, method: str, *arguments: object, deadline: float) -> Any:
        """What the method answers; TimeoutError past the deadline (time.monotonic), UnavailableError where Serve's queue is full."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._once(method, arguments, deadline)
            except BackPressureError as error:
                raise UnavailableError(f"{self.name} has as much to do as it takes; try again later.", RETRY_AFTER_S) from error
            except LOST as error:
                if time.monotonic() + pause_s > deadline:
                    raise TimeoutError(f"{self.name} was lost and did not come back in time.") from error
            self._note_retry(self.name)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def is_there(self) -> bool:
        """Whether a replica answers a ping soon."""
        try:
            await self._once("ping", (), time.monotonic() + PING_TIMEOUT_S)
        except BackPressureError:
            return True  # busy, so it is there
        except (TimeoutError, *LOST):
            return False
        return True

    async def _once(self, method: str, arguments: tuple[object, ...], deadline: float) -> Any:
        """The answer to one call, or of two the first that ends."""
        attempts = [_Attempt(self.handle, method, arguments)]
        is_doubled = False
        try:
            done = await _first_done(attempts, self._patience_s(deadline))
            if done is None and self._doubled_after_s is not None and not self._is_doubling and time.monotonic() < deadline:
                self._is_doubling = is_doubled = True
                self._note_retry(self.name)
                attempts.append(_Attempt(self.handle, method, arguments))
            done = done or await _first_done(attempts, deadline - time.monotonic())
            if done is None:
                raise TimeoutError(f"{self.name} did not answer in time.")
            return done.result()
        finally:
            self._is_doubling = self._is_doubling and not is_doubled
            for attempt in attempts:
                attempt.end()

    def _patience_s(self, deadline: float) -> float:
        """How long the first attempt is waited for alone."""
        left_s = deadline - time.monotonic()
        return left_s if self._doubled_after_s is None else min(left_s, self._doubled_after_s)


class _Attempt:
    """A call under way."""

    def __init__(self, handle: DeploymentHandle, method: str, arguments: tuple[object, ...]) -> None:
        self._response: DeploymentResponse = getattr(handle, method).remote(*arguments)
        self.task = asyncio.ensure_future(_awaited(self._response))

    def end(self) -> None:
        """Cancel what has not ended, at the replica too."""
        if not self.task.done():
            self._response.cancel()
            self.task.cancel()


async def _awaited(response: DeploymentResponse) -> Any:
    return await response


async def _first_done(attempts: list[_Attempt], timeout_s: float) -> asyncio.Future[Any] | None:
    done, _ = await asyncio.wait([attempt.task for attempt in attempts], timeout=max(timeout_s, 0), return_when=asyncio.FIRST_COMPLETED)
    return next(iter(done), None)
