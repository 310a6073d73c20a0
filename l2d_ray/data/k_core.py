"""Iterative k-core: drop users and items with fewer than k interactions, again and again until every one left has k.

The result is the unique largest such set, so it depends neither on order nor on how the interactions are partitioned, as long as all
interactions of a user are in one partition. Users are then counted inside their partition, items over all partitions: only one count an
item ever leaves a partition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def alive_interactions(user_index: np.ndarray, item_index: np.ndarray, item_is_alive: np.ndarray, k: int) -> np.ndarray:
    """Which interactions of one partition are left, given the items that are: (n,) bool.

    Args:
        user_index: (n,) integers, users of this partition.
        item_index: (n,) integers into ``item_is_alive``.
        item_is_alive: (num_items,) bool.
    """
    is_alive: np.ndarray = item_is_alive[item_index]
    num_of_user = np.bincount(user_index[is_alive], minlength=int(user_index.max(initial=-1)) + 1)
    is_alive &= num_of_user[user_index] >= k
    return is_alive


def core_items(num_items: int, k: int, count_items: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Items of the k-core, (num_items,) bool; the users of the core are those with k interactions with these items.

    Args:
        count_items: given (num_items,) bool of items still alive, returns (num_items,) integers: the interactions of each item that
            ``alive_interactions`` keeps, summed over all partitions. Called once a round.
    """
    is_alive = np.ones(num_items, dtype=bool)
    while True:
        still_alive = is_alive & (count_items(is_alive) >= k)
        if np.array_equal(still_alive, is_alive):
            return is_alive
        is_alive = still_alive
