"""Weights and optimisers in and out of a stored state."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from rlkit.core.errors import ResumeError
from rlkit.core.typing import State


def optimizer_state(optimizer: Optimizer) -> State:
    """Copies of the moments and step counts, one dict per parameter in order; settings come from the config."""
    return {
        "parameters": [
            {key: value.clone() for key, value in optimizer.state[parameter].items()}
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
    }


def load_optimizer_state(optimizer: Optimizer, state: State) -> None:
    """Put back what `optimizer_state` returned.

    Fused Adam walks parameter and moments side by side in memory, so a moment must have its parameter's strides:
    channels-last weights would otherwise be updated with the wrong entries, silently, once a file has made them
    contiguous.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(parameters) != len(state["parameters"]):
        raise ResumeError(
            "the stored optimiser belongs to another network",
            why=f"stored for {len(state['parameters'])} parameters, this network has {len(parameters)}",
            fix="resume with the network and agent settings of the stored run",
        )
    for parameter, stored in zip(parameters, state["parameters"], strict=True):
        optimizer.state[parameter] = {
            key: torch.empty_like(parameter, requires_grad=False).copy_(value)
            if value.shape == parameter.shape
            else value.to(parameter.device, copy=True)
            for key, value in stored.items()
        }


def network_state(networks: nn.ModuleDict) -> State:
    """Copies of every weight by name."""
    return {name: value.clone() for name, value in networks.state_dict().items()}


def load_network_state(networks: nn.ModuleDict, state: State) -> None:
    """Put back what `network_state` returned, in place: optimisers keep their parameters."""
    try:
        networks.load_state_dict(state)
    except RuntimeError as error:
        raise ResumeError(
            "the stored weights do not fit this network",
            why=str(error).replace("\n", " "),
            fix="resume with the network settings of the stored run",
        ) from error
