"""Hand-made run folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlkit.plasticity.measurement import LayerMeasurement, Measurement, Probe
from rlkit.plasticity.record import RecordWriter
from rlkit.plasticity.scores import DEFINITIONS


def make_run(
    path: Path,
    *,
    agent: str = "dqn",
    env: str = "gym/X",
    seed: int = 0,
    returns: tuple[float, ...] = (1.0, 2.0),
    interventions: tuple[str, ...] = (),
    env_steps: int = 100,
    protocol: dict[str, Any] | None = None,
    probes: int = 0,
    batch: int = 32,
    evaluated: bool = True,
    version: int = 1,
    status: str = "finished",
) -> Path:
    """A run whose last evaluation has these returns; `probes` of two layers, the second ever more dormant."""
    path.mkdir(parents=True)
    about = {"format": 1, "agent": agent, "env": env, "seed": seed, "status": status}
    (path / "run.json").write_text(json.dumps(about))
    config = {"env_steps": env_steps, "plasticity": {"interventions": list(interventions)}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"step": step, "updates": step, "episode_return": float(step)} for step in range(10, env_steps + 1, 10)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if evaluated:
        mean = sum(returns) / len(returns)
        line = {"step": env_steps, "mean": mean, "returns": returns, "protocol": protocol or {"episodes": 2}}
        (path / "evaluations.jsonl").write_text(json.dumps(line) + "\n")
    if probes:
        definitions = DEFINITIONS | {"ace": dataclasses.replace(DEFINITIONS["ace"], version=version)}
        writer = RecordWriter(path / "plasticity" / "record.bin", definitions, Probe(batch, "replay"))
        for i in range(probes):
            low = np.array([[0.0] * i + [1.0] * (probes - i)])
            layers = {
                "net.a": LayerMeasurement(4, 1, {"redo": np.ones((1, 4))}, {}),
                "net.b": LayerMeasurement(probes, 1, {"redo": low}, {}),
            }
            writer.append(Measurement(10 * i, i, "probe", layers))
        writer.close()
    return path
