"""Activations by name. Each call makes an instance of its own, so that a forward hook sees one layer's units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError, nearest


class CReLU(nn.Module):
    """[max(x, 0), max(-x, 0)] along `axis`: every unit keeps a gradient on both sides.

    Shang et al. 2016 (arXiv:1603.05201); against the loss of plasticity Abbas et al. 2023 (arXiv:2303.07507).
    x: [..., units, ...] -> [..., 2 units, ...]; first the positive parts of all units.
    """

    halves = 2

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Twice as wide as x."""
        return torch.cat((x.relu(), (-x).relu()), self.axis)


class Fourier(nn.Module):
    """[sin x, cos x] along `axis`: one of the two is always nearly linear in x.

    Lewandowski et al. 2024, deep Fourier features (arXiv:2410.20634). Deviates: weights start as elsewhere in rlkit.
    x: [..., units, ...] -> [..., 2 units, ...]; first the sines of all units.
    """

    halves = 2

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Twice as wide as x."""
        return torch.cat((x.sin(), x.cos()), self.axis)


_ELEMENTWISE: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}
_DOUBLING: dict[str, type[CReLU] | type[Fourier]] = {"crelu": CReLU, "fourier": Fourier}


def activation_names() -> tuple[str, ...]:
    """Every name that `make_activation` knows."""
    return (*_ELEMENTWISE, *_DOUBLING)


def make_activation(name: str, axis: int = -1) -> nn.Module:
    """A new module for `name`; ConfigError for a name that is not registered. `axis`: of the units, -3 in images."""
    if name in _DOUBLING:
        return _DOUBLING[name](axis)
    if name not in _ELEMENTWISE:
        raise ConfigError(
            f"unknown activation {name!r}.{nearest(name, activation_names())}",
            why=f"known activations: {', '.join(activation_names())}",
            fix="set network.activation to one of them",
        )
    return _ELEMENTWISE[name]()


def outputs_per_unit(activation: nn.Module) -> int:
    """2 for an activation that returns two functions of each unit one after the other, else 1."""
    return int(getattr(activation, "halves", 1))
