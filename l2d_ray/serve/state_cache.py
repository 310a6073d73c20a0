"""Query vectors of prompts that were encoded lately, so that the same history asked again (another page, another decoder) costs no pass."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from l2d_ray.text.prompts import TokenIds


class StateCache:
    """At most ``max_states`` vectors (d,) by prompt, the least lately used forgotten first. The model never changes under it."""

    def __init__(self, max_states: int) -> None:
        self._max_states = max_states
        self._states: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, prompt: TokenIds) -> NDArray[np.float32] | None:
        key = prompt.tobytes()
        found = self._states.get(key)
        if found is not None:
            self._states.move_to_end(key)
        return found

    def put(self, prompt: TokenIds, state: NDArray[np.float32]) -> None:
        self._states[prompt.tobytes()] = state.copy()  # a row of a batch would keep the whole batch
        self._states.move_to_end(prompt.tobytes())
        while len(self._states) > self._max_states:
            self._states.popitem(last=False)
