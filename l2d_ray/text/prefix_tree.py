"""The catalogue's prefix tree: which tokens may follow a beginning of a title, and whose title a finished one is.

Language-space decoding may only write titles of the catalogue, so at every step it asks for the children of many nodes at once.
Compact arrays answer that without a Python object per node, and a million titles are built level by level in seconds.

Invariants:

- Node 0 is the root. Nodes are numbered breadth first, by (level, parent, token), so the children of a node are consecutive and
  edge ``e`` (the token that leads into a node) ends in node ``e + 1``: child ids need not be stored.
- A completion ends with the terminator, so none is a proper prefix of another, and exactly the leaves hold items.
- Titles are not unique: a leaf holds every item_index with its completion, ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import DataError

IntArray = NDArray[np.int64]

NO_NODE: Final = -1
"""Returned by ``step`` where the tree has no such child."""

NO_TOKEN: Final = -1
"""Fills ``Tails.tokens`` behind the end of a tail."""


class Children(NamedTuple):
    """Continuations of one node, ascending by token: ``tokens (c,) int64`` and the ``nodes (c,) int64`` they lead to."""

    tokens: IntArray
    nodes: IntArray


class Expansion(NamedTuple):
    """Children of many nodes, one row a child, ascending by (owner, token).

    ``owners (c,) int64`` is the position, in the array that was asked for, of the node whose child the row is.
    """

    owners: IntArray
    tokens: IntArray
    nodes: IntArray


class LeafItems(NamedTuple):
    """Items of many nodes, ascending by (owner, item_index); ``owners (c,) int64`` as in Expansion."""

    owners: IntArray
    item_indexes: IntArray


class Tails(NamedTuple):
    """The only way on from each of n nodes: ``tokens (n, longest) int64``, NO_TOKEN behind ``lengths (n,)``, and the ``leaves (n,)``."""

    tokens: IntArray
    lengths: IntArray
    leaves: IntArray


class PrefixTree:
    """Prefix tree over the completions of a catalogue; immutable after construction.

    Args:
        completions: token ids (non-negative) of each item's title, terminator included; the position is the item_index.

    Attributes:
        num_items: length of ``completions``.
        num_nodes: nodes, the root included.
        max_depth: tokens of the longest completion.
        max_token: largest token id in any completion.

    Raises:
        DataError: no completions, an empty one, a negative token, or one that is a proper prefix of another.
    """

    def __init__(self, completions: Sequence[Sequence[int]]) -> None:
        tokens, lengths = _flatten(completions)
        self.max_token = int(tokens.max())
        self._stride = self.max_token + 1
        level_keys, self._item_nodes = _group_by_prefix(tokens, lengths, self._stride)
        self._edge_keys = np.concatenate(level_keys)
        self._edge_tokens = (self._edge_keys % self._stride).astype(np.int32)
        self.num_items = len(lengths)
        self.num_nodes = 1 + len(self._edge_keys)
        self.max_depth = len(level_keys)
        self._child_starts = _starts(self._edge_keys // self._stride, self.num_nodes)
        self._item_starts = _starts(self._item_nodes, self.num_nodes)
        self._items = np.argsort(self._item_nodes, kind="stable")
        self._refuse_proper_prefix(completions)
        self._tail_lengths = self._measure_tails([1, *(len(keys) for keys in level_keys)])

    def children(self, node: int) -> Children:
        """Continuations of one node, ascending by token; empty for a leaf."""
        edges = np.arange(self._child_starts[node], self._child_starts[node + 1])
        return Children(self._edge_tokens[edges].astype(np.int64), edges + 1)

    def expand(self, nodes: IntArray) -> Expansion:
        """Children of every node of ``nodes (n,) int64``; a leaf contributes no row."""
        owners, edges = _ragged(self._child_starts, nodes)
        return Expansion(owners, self._edge_tokens[edges].astype(np.int64), edges + 1)

    def step(self, nodes: IntArray, tokens: IntArray) -> IntArray:
        """The child of each node by its token, NO_NODE where there is none (or where the node is NO_NODE); arrays broadcast."""
        keys = nodes * self._stride + tokens
        edges = np.minimum(np.searchsorted(self._edge_keys, keys), len(self._edge_keys) - 1)
        is_child = (self._edge_keys[edges] == keys) & (tokens >= 0) & (tokens < self._stride)
        return np.where(is_child, edges + 1, NO_NODE)

    def is_leaf(self, nodes: IntArray) -> NDArray[np.bool_]:
        """Whether each node ends a completion."""
        is_end: NDArray[np.bool_] = self._tail_lengths[nodes] == 0
        return is_end

    def leaf_items(self, nodes: IntArray) -> LeafItems:
        """Items whose completion ends in each node of ``nodes (n,) int64``; an inner node contributes no row."""
        owners, positions = _ragged(self._item_starts, nodes)
        return LeafItems(owners, self._items[positions])

    def has_one_way(self, nodes: IntArray) -> NDArray[np.bool_]:
        """Whether only one completion is left below each node (true for a leaf)."""
        is_single: NDArray[np.bool_] = self._tail_lengths[nodes] >= 0
        return is_single

    def tails(self, nodes: IntArray) -> Tails:
        """What follows each of ``nodes (n,) int64`` up to its leaf; every node must satisfy ``has_one_way``."""
        assert self.has_one_way(nodes).all()
        lengths = self._tail_lengths[nodes].astype(np.int64)
        tokens = np.full((len(nodes), int(lengths.max(initial=0))), NO_TOKEN, dtype=np.int64)
        leaves = nodes.copy()
        for depth in range(tokens.shape[1]):
            rows = np.flatnonzero(lengths > depth)
            edges = self._child_starts[leaves[rows]]
            tokens[rows, depth] = self._edge_tokens[edges]
            leaves[rows] = edges + 1
        return Tails(tokens, lengths, leaves)

    def _refuse_proper_prefix(self, completions: Sequence[Sequence[int]]) -> None:
        inner = np.flatnonzero(np.diff(self._child_starts)[self._item_nodes] > 0)
        if len(inner):
            index = int(inner[0])
            raise DataError(
                f"The completion of item_index {index}, {[int(token) for token in completions[index]]}, is a proper prefix of another "
                "completion, so a decoder could not tell where it ends; end every completion with the terminator token."
            )

    def _measure_tails(self, level_sizes: Sequence[int]) -> NDArray[np.int32]:
        """Tokens from each node to its leaf where one completion is left below it, -1 where several are."""
        num_children = np.diff(self._child_starts)
        tails = np.where(num_children == 0, 0, -1).astype(np.int32)
        stops = np.cumsum(level_sizes)
        for start, stop in zip((stops - level_sizes)[::-1], stops[::-1], strict=True):
            single = start + np.flatnonzero(num_children[start:stop] == 1)
            below = tails[self._child_starts[single] + 1]
            tails[single] = np.where(below >= 0, below + 1, -1)
        return tails


def _flatten(completions: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """All tokens one after another, and the length of each completion."""
    lengths = np.fromiter(map(len, completions), dtype=np.int64, count=len(completions))
    if not len(lengths):
        raise DataError("A prefix tree needs at least one completion and got none; give it the catalogue's titles as token ids.")
    if not lengths.all():
        raise DataError(
            f"The completion of item_index {int(np.argmin(lengths))} is empty; give every item a title of at least its terminator token."
        )
    tokens = np.fromiter(chain.from_iterable(completions), dtype=np.int64, count=int(lengths.sum()))
    if tokens.min() < 0:
        index = int(np.searchsorted(np.cumsum(lengths), np.argmax(tokens < 0), side="right"))
        raise DataError(f"The completion of item_index {index} holds a negative token; token ids start at 0.")
    return tokens, lengths


def _group_by_prefix(tokens: IntArray, lengths: IntArray, stride: int) -> tuple[list[IntArray], IntArray]:
    """Edge keys (parent * stride + token, ascending) of each level, and the node in which each item ends."""
    starts = np.cumsum(lengths) - lengths
    item_nodes = np.zeros(len(lengths), dtype=np.int64)
    level_keys: list[IntArray] = []
    num_nodes = 1
    active = np.arange(len(lengths))
    while len(active):
        keys = item_nodes[active] * stride + tokens[starts[active] + len(level_keys)]
        edges, edge_of_item = np.unique(keys, return_inverse=True)
        item_nodes[active] = num_nodes + edge_of_item
        num_nodes += len(edges)
        level_keys.append(edges)
        active = active[lengths[active] > len(level_keys)]
    return level_keys, item_nodes


def _starts(groups: IntArray, num_groups: int) -> IntArray:
    """CSR offsets ``(num_groups + 1,)`` of rows sorted by group."""
    return np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=num_groups))])


def _ragged(starts: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Owners (positions in ``rows``) and positions of all elements of the CSR rows ``rows``, row after row."""
    counts = starts[rows + 1] - starts[rows]
    owners = np.repeat(np.arange(len(rows)), counts)
    shifts = starts[rows] - (np.cumsum(counts) - counts)
    return owners, np.arange(len(owners)) + shifts[owners]
