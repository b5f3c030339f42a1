"""The record of a run's probes: every unit's score in one byte, appended and never rewritten.

A file is a sequence of frames: u32 length of the content, content, u32 CRC-32 of the content; all little-endian. Its
first byte says what it is:
T  a table, JSON: layers, scores with their definitions, metrics, where the probe's states come from.
M  a measurement under the last table: kind u8, step u64, updates u64, which scores are there as bits u32; then
   codes u8 [scores there, units], exact counts u32 [scores there, layers, thresholds], layer metrics f32 [layers,
   metrics], run metrics f32 [metrics]; NaN = not measured.
A torn last frame is dropped; what is damaged, and all after it, is not read. Copies of a layer (twin critics) are
layers of their own. docs/plasticity_record.md has the arithmetic of its size.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.core import score_codec
from rlkit.core.errors import ConfigError, ResumeError, nearest
from rlkit.plasticity.measurement import LAYER_METRICS, RUN_METRICS, THRESHOLDS, Definition, Measurement, Probe

FORMAT = 1
KINDS = ("start", "probe", "pre", "post", "end")
_HEAD = struct.Struct("<cBQQI")
_WORD = struct.Struct("<I")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RecordLayer:
    """A layer, or one copy of it."""

    name: str  # address of the producer
    copy: int
    units: int
    first: int  # its place on the axis of all units


@dataclass(frozen=True)
class RecordPart:
    """Measurements of one set of layers; T of them."""

    layers: tuple[RecordLayer, ...]
    scores: tuple[str, ...]
    definitions: Mapping[str, Definition]
    probe: Probe
    step: Array  # int64 [T]
    updates: Array  # int64 [T]
    kind: list[str]
    codes: Mapping[str, Array]  # by score: uint8 [T, units]; 255 = not finite, or a unit without that score
    present: Mapping[str, Array]  # by score: bool [T]
    counts: Mapping[str, Array]  # by score: dormant units at THRESHOLDS, int64 [T, layers, 3], exact
    layer_metrics: Mapping[str, Array]  # by metric: float32 [T, layers]
    run_metrics: Mapping[str, Array]  # by metric: float32 [T]


@dataclass(frozen=True)
class Record:
    """All that a file holds. `damage`: what could not be read, or ""."""

    parts: list[RecordPart] = field(default_factory=list)
    damage: str = ""


@dataclass(frozen=True)
class _Table:
    layers: tuple[RecordLayer, ...]
    definitions: Mapping[str, Definition]
    probe: Probe
    layer_metrics: tuple[str, ...]
    run_metrics: tuple[str, ...]

    @property
    def units(self) -> int:
        return sum(layer.units for layer in self.layers)

    def to_bytes(self) -> bytes:
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        return b"T" + json.dumps(content).encode()

    @staticmethod
    def from_bytes(content: bytes) -> _Table:
        tree = json.loads(content[1:])
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']}; this release reads format {FORMAT}")
        return _Table(
            tuple(RecordLayer(**layer) for layer in tree["layers"]),
            {name: Definition(**values) for name, values in tree["definitions"].items()},
            Probe(**tree["probe"]),
            tuple(tree["layer_metrics"]),
            tuple(tree["run_metrics"]),
        )

    def holds(self, measurement: Measurement) -> bool:
        """Whether `measurement` has no layer and no metric that is not here."""
        sizes = {(layer.name, layer.copy): layer.units for layer in self.layers}
        return all(
            sizes.get((name, copy)) == layer.units and layer.metrics.keys() <= set(self.layer_metrics)
            for name, layer in measurement.layers.items()
            for copy in range(layer.copies)
        ) and measurement.metrics.keys() <= set(self.run_metrics)


class RecordWriter:
    """Appends measurements to `path`. Scores without a definition are not kept.

    A file that is there is continued behind its last whole frame. Raises ResumeError if another release wrote it.
    """

    def __init__(self, path: Path, definitions: Mapping[str, Definition], probe: Probe) -> None:
        self.path, self._definitions, self._probe = path, dict(definitions), probe
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        try:
            self._table, end = _last_table(content)
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeError(
                f"{path} cannot be continued",
                why=f"a table in it cannot be read ({error})",
                fix="use the release of rlkit that wrote it, or move the file away",
                see="docs/plasticity_record.md",
            ) from error
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, measurement: Measurement) -> None:
        """Write one measurement through to the system: a killed process loses none.

        Raises ConfigError for a kind that is none of KINDS; nothing is written then.
        """
        table, frames = self._table, b""
        meant = (self._definitions, self._probe)
        if table is None or (table.definitions, table.probe) != meant or not table.holds(measurement):
            table = self._table_for(measurement)
            frames = _framed(table.to_bytes())
        self._file.write(frames + _framed(_pack(table, measurement)))
        self._file.flush()
        self._table = table

    def _table_for(self, measurement: Measurement) -> _Table:
        layers, first = [], 0
        for name, layer in measurement.layers.items():
            for copy in range(layer.copies):
                layers.append(RecordLayer(name, copy, layer.units, first))
                first += layer.units
        more = dict.fromkeys(key for layer in measurement.layers.values() for key in layer.metrics)
        return _Table(
            tuple(layers),
            self._definitions,
            self._probe,
            tuple(dict.fromkeys((*LAYER_METRICS, *more))),
            tuple(dict.fromkeys((*RUN_METRICS, *measurement.metrics))),
        )

    def cut_after(self, step: int) -> None:
        """Drop the measurements later than env step `step`: a resumed run takes them again."""
        content, end = self.path.read_bytes(), 0
        for frame, behind in _scan(content):
            if frame[:1] == b"M" and _HEAD.unpack_from(frame)[2] > step:
                break
            end = behind
        self._table, _ = _last_table(content[:end])
        self._file.truncate(end)
        self._file.seek(end)

    def sync(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_record(path: Path) -> Record:
    """All whole measurements of a file, also of one that is being written; empty if there is none."""
    if not path.exists():
        return Record()
    content = path.read_bytes()
    frames, damage = _frames(content)
    parts: list[RecordPart] = []
    table: _Table | None = None
    waiting: list[bytes] = []
    for number, frame in enumerate(frames):
        try:
            if frame[:1] == b"T":
                new = _Table.from_bytes(frame)
                if table is not None and waiting and new != table:
                    parts.append(_unpack(table, waiting))
                    waiting = []
                table = new
            elif table is not None and _fits(table, frame):
                waiting.append(frame)
            else:
                raise ValueError("it does not fit the table before it")
        except (ValueError, KeyError, TypeError) as error:
            damage = f"frame {number} cannot be read ({error}); it and all after it are left out"
            break
    if table is not None and waiting:
        parts.append(_unpack(table, waiting))
    return Record(parts, damage)


def _framed(content: bytes) -> bytes:
    return _WORD.pack(len(content)) + content + _WORD.pack(zlib.crc32(content))


def _frames(content: bytes) -> tuple[list[bytes], str]:
    """The whole frames, and what is wrong behind them."""
    scanned = list(_scan(content))
    frames, end = [frame for frame, _ in scanned], scanned[-1][1] if scanned else 0
    if end == len(content):
        return frames, ""
    whole = len(content) - end >= 4 and end + 8 + _WORD.unpack_from(content, end)[0] <= len(content)
    what = "is damaged" if whole else "is cut off"
    return frames, f"frame {len(frames)}, at byte {end:,}, {what}; it and all after it are left out"


def _scan(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Whole frames from the start, each with the place behind it, up to the first that is torn or damaged."""
    place = 0
    while place + 8 <= len(content):
        (length,) = _WORD.unpack_from(content, place)
        stop = place + 4 + length
        if length == 0 or stop + 4 > len(content):
            return
        frame = content[place + 4 : stop]
        if zlib.crc32(frame) != _WORD.unpack_from(content, stop)[0]:
            return
        place = stop + 4
        yield frame, place


