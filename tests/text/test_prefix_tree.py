"""The prefix tree: every completion walks to its own leaf, and the arrays say what a plain dictionary of prefixes says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.errors import DataError
from l2d_ray.text.prefix_tree import NO_NODE, NO_TOKEN, PrefixTree

END = 1
BODIES = st.lists(st.lists(st.integers(2, 6), max_size=5), min_size=1, max_size=30)


def with_end(bodies):
    return [[*body, END] for body in bodies]


def walk(tree, tokens):
    node = np.array([0])
    for token in tokens:
        node = tree.step(node, np.array([token]))
    return int(node[0])


def continuations(completions):
    """The oracle: prefix -> the tokens that may follow it."""
    followers = {}
    for completion in completions:
        for length in range(len(completion)):
            followers.setdefault(tuple(completion[:length]), set()).add(completion[length])
    return followers


def test_small_tree_by_hand():
    tree = PrefixTree([[5, 7, END], [5, END], [4, END], [5, 7, END]])
    assert (tree.num_items, tree.num_nodes, tree.max_depth, tree.max_token) == (4, 7, 3, 7)
    tokens, nodes = tree.children(0)
    assert tokens.tolist() == [4, 5]
    assert nodes.tolist() == [1, 2]
    assert tree.children(2).tokens.tolist() == [END, 7]
    leaf = walk(tree, [5, 7, END])
    assert tree.is_leaf(np.array([leaf, 2])).tolist() == [True, False]
    assert tree.leaf_items(np.array([leaf])).item_indexes.tolist() == [0, 3]
    assert tree.children(leaf).tokens.tolist() == []


@given(BODIES)
def test_every_completion_walks_to_its_leaf(bodies):
    completions = with_end(bodies)
    tree = PrefixTree(completions)
    for completion in completions:
        leaf = np.array([walk(tree, completion)])
        same = [index for index, other in enumerate(completions) if other == completion]
        assert tree.is_leaf(leaf).all()
        assert tree.leaf_items(leaf).item_indexes.tolist() == same


@given(BODIES)
def test_children_are_sorted_and_are_the_prefixes_of_the_catalogue(bodies):
    completions = with_end(bodies)
    tree, followers = PrefixTree(completions), continuations(completions)
    assert tree.num_nodes == len(followers) + len({tuple(completion) for completion in completions})
    for prefix, expected in followers.items():
        node = walk(tree, prefix)
        tokens, nodes = tree.children(node)
        assert tokens.tolist() == sorted(expected)
        assert nodes.tolist() == [walk(tree, [*prefix, token]) for token in tokens.tolist()]


@given(BODIES, st.integers(0, 2**32 - 1))
def test_expanding_many_nodes_equals_asking_one_by_one(bodies, seed):
    tree = PrefixTree(with_end(bodies))
    nodes = np.random.default_rng(seed).integers(0, tree.num_nodes, size=7)
    owners, tokens, children = tree.expand(nodes)
    for position, node in enumerate(nodes):
        single = tree.children(int(node))
        assert tokens[owners == position].tolist() == single.tokens.tolist()
        assert children[owners == position].tolist() == single.nodes.tolist()
    assert (np.diff(owners) >= 0).all()


@given(BODIES)
def test_step_finds_exactly_the_children(bodies):
    tree = PrefixTree(with_end(bodies))
    nodes, tokens = np.arange(tree.num_nodes)[:, None], np.arange(-2, 10)[None, :]
    stepped = tree.step(nodes, tokens)
    assert stepped.shape == (tree.num_nodes, 12)
    for node in range(tree.num_nodes):
        expected = dict(zip(*(values.tolist() for values in tree.children(node)), strict=True))
        assert stepped[node].tolist() == [expected.get(token, NO_NODE) for token in range(-2, 10)]
    assert tree.step(np.array([NO_NODE]), np.array([END])).tolist() == [NO_NODE]


@given(BODIES)
def test_a_tail_is_the_only_way_to_a_leaf(bodies):
    completions = with_end(bodies)
    tree = PrefixTree(completions)
    distinct = {tuple(completion) for completion in completions}
    for prefix in continuations(completions):
        node = np.array([walk(tree, prefix)])
        below = [completion for completion in distinct if completion[: len(prefix)] == prefix]
        assert tree.has_one_way(node).tolist() == [len(below) == 1]
        if len(below) == 1:
            tails = tree.tails(node)
            assert tails.tokens.tolist() == [list(below[0][len(prefix) :])]
            assert tails.leaves.tolist() == [walk(tree, below[0])]


def test_tails_of_unequal_length_are_padded():
    tree = PrefixTree([[4, END], [5, 6, 7, END]])
    tails = tree.tails(np.array([walk(tree, [5]), walk(tree, [4]), walk(tree, [4, END])]))
    assert tails.tokens.tolist() == [[6, 7, END], [END, NO_TOKEN, NO_TOKEN], [NO_TOKEN] * 3]
    assert tails.lengths.tolist() == [3, 1, 0]


@given(BODIES, st.randoms(use_true_random=False))
def test_the_tree_does_not_depend_on_the_order_of_the_items(bodies, random):
    completions = with_end(bodies)
    shuffled = completions.copy()
    random.shuffle(shuffled)
    tree, other = PrefixTree(completions), PrefixTree(shuffled)
    nodes = np.arange(tree.num_nodes)
    assert other.num_nodes == tree.num_nodes
    assert [values.tolist() for values in other.expand(nodes)] == [values.tolist() for values in tree.expand(nodes)]


@pytest.mark.parametrize(
    ("completions", "message"),
    [
        ([], "at least one completion"),
        ([[5, END], []], "item_index 1 is empty"),
        ([[5, 6, END], [5, 6]], r"item_index 1, \[5, 6\], is a proper prefix"),
        ([[5], [5, 6, END]], r"item_index 0, \[5\], is a proper prefix"),
        ([[5, END], [4, -3, END]], "item_index 1 holds a negative token"),
    ],
)
def test_refuses_what_cannot_be_decoded(completions, message):
    with pytest.raises(DataError, match=message):
        PrefixTree(completions)


def test_numpy_completions_give_the_same_tree():
    completions = [[5, 7, END], [4, END]]
    tree = PrefixTree([np.array(completion, dtype=np.int32) for completion in completions])
    assert tree.leaf_items(np.array([walk(tree, completions[0])])).item_indexes.tolist() == [0]
