"""Compiled loops of the rational activation on the CPU, float32: one pass forward, one backward, any degrees.

y = P(x) / Q, P(x) = sum a_i x^i, Q = base + |sum_k b_k u^k|; u = |x| and |b_k| in version A, u = x in B and C.
Two things make them fast. LLVM turns a plain loop over a short piece of memory into vector instructions, so that
polynomials are evaluated term by term over pieces that stay in the first cache; a loop inside `prange` it leaves alone.
And `error_model="numpy"` drops the check of each division.

Sums over elements are taken in a fixed order: float32 within some hundred to 4096 neighbours, float64 over those. So
results do not depend on the number of threads. NaN and infinity are kept: of fastmath only what reorders is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch

F = TypeVar("F", bound=Callable[..., object])
Array = np.ndarray[Any, Any]

_PIECE = 512  # elements; six pieces of float32 are 12 KB
_BLOCK = 8192  # elements that one thread takes at a time
_MOST_THREADS = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
_KINDS = {"A": 0, "B": 1, "C": 2, "D": 1}  # D: noised coefficients in B
_A, _C = 0, 2
_FREE = {"reassoc", "contract", "nsz", "arcp"}


def _compiled(function: F) -> F:
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FREE)(function))


def _parallel(function: F) -> F:
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FREE, parallel=True)(function)
    return cast(F, compiled)


@_compiled
def _denominator(c: Array, terms: int, kind: int) -> Array:
    """b_0 ... b_n; `terms`: of the numerator, which come first in c."""
    if kind == _C:
        return c[terms:]
    b = np.empty(len(c) - terms + 1, np.float32)
    b[0] = 0
    for k in range(1, len(b)):
        b[k] = abs(c[terms + k - 1]) if kind == _A else c[terms + k - 1]
    return b


@_compiled
def _power_base(x: Array, u: Array, kind: int) -> Array:
    """What the denominator takes powers of."""
    if kind != _A:
        return x
    for i in range(len(x)):
        u[i] = abs(x[i])
    return u[: len(x)]


@_compiled
def _polynomial(x: Array, c: Array, p: Array) -> None:
    """p = sum c_k x^k, by Horner's rule."""
    top = c[len(c) - 1]
    for i in range(len(x)):
        p[i] = top
    for k in range(len(c) - 2, -1, -1):
        term = c[k]
        for i in range(len(x)):
            p[i] = p[i] * x[i] + term


@_compiled
def _polynomial_and_slope(x: Array, c: Array, p: Array, dp: Array) -> None:
    """p as above and dp = dp/dx in the same sweep."""
    top = c[len(c) - 1]
    for i in range(len(x)):
        p[i] = top
        dp[i] = 0
    for k in range(len(c) - 2, -1, -1):
        term = c[k]
        for i in range(len(x)):
            dp[i] = dp[i] * x[i] + p[i]
            p[i] = p[i] * x[i] + term


@_compiled
def _moments(h: Array, x: Array, count: int, out: Array, first: int) -> None:
    """out[first + k] += sum_i h_i x_i^k for k < count; h is used up."""
    for k in range(count):
        total = np.float32(0)
        for i in range(len(x)):
            total += h[i]
            h[i] *= x[i]
        out[first + k] += total


@_compiled
def _forward_5_4(x: Array, y: Array, a: Array, b: Array, base: np.float32, absolute: bool) -> None:
    """The usual degrees with every coefficient in a register: half of the time."""
    a0, a1, a2, a3, a4, a5 = a[0], a[1], a[2], a[3], a[4], a[5]
    b0, b1, b2, b3, b4 = b[0], b[1], b[2], b[3], b[4]
    for i in range(len(x)):
        v = x[i]
        u = abs(v) if absolute else v
        p = ((((a5 * v + a4) * v + a3) * v + a2) * v + a1) * v + a0
        q = (((b4 * u + b3) * u + b2) * u + b1) * u + b0
        y[i] = p / (base + abs(q))


@_compiled
def _slope_5_4(x: Array, g: Array, dx: Array, a: Array, b: Array, base: np.float32, absolute: bool) -> None:
    """dx alone, for coefficients that are not learned."""
    zero, one = np.float32(0), np.float32(1)
    a0, a1, a2, a3, a4, a5 = a[0], a[1], a[2], a[3], a[4], a[5]
    b0, b1, b2, b3, b4 = b[0], b[1], b[2], b[3], b[4]
    d2, d3, d4, d5 = np.float32(2) * a2, np.float32(3) * a3, np.float32(4) * a4, np.float32(5) * a5
    e2, e3, e4 = np.float32(2) * b2, np.float32(3) * b3, np.float32(4) * b4
    for i in range(len(x)):
        v = x[i]
        u = abs(v) if absolute else v
        p = ((((a5 * v + a4) * v + a3) * v + a2) * v + a1) * v + a0
        dp = (((d5 * v + d4) * v + d3) * v + d2) * v + a1
        q = (((b4 * u + b3) * u + b2) * u + b1) * u + b0
        dq = ((e4 * u + e3) * u + e2) * u + b1
        dq = -dq if absolute and v < zero else dq
        inverse = one / (base + abs(q))
        w = p * inverse
        w = w if q >= zero else -w
        dx[i] = g[i] * inverse * (dp - w * dq)


