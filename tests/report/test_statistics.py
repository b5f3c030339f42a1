"""Statistics against slow ones and by hand."""

import numpy as np
import pytest

from rlkit.report.statistics import (
    bootstrap_interval,
    interquartile_mean,
    interquartile_mean_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
)


def test_interval_of_constants_is_the_constant_and_needs_values():
    rng = np.random.default_rng(0)
    assert bootstrap_interval([3.0, 3.0], rng) == (3.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([], rng)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(2.0, 1.0, size=40), rng, resamples=500)
        covered += low <= 2.0 <= high
    assert 0.90 <= covered / 300 <= 0.97


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 11])
def test_interquartile_mean_is_the_trimmed_mean(count):
    values = np.random.default_rng(count).normal(size=count)
    middle = sorted(values.tolist())[count // 4 : count - count // 4]
    assert float(interquartile_mean(values)) == pytest.approx(sum(middle) / len(middle))
    both = interquartile_mean(np.stack([values, 2 * values]))
    assert both.tolist() == pytest.approx([float(interquartile_mean(values)), 2 * float(interquartile_mean(values))])


def test_interquartile_mean_by_hand():
    assert float(interquartile_mean([100, 1, 2, 3, 4, 5, 6, -50])) == 3.5
    with pytest.raises(ValueError, match="no values"):
        interquartile_mean([])


def test_seeds_are_drawn_inside_their_task():
    """Two tasks without spread inside: a bootstrap over all scores would mix them, a stratified one cannot."""
    scores = {"low": [0.0] * 4, "high": [10.0] * 4}
    assert interquartile_mean_interval(scores, np.random.default_rng(0)) == (5.0, 5.0)


def test_interval_of_the_interquartile_mean_equals_a_slow_one():
    scores = {"a": [1.0, 4.0, 9.0], "b": [2.0, 3.0, 5.0, 7.0]}
    rng = np.random.default_rng(1)
    slow = []
    for _ in range(3_000):
        drawn = [x for values in scores.values() for x in rng.choice(values, size=len(values)).tolist()]
        drawn.sort()
        slow.append(sum(drawn[1:6]) / 5)
    low, high = interquartile_mean_interval(scores, np.random.default_rng(2))
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.15)


def test_probability_of_improvement_by_hand():
    left, right = {"a": [1, 2, 3], "b": [0, 0]}, {"a": [2, 2], "b": [0, 1], "c": [5]}
    # a: 1 < 2 (0), 2 = 2 (1/2), 3 > 2 (1), each against two; b: 0 = 0 (1/2), 0 < 1 (0).
    assert probability_of_improvement(left, right) == pytest.approx((0.5 + 0.25) / 2)
    assert probability_of_improvement(left, left) == 0.5
    with pytest.raises(ValueError, match="no task in common"):
        probability_of_improvement({"a": [1]}, {"b": [1]})
    low, high = probability_of_improvement_interval(left, right, np.random.default_rng(0))
    assert 0 <= low <= 0.375 <= high <= 1
    assert probability_of_improvement_interval({"a": [2, 3]}, {"a": [0, 1]}, np.random.default_rng(0)) == (1, 1)
