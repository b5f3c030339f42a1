"""Names for the arrays and states that cross module borders."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

# What `state_dict` returns: nested dicts and lists of tensors, arrays, bytes, ints of any size, floats, strings, None.
State: TypeAlias = dict[str, Any]
