"""One deployment as its callers see it: a call with a deadline, made again where a replica died. Calls must be harmless when repeated.

Serve finds another replica for what it has not sent yet, and waits for one where there is none. What a replica had begun when it died
comes back as an error; it is asked for again here, of whichever replica Serve picks, until the deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from l2d_ray.errors import UnavailableError

LOST: Final = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)
"""What Serve raises where a replica died or is not there."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
RETRY_AFTER_S: Final = 1
PING_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class Part:
    """A deployment by its name and handle; ``note_retry`` is told the name whenever a call is made again."""

    name: str
    handle: DeploymentHandle
    note_retry: Callable[[str], None] = lambda name: None

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
            self.note_retry(self.name)
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
        response = getattr(self.handle, method).remote(*arguments)
        try:
            return await asyncio.wait_for(response, deadline - time.monotonic())
        except TimeoutError:
            response.cancel()
            raise
