"""What the page shows of a run, as data: JSON and blobs. Numbers are those of the run folder; none is smoothed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlkit.core.errors import ConfigError
from rlkit.plasticity.measurement import THRESHOLDS
from rlkit.plasticity.record import RecordPart
from rlkit.report.blobs import Blobs
from rlkit.report.compare import FEWEST_SEEDS, compare, value_of
from rlkit.report.history import (
    LAGS,
    bin_edges,
    counts_at_stops,
    hidden_layers,
    joined,
    looks,
    main_score,
    most_dormant,
    resets,
    survival,
)
from rlkit.report.run_data import Line, RunData, dormant_share
from rlkit.report.statistics import interquartile_mean, interquartile_mean_interval
from rlkit.report.verdict import definition_in_words, layer_name, verdict

Array = np.ndarray[Any, Any]
FULL, SHORT = 600, 200  # columns in time: of the first runs, of the others
RUNS_IN_FULL = 4

_NOT_EVENTS = frozenset({"checkpoint", "replay_ratio", "replay_ratio_check"})
_LONGEST_TEXT = 160  # characters of an event's details
_CURVES = 6  # of a learned activation
_DIGITS = 7  # of a number in a metrics line: what a float32 holds


def run_sections(run: RunData, number: int, blobs: Blobs) -> dict[str, Any]:
    """A run for the page: what its index holds, with blobs of the rest. number: its place among the runs given."""
    most = FULL if number < RUNS_IN_FULL else SHORT
    history, remarks = joined(run.record)
    words = verdict(run, history)
    details = {
        "metrics": _metrics(run.metrics, most),
        "evaluations": _evaluations(run.evaluations),
        "events": _events(run.ledger),
        "ratio": _ratio(run),
        "activations": _activations(run.activations),
        "dormancy": None if history is None else _dormancy(history, run.ledger, blobs, most),
    }
    return {
        "name": run.path.name,
        "agent": str(run.about.get("agent", "?")),
        "env": str(run.about.get("env", "")),
        "seed": run.about.get("seed"),
        "created": str(run.about.get("created", "")),
        "status": str(run.about.get("status", "?")),
        "group": value_of(run, "agent"),
        "headline": words.headline,
        "sentences": words.sentences,
        "missing": [*run.missing, *remarks],
        "columns": most,
        "details": blobs.add_json(details),
        "total": None if history is None else _total(history, blobs, most),
    }


def _shown(count: int, most: int) -> Array:
    """Places of what a curve shows: all, or the first and the last of each of `most` bins."""
    last = bin_edges(count, most)[1:] - 1
    return last if count <= most else np.concatenate([[0], last])


# --- training


def _metrics(lines: Sequence[Line], most: int) -> dict[str, Any]:
    """Numbers of the lines that are shown. The record holds what plasticity/* repeats."""
    kept = [lines[i] for i in _shown(len(lines), most)]
    keys = dict.fromkeys(
        key
        for line in kept
        for key, value in line.items()
        if key not in ("step", "updates") and not key.startswith("plasticity/") and _is_number(value)
    )
    return {
        "lines": len(lines),
        "step": [line["step"] for line in kept],
        "updates": [line.get("updates") for line in kept],
        "values": {key: [_short(line.get(key)) for line in kept] for key in keys},
    }


def _evaluations(lines: Sequence[Line]) -> dict[str, Any]:
    returns = [[float(value) for value in line.get("returns", [])] or [float(line["mean"])] for line in lines]
    return {
        "step": [line["step"] for line in lines],
        "mean": [float(line["mean"]) for line in lines],
        "lowest": [min(values) for values in returns],
        "highest": [max(values) for values in returns],
        "episodes": [len(values) for values in returns],
    }


def _events(ledger: Sequence[Line]) -> list[dict[str, Any]]:
    """What was done to the run, lines of the same moment and kind as one."""
    found: dict[tuple[int, int, str], list[Line]] = {}
    for line in ledger:
        if line["kind"] not in _NOT_EVENTS:
            name = str(line.get("intervention", line["kind"]))
            found.setdefault((int(line["step"]), int(line.get("updates", 0)), name), []).append(line)
    return [
        {"step": step, "updates": updates, "kind": name, "text": _event_text(lines)}
        for (step, updates, name), lines in found.items()
    ]


def _event_text(lines: Sequence[Line]) -> str:
    parts = []
    for line in lines:
        if isinstance(line.get("units"), list):
            count = sum(len(units) for units in line["units"])
            parts.append(f"{line.get('layer')}: {count} of {line.get('of', '?')} units")
        else:
            left = ("step", "updates", "kind", "intervention", "rng")
            parts.append(", ".join(f"{key} {_plain(value)}" for key, value in line.items() if key not in left))
    text = "; ".join(part for part in parts if part)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list):
        return " ".join(_plain(each) for each in value)
    return str(value)


def _ratio(run: RunData) -> dict[str, Any]:
    """What the replay ratio was, on what signal it was decided, and what came of it: gradient steps per env step."""
    lines = [line for line in run.ledger if line["kind"] in ("replay_ratio", "replay_ratio_check")]
    checks = [line for line in lines if "value" in line]
    return {
        "kind": str(run.config.get("plasticity", {}).get("replay_ratio", "")),
        "start": None if "replay_ratio" not in run.config else str(run.config["replay_ratio"]),
        "signal": " of ".join(str(checks[0][key]) for key in ("signal", "network") if checks[0].get(key))
        if checks
        else "",
        "checks": [
            {key: line.get(key) for key in ("step", "updates", "value", "last", "gap", "old", "new")} for line in checks
        ],
        "switches": [
            {key: line.get(key) for key in ("step", "updates", "old", "new")}
            for line in lines
            if line["kind"] == "replay_ratio"
        ],
    }


def _activations(lines: Sequence[Line]) -> list[dict[str, Any]] | None:
    """Curves of learned activations, of each the first, the last and some between; None if there are none.

    Activations that share a function are shown as one: their curves are the same at every time.
    """
    if not lines:
        return None
    kept = [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, _CURVES).round().astype(int))]
    names: dict[str, list[str]] = {}  # by all that was recorded of a function
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for address, copies in kept[-1]["functions"].items():
        for copy in range(len(copies)):
            found = [line["functions"][address][copy] for line in kept]
            key = f"{address.partition('.')[0]} {copy} {found}"
            names.setdefault(key, []).append(f"{address} #{copy}" if len(copies) > 1 else address)
            curves[key] = found
    points = len(next(iter(curves.values()))[0]["values"])
    limit = float(kept[-1]["range"])
    return [
        {
            "name": ", ".join(names[key]),
            "x": np.linspace(-limit, limit, points).tolist(),
            "step": [line["step"] for line in kept],
            "values": [each["values"] for each in found],
            "coefficients": [each["coefficients"] for each in found],
        }
        for key, found in curves.items()
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if _is_number(value) else None


# --- units


def _dormancy(history: RecordPart, ledger: Sequence[Line], blobs: Blobs, most: int) -> dict[str, Any]:
    score = main_score(history)
    hidden = hidden_layers(history, score)
    layers = [history.layers[i] for i in hidden]
    seen = np.flatnonzero(history.present[score])
    codes = history.codes[score][seen]
    edges = bin_edges(len(seen), most)
    points = seen[_shown(len(seen), most)]
    on_axis = np.concatenate([np.arange(0), *(np.arange(row.first, row.first + row.units) for row in layers)])
    heat = codes[:, on_axis]
    fresh = resets(history, ledger)
    place = np.full(max((row.first + row.units for row in history.layers), default=0), -1)
    place[on_axis] = np.arange(len(on_axis))
    column = np.searchsorted(edges[1:], np.searchsorted(history.updates[seen], fresh.updates), side="right")
    dots = np.stack([np.minimum(column, len(edges) - 2), place[fresh.unit]], axis=1)[place[fresh.unit] >= 0]
    kept, again, others = survival(history, score, fresh)
    return {
        "score": score,
        "definition": definition_in_words(history.definitions[score], history.probe),
        "definitions": [dataclasses.asdict(each) for each in history.definitions.values()],
        "batch": history.probe.batch,
        "probes": len(history.step),
        "layers": [{"name": layer_name(row, history.layers), "copy": row.copy, "units": row.units} for row in layers],
        "points": {
            "step": history.step[points].tolist(),
            "updates": history.updates[points].tolist(),
            "kind": [history.kind[t] for t in points],
        },
        "counts": blobs.add(counts_at_stops(history.codes[score][points], layers)),
        "exact": blobs.add(history.counts[score][points][:, hidden].astype(np.uint16)),
        "heat": {
            "codes": blobs.add(most_dormant(heat, edges), differences=True),
            "final": blobs.add(heat[-1]),
            "first_step": history.step[seen[edges[:-1]]].tolist(),
            "last_step": history.step[seen[edges[1:] - 1]].tolist(),
            "probes": np.diff(edges).tolist(),
            "dots": blobs.add(np.unique(dots, axis=0).astype(np.uint32)),
        },
        "survival": {
            "lags": list(LAGS),
            "resets": int(fresh.unit.size),
            "kept": blobs.add(kept[:, hidden]),
            "again": blobs.add(again[:, hidden]),
            "others": blobs.add(others[:, hidden]),
        },
        "agreement": _agreement(history, score, layers, on_axis, blobs),
        "by_definition": _by_definition(history, layers, blobs, most),
        "layer_metrics": _layer_metrics(history, hidden, blobs, most),
        "run_metrics": _run_metrics(history, most),
    }


def _agreement(
    history: RecordPart, score: str, layers: Sequence[Any], on_axis: Any, blobs: Blobs
) -> dict[str, Any] | None:
    """Codes of every score at the last probe that has all of them, or None."""
    all_there = np.flatnonzero(np.all([history.present[name] for name in history.scores], axis=0))
    if not all_there.size or not layers or len(history.scores) < 2:
        return None
    t = int(all_there[-1])
    names = [score, *(name for name in history.scores if name != score)]
    return {
        "step": int(history.step[t]),
        "updates": int(history.updates[t]),
        "scores": names,
        "codes": blobs.add(np.stack([history.codes[name][t, on_axis] for name in names])),
    }


def _by_definition(history: RecordPart, layers: Sequence[Any], blobs: Blobs, most: int) -> list[dict[str, Any]]:
    """Per score counts at stops, summed over the hidden layers of more than one unit, at the probes that have it."""
    pooled = [row for row in layers if row.units > 1]
    found = []
    for name in history.scores:
        there = np.flatnonzero(history.present[name])
        there = there[_shown(len(there), min(most, SHORT))]
        if there.size and pooled:
            counts = counts_at_stops(history.codes[name][there], pooled).astype(np.uint32).sum(axis=1, dtype=np.uint32)
            found.append({"score": name, "step": history.step[there].tolist(), "counts": blobs.add(counts)})
    return found


def _layer_metrics(history: RecordPart, hidden: list[int], blobs: Blobs, most: int) -> dict[str, Any]:
    """Metrics with a number anywhere, in two sets: those of every probe, and those of full probes only."""
    values = {name: array[:, hidden] for name, array in history.layer_metrics.items()}
    there = {name: np.isfinite(array).any(axis=1) for name, array in values.items()}
    sets: dict[str, list[str]] = {"every": [], "full": []}
    for name, mask in there.items():
        if mask.any():
            sets["every" if mask.mean() > 0.5 else "full"].append(name)
    found: dict[str, Any] = {}
    for kind, names in sets.items():
        if not names:
            continue
        times = np.flatnonzero(np.any([there[name] for name in names], axis=0))
        times = times[_shown(len(times), most)]
        found[kind] = {
            "names": names,
            "step": history.step[times].tolist(),
            "values": blobs.add(np.stack([values[name][times] for name in names]).astype(np.float32)),
        }
    return found


def _run_metrics(history: RecordPart, most: int) -> list[dict[str, Any]]:
    found = []
    for name, array in history.run_metrics.items():
        there = np.flatnonzero(np.isfinite(array))
        there = there[_shown(len(there), most)]
        if there.size:
            shown = [_short(float(value)) for value in array[there]]
            found.append({"name": name, "step": history.step[there].tolist(), "values": shown})
    return found


def _total(history: RecordPart, blobs: Blobs, most: int) -> dict[str, Any] | None:
    """Counts of the whole network, layers of more than one unit, for curves of many runs beside each other."""
    score = main_score(history)
    hidden = [i for i in hidden_layers(history, score) if history.layers[i].units > 1]
    seen = np.flatnonzero(history.present[score])
    if not hidden or not seen.size:
        return None
    points = seen[_shown(len(seen), min(most, SHORT))]
    counts = counts_at_stops(history.codes[score][points], [history.layers[i] for i in hidden])
    return {
        "step": history.step[points].tolist(),
        "counts": blobs.add(counts.astype(np.uint32).sum(axis=1, dtype=np.uint32)),
        "exact": blobs.add(history.counts[score][points][:, hidden].sum(axis=1).astype(np.uint32)),
    }


# --- runs beside each other


def comparison(runs: Sequence[RunData]) -> dict[str, Any]:
    """Groups by agent: what they reached and how much is dormant at the end, with intervals where seeds suffice."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"fewest": FEWEST_SEEDS, "returns": [], "dormant": [], "notes": []}
    try:
        result = compare(runs, "agent", rng, force=True)
    except ConfigError as error:
        found["notes"].append(f"returns are not compared: {error.args[0]}")
    else:
        found["notes"] += result.notes
        for group in result.groups:
            found["returns"].append(
                {
                    "group": group.name,
                    "runs": len(group.runs),
                    "values": [value for values in group.scores.values() for value in values],
                    "iqm": group.mean,
                    "interval": group.interval,
                    "better": group.better,
                    "better_interval": group.better_interval,
                }
            )
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(value_of(run, "agent"), []).append(run)
    for name, members in groups.items():
        for threshold in THRESHOLDS:
            scores: dict[str, list[float]] = {}
            for run in members:
                share = _last_share(run, threshold)
                if share is not None:
                    scores.setdefault(str(run.about.get("env", "")), []).append(share)
            values = [value for each in scores.values() for value in each]
            if values:
                enough = min(len(each) for each in scores.values()) >= FEWEST_SEEDS
                found["dormant"].append(
                    {
                        "group": name,
                        "threshold": threshold,
                        "runs": len(values),
                        "values": values,
                        "iqm": float(interquartile_mean(values)),
                        "interval": interquartile_mean_interval(scores, rng) if enough else None,
                    }
                )
    return found


def _last_share(run: RunData, threshold: float) -> float | None:
    history, _ = joined(run.record)
    if history is None:
        return None
    share = dormant_share(history, threshold, main_score(history))
    finite = share[np.isfinite(share) & looks(history)]
    return float(finite[-1]) if finite.size else None
