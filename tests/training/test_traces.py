"""Committed traces: exact hashes of what is drawn, losses and parameter norms with a tolerance (bits differ by CPU).

"steps" is what the environments did, "batches" what was drawn. A trace changes only together with a line in
CHANGELOG.md. To write them anew: RLKIT_WRITE_TRACES=1 scripts/test tests/training/test_traces.py
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
RANDOM_DQN = {"agent.epsilon_start": 1.0, "agent.epsilon_end": 1.0, "replay.n_step": 3}
SMALL = {"env_steps": 240, "replay_ratio": "1/4", "network.hidden": [32], "plasticity.monitor": False}
CASES = {
    "dqn": ("dqn", "tiny/pixels", {**RANDOM_DQN, "env.stack": 3}),
    "sac": ("sac", "tiny/match", {"random_steps": 400}),
    # A cap of 240 frames: episodes of 60 steps end by it, so the trace has truncations, and lost lives.
    "dqn-pong": ("dqn", "ALE/Pong-v5", {**RANDOM_DQN, **SMALL, "env.episode_cap": 240}),
    "sac-walker": ("sac", "dmc/walker-walk", {**SMALL, "random_steps": 400, "replay.n_step": 3}),
    "ace-small": (
        "ace-small",
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
TRACES = [(case, sampler) for case in ("dqn", "sac") for sampler in SAMPLERS]
TRACES += [("dqn-pong", "rr-c"), ("sac-walker", "rr-c"), ("ace-small", "uniform")]
SAMPLER_SETTINGS = {
    "ere": {"sampler.rows_min": 10},  # fewer than the capacity
    "consume": {"sampler.max_visits": 16},  # 8 or 16 rows are drawn per env step: with one visit it would run dry
}
# MuJoCo's last bits differ between CPUs, so what it computes is compared by its means over batches.
PHYSICS = ("observation", ("next", "observation"), ("next", "reward"))
BATCH = (*PHYSICS, "action", ("next", "terminated"), "discount")


def compute(case, sampler):
    agent, env, flags = CASES[case]
    flags = {**COMMON, **flags, **SAMPLER_SETTINGS.get(sampler, {}), "replay.sampler": sampler, "env.num_envs": 2}
    experiment = Experiment(resolve(agent, env, flags=flags))
    rounded = PHYSICS if experiment.env.spec.family == "dmc" else ()
    indices, raw, written, losses, means = hashlib.sha256(), hashlib.sha256(), hashlib.sha256(), [], []
    add, sample, update = experiment.replay.add, experiment.replay.sample, experiment.agent.update

    def watched_add(observation, action, step):
        for array in (step.terminated, step.truncated, step.ended, *([] if rounded else [step.reward])):
            written.update(array.tobytes())
        add(observation, action, step)

    def watched_sample(*arguments):
        batch = sample(*arguments)
        indices.update(batch["index"].numpy().tobytes() + batch["uid"].numpy().tobytes())
        for key in BATCH:
            if key not in rounded:
                raw.update(batch[key].contiguous().numpy().tobytes())
        means.append([float(batch[key].double().mean()) for key in rounded])
        return batch

    def watched_update(batch, observe):
        result = update(batch, observe)
        losses.append(float(result.metrics["loss"]))
        return result

    def given_priority(batch, priority):
        # The last bits of a TD error differ between CPUs, and what is drawn by priority would with them.
        given(batch, (batch["uid"] % 7 + 1).to(priority.dtype))

    given, experiment.replay.update_priority = experiment.replay.update_priority, given_priority
    experiment.replay.add, experiment.replay.sample = watched_add, watched_sample
    experiment.agent.update = watched_update
    while experiment.env_steps < experiment.config.env_steps:
        experiment.step()
    experiment.close()
    norms = {
        name: float(torch.linalg.vector_norm(p.detach())) for name, p in experiment.agent.networks.named_parameters()
    }
    every = len(losses) // 8
    hashes = {"steps": written.hexdigest(), "indices": indices.hexdigest(), "batches": raw.hexdigest()}
    numbers = {"losses": losses[::every], "norms": norms}
    return hashes | numbers | {"means": [value for batch in means[::every] for value in batch]}


@pytest.mark.parametrize(("case", "sampler"), TRACES)
def test_traces(case, sampler):
    path, found = FOLDER / f"{case}-{sampler}.json", compute(case, sampler)
    if "RLKIT_WRITE_TRACES" in os.environ:
        path.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(path.read_text())
    for key in ("steps", "indices", "batches"):
        assert found[key] == expected[key], key
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3, abs=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    assert found["means"] == pytest.approx(expected["means"], rel=1e-4, abs=1e-6)


def test_there_is_no_other_trace():
    assert {path.stem for path in FOLDER.glob("*.json")} == {f"{case}-{sampler}" for case, sampler in TRACES}
