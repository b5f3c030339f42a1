"""Maximum of two Atari screens and area resize to 84x84, equal bit for bit to OpenCV's INTER_AREA."""

from __future__ import annotations

import numpy as np
from numba import njit

from rlkit.core.typing import Array

SIZE = 84


def area_weights(source: int, target: int) -> tuple[Array, Array]:
    """Source cells and float32 weights of each target cell, [cells, target]; unused entries have weight 0."""
    scale = source / target
    cells = int(np.ceil(scale)) + 1
    index = np.zeros((cells, target), np.int64)
    weights = np.zeros((cells, target), np.float32)
    for i in range(target):
        low, high = i * scale, min((i + 1) * scale, source)
        for k in range(cells):
            cell = int(low + 1e-9) + k
            index[k, i] = min(cell, source - 1)
            covered = min(high, cell + 1) - max(low, cell)
            if covered > 1e-3:  # OpenCV drops slivers thinner than this
                weights[k, i] = covered / (high - low)
    used = weights.any(axis=1)
    return index[used], weights[used]


@njit(cache=True)
def max_and_resize(
    one: Array, two: Array, rows: Array, row_weights: Array, columns: Array, column_weights: Array, out: Array
) -> None:
    """max(one, two) [H, W] uint8 -> out [84, 84] uint8; float32 sums in OpenCV's order, columns first, then rows."""
    height, width = one.shape
    cells_y, size_y = rows.shape
    cells_x, size_x = columns.shape
    pixels = np.empty(width, np.float32)
    narrow = np.empty((height, size_x), np.float32)
    for y in range(height):
        for x in range(width):
            pixels[x] = np.float32(max(one[y, x], two[y, x]))
        for x in range(size_x):
            narrow[y, x] = pixels[columns[0, x]] * column_weights[0, x]
        for k in range(1, cells_x):
            for x in range(size_x):
                narrow[y, x] += pixels[columns[k, x]] * column_weights[k, x]
    total = np.empty(size_x, np.float32)
    for y in range(size_y):
        weight = row_weights[0, y]
        for x in range(size_x):
            total[x] = narrow[rows[0, y], x] * weight
        for k in range(1, cells_y):
            weight = row_weights[k, y]
            for x in range(size_x):
                total[x] += narrow[rows[k, y], x] * weight
        for x in range(size_x):
            out[y, x] = np.uint8(np.rint(total[x]))