@_compiled
def _backward_5_4(
    x: Array, g: Array, dx: Array, a: Array, b: Array, base: np.float32, absolute: bool, limit: float, out: Array
) -> None:
    """dx, and the twelve sums added to `out`."""
    edge, far = np.float32(limit), np.float32(0)
    zero, one = np.float32(0), np.float32(1)
    a0, a1, a2, a3, a4, a5 = a[0], a[1], a[2], a[3], a[4], a[5]
    b0, b1, b2, b3, b4 = b[0], b[1], b[2], b[3], b[4]
    d2, d3, d4, d5 = np.float32(2) * a2, np.float32(3) * a3, np.float32(4) * a4, np.float32(5) * a5
    e2, e3, e4 = np.float32(2) * b2, np.float32(3) * b3, np.float32(4) * b4
    s0, s1, s2, s3, s4, s5 = zero, zero, zero, zero, zero, zero
    t0, t1, t2, t3, t4 = zero, zero, zero, zero, zero
    for i in range(len(x)):
        v = x[i]
        u = abs(v) if absolute else v
        p = ((((a5 * v + a4) * v + a3) * v + a2) * v + a1) * v + a0
        dp = (((d5 * v + d4) * v + d3) * v + d2) * v + a1
        q = (((b4 * u + b3) * u + b2) * u + b1) * u + b0
        dq = ((e4 * u + e3) * u + e2) * u + b1
        dq = -dq if absolute and v < zero else dq
        inverse = one / (base + abs(q))
        h = g[i] * inverse
        w = -h * p * inverse
        w = w if q >= zero else -w
        dx[i] = h * dp + w * dq
        far += one if abs(v) > edge else zero
        s0 += h
        h *= v
        s1 += h
        h *= v
        s2 += h
        h *= v
        s3 += h
        h *= v
        s4 += h
        s5 += h * v
        t0 += w
        w *= u
        t1 += w
        w *= u
        t2 += w
        w *= u
        t3 += w
        t4 += w * u
    for k, total in enumerate((far, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4)):
        out[k] += total


@_compiled
def _beyond(x: Array, limit: float) -> float:
    """How many of at most 2^24 elements are beyond +-limit."""
    zero, one, edge, count = np.float32(0), np.float32(1), np.float32(limit), np.float32(0)
    for i in range(len(x)):
        count += one if abs(x[i]) > edge else zero
    return float(count)


@_compiled
def _forward_block(x: Array, y: Array, c: Array, terms: int, kind: int) -> None:
    a, b = c[:terms], _denominator(c, terms, kind)
    base = np.float32(0.1) if kind == _C else np.float32(1)
    if terms == 6 and len(b) == 5:
        _forward_5_4(x, y, a, b, base, kind == _A)
        return
    q, u = np.empty(_PIECE, np.float32), np.empty(_PIECE, np.float32)
    for start in range(0, len(x), _PIECE):
        xs, ys = x[start : start + _PIECE], y[start : start + _PIECE]
        us = _power_base(xs, u, kind)
        _polynomial(xs, a, ys)
        _polynomial(us, b, q)
        for i in range(len(xs)):
            ys[i] = ys[i] / (base + abs(q[i]))


@_compiled
def _backward_block(
    x: Array, g: Array, dx: Array, c: Array, terms: int, kind: int, limit: float, sums: bool, out: Array
) -> None:
    """out [1 + terms + len(b)]: elements beyond +-limit; with `sums` the gradients of a, then of b."""
    a, b = c[:terms], _denominator(c, terms, kind)
    zero, one = np.float32(0), np.float32(1)
    base = np.float32(0.1) if kind == _C else one
    usual = terms == 6 and len(b) == 5
    if usual and sums:
        for start in range(0, len(x), 8 * _PIECE):
            end = start + 8 * _PIECE
            _backward_5_4(x[start:end], g[start:end], dx[start:end], a, b, base, kind == _A, limit, out)
        return
    out[0] += _beyond(x, limit)
    if usual:
        _slope_5_4(x, g, dx, a, b, base, kind == _A)
        return
    p, dp = np.empty(_PIECE, np.float32), np.empty(_PIECE, np.float32)
    q, dq = np.empty(_PIECE, np.float32), np.empty(_PIECE, np.float32)
    u = np.empty(_PIECE, np.float32)
    for start in range(0, len(x), _PIECE):
        xs, gs, ds = x[start : start + _PIECE], g[start : start + _PIECE], dx[start : start + _PIECE]
        us = _power_base(xs, u, kind)
        _polynomial_and_slope(xs, a, p, dp)
        _polynomial_and_slope(us, b, q, dq)
        if kind == _A:
            for i in range(len(xs)):
                dq[i] = dq[i] if xs[i] >= zero else -dq[i]  # d|x|/dx, 1 at 0
        for i in range(len(xs)):
            inverse = one / (base + abs(q[i]))
            h = gs[i] * inverse
            w = -h * p[i] * inverse
            w = w if q[i] >= zero else -w  # d|q|/dq, 1 at 0: b moves away from 0
            ds[i] = h * dp[i] + w * dq[i]
            p[i] = h
            q[i] = w
        if sums:
            _moments(p, xs, terms, out, 1)
            _moments(q, us, len(b), out, 1 + terms)


