"""Language-space decoding: the LLM writes the next title token by token. The opponent that latent-space decoding is measured against.

``constrained_beam_search`` gives what ``generate`` gives with ``num_beams``, ``prefix_allowed_tokens_fn`` and ``length_penalty=0``, but
it is built to be as fast as the method allows, since a slow opponent would prove nothing:

- A prompt is run once, not once per beam, and all beams of a request are one row of the batch: a beam's new token attends, by a
  four-dimensional mask, to the prompt and to its own ancestors (tree attention). The cache is never copied to beams and never
  reordered; a beam that moves takes over its parent's row of the mask.
- Log-probabilities are gathered for the tree's children only (one logsumexp over the vocabulary, no log-softmax matrix).
- Once every running beam has a single title left below it, all remaining tokens are scored in one pass: nothing can be pruned.
- A request leaves the batch as soon as its answer is certain.

Invariants: a log-probability is normalised over the full vocabulary, not over the children. Titles are ranked by score descending, then
smaller item_index; which of two equal beams survives a full beam is not defined. An answer does not depend on the batch it was in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from l2d_ray.errors import ConfigError
from l2d_ray.model.tree_attention import SharedCache, refuse_empty
from l2d_ray.text.prefix_tree import NO_TOKEN, PrefixTree
from l2d_ray.text.prompts import TokenIds

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

DEAD: Final = np.float32(-np.inf)
"""Score of a place in an array that holds no beam, candidate or title."""

MAX_LOGITS: Final = 2**26
"""Logits held at once while whole titles are scored (256 MB in float32); longer titles are scored in several passes."""


class TitleBeams(NamedTuple):
    """Ranked titles of one prompt: ``item_indexes (n,) int64`` and ``scores (n,) float32``, n <= k; larger scores are better."""

    item_indexes: IntArray
    scores: FloatArray


@torch.inference_mode()
def constrained_beam_search(  # seven parameters: each is a setting of the published method, and a record for them would only rename them
    model: Any,
    prompts: Sequence[TokenIds],
    tree: PrefixTree,
    *,
    num_beams: int,
    k: int,
    pad_token_id: int,
    length_penalty: float = 0.0,
) -> list[TitleBeams]:
    """The k most probable titles of the catalogue after each prompt, as far as a beam of ``num_beams`` finds them.

    All prompts are one batch, left padded; the caller chooses its size.

    Args:
        model: a Hugging Face causal LM in eval mode, with sdpa or eager attention.
        prompts: token ids of each prompt, at least one token each.
        tree: the catalogue's completions; they continue a prompt without anything in between.
        num_beams: beams kept per step and request; with at least as many beams as distinct titles the ranking is exact.
        k: items wanted; fewer come back when fewer titles were finished. Items that share a title share its score.
        pad_token_id: fills what the attention mask hides.
        length_penalty: score = log-probability / num_tokens ** length_penalty, the terminator counted; 0 means no normalisation.

    Raises:
        ConfigError: num_beams or k below 1, or a model that cannot do this (its attention, window or vocabulary).
        DataError: an empty prompt.
        ArtefactError: the model gives NaN.
    """
    if not prompts:
        return []
    _refuse_bad_settings(model, tree, num_beams, k, max_length=max(map(len, prompts)) + tree.max_depth)
    refuse_empty(prompts)
    finished = _Finished(len(prompts), min(num_beams, k), length_penalty, tree.max_depth)
    state = SharedCache(model, prompts, pad_token_id)
    beams = _roots(len(prompts))
    for depth in range(1, tree.max_depth + 1):
        candidates = _expand(state, tree, beams)
        finished.add(beams.requests, *candidates.best_leaves(num_beams), lengths=depth)
        beams = candidates.best_running(beams.requests, num_beams, pad_token_id)
        is_open = finished.can_improve(beams.requests, beams.scores, depth)
        state.keep(is_open)
        beams = beams.keep(is_open)
        if tree.has_one_way(beams.nodes[beams.scores > DEAD]).all():
            _finish_tails(state, tree, beams, finished, depth)
            break
        state.feed(beams.parents, beams.tokens[:, :, None])
    return [_rank_items(tree, leaves, scores, k) for leaves, scores in zip(finished.leaves, finished.scores, strict=True)]


class _Beams(NamedTuple):
    """Running beams of n requests, w each, best first; the last token of each is not yet fed. A dead beam has score DEAD."""

    requests: IntArray  # (n,)
    parents: IntArray  # (n, w): column of the beam it continues
    tokens: IntArray  # (n, w)
    nodes: IntArray  # (n, w)
    scores: FloatArray  # (n, w): sum of log-probabilities

    def keep(self, is_kept: NDArray[np.bool_]) -> _Beams:
        """The beams of some of the requests."""
        return _Beams(self.requests[is_kept], self.parents[is_kept], self.tokens[is_kept], self.nodes[is_kept], self.scores[is_kept])


class _Candidates(NamedTuple):
    """One-token continuations of all beams, padded to c a request; the unpadded ones lie one after another from ``firsts``."""

    scores: FloatArray  # (n, c), DEAD behind a request's last candidate
    is_leaf: NDArray[np.bool_]  # (n, c)
    firsts: IntArray  # (n,): where a request's candidates begin in the arrays below
    parents: IntArray  # (sum of candidates,)
    tokens: IntArray
    nodes: IntArray

    def best_leaves(self, num_beams: int) -> tuple[IntArray, FloatArray]:
        """Nodes and scores (n, m) of the finished titles among the best ``num_beams`` candidates; DEAD for the unfinished."""
        columns = _best_columns(self.scores, num_beams)
        scores = np.where(self.is_leaf, self.scores, DEAD)
        return self.nodes[self._positions(columns)], np.take_along_axis(scores, columns, 1)

    def best_running(self, requests: IntArray, num_beams: int, pad_token_id: int) -> _Beams:
        """The best ``num_beams`` unfinished candidates, as narrow as the request with the most allows."""
        running = np.where(self.is_leaf, DEAD, self.scores)
        columns = _best_columns(running, min(num_beams, max(1, int((running > DEAD).sum(1).max(initial=0)))))
        scores, positions = np.take_along_axis(running, columns, 1), self._positions(columns)
        is_live = scores > DEAD
        tokens = np.where(is_live, self.tokens[positions], pad_token_id)
        return _Beams(requests, np.where(is_live, self.parents[positions], 0), tokens, self.nodes[positions], scores)

    def _positions(self, columns: IntArray) -> IntArray:
        positions: IntArray = np.minimum(self.firsts[:, None] + columns, len(self.nodes) - 1)
        return positions


class _Finished:
    """The best finished titles of every request so far: ``leaves (n, size)`` and ``scores (n, size)``, best first, DEAD where none."""

    def __init__(self, num_requests: int, size: int, length_penalty: float, max_depth: int) -> None:
        self.leaves = np.zeros((num_requests, size), dtype=np.int64)
        self.scores = np.full((num_requests, size), DEAD)
        self._length_penalty = length_penalty
        self._max_depth = max_depth

    def add(self, requests: IntArray, leaves: IntArray, log_probs: FloatArray, *, lengths: int | IntArray) -> None:
        """Take in titles (n, m) of some requests; ``lengths`` are their tokens."""
        merged = np.concatenate([self.scores[requests], self._normalise(log_probs, lengths)], axis=1)
        columns = np.argsort(-merged, axis=1, kind="stable")[:, : self.scores.shape[1]]
        merged_leaves = np.concatenate([self.leaves[requests], leaves], axis=1)
        self.leaves[requests] = np.take_along_axis(merged_leaves, columns, 1)
        self.scores[requests] = np.take_along_axis(merged, columns, 1)

    def can_improve(self, requests: IntArray, log_probs: FloatArray, depth: int) -> NDArray[np.bool_]:
        """(n,) bool: whether a running beam (n, w) of ``depth`` tokens may still end among the best; log-probabilities only fall."""
        kindest_length = self._max_depth if self._length_penalty > 0 else depth + 1
        best = log_probs.max(axis=1)
        is_open: NDArray[np.bool_] = (best > DEAD) & (self._normalise(best, kindest_length) >= self.scores[requests, -1])
        return is_open

    def _normalise(self, log_probs: FloatArray, lengths: int | IntArray) -> FloatArray:
        scores: FloatArray = (log_probs / np.power(lengths, self._length_penalty, dtype=np.float64)).astype(np.float32)
        return scores


def _roots(num_requests: int) -> _Beams:
    zeros = np.zeros((num_requests, 1), dtype=np.int64)
    return _Beams(np.arange(num_requests), zeros, zeros, zeros, zeros.astype(np.float32))


def _expand(state: SharedCache, tree: PrefixTree, beams: _Beams) -> _Candidates:
    """Children of every live beam with their scores."""
    rows, parents = np.nonzero(beams.scores > DEAD)
    children = tree.expand(beams.nodes[rows, parents])
    rows, parents = rows[children.owners], parents[children.owners]
    num_requests, width = beams.scores.shape
    counts = np.bincount(rows, minlength=num_requests)
    firsts = np.cumsum(counts) - counts
    columns = np.arange(len(rows)) - firsts[rows]
    scores = np.full((num_requests, counts.max()), DEAD)
    scores[rows, columns] = beams.scores[rows, parents] + state.log_probs(rows * width + parents, children.tokens)
    is_leaf = np.zeros(scores.shape, dtype=np.bool_)
    is_leaf[rows, columns] = tree.is_leaf(children.nodes)
    return _Candidates(scores, is_leaf, firsts, parents, children.tokens, children.nodes)


def _finish_tails(state: SharedCache, tree: PrefixTree, beams: _Beams, finished: _Finished, depth: int) -> None:
    """Score the rest of every beam's only title and take all of them in; ``depth`` tokens are scored already."""
    is_live = beams.scores > DEAD
    tails = tree.tails(beams.nodes[is_live])
    wanted = np.full((*is_live.shape, tails.tokens.shape[1]), NO_TOKEN)
    wanted[is_live] = tails.tokens
    fed = np.concatenate([beams.tokens[:, :, None], np.maximum(wanted[:, :, :-1], 0)], axis=2)
    scores, parents = beams.scores.copy(), beams.parents
    length = max(1, MAX_LOGITS // max(1, scores.size * state.vocab_size))
    for start in range(0, wanted.shape[2], length):
        part = wanted[:, :, start : start + length]
        state.feed(parents, fed[:, :, start : start + length])
        rows = np.flatnonzero(part != NO_TOKEN)
        np.add.at(scores.reshape(-1), rows // part.shape[2], state.log_probs(rows, part.reshape(-1)[rows]))
        parents = np.broadcast_to(np.arange(scores.shape[1]), scores.shape).copy()
    leaves, lengths = np.zeros_like(beams.nodes), np.full_like(beams.nodes, depth)
    leaves[is_live], lengths[is_live] = tails.leaves, depth + tails.lengths
    finished.add(beams.requests, leaves, scores, lengths=lengths)


def _best_columns(scores: FloatArray, count: int) -> IntArray:
    """(n, min(count, c)): columns of the largest scores of each row, best first, the smaller column first among equals."""
    columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    if count < scores.shape[1]:
        columns = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(scores, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def _rank_items(tree: PrefixTree, leaves: IntArray, scores: FloatArray, k: int) -> TitleBeams:
    is_found = scores > DEAD
    items = tree.leaf_items(leaves[is_found])
    item_scores = scores[is_found][items.owners]
    order = np.lexsort((items.item_indexes, -item_scores))[:k]
    return TitleBeams(items.item_indexes[order], item_scores[order])


def _refuse_bad_settings(model: Any, tree: PrefixTree, num_beams: int, k: int, *, max_length: int) -> None:
    if num_beams < 1 or k < 1:
        raise ConfigError(f"num_beams is {num_beams} and k is {k}; both must be at least 1.")
    config = model.config.get_text_config()
    if tree.max_token >= config.vocab_size:
        raise ConfigError(
            f"The catalogue's completions use token {tree.max_token}, but the model's vocabulary ends at {config.vocab_size - 1}; "
            "make the tree with the model's own tokenizer."
        )
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ConfigError(
            f"The model's attention is {config._attn_implementation!r}, which takes no four-dimensional mask; load it with "
            "attn_implementation='sdpa' or 'eager'."
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and window < max_length:
        raise ConfigError(
            f"The model attends to {window} tokens at most, but prompt and title take up to {max_length}; shorten the prompts' history."
        )
