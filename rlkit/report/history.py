"""The record of a run as one history, and what a page shows of it: columns in time, counts at many thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkit.core import score_codec
from rlkit.plasticity.measurement import THRESHOLDS
from rlkit.plasticity.record import Record, RecordLayer, RecordPart

Array = np.ndarray[Any, Any]

# Thresholds that a reader can choose: 0, then every fourth of an octave from 0.001 to 1, at edges of the codes, so that
# "score <= threshold" is "code <= stop" without error. Two of them stand for 0.025 and 0.1, at which the record holds
# exact counts: the edges beside those are 0.0252 and 0.1007.
STOPS = (0, *range(82, 162, 2))
EXACT = {int(score_codec.encode(threshold)): threshold for threshold in THRESHOLDS}  # by stop
LAGS = (1, 2, 3, 5, 8, 13, 21)  # probes after a reset


def stop_threshold(stop: int) -> float:
    """The threshold that a stop stands for."""
    return EXACT.get(stop, score_codec.edge(stop))


def joined(record: Record) -> tuple[RecordPart | None, list[str]]:
    """All parts as one, and remarks in words. A layer that a part does not have is NaN and code 255 there.

    A layer is the same if name, copy and units are. Parts with other definitions than the last one are left out.
    """
    if not record.parts:
        return None, []
    last = record.parts[-1]
    parts = [part for part in record.parts if part.definitions == last.definitions]
    remarks = []
    if len(parts) < len(record.parts):
        remarks.append(
            f"{len(record.parts) - len(parts)} parts of the record have other definitions; they are left out"
        )
    states = list(dict.fromkeys(part.probe.batch for part in parts))
    if len(states) > 1:
        remarks.append(
            f"probes of {', then '.join(map(str, states))} states: fewer states find more units dormant at 0"
        )
    if len(parts) == 1:
        return last, remarks
    keys = list(dict.fromkeys((row.name, row.copy, row.units) for part in parts for row in part.layers))
    firsts = np.cumsum([0, *(units for _, _, units in keys)])
    layers = tuple(
        RecordLayer(name, copy, units, int(first)) for (name, copy, units), first in zip(keys, firsts, strict=False)
    )
    place = {key: i for i, key in enumerate(keys)}
    total, units = sum(len(part.step) for part in parts), int(firsts[-1])
    layer_names = list(dict.fromkeys(name for part in parts for name in part.layer_metrics))
    run_names = list(dict.fromkeys(name for part in parts for name in part.run_metrics))
    codes = {name: np.full((total, units), score_codec.NOT_FINITE, np.uint8) for name in last.scores}
    counts = {name: np.zeros((total, len(layers), len(THRESHOLDS)), np.int64) for name in last.scores}
    layer_metrics = {name: np.full((total, len(layers)), np.nan, np.float32) for name in layer_names}
    run_metrics = {name: np.full(total, np.nan, np.float32) for name in run_names}
    at = 0
    for part in parts:
        rows = slice(at, at + len(part.step))
        at = rows.stop
        for i, layer in enumerate(part.layers):
            j = place[layer.name, layer.copy, layer.units]
            here = slice(layers[j].first, layers[j].first + layer.units)
            for name in last.scores:
                codes[name][rows, here] = part.codes[name][:, layer.first : layer.first + layer.units]
                counts[name][rows, j] = part.counts[name][:, i]
            for name, values in part.layer_metrics.items():
                layer_metrics[name][rows, j] = values[:, i]
        for name, values in part.run_metrics.items():
            run_metrics[name][rows] = values
    whole = dataclasses.replace(
        last,
        layers=layers,
        step=np.concatenate([part.step for part in parts]),
        updates=np.concatenate([part.updates for part in parts]),
        kind=[kind for part in parts for kind in part.kind],
        codes=codes,
        present={name: np.concatenate([part.present[name] for part in parts]) for name in last.scores},
        counts=counts,
        layer_metrics=layer_metrics,
        run_metrics=run_metrics,
    )
    return whole, remarks


def main_score(history: RecordPart) -> str:
    """The score of curves and heat map: ReDo's, or else the first that was recorded."""
    return "redo" if "redo" in history.scores else history.scores[0]


def looks(history: RecordPart) -> Array:
    """Which measurements say how the networks fare, bool [T]: not those right after a cure."""
    return np.array([kind != "post" for kind in history.kind], bool)


def hidden_layers(history: RecordPart, score: str) -> list[int]:
    """Layers that have the score: output layers have gradient scores only."""
    finite = history.codes[score] != score_codec.NOT_FINITE
    return [i for i, row in enumerate(history.layers) if finite[:, row.first : row.first + row.units].any()]


def bin_edges(count: int, most: int) -> Array:
    """Edges of at most `most` bins, nearly equal, over `count` places: int64 [bins + 1]."""
    bins = min(count, most)
    return np.arange(bins + 1, dtype=np.int64) * count // max(bins, 1)


