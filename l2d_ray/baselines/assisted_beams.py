"""Constrained beam search with a text-free assistant: each token's score is the LLM's log-probability plus ``alpha`` times the assistant's.

The assistant (SASRec, say) knows items, not tokens. Its probability of a token is the share of the remaining items that go on with it
(D3, Bao et al. 2024, arXiv 2406.14900): with P(node) the summed probability of all items below a node of the prefix tree,

    log p(token | prefix) = log P(child) - log P(node),

which adds up along a title to log P(title) since P(root) = 1. The paper weighs a log p_LLM + (1 - a) log p_assistant, the same ranking as
alpha = (1 - a) / a. Without an assistant use ``model.language_space.constrained_beam_search``; with alpha = 0 this gives its answer. It
shares that search's pass through the model (one row a request, tree attention), but scores every token of every title step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from l2d_ray.errors import ConfigError
from l2d_ray.model.language_space import TitleBeams
from l2d_ray.model.tree_attention import SharedCache, refuse_empty
from l2d_ray.text.prefix_tree import PrefixTree
from l2d_ray.text.prompts import TokenIds

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class NodeMasses:
    """Sums of item probabilities below the nodes of one tree."""

    def __init__(self, tree: PrefixTree) -> None:
        edges = tree.expand(np.arange(tree.num_nodes))
        parents = np.zeros(tree.num_nodes, np.int64)
        parents[edges.nodes] = edges.owners
        ends = tree.leaf_items(np.arange(tree.num_nodes))
        items, nodes = [ends.item_indexes], [ends.owners]
        while (is_below := nodes[-1] > 0).any():
            items.append(items[-1][is_below])
            nodes.append(parents[nodes[-1][is_below]])
        rows, columns = np.concatenate(nodes), np.concatenate(items)
        self._items_below = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(tree.num_nodes, tree.num_items))

    def log_masses(self, log_probabilities: FloatArray) -> FloatArray:
        """Item log-probabilities (n, num_items) -> log P of every node, (n, num_nodes) float64, finite."""
        masses = (self._items_below @ np.exp(log_probabilities).T).T
        log_masses: FloatArray = np.log(np.maximum(masses, np.finfo(np.float64).tiny))
        return log_masses


@torch.inference_mode()
def assisted_beam_search(  # seven parameters: those of the unassisted search, and the assistant
    model: Any,
    prompts: Sequence[TokenIds],
    tree: PrefixTree,
    *,
    log_masses: FloatArray,
    alpha: float,
    num_beams: int,
    pad_token_id: int,
) -> list[TitleBeams]:
    """All items of the ``num_beams`` best titles after each prompt, best first, as far as the beam finds them.

    Args:
        model, prompts, tree, pad_token_id: as for ``constrained_beam_search``.
        log_masses: (n, num_nodes), row i for prompt i, from ``NodeMasses``.
        alpha: weight of the assistant, at least 0; scores are log p_LLM + alpha log p_assistant, summed over a title's tokens.

    Raises:
        ConfigError: num_beams below 1 or a negative alpha.
        DataError: an empty prompt.
    """
    if num_beams < 1 or alpha < 0:
        raise ConfigError(f"num_beams is {num_beams} and alpha {alpha}; wanted at least one beam and an alpha of 0 or more.")
    if not prompts:
        return []
    refuse_empty(prompts)
    state = SharedCache(model, prompts, pad_token_id)
    requests = [_Request(tree, bonus, num_beams) for bonus in alpha * (log_masses - log_masses[:, :1])]
    active, width = requests, 1
    for _ in range(tree.max_depth):
        for row, request in enumerate(active):
            request.advance(state, row * width)
        is_open = np.array([request.is_open for request in active])
        active = [request for request in active if request.is_open]
        if not active:
            break
        width = max(len(request.nodes) for request in active)
        parents, tokens = (np.stack([_filled(values, width) for values in both]) for both in zip(*(r.fed for r in active), strict=True))
        state.keep(is_open)
        state.feed(parents, tokens[:, :, None])
    return [request.ranked() for request in requests]


class _Request:
    """Beams of one request: w running ones (the last token of each not yet fed) and the best finished titles."""

    def __init__(self, tree: PrefixTree, bonus: FloatArray, num_beams: int) -> None:
        self._tree, self._bonus, self._num_beams = tree, bonus, num_beams
        self.nodes = np.zeros(1, np.int64)
        self.fed = (self.nodes, self.nodes)  # parents and tokens of the running beams
        self._log_probs = np.zeros(1)  # of the LLM alone
        self._leaves, self._scores = np.empty(0, np.int64), np.empty(0)

    @property
    def is_open(self) -> bool:
        """Whether a running beam may still end among the best; scores only fall."""
        full = len(self._scores) == self._num_beams
        return len(self.nodes) > 0 and (not full or float((self._log_probs + self._bonus[self.nodes]).max()) >= self._scores[-1])

    def advance(self, state: SharedCache, first_row: int) -> None:
        """One more token on every running beam; the state's rows of this request begin at ``first_row``."""
        children = self._tree.expand(self.nodes)
        log_probs = self._log_probs[children.owners] + state.log_probs(first_row + children.owners, children.tokens)
        scores = log_probs + self._bonus[children.nodes]
        is_leaf = self._tree.is_leaf(children.nodes)
        order = np.argsort(-scores, kind="stable")
        best = order[: self._num_beams]
        self._finish(children.nodes[best[is_leaf[best]]], scores[best[is_leaf[best]]])
        running = order[~is_leaf[order]][: self._num_beams]
        self.nodes, self.fed = children.nodes[running], (children.owners[running], children.tokens[running])
        self._log_probs = log_probs[running]

    def ranked(self) -> TitleBeams:
        items = self._tree.leaf_items(self._leaves)
        scores = self._scores[items.owners]
        order = np.lexsort((items.item_indexes, -scores))
        return TitleBeams(items.item_indexes[order], scores[order].astype(np.float32))

    def _finish(self, leaves: IntArray, scores: FloatArray) -> None:
        all_leaves, all_scores = np.concatenate([self._leaves, leaves]), np.concatenate([self._scores, scores])
        order = np.argsort(-all_scores, kind="stable")[: self._num_beams]
        self._leaves, self._scores = all_leaves[order], all_scores[order]


def _filled(values: IntArray, width: int) -> IntArray:
    """(width,), filled up with 0: what a place without a beam is fed is never looked at."""
    return np.pad(values, (0, width - len(values)))
