"""What surrounds a gradient step: observers, penalties, frozen networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from rlkit.plasticity.protocols import Observer, Penalty, UnitGraph


@contextmanager
def watching(observe: Observer | None, networks: nn.ModuleDict, graph: UnitGraph, network: str) -> Iterator[None]:
    """Inside, each forward pass of `network` hands its hidden activations to `observe`; with None nothing is hooked."""
    if observe is None:
        yield
        return
    hooks = [
        networks.get_submodule(layer.activation).register_forward_hook(_hand_to(observe, layer.name))
        for layer in graph.layers
        if layer.name.startswith(f"{network}.")
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hand_to(observe: Observer, layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        observe.activation(layer, output.detach())

    return hook


def with_penalties(loss: Tensor, name: str, penalties: Sequence[Penalty], networks: nn.ModuleDict) -> Tensor:
    """`loss` plus every penalty that belongs to it."""
    for penalty in penalties:
        if penalty.loss == name:
            loss = loss + penalty.value(networks)
    return loss


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Graphs built inside carry gradients through `module` but compute none for its weights."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
