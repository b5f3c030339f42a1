import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.causal import direct_lingam, regress_on_all
from rlkit.causal.lingam import entropy, scores
from rlkit.core.errors import ConfigError
from tests.causal.data import random_model
from tests.causal.test_adaptive_lasso import factorial

FIXTURES = json.loads(Path(__file__).with_name("fixtures.json").read_text())["models"]
as_both = pytest.mark.parametrize("library", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


def numbers(x):
    return np.array(x.tolist())


@as_both
def test_entropy_golden(library):  # by hand; the last three are expectations over many rows
    u, v = np.array([-3, -1, 1, 3]) / 5**0.5, np.array([-1, -1, -1, 3]) / 3**0.5
    np.testing.assert_allclose(numbers(entropy(library(np.stack([u, v])))), [1.3422557, 0.8684484], atol=1e-7)
    cells = (np.arange(200_000) + 0.5) / 200_000
    gaussian = torch.special.ndtri(torch.from_numpy(cells)).numpy()
    rows = np.stack([gaussian, (2 * cells - 1) * 3**0.5, -np.log(cells) - 1])
    wanted = [1.4189385, 1.362300, 1.088056]
    np.testing.assert_allclose(numbers(entropy(library(rows))), wanted, atol=3e-4)


@as_both
def test_pair_golden(library):  # by hand: x in {-3, -1, 1, 3}, y = x + e / 2
    x, e = (axis.ravel() for axis in np.meshgrid([-3.0, -1, 1, 3], [-3.0, -1, 1, 3], indexing="ij"))
    z = np.stack([x, x + e / 2])
    z = z / z.std(1, keepdims=True)
    # H(y) = 1.3908871, H(x|y) = 1.3733391, H(x) = 1.3422557, H(y|x) = 1.3483712: I_xy = .0735992, and I_yx = -I_xy
    found = numbers(scores(library(z), 16 / 15))
    np.testing.assert_allclose(found, [0.0, 0.0735992**2], atol=2e-9)


def slow_scores(z, inflation):
    """The definition, in loops."""

    def h(u):
        log_cosh, odd = np.mean(np.log(np.cosh(u))), np.mean(u * np.exp(-(u**2) / 2))
        return (1 + math.log(2 * math.pi)) / 2 - 79.047 * (log_cosh - 0.37457) ** 2 - 7.4129 * odd**2

    found = []
    for i in range(len(z)):
        total = 0.0
        for j in range(len(z)):
            if i != j:
                c = inflation * np.mean(z[i] * z[j])
                of_i, of_j = z[i] - c * z[j], z[j] - c * z[i]
                gain = (h(z[j]) + h(of_i / of_i.std())) - (h(z[i]) + h(of_j / of_j.std()))
                total += min(0, gain) ** 2
        found.append(total)
    return np.array(found)


@as_both
@given(seed=st.integers(0, 10_000), rows=st.integers(8, 200), inflated=st.booleans())
@settings(max_examples=20, deadline=None)
def test_scores_equal_slow_loops(library, seed, rows, inflated):
    z = random_model(seed)[:rows].T
    z = z - z.mean(1, keepdims=True)
    z = z / z.std(1, keepdims=True)
    inflation = rows / (rows - 1) if inflated else 1.0
    np.testing.assert_allclose(numbers(scores(library(z), inflation)), slow_scores(z, inflation), rtol=1e-6, atol=1e-9)


def test_scores_in_single_precision_and_in_large_blocks_are_nearly_the_same():
    z = torch.from_numpy(random_model(5).T)
    z = z - z.mean(1, keepdim=True)
    z = z / z.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(scores(z, 1.0, single=True), scores(z, 1.0), rtol=1e-3, atol=1e-6)


@as_both
@pytest.mark.parametrize("residual", ["lingam", "causal-learn"])
@pytest.mark.parametrize("model", FIXTURES, ids=lambda model: model["seed"])
def test_both_packages_find_the_same(model, residual, library):
    found = direct_lingam(library(random_model(model["seed"])), residual=residual, refit=residual == "lingam")
    assert list(found.order) == model[residual]["order"]
    np.testing.assert_allclose(found.effects, model[residual]["effects"], rtol=1e-6, atol=1e-12)


@as_both
def test_factorial_golden(library):
    states_and_actions, reward = factorial()
    found = direct_lingam(library(np.column_stack([states_and_actions, reward])), target=3)
    assert found.order[-1] == 3
    np.testing.assert_allclose(found.effects[3], [0.5, 0.8, -0.3, 0], atol=2e-2)
    refitted = direct_lingam(library(np.column_stack([states_and_actions, reward])), target=3, refit=True)
    np.testing.assert_allclose(refitted.effects[3], [0.5, 0.8, -0.3, 0], atol=1e-12)


def rewarded_rows():
    """Three states, four actions, a reward: the random set of the specification."""
    rng = np.random.default_rng(0)
    n = 10_000
    s = rng.uniform(-1, 1, (n, 3))
    a = rng.uniform(-1, 1, (n, 4))
    a[:, 0] += 0.5 * s[:, 0]
    r = s[:, 0] - 0.5 * s[:, 1] + 2 * a[:, 0] - a[:, 2] + 0.3 * a[:, 3] + 0.2 * rng.laplace(size=n)
    return np.column_stack([s, a, r])


@as_both
def test_random_golden(library):
    found = direct_lingam(library(rewarded_rows()))
    assert found.order == (4, 5, 6, 1, 2, 0, 3, 7)
    np.testing.assert_allclose(found.effects[7], [1.004, -0.501, 0, 2.004, 0, -0.998, 0.297, 0], atol=5.1e-4)


@as_both
@pytest.mark.parametrize("seed", range(8))
def test_stopping_at_a_target_changes_nothing_of_it(seed, library):
    x = library(random_model(seed))
    whole = direct_lingam(x)
    for target in range(x.shape[1]):
        found = direct_lingam(x, target=target)
        assert found.order == whole.order[: whole.order.index(target) + 1]
        np.testing.assert_array_equal(found.effects[target], whole.effects[target])
        assert not np.delete(found.effects, target, 0).any()


@pytest.mark.parametrize("seed", range(8))
def test_order_does_not_depend_on_the_units(seed):
    x = random_model(seed)
    units = 10.0 ** np.arange(-3, x.shape[1] - 3) * np.where(np.arange(x.shape[1]) % 2, -1, 1)
    found, scaled = direct_lingam(x), direct_lingam(x * units)
    assert scaled.order == found.order
    np.testing.assert_allclose(scaled.effects * units / units[:, None], found.effects, rtol=1e-6, atol=1e-9)


def test_effects_on_a_last_reward_move_with_permuted_states():
    x = rewarded_rows()
    found, moved = direct_lingam(x, target=7), direct_lingam(x[:, [2, 0, 1, 3, 4, 5, 6, 7]], target=7)
    np.testing.assert_allclose(moved.effects[7], found.effects[7][[2, 0, 1, 3, 4, 5, 6, 7]], atol=1e-9)


@as_both
def test_a_sink_is_the_last_of_any_order(library):
    x = library(rewarded_rows())
    searched, known = direct_lingam(x, target=7), regress_on_all(x, 7)
    assert known.order == tuple(range(8))
    np.testing.assert_allclose(known.effects, searched.effects, atol=1e-9)


@as_both
def test_what_cannot_be_searched_is_left_out_and_named(library):
    x = rewarded_rows()[:500]
    wanted = direct_lingam(library(x), target=7)
    spoilt = np.insert(x, [0, 2, 5], [[0.1, np.nan, 3e8]], axis=1)
    spoilt[:, 0] = 0.1  # its mean is off by rounding
    spoilt[1:, 3] = 0.0  # one NaN is enough
    found = direct_lingam(library(spoilt), target=10)
    assert (found.constant, found.non_finite) == ((0, 7), (3,))
    kept = [1, 2, 4, 5, 6, 8, 9, 10]
    assert found.order == tuple(kept[i] for i in wanted.order)
    np.testing.assert_allclose(found.effects[10, kept], wanted.effects[7], atol=1e-12)
    assert np.count_nonzero(found.effects) == np.count_nonzero(wanted.effects)
    known = regress_on_all(library(spoilt), 10)
    assert (known.constant, known.non_finite) == ((0, 7), (3,))


@as_both
@pytest.mark.parametrize("find", [direct_lingam, regress_on_all])
def test_a_constant_target_has_no_causes(find, library):
    x = rewarded_rows()[:100]
    x[:, 7] = 1.0
    found = find(library(x), target=7)
    assert (found.order, found.constant) == ((), (7,))
    assert not found.effects.any()


@pytest.mark.parametrize("residual", ["lingam", "causal-learn"])
def test_copies_and_sums_of_columns_do_no_harm(residual):
    x = rewarded_rows()[:500]
    doubled = np.column_stack([x[:, :7], 2 * x[:, 3], x[:, 0] + x[:, 1], x[:, 7]])
    with warnings.catch_warnings(action="error"):
        found = direct_lingam(doubled, target=9, residual=residual)
    assert found.order[-1] == 9
    predicted = doubled @ found.effects[9]
    np.testing.assert_allclose(predicted, x @ direct_lingam(x, target=7, residual=residual).effects[7], atol=0.05)


def test_a_target_that_others_determine_comes_after_them():
    x = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    x[:, 2] = x[:, 0] - 2 * x[:, 1]
    found = direct_lingam(x, target=2, residual="lingam")
    np.testing.assert_allclose(found.effects[2], [1, -2, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: direct_lingam(np.zeros(5)), [r"the data have the shape \[5\]"]),
        (lambda: direct_lingam(np.zeros((2, 3))), [r"the data have the shape \[2, 3\]", "at least 3"]),
        (lambda: direct_lingam(rewarded_rows(), target=8), ["target 8 is not a column", "0 to 7"]),
        (lambda: direct_lingam(rewarded_rows(), residual="exact"), ["residual is exact", "causal-learn, lingam"]),
        (lambda: regress_on_all(rewarded_rows()[:8], 7), ["8 rows cannot tell the effects of 7 columns"]),
    ],
)
def test_bad_input(call, words):
    for word in words:
        with pytest.raises(ConfigError, match=word):
            call()


def test_the_example_of_the_docs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "ace.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/ace.md", "exec"), {})
    promised = re.findall(r"print\(.*# (.*?)(?::.*)?$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.gpu
def test_a_search_on_a_gpu_finds_the_same():
    x = rewarded_rows()
    found, wanted = direct_lingam(torch.from_numpy(x).cuda(), target=7), direct_lingam(x, target=7)
    assert found.order == wanted.order
    np.testing.assert_allclose(found.effects, wanted.effects, atol=1e-9)
