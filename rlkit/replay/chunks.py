"""Cold storage of frames: lossless zstd chunks of 16 consecutive ones, with random access.

Consecutive frames differ little, so a chunk of an Atari game is 40 to 150 times smaller than its frames and decodes in
tens of microseconds; longer chunks gain little more and cost every random read more. A blob is a plain sequence of zstd
frames, which any zstd tool reads; its index [chunks, 2] uint32 holds the bytes and the zlib.crc32 of every chunk. (The
checksum is over the compressed bytes: zstd's own is over the decoded ones and would take a third of the decoding time.)
"""

from __future__ import annotations

import mmap
import threading
import zlib
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import zstandard

from rlkit.core.errors import ReplayError
from rlkit.core.typing import Array, IntArray

CHUNK_FRAMES = 16
_LEVEL = 3
_SMALLEST_ROW_BYTES = 1_024  # shorter rows are states and flags: noise to a compressor, and 1 % of the bytes

_thread = threading.local()  # a zstd decompressor serves one thread at a time


def compresses(column: Array) -> bool:
    """Whether `column` [N, ...] is worth chunks: uint8 rows wider than 1 KiB. Anything else is better kept raw."""
    return column.dtype == np.uint8 and column[:1].nbytes > _SMALLEST_ROW_BYTES


def encode(frames: npt.NDArray[np.uint8]) -> tuple[bytes, npt.NDArray[np.uint32]]:
    """Blob and index of frames [N, width]; the last chunk is shorter unless N is a multiple of 16.

    Raises ReplayError if `frames` is not a uint8 matrix.
    """
    if frames.dtype != np.uint8 or frames.ndim != 2:
        raise ReplayError(
            f"frames of shape {list(frames.shape)} and type {frames.dtype} do not go into chunks",
            why="chunks hold uint8 rows [N, width]",
            fix="store other columns raw",
            see="docs/replay.md",
        )
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    frames = np.ascontiguousarray(frames)
    chunks = [compressor.compress(frames[i : i + CHUNK_FRAMES].data) for i in range(0, len(frames), CHUNK_FRAMES)]
    index = np.array([(len(chunk), zlib.crc32(chunk)) for chunk in chunks], np.uint32).reshape(-1, 2)
    return b"".join(chunks), index


class ChunkReader:
    """Frames [N, width] by number out of a blob and its index; `len` is N.

    blob: bytes or a memory-mapped file. Decoded chunks stay in a cache of at most `cache_bytes`; the least recently
    used leave first. Any number of threads may read at once; decoding does not hold the interpreter's lock.

    Raises ReplayError if blob, index and N do not fit each other.
    """

    def __init__(
        self,
        blob: bytes | memoryview | mmap.mmap,
        index: npt.NDArray[np.uint32],
        frames: int,
        width: int,
        *,
        cache_bytes: int = 32 << 20,
    ) -> None:
        self._blob, self._crc32 = memoryview(blob), index[:, 1]
        self._offsets = np.concatenate([[0], np.cumsum(index[:, 0], dtype=np.int64)])
        self._frames, self._width, self._cache_bytes = frames, width, cache_bytes
        chunks = -(-frames // CHUNK_FRAMES)
        if len(index) != chunks or self._offsets[-1] != self._blob.nbytes:
            raise ReplayError(
                f"chunks do not fit their index: {self._blob.nbytes} bytes, {len(index)} chunks for {frames} frames",
                why=f"the index lists {self._offsets[-1]} bytes, and {frames} frames take {chunks} chunks",
                fix="use another copy of the file; this one has been cut or mixed up",
                see="docs/replay.md",
            )
        self._cache: OrderedDict[int, Array] = OrderedDict()  # decoded chunks, most recently used last
        self._cached_bytes = 0
        self._lock = threading.Lock()  # of the cache; two threads that miss the same chunk both decode it

    def __len__(self) -> int:
        return self._frames

    def gather(self, indices: IntArray) -> npt.NDArray[np.uint8]:
        """Frames [N, width] of `indices` [N], in their order, duplicates allowed; each chunk is decoded at most once.

        Raises ReplayError if an index is out of range, or a chunk is corrupt: it is named.
        """
        if len(indices) and not (indices.min() >= 0 and indices.max() < self._frames):
            raise ReplayError(
                f"frames {indices.min()} to {indices.max()} were asked for",
                why=f"there are frames 0 to {self._frames - 1}",
                fix="ask for frames that are there",
                see="docs/replay.md",
            )
        gathered = np.empty((len(indices), self._width), np.uint8)
        numbers = indices // CHUNK_FRAMES
        order = np.argsort(numbers, kind="stable")
        borders = np.flatnonzero(np.diff(numbers[order], prepend=-1, append=-1))
        for start, stop in pairwise(borders):
            places = order[start:stop]
            number = int(numbers[places[0]])
            gathered[places] = self._chunk(number).take(indices[places] - number * CHUNK_FRAMES, axis=0)
        return gathered

    def _chunk(self, number: int) -> Array:
        """The decoded frames of one chunk, from the cache if they are there."""
        with self._lock:
            found = self._cache.get(number)
            if found is not None:
                self._cache.move_to_end(number)
                return found
        decoded = self._decode(number)
        with self._lock:
            if number not in self._cache:
                self._cache[number] = decoded
                self._cached_bytes += decoded.nbytes
            while self._cached_bytes > self._cache_bytes:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return decoded

    def _decode(self, number: int) -> Array:
        encoded = self._blob[self._offsets[number] : self._offsets[number + 1]]
        frames = min(CHUNK_FRAMES, self._frames - number * CHUNK_FRAMES)
        found = zlib.crc32(encoded)
        if found != self._crc32[number]:
            raise _corrupt(number, f"its CRC is {found:08x} instead of {self._crc32[number]:08x}")
        try:
            if zstandard.frame_content_size(encoded) != frames * self._width:
                raise _corrupt(number, f"it does not hold {frames} frames of {self._width} bytes")
            if not hasattr(_thread, "decompressor"):
                _thread.decompressor = zstandard.ZstdDecompressor()
            decoded = _thread.decompressor.decompress(encoded, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise _corrupt(number, str(error)) from error
        return np.frombuffer(decoded, np.uint8).reshape(frames, self._width)


def _corrupt(number: int, why: str) -> ReplayError:
    return ReplayError(
        f"chunk {number} (frames from {number * CHUNK_FRAMES}) is corrupt",
        why=why,
        fix="use another copy of the file; the other chunks can still be read",
        see="docs/replay.md",
    )
