"""A run folder as reports read it: files only, no torch. What is missing is said, not raised."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlkit.core import score_codec
from rlkit.core.errors import ConfigError
from rlkit.plasticity.measurement import THRESHOLDS
from rlkit.plasticity.record import Record, RecordPart, read_record

Array = np.ndarray[Any, Any]
Line = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """One run. Lines of logs are in the order of time; those that a resumed run took again are left out."""

    path: Path
    about: Line  # run.json: agent, env, seed, created, status
    config: Line  # nested; empty if there is none
    metrics: list[Line]
    evaluations: list[Line]
    ledger: list[Line]
    record: Record
    activations: list[Line] = field(default_factory=list)  # curves of learned ones; empty if none are learned
    missing: list[str] = field(default_factory=list)  # in words

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"{self.about.get('agent', '?')} {self.about.get('env', '')} s{self.about.get('seed', '?')}".replace(
            "  ", " "
        )


def load_run(path: Path) -> RunData:
    """Everything in the folder `path`. Raises ConfigError if it is not a run folder."""
    try:
        about = json.loads((path / "run.json").read_text())
        if not isinstance(about, dict):
            raise TypeError
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a run folder",
            why=f"its run.json cannot be read ({error.__class__.__name__})",
            fix="rlkit ls lists the runs",
            see="docs/run_folder.md",
        ) from error
    missing = []
    config_file = path / "config.yaml"
    try:
        config = (yaml.safe_load(config_file.read_text()) or {}) if config_file.exists() else {}
        if not isinstance(config, dict):
            raise TypeError
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        config, missing = {}, ["config.yaml cannot be read"]
    logs = {}
    for name in ("metrics", "evaluations", "ledger", "activations"):
        logs[name], damaged = _lines(path / f"{name}.jsonl")
        if damaged:
            missing.append(f"{name}.jsonl: {len(damaged)} damaged, left out: {_lines_in_words(damaged)}")
    record = read_record(path / "plasticity" / "record.bin")
    if not logs["metrics"]:
        missing.append("no line in metrics.jsonl yet: no training curve")
    if not logs["evaluations"]:
        missing.append("no evaluation yet")
    if not record.parts:
        missing.append("no plasticity record (plasticity.monitor was off, or no gradient step has been taken)")
    if record.damage:
        missing.append(f"plasticity/record.bin: {record.damage}")
    ledger = without_undone(logs["ledger"])
    return RunData(
        path, about, config, logs["metrics"], logs["evaluations"], ledger, record, logs["activations"], missing
    )


def _lines(path: Path) -> tuple[list[Line], list[int]]:
    """Whole lines, and the numbers of damaged ones. A torn last one is left out: it may still be being written."""
    found: list[Line] = []
    damaged: list[int] = []
    texts = path.read_text(errors="replace").split("\n") if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or "step" not in line:
                raise ValueError
        except ValueError:
            if number < len(texts):
                damaged.append(number)
        else:
            found.append(line)
    return found, damaged


def _lines_in_words(numbers: list[int]) -> str:
    first = ", ".join(f"{number:,}" for number in numbers[:3])
    return f"line{'s' if len(numbers) > 1 else ''} {first}{', ...' if len(numbers) > 3 else ''}"


def without_undone(ledger: list[Line]) -> list[Line]:
    """The ledger keeps all; what a resume went back behind has been done again, so it is left out here."""
    kept: list[Line] = []
    for line in ledger:
        if line.get("kind") == "resume" and "checkpoint" in line:
            kept = [earlier for earlier in kept if earlier["step"] <= line["checkpoint"]]
        kept.append(line)
    return kept


def dormant(part: RecordPart, threshold: float, score: str = "redo") -> Array:
    """Dormant units by layer, int64 [T, layers]; -1 where the score was not measured.

    Exact at 0, 0.025 and 0.1; elsewhere a score within 4.43 % of the threshold may be on the other side.
    """
    if threshold in THRESHOLDS:
        counts = part.counts[score][:, :, THRESHOLDS.index(threshold)].copy()
    else:
        low = score_codec.decode(part.codes[score]) <= threshold  # NaN is not
        counts = np.stack([low[:, row.first : row.first + row.units].sum(axis=1) for row in part.layers], axis=1)
    counts[~part.present[score]] = -1
    return counts


def scored_units(part: RecordPart, score: str = "redo") -> Array:
    """Units with a finite score by layer, int64 [T, layers]: those that a share is taken of."""
    finite = part.codes[score] != score_codec.NOT_FINITE
    return np.stack([finite[:, row.first : row.first + row.units].sum(axis=1) for row in part.layers], axis=1)


def dormant_share(
    part: RecordPart, threshold: float, score: str = "redo", *, network: str | None = None, min_units: int = 2
) -> Array:
    """Dormant units over all, of layers of at least `min_units` (of one network): float64 [T], NaN = none."""
    rows = [
        i
        for i, row in enumerate(part.layers)
        if row.units >= min_units and (network in (None, row.name) or row.name.startswith(f"{network}."))
    ]
    counts, units = dormant(part, threshold, score)[:, rows], scored_units(part, score)[:, rows]
    measured = part.present[score] & (units.sum(axis=1) > 0)
    share = np.full(len(part.step), np.nan)
    share[measured] = counts[measured].sum(axis=1) / units[measured].sum(axis=1)
    return share
