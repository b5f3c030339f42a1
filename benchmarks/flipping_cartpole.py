"""CartPole whose observations change sign every 5,000 env steps: what a DQN at replay ratio 8 loses, what ReDo gives.

    .venv/bin/python benchmarks/flipping_cartpole.py --runs runs/flipping [--seeds 0,1,2,3,4] [--conditions plain,redo]
    .venv/bin/rlkit report runs/flipping

The task stays as hard as it is; only what has been learned becomes wrong. 20,000 env steps, four phases; the return of
a phase is the mean over the episodes that end in its second half. Conditions: `plain`; `redo` with threshold 0.1 every
1,000 gradient steps. A training that is there is not done again. Prints means with 95 % t-intervals over the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from common import compare_trainings, emit, machine
from rlkit.report.run_data import dormant_share, load_run
from rlkit.training.experiment import train
from rlkit.training.resolve import resolve

PERIOD, PHASES, REPLAY_RATIO = 5_000, 4, 8
CONDITIONS = {
    "plain": {},
    "redo": {
        "plasticity.interventions": ["redo"],
        "intervention.redo.threshold": 0.1,
        "intervention.redo.every": 1_000,
    },
}


class FlippingCartPole(CartPoleEnv):
    """CartPole-v1 until env step 5,000, then with the opposite sign of every observation, and so on."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.taken = 0

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        return observation if self.taken // PERIOD % 2 == 0 else -observation

    def reset(self, **settings: Any) -> Any:
        observation, info = super().reset(**settings)
        return self._seen(observation), info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        self.taken += 1
        return (self._seen(observation), *rest)


gym.register("FlippingCartPole-v1", entry_point=FlippingCartPole, max_episode_steps=500)


def settings(condition: str, seed: int) -> dict[str, Any]:
    return {
        "env_steps": PERIOD * PHASES,
        "replay_ratio": REPLAY_RATIO,
        "seed": seed,
        "threads": 1,
        "logging.period": 250,
        "evaluation.episodes": 0,
        "checkpoint.period": 5_000,
        "checkpoint.keep": 1,
        "plasticity.period": 1_000,
        **CONDITIONS[condition],
    }


def measure(folder: Path) -> dict[str, float]:
    """Return and dormancy of each phase."""
    run = load_run(folder)
    (part,) = run.record.parts
    found: dict[str, float] = {}
    for phase in range(1, PHASES + 1):
        begin, end = (phase - 0.5) * PERIOD, phase * PERIOD
        lines = [line for line in run.metrics if begin < line["step"] <= end and "episode_return" in line]
        episodes = sum(line["episodes"] for line in lines)
        total = sum(line["episode_return"] * line["episodes"] for line in lines)
        found[f"return_{phase}"] = total / episodes if episodes else float("nan")
        inside = (part.step > begin) & (part.step <= end) & np.isin(part.kind, ["probe", "pre", "end"])
        for tau in (0.0, 0.025, 0.1):
            found[f"dormant_{tau}_{phase}"] = float(np.nanmean(dormant_share(part, tau)[inside]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/flipping"))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--conditions", default=",".join(CONDITIONS))
    arguments = parser.parse_args()
    emit(benchmark="flipping_cartpole", replay_ratio=REPLAY_RATIO, env_steps=PERIOD * PHASES, **machine())

    def one(condition: str, seed: int) -> None:
        train(resolve("dqn", "gym/FlippingCartPole-v1", flags=settings(condition, seed)), arguments.runs / condition)

    seeds = map(int, arguments.seeds.split(","))
    compare_trainings(arguments.runs, arguments.conditions.split(","), seeds, one, measure)


if __name__ == "__main__":
    main()
