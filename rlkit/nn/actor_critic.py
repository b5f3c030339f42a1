"""The networks of continuous control on vector observations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rlkit.nn.config import NetworkConfig
from rlkit.nn.distributions import bounded_log_std
from rlkit.nn.ensemble import EnsembleLinear
from rlkit.nn.init import linear
from rlkit.nn.learnable import settle_activations
from rlkit.nn.torsos import make_trunk

LogStdBound = Literal["squash", "clip"]


class GaussianActor(nn.Module):
    """Observations [B, O] -> mean and log standard deviation, [B, A] each, before the squashing."""

    def __init__(
        self,
        inputs: int,
        actions: int,
        network: NetworkConfig,
        log_std_range: tuple[float, float],
        rng: torch.Generator,
        *,
        log_std_bound: LogStdBound = "squash",
    ) -> None:
        super().__init__()
        self.log_std_range, self.log_std_bound = log_std_range, log_std_bound
        self.trunk, features = make_trunk(inputs, network, rng)
        # rows 0..A-1: mean, A..2A-1: log standard deviation
        self.head = linear(features, 2 * actions, rng, network.init)
        settle_activations(self, network)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """log standard deviation is squashed into its range, or clipped to it: a clip has no gradient outside."""
        mean, raw_log_std = self.head(self.trunk(observation)).chunk(2, dim=-1)
        if self.log_std_bound == "clip":
            return mean, raw_log_std.clamp(*self.log_std_range)
        return mean, bounded_log_std(raw_log_std, *self.log_std_range)


class TwinCritic(nn.Module):
    """Observations [B, O] and actions [B, A] -> values [2, B] of two independent critics.

    The input columns of `trunk.0` are the observation's, then the action's.
    """

    def __init__(self, inputs: int, actions: int, network: NetworkConfig, rng: torch.Generator) -> None:
        super().__init__()
        self.trunk, features = make_trunk(inputs + actions, network, rng, copies=2)
        self.head = EnsembleLinear(2, features, 1, rng, network.init)
        settle_activations(self, network)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """The hidden layers have the shape [2, B, units]."""
        both = torch.cat((observation, action), dim=-1).expand(2, -1, -1)
        values: Tensor = self.head(self.trunk(both)).squeeze(-1)
        return values
