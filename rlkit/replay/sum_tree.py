"""A sum tree with 16 children a node, and a minimum tree of the same shape: compiled, exact, drawn from in batches.

Nobody ever adds a difference to a node: parents are computed anew from their children, so nothing drifts and a tree is
a function of its leaves. The 16 children of a node are added in pairs, the 8 sums again in pairs, and so on; a descent
compares at each of the four halvings. So results equal those of a binary tree bit for bit, with a quarter of its levels
and a fifteenth of its inner nodes.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rlkit.core.kernels import kernel
from rlkit.core.typing import IntArray

Float64Array: TypeAlias = npt.NDArray[np.float64]

FAN_OUT = 16
LARGE_LEVELS = 2  # from the leaves up: those that may not be in the nearest caches


class _Leaves:
    """Shape and storage that both trees share: about 8.53 bytes a leaf."""

    def __init__(self, capacity: int, empty: float) -> None:
        widths = [-(-capacity // FAN_OUT) * FAN_OUT]
        while widths[-1] > FAN_OUT:
            widths.append(-(-widths[-1] // FAN_OUT // FAN_OUT) * FAN_OUT)
        # At a border of 64 bytes, so that 16 children lie in two cache lines and not in three.
        room = np.full(sum(widths) + 7, empty)
        begin = -room.ctypes.data // 8 % 8
        self.capacity = capacity
        self.nodes = room[begin : begin + sum(widths)]  # level by level, leaves first, filled up to multiples of 16
        self.starts = np.cumsum([0, *widths[:-1]])  # where each level begins; the last one is 16 nodes
        self.leaves = self.nodes[:capacity]  # after writing them, `rebuild`


class SumTree(_Leaves):
    """`capacity` float64 leaves that are never negative, and their sums."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, 0.0)

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return total(self.nodes, self.starts)

    def set(self, slots: IntArray, values: Float64Array) -> None:
        """leaves[slots] = values, both [N]; the last one wins where a slot is there twice."""
        self.leaves[slots] = values
        refresh_sums(self.nodes, self.starts, slots)

    def rebuild(self) -> None:
        """Compute all parents from the leaves."""
        refresh_sums(self.nodes, self.starts, np.arange(0, self.capacity, FAN_OUT))

    def find(self, mass: Float64Array) -> IntArray:
        """Slots int64 [N] of the leaves into which `mass` [N] falls: see the kernel."""
        slots = np.empty(len(mass), np.int64)
        find(self.nodes, self.starts, mass.copy(), slots)
        return slots


