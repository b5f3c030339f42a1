"""L2-init: a pull of the parameters to where they started (Kumar et al. 2023, arXiv:2308.11958).

coefficient / 2 sum (theta - theta_0)^2 in the loss of their network, over weights and biases of all layers;
normalisations and learned activations are free. theta_0 is the start of the run. Where other cures draw units anew, the
draw becomes their theta_0: whoever applies them calls `recycled`. Copies of the method that take the norm without the
square pull with the same force however far a parameter is; this one does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import BoolArray, Measurement
from rlkit.plasticity.networks import trained_networks, trained_parameters, without_norms
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Penalty, Progress


@dataclass(frozen=True)
class L2InitConfig:
    """How strong."""

    coefficient: float = 1e-3  # lambda; the paper sweeps 1e-2 to 1e-5

    def __post_init__(self) -> None:
        require(0 < self.coefficient < math.inf, "intervention.l2_init.coefficient", self.coefficient, "above 0")


class L2Init:
    """One penalty for each trained network."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: L2InitConfig) -> None:
        self.config = config
        self._start: dict[str, dict[str, Tensor]] = {}  # theta_0 by network and address

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Remember where the parameters start, and join the losses."""
        for network in trained_networks(agent):
            parameters = without_norms(agent.unit_graph(), trained_parameters(agent, network))
            self._start[network] = {address: p.detach().clone() for address, p in parameters.items()}
            agent.penalties.append(Penalty(network, self._penalty(network)))

    def _penalty(self, network: str) -> Callable[[nn.ModuleDict], Tensor]:
        def value(networks: nn.ModuleDict) -> Tensor:
            start = self._start[network]
            squares = [(networks.get_parameter(address) - start[address]).square().sum() for address in start]
            return 0.5 * self.config.coefficient * torch.stack(squares).sum()

        return value

    @torch.no_grad()
    def recycled(self, agent: MonitoredAgent, masks: Mapping[str, BoolArray]) -> None:
        """Rows that a cure has just drawn anew start here. masks: bool [copies, units] by address of the layer."""
        for layer, mask in masks.items():
            module = agent.networks.get_submodule(layer)
            for name, parameter in module.named_parameters(recurse=False):
                start = self._start[layer.partition(".")[0]][f"{layer}.{name}"]
                rows = torch.as_tensor(mask if hasattr(module, "copies") else mask[0], device=start.device)
                start[rows] = parameter[rows]

    def due(self, progress: Progress) -> bool:
        """Never: it acts through the loss."""
        return False

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Nothing to do."""
        return []

    def state_dict(self) -> State:
        """theta_0."""
        return {name: {key: value.clone() for key, value in start.items()} for name, start in self._start.items()}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Continue a stored one."""
        for network, start in self._start.items():
            for address, value in start.items():
                value.copy_(state[network][address])
