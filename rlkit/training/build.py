"""From settings to parts: which environment, replay and agent a configuration asks for."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlkit.agents.agent import Agent, AgentInputs
from rlkit.agents.registry import find
from rlkit.configs.schema import EnvConfig, RunConfig
from rlkit.core.errors import ConfigError, ResourceError
from rlkit.core.seeding import SeedTree
from rlkit.core.typing import Array
from rlkit.envs.registry import make
from rlkit.envs.spec import EnvSpec, VectorEnv
from rlkit.envs.stacking import FrameStacker
from rlkit.replay import samplers
from rlkit.replay.buffer import ReplayBuffer


def make_env(
    config: EnvConfig, seeds: SeedTree, name: str, *, num_envs: int | None = None, render: bool = False
) -> VectorEnv:
    """The environments of `config`, seeded by the child `name`; `num_envs` and no workers for evaluation."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "id"}
    if num_envs is not None:
        options |= {"num_envs": num_envs, "workers": 0}
    return make(config.id, seeds=seeds, name=name, render=render, **options)


def make_stacker(spec: EnvSpec) -> FrameStacker:
    """Stacks frames for acting exactly as replay stacks them by index."""
    space = spec.observation_space
    return FrameStacker(spec.num_envs, space.shape, space.dtype, spec.stack, spec.stack_padding)


def make_replay(config: RunConfig, spec: EnvSpec, seeds: SeedTree) -> ReplayBuffer:
    """The replay of `config` for the spaces of `spec`."""
    space = spec.observation_space
    action_shape, action_dtype = action_layout(spec.action_space)
    settings = config.replay
    capacity = settings.capacity // spec.num_envs * spec.num_envs  # one ring per environment, all of the same length
    return ReplayBuffer(
        capacity=capacity,
        num_envs=spec.num_envs,
        observation_shape=space.shape,
        observation_dtype=space.dtype,
        action_shape=action_shape,
        action_dtype=action_dtype,
        sampler=samplers.make(settings.sampler, capacity, seeds.integer("sampler"), config.sampler),
        stack=spec.stack,
        stack_padding=spec.stack_padding,
        reward_clip=settings.reward_clip,
        has_lives=spec.family == "atari",
    )


def make_agent(config: RunConfig, spec: EnvSpec, seeds: SeedTree) -> Agent:
    """The agent of `config`; raises ConfigError where it does not fit the spaces."""
    algorithm = find(config.algorithm)
    inputs = AgentInputs(
        observation_shape=spec.stacked_shape,
        observation_dtype=str(spec.observation_space.dtype),
        action_space=spec.action_space,
        seeds=seeds,
        device=check_device(config.device),
        env_steps=config.env_steps,
        learning_starts=config.learning_starts,
    )
    return algorithm.build(inputs, config.agent, config.network)


def check_device(device: str) -> str:
    """`device` if this machine has it. Raises ResourceError with what was found."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(
            f"unknown device {device!r}", why=str(error).splitlines()[0], fix="--device cpu or cuda"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            f"asked for {device!r}, found no CUDA device",
            why=f"torch {torch.__version__} sees {torch.cuda.device_count()} of them",
            fix="--device cpu, or install a CUDA build of torch and its driver",
        )
    return device


def action_layout(space: gym.Space[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of one stored action."""
    if isinstance(space, gym.spaces.Discrete):
        return (), np.dtype(np.int64)
    assert isinstance(space, gym.spaces.Box)
    return space.shape, np.dtype(np.float32)


def random_action(space: gym.Space[Any], num_envs: int, rng: np.random.Generator) -> Array:
    """Uniformly random actions, int64 [E] or float32 [E, A]."""
    if isinstance(space, gym.spaces.Discrete):
        return np.asarray(space.start + rng.integers(space.n, size=num_envs))
    assert isinstance(space, gym.spaces.Box)
    return rng.uniform(space.low, space.high, size=(num_envs, *space.shape)).astype(np.float32)


def threads(config: RunConfig) -> int:
    """Torch threads that `config` asks for; 0 = every core."""
    return config.threads or os.cpu_count() or 1
