"""Dormancy in a terminal: one line a layer, time from left to right."""

from __future__ import annotations

import numpy as np

from rlkit.core.errors import ConfigError, nearest
from rlkit.report.history import joined
from rlkit.report.run_data import Array, Line, RunData, dormant, scored_units
from rlkit.report.verdict import layer_name

_BLOCKS, _DIGITS = " ▁▂▃▄▅▆▇█", "0123456789"
_NOT_THERE = "·"  # a time at which the network did not have the layer
_NUMBERS = 24  # characters of a line behind its strip, with what parts them


def dormancy_lines(
    run: RunData, threshold: float, score: str = "redo", *, columns: int = 80, blocks: bool = True
) -> list[str]:
    """Lines to print: per layer the dormant share over time, where it stands, and what was done to its units.

    columns: of the terminal; a strip has at least 10. blocks: with block characters, else tenths as digits ("9" = 90 %
    and more). Raises ConfigError for a run without a record or a score that it does not have.
    """
    part, remarks = joined(run.record)
    if part is None:
        raise ConfigError(
            f"{run.path} has no plasticity record",
            why="plasticity.monitor was off, or no gradient step has been taken",
            fix="train with --plasticity.monitor true",
            see="docs/plasticity.md",
        )
    if score not in part.scores or not part.present[score].any():
        known = [name for name in part.scores if part.present[name].any()]
        raise ConfigError(
            f"no score {score!r} in this record",
            why=f"there are: {', '.join(known)}.{nearest(score, known)}",
            fix=f"--score {known[0]}" if known else "wait for the first probe",
        )
    there = part.present[score]
    counts, units = dormant(part, threshold, score)[there], scored_units(part, score)[there]
    step, definition = part.step[there], part.definitions[score]
    over = "" if definition.normaliser == "none" else f", over {definition.normaliser}"
    lines = [
        f"{run.name}, {run.about.get('status', '?')}: {len(step)} probes to env step {step[-1]:,}, "
        f"update {part.updates[there][-1]:,}",
        f"dormant: {definition.quantity}, {definition.reduce}{over}, at most {threshold:g}",
        *remarks,
    ]
    shown = [i for i in range(len(part.layers)) if units[:, i].any()]
    several = [i for i in shown if part.layers[i].units >= 2]
    rows = [(layer_name(part.layers[i], part.layers), counts[:, i], units[:, i]) for i in shown]
    rows.append(("all", counts[:, several].sum(axis=1), units[:, several].sum(axis=1)))
    pad = max(len(label) for label, _, _ in rows)
    width = max(10, columns - pad - _NUMBERS)
    for label, low, of in rows:
        share = np.divide(low, of, out=np.full(len(of), np.nan), where=of > 0)
        strip = "".join(_mark(value, blocks) for value in _squeezed(share, width))
        now = f"{100 * share[-1]:5.1f} %  {low[-1]:>5} of {of[-1]}" if of[-1] else "not in the network now"
        lines.append(f"{label:<{pad}}  {strip}  {now}")
    return lines + _done(run.ledger)


def _done(ledger: list[Line]) -> list[str]:
    """A line for each intervention: how often, and how many units it has started anew."""
    times: dict[str, set[int]] = {}
    units: dict[str, int] = {}
    for line in ledger:
        if "intervention" in line:
            name = str(line["intervention"])
            times.setdefault(name, set()).add(int(line["updates"] if "updates" in line else line["step"]))
            if isinstance(line.get("units"), list):
                units[name] = units.get(name, 0) + sum(len(copy) for copy in line["units"])
    return [
        f"{name}: {len(when):,} time{'s' if len(when) > 1 else ''}"
        + (f", {units[name]:,} units started anew" if name in units else "")
        for name, when in times.items()
    ]


def _squeezed(values: Array, width: int) -> Array:
    """At most `width` values; where several fall together, the largest of them. NaN only if all are."""
    if len(values) <= width:
        return values
    return np.array([np.fmax.reduce(part) for part in np.array_split(values, width)])


def _mark(share: float, blocks: bool) -> str:
    """A block that is blank for nothing at all and shows anything else, or the digit of the tenth."""
    if np.isnan(share):
        return _NOT_THERE if blocks else "-"
    if blocks:
        return _BLOCKS[int(np.ceil(share * (len(_BLOCKS) - 1)))]
    return _DIGITS[min(int(share * 10), 9)]
