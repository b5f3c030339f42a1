"""Scores: vectors of the specification, and what must hold for any activations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit.plasticity import scores
from rlkit.plasticity.protocols import UnitLayer

LAYER = UnitLayer("layer", "act", 5, ())


def of(h, **changes):
    h = torch.as_tensor(h, dtype=torch.float64)
    units = h.shape[1] if "units" not in changes else changes.pop("units")
    return scores.by_unit(h, UnitLayer("layer", "act", units, (), **changes))


V1 = of([[1, 0, 0.02, 2, 4], [3, 0, 0, 2, 0], [1, 0, 0.02, 2, 0], [3, 0, 0.04, 2, 4]])


def test_dense_layer():  # V1
    assert scores.mean_activation(V1).tolist() == [[2, 0, pytest.approx(0.02), 2, 2]]
    score = scores.redo(V1)
    expected = [1.66112957, 0, 0.0166112957, 1.66112957, 1.66112957]
    assert score[0].tolist() == pytest.approx(expected, rel=1e-8)
    assert [int((score <= tau).sum()) for tau in (0, 0.025, 0.1)] == [1, 2, 2]
    assert float(scores.active_share(V1).mean()) == pytest.approx(0.65)


def test_convolution_is_averaged_over_space():  # V2
    h = torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    h[0, 0], h[1, 0] = torch.tensor([[1.0, 0], [0, 3]]), torch.tensor([[0.0, 0], [4, 0]])
    h[:, 2] = torch.tensor([[0.01, 0], [0, 0.03]], dtype=torch.float64)
    h = of(h)
    assert scores.mean_activation(h)[0].tolist() == pytest.approx([1, 0, 0.01])
    score = scores.redo(h)[0]
    assert score.tolist() == pytest.approx([2.97029702, 0, 0.0297029702], rel=1e-8)
    assert [int((score <= tau).sum()) for tau in (0.025, 0.1)] == [1, 2]


def test_signs():  # V3
    h = of([[0.5, -0.99, 0], [-0.5, -0.99, 0.01]])
    assert scores.redo(h)[0].tolist() == pytest.approx([1.00334448, 1.98662207, 0.01003344], abs=5e-9)
    assert scores.redo_centred(h)[0].tolist() == pytest.approx([2.97029703, 0, 0.02970297], rel=1e-8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0, 0], [0, 0, 0]], [0, 0, 0]),  # all zero: dormant at every threshold
        ([[0.001], [0]], [0.999998]),  # one unit
        ([[1e-9, 3e-9]], [1 / 3, 1.0]),  # epsilon compresses
    ],
)
def test_epsilon(values, expected):  # V3
    assert scores.redo(of(values))[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_gradient_scores():  # V4
    g = torch.tensor([[3.0, 4, 0], [0.06, 0.08, 0], [0.3, 0, 0.4], [0, 0, 0]], dtype=torch.float64)
    rows = scores.rows(g, UnitLayer("layer", "", 4, ()))
    expected = [3.5714286, 0.07142857, 0.35714286, 0]
    assert scores.ace(rows)[0].tolist() == pytest.approx(expected, rel=1e-7)
    assert scores.grama(rows)[0].tolist() == pytest.approx(expected, rel=1e-7)
    assert int((scores.ace(rows) <= 0.05).sum()) == 1
    assert int((scores.grama(rows) <= 0.01).sum()) == 1
    assert scores.ace(torch.zeros(1, 4, 3))[0].tolist() == [0, 0, 0, 0]  # no gradient at all: not NaN, dormant


def test_gradients_of_convolutions_and_copies():
    g = torch.randn(4, 3, 2, 2)
    assert torch.equal(scores.rows(g, UnitLayer("c", "", 4, ()))[0], g.reshape(4, 12))
    g = torch.randn(2, 4, 3)
    for copy in range(2):
        alone = scores.ace(scores.rows(g[copy], UnitLayer("c", "", 4, ())))[0]
        assert torch.equal(scores.ace(scores.rows(g, UnitLayer("c", "", 4, (), ensemble=2)))[copy], alone)


def test_copies_are_scored_apart():
    h = torch.rand(2, 16, 5)
    together = scores.redo(scores.by_unit(h, UnitLayer("c", "", 5, (), ensemble=2)))
    for copy in range(2):
        assert torch.equal(together[copy], scores.redo(scores.by_unit(h[copy], UnitLayer("c", "", 5, ())))[0])


def test_a_unit_of_two_halves_is_dead_if_both_are():
    h = torch.randn(16, 3)
    h[:, 1] = 0
    both = torch.cat((h.relu(), (-h).relu()), dim=1)
    unit = scores.by_unit(both, UnitLayer("c", "", 3, (), halves=2))
    assert torch.allclose(scores.mean_activation(unit)[0], h.abs().mean(0))
    assert (scores.redo(unit)[0] <= 0.1).tolist() == [False, True, False]


def test_values_that_are_not_finite_are_left_out_of_the_mean():
    score = scores.redo(of([[1.0, math.nan, 3, math.inf], [1, 0, 3, 0]]))[0]
    assert score[[0, 2]].tolist() == pytest.approx([0.5, 1.5])
    assert score[[1, 3]].isnan().all()
    assert scores.active_share(of([[math.nan, 1.0], [0, 1]]))[0].isnan().tolist() == [True, False]


def test_bfloat16_is_averaged_in_float32():
    h = torch.full((4096, 2), 1.0, dtype=torch.bfloat16)
    h[1:, 1] = 2**-8
    unit = scores.by_unit(h, UnitLayer("c", "", 2, ()))
    expected = (1 + 4095 * 2**-8) / 4096
    assert float(scores.mean_activation(unit)[0, 1]) == pytest.approx(expected, rel=1e-5)


activations = st.integers(0, 2**32 - 1).map(
    lambda seed: np.maximum(np.random.default_rng(seed).normal(-0.5, 1, (6, 8)), 0)
)


@given(activations)
def test_invariants(h):  # plasticity.md 7.1
    score = scores.redo(of(h))[0]
    mean = float(np.abs(h).mean())
    assert float(score.sum()) == pytest.approx(8 * mean / (mean + 1e-9))
    order = np.random.default_rng(0).permutation(8)
    assert torch.allclose(scores.redo(of(h[:, order]))[0], score[torch.from_numpy(order)], rtol=1e-12)
    assert torch.allclose(scores.redo(of(np.concatenate((h, h))))[0], score, rtol=1e-12)
    assert torch.allclose(scores.redo(of(7 * h))[0], score, rtol=1e-6)


@given(activations)
def test_redo_equals_the_formula_written_out(h):
    a = [sum(abs(h[b][i]) for b in range(6)) / 6 for i in range(8)]
    oracle = [a_i / (sum(a) / 8 + 1e-9) for a_i in a]
    assert scores.redo(of(h))[0].tolist() == pytest.approx(oracle, rel=1e-12)
