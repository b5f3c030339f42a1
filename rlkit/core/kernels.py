"""Compiled loops: how a numba kernel is declared here, and the random stream that kernels share.

A kernel's plain numpy twin stands in the tests and gives the same results bit for bit. Compilation is cached on disk
beside the source. The cache of a kernel does not notice a change in another file's kernel that it calls: after such a
change delete the `__pycache__` folders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., object])

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32), np.uint64(11)
_LOW = np.uint64(0xFFFFFFFF)


def kernel(function: F) -> F:
    """`function` compiled at its first call, without the GIL, with IEEE arithmetic (no fastmath) and no checks."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


@kernel
def word(key: np.uint64, q: np.uint64) -> np.uint64:
    """Draw number q of the stream with this key: `CounterStream(seed).words`, whose key is splitmix64(seed)."""
    x = (key ^ q) + _GOLDEN
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    return x ^ (x >> _S31)


@kernel
def below(h: np.uint64, n: int) -> int:
    """The word h as an integer in [0, n): floor(h * n / 2^64) exactly; n < 2^32."""
    wide = np.uint64(n)
    low = ((h & _LOW) * wide) >> _S32
    return np.int64(((h >> _S32) * wide + low) >> _S32)  # type: ignore[return-value]  # numba types it


@kernel
def unit(h: np.uint64) -> float:
    """The word h as a float in [0, 1): its upper 53 bits."""
    return np.float64(h >> _S11) * 2.0**-53
