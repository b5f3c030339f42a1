"""Unit graphs of networks without branches, read off their modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from rlkit.nn.activations import outputs_per_unit
from rlkit.nn.ensemble import EnsembleLayerNorm, EnsembleLinear
from rlkit.plasticity.protocols import Consumer, UnitGraph, UnitLayer


@dataclass(frozen=True)
class Hidden:
    """Addresses of one hidden layer."""

    producer: str
    norm: str | None
    activation: str


def hidden_layers(part: nn.Module, address: str) -> list[Hidden]:
    """The hidden layers of a torso or trunk at `address`, whose children are (producer, [norm,] activation) in turn.

    What stands before the first producer, as Fourier features do, has no units.
    """
    layers: list[Hidden] = []
    producer: str | None = None
    norm: str | None = None
    for name, child in part.named_children():
        if isinstance(child, (nn.Linear, nn.Conv2d, EnsembleLinear)):
            producer, norm = f"{address}.{name}", None
        elif isinstance(child, (nn.LayerNorm, nn.GroupNorm, EnsembleLayerNorm)):
            norm = f"{address}.{name}"
        elif producer is not None:
            layers.append(Hidden(producer, norm, f"{address}.{name}"))
    return layers


def chain(networks: nn.ModuleDict, layers: Sequence[Hidden], head: str) -> tuple[UnitLayer, ...]:
    """Unit layers of a network without branches: each feeds the next one, the last the head.

    A consumer reads `inputs / h` columns of each of the h outputs of an activation: the positions of a channel after a
    flatten, else 1. An activation that doubles its input is read at two offsets.
    """
    consumers = [layer.producer for layer in layers[1:]] + [head]
    result = []
    for layer, consumer in zip(layers, consumers, strict=True):
        producer = networks.get_submodule(layer.producer)
        units, halves = _outputs(producer), outputs_per_unit(networks.get_submodule(layer.activation))
        per_unit = _inputs(networks.get_submodule(consumer)) // (units * halves)
        result.append(
            UnitLayer(
                layer.producer,
                layer.activation,
                units,
                tuple(Consumer(consumer, per_unit, half * units * per_unit) for half in range(halves)),
                norm=layer.norm,
                ensemble=getattr(producer, "copies", 1),
                halves=halves,
            )
        )
    return tuple(result)


def read_by(graph: UnitGraph, readers: Mapping[str, tuple[Consumer, ...]]) -> UnitGraph:
    """`graph` with more consumers of some layers, by their names."""
    if not readers:
        return graph
    layers = [replace(layer, consumers=layer.consumers + readers.get(layer.name, ())) for layer in graph.layers]
    return UnitGraph(tuple(layers))


def _outputs(module: nn.Module) -> int:
    return int(module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)  # type: ignore[arg-type]


def _inputs(module: nn.Module) -> int:
    return int(module.in_channels if isinstance(module, nn.Conv2d) else module.in_features)  # type: ignore[arg-type]
