"""Spectral normalisation: W / sigma_1(W) in the last hidden layer (Miyato et al. 2018, arXiv:1802.05957).

Gogianu et al. 2021 (arXiv:2105.05246) find that in value networks the layer before the head is enough. sigma_1 is
||W v|| with v from power iteration, v constant for the gradient: d sigma_1 / dW = u v^T with u = W v / sigma_1, as in
the paper. v lies in the network (buffer `spectral_v`) and is copied with it. The weight itself stays the layer's
parameter, so optimisers, other cures and the monitor's weights are those of the raw W.

Deviates: v starts as the singular vector of the initial weight, not at random. One power iteration for each gradient
step of the network, for its target too, instead of one for each forward pass: acting, evaluating and measuring change
nothing. All trained networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import layers_from_output, trained_networks
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import target_address


@dataclass(frozen=True)
class SpectralNormConfig:
    """How many layers."""

    layers: int = 1  # hidden layers of each network, counted from the last one

    def __post_init__(self) -> None:
        require(self.layers >= 1, "intervention.spectral_norm.layers", self.layers, "1 or more")


@torch.no_grad()
def power_iteration(weight: Tensor, v: Tensor) -> Tensor:
    """v <- W^T W v, of length 1. weight: [..., out, in], v: [..., in]."""
    return F.normalize((weight.mT @ (weight @ v.unsqueeze(-1))).squeeze(-1), dim=-1)


def spectral_norm(weight: Tensor, v: Tensor) -> Tensor:
    """sigma_1 = ||W v||, [...]: at most the largest singular value, equal to it where v is its right vector."""
    sigma: Tensor = torch.linalg.vector_norm(weight @ v.unsqueeze(-1), dim=(-2, -1))
    return sigma


class SpectralNorm:
    """Divides what a layer adds to its bias by the largest singular value of its weight."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: SpectralNormConfig) -> None:
        self.config = config
        self._layers: dict[str, list[nn.Module]] = {}  # by loss

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Hook the layers. Raises ConfigError if a network has fewer hidden ones."""
        for network in trained_networks(agent):
            hidden = layers_from_output(agent, network)[1:]
            if len(hidden) < self.config.layers:
                raise ConfigError(
                    f"intervention.spectral_norm.layers is {self.config.layers}",
                    why=f"{network!r} has {len(hidden)} hidden layers",
                    fix=f"--intervention.spectral_norm.layers {len(hidden)}",
                    see="docs/plasticity.md",
                )
            for address in [name for level in hidden[: self.config.layers] for name in level]:
                weight = _rows(agent.networks.get_submodule(address)).detach()
                v = torch.linalg.svd(weight, full_matrices=False).Vh[..., 0, :]
                for place in (address, target_address(agent.networks, address)):
                    if place is not None:
                        layer = agent.networks.get_submodule(place)
                        layer.register_buffer("spectral_v", v.clone(memory_format=torch.contiguous_format))
                        layer.register_forward_hook(_divide)
                        self._layers.setdefault(network, []).append(layer)
        agent.after_step.append(self._after_step)

    def _after_step(self, loss: str) -> None:
        for layer in self._layers.get(loss, ()):
            v = layer.spectral_v
            assert isinstance(v, Tensor)
            v.copy_(power_iteration(_rows(layer), v))

    def due(self, progress: Progress) -> bool:
        """Never: it is part of the layer."""
        return False

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Nothing to do."""
        return []

    def state_dict(self) -> State:
        """The vectors v are the agent's."""
        return {}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Nothing to continue."""


def _rows(layer: nn.Module) -> Tensor:
    """The weight as [out, in], of batched copies [copies, out, in]."""
    weight = layer.get_parameter("weight")
    return weight if hasattr(layer, "copies") else weight.flatten(1)


def _divide(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """W x + b -> W x / sigma_1 + b. A function, not a closure: a deep copy of the layer divides by its own sigma_1."""
    v, bias = layer.spectral_v, torch.as_tensor(layer.bias)
    assert isinstance(v, Tensor)
    sigma = spectral_norm(_rows(layer), v)
    if hasattr(layer, "copies"):  # [K, B, out]
        sigma, bias = sigma.view(-1, 1, 1), bias.unsqueeze(1)
    elif output.dim() == 4:  # [B, out, H, W]
        bias = bias.view(-1, 1, 1)
    return (output - bias) / sigma + bias
