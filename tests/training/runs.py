"""Small real runs for the tests of training."""

from __future__ import annotations

from pathlib import Path

from rlkit.configs.schema import RunConfig
from rlkit.training.experiment import Experiment
from rlkit.training.resolve import resolve

# Short, but with warm-up, updates, target copies, several episodes and a ring that wraps.
SHORT = {
    "dqn-gym": ("dqn", "gym/CartPole-v1", {"env_steps": 600, "replay.capacity": 300}),
    "dqn-tiny-pixels": ("dqn", "tiny/pixels", {"env_steps": 400, "replay.capacity": 200}),
    "dqn-atari": ("dqn", "ALE/Pong-v5", {"env_steps": 160, "replay.capacity": 100, "replay_ratio": "1/4"}),
    "sac-dmc": ("sac", "dmc/cartpole-swingup", {"env_steps": 300, "replay.capacity": 200}),
    "sac-gym": ("sac", "gym/Pendulum-v1", {"env_steps": 600, "replay.capacity": 300}),
    "ace-gym": (
        "ace-small",
        "gym/Pendulum-v1",
        {
            "env_steps": 500,
            "replay.capacity": 300,
            "agent.causal_period": 120,
            "agent.causal_rows": 100,
            "intervention.ace_reset.every": 150,
        },
    ),
}
COMMON = {
    "learning_starts": 60,
    "replay.batch_size": 16,
    "evaluation.episodes": 0,
    "logging.period": 50,
    "logging.tensorboard": False,
    "threads": 1,
    "network.hidden": [32],
}


def config(case: str, **overrides: object) -> RunConfig:
    """The settings of a case of SHORT; keys of `overrides` use __ for the dot."""
    agent, env, own = SHORT[case]
    settings = {**COMMON, **own, **{key.replace("__", "."): value for key, value in overrides.items()}}
    if agent != "dqn":
        settings.setdefault("random_steps", 40)
    return resolve(agent, env, flags=settings)


def only_run(runs_dir: Path) -> Path:
    """The one run folder below `runs_dir`."""
    (found,) = runs_dir.glob("*/*/*/run.json")
    return found.parent


def steps(experiment: Experiment, count: int) -> None:
    """Take `count` locksteps."""
    for _ in range(count):
        experiment.step()
