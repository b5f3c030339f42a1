"""Run folders with made-up trainings, written by the record's own writer; the size of SAC's networks if asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlkit.plasticity.measurement import LAYER_METRICS, LayerMeasurement, Measurement, Probe
from rlkit.plasticity.record import RecordWriter
from rlkit.plasticity.scores import DEFINITIONS

# (address, units, copies, hidden)
SAC = (
    ("actor.trunk.0", 256, 1, True), ("actor.trunk.2", 256, 1, True), ("actor.head", 12, 1, False),
    ("critic.trunk.0", 256, 2, True), ("critic.trunk.2", 256, 2, True), ("critic.head", 1, 2, False),
)  # fmt: skip
SMALL = (("actor.0", 5, 1, True), ("critic.0", 4, 2, True), ("critic.head", 1, 2, False))


def make_run(
    path: Path,
    *,
    layers: tuple[tuple[str, int, int, bool], ...] = SMALL,
    probes: int = 12,
    seed: int = 0,
    cure: bool = True,
    agent: str = "sac",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """A run of `probes` measurements, 100 gradient steps apart: scores wander, some die, a cure brings some back."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    description = {"format": 1, "agent": agent, "env": "dmc/walker-walk", "seed": seed, "status": "finished"}
    (path / "run.json").write_text(json.dumps({**description, "created": "2026-01-01T00:00:00+00:00", **(about or {})}))
    config = {
        "plasticity": {"interventions": ["redo"] if cure else [], "replay_ratio": "adaptive"},
        "replay_ratio": "1",
    }
    (path / "config.yaml").write_text(yaml.safe_dump({**config, "env_steps": 100 * probes}))
    writer = RecordWriter(path / "plasticity" / "record.bin", DEFINITIONS, Probe(256, "replay, uniform, fresh", seed))
    level = {name: np.exp(rng.normal(0, 0.6, (copies, units))) for name, units, copies, _ in layers}
    fall = {name: rng.exponential(8.0 / max(probes, 1), (copies, units)) for name, units, copies, _ in layers}
    ledger: list[dict[str, Any]] = []
    time = 0
    for t in range(probes):
        time += 100
        kind = "start" if t == 0 else "end" if t == probes - 1 else "pre" if cure and t % 5 == 3 else "probe"
        for name in level:
            level[name] *= np.exp(-fall[name] + rng.normal(0, 0.02, level[name].shape))
        shown = {name: np.where(a < 0.002, 0.0, a) for name, a in level.items()}
        writer.append(_measurement(layers, shown, rng, time, kind, full=t % 4 == 0))
        if kind == "pre":
            for name, _, _, hidden in layers:
                units = shown[name] <= 0.1
                if hidden and units.any():
                    level[name][units] = 1.0
                    listed = [np.flatnonzero(copy).tolist() for copy in units]
                    event = {"kind": "redo", "intervention": "redo", "layer": name, "units": listed}
                    ledger.append({"step": time, "updates": time, **event, "of": units.shape[1]})
            writer.append(_measurement(layers, level, rng, time, "post", full=False))
    writer.close()
    for step in (400, 800):
        check = {"check": step // 400, "signal": "fau", "network": "critic", "value": 0.5 + step / 1e4, "last": 0.5}
        kind = "replay_ratio" if step == 800 else "replay_ratio_check"
        new = "2" if step == 800 else "1"
        ledger.append({"step": step, "updates": step, "kind": kind, **check, "gap": 0.05, "old": "1", "new": new})
    write_lines(path / "ledger.jsonl", sorted(ledger, key=lambda line: line["step"]))
    lines = [
        {
            "step": step,
            "updates": step,
            "loss": 1 / step,
            "episode_return": step / 10 + seed,
            "replay/age_mean": step / 2,
        }
        for step in range(100, 100 * probes + 1, 100)
    ]
    write_lines(path / "metrics.jsonl", lines)
    returns = [10.0 * seed, 10.0 * seed + 4]
    evaluation = {"step": 100 * probes, "mean": 10.0 * seed + 2, "returns": returns, "protocol": {"name": "dmc"}}
    write_lines(path / "evaluations.jsonl", [evaluation])
    return path


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _measurement(
    layers: tuple[tuple[str, int, int, bool], ...],
    level: Mapping[str, np.ndarray[Any, Any]],
    rng: np.random.Generator,
    time: int,
    kind: str,
    *,
    full: bool,
) -> Measurement:
    measured = {}
    for name, units, copies, hidden in layers:
        activation = level[name] * np.exp(rng.normal(0, 0.1, level[name].shape))  # another batch of states
        score = activation / (activation.mean(1, keepdims=True) + 1e-9)
        scores = (
            {"redo": score, "redo_centred": score * 0.9, "active_share": np.minimum(score / 4, 1)} if hidden else {}
        )
        if full:
            gradient = activation * np.exp(rng.normal(0, 0.5, activation.shape))
            gradient /= gradient.mean(1, keepdims=True) + 1e-9
            scores |= {"grama": gradient, "ace": gradient}
        cheap = ("mean_activation", "nonfinite", "fau_element", "fau_unit", "dead_rate", "saturated")
        metrics = {
            metric: np.full(copies, 0.0) if metric in ("nonfinite", "saturated") else rng.uniform(0.2, 1, copies)
            for metric in LAYER_METRICS
            if full or metric in cheap
        }
        measured[name] = LayerMeasurement(units, copies, scores, metrics)
    return Measurement(time, time, kind, measured, {"policy_churn": 0.01} if full else {})
