"""What an agent is, and the registry that finds one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlkit.core.seeding import SeedTree
from rlkit.core.typing import Array, FloatArray, State
from rlkit.plasticity.protocols import AfterStep, Consumer, Observer, Penalty, UnitGraph
from rlkit.replay.batch import Batch


@dataclass(frozen=True)
class Update:
    """What one gradient step reports. Everything stays on the device: no `.item()`."""

    metrics: dict[str, Tensor]  # scalars
    priority: Tensor | None = None  # [B] for the sampler, before importance weighting


class Agent(Protocol):
    """Acts, learns from batches, shows its parts."""

    networks: nn.ModuleDict  # online and target networks by name; layers are addressed "critic.trunk.2"
    optimizers: dict[str, Optimizer]
    penalties: list[Penalty]
    after_step: list[AfterStep]
    readers: dict[str, tuple[Consumer, ...]]

    def act(self, observation: Tensor, *, explore: bool) -> Tensor:
        """observation [E, *obs] -> actions int64 [E] or float32 [E, A]; `explore` advances the agent's schedules."""

    def update(self, batch: Batch, observe: Observer | None = None) -> Update:
        """One gradient step of every loss that is due."""

    def unit_graph(self) -> UnitGraph:
        """Who feeds whom, for the monitor and the cures."""

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the trained networks answer to a batch, for the monitor (plasticity/protocols.py MonitoredAgent)."""

    def losses(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The losses of `update` by network, for the monitor's gradient scores."""

    def state_dict(self) -> State:
        """Networks, optimisers, counters, generators."""

    def load_state_dict(self, state: State) -> None:
        """Continue a stored agent."""


@runtime_checkable
class WatchesSteps(Protocol):
    """An agent that sees every env step, and not only batches of them."""

    def watch(self, observation: Array, action: Array, reward: FloatArray) -> None:
        """Called after each step, before the updates it earns; the arrays may be reused afterwards.

        observation [E, *obs] as `act` receives it, the action taken there, reward [E] raw.
        """


@dataclass(frozen=True)
class AgentInputs:
    """What an agent is built from: the spaces as the network sees them, and the run's plan."""

    observation_shape: tuple[int, ...]  # stacked, as `act` receives it
    observation_dtype: str  # "uint8" or "float32"
    action_space: gym.Space[Any]
    seeds: SeedTree
    device: str
    env_steps: int  # of the whole run: schedules are given as shares of it
    learning_starts: int  # env steps before the first update


@dataclass(frozen=True)
class Algorithm:
    """A line of the registry."""

    name: str  # "dqn"
    summary: str
    actions: str  # "discrete" or "continuous"
    config: type[Any]  # dataclass of the agent's own settings
    network: type[Any]  # dataclass of its network settings
    build: Callable[[AgentInputs, Any, Any], Agent]  # (inputs, agent config, network config)
    sources: tuple[str, ...] = field(default=())  # papers