def most_dormant(codes: Array, edges: Array) -> Array:
    """The lowest code of each unit in each bin. codes: uint8 [T, units] -> [units, bins]; 255 only if all are."""
    lowest: Array = np.minimum.reduceat(codes, edges[:-1], axis=0)
    return np.ascontiguousarray(lowest.T)


def counts_at_stops(codes: Array, layers: Sequence[RecordLayer]) -> Array:
    """Units above stop s - 1 and at most stop s, the last bin above all; uint16 [T, layers, stops + 1].

    Their sum over the bins is the number of units with a finite score. codes: uint8 [T, units of the record].
    """
    bins = len(STOPS) + 1
    of_code = np.searchsorted(STOPS, np.arange(256)).astype(np.int64)
    of_code[score_codec.NOT_FINITE] = bins  # dropped below
    found = np.empty((len(codes), len(layers), bins), np.uint16)
    rows = np.arange(len(codes))[:, None] * (bins + 1)
    for i, layer in enumerate(layers):
        places = of_code[codes[:, layer.first : layer.first + layer.units]] + rows
        flat = np.bincount(places.ravel(), minlength=len(codes) * (bins + 1))
        found[:, i] = flat.reshape(len(codes), bins + 1)[:, :bins]
    return found


@dataclass(frozen=True)
class Resets:
    """Units that were started anew, one by one: R of them in the order of the ledger."""

    layer: Array  # int64 [R], place in the history's layers
    unit: Array  # int64 [R], on the axis of all units
    updates: Array  # int64 [R]


def resets(history: RecordPart, ledger: Sequence[Mapping[str, Any]]) -> Resets:
    """From ledger lines with `layer` and `units` (a list for each copy); units that the record lacks are left out."""
    places = {(row.name, row.copy): i for i, row in enumerate(history.layers)}
    found: dict[tuple[int, int], int] = {}  # each unit once at a moment, whoever has started it anew
    for line in ledger:
        if not isinstance(line.get("units"), list):
            continue
        for copy, units in enumerate(line["units"]):
            i = places.get((str(line.get("layer")), copy))
            if i is None:
                continue
            row = history.layers[i]
            known = [u for u in units if u < row.units]
            found |= {(row.first + u, line["updates"]): i for u in known}
    unit, updates = ([key[part] for key in found] for part in (0, 1))
    return Resets(*(np.array(values, np.int64) for values in (list(found.values()), unit, updates)))


def survival(history: RecordPart, score: str, resets: Resets) -> tuple[Array, Array, Array]:
    """What became of reset units at the LAGS-th probe after their reset.

    Returns counts at stops of units not reset again before that probe, of those that were, and, for comparison, of the
    other units of the same layers at the same probes: uint32 [lags, layers, stops + 1], [lags, layers] and
    [lags, layers, stops + 1].
    """
    bins, layers = len(STOPS) + 1, len(history.layers)
    again = np.zeros((len(LAGS), layers), np.uint32)
    reset, others = (np.zeros((len(LAGS), layers, bins), np.uint32) for _ in range(2))
    probes = np.flatnonzero(looks(history) & history.present[score])
    if not probes.size or not resets.unit.size:
        return reset, again, others
    look_updates, first = np.unique(history.updates[probes], return_index=True)
    probes = probes[first]
    order = np.lexsort((resets.updates, resets.unit))
    unit, updates, layer = resets.unit[order], resets.updates[order], resets.layer[order]
    following = np.full(len(unit), np.iinfo(np.int64).max)  # the unit's next reset
    same = unit[1:] == unit[:-1]
    following[:-1][same] = updates[1:][same]
    all_bins = np.searchsorted(STOPS, np.arange(256))
    codes = history.codes[score]
    for k, lag in enumerate(LAGS):
        look = np.searchsorted(look_updates, updates, side="right") + lag - 1
        seen = look < len(probes)
        when = probes[look[seen]]
        found = codes[when, unit[seen]]
        finite = found != score_codec.NOT_FINITE
        gone = following[seen] < history.updates[when]
        np.add.at(again[k], layer[seen][gone & finite], 1)
        kept = finite & ~gone
        np.add.at(reset[k], (layer[seen][kept], all_bins[found[kept]]), 1)
        # The others: all units of the layer at those probes, once for each reset event, minus the units of that event.
        events = np.unique(np.stack([when, layer[seen], updates[seen]], axis=1), axis=0)
        for i in np.unique(events[:, 1]):
            row = history.layers[i]
            times = events[events[:, 1] == i, 0]
            total = counts_at_stops(codes[times], [row])[:, 0].astype(np.int64).sum(axis=0)
            mine = np.bincount(all_bins[found[finite & (layer[seen] == i)]], minlength=bins)[:bins]
            others[k, i] = total - mine
    return reset, again, others
