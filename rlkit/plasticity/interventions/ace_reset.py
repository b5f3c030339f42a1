"""The soft reset of ACE (Ji et al. 2024, arXiv:2402.14528): the more of the policy is dormant, the more is drawn anew.

Every 100,000 gradient steps, f = clip(1 - alpha, 0.2, 0.9) with alpha the share of the policy's units whose gradient
norm is at most 0.05 of their layer's mean, heads included; then W <- f W + (1 - f) W', W' orthogonal with gain 1, and
b <- f b, as fresh biases are 0. Policy, critic and target critic each get draws of their own; moments and step counts
of policy and critic become 0, the temperature stays.

Deviates: "at most" is the paper's, the published code compares with "less"; alpha is taken from the loss of a probe
after the step, the code reads the gradient that the step used. An agent without an actor is reset by its own gradients.
Normalisations and learned Fourier frequencies are left alone: ACE has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rlkit.core.errors import NumericError, require
from rlkit.core.typing import State
from rlkit.plasticity.interventions.shrink_and_perturb import blend_
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import forget, is_due, layers_from_output, trained_networks
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import generator_hash, target_address


@dataclass(frozen=True)
class ACEResetConfig:
    """The published settings."""

    every: int = 100_000  # gradient steps
    dormancy_threshold: float = 0.05  # of the layer's mean gradient norm
    keep_min: float = 0.2  # of the old weights, however dormant the policy
    keep_max: float = 0.9  # however lively

    def __post_init__(self) -> None:
        require(self.every >= 1, "intervention.ace_reset.every", self.every, "1 or more")
        threshold = self.dormancy_threshold
        require(threshold >= 0, "intervention.ace_reset.dormancy_threshold", threshold, "0 or more")
        require(0 <= self.keep_min <= 1, "intervention.ace_reset.keep_min", self.keep_min, "0 to 1")
        allowed = "intervention.ace_reset.keep_min to 1"
        require(self.keep_min <= self.keep_max <= 1, "intervention.ace_reset.keep_max", self.keep_max, allowed)


def keep_factor(dormant: float, low: float, high: float) -> float:
    """f = clip(1 - dormant, low, high): the share of the old weights that stays."""
    return min(max(1 - dormant, low), high)


class ACEReset:
    """Blends all layers with orthogonal ones."""

    score: str | None = "ace"
    observer: Observer | None = None

    def __init__(self, config: ACEResetConfig) -> None:
        self.config = config

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Nothing to join: any agent with a unit graph fits."""

    def due(self, progress: Progress) -> bool:
        """At multiples of `every` gradient steps."""
        return is_due(self.config.every, progress)

    @torch.no_grad()
    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """One event. Raises NumericError if no unit of the policy has a gradient score."""
        assert measurement is not None, "a cure with a score gets a measurement"
        start = generator_hash(rng)
        networks = trained_networks(agent)
        policy = "actor" if "actor" in networks else networks[0]
        by_layer = {
            name: measurement.dormant_fraction(self.config.dormancy_threshold, "ace", network=name, min_units=1)
            for name, layer in measurement.layers.items()
            if name.startswith(f"{policy}.") and "ace" in layer.scores
        }
        threshold = self.config.dormancy_threshold
        dormant = measurement.dormant_fraction(threshold, "ace", network=policy, min_units=1)
        if np.isnan(dormant):
            raise NumericError(
                f"the gradient dormancy of {policy!r} is not a number",
                why="no unit of it has a finite gradient score at this measurement",
                fix="look for a loss without gradient, or for weights that are not finite",
                see="docs/plasticity.md",
            )
        keep = keep_factor(dormant, self.config.keep_min, self.config.keep_max)
        change = {}
        for network in networks:
            layers = [name for level in layers_from_output(agent, network) for name in level]
            moved = 0.0
            for layer in layers:
                moved += self._blend(agent.networks.get_submodule(layer), keep, rng)
                forget(agent, agent.networks.get_submodule(layer).parameters(recurse=False))
            change[network] = moved**0.5
            for layer in layers:
                target = target_address(agent.networks, layer)
                if target is not None:
                    self._blend(agent.networks.get_submodule(target), keep, rng)
        details = {"keep": keep, "dormant": dormant, "dormant_by_layer": by_layer, "policy": policy}
        return [LedgerEvent("ace_reset", details | {"weight_change": change, "rng": start})]

    def state_dict(self) -> State:
        """Nothing moves."""
        return {}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Nothing to continue."""

    def _blend(self, layer: nn.Module, keep: float, rng: np.random.Generator) -> float:
        """The squared norm of the change."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))  # on the CPU: the same on every device
        moved = 0.0
        for name, parameter in layer.named_parameters(recurse=False):
            fresh = torch.zeros(parameter.shape)
            if name == "weight":
                for copy in fresh if hasattr(layer, "copies") else [fresh]:
                    nn.init.orthogonal_(copy, generator=generator)
            moved += blend_(parameter, keep, 1 - keep, fresh.to(parameter.device)) ** 2
        return moved
