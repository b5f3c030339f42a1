"""Checkpoints: atomic, checked by CRC, the last K kept; replay goes to append-only segments of new rows.

checkpoints/<step>/state.json, state.safetensors, manifest.json      everything but the rows of replay
checkpoints/segments/<number>.bin                                    the rows of replay new since the last one
A manifest lists its files and segments with sizes and CRC32. A segment goes when no kept checkpoint needs it, so the
disk holds at most the capacity plus `keep` intervals of rows. A segment is a sequence of parts (consecutive rows of one
environment, some 32 MB of them), a part a sequence of columns: raw, or, for frames, the chunks of replay/chunks.py and
their index.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rlkit.core.errors import ResumeError, look_up, system_error
from rlkit.core.typing import Array, State
from rlkit.replay.chunks import CHUNK_FRAMES, ChunkReader, compresses, encode
from rlkit.replay.replay import Replay
from rlkit.training.tree_files import crc32, fsync, load_tree, save_tree, write_text

FORMAT = 2

_PART_BYTES = 32 << 20  # rows in memory at once, so that a replay of any size is written and read beside itself


@dataclass(frozen=True)
class Torn:
    """A checkpoint that cannot be used, and why."""

    path: Path
    why: str


class CheckpointStore:
    """The checkpoints of one run folder."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory, self._keep = directory, keep
        self._segments = directory / "segments"
        self._listed: list[dict[str, Any]] = []  # segments that hold the replay's rows so far, oldest first

    def steps(self) -> list[int]:
        """Steps of all finished checkpoints, oldest first."""
        if not self._directory.exists():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdigit())

    def save(self, step: int, state: State, replay: Replay | None) -> Path:
        """Write checkpoint `step`; replay adds only the rows that are new since the last call.

        Raises ResourceError if the disk is full, say; older checkpoints stay as they are.
        """
        final = self._directory / str(step)
        temporary = self._directory / f"tmp-{step}"
        for left_over in self._directory.glob("tmp-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            segments = self._append_rows(replay) if replay is not None else []
            save_tree(temporary, "state", state)
            files = {
                path.name: {"bytes": path.stat().st_size, "crc32": crc32(path)} for path in sorted(temporary.iterdir())
            }
            manifest = {"format": FORMAT, "step": step, "files": files, "segments": segments}
            write_text(temporary / "manifest.json", json.dumps(manifest, indent=1))
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise system_error(
                error,
                why=f"checkpoint {step} was not written; older ones are unharmed",
                fix=f"rlkit resume {self._directory.parent} (--checkpoint.replay false writes less)",
            ) from error
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync(self._directory)
        self._listed = segments
        self._collect_garbage()
        return final

    def load(
        self, step: int | None = None, *, rows: bool = True
    ) -> tuple[int, State, list[dict[str, Any]], list[Torn]]:
        """Step, state and segments of checkpoint `step` (None: the newest whole one), and the torn ones passed over.

        rows: the rows of replay will be read, too, so their files are checked. Raises ConfigError for a step without
        checkpoint, ResumeError if no checkpoint is whole or one was written in another format.
        """
        steps = self.steps()
        if step is not None and steps:
            there = {str(s): s for s in steps}
            fix = f"--checkpoint {steps[-1]}, or leave it out for the newest"
            steps = [look_up(there, str(step), "checkpoint", fix=fix, see="docs/run_folder.md")]
        torn: list[Torn] = []
        for candidate in reversed(steps):
            path = self._directory / str(candidate)
            manifest, why = self._check(path, rows=rows)
            if not why:
                return candidate, load_tree(path, "state"), manifest["segments"], torn
            torn.append(Torn(path, why))
        if torn:
            others = (self._directory / str(s) for s in self.steps() if s not in steps)
            good = [path.name for path in others if not self._check(path, rows=rows)[1]]
            raise ResumeError(
                f"no usable checkpoint: {'; '.join(f'{t.path.name}: {t.why}' for t in torn)}",
                why="the files do not match the sizes and CRC32 that were recorded when they were written",
                fix=f"take the last good one: --checkpoint {good[-1]}" if good else "start the run again",
                see="docs/run_folder.md",
            )
        raise ResumeError(
            f"{self._directory} holds no checkpoint",
            why="the run ended before its first one, or wrote none",
            fix="start the run again, with --checkpoint.period below its length",
            see="docs/run_folder.md",
        )

    def load_replay(self, segments: list[dict[str, Any]], replay: Replay, replay_state: State) -> None:
        """Fill an empty `replay` with the rows of `segments`, then with its own small state."""
        for env, start, columns in self.read_rows(segments):
            replay.load_rows(env, start, columns)
        replay.load_state_dict(replay_state)
        self._listed = list(segments)

    def read_rows(self, segments: list[dict[str, Any]]) -> Iterator[tuple[int, int, dict[str, Array]]]:
        """The rows of `segments`, some 32 MB at a time: environment, number of the first row, columns; oldest first."""
        for segment in segments:
            offset = 0
            with (self._segments / segment["file"]).open("rb") as file:
                for part in segment["parts"]:
                    columns = []
                    for described in part["columns"]:
                        columns.append(_Column(offset, *described))
                        offset += columns[-1].disk_bytes
                    step = _rows_at_once(sum(column.row_bytes for column in columns))
                    for first in range(0, part["rows"], step):
                        stop = min(first + step, part["rows"])
                        rows = {column.name: column.read(file, first, stop) for column in columns}
                        yield part["env"], part["start"] + first, rows

    def discard_after(self, step: int) -> None:
        """Remove checkpoints newer than `step` (a run that goes on from an older one writes its own)."""
        for other in self.steps():
            if other > step:
                shutil.rmtree(self._directory / str(other))

    def _check(self, path: Path, *, rows: bool) -> tuple[dict[str, Any], str]:
        """The manifest of a checkpoint, and why it cannot be used, or "". Raises ResumeError for another format."""
        try:
            manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
            found = int(manifest["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            return {}, f"manifest.json is unreadable ({error.__class__.__name__})"
        if found != FORMAT:
            raise ResumeError(
                f"checkpoint {path.name} was written by {'an older' if found < FORMAT else 'a newer'} rlkit",
                why=f"it has format {found}, this one reads format {FORMAT}; nothing is wrong with it, and it stays",
                fix="use the release that versions.json in the run folder names, or start a new run",
                see="docs/run_folder.md",
            )
        wanted = [(path / name, entry) for name, entry in manifest["files"].items()]
        if rows:
            wanted += [(self._segments / segment["file"], segment) for segment in manifest["segments"]]
        return manifest, next((why for file, entry in wanted if (why := _damage(file, entry))), "")

    def _append_rows(self, replay: Replay) -> list[dict[str, Any]]:
        """The segments that the replay needs now: the old ones that still hold a living row, and one of new rows."""
        saved = np.zeros(len(replay.rows_written), np.int64)
        for segment in self._listed:
            for part in segment["parts"]:
                saved[part["env"]] = part["start"] + part["rows"]
        oldest = [replay.oldest_row(env) for env in range(len(saved))]
        living = [s for s in self._listed if any(p["start"] + p["rows"] > oldest[p["env"]] for p in s["parts"])]
        ranges = [(e, max(int(saved[e]), oldest[e]), int(replay.rows_written[e])) for e in range(len(saved))]
        new = [(env, start, stop) for env, start, stop in ranges if stop > start]
        return [*living, self._write_segment(replay, new)] if new else living

    def _write_segment(self, replay: Replay, ranges: list[tuple[int, int, int]]) -> dict[str, Any]:
        self._segments.mkdir(exist_ok=True)
        number = max((int(path.stem) for path in self._segments.glob("*.bin")), default=-1) + 1
        path = self._segments / f"{number:08d}.bin"
        parts: list[dict[str, Any]] = []
        check, size = 0, 0
        try:
            with path.open("wb") as file:
                for env, start, stop in _pieces(replay, ranges):
                    columns, content = [], []
                    for name, column in replay.export_rows(env, start, stop).items():
                        described, blocks = _pack(name, column)
                        columns.append(described)
                        content += blocks
                    part_bytes = sum(block.nbytes for block in content)
                    os.posix_fallocate(file.fileno(), size, part_bytes)  # a full disk shows here, before the part
                    for block in content:
                        file.write(block)
                        check = zlib.crc32(block, check)
                    size += part_bytes
                    parts.append({"env": env, "start": start, "rows": stop - start, "columns": columns})
                file.flush()
                os.fsync(file.fileno())
            fsync(self._segments)
        except BaseException:
            path.unlink(missing_ok=True)  # no manifest will ever list it
            raise
        return {"file": path.name, "bytes": size, "crc32": check, "parts": parts}

    def _collect_garbage(self) -> None:
        for step in self.steps()[: -self._keep]:
            shutil.rmtree(self._directory / str(step))
        needed = set()
        for step in self.steps():
            manifest_path = self._directory / str(step) / "manifest.json"
            try:
                needed |= {segment["file"] for segment in json.loads(manifest_path.read_text())["segments"]}
            except (OSError, json.JSONDecodeError):
                continue  # a torn checkpoint keeps no segment alive
        for path in self._segments.glob("*.bin"):
            if path.name not in needed:
                path.unlink()


@dataclass(frozen=True)
class _Column:
    """A column of a part as it lies in a segment's file from `offset` on."""

    offset: int
    name: str
    dtype: str
    shape: list[int]  # rows first
    chunk_bytes: int | None = None  # of the blob of chunks, which its index follows; None = raw

    @property
    def row_bytes(self) -> int:
        """In memory."""
        return int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize

    @property
    def index_bytes(self) -> int:
        """Of a blob's index: uint32 [chunks, 2]."""
        return -(-self.shape[0] // CHUNK_FRAMES) * 8

    @property
    def disk_bytes(self) -> int:
        """All of it."""
        return self.shape[0] * self.row_bytes if self.chunk_bytes is None else self.chunk_bytes + self.index_bytes

    def read(self, file: IO[bytes], first: int, stop: int) -> Array:
        """Rows [first, stop), not to be written to."""
        if self.chunk_bytes is None:
            file.seek(self.offset + first * self.row_bytes)
            rows: Array = np.frombuffer(file.read((stop - first) * self.row_bytes), self.dtype)
        else:
            file.seek(self.offset)
            blob = file.read(self.chunk_bytes)
            index = np.frombuffer(file.read(self.index_bytes), np.uint32).reshape(-1, 2)
            rows = ChunkReader(blob, index, self.shape[0], self.row_bytes, cache_bytes=0).gather(np.arange(first, stop))
        return rows.reshape(-1, *self.shape[1:])


def _pack(name: str, column: Array) -> tuple[list[Any], list[memoryview]]:
    """How a manifest describes `column` (_Column, but for its place), and its bytes."""
    described = [name, column.dtype.str, list(column.shape)]
    if not compresses(column):
        return described, [np.ascontiguousarray(column).reshape(-1).view(np.uint8).data]
    blob, index = encode(column.reshape(len(column), -1))
    return [*described, len(blob)], [memoryview(blob), index.reshape(-1).view(np.uint8).data]


def _pieces(replay: Replay, ranges: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """The same rows in pieces of some 32 MB."""
    for env, start, stop in ranges:
        row = replay.export_rows(env, start, start + 1)
        step = _rows_at_once(sum(column.nbytes for column in row.values()))
        for first in range(start, stop, step):
            yield env, first, min(first + step, stop)


def _rows_at_once(row_bytes: int) -> int:
    """Whole chunks."""
    return max(1, _PART_BYTES // row_bytes // CHUNK_FRAMES) * CHUNK_FRAMES


def _damage(file: Path, entry: dict[str, Any]) -> str:
    """What is wrong with a file that has the size and CRC32 of `entry` if it is whole, or ""."""
    if not file.exists():
        return f"{file.name} is missing"
    if file.stat().st_size != entry["bytes"]:
        return f"{file.name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
    found = crc32(file)
    return "" if found == entry["crc32"] else f"{file.name} has CRC {found:08x} instead of {entry['crc32']:08x}"
