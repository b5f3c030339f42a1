"""Full reset: everything but the replay starts anew (Nikishin et al. 2022, "The primacy bias", arXiv:2205.07802).

The interval in gradient steps is that of SR-SAC (D'Oro et al. 2023, "Sample-efficient reinforcement learning by
breaking the replay ratio barrier"): 2.56 million, which is 80,000 env steps at replay ratio 32. All trained networks
are drawn anew, scalars with an optimiser of their own (SAC's temperature) get their first value back, moments and step
counts of every optimiser become 0, target networks become copies of the new ones. What replay holds stays, priorities
too; so do exploration and schedules.

Deviates: resets are at multiples of gradient steps (SR-SAC looks at evaluations), and none within the last 10 % of the
env steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import (
    forget,
    in_last_tenth,
    is_due,
    overwrite,
    trained_networks,
    trained_parameters,
)
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import fresh_parameters, generator_hash


@dataclass(frozen=True)
class FullResetConfig:
    """When."""

    every: int = 2_560_000  # gradient steps

    def __post_init__(self) -> None:
        require(self.every >= 1, "intervention.full_reset.every", self.every, "1 or more")


class FullReset:
    """Draws every network anew and forgets what the optimisers know."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: FullResetConfig) -> None:
        self.config = config
        self._first: dict[nn.Parameter, Tensor] = {}  # scalars that belong to no network

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Remember the first values of scalars. Raises ConfigError if a network cannot draw new weights."""
        owned = set(agent.networks.parameters())
        for network in trained_networks(agent):
            fresh_parameters(agent.networks[network], np.random.default_rng(0))  # raises if it cannot
        for parameter in _optimised(agent):
            if parameter not in owned:
                self._first[parameter] = parameter.detach().clone()

    def due(self, progress: Progress) -> bool:
        """At multiples of `every` gradient steps, but not within the last 10 % of the run."""
        return is_due(self.config.every, progress) and not in_last_tenth(progress)

    @torch.no_grad()
    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Reset all there is. Raises ConfigError if a network has frozen parts, which would keep what it learned."""
        start = generator_hash(rng)
        change = {}
        for network in trained_networks(agent):
            module = agent.networks[network]
            if not all(parameter.requires_grad for parameter in module.parameters()):
                raise ConfigError(
                    f"full_reset cannot start {network!r} anew",
                    why="plasticity_injection has frozen parts of it, whose answer would outlive the reset",
                    fix="use one of the two cures in a run",
                    see="docs/plasticity.md",
                )
            fresh = fresh_parameters(module, rng)
            named = {f"{network}.{name}": value for name, value in fresh.items()}
            change[network] = overwrite(agent.networks, named, target=True)
        for parameter, first in self._first.items():
            parameter.copy_(first)
        forget(agent, _optimised(agent))
        layers = [address for network in change for address in trained_parameters(agent, network)]
        details = {"parameters": layers, "scalars": len(self._first), "weight_change": change, "rng": start}
        return [LedgerEvent("full_reset", details)]

    def state_dict(self) -> State:
        """Nothing moves: the first values come from the agent as it is built."""
        return {}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Nothing to continue."""


def _optimised(agent: MonitoredAgent) -> list[nn.Parameter]:
    return [
        parameter
        for optimizer in agent.optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
