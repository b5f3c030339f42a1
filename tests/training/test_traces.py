"""Committed traces: exact hashes of what is drawn, losses and parameter norms with a tolerance (bits differ by CPU).

A trace changes only together with a line in CHANGELOG.md. To write anew: RLKIT_WRITE_TRACES=1 scripts/test -k traces
"""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from rlkit.replay.samplers import SAMPLERS
from rlkit.training.experiment import Experiment
from rlkit.training.resolve import resolve

FOLDER = Path(__file__).parent.parent / "traces"
COMMON = {"threads": 1, "env_steps": 400, "learning_starts": 80, "replay.capacity": 160, "replay.batch_size": 16}
# All actions are random, so that raw data depend on no floating-point result.
CASES = {
    "dqn": ("tiny/pixels", {"agent.epsilon_start": 1.0, "agent.epsilon_end": 1.0, "env.stack": 3, "replay.n_step": 3}),
    "sac": ("tiny/match", {"random_steps": 400}),
    "ace-small": (
        "tiny/match",
        {
            "random_steps": 400,
            "network.hidden": [32, 32],
            "agent.causal_period": 100,
            "agent.causal_rows": 100,
            "intervention.ace_reset.every": 150,
        },
    ),
}
SAMPLER_SETTINGS = {
    "ere": {"sampler.rows_min": 10},  # fewer than the capacity
    "consume": {"sampler.max_visits": 16},  # 8 or 16 rows are drawn per env step: with one visit it would run dry
}


def compute(agent, sampler):
    env, flags = CASES[agent]
    flags = {**COMMON, **flags, **SAMPLER_SETTINGS.get(sampler, {}), "replay.sampler": sampler, "env.num_envs": 2}
    experiment = Experiment(resolve(agent, env, flags=flags))
    indices, raw, losses = hashlib.sha256(), hashlib.sha256(), []
    sample, update = experiment.replay.sample, experiment.agent.update

    def watched_sample(*arguments):
        batch = sample(*arguments)
        indices.update(batch["index"].numpy().tobytes() + batch["uid"].numpy().tobytes())
        for key in ("observation", "action", ("next", "observation"), ("next", "terminated")):
            raw.update(batch[key].contiguous().numpy().tobytes())
        return batch

    def watched_update(batch, observe):
        result = update(batch, observe)
        losses.append(float(result.metrics["loss"]))
        return result

    def given_priority(batch, priority):
        # The last bits of a TD error differ between CPUs, and what is drawn by priority would with them.
        given(batch, (batch["uid"] % 7 + 1).to(priority.dtype))

    given, experiment.replay.update_priority = experiment.replay.update_priority, given_priority
    experiment.replay.sample, experiment.agent.update = watched_sample, watched_update
    while experiment.env_steps < experiment.config.env_steps:
        experiment.step()
    experiment.close()
    norms = {
        name: float(torch.linalg.vector_norm(p.detach())) for name, p in experiment.agent.networks.named_parameters()
    }
    every = len(losses) // 8
    return {"indices": indices.hexdigest(), "batches": raw.hexdigest(), "losses": losses[::every], "norms": norms}


TRACES = [(agent, sampler) for agent in ("dqn", "sac") for sampler in SAMPLERS] + [("ace-small", "uniform")]


@pytest.mark.parametrize(("agent", "sampler"), TRACES)
def test_traces(agent, sampler):
    path, found = FOLDER / f"{agent}-{sampler}.json", compute(agent, sampler)
    if "RLKIT_WRITE_TRACES" in os.environ:
        path.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(path.read_text())
    assert found["indices"] == expected["indices"]
    assert found["batches"] == expected["batches"]
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3, abs=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
