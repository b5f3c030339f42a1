"""Coefficients of a rational function that is close to another function: least squares by Levenberg and Marquardt.

As the reference implementation of arXiv:1907.06732 fits its starts: from all ones, on equally spaced points of [-3, 3],
without bounds. From there some targets end in a poor local minimum (tanh in version A with degrees 3 and 2: error 0.19
instead of 0.002), so a denominator of 0.3 is tried, too, and taken where its squares are much smaller. The starts in
rational_starts.py come from here: scripts/fit_rational_starts.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkit.core.errors import NumericError
from rlkit.nn.rational import FITTED_RANGE, Form

Array = np.ndarray[Any, np.dtype[np.float64]]

_POINTS = 2001  # errors between them are the same in two digits
_ACCURACY = 1e-10  # relative, of squares and of coefficients: where the search ends
_MOST_EVALUATIONS = 5_000
_DENOMINATORS = (1.0, 0.3)  # where the search starts; the numerator is 1
_MUCH_SMALLER = 0.9  # of the sum of squares of the start before


@dataclass(frozen=True)
class Fit:
    """Coefficients, a_0 ... a_m then [b_0,] b_1 ... b_n, and how far they are off on the fitted range."""

    coefficients: tuple[float, ...]
    largest_error: float
    rms_error: float


def evaluate(x: Array, c: Array, form: Form) -> tuple[Array, Array]:
    """R(x) [N] and dR/dc [N, K] in float64, from powers: slow and plain."""
    a, b = c[: form.terms], c[form.terms :]
    powers = np.vander(x, form.terms, increasing=True)  # [N, m + 1]
    u = np.abs(x) if form.version == "A" else x
    inner_powers = np.vander(u, form.degrees[1] + 1, increasing=True)[:, 0 if form.own_constant else 1 :]
    used = np.abs(b) if form.version == "A" else b
    inner = inner_powers @ used
    outer = np.ones_like(inner) if form.version == "N" else np.where(inner >= 0, 1.0, -1.0)
    q = form.base + outer * inner
    value = powers @ a / q
    by_b = -(value / q * outer)[:, None] * inner_powers
    if form.version == "A":
        by_b *= np.where(b >= 0, 1.0, -1.0)
    return value, np.concatenate([powers / q[:, None], by_b], axis=1)


def fit(target: Callable[[Array], Array], form: Form, limit: float = FITTED_RANGE) -> Fit:
    """A rational of `form` close to `target`, a function of arrays, on [-limit, limit].

    Version D is fitted as B. Raises NumericError if what is found has a pole on the range.
    """
    from scipy.optimize import least_squares  # half a second that only a fit should cost

    x = np.linspace(-limit, limit, _POINTS)
    wanted = np.asarray(target(x), dtype=np.float64)
    best: Array | None = None
    squares = math.inf
    for denominator in _DENOMINATORS:
        start = np.concatenate([np.ones(form.terms), np.full(form.count - form.terms, denominator)])
        with np.errstate(all="ignore"):  # the search may step over poles
            if not np.isfinite(evaluate(x, start, form)[0]).all():
                continue
            found = least_squares(
                lambda c: evaluate(x, c, form)[0] - wanted,
                start,
                jac=lambda c: evaluate(x, c, form)[1],
                method="lm",
                ftol=_ACCURACY,
                xtol=_ACCURACY,
                gtol=_ACCURACY,
                max_nfev=_MOST_EVALUATIONS,
            )
        if found.cost < _MUCH_SMALLER * squares and not _has_pole(x, found.x, form):
            best, squares = found.x, float(found.cost)
    if best is None:
        raise NumericError(
            f"no rational of version {form.version} and degrees {list(form.degrees)} was found without a pole",
            why=f"the best one found has a pole on [-{limit:g}, {limit:g}]",
            fix="use version A, B or C, or other degrees",
            see="docs/activations.md",
        )
    error = np.abs(evaluate(x, best, form)[0] - wanted)
    return Fit(tuple(best.tolist()), float(error.max()), float(np.sqrt(np.mean(error**2))))


def _has_pole(x: Array, c: Array, form: Form) -> bool:
    """Whether version N's denominator, 1 at 0, comes down to 0 somewhere."""
    powers = np.vander(x, form.degrees[1] + 1, increasing=True)[:, 1:]
    return form.version == "N" and bool((1 + powers @ c[form.terms :] <= 0).any())
