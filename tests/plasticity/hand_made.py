"""Agents and layers made by hand, whose every number is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from rlkit.plasticity.measurement import LayerMeasurement, Measurement
from rlkit.plasticity.protocols import AfterStep, Penalty, UnitGraph


class HandMade:
    """A `MonitoredAgent` of modules and a graph; losses and outputs of the network called "online"."""

    def __init__(self, networks: dict[str, nn.Module], graph: UnitGraph, *, learning_rate: float = 1e-3) -> None:
        self.networks = nn.ModuleDict(networks)
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(network.parameters(), learning_rate, fused=True)
            for name, network in networks.items()
            if not name.startswith("target")
        }
        self.penalties: list[Penalty] = []
        self.after_step: list[AfterStep] = []
        self.graph = graph

    def unit_graph(self) -> UnitGraph:
        return self.graph

    def outputs(self, batch: Any) -> dict[str, Tensor]:
        return {"online": self.networks["online"](batch)}

    def losses(self, batch: Any, rng: torch.Generator) -> dict[str, Tensor]:
        return {"online": self.outputs(batch)["online"].square().mean()}


class Scripted:
    """Mixed into a layer: `draw` is what its initialiser draws."""

    draw: dict[str, Tensor] | None = None

    def reset_parameters(self) -> None:
        for name, value in (self.draw or {}).items():
            with torch.no_grad():
                getattr(self, name).copy_(value)


class ScriptedLinear(Scripted, nn.Linear):
    pass


class ScriptedConv(Scripted, nn.Conv2d):
    pass


def linear(weight: Any, bias: Any, draw: Any = None, draw_bias: Any = 0.0) -> ScriptedLinear:
    weight = torch.tensor(weight, dtype=torch.float64)
    layer = ScriptedLinear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    layer.draw = {"weight": weight, "bias": torch.tensor(bias, dtype=torch.float64)}
    layer.reset_parameters()
    layer.draw = {
        "weight": torch.tensor(draw if draw is not None else weight.tolist(), dtype=torch.float64),
        "bias": torch.as_tensor(draw_bias, dtype=torch.float64),
    }
    return layer


def fill_moments(agent: HandMade, m: float, v: float, step: float = 10.0) -> None:
    """Every moment of every optimiser gets the same value."""
    for optimizer in agent.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter] = {
                    "step": torch.tensor(step),
                    "exp_avg": torch.full_like(parameter, m, requires_grad=False),
                    "exp_avg_sq": torch.full_like(parameter, v, requires_grad=False),
                }


def measurement(scores: dict[str, dict[str, Any]], updates: int = 1) -> Measurement:
    """Scores by layer and name, each [copies, units]."""
    layers = {}
    for name, of in scores.items():
        arrays = {score: np.array(values, dtype=np.float64) for score, values in of.items()}
        copies, units = next(iter(arrays.values())).shape
        layers[name] = LayerMeasurement(units, copies, arrays, {})
    return Measurement(updates, updates, "pre", layers)
