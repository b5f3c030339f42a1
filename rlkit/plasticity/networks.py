"""Whole networks of an agent: which ones are trained, how far a layer is from the output, how new values get in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rlkit.plasticity.protocols import MonitoredAgent, Progress, UnitGraph
from rlkit.plasticity.surgery import reset_moments, target_address


def trained_networks(agent: MonitoredAgent) -> list[str]:
    """Names of the networks that an optimiser trains. A temperature has an optimiser and no network."""
    return [name for name in agent.optimizers if name in agent.networks]


def trained_parameters(agent: MonitoredAgent, network: str) -> dict[str, nn.Parameter]:
    """By address, "critic.trunk.0.weight"; without what a cure has frozen."""
    named = agent.networks[network].named_parameters()
    return {f"{network}.{name}": parameter for name, parameter in named if parameter.requires_grad}


def without_norms(graph: UnitGraph, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """`parameters` but those of normalisations and of learned activations."""
    others = tuple(f"{part}." for layer in graph.layers for part in (layer.norm, layer.activation) if part)
    return {address: parameter for address, parameter in parameters.items() if not address.startswith(others)}


def layers_from_output(agent: MonitoredAgent, network: str) -> list[list[str]]:
    """Addresses of the trained layers of `network`: [its heads, what feeds them, ...]. Heads have no units."""
    graph = agent.unit_graph()
    hidden = {layer.name: layer for layer in graph.layers}

    def distance(name: str) -> int:
        consumers = hidden[name].consumers if name in hidden else ()
        return 1 + max((distance(consumer.layer) for consumer in consumers), default=-1)

    heads = [consumer.layer for layer in graph.layers for consumer in layer.consumers if consumer.layer not in hidden]
    found: dict[int, list[str]] = {}
    for name in dict.fromkeys([*hidden, *heads]):
        if name.startswith(f"{network}.") and _is_trained(agent.networks.get_submodule(name)):
            found.setdefault(distance(name), []).append(name)
    return [found[at] for at in sorted(found)]


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


@torch.no_grad()
def overwrite(networks: nn.ModuleDict, values: Mapping[str, Tensor], *, target: bool) -> float:
    """Put in new values by address, in place; with `target` the target networks get the same ones.

    Returns the norm of the change in the trained networks.
    """
    moved = 0.0
    for address, value in values.items():
        parameter = networks.get_parameter(address)
        moved += float((value - parameter).square().sum(dtype=torch.float64))
        parameter.copy_(value)
        mirrored = target_address(networks, address) if target else None
        if mirrored is not None:
            networks.get_parameter(mirrored).copy_(value)
    return math.sqrt(moved)


def forget(agent: MonitoredAgent, parameters: Iterable[nn.Parameter]) -> None:
    """Moments and step counts of whole parameters become 0, as if their optimiser were new."""
    whole = {parameter: torch.ones_like(parameter, dtype=torch.bool) for parameter in parameters}
    reset_moments(agent.optimizers.values(), whole, optimizer_step="zero_tensor")


def is_due(every: int, progress: Progress) -> bool:
    """Whether the number of gradient steps has come to a multiple of `every`."""
    return progress.updates > 0 and progress.updates % every == 0


def in_last_tenth(progress: Progress) -> bool:
    """Too late for a reset: what remains of the run would not make up for it."""
    return 10 * progress.env_steps > 9 * progress.total_env_steps
