"""Data inside an HTML page: little-endian arrays and JSON, deflated, in base64, opened when the page needs them."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Blob = dict[str, Any]  # what the page needs to open one

_LEVEL = 6  # of 9: the next three save 1 % and take three times as long


class Blobs:
    """Collects data; `html` is the text to put into the page."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, array: Array, *, differences: bool = False) -> Blob:
        """uint8, uint16, uint32 or float32 of any shape. What makes them smaller when deflated:

        first all first bytes, then all second ones, ...; differences: of uint8, from the left neighbour.
        """
        values = np.ascontiguousarray(array)
        if differences:
            values = values.copy()
            values[..., 1:] -= array[..., :-1]  # modulo 256, as the page adds them
        little = values.astype(values.dtype.newbyteorder("<")).tobytes()
        planes = np.frombuffer(little, np.uint8).reshape(-1, array.dtype.itemsize).T
        number = self._append(planes.tobytes())
        return {"blob": number, "type": array.dtype.name, "shape": list(array.shape), "differences": differences}

    def add_json(self, tree: Any) -> Blob:
        """A tree without NaN."""
        return {"blob": self._append(to_json(tree).encode()), "type": "json"}

    def html(self) -> str:
        """A script element, of a type that no browser runs, for each."""
        return "\n".join(
            f'<script type="text/plain" id="blob-{i}">{text}</script>' for i, text in enumerate(self._texts)
        )

    def _append(self, content: bytes) -> int:
        self._texts.append(base64.b64encode(zlib.compress(content, _LEVEL)).decode())
        return len(self._texts) - 1


def to_json(tree: Any) -> str:
    """Short JSON that may stand in a script element."""
    return json.dumps(tree, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
