"""Where the frames of a replay live: in memory, in a file mapped into memory, or on a device.

A storage holds `rows` frames, numbers 0 to rows - 1, and one more, number `rows`, that is always zero: the padding of a
stack is a number like any other.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlkit.core.errors import ReplayError, ResourceError
from rlkit.core.kernels import kernel
from rlkit.core.typing import Array, IntArray

T = TypeVar("T")

_SHORT_ROW_BYTES = 1_024  # rows up to here are copied by a kernel; torch uses all its threads for longer ones


class FrameStorage(Protocol):
    """`rows` frames of `width` values, and a zero frame after them. One thread at a time."""

    rows: int
    width: int
    dtype: np.dtype[np.generic]
    device: torch.device

    @property
    def nbytes(self) -> int:
        """Bytes that it takes where it lives."""

    def write(self, rows: IntArray, values: Array) -> None:
        """Store `values` [N, width] under the numbers `rows` [N], which differ from each other.

        Raises ReplayError if a number is not in [0, rows).
        """

    def gather(self, rows: IntArray, out: Tensor) -> Tensor:
        """Copy frames `rows` [N] into `out` [N, width], which is on `device`, and return it.

        Raises ReplayError if a number is not in [0, rows].
        """

    def read(self, rows: IntArray) -> Array:
        """Frames `rows` [N] as an array [N, width] of its own."""

    def close(self) -> None:
        """Free the memory; what is called after this, but for `close`, raises ReplayError."""


class RamStorage:
    """Frames in memory that the system hands out as they are written."""

    device = torch.device("cpu")

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike) -> None:
        self.rows, self.width, self.dtype = rows, width, np.dtype(dtype)
        # Not torch.zeros: it touches every page at once and lacks numpy's large pages, worth 15 % of a gather. numpy
        # does not align to cache lines, though, and a short row would lie in one line more.
        raw = np.zeros(self.nbytes + 64, np.uint8)
        aligned = raw[-raw.ctypes.data % 64 :][: self.nbytes]
        self._frames: Array | None = aligned.view(self.dtype).reshape(rows + 1, width)

    @property
    def nbytes(self) -> int:
        """Bytes of memory once every frame has been written."""
        return _nbytes(self)

    def write(self, rows: IntArray, values: Array) -> None:
        """Store `values` [N, width] under the numbers `rows` [N]."""
        _write(_open(self._frames), rows, values)

    def gather(self, rows: IntArray, out: Tensor) -> Tensor:
        """Frames `rows` [N] into `out` [N, width]."""
        return _gather(_open(self._frames), rows, out)

    def read(self, rows: IntArray) -> Array:
        """Frames `rows` [N] as an array of its own."""
        return _read(_open(self._frames), rows)

    def close(self) -> None:
        """Free the memory."""
        self._frames = None


class MemoryMapStorage:
    """Frames in a file without a name in `directory`, mapped into memory; the system keeps the used ones in its cache.

    All its space is taken at once, so a full disk cannot end the process later (SIGBUS). It is gone with the process.
    Raises ResourceError if the disk does not hold it.
    """

    device = torch.device("cpu")

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike, directory: Path) -> None:
        self.rows, self.width, self.dtype = rows, width, np.dtype(dtype)
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                if self.nbytes > shutil.disk_usage(directory).free:  # do not fill the disk to find out
                    _disk_too_small(directory, self.nbytes, "there is too little space")
                os.posix_fallocate(file.fileno(), 0, self.nbytes)
                memory = mmap.mmap(file.fileno(), self.nbytes)
        except OSError as error:
            _disk_too_small(directory, self.nbytes, error.strerror or str(error))
        self._frames: Array | None = np.frombuffer(memory, self.dtype).reshape(rows + 1, width)

    @property
    def nbytes(self) -> int:
        """Bytes of disk."""
        return _nbytes(self)

    def write(self, rows: IntArray, values: Array) -> None:
        """Store `values` [N, width] under the numbers `rows` [N]."""
        _write(_open(self._frames), rows, values)

    def gather(self, rows: IntArray, out: Tensor) -> Tensor:
        """Frames `rows` [N] into `out` [N, width]."""
        return _gather(_open(self._frames), rows, out)

    def read(self, rows: IntArray) -> Array:
        """Frames `rows` [N] as an array of its own."""
        return _read(_open(self._frames), rows)

    def close(self) -> None:
        """Give the disk space back."""
        self._frames = None  # the last reference to the map, which is the last one to the file


class DeviceStorage:
    """Frames in a tensor on `device`; numbers come from the host, frames are gathered on the device.

    Writing and gathering are queued on the current stream and do not wait. Raises ResourceError if they do not fit.
    """

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike, device: torch.device | str) -> None:
        self.rows, self.width, self.dtype, self.device = rows, width, np.dtype(dtype), torch.device(device)
        self._torch_type = torch.from_numpy(np.empty(0, self.dtype)).dtype
        try:
            frames = torch.zeros(rows + 1, width, dtype=self._torch_type, device=self.device)
        except torch.OutOfMemoryError as error:
            free = torch.cuda.mem_get_info(self.device)[0]
            raise ResourceError(
                f"the replay's frames need {self.nbytes / 1e9:.2f} GB on {self.device}, {free / 1e9:.2f} GB are free",
                why=f"{rows:,} rows of {width * self.dtype.itemsize:,} bytes",
                fix="a smaller replay.capacity, or keep the replay in memory",
                see="docs/replay.md",
            ) from error
        self._frames: Tensor | None = frames

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return _nbytes(self)

    def write(self, rows: IntArray, values: Array) -> None:
        """Store `values` [N, width] under the numbers `rows` [N]."""
        frames = _open(self._frames)
        _check(rows, self.rows)  # on the host: a wrong number on a GPU would make every later call fail, too
        sent = self._send(values, self._torch_type, [len(rows), self.width])
        frames.index_copy_(0, self._send(rows, torch.int64, [len(rows)]), sent)

    def gather(self, rows: IntArray, out: Tensor) -> Tensor:
        """Frames `rows` [N] into `out` [N, width] on the device."""
        frames = _open(self._frames)
        _check(rows, self.rows + 1)
        return torch.index_select(frames, 0, self._send(rows, torch.int64, [len(rows)]), out=out)

    def read(self, rows: IntArray) -> Array:
        """Frames `rows` [N] as an array of its own; waits for the device."""
        out = torch.empty(len(rows), self.width, dtype=self._torch_type, device=self.device)
        found: Array = self.gather(rows, out).cpu().numpy()
        return found

    def close(self) -> None:
        """Free the memory of the device."""
        self._frames = None

    def _send(self, values: Array, torch_type: torch.dtype, shape: list[int]) -> Tensor:
        """A copy on the device. Page-locked memory goes there without a wait; torch reuses it only after the copy."""
        staged = torch.empty(shape, dtype=torch_type, pin_memory=self.device.type == "cuda")
        staged.numpy()[...] = values
        return staged.to(self.device, non_blocking=True)


def _nbytes(storage: FrameStorage) -> int:
    return (storage.rows + 1) * storage.width * storage.dtype.itemsize


def _open(frames: T | None) -> T:
    if frames is None:
        raise ReplayError(
            "this storage is closed", why="its memory has been freed", fix="make a new replay", see="docs/replay.md"
        )
    return frames


def _write(frames: Array, rows: IntArray, values: Array) -> None:
    _check(rows, len(frames) - 1)
    frames[rows] = values


def _gather(frames: Array, rows: IntArray, out: Tensor) -> Tensor:
    _check(rows, len(frames))
    if frames.strides[0] > _SHORT_ROW_BYTES:
        return torch.index_select(torch.from_numpy(frames), 0, torch.from_numpy(rows), out=out)
    word = next(w for w in (np.int64, np.int32, np.int16, np.int8) if frames.strides[0] % np.dtype(w).itemsize == 0)
    copy_rows(frames.view(word), rows, out.numpy().view(word))
    return out


def _read(frames: Array, rows: IntArray) -> Array:
    _check(rows, len(frames))
    return frames[rows]


def _check(rows: IntArray, count: int) -> None:
    if not in_range(rows, count):
        raise ReplayError(
            f"rows {rows.min()} to {rows.max()} were asked for",
            why=f"numbers from 0 to {count - 1} are allowed here",
            fix="a sampler may only return slots that it was told of",
            see="docs/replay.md",
        )


@kernel
def copy_rows(frames: Array, rows: IntArray, out: Array) -> None:
    """out[i] = frames[rows[i]], for short rows of whole numbers.

    A copy waits for each row in turn, since few of them fit into the processor's window; a loop that only reads one
    number at either end of a row waits for many at once. So that one goes first, for its effect on the cache.
    """
    last = frames.shape[1] - 1
    for start in range(0, len(rows), 256):
        stop = min(start + 256, len(rows))
        touched = frames[0, 0]
        for i in range(start, stop):
            touched ^= frames[rows[i], 0] ^ frames[rows[i], last]
        out[start, 0] = touched  # or the compiler would drop the loop; overwritten now
        for i in range(start, stop):
            row = rows[i]
            for j in range(last + 1):
                out[i, j] = frames[row, j]


@kernel
def in_range(rows: IntArray, count: int) -> bool:
    """Whether all of `rows` [N] are in [0, count)."""
    wrong = 0
    for i in range(len(rows)):
        wrong += rows[i] < 0 or rows[i] >= count
    return wrong == 0


def _disk_too_small(directory: Path, needed: int, why: str) -> NoReturn:
    free = f", {shutil.disk_usage(directory).free / 1e9:.2f} GB are free" if directory.is_dir() else ""
    raise ResourceError(
        f"the replay's frames need {needed / 1e9:.2f} GB of disk in {directory}{free}",
        why=why,
        fix="a smaller replay.capacity, or another directory",
        see="docs/replay.md",
    )