class MinTree(_Leaves):
    """`capacity` float64 leaves, inf at first, and the smallest of them."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, np.inf)

    @property
    def smallest(self) -> float:
        """The smallest leaf."""
        return smallest(self.nodes, self.starts)

    def set(self, slots: IntArray, values: Float64Array) -> None:
        """leaves[slots] = values, both [N]; the last one wins where a slot is there twice."""
        self.leaves[slots] = values
        refresh_minima(self.nodes, self.starts, slots)

    def rebuild(self) -> None:
        """Compute all parents from the leaves."""
        refresh_minima(self.nodes, self.starts, np.arange(0, self.capacity, FAN_OUT))


@kernel
def _sum4(x: Float64Array, k: int) -> float:
    return float((x[k] + x[k + 1]) + (x[k + 2] + x[k + 3]))


@kernel
def _sum8(x: Float64Array, k: int) -> float:
    return _sum4(x, k) + _sum4(x, k + 4)


@kernel
def _sum16(x: Float64Array, k: int) -> float:
    return _sum8(x, k) + _sum8(x, k + 8)


@kernel
def _less(a: float, b: float) -> float:
    return a if a < b else b


@kernel
def _min4(x: Float64Array, k: int) -> float:
    return _less(_less(x[k], x[k + 1]), _less(x[k + 2], x[k + 3]))


@kernel
def _min16(x: Float64Array, k: int) -> float:
    return _less(_less(_min4(x, k), _min4(x, k + 4)), _less(_min4(x, k + 8), _min4(x, k + 12)))


@kernel
def fetch(x: Float64Array, first: int, blocks: IntArray) -> int:
    """Read `blocks` of 16, from x[first] on, out of memory: here their cache misses overlap, which they do not where
    there is more to do with each. Returns 0, which has to be used, or the compiler would find nothing to do.
    """
    fetched = 0.0
    for block in blocks:
        fetched += x[first + 16 * block] + x[first + 16 * block + 8]
    return np.int64(np.isnan(fetched))  # type: ignore[return-value]  # numba types it


@kernel
def _refresh(nodes: Float64Array, starts: IntArray, slots: IntArray, minima: bool) -> None:
    places = slots.copy()
    # Level by level, not leaf by leaf: cache misses overlap, and neighbours share their parents' work.
    for level in range(len(starts) - 1):
        children, parents = starts[level], starts[level + 1]
        count = (parents - children) // 16
        if count <= len(places):  # from here on up it is less work to compute all
            for place in range(count):
                block = children + 16 * place
                nodes[parents + place] = _min16(nodes, block) if minima else _sum16(nodes, block)
            continue
        for i in range(len(places)):
            places[i] //= 16
        if level < LARGE_LEVELS:
            children += fetch(nodes, children, places)
        last = -1
        for place in places:
            if place != last:
                block = children + 16 * place
                nodes[parents + place] = _min16(nodes, block) if minima else _sum16(nodes, block)
            last = place


@kernel
def refresh_sums(nodes: Float64Array, starts: IntArray, slots: IntArray) -> None:
    """Compute the parents of `slots` [N] from their children, in the tree of a SumTree."""
    _refresh(nodes, starts, slots, False)


@kernel
def refresh_minima(nodes: Float64Array, starts: IntArray, slots: IntArray) -> None:
    """Compute the parents of `slots` [N] from their children, in the tree of a MinTree."""
    _refresh(nodes, starts, slots, True)


@kernel
def total(nodes: Float64Array, starts: IntArray) -> float:
    """The sum of all leaves."""
    return _sum16(nodes, starts[-1])


@kernel
def smallest(nodes: Float64Array, starts: IntArray) -> float:
    """The smallest leaf."""
    return _min16(nodes, starts[-1])


@kernel
def find(nodes: Float64Array, starts: IntArray, mass: Float64Array, slots: IntArray) -> None:
    """slots[j] = the leaf into which mass[j], 0 to total, falls when leaves lie one after the other.

    A border belongs to the leaf behind it, and the total to the last leaf that is not empty. At each halving it goes
    right if mass >= left and the right half is not empty: whatever rounding does, no empty leaf is returned as long as
    the total is above 0. `mass` [N] is used up.
    """
    slots[:] = 0
    # Level by level: the descents of a batch overlap.
    for level in range(len(starts) - 1, -1, -1):
        start = starts[level]
        if level < LARGE_LEVELS:
            start += fetch(nodes, start, slots)
        for j in range(len(mass)):
            u, k = mass[j], start + 16 * slots[j]
            left, right = _sum8(nodes, k), _sum8(nodes, k + 8)
            go = np.int64((u >= left) & (right > 0))  # no branches: nothing to mispredict
            u, k = u - go * left, k + go * 8
            left, right = _sum4(nodes, k), _sum4(nodes, k + 4)
            go = np.int64((u >= left) & (right > 0))
            u, k = u - go * left, k + go * 4
            left, right = nodes[k] + nodes[k + 1], nodes[k + 2] + nodes[k + 3]
            go = np.int64((u >= left) & (right > 0))
            u, k = u - go * left, k + go * 2
            left, right = nodes[k], nodes[k + 1]
            go = np.int64((u >= left) & (right > 0))
            mass[j], slots[j] = u - go * left, k + go - start


@kernel
def at_most(nodes: Float64Array, starts: IntArray, bound: float, slots: IntArray) -> int:
    """Fill `slots` with leaves <= bound of a MinTree, in their order; how many. All of them only if fewer than fit."""
    here, below = np.empty(len(slots), np.int64), np.empty(len(slots) + FAN_OUT, np.int64)
    here[0], count = 0, 1
    for level in range(len(starts) - 1, -1, -1):
        start, found = starts[level], 0
        if level < LARGE_LEVELS:
            start += fetch(nodes, start, here[:count])
        for j in range(count):
            for child in range(16 * here[j], 16 * here[j] + 16):
                if nodes[start + child] <= bound:
                    below[found] = child
                    found += 1
            if found >= len(slots):
                break
        count = min(found, len(slots))
        here[:count] = below[:count]
    slots[:count] = here[:count]
    return count
