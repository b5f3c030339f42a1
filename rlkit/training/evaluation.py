"""Evaluation in environments of its own, with a recorded protocol."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlkit.agents.agent import Agent
from rlkit.configs.schema import RunConfig
from rlkit.core.seeding import SeedTree
from rlkit.core.typing import Array
from rlkit.envs.spec import VectorEnv
from rlkit.plasticity import interventions
from rlkit.training.build import make_agent, make_env, make_stacker, random_action, threads
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.resolve import load_config
from rlkit.training.run_folder import RunFolder
from rlkit.training.signals import StopRequest
from rlkit.training.video import write_video

MAX_ENVS = 8


@dataclass(frozen=True)
class EvaluationResult:
    """Whole episodes with raw rewards."""

    returns: list[float]
    lengths: list[int]
    protocol: dict[str, Any] = field(default_factory=dict)  # environment's settings, epsilon, episodes
    video_path: Path | None = None

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(self.returns)

    @property
    def median(self) -> float:
        """Median return."""
        return statistics.median(self.returns)


def evaluate(
    agent: Agent,
    config: RunConfig,
    name: str,
    *,
    episodes: int,
    watch: Callable[[VectorEnv], None] | None = None,
    stop: StopRequest | None = None,
) -> EvaluationResult | None:
    """Play `episodes` whole episodes without exploration but `config.evaluation.epsilon` random actions.

    Environments and random actions are seeded by the run's child `name`, so an evaluation does not depend on what was
    evaluated before. Each environment plays its own share of episodes to the end: taking the first to finish would
    favour short ones. `watch` is called with the environments before every step; None is returned if `stop` came.
    """
    seeds = SeedTree(config.seed)
    rng = seeds.generator(f"{name}/epsilon")
    env = make_env(config.env, seeds, name, num_envs=min(episodes, MAX_ENVS), render=watch is not None)
    try:
        stacker = make_stacker(env.spec)
        share = [len(part) for part in np.array_split(np.arange(episodes), env.spec.num_envs)]
        returns: list[list[float]] = [[] for _ in share]
        lengths: list[list[int]] = [[] for _ in share]
        observation = stacker.reset(env.reset().observation)
        while any(len(done) < wanted for done, wanted in zip(returns, share, strict=True)):
            if stop:
                return None
            if watch is not None:
                watch(env)
            with torch.no_grad():
                action: Array = agent.act(torch.from_numpy(observation).to(config.device), explore=False).cpu().numpy()
            if config.evaluation.epsilon > 0:
                random = random_action(env.spec.action_space, env.spec.num_envs, rng)
                action = np.where(rng.random(env.spec.num_envs) < config.evaluation.epsilon, random, action)
            step = env.step(action)
            observation = stacker.push(step)
            for end in step.episodes:
                if len(returns[end.env]) < share[end.env]:
                    returns[end.env].append(end.episode_return)
                    lengths[end.env].append(end.length)
        protocol = {**env.spec.protocol, "epsilon": config.evaluation.epsilon, "episodes": episodes}
    finally:
        env.close()
    return EvaluationResult([r for part in returns for r in part], [n for part in lengths for n in part], protocol)


def evaluate_run(run: Path, *, episodes: int, video: bool, checkpoint: int | None = None) -> EvaluationResult:
    """Evaluate the newest (or the given) checkpoint of a run; `video` films the first environment's first episode.

    The fast Atari backend cannot draw: with `video` all episodes are played on the exact one, under the same protocol,
    and the result's `protocol` says so.
    """
    folder = RunFolder.open(run)
    config = load_config(run / "config.yaml")
    trained_on = config.env.backend
    if video and trained_on == "fast":
        config = replace(config, env=replace(config.env, backend="exact"))
    torch.set_num_threads(threads(config))
    step, state, _, _ = CheckpointStore(run / "checkpoints", config.checkpoint.keep).load(checkpoint, rows=False)
    seeds = SeedTree(config.seed)
    probe = make_env(config.env, seeds, "shape", num_envs=1)
    agent = make_agent(config, probe.spec, seeds)
    probe.close()
    for name in config.plasticity.interventions:  # a cure may have changed the networks
        cure = interventions.find(name).build(getattr(config.intervention, name))
        cure.attach(agent, seeds.generator(f"intervention/{name}"))
        cure.load_state_dict(agent, state["plasticity"]["cures"][name])
    agent.load_state_dict(state["agent"])

    pictures: list[Array] = []
    result = evaluate(
        agent,
        config,
        "eval",
        episodes=1 if video else episodes,
        watch=(lambda env: pictures.append(env.render())) if video else None,
    )
    assert result is not None
    if not video:
        return result
    path = write_video(folder.path / "videos" / f"step-{step}", pictures)
    rest = evaluate(agent, config, "eval", episodes=episodes) if episodes > 1 else result
    assert rest is not None
    switched = {"backend": f"exact (trained on {trained_on}, which cannot draw)"} if trained_on == "fast" else {}
    return EvaluationResult(rest.returns, rest.lengths, rest.protocol | switched, path)
