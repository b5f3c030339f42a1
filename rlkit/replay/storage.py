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
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlkit.core.errors import ReplayError, ResourceError
from rlkit.core.kernels import kernel
from rlkit.core.typing import Array, IntArray
from rlkit.replay.windows import copy_rows

T = TypeVar("T")

SHORT_ROW_BYTES = 1_024  # rows up to here are copied by a kernel; torch uses all its threads for longer ones


class FrameStorage(Protocol):
    """`rows` frames of `width` values, and a zero frame after them. One thread at a time."""

    rows: int
    width: int
    dtype: np.dtype[np.generic]
    device: torch.device
    words: (
        Array | None
    )  # [rows + 1, K] whole numbers, a row's first are its frame; where rows are short and on the host

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


def row_layout(frame_bytes: int, beside: np.dtype[Any] | None) -> tuple[int, int]:
    """Bytes into a row at which what lies beside its frame begins, and bytes of the whole row."""
    if beside is None:
        return frame_bytes, frame_bytes
    beside_at = _round_up(frame_bytes, beside.alignment)
    return beside_at, _round_up(beside_at + beside.itemsize, 8)


class _HostStorage:
    """Frames in an array of this process; where the array lies is what its two kinds differ in."""

    device = torch.device("cpu")

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike) -> None:
        self.rows, self.width, self.dtype = rows, width, np.dtype(dtype)
        frame = width * self.dtype.itemsize
        self._bytes = self._allocate().reshape(rows + 1, -1)  # a frame, and what may lie behind it
        self._frames: Array | None = self._bytes[:, :frame].view(self.dtype)
        sizes = frame, self._bytes.shape[1]
        word = next(
            w for w in (np.int64, np.int32, np.int16, np.int8) if all(s % np.dtype(w).itemsize == 0 for s in sizes)
        )
        self.words: Array | None = self._bytes.view(word) if frame <= SHORT_ROW_BYTES else None

    def _allocate(self) -> Array:
        """`nbytes` bytes of zeros."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of memory or disk once every frame has been written."""
        return _nbytes(self)

    def write(self, rows: IntArray, values: Array) -> None:
        """Store `values` [N, width] under the numbers `rows` [N]."""
        _check(rows, self.rows)
        _open(self._frames)[rows] = values

    def gather(self, rows: IntArray, out: Tensor) -> Tensor:
        """Frames `rows` [N] into `out` [N, width]."""
        frames = _open(self._frames)
        _check(rows, self.rows + 1)
        if self.words is None:
            return torch.index_select(torch.from_numpy(frames), 0, torch.from_numpy(rows), out=out)
        copy_rows(self.words, rows, out.numpy().view(self.words.dtype))
        return out

    def read(self, rows: IntArray) -> Array:
        """Frames `rows` [N] as an array of its own."""
        frames = _open(self._frames)
        _check(rows, self.rows + 1)
        return frames[rows]

    def close(self) -> None:
        """Give the memory or the disk space back."""
        self._frames = self.words = None
        self._bytes = np.empty((0, 0), np.uint8)  # that was the last reference to a map, which is the last to its file


class RamStorage(_HostStorage):
    """Frames in memory that the system hands out as they are written.

    `beside`: what else is kept of each row, in one record with its frame, so that a reader of both waits for one place
    of the memory; `records` [rows + 1] shows it. For short rows only.
    """

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike, beside: np.dtype[Any] | None = None) -> None:
        self.beside_at, self.row_bytes = row_layout(width * np.dtype(dtype).itemsize, beside)
        super().__init__(rows, width, dtype)
        self.records: Array | None = None
        if beside is not None:
            self.records = np.ndarray(rows + 1, beside, self._bytes, self.beside_at, (self.row_bytes,))

    @property
    def nbytes(self) -> int:
        """Bytes of memory once every row has been written."""
        return (self.rows + 1) * self.row_bytes

    def row_words(self, word: type[np.signedinteger[Any]]) -> tuple[Array, int]:
        """All rows as whole numbers [rows + 1, K], and the column at which what lies beside the frame begins."""
        return self._bytes.view(word), self.beside_at // np.dtype(word).itemsize

    def _allocate(self) -> Array:
        # Not torch.zeros: it touches every page at once and lacks numpy's large pages, worth 15 % of a gather. numpy
        # does not align to cache lines, though, and a short row would lie in one line more.
        raw = np.zeros(self.nbytes + 128, np.uint8)
        return raw[-raw.ctypes.data % 128 :][: self.nbytes]

    def close(self) -> None:
        """Give the memory back."""
        super().close()
        self.records = None


class MemoryMapStorage(_HostStorage):
    """Frames in a file without a name in `directory`, mapped into memory; the system keeps the used ones in its cache.

    All its space is taken at once, so a full disk cannot end the process later (SIGBUS). It is gone with the process.
    Raises ResourceError if the disk does not hold it.
    """

    def __init__(self, rows: int, width: int, dtype: npt.DTypeLike, directory: Path) -> None:
        self._directory = directory
        super().__init__(rows, width, dtype)

    def _allocate(self) -> Array:
        directory = self._directory
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                if self.nbytes > shutil.disk_usage(directory).free:  # do not fill the disk to find out
                    _disk_too_small(directory, self.nbytes, "there is too little space")
                os.posix_fallocate(file.fileno(), 0, self.nbytes)
                memory = mmap.mmap(file.fileno(), self.nbytes)
        except OSError as error:
            _disk_too_small(directory, self.nbytes, error.strerror or str(error))
        return np.frombuffer(memory, np.uint8)


class DeviceStorage:
    """Frames in a tensor on `device`; numbers come from the host, frames are gathered on the device.

    Writing and gathering are queued on the current stream and do not wait. Raises ResourceError if they do not fit.
    """

    words: Array | None = None

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


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _nbytes(storage: FrameStorage) -> int:
    return (storage.rows + 1) * storage.width * storage.dtype.itemsize


def _open(frames: T | None) -> T:
    if frames is None:
        raise ReplayError(
            "this storage is closed", why="its memory has been freed", fix="make a new replay", see="docs/replay.md"
        )
    return frames


def _check(rows: IntArray, count: int) -> None:
    if not in_range(rows, count):
        raise ReplayError(
            f"rows {rows.min()} to {rows.max()} were asked for",
            why=f"numbers from 0 to {count - 1} are allowed here",
            fix="a sampler may only return slots that it was told of",
            see="docs/replay.md",
        )


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
