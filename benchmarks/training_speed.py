"""Env steps a second of a whole training, rlkit against Stable-Baselines3: same network, batch, replay ratio, threads.

    benchmarks/setup_peers.sh && .venv/bin/python benchmarks/training_speed.py --threads 1,2 --rounds 5

Every measurement is a process of its own: a warm-up with learning, then a window of `--seconds`; rounds interleaved.
SAC: dmc/walker-walk states, action repeat 1, 2x256, batch 256, one update a step. DQN: Pong, Nature network, batch 32,
one update every 4 steps, target copies as often, 4 stacked 84x84 frames, one environment; `dqn-8`: rlkit with eight.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from common import OWN_PYTHON, PEERS_PYTHON, emit, interleave, machine, paired_ratios, worker

WARM_UP = 400  # env steps with learning before the window
LEARNING_STARTS = 300


def own_steps_per_second(case: str, seconds: float, threads: int) -> float:
    from rlkit.training.experiment import Experiment
    from rlkit.training.resolve import resolve

    agent, env_id = ("sac-cleanrl", "dmc/walker-walk") if case == "sac" else ("dqn", "ALE/Pong-v5")
    num_envs = 8 if case == "dqn-8" else 1
    flags: dict[str, object] = {
        "threads": threads,
        "learning_starts": LEARNING_STARTS,
        "env_steps": 1_000_000,
        "env.num_envs": num_envs,
    }
    if case == "sac":
        # Stable-Baselines3's SAC takes one actor, critic and temperature step an update.
        flags |= {
            "env.action_repeat": 1,
            "replay_ratio": "1",
            "random_steps": LEARNING_STARTS,
            "replay.capacity": 100_000,
        }
        agent = "sac"
    else:
        flags |= {"replay.capacity": 50_000, "agent.epsilon_start": 0.1, "agent.epsilon_end": 0.1}
        if num_envs == 8:
            flags |= {"env.backend": "fast", "env.workers": threads}
    experiment = Experiment(resolve(agent, env_id, flags=flags))
    while experiment.env_steps < LEARNING_STARTS + WARM_UP:
        experiment.step()
    before, start = experiment.env_steps, time.perf_counter()
    while time.perf_counter() - start < seconds:
        experiment.step()
    rate = (experiment.env_steps - before) / (time.perf_counter() - start)
    experiment.close()
    return rate


def peer_steps_per_second(case: str, seconds: float, threads: int) -> float:
    import gymnasium as gym
    import numpy as np
    import torch
    from stable_baselines3 import DQN, SAC
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(threads)

    class Window(BaseCallback):
        """Counts steps from the end of the warm-up on and stops after `seconds`."""

        start, before, rate = 0.0, 0, 0.0

        def _on_step(self) -> bool:
            now = time.perf_counter()
            if self.num_timesteps == LEARNING_STARTS + WARM_UP:
                self.start, self.before = now, self.num_timesteps
            elif self.start and now - self.start >= seconds:
                self.rate = (self.num_timesteps - self.before) / (now - self.start)
                return False
            return True

    if case == "sac":
        from dm_control import suite

        class Walker(gym.Env):
            """walker-walk as its user would wrap it."""

            def __init__(self) -> None:
                self.inner = suite.load("walker", "walk", task_kwargs={"random": 0})
                self.observation_space = gym.spaces.Box(-np.inf, np.inf, (24,), np.float32)
                self.action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)

            @staticmethod
            def flat(step: object) -> np.ndarray:
                return np.concatenate([np.ravel(v) for v in step.observation.values()]).astype(np.float32)

            def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
                super().reset(seed=seed)
                return self.flat(self.inner.reset()), {}

            def step(self, action: np.ndarray) -> tuple:
                step = self.inner.step(action)
                return self.flat(step), float(step.reward), False, step.last(), {}

        model = SAC(
            "MlpPolicy",
            Walker(),
            buffer_size=100_000,
            learning_starts=LEARNING_STARTS,
            batch_size=256,
            device="cpu",
            seed=0,
        )
    else:
        import ale_py
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.vec_env import VecFrameStack

        gym.register_envs(ale_py)
        env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=0), 4)
        model = DQN(
            "CnnPolicy",
            env,
            buffer_size=50_000,
            learning_starts=LEARNING_STARTS,
            train_freq=4,
            batch_size=32,
            exploration_initial_eps=0.1,
            exploration_final_eps=0.1,
            target_update_interval=8_000,
            device="cpu",
            seed=0,
        )
    window = Window()
    model.learn(10**7, window)
    return window.rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", default="sac,dqn,dqn-8")
    parser.add_argument("--worker", nargs=2, metavar=("WHO", "CASE"))
    arguments = parser.parse_args()
    if arguments.worker:
        who, case = arguments.worker
        measure = own_steps_per_second if who == "rlkit" else peer_steps_per_second
        rate = measure(case, arguments.seconds, int(arguments.threads))
        sys.stdout.write(f"{rate}\n")
        return
    script = Path(__file__)
    emit(benchmark="training_speed", **machine())
    for threads in map(int, arguments.threads.split(",")):

        def run(who: str, case: str, threads: int = threads) -> float:
            python = OWN_PYTHON if who == "rlkit" else PEERS_PYTHON
            options = ["--worker", who, case, "--threads", str(threads), "--seconds", str(arguments.seconds)]
            return worker(python, script, *options, threads=threads)

        for family in ("sac", "dqn"):
            cases = {
                f"rlkit {case}": (lambda case=case: run("rlkit", case))
                for case in arguments.only.split(",")
                if case.startswith(family)
            }
            if not cases:
                continue
            peer = f"stable-baselines3 {family}"
            found = interleave({**cases, peer: lambda family=family: run("sb3", family)}, arguments.rounds)
            for name, rates in found.items():
                ratio = {} if name == peer else {"ratio_to_sb3": paired_ratios(rates, found[peer])}
                emit(case=name, threads=threads, env_steps_per_s=statistics.median(rates), rounds=rates, **ratio)


if __name__ == "__main__":
    main()
