"""The trees: a vector worked by hand, equality with a binary tree bit for bit, borders, many updates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.replay.sum_tree import MinTree, SumTree, at_most
from tests.replay.oracles.binary_tree import BinaryTree

GOLDEN = np.array([3, 1, 0, 4, 2, 0.5, 1.5, 8])


def filled(leaves):
    tree = SumTree(len(leaves))
    tree.set(np.arange(len(leaves)), np.asarray(leaves, float))
    return tree


def test_golden_vector():
    tree = filled(GOLDEN)
    assert tree.total == 20
    mass = np.array([0, 2.999, 3, 3.5, 4, 7.999, 8, 9.99, 10, 10.5, 12, 19.999, 20])
    assert tree.find(mass).tolist() == [0, 0, 1, 1, 3, 3, 4, 4, 5, 6, 7, 7, 7]
    assert tree.find((np.arange(4) + 0.5) * 20 / 4).tolist() == [0, 3, 7, 7]


LEAF = st.one_of(st.just(0.0), st.floats(1e-300, 1e200), st.sampled_from([1.0, 1 / 3, 1e-8, 5e-324]))


@st.composite
def programs(draw):
    capacity = draw(st.sampled_from([1, 2, 5, 15, 16, 17, 255, 256, 257, 400]))
    slot = st.integers(0, capacity - 1)
    writes = draw(st.lists(st.lists(st.tuples(slot, LEAF), min_size=1, max_size=20), min_size=1, max_size=5))
    return capacity, writes, draw(st.lists(st.floats(0, 1), min_size=1, max_size=8))


@settings(max_examples=150, deadline=None)
@given(programs())
def test_equals_a_binary_tree_bit_for_bit(program):
    capacity, writes, shares = program
    tree, oracle, leaves = SumTree(capacity), BinaryTree(capacity), np.zeros(capacity)
    for pairs in writes:
        slots, values = np.array([slot for slot, _ in pairs]), np.array([value for _, value in pairs])
        tree.set(slots, values)
        for slot, value in pairs:  # the last one wins
            leaves[slot] = value
        oracle.set(np.arange(capacity), leaves)
        np.testing.assert_array_equal(tree.leaves, leaves)
        assert tree.total == oracle.total
        if tree.total > 0:
            borders = np.cumsum(leaves)
            mass = np.concatenate([np.array(shares) * tree.total, [0, tree.total], borders, np.nextafter(borders, 0)])
            mass = np.minimum(mass, tree.total)
            found = tree.find(mass)
            np.testing.assert_array_equal(found, oracle.find(mass))
            assert (leaves[found] > 0).all()
    rebuilt = SumTree(capacity)
    rebuilt.leaves[:] = leaves
    rebuilt.rebuild()
    np.testing.assert_array_equal(rebuilt.nodes, tree.nodes)


def test_whole_numbers_equal_searchsorted():
    """Sums of whole numbers are exact, so borders are where they belong: in the leaf behind them."""
    rng = np.random.default_rng(0)
    leaves = rng.integers(0, 5, 5_000).astype(float)
    tree, borders = filled(leaves), np.cumsum(leaves)
    mass = np.arange(2 * int(tree.total)) / 2
    np.testing.assert_array_equal(tree.find(mass), np.searchsorted(borders, mass, "right"))


def test_many_updates_leave_no_trace():
    rng, capacity = np.random.default_rng(1), 3_000
    tree, leaves = SumTree(capacity), np.zeros(capacity)
    for _ in range(1_000):
        slots = rng.integers(0, capacity, 100)
        values = np.exp(rng.normal(0, 8, 100)) * (rng.random(100) < 0.7)
        tree.set(slots, values)
        leaves[slots] = values
    assert tree.total == pytest.approx(math.fsum(leaves), rel=1e-12)
    mass = rng.random(20_000) * tree.total
    found, borders = tree.find(mass), np.concatenate([[0], np.cumsum(leaves)])
    assert (leaves[found] > 0).all()
    slack = 1e-12 * tree.total
    assert (borders[found] <= mass + slack).all()
    assert (mass <= borders[found + 1] + slack).all()
    fresh = filled(leaves)
    np.testing.assert_array_equal(fresh.nodes, tree.nodes)


def test_memory_and_alignment():
    tree = SumTree(1_000_000)
    assert 8.53 < tree.nodes.nbytes / 1_000_000 < 8.54
    assert tree.nodes.ctypes.data % 64 == 0


@settings(max_examples=100, deadline=None)
@given(programs(), st.integers(1, 30))
def test_minimum_tree(program, room):
    capacity, writes, shares = program
    tree, leaves = MinTree(capacity), np.full(capacity, np.inf)
    for pairs in writes:
        slots, values = np.array([slot for slot, _ in pairs]), np.array([1 - value for _, value in pairs])
        tree.set(slots, values)
        for slot, value in zip(slots, values, strict=True):
            leaves[slot] = value
        assert tree.smallest == leaves.min()
        for bound in [*np.quantile(leaves[leaves < np.inf], shares), -np.inf]:
            found = np.zeros(room, np.int64)
            count = at_most(tree.nodes, tree.starts, bound, found)
            expected = np.flatnonzero(leaves <= bound)
            if len(expected) < room:
                np.testing.assert_array_equal(found[:count], expected)
            else:
                assert count == room
                assert set(found.tolist()) <= set(expected.tolist())
    rebuilt = MinTree(capacity)
    rebuilt.leaves[:] = leaves
    rebuilt.rebuild()
    np.testing.assert_array_equal(rebuilt.nodes, tree.nodes)