def _last_table(content: bytes) -> tuple[_Table | None, int]:
    table, end = None, 0
    for frame, behind in _scan(content):
        table, end = (_Table.from_bytes(frame) if frame[:1] == b"T" else table), behind
    return table, end


def _pack(table: _Table, measurement: Measurement) -> bytes:
    if measurement.kind not in KINDS:
        raise ConfigError(
            f"the kind of a measurement is {measurement.kind!r}",
            why=f"allowed: {', '.join(KINDS)}.{nearest(measurement.kind, KINDS)}",
            fix='kind="probe"',
            see="docs/plasticity_record.md",
        )
    there = [n for n in table.definitions if any(n in layer.scores for layer in measurement.layers.values())]
    bits = sum(1 << i for i, name in enumerate(table.definitions) if name in there)
    codes = np.full((len(there), table.units), score_codec.NOT_FINITE, np.uint8)
    counts = np.zeros((len(there), len(table.layers), len(THRESHOLDS)), np.uint32)
    layer_metrics = np.full((len(table.layers), len(table.layer_metrics)), np.nan, np.float32)
    for place, row in enumerate(table.layers):
        layer = measurement.layers.get(row.name)
        if layer is None:
            continue
        for i, name in enumerate(there):
            if name in layer.scores:
                values = layer.scores[name][row.copy]
                codes[i, row.first : row.first + row.units] = score_codec.encode(values)
                counts[i, place] = [int((values <= threshold).sum()) for threshold in THRESHOLDS]
        for i, name in enumerate(table.layer_metrics):
            if name in layer.metrics:
                layer_metrics[place, i] = layer.metrics[name][row.copy]
    run_metrics = np.array([measurement.metrics.get(name, np.nan) for name in table.run_metrics], np.float32)
    head = _HEAD.pack(b"M", KINDS.index(measurement.kind), measurement.step, measurement.updates, bits)
    return b"".join([head, *(array.tobytes() for array in (codes, counts, layer_metrics, run_metrics))])


