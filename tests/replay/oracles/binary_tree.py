"""A sum tree as an array per level, root first, each twice as wide as the one before: plain numpy."""

from __future__ import annotations

import numpy as np


class BinaryTree:
    """`capacity` leaves, filled up with zeros to a power of two."""

    def __init__(self, capacity: int) -> None:
        depth = (capacity - 1).bit_length()
        self.levels = [np.zeros(2**k) for k in range(depth + 1)]

    @property
    def total(self) -> float:
        return float(self.levels[0][0])

    def set(self, slots: np.ndarray, values: np.ndarray) -> None:
        self.levels[-1][slots] = values
        for parents, children in zip(self.levels[-2::-1], self.levels[:0:-1], strict=True):
            parents[:] = children[0::2] + children[1::2]

    def find(self, mass: np.ndarray) -> np.ndarray:
        slots = np.zeros(len(mass), np.int64)
        for level in self.levels[1:]:
            left, right = level[2 * slots], level[2 * slots + 1]
            go = (mass >= left) & (right > 0)
            mass = np.where(go, mass - left, mass)
            slots = 2 * slots + go
        return slots
