"""Bootstrap intervals."""

import numpy as np
import pytest

from rlkit.report.statistics import bootstrap_interval


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
