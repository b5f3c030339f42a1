"""From settings to parts: which environment, replay and agent a configuration asks for."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch

from rlkit.agents.agent import Agent, AgentInputs
from rlkit.agents.registry import find
from rlkit.configs.schema import EnvConfig, ReplayConfig, RunConfig
from rlkit.core.errors import ConfigError, ResourceError
from rlkit.core.seeding import SeedTree
from rlkit.core.typing import Array
from rlkit.envs.registry import make
from rlkit.envs.spec import EnvSpec, VectorEnv
from rlkit.envs.stacking import FrameStacker
from rlkit.nn.rational import rationals
from rlkit.replay import samplers
from rlkit.replay.buffer import ReplayBuffer
from rlkit.replay.prefetch import PrefetchReplay
from rlkit.replay.replay import Replay
from rlkit.replay.storage import DeviceStorage, FrameStorage, MemoryMapStorage, RamStorage

Storage: TypeAlias = Callable[[int, int, np.dtype[Any]], FrameStorage]  # (rows, width, dtype)


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


def make_replay(config: RunConfig, spec: EnvSpec, seeds: SeedTree) -> Replay:
    """The replay of `config` for the spaces of `spec`, its kernels compiled."""
    settings = config.replay
    sampler = config.sampler
    if getattr(sampler, "anneal_batches", 0) is None:  # the importance weights reach their end with the run
        sampler = dataclasses.replace(sampler, anneal_batches=planned_updates(config))
    capacity = settings.capacity // spec.num_envs * spec.num_envs  # one ring per environment, all of the same length
    storages: dict[str, Storage] = {
        "memory": RamStorage,
        "disk": functools.partial(MemoryMapStorage, directory=Path(settings.directory)),
        "device": functools.partial(DeviceStorage, device=check_device(config.device)),
    }
    buffer = _replay(settings, sampler, spec, capacity, seeds.integer("sampler"), storages[settings.storage])
    _compile("replay", buffer.warm_up)
    return PrefetchReplay(buffer) if settings.prefetch else buffer


def _replay(
    settings: ReplayConfig,
    sampler: Any,
    spec: EnvSpec,
    capacity: int,
    seed: int,
    storage: Storage,
) -> ReplayBuffer:
    space = spec.observation_space
    action_shape, action_dtype = action_layout(spec.action_space)
    return ReplayBuffer(
        capacity=capacity,
        num_envs=spec.num_envs,
        observation_shape=space.shape,
        observation_dtype=space.dtype,
        action_shape=action_shape,
        action_dtype=action_dtype,
        sampler=samplers.make(settings.sampler, capacity, seed, sampler),
        stack=spec.stack,
        stack_padding=spec.stack_padding,
        reward_clip=settings.reward_clip,
        has_lives=spec.family == "atari",
        storage=storage,
    )


def _compile(what: str, warm_up: Callable[[], None]) -> None:
    """So that nothing compiles while something is timed.

    numba keeps what it has compiled beside the source; where that takes long, say so.
    """
    told = threading.Timer(1.5, print, [f"compiling {what} kernels (once on this machine)"], {"file": sys.stderr})
    told.daemon = True
    told.start()
    try:
        warm_up()
    finally:
        told.cancel()


def whole_locksteps(env_steps: int, num_envs: int) -> int:
    """The smallest multiple of `num_envs` from `env_steps` on: environments step together, so a run ends there."""
    return -(-env_steps // num_envs) * num_envs


def planned_updates(config: RunConfig) -> int:
    """Gradient steps of the whole run."""
    env_steps = whole_locksteps(config.env_steps, config.env.num_envs)
    return int(config.replay_ratio * max(0, env_steps - config.learning_starts))


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
    agent = algorithm.build(inputs, config.agent, config.network)
    if inputs.device == "cpu" and rationals(agent.networks):
        from rlkit.nn import rational_kernels

        _compile("activation", rational_kernels.warm_up)
    return agent


def check_device(device: str) -> str:
    """`device` if rlkit runs there and this machine has it. Raises ConfigError or ResourceError with what was found."""
    kind, _, number = device.partition(":")
    if device != "cpu" and not (kind == "cuda" and (not number or number.isdigit()) and device != "cuda:"):
        raise ConfigError(
            f"unknown device {device!r}", why="rlkit runs on cpu, cuda and cuda:NUMBER", fix="--device cpu or cuda"
        )
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"asked for {device!r}, found no CUDA device" + (f" {number}" if torch.cuda.device_count() else ""),
            why=f"torch {torch.__version__} sees {torch.cuda.device_count()} of them",
            fix="--device cpu, or install a CUDA build of torch and its driver",
        )
    return device


def check_spaces(old: RunConfig, new: RunConfig) -> None:
    """Raise ConfigError if the environments of `new` have other spaces than those of the run that `old` made.

    Networks and rows of replay are made for them.
    """
    if old.env == new.env:
        return
    sides = [_spaces(config) for config in (old, new)]
    differing = [f"{name} {side} -> {sides[1][name]}" for name, side in sides[0].items() if side != sides[1][name]]
    if differing:
        changed = f"{old.env.id} -> {new.env.id}" if old.env.id != new.env.id else f"the changed {new.env.id}"
        raise ConfigError(
            f"the run cannot go on with {changed}",
            why=f"its networks and its replay are made for other spaces: {', '.join(differing)}",
            fix=f"start a new run: rlkit train {new.name} --env {new.env.id}",
            see="docs/run_folder.md",
        )


def _spaces(config: RunConfig) -> dict[str, str]:
    """What of the environments networks and replay are made for, in words."""
    env = make_env(config.env, SeedTree(config.seed), "spaces", num_envs=1)
    spec = env.spec
    env.close()
    actions, (shape, _) = spec.action_space, action_layout(spec.action_space)
    return {
        "observations": f"{spec.observation_space.dtype} {list(spec.stacked_shape)}",
        "actions": f"{actions.n} choices" if isinstance(actions, gym.spaces.Discrete) else f"{list(shape)} numbers",
        "env.num_envs": str(config.env.num_envs),
    }


def action_layout(space: gym.Space[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of one stored action."""
    if isinstance(space, gym.spaces.Discrete):
        return (), np.dtype(np.int64)
    if not isinstance(space, gym.spaces.Box):
        raise ConfigError(
            f"no agent can act in {space}",
            why="there are agents for one choice among some (Discrete) and for vectors of numbers (Box)",
            fix="wrap the environment so that its actions are one of the two; rlkit agents lists the agents",
            see="docs/environments.md",
        )
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