@_compiled
def _forward_rows(x: Array, y: Array, c: Array, terms: int, kind: int) -> None:
    blocks = (x.shape[1] + _BLOCK - 1) // _BLOCK
    for job in range(len(x) * blocks):
        row, low = job // blocks, job % blocks * _BLOCK
        _forward_block(x[row, low : low + _BLOCK], y[row, low : low + _BLOCK], c[row], terms, kind)


@_parallel
def _forward_in_threads(x: Array, y: Array, c: Array, terms: int, kind: int) -> None:
    blocks = (x.shape[1] + _BLOCK - 1) // _BLOCK
    for job in numba.prange(len(x) * blocks):
        row, low = job // blocks, job % blocks * _BLOCK
        _forward_block(x[row, low : low + _BLOCK], y[row, low : low + _BLOCK], c[row], terms, kind)


@_compiled
def _backward_rows(
    x: Array, g: Array, dx: Array, c: Array, terms: int, kind: int, limit: float, sums: bool, out: Array
) -> None:
    blocks = out.shape[1]
    for job in range(len(x) * blocks):
        row, low = job // blocks, job % blocks * _BLOCK
        piece = slice(low, low + _BLOCK)
        _backward_block(
            x[row, piece], g[row, piece], dx[row, piece], c[row], terms, kind, limit, sums, out[row, job % blocks]
        )


@_parallel
def _backward_in_threads(
    x: Array, g: Array, dx: Array, c: Array, terms: int, kind: int, limit: float, sums: bool, out: Array
) -> None:
    blocks = out.shape[1]
    for job in numba.prange(len(x) * blocks):
        row, low = job // blocks, job % blocks * _BLOCK
        piece = slice(low, low + _BLOCK)
        _backward_block(
            x[row, piece], g[row, piece], dx[row, piece], c[row], terms, kind, limit, sums, out[row, job % blocks]
        )


@_compiled
def _gathered(out: Array, c: Array, terms: int, kind: int, dc: Array) -> float:
    """Sum the blocks, in their order: the gradient of c to dc, and elements beyond the limit."""
    beyond, skipped = 0.0, 0 if kind == _C else 1  # the sum for a b_0 that is not there
    for row in range(len(c)):
        for block in range(out.shape[1]):
            beyond += out[row, block, 0]
        for k in range(c.shape[1]):
            total = 0.0
            for block in range(out.shape[1]):
                total += out[row, block, 1 + k + (skipped if k >= terms else 0)]
            dc[row, k] = -total if kind == _A and k >= terms and c[row, k] < 0 else total  # d|b|/db
    return beyond


def _threads(elements: int) -> int:
    """Threads that pay; numba's are told to be as many as torch's."""
    threads = min(torch.get_num_threads(), _MOST_THREADS)
    if threads == 1 or elements <= 2 * _BLOCK:
        return 1
    numba.set_num_threads(threads)
    return threads


def forward(x: Array, c: Array, terms: int, version: str, y: Array) -> None:
    """y = R(x). x, y: float32 [copies, size]; c: [copies, K], numerator (`terms` numbers), then denominator."""
    run = _forward_rows if _threads(x.size) == 1 else _forward_in_threads
    run(x, y, c, terms, _KINDS[version])


def backward(
    x: Array, g: Array, c: Array, terms: int, version: str, limit: float, *, sums: bool, dx: Array
) -> tuple[Array | None, float]:
    """dx = g dR/dx; returns the gradient of c float32 [copies, K] (None without `sums`), and the share of |x| > limit.

    x, g, dx: float32 [copies, size].
    """
    kind = _KINDS[version]
    out = np.zeros((len(x), -(-x.shape[1] // _BLOCK), 1 + c.shape[1] + (kind != _C)))
    run = _backward_rows if _threads(x.size) == 1 else _backward_in_threads
    run(x, g, dx, c, terms, kind, limit, sums, out)
    dc = np.empty_like(c)
    beyond = _gathered(out, c, terms, kind, dc)
    return dc if sums else None, beyond / max(x.size, 1)


def warm_up() -> None:
    """Compile everything, for one thread and for several."""
    x = np.linspace(-1, 1, 3 * _BLOCK, dtype=np.float32)[None]
    c = np.ones((1, 3), np.float32)
    y, out = np.empty_like(x), np.zeros((1, 3, 5))
    _forward_rows(x, y, c, 2, 0)
    _backward_rows(x, x, y, c, 2, 0, 3.0, True, out)
    _gathered(out, c, 2, 0, c.copy())
    if min(torch.get_num_threads(), _MOST_THREADS) > 1:
        _forward_in_threads(x, y, c, 2, 0)
        _backward_in_threads(x, x, y, c, 2, 0, 3.0, True, out)
