"""Which items a query may be answered with: everything, without some, or only some. Applied in every shard before its top-k.

So k items come back wherever k may be ranked, however rare they are: a filter never thins out a list that was cut before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Excluded = Sequence[NDArray[np.int64]]
"""For each query the item indexes that must not be recommended."""
Allowed = Sequence[NDArray[np.int64] | None]
"""For each query the only item indexes that may be recommended; None: any."""


def ascending(items: Collection[int]) -> NDArray[np.int64]:
    """The distinct items (m,), as requests hold them."""
    return np.array(sorted(set(items)), dtype=np.int64)


def is_permitted(items: NDArray[np.integer], excluded: NDArray[np.int64] | None, allowed: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """(m,) whether each of the items (m,) may be recommended to one query."""
    permitted = np.ones(len(items), dtype=np.bool_) if allowed is None else np.isin(items, allowed)
    return permitted if excluded is None or not len(excluded) else permitted & ~np.isin(items, excluded)
