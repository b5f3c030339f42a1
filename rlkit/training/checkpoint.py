"""Checkpoints: atomic, checked by CRC, the last K kept; replay goes to append-only segments of new rows.

checkpoints/<step>/state.json, state.safetensors, manifest.json      everything but the rows of replay
checkpoints/segments/<number>.bin                                    raw columns of the rows new since the last one
A manifest lists its files and segments with sizes and CRC32. A segment goes when no kept checkpoint needs it, so the
disk holds at most the capacity plus `keep` intervals of rows.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.core.errors import ResourceError, ResumeError
from rlkit.core.typing import State
from rlkit.replay.buffer import ReplayBuffer
from rlkit.training.tree_files import crc32, fsync, load_tree, save_tree, write_text

FORMAT = 1


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

    def save(self, step: int, state: State, replay: ReplayBuffer | None) -> Path:
        """Write checkpoint `step`; replay adds only the rows that are new since the last call.

        Raises ResourceError if the disk is full; older checkpoints stay as they are.
        """
        final = self._directory / str(step)
        temporary = self._directory / f"tmp-{step}"
        shutil.rmtree(temporary, ignore_errors=True)
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
            raise _disk_error(error, final) from error
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync(self._directory)
        self._listed = segments
        self._collect_garbage()
        return final

    def load(self, step: int | None = None) -> tuple[int, State, list[dict[str, Any]], list[Torn]]:
        """Step, state and segments of checkpoint `step` (None: the newest whole one), and the torn ones passed over.

        Raises ResumeError if there is none, or if the one asked for is torn.
        """
        torn: list[Torn] = []
        steps = self.steps() if step is None else [step]
        for candidate in reversed(steps):
            path = self._directory / str(candidate)
            why = self.damage(path)
            if why is None:
                manifest = json.loads((path / "manifest.json").read_text())
                return candidate, load_tree(path, "state"), manifest["segments"], torn
            torn.append(Torn(path, why))
        good = [s for s in self.steps() if self.damage(self._directory / str(s)) is None]
        if torn:
            raise ResumeError(
                f"no usable checkpoint: {'; '.join(f'{t.path.name}: {t.why}' for t in torn)}",
                why="the files do not match the sizes and CRC32 that were recorded when they were written",
                fix=f"resume from the last good one: --checkpoint {good[-1]}" if good else "start the run again",
                see="docs/run_folder.md",
            )
        raise ResumeError(
            f"{self._directory} holds no checkpoint",
            why="the run ended before its first one, or wrote none",
            fix="start the run again, with --checkpoint.period below its length",
            see="docs/run_folder.md",
        )

    def load_replay(self, segments: list[dict[str, Any]], replay: ReplayBuffer, replay_state: State) -> None:
        """Fill an empty `replay` with the rows of `segments`, then with its own small state."""
        for segment in segments:
            raw = np.fromfile(self._segments / segment["file"], np.uint8)
            offset = 0
            for part in segment["parts"]:
                columns = {}
                for name, dtype, shape in part["columns"]:
                    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
                    columns[name] = raw[offset : offset + size].view(dtype).reshape(shape)
                    offset += size
                replay.load_rows(part["env"], part["start"], columns)
        replay.load_state_dict(replay_state)
        self._listed = list(segments)

    def discard_after(self, step: int) -> None:
        """Remove checkpoints newer than `step` (a run that goes on from an older one writes its own)."""
        for other in self.steps():
            if other > step:
                shutil.rmtree(self._directory / str(other))

    def damage(self, path: Path) -> str | None:
        """Why the checkpoint at `path` cannot be used, or None."""
        manifest_path = path / "manifest.json"
        try:
            manifest = json.loads(manifest_path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            return f"manifest.json is unreadable ({error.__class__.__name__})"
        if manifest.get("format") != FORMAT:
            return f"format {manifest.get('format')} is not format {FORMAT} of this version"
        wanted = [(path / name, entry) for name, entry in manifest["files"].items()]
        wanted += [(self._segments / segment["file"], segment) for segment in manifest["segments"]]
        for file, entry in wanted:
            if not file.exists():
                return f"{file.name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{file.name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            found = crc32(file)
            if found != entry["crc32"]:
                return f"{file.name} has CRC {found:08x} instead of {entry['crc32']:08x}"
        return None

    def _append_rows(self, replay: ReplayBuffer) -> list[dict[str, Any]]:
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

    def _write_segment(self, replay: ReplayBuffer, ranges: list[tuple[int, int, int]]) -> dict[str, Any]:
        self._segments.mkdir(exist_ok=True)
        number = max((int(path.stem) for path in self._segments.glob("*.bin")), default=-1) + 1
        path = self._segments / f"{number:08d}.bin"
        parts: list[dict[str, Any]] = []
        check, size = 0, 0
        with path.open("wb") as file:
            for env, start, stop in ranges:
                columns = replay.export_rows(env, start, stop)
                part_bytes = sum(column.nbytes for column in columns.values())
                os.posix_fallocate(file.fileno(), size, part_bytes)  # a full disk shows here, before any row is written
                for column in columns.values():
                    raw = np.ascontiguousarray(column).reshape(-1).view(np.uint8).data
                    file.write(raw)
                    check = zlib.crc32(raw, check)
                size += part_bytes
                described = [[name, column.dtype.str, list(column.shape)] for name, column in columns.items()]
                parts.append({"env": env, "start": start, "rows": stop - start, "columns": described})
            file.flush()
            os.fsync(file.fileno())
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


def _disk_error(error: OSError, path: Path) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    free = shutil.disk_usage(path.parent).free
    return ResourceError(
        f"the disk is full: checkpoint {path.name} was not written",
        why=f"{free / 1e9:.2f} GB are free; older checkpoints are unharmed",
        fix="free disk space and type `rlkit resume` again, or write less with --checkpoint.replay false",
        see="docs/run_folder.md",
    )
