"""Ranks, sets, churn: vectors of the specification, and what must hold for any features."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rlkit.plasticity import metrics


def test_ranks():  # V5
    sigma = torch.tensor([10, 5, 1, 0.1, 0.01], dtype=torch.float64)
    assert metrics.srank(sigma) == 3
    assert metrics.pca_rank(sigma) == 2
    assert metrics.stable_rank(sigma) == pytest.approx(1.2601010)
    assert metrics.effective_rank(sigma) == pytest.approx(2.381634863)
    assert metrics.feature_rank(sigma, 5) == 4


RANKS = (metrics.srank, metrics.pca_rank, metrics.stable_rank, metrics.effective_rank)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ([[2.0, 0], [0, 1], [0, 0]], (2, 2, 1.25, 1.889881575)),  # V5; the squares' share of the first is .8
        (torch.eye(4).tolist(), (4, 4, 4, 4)),
        ([[1.0, 2, 3], [2, 4, 6]], (1, 1, 1, 1)),
        ([[0.0, 0], [0, 0], [0, 0]], (0, 0, 0, 0)),
    ],
)
def test_ranks_of_features(features, expected):
    sigma = metrics.singular_values(torch.tensor(features))
    assert [rank(sigma) for rank in RANKS] == pytest.approx(expected, rel=1e-6)


features = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1)).map(
    lambda given: np.random.default_rng(given[2]).normal(size=given[:2])
)


@given(features)
def test_singular_values_equal_those_of_a_decomposition(phi):
    mine = metrics.singular_values(torch.from_numpy(phi)).numpy()
    assert mine == pytest.approx(np.linalg.svd(phi, compute_uv=False), abs=1e-7)


@given(features, st.floats(0.01, 100))
def test_ranks_are_bounded_and_do_not_turn_or_scale(phi, factor):  # plasticity.md 7.6
    sigma = metrics.singular_values(torch.from_numpy(phi))
    assume(float(sigma[-1]) > 1e-6)
    rank = np.linalg.matrix_rank(phi)
    assert 1 <= metrics.pca_rank(sigma) <= metrics.srank(sigma) <= rank <= min(phi.shape)
    assert 1 - 1e-9 <= metrics.stable_rank(sigma) <= rank + 1e-9
    assert 1 - 1e-9 <= metrics.effective_rank(sigma) <= rank + 1e-9
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(phi.shape[1],) * 2))
    turned = metrics.singular_values(torch.from_numpy(factor * phi @ turn))
    for of in (metrics.stable_rank, metrics.effective_rank):
        assert of(turned) == pytest.approx(of(sigma), rel=1e-6)


def test_features_that_are_not_finite_have_no_rank():
    sigma = metrics.singular_values(torch.tensor([[1.0, math.nan], [0, 1]]))
    assert all(math.isnan(of(sigma)) for of in (*RANKS, lambda s: metrics.feature_rank(s, 2)))


def test_feature_norm():  # V1
    h = torch.tensor([[1, 0, 0.02, 2, 4], [3, 0, 0, 2, 0], [1, 0, 0.02, 2, 0], [3, 0, 0.04, 2, 4]], dtype=torch.float64)
    assert metrics.feature_norm(h) == pytest.approx(3.952410348)


def test_dormant_sets():  # V6
    a, b, empty = (np.isin(np.arange(6), members) for members in ([0, 1, 2, 3], [2, 3, 4], []))
    assert metrics.overlap(b, a) == metrics.overlap(a, b) == pytest.approx(2 / 3)
    assert metrics.survival(b, a) == 0.5
    assert metrics.survival(a, b) == pytest.approx(2 / 3)
    assert metrics.jaccard(a, b) == 0.4
    assert math.isnan(metrics.overlap(a, empty))
    assert math.isnan(metrics.survival(a, empty))
    assert metrics.survival(empty, a) == 0
    assert math.isnan(metrics.jaccard(empty, empty))


def test_churn():  # V6
    before = torch.tensor([[1, 2, 0], [0, 0, 1], [3, 2.9, 0]])
    now = torch.tensor([[1, 1.5, 0], [2, 0, 1], [3, 3.1, 0]])
    assert metrics.policy_churn(now.argmax(-1), before.argmax(-1)) == pytest.approx(2 / 3)
    moved, relative = metrics.value_churn(now, before)
    assert moved == pytest.approx(0.3)
    assert relative == pytest.approx(0.2727273)
    assert metrics.greedy_value_churn(now, before) == pytest.approx(1 / 6)
    assert metrics.policy_churn(torch.tensor([[3.0, 4]]), torch.zeros(1, 2)) == pytest.approx(5 / 2**0.5)
    assert math.isnan(metrics.value_churn(now, torch.zeros(3, 3))[1])


def test_adam_step():  # V7
    m = torch.tensor([0.1, 0, -0.02], dtype=torch.float64)
    v = torch.tensor([0.04, 0, 1e-8], dtype=torch.float64)
    step = metrics.adam_step(m, v, 10, 1e-3, (0.9, 0.999), 1e-8)
    assert step.tolist() == pytest.approx([7.65945366e-5, 0, -0.0306375091], rel=1e-8)
    assert float(step.square().mean().sqrt()) == pytest.approx(0.0176886294)


def test_adam_step_is_what_adam_does():
    weight = torch.nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=1e-2)
    for _ in range(4):
        before = weight.detach().clone()
        weight.grad = torch.randn(5, dtype=torch.float64)
        optimizer.step()
    state, group = optimizer.state[weight], optimizer.param_groups[0]
    predicted = metrics.adam_step(
        state["exp_avg"], state["exp_avg_sq"], float(state["step"]), group["lr"], group["betas"], group["eps"]
    )
    torch.testing.assert_close(before - weight.detach(), predicted)
