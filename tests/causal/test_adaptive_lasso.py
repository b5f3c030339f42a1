import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.causal.lasso import adaptive_lasso, bic, independent_columns, lasso_path
from rlkit.core.errors import ConfigError


def moments(x, y):
    """What `adaptive_lasso` asks for, and the units of the columns."""
    x, y = x - x.mean(0), y - y.mean()
    units = x.std(0)
    z = x / units
    return (z.T @ z / len(x), z.T @ y / len(x), float(y.var()), len(x)), units


def fit(x, y, refit=False):
    arguments, units = moments(x, y)
    return adaptive_lasso(*arguments, refit=refit) / units


def factorial():
    """s, a1, a2, e in {-1, -1/3, 1/3, 1}^4 and r = .5 s + .8 a1 - .3 a2 + .25 e."""
    levels = np.array([-1, -1 / 3, 1 / 3, 1])
    s, a1, a2, e = (axis.ravel() for axis in np.meshgrid(*[levels] * 4, indexing="ij"))
    return np.stack([s, a1, a2], 1), 0.5 * s + 0.8 * a1 - 0.3 * a2 + 0.25 * e


def test_pruning_golden():  # worked out with scikit-learn 1.9.1
    x, r = factorial()
    x = np.column_stack([x, np.sin(37.0 * np.arange(256))])
    (gram, product, variance, n), units = moments(x, r)
    least_squares = np.linalg.solve(gram, product)
    assert least_squares[3] / units[3] == pytest.approx(-0.001509, abs=5e-7)
    noise = n * (variance - product @ least_squares) / (n - 5)
    assert noise == pytest.approx(0.0354127, abs=5e-8)
    weight = np.abs(least_squares)
    knots = [knot * weight for knot in lasso_path(gram * np.outer(weight, weight), product * weight)]
    scores = [bic(n * (variance - 2 * b @ product + b @ gram @ b), noise, n, np.count_nonzero(b)) for b in knots]
    assert scores == pytest.approx([3802.10, 1629.46, 419.81, -117.07, -111.54], abs=0.005)
    found = fit(x, r)
    assert found[3] == 0
    np.testing.assert_allclose(found[:3], [0.5, 0.8, -0.3], atol=1e-2)


def test_refitting_keeps_the_support_and_takes_least_squares_on_it():
    x, r = factorial()
    x = np.column_stack([x, np.sin(37.0 * np.arange(256))])
    found = fit(x, r, refit=True)
    assert found[3] == 0
    np.testing.assert_allclose(found[:3], [0.5, 0.8, -0.3], atol=1e-12)  # orthogonal columns


problems = st.integers(0, 10_000).map(lambda seed: random_problem(np.random.default_rng(seed)))


def random_problem(rng):
    size = int(rng.integers(1, 9))
    x = rng.standard_normal((50, size)) @ rng.standard_normal((size, size))  # correlated: columns leave again
    return x.T @ x, x.T @ (x @ rng.standard_normal(size) + 3 * rng.standard_normal(50))


@given(problems)
@settings(max_examples=50, deadline=None)
def test_every_knot_of_a_path_meets_the_conditions_of_an_optimum(problem):
    gram, product = problem
    knots = lasso_path(gram, product)
    levels = []
    for b in knots:
        correlation = product - gram @ b
        level, scale = np.abs(correlation).max(), np.abs(product).max()
        levels.append(level)
        active = b != 0
        np.testing.assert_allclose(correlation[active], level * np.sign(b[active]), atol=1e-7 * scale)
    assert not knots[0].any()
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(levels))
    np.testing.assert_allclose(knots[-1], np.linalg.solve(gram, product), rtol=1e-5, atol=1e-8)


def test_a_path_in_which_a_column_leaves_again():
    found = (lasso_path(*random_problem(np.random.default_rng(seed))) for seed in range(300))
    assert any(len(knots) > len(knots[0]) + 1 for knots in found)


def test_columns_that_others_determine_get_nothing():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 3))
    y = x @ [1.0, -1.0, 0.5] + 0.1 * rng.uniform(-1, 1, 200)
    dependent = np.column_stack([x[:, 0], 2 * x[:, 0] + 1, x[:, 1], x[:, 2], x[:, 1] - x[:, 2]])
    np.testing.assert_array_equal(independent_columns(moments(dependent, y)[0][0]), [0, 2, 3])
    found = fit(dependent, y)
    np.testing.assert_allclose(found[[0, 2, 3]], fit(x, y), rtol=1e-8)
    assert not found[[1, 4]].any()


def test_a_target_without_noise_is_left_to_least_squares():
    x = np.random.default_rng(0).uniform(-1, 1, (100, 3))
    np.testing.assert_allclose(fit(x, x @ [1.0, 2.0, 1e-3]), [1.0, 2.0, 1e-3], rtol=1e-9)


def test_coefficients_are_covariant_in_the_units():
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (300, 4))
    y = x @ [1.0, 0, -0.5, 0.02] + 0.2 * rng.laplace(size=300)
    units = np.array([1e-3, 1.0, 7.0, 1e4])
    np.testing.assert_allclose(fit(x * units, 5 * y) * units / 5, fit(x, y), rtol=1e-9, atol=1e-12)


def test_bic_golden():
    assert bic(3.0, 1.5, 10, 2) == pytest.approx(10 * math.log(3 * math.pi) + 2 + 2 * math.log(10))


def test_too_few_rows_are_refused():
    with pytest.raises(ConfigError, match="4 rows cannot tell the effects of 3 columns") as caught:
        adaptive_lasso(np.eye(3), np.ones(3), 4.0, 4, refit=False)
    assert "at least 5 rows" in str(caught.value)
