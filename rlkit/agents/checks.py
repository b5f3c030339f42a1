"""Settings and action spaces that an agent cannot use, and what it says about them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlkit.agents.registry import names
from rlkit.core.errors import ConfigError


def action_count(space: gym.Space[Any], agent: str) -> int:
    """The number of actions of a Discrete space that counts from 0; ConfigError for anything else."""
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return int(space.n)
    raise ConfigError(
        f"{agent} cannot act in {space}",
        why=f"{agent} needs a Discrete action space that starts at 0",
        fix=_fix(space, "continuous", "use an environment with discrete actions"),
    )


def action_range(space: gym.Space[Any], agent: str) -> tuple[Tensor, Tensor]:
    """Half the width and the middle of a bounded Box, float32 [A] each; ConfigError for anything else."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(
            f"{agent} cannot act in {space}",
            why=f"{agent} needs a Box action space of shape (A,)",
            fix=_fix(space, "discrete", "use an environment with continuous actions"),
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ConfigError(
            f"{agent} cannot act in the unbounded {space}",
            why="the policy is squashed into the action range, so every bound must be finite",
            fix="wrap the environment in gymnasium.wrappers.RescaleAction or give its Box finite bounds",
        )
    low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (space.low, space.high))
    return (high - low) / 2, (high + low) / 2


def _fix(space: gym.Space[Any], actions: str, otherwise: str) -> str:
    fitting = {"discrete": gym.spaces.Discrete, "continuous": gym.spaces.Box}[actions]
    if isinstance(space, fitting):
        return f"use an agent for {actions} actions: {', '.join(names(actions))}"
    return otherwise
