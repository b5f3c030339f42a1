"""DirectLiNGAM (Shimizu et al. 2011, arXiv:1101.2489) with the pairwise measure of Hyvarinen & Smith (JMLR 14, 2013).

Which of D variables act on which, if all effects are linear and no noise is Gaussian: first an order in which causes
come before their effects, then the sizes of the effects, by regression of each variable on those before it.

The search runs on numpy arrays and on torch tensors, on the device where they are: what it needs is spelled alike in
both. Its cost are two exponentials for each pair of remaining variables and row, some D^3 / 3 * n of them.

Deviates: a variable that has no variance or is not finite is left out and named; a single one makes every score of the
published implementations NaN, and their order that of the columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from rlkit.causal.lasso import Doubles, adaptive_lasso
from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import Array

Numbers: TypeAlias = Any  # a numpy array or a torch tensor, float64 if nothing else is said
Residual = Literal["causal-learn", "lingam"]

# Entropy by two moments (Hyvarinen 1998): the weights, and E ln cosh u of a standard Gaussian.
_K1, _K2, _LOG_COSH = 79.047, 7.4129, 0.37457
_FACTORS = 32  # of 1 + e^-2|u| in a product before its logarithm is taken: at most 2^32
_CACHED, _ON_GPU = 2**16, 2**26  # numbers in a block of residuals: what a core's cache holds; 256 MB of float32


@dataclass(frozen=True)
class CausalModel:
    """What was found; a variable is known by its column."""

    order: tuple[int, ...]  # causes before effects, without what is left out; up to the target if there is one
    effects: Doubles  # [D, D] raw units, row i: of each variable on i; with a target only its row is filled
    constant: tuple[int, ...]  # left out: the same value in every row
    non_finite: tuple[int, ...]  # left out: NaN or infinite in some row


def direct_lingam(
    x: Array | Tensor, *, target: int | None = None, residual: Residual = "causal-learn", refit: bool = False
) -> CausalModel:
    """The causal order of the columns of x [n, D], and their effects on each other.

    target: the search ends as soon as this variable is placed, and only the effects on it are estimated. They are those
        of the whole search: what comes later has none on it.
    residual: `causal-learn` (and ACE) divides a covariance with n - 1 by a variance with n, `lingam` has n in both. The
        scores differ slightly, the orders hardly ever.
    refit: False is causal-learn, True the lingam package (adaptive_lasso says what it does).
    Tensors on a GPU are searched there, with residuals in float32 and means in float64.
    Raises ConfigError for another shape, too few rows or a target that is not a column.
    """
    require(residual in get_args(Residual), "residual", residual, ", ".join(get_args(Residual)))
    rows, used, constant, non_finite = _usable(x, target)
    order: list[int] = []
    if target is None or target in used:
        inflation = len(x) / (len(x) - 1) if residual == "causal-learn" else 1.0
        place = None if target is None else used.index(target)
        order = [used[i] for i in _search(rows, place, inflation)]
    effects = np.zeros((x.shape[1], x.shape[1]))
    for position, variable in enumerate(order):
        if position and target in (None, variable):
            causes = order[:position]
            effects[variable, causes] = _regress(rows, used.index(variable), [used.index(i) for i in causes], refit)
    return CausalModel(tuple(order), effects, constant, non_finite)


def regress_on_all(x: Array | Tensor, target: int, *, refit: bool = False) -> CausalModel:
    """The effects on a variable of which is known that it acts on none of the others: an adaptive lasso on all of them.

    Whatever the order of the others, it is the last, so nothing is searched and `order` is that of the columns.
    Cost n D^2. Arguments and errors as in direct_lingam.
    """
    rows, used, constant, non_finite = _usable(x, target)
    order = [*(i for i in used if i != target), target] if target in used else []
    effects = np.zeros((x.shape[1], x.shape[1]))
    if len(order) > 1:
        effects[target, order[:-1]] = _regress(rows, used.index(target), [used.index(i) for i in order[:-1]], refit)
    return CausalModel(tuple(order), effects, constant, non_finite)


def _library(x: Numbers) -> Any:
    return torch if isinstance(x, Tensor) else np


def _usable(x: Array | Tensor, target: int | None) -> tuple[Numbers, list[int], tuple[int, ...], tuple[int, ...]]:
    """The columns that vary as centred rows [k, n], which ones they are, the constant ones, and those not finite."""
    if x.ndim != 2 or len(x) < 3:
        raise ConfigError(
            f"the data have the shape {list(x.shape)}",
            why="a causal search reads rows of observed variables, [n, D], and at least 3 of them",
            fix="put each variable into a column",
        )
    if target is not None and not 0 <= target < x.shape[1]:
        raise ConfigError(
            f"target {target} is not a column", why=f"there are columns 0 to {x.shape[1] - 1}", fix="give one of them"
        )
    library = _library(x)
    rows: Numbers = x.T.double().contiguous() if isinstance(x, Tensor) else np.ascontiguousarray(x.T, np.float64)
    finite = library.isfinite(rows).all(-1)
    rows = library.where(finite[:, None], rows, 0.0)
    size = library.amax(library.abs(rows), -1)
    rows = rows - rows.mean(-1)[:, None]
    varies = _deviation(rows) > 1e-12 * size  # the mean of equal numbers is off by rounding
    used = [i for i, is_used in enumerate(varies.tolist()) if is_used]
    constant = tuple(i for i, is_constant in enumerate((finite & ~varies).tolist()) if is_constant)
    non_finite = tuple(i for i, is_finite in enumerate(finite.tolist()) if not is_finite)
    return rows[used], used, constant, non_finite


def _deviation(rows: Numbers) -> Numbers:
    """Standard deviations (ddof 0) of centred rows."""
    return _library(rows).sqrt((rows * rows).mean(-1))


def _regress(rows: Numbers, variable: int, causes: list[int], refit: bool) -> Doubles:
    """Effects of `causes` on `variable`, raw units."""
    y, deviation = rows[variable], _deviation(rows[causes])
    z = rows[causes] / deviation[:, None]
    n = rows.shape[1]
    correlation, covariance, units = (np.array(values.tolist()) for values in (z @ z.T / n, z @ y / n, deviation))
    effects: Doubles = adaptive_lasso(correlation, covariance, float((y * y).mean()), n, refit=refit) / units
    return effects


def _search(rows: Numbers, target: int | None, inflation: float) -> list[int]:
    """Places of `rows` [k, n] in causal order; the last one is `target`, if it is given.

    inflation: of covariances over variances, n / (n - 1) or 1.
    """
    places, variance = list(range(len(rows))), (rows * rows).mean(-1)
    order: list[int] = []
    while places and target not in order:
        z = rows / _deviation(rows)[:, None]
        first = int(scores(z, inflation, single=bool(getattr(z, "is_cuda", False))).argmin()) if len(rows) > 1 else 0
        cause, others = rows[first], [i for i in range(len(rows)) if i != first]
        order.append(places[first])
        slope = inflation * (rows[others] @ cause) / (cause @ cause)
        rows, places = rows[others] - slope[:, None] * cause, [places[i] for i in others]
        # What the variables before it determine has no residual that could be looked at: it comes next.
        left = ((rows * rows).mean(-1) > 1e-20 * variance[places]).tolist()
        order += [place for place, varies in zip(places, left, strict=True) if not varies]
        rows, places = (
            rows[[i for i, varies in enumerate(left) if varies]],
            [place for place, varies in zip(places, left, strict=True) if varies],
        )
    return order if target is None else order[: order.index(target) + 1]


def scores(z: Numbers, inflation: float, *, single: bool = False) -> Numbers:
    """T_i = sum_j min(0, I_ij)^2 of standardised rows z [k, n]: 0 for a variable on which no other one acts.

    I_ij = [H(z_j) + H(r_ij)] - [H(z_i) + H(r_ji)], positive if i acts on j; r_ij is what j leaves of i, standardised.
    Hyvarinen & Smith 2013, the maximum entropy approximation. inflation: of a covariance over a variance, as in
    `direct_lingam`. single: residuals of tensors in float32, as on a GPU; means are float64 all the same.
    """
    library, count = _library(z), len(z)
    correlation = library.clip(z @ z.T / z.shape[1], -1.0, 1.0)
    slope = inflation * correlation
    # sqrt(1 - 2 slope correlation + slope^2), without its cancellation
    deviation = library.sqrt(1 - correlation**2 + ((inflation - 1) * correlation) ** 2)
    comparable = deviation > 1e-7  # else one is the other
    scale = 1 / library.where(comparable, deviation, 1.0)
    residual = library.zeros_like(slope)  # H(r_ij)
    x, a, b = (part.float() if single else part for part in (z, scale, slope * scale))
    across, along = _block(count, z.shape[1], _ON_GPU if single else _CACHED)
    for i in range(0, count, across):
        for j in range(0, count, along):
            of, on = slice(i, i + across), slice(j, j + along)
            u = x[of, None] * a[of, on, None]
            u -= x[None, on] * b[of, on, None]
            residual[of, on] = entropy(u)
    own = entropy(z)
    gain = (own[None, :] + residual) - (own[:, None] + residual.T)
    return (library.clip(library.where(comparable, gain, 0.0), None, 0.0) ** 2).sum(-1)


def _block(count: int, n: int, numbers: int) -> tuple[int, int]:
    """How many rows against how many others make a block of about `numbers` residuals."""
    along = min(max(numbers // n, 1), count)
    return max(numbers // (n * along), 1), along


def entropy(u: Numbers) -> Numbers:
    """H(u) [...] of standardised u [..., n], nats: largest for a Gaussian.

    (1 + ln 2 pi) / 2 - 79.047 (E ln cosh u - 0.37457)^2 - 7.4129 (E u e^(-u^2 / 2))^2, Hyvarinen & Smith 2013, with
    ln cosh u = |u| + ln(1 + e^-2|u|) - ln 2. The logarithms are taken of products of `_FACTORS` of their arguments.
    """
    library = _library(u)
    size = library.abs(u)
    log_cosh = size.mean(-1, dtype=library.float64) - math.log(2)
    size *= -2
    log_cosh += _mean_log1p(library.exp(size, out=size))
    bell = u * u
    bell *= -0.5
    library.exp(bell, out=bell)
    bell *= u
    odd = bell.mean(-1, dtype=library.float64)
    return (1 + math.log(2 * math.pi)) / 2 - _K1 * (log_cosh - _LOG_COSH) ** 2 - _K2 * odd**2


def _mean_log1p(e: Numbers) -> Numbers:
    """Mean over the last axis of ln(1 + e), 0 <= e <= 1, float64."""
    library, n = _library(e), e.shape[-1]
    whole = n // _FACTORS * _FACTORS
    factors = (e[..., :whole] + 1).reshape(*e.shape[:-1], _FACTORS, -1)
    total = library.log(library.prod(factors, -2)).sum(-1, dtype=library.float64)
    return (total + library.log1p(e[..., whole:]).sum(-1, dtype=library.float64)) / n
