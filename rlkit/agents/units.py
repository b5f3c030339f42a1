"""Unit graphs of networks without branches, read off their modules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rlkit.plasticity.protocols import Consumer, UnitLayer


def chain(networks: nn.ModuleDict, layers: Sequence[tuple[str, str]], head: str) -> tuple[UnitLayer, ...]:
    """Unit layers of a network without branches: each (producer, activation) feeds the next one, the last the head.

    A consumer reads `inputs / units` columns of each unit: the positions of a channel after a flatten, else 1.
    """
    producers = [networks.get_submodule(producer) for producer, _ in layers]
    consumers = [producer for producer, _ in layers[1:]] + [head]
    result = []
    for (name, activation), module, consumer in zip(layers, producers, consumers, strict=True):
        units = _outputs(module)
        per_unit = _inputs(networks.get_submodule(consumer)) // units
        copies = getattr(module, "copies", 1)
        result.append(UnitLayer(name, activation, units, (Consumer(consumer, per_unit),), ensemble=copies))
    return tuple(result)


def trunk_layers(trunk: nn.Module, address: str) -> list[tuple[str, str]]:
    """The (producer, activation) addresses of a trunk at `address`: children 0 and 1, 2 and 3, ..."""
    return [(f"{address}.{i}", f"{address}.{i + 1}") for i in range(0, len(list(trunk.children())), 2)]


def _outputs(module: nn.Module) -> int:
    return int(module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)  # type: ignore[arg-type]


def _inputs(module: nn.Module) -> int:
    return int(module.in_channels if isinstance(module, nn.Conv2d) else module.in_features)  # type: ignore[arg-type]
