"""Normalise and project: weights keep their length (Lyle et al. 2024, arXiv:2407.01800).

With a normalisation before every activation, the length of a hidden layer's weights does not matter to what the
network answers, but it divides the learning rate that they feel. So after each gradient step
W <- W ||W_0||_F / ||W||_F, and the effective learning rate is the one that was set. b takes the factor of its W: the
normalisation sees both scaled alike, and the projection changes no answer. gamma and beta of a normalisation keep their
joint length. The heads, which no normalisation follows, are free.

Deviates: nothing is known to; the treatment of b, gamma and beta is not read from the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import trained_networks
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress

_SMALLEST = 1e-12  # a weight of length 0 stays as it is


@dataclass(frozen=True)
class NormaliseAndProjectConfig:
    """No settings: every hidden layer, after every gradient step."""


def joint_norm(tensors: Sequence[Tensor], copies: int) -> Tensor:
    """Length of all entries of `tensors` together, [copies]. Each has an axis of copies first if there are several."""
    norm: Tensor = torch.linalg.vector_norm(torch.cat([tensor.reshape(copies, -1) for tensor in tensors], 1), dim=1)
    return norm


@torch.no_grad()
def scale_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply by a factor for each copy, [copies], in place."""
    for tensor in tensors:
        tensor.mul_(factor if len(factor) == 1 else factor.view(-1, *[1] * (tensor.dim() - 1)))


class NormaliseAndProject:
    """Puts weights back to the length that they started with."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: NormaliseAndProjectConfig) -> None:
        self.config = config
        self._groups: dict[str, list[_Group]] = {}  # by loss

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Remember the lengths and join the gradient steps. Raises ConfigError if a layer is not normalised."""
        for network in trained_networks(agent):
            groups = self._groups.setdefault(network, [])
            for layer in agent.unit_graph().layers:
                if not layer.name.startswith(f"{network}."):
                    continue
                if layer.norm is None:
                    raise ConfigError(
                        f"normalise_and_project cannot project {layer.name!r}",
                        why="no normalisation follows it, so its length is part of what the network answers",
                        fix="--network.layer_norm true",
                        see="docs/plasticity.md",
                    )
                producer, norm = (agent.networks.get_submodule(address) for address in (layer.name, layer.norm))
                weight, bias = producer.get_parameter("weight"), producer.get_parameter("bias")
                groups.append(_Group([weight], [weight, bias], layer.ensemble))
                if next(norm.parameters(), None) is not None:
                    groups.append(_Group(list(norm.parameters()), list(norm.parameters()), layer.ensemble))
        agent.after_step.append(self._after_step)

    def _after_step(self, loss: str) -> None:
        for group in self._groups.get(loss, ()):
            group.project()

    def due(self, progress: Progress) -> bool:
        """Never: it comes with each gradient step."""
        return False

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Nothing to do."""
        return []

    def state_dict(self) -> State:
        """The lengths at the start."""
        return {network: [group.length.clone() for group in groups] for network, groups in self._groups.items()}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Continue a stored one."""
        for network, groups in self._groups.items():
            for group, length in zip(groups, state[network], strict=True):
                group.length.copy_(length)


class _Group:
    """Tensors that are scaled together so that some of them keep their joint length."""

    def __init__(self, measured: list[nn.Parameter], scaled: list[nn.Parameter], copies: int) -> None:
        self.measured, self.scaled, self.copies = measured, scaled, copies
        self.length = joint_norm(measured, copies).detach().clone()

    @torch.no_grad()
    def project(self) -> None:
        scale_(self.scaled, self.length / joint_norm(self.measured, self.copies).clamp(min=_SMALLEST))
