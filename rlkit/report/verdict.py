"""What a run's record says about dormant units, in plain words. Every number is computed from the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlkit.plasticity.measurement import THRESHOLDS, Definition, Probe
from rlkit.plasticity.record import RecordLayer, RecordPart
from rlkit.report.compare import FEWEST_SEEDS
from rlkit.report.history import EXACT, LAGS, STOPS, Resets, hidden_layers, looks, main_score, resets, survival
from rlkit.report.run_data import RunData, dormant, dormant_share, scored_units

Array = np.ndarray[Any, Any]
THRESHOLD = THRESHOLDS[-1]


@dataclass(frozen=True)
class Verdict:
    """A headline, and what carries it: sentences, or a table of groups."""

    headline: str
    sentences: list[str]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def verdict(run: RunData, history: RecordPart | None) -> Verdict:
    """Share of dormant units now, where they are, since when, and what the cures did."""
    if history is None:
        return Verdict("Nothing can be said about dormant units: the run has no plasticity record.", [])
    score = main_score(history)
    share = dormant_share(history, THRESHOLD, score)
    measured = np.flatnonzero(np.isfinite(share) & looks(history))
    if not measured.size:
        return Verdict("Nothing can be said about dormant units: no unit has a finite score.", [])
    last = int(measured[-1])
    counts, units = dormant(history, THRESHOLD, score), scored_units(history, score)
    pooled = [i for i in hidden_layers(history, score) if history.layers[i].units > 1]
    found, total = int(counts[last, pooled].sum()), int(units[last, pooled].sum())
    sentences = [
        f"At the last probe (env step {history.step[last]:,}, gradient step {history.updates[last]:,}) {found:,} of "
        f"{total:,} hidden units, {percent(share[last])}, score at most {THRESHOLD:g}."
    ]
    if found:
        sentences.append(_where(history, pooled, counts[last], units[last], found))
    sentences.append(_since(history, share, measured))
    sentences.append(_cures(run, history, score, share))
    return Verdict(_headline(float(share[last]), found, history, pooled, counts[last]), sentences)


def percent(share: float) -> str:
    """0.1234 -> 12.3 %."""
    return f"{100 * share:.1f} %"


def layer_name(layer: RecordLayer, layers: Sequence[RecordLayer]) -> str:
    """With the number of the copy, where there are several."""
    copies = sum(other.name == layer.name for other in layers)
    return f"{layer.name} #{layer.copy + 1}" if copies > 1 else layer.name


def definition_in_words(definition: Definition, probe: Probe) -> str:
    """The sentence that a reader needs before the first number."""
    divided = "" if definition.normaliser == "none" else f", divided by the {definition.normaliser}"
    seed = "" if probe.seed is None else f", seed {probe.seed}"
    compare = "at most" if definition.compare == "<=" else "below"
    return (
        f"A unit is dormant if its score is {compare} the threshold \N{GREEK SMALL LETTER TAU}. The score "
        f"({definition.name}, version {definition.version}) is {definition.quantity}, {definition.reduce}{divided}; "
        f"{definition.layers} layers. Each probe takes {probe.batch:,} states ({probe.source}{seed})."
    )


def _headline(share: float, found: int, history: RecordPart, pooled: list[int], counts: Array) -> str:
    if found == 0:
        return "No hidden unit is dormant."
    worst = pooled[int(np.argmax(counts[pooled]))]
    near = share <= 0.4 and abs(share * round(1 / share) - 1) <= 0.1  # else "1 in N" would be another number
    many = "All units are" if share == 1 else f"About 1 unit in {round(1 / share):,} is" if near else ""
    many = many or f"{percent(share)} of the units are"
    part = "most" if 2 * counts[worst] > found else "the largest part"
    return f"{many} dormant, {part} of them in {layer_name(history.layers[worst], history.layers)}."


def _where(history: RecordPart, pooled: list[int], counts: Array, units: Array, found: int) -> str:
    order = sorted((i for i in pooled if counts[i]), key=lambda i: -counts[i])[:3]
    parts = [
        f"{layer_name(history.layers[i], history.layers)} has {counts[i]:,} ({percent(counts[i] / units[i])} of its "
        f"{units[i]:,})"
        for i in order
    ]
    left = found - int(counts[order].sum())
    return "; ".join(parts) + (f"; other layers have {left:,}." if left else ".")


def _since(history: RecordPart, share: Array, measured: Array) -> str:
    first, last = measured[0], measured[-1]
    top = measured[int(np.argmax(share[measured]))]
    text = f"At the first probe it was {percent(share[first])}, "
    text += f"at most {percent(share[top])} (env step {history.step[top]:,})."
    below = [t for t in measured if share[t] < share[last] / 2]
    if share[last] == 0:
        return text
    if not below:
        return f"{text} It has been above half of its present value from the first probe on."
    after = [t for t in measured if t > below[-1]]
    since = after[0] if after else last
    return f"{text} It has stayed above half of its present value since env step {history.step[since]:,}."


def _cures(run: RunData, history: RecordPart, score: str, share: Array) -> str:
    ledger = run.ledger
    applied: dict[str, set[int]] = {}
    for line in ledger:
        if "intervention" in line:
            applied.setdefault(str(line["intervention"]), set()).add(int(line["updates"]))
    chosen = run.config.get("plasticity", {}).get("interventions", ())
    silent = [name for name in chosen if name not in applied]
    left = "left no line in the ledger: in force at every step, or not yet due."
    quiet = f"{' and '.join(silent)} {left} " if silent else ""
    if not applied:
        return quiet.strip() or "No cure was applied."
    times = " and ".join(f"{name} {len(at):,} {'time' if len(at) == 1 else 'times'}" for name, at in applied.items())
    text = f"{quiet}Cures that acted: {times}"
    fresh = resets(history, ledger)
    if fresh.unit.size:
        text += f"; {fresh.unit.size:,} units were started anew"
    before, after = _around(history, share)
    if before.size:
        text += (
            f". From just before to just after, the dormant share went from {percent(before.mean())} to "
            f"{percent(after.mean())} (mean of {before.size:,} {'treatment' if before.size == 1 else 'treatments'})"
        )
    return text + "." + _return_of_the_dormant(history, score, fresh)


def _around(history: RecordPart, share: Array) -> tuple[Array, Array]:
    """Shares right before and right after each treatment."""
    pairs = [
        (t - 1, t)
        for t in range(1, len(share))
        if (history.kind[t - 1], history.kind[t]) == ("pre", "post") and history.updates[t - 1] == history.updates[t]
    ]
    before, after = (np.array([share[pair[side]] for pair in pairs], np.float64) for side in (0, 1))
    both = np.isfinite(before) & np.isfinite(after)
    return before[both], after[both]


def _return_of_the_dormant(history: RecordPart, score: str, fresh: Resets) -> str:
    kept, again, others = survival(history, score, fresh)
    seen = kept.sum(axis=(1, 2)) + again.sum(axis=1)
    lags = np.flatnonzero(seen)
    if not lags.size:
        return ""
    stop = STOPS.index(next(code for code, threshold in EXACT.items() if threshold == THRESHOLD)) + 1
    k = int(lags[-1])
    back = int(kept[k, :, :stop].sum()) + int(again[k].sum())
    rest = others[k].sum()
    beside = f"; of the others in these layers {percent(others[k, :, :stop].sum() / rest)} were dormant" if rest else ""
    probes = "1 probe" if LAGS[k] == 1 else f"{LAGS[k]} probes"
    again_dormant = f"{percent(back / seen[k])} of {int(seen[k]):,} were dormant or had been started anew again"
    return f" {probes} later, {again_dormant}{beside}."


def verdict_of_many(compared: Mapping[str, Any], runs: int) -> Verdict:
    """The same of several runs, from what `sections.comparison` found."""
    shares = [row for row in compared["dormant"] if row["threshold"] == THRESHOLD]
    if not shares:
        return Verdict(f"Nothing can be said about dormant units: none of {runs} runs has a plasticity record.", [])
    ordered = sorted(shares, key=lambda row: row["iqm"])
    if len(ordered) == 1:
        headline = f"{percent(ordered[0]['iqm'])} of the units of {ordered[0]['group']} are dormant at the end."
    else:
        low, high = ordered[0], ordered[-1]
        headline = (
            f"Dormant at the end: from {percent(low['iqm'])} of the units ({low['group']}) to {percent(high['iqm'])} "
            f"({high['group']})."
        )
    returns = {row["group"]: row for row in compared["returns"]}
    rows = [
        [
            row["group"],
            f"{row['runs']}",
            percent(row["iqm"]),
            _interval(row, percent),
            f"{percent(min(row['values']))} to {percent(max(row['values']))}",
            *_reached(returns.get(row["group"])),
        ]
        for row in shares
    ]
    what = f"Share of units with a score of at most {THRESHOLD:g} at the last probe, and the return reached"
    sentences = [f"{what}: interquartile means over runs, with 95 % stratified bootstrap intervals."]
    return Verdict(headline, sentences, ("group", "runs", "dormant", "95 %", "range", "return", "95 %"), rows)


def _reached(row: Mapping[str, Any] | None) -> list[str]:
    return ["–", "–"] if row is None else [f"{row['iqm']:.4g}", _interval(row, "{:.4g}".format)]


def _interval(row: Mapping[str, Any], text: Callable[[float], str]) -> str:
    if row["interval"] is None:
        return f"fewer than {FEWEST_SEEDS} seeds"
    return " to ".join(map(text, row["interval"]))
