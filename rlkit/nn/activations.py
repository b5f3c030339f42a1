"""Activations by name. Each call makes an instance of its own, so that a forward hook sees one layer's units."""

from __future__ import annotations

from torch import nn

from rlkit.core.errors import ConfigError, nearest

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}


def activation_names() -> tuple[str, ...]:
    """Every name that `make_activation` knows."""
    return tuple(_ACTIVATIONS)


def make_activation(name: str) -> nn.Module:
    """A new module for `name`; ConfigError for a name that is not registered."""
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"unknown activation {name!r}.{nearest(name, _ACTIVATIONS)}",
            why=f"known activations: {', '.join(_ACTIVATIONS)}",
            fix="set network.activation to one of them",
        )
    return _ACTIVATIONS[name]()