def _shapes(table: _Table, scores: int) -> list[tuple[tuple[int, ...], type[np.generic]]]:
    """Of the arrays of a measurement with so many scores."""
    layers = len(table.layers)
    return [
        ((scores, table.units), np.uint8),
        ((scores, layers, len(THRESHOLDS)), np.uint32),
        ((layers, len(table.layer_metrics)), np.float32),
        ((len(table.run_metrics),), np.float32),
    ]


def _fits(table: _Table, frame: bytes) -> bool:
    """Whether this is a measurement under `table`, as long as it must be."""
    if len(frame) < _HEAD.size:
        return False
    content, kind, _, _, bits = _HEAD.unpack_from(frame)
    arrays = _shapes(table, bits.bit_count())
    size = _HEAD.size + sum(int(np.prod(shape)) * np.dtype(of).itemsize for shape, of in arrays)
    known = content == b"M" and kind < len(KINDS) and bits >> len(table.definitions) == 0
    return known and len(frame) == size


def _unpack(table: _Table, frames: list[bytes]) -> RecordPart:
    names, count = tuple(table.definitions), len(frames)
    codes = {name: np.full((count, table.units), score_codec.NOT_FINITE, np.uint8) for name in names}
    counts = {name: np.zeros((count, len(table.layers), len(THRESHOLDS)), np.int64) for name in names}
    present = {name: np.zeros(count, bool) for name in names}
    layer_metrics = np.empty((count, len(table.layers), len(table.layer_metrics)), np.float32)
    run_metrics = np.empty((count, len(table.run_metrics)), np.float32)
    heads = [_HEAD.unpack_from(frame) for frame in frames]
    for t, (frame, head) in enumerate(zip(frames, heads, strict=True)):
        there = [name for i, name in enumerate(names) if head[4] >> i & 1]
        arrays, place = [], _HEAD.size
        for shape, kind in _shapes(table, len(there)):
            arrays.append(np.frombuffer(frame, kind, int(np.prod(shape)), place).reshape(shape))
            place += arrays[-1].nbytes
        for i, name in enumerate(there):
            codes[name][t], counts[name][t], present[name][t] = arrays[0][i], arrays[1][i], True
        layer_metrics[t], run_metrics[t] = arrays[2], arrays[3]
    return RecordPart(
        layers=table.layers,
        scores=names,
        definitions=table.definitions,
        probe=table.probe,
        step=np.array([head[2] for head in heads], np.int64),
        updates=np.array([head[3] for head in heads], np.int64),
        kind=[KINDS[head[1]] for head in heads],
        codes=codes,
        present=present,
        counts=counts,
        layer_metrics={name: layer_metrics[..., i] for i, name in enumerate(table.layer_metrics)},
        run_metrics={name: run_metrics[:, i] for i, name in enumerate(table.run_metrics)},
    )
