"""L2: a pull of the weights to zero, coefficient / 2 sum W^2 in the loss of their network.

Lyle et al. 2023 (arXiv:2303.01486) compare it as a cure. Weights of all layers of the unit graph with the heads;
biases, normalisations and Fourier frequencies are free. With Adam this is not the decoupled decay of AdamW
(Loshchilov and Hutter 2019, arXiv:1711.05101): that one is shrink_and_perturb with `form=step` and `perturb=0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import layers_from_output, trained_networks
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Penalty, Progress


@dataclass(frozen=True)
class L2Config:
    """How strong."""

    coefficient: float = 1e-5  # lambda; 1e-5 to 1e-3 are in use

    def __post_init__(self) -> None:
        require(0 < self.coefficient < math.inf, "intervention.l2.coefficient", self.coefficient, "above 0")


class L2:
    """One penalty for each trained network."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: L2Config) -> None:
        self.config = config

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Join the losses."""
        for network in trained_networks(agent):
            layers = [name for level in layers_from_output(agent, network) for name in level]
            agent.penalties.append(Penalty(network, self._penalty(layers)))

    def _penalty(self, layers: list[str]) -> Callable[[nn.ModuleDict], Tensor]:
        def value(networks: nn.ModuleDict) -> Tensor:
            squares = [networks.get_parameter(f"{layer}.weight").square().sum() for layer in layers]
            return 0.5 * self.config.coefficient * torch.stack(squares).sum()

        return value

    def due(self, progress: Progress) -> bool:
        """Never: it acts through the loss."""
        return False

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Nothing to do."""
        return []

    def state_dict(self) -> State:
        """Nothing moves."""
        return {}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Nothing to continue."""
