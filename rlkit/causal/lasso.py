"""The adaptive lasso (Zou 2006, doi:10.1198/016214506000000735), its penalty chosen by BIC: small effects become 0.

Everything is computed from the moments of the columns, so that a path costs nothing beside them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rlkit.core.errors import ConfigError
from rlkit.core.typing import IntArray

Doubles = npt.NDArray[np.float64]

MOST_KNOTS = (
    500  # of a path; scikit-learn's default. Of p columns it has p + 1 knots and two for each that leaves again
)
_DEPENDENT = 1e-10  # share of a column's variance that the columns before it leave over


def adaptive_lasso(correlation: Doubles, covariance: Doubles, variance: float, rows: int, *, refit: bool) -> Doubles:
    """Coefficients [P] of standardised columns: a lasso whose penalties are divided by the sizes of the least squares.

    correlation: [P, P] of the columns. covariance: [P] of each standardised column with the target, in its units.
    variance: of the target. All of them divided by `rows` (ddof 0).
    refit: least squares on the columns that the lasso keeps, as the lingam package does; else the lasso's own, slightly
    shrunk coefficients, as in causal-learn. Columns that are linear combinations of earlier ones get 0.
    Raises ConfigError unless there are more than P + 1 rows.
    """
    size = len(covariance)
    if rows <= size + 1:
        raise ConfigError(
            f"{rows} rows cannot tell the effects of {size} columns",
            why=f"the noise of the regression is estimated from what {size} coefficients and a mean leave over",
            fix=f"give at least {size + 2} rows",
        )
    result = np.zeros(size)
    kept = independent_columns(correlation)
    if kept.size == 0:
        return result
    gram, product = correlation[np.ix_(kept, kept)], covariance[kept]
    least_squares = np.linalg.solve(gram, product)
    unexplained = rows * float(variance - product @ least_squares)
    noise = unexplained / (rows - len(kept) - 1)
    if noise <= 1e-14 * variance:  # the columns determine the target: nothing is to be chosen
        result[kept] = least_squares
        return result
    weight = np.abs(least_squares)
    knots = lasso_path(gram * np.outer(weight, weight), product * weight)
    scores = []
    for knot in knots:
        b = knot * weight
        residual_sum = rows * float(variance - 2 * b @ product + b @ gram @ b)
        scores.append(bic(residual_sum, noise, rows, int(np.count_nonzero(b))))
    best = knots[int(np.argmin(scores))] * weight
    if refit:
        support = np.flatnonzero(best)
        best = np.zeros(len(kept))
        if support.size:
            best[support] = np.linalg.solve(gram[np.ix_(support, support)], product[support])
    result[kept] = best
    return result


def bic(residual_sum: float, noise: float, rows: int, nonzeros: int) -> float:
    """n ln(2 pi noise) + RSS / noise + ln(n) k: Schwarz 1978 for Gaussian residuals of a known variance `noise`."""
    return rows * math.log(2 * math.pi * noise) + residual_sum / noise + math.log(rows) * nonzeros


def lasso_path(gram: Doubles, product: Doubles) -> list[Doubles]:
    """Where the solution of  min_b b'Gb / 2 - p'b + level |b|_1  bends as the level falls from max |p| to 0.

    Efron et al. 2004 (doi:10.1214/009053604000000067), LARS with the lasso modification. gram G: [P, P], positive
    definite but for columns of zeros. product p: [P]. Returns the knots [P], from zeros to least squares.
    """
    b, correlation = np.zeros(len(product)), product.copy()
    level = float(np.abs(correlation).max())
    knots = [b]
    if level == 0:
        return knots
    active = [int(np.abs(correlation).argmax())]
    while level > 0 and len(knots) <= MOST_KNOTS:
        direction = np.linalg.solve(gram[np.ix_(active, active)], np.sign(correlation[active]))
        slope = gram[:, active] @ direction
        joining = _joining(correlation, slope, level)
        joining[active] = np.inf
        leaving = np.full(len(active), np.inf)
        shrinking = b[active] * direction < 0
        leaving[shrinking] = -b[active][shrinking] / direction[shrinking]
        step = min(float(joining.min()), float(leaving.min()), level)
        b = b.copy()
        b[active] += step * direction
        correlation = correlation - step * slope
        level -= step
        if step == leaving.min():
            b[active.pop(int(leaving.argmin()))] = 0.0
        elif level > 0:
            active.append(int(joining.argmin()))
        knots.append(b)
    return knots


def _joining(correlation: Doubles, slope: Doubles, level: float) -> Doubles:
    """How far the level must fall until it meets the correlation of each column, at either sign; inf = never.

    A column that has just left the active ones is still at the level, but loses correlation faster than it falls.
    """
    steps = np.full(len(slope), np.inf)
    for gap, speed in ((level - correlation, 1 - slope), (level + correlation, 1 + slope)):
        comes = speed > 1e-12
        steps[comes] = np.minimum(steps[comes], np.maximum(gap[comes], 0) / speed[comes])
    return steps


def independent_columns(correlation: Doubles) -> IntArray:
    """Indices of the columns that are no linear combination of those before them, by elimination."""
    rest = correlation.copy()
    kept = []
    for column in range(len(rest)):
        pivot = rest[column, column]
        if pivot > _DEPENDENT:
            kept.append(column)
            rest = rest - np.outer(rest[:, column], rest[column]) / pivot
    return np.array(kept, np.int64)
