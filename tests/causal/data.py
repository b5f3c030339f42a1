"""Random linear models, the same on every machine and numpy version; needs numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rlkit.core.seeding import CounterStream

ROWS = 400


def random_model(seed: int) -> npt.NDArray[np.float64]:
    """Rows [400, D] of D = 3 to 8 variables, some of them linear in others, with uniform or heavy-tailed noise."""
    stream = CounterStream(seed)
    size = 3 + seed % 6

    def uniform(*shape: int) -> npt.NDArray[np.float64]:
        return 2 * stream.units(int(np.prod(shape))).reshape(shape) - 1

    effects = np.tril(3 * uniform(size, size), -1) * (stream.units(size * size).reshape(size, size) < 0.6)
    noise = uniform(ROWS, size)
    heavy = stream.units(size) < 0.5
    noise[:, heavy] = 3 * noise[:, heavy] ** 3
    x = np.zeros((ROWS, size))
    for column in range(size):
        x[:, column] = x @ effects[column] + noise[:, column]
    units = 10 ** (2 * uniform(size))  # mixed units, from 0.01 to 100
    return (x * units)[:, np.argsort(stream.units(size))]
