"""One byte a score: vector V15 and what must hold for any score."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit.core.score_codec import NOT_FINITE, decode, edge, encode

VECTORS = [  # V15: score, code, decoded
    (0, 0, 0),
    (1e-9, 1, 9.5367e-7),
    (1e-4, 55, 1.02648e-4),
    (0.001, 81, 9.765625e-4),
    (0.01, 108, 0.01013156),
    (0.025, 118, 0.02409704),
    (0.1, 134, 0.09638818),
    (0.5, 153, 0.5),
    (1, 161, 1),
    (2, 169, 2),
    (10, 188, 10.3747164),
    (512, 233, 512),
    (3158, 254, 3158.448),
]


@pytest.mark.parametrize(("score", "code", "decoded"), VECTORS)
def test_vectors(score, code, decoded):
    assert int(encode(score)) == code
    assert float(decode(code)) == pytest.approx(decoded, rel=1e-4)


def test_what_has_no_logarithm():
    assert encode([1e5, math.nan, math.inf, -math.inf]).tolist() == [254, NOT_FINITE, NOT_FINITE, NOT_FINITE]
    assert math.isnan(decode(NOT_FINITE))


def test_edges_near_the_usual_thresholds():
    assert [edge(code) for code in (118, 134, 108, 126)] == pytest.approx(
        [0.025164, 0.100656, 0.010580, 0.050328], rel=1e-4
    )
    assert edge(0) == 0
    assert edge(253) < 3158 < 1e9 < edge(254)


scores = st.floats(2.0**-20, 2.0**11.625)


@given(scores)
def test_round_trip_is_within_a_sixteenth_of_an_octave(score):
    assert float(decode(encode(score))) == pytest.approx(score, rel=2 ** (1 / 16) - 1 + 1e-12)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_codes_are_monotone_and_only_zero_is_zero(first, second):
    low, high = sorted((first, second))
    assert int(encode(low)) <= int(encode(high))
    assert (int(encode(low)) == 0) == (low == 0)


@given(st.floats(0, 1e6), st.integers(0, 254))
def test_an_edge_tells_codes_apart(score, code):
    if not math.isclose(score, edge(code), rel_tol=1e-12):  # there, rounding decides
        assert (score <= edge(code)) == (int(encode(score)) <= code)


def test_shapes_are_kept():
    assert encode(np.ones((2, 3))).shape == decode(np.ones((2, 3), np.uint8)).shape == (2, 3)
