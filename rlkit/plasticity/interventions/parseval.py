"""Parseval regularisation: rows of the hidden layers near orthogonal (Chung et al. 2024, arXiv:2412.07224).

coefficient (64 / units)^2 ||W W^T - scale I||_F^2 for each hidden layer, in the loss of its network; not for the heads.
scale 2 is the square of the gain sqrt(2) with which the paper starts its orthogonal weights. A convolution's W is
[channels, inputs x kernel]; where a layer has more units than inputs, not all rows can be orthogonal and the smallest
value is above 0.

Deviates: the layers start as everywhere in rlkit, not orthogonal, so the penalty is large at first; none of the
paper's diagonal layers are added.
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
from rlkit.plasticity.networks import trained_networks
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Penalty, Progress, UnitLayer


@dataclass(frozen=True)
class ParsevalConfig:
    """How strong, and to which length of the rows."""

    coefficient: float = 1e-3  # lambda, for layers of 64 units
    scale: float = 2.0  # s: squared length of a row

    def __post_init__(self) -> None:
        require(0 < self.coefficient < math.inf, "intervention.parseval.coefficient", self.coefficient, "above 0")
        require(0 < self.scale < math.inf, "intervention.parseval.scale", self.scale, "above 0")


def parseval(weight: Tensor, scale: float) -> Tensor:
    """||W W^T - scale I||_F^2, summed over batched copies. weight: [..., out, in]. Returns a scalar."""
    gram = weight @ weight.mT
    return (gram - scale * torch.eye(gram.shape[-1], device=gram.device)).square().sum()


class Parseval:
    """One penalty for each trained network."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: ParsevalConfig) -> None:
        self.config = config

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Join the losses."""
        for network in trained_networks(agent):
            layers = [layer for layer in agent.unit_graph().layers if layer.name.startswith(f"{network}.")]
            if layers:
                agent.penalties.append(Penalty(network, self._penalty(layers)))

    def _penalty(self, layers: list[UnitLayer]) -> Callable[[nn.ModuleDict], Tensor]:
        def value(networks: nn.ModuleDict) -> Tensor:
            parts = []
            for layer in layers:
                weight = networks.get_parameter(f"{layer.name}.weight")
                rows = weight.flatten(1) if layer.ensemble == 1 else weight  # [out, in], [copies, out, in]
                parts.append((64 / layer.units) ** 2 * parseval(rows, self.config.scale))
            return self.config.coefficient * torch.stack(parts).sum()

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
