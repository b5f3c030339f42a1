"""How often is a row drawn before it is overwritten? Closed forms for two samplers, and a simulation of any.

A row lives for C writes, C = capacity, and is drawn r times on average: r = draws per write. The closed forms are for a
full ring, one write at a time and large C. An epoch is C draws. Source: derived here; a row meets r epochs from a
uniform phase on, and an epoch of RR-C (Fujita 2025, arXiv:2503.02269) visits each slot once, at a uniform time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlkit.core.errors import ReplayError
from rlkit.core.kernels import kernel
from rlkit.core.typing import IntArray
from rlkit.replay.samplers.sampler import Sampler

DoubleArray = npt.NDArray[np.float64]


def variance_with_replacement(r: float) -> float:
    """Var N of independent uniform draws: Poisson(r), the limit of Binomial(rC, 1/C)."""
    return r


def never_with_replacement(r: float) -> float:
    """P(N = 0) of independent uniform draws."""
    return math.exp(-r)


def delay_with_replacement(r: float) -> float:
    """Mean epochs from the write to the first draw, of the rows that have one: exponential, cut off at r."""
    return 1 - r * math.exp(-r) / -math.expm1(-r)


def variance_reshuffled(r: float) -> float:
    """Var N of RR-C: two partly met epochs, each p(1 - p) of a uniform part p; r <= 1 may lie inside one epoch."""
    return 1 / 3 if r >= 1 else r - r**2 + r**3 / 3


def never_reshuffled(r: float) -> float:
    """P(N = 0) of RR-C."""
    if r <= 1:
        return 1 - r + r**3 / 6
    return (2 - r) ** 3 / 6 if r < 2 else 0.0


def delay_reshuffled(r: float) -> float:
    """Mean epochs from the write to the first draw, of the rows that have one; 7/12 from r = 2 on.

    The first draw is later than t with probability `never_reshuffled(t)`, whose integral over [0, r] is `area`.
    """
    if r >= 2:
        return 7 / 12
    area = r - r**2 / 2 + r**4 / 24 if r <= 1 else 7 / 12 - (2 - r) ** 4 / 24
    never = never_reshuffled(r)
    return (area - r * never) / (1 - never)


def bounds_reshuffled(r: float) -> tuple[float, float]:
    """Fewest and most visits that RR-C can give a row."""
    return max(0, math.floor(r) - 1), math.ceil(r) + 1


def bounds_with_replacement(r: float) -> tuple[float, float]:
    """There are none, whatever r."""
    return 0, math.inf


@dataclass(frozen=True)
class ClosedForm:
    """The functions of r above, for one sampler."""

    variance: Callable[[float], float]
    never: Callable[[float], float]
    delay: Callable[[float], float]
    bounds: Callable[[float], tuple[float, float]]


CLOSED_FORMS = {  # by the name of a sampler with its default settings
    "uniform": ClosedForm(
        variance_with_replacement, never_with_replacement, delay_with_replacement, bounds_with_replacement
    ),
    "rr-c": ClosedForm(variance_reshuffled, never_reshuffled, delay_reshuffled, bounds_reshuffled),
}


@dataclass(frozen=True)
class Visits:
    """What a simulated ring did with its D overwritten rows, in the order of writing."""

    count: IntArray  # [D] draws of the row
    expected: DoubleArray  # [D] sum over the batches in its life of B * its share of the stored priorities
    first_visit_delay: DoubleArray  # [D] epochs from its write to its first draw; NaN without one
    gap_mean: float  # between two visits of a slot, in epochs
    gap_sd: float
    gap_max: float


def simulate(
    sampler: Sampler,
    *,
    batch_size: int,
    writes_per_batch: int,
    warm_up: int,
    rings: int = 20,
    priority: DoubleArray | None = None,
) -> Visits:
    """Write, overwrite the oldest, draw `batch_size` rows with a fresh `sampler`, for rings + 2 capacities C of rows.

    warm_up: rows written before the first batch. The first C rows of the result lived in a ring that was still growing,
    the `rings` * C others in a full one; the last C are still alive and not reported. priority: [(rings + 2) * C] of
    each row, never updated, None = all equal; that the sampler draws in proportion to it is up to the caller.

    Raises ReplayError if the ring cannot take so many writes at once, and where the sampler does.
    """
    capacity = sampler.capacity
    if max(warm_up, writes_per_batch) > capacity:
        raise ReplayError(
            f"{max(warm_up, writes_per_batch)} rows before a batch do not fit a ring of {capacity}",
            why="a row must live until a batch can draw it",
            fix="a larger capacity, or more draws per write",
            see="docs/replay.md",
        )
    rows = (rings + 2) * capacity
    priority = np.ones(rows) if priority is None else priority
    written = np.arange(warm_up, rows + 1, writes_per_batch)  # [batches] rows before each batch
    count, first = np.zeros(rows, np.int64), np.full(rows, -1, np.int64)
    last, gap = np.full(capacity, -1, np.int64), np.zeros(4)
    before = 0
    for batch, now in enumerate(written):
        uids = np.arange(before, int(now))
        slots = uids % capacity
        sampler.invalidate(slots)
        sampler.extend(slots, uids, priority[uids].astype(np.float32))
        slots, info = sampler.sample(batch_size)
        record(slots, info.uid, batch * batch_size, count, first, last, gap)
        before = int(now)

    dead = np.arange(written[-1] - capacity)
    birth = np.searchsorted(written, dead, side="right")  # first batch of its life
    death = np.searchsorted(written, dead + capacity, side="right")  # first batch after it
    total = np.append(0.0, np.cumsum(priority))
    stored = total[written] - total[np.maximum(written - capacity, 0)]
    visits = np.append(0.0, np.cumsum(batch_size / stored))  # per unit of priority
    delay = np.where(first[dead] < 0, np.nan, first[dead] - birth * batch_size) / capacity
    gap_mean, gap_square = gap[1:3] / gap[0] if gap[0] else (math.nan, math.nan)
    return Visits(
        count=count[dead],
        expected=priority[dead] * (visits[death] - visits[birth]),
        first_visit_delay=delay,
        gap_mean=gap_mean / capacity,
        gap_sd=math.sqrt(gap_square - gap_mean**2) / capacity,
        gap_max=gap[3] / capacity,
    )


@kernel
def record(
    slots: IntArray, uids: IntArray, draw: int, count: IntArray, first: IntArray, last: IntArray, gap: DoubleArray
) -> None:
    """Enter a batch whose first draw has number `draw`; gap: number, sum, sum of squares, maximum, in draws."""
    for i in range(len(slots)):
        slot, uid = slots[i], uids[i]
        count[uid] += 1
        if first[uid] < 0:
            first[uid] = draw + i
        if last[slot] >= 0:
            distance = draw + i - last[slot]
            gap[0] += 1
            gap[1] += distance
            gap[2] += distance**2
            gap[3] = max(gap[3], distance)
        last[slot] = draw + i
