"""Continual backprop: replace the least useful old units, a few at a time (Dohare et al. 2024, arXiv:2306.13812).

After every gradient step of a network, for each hidden layer with features h of the batch just learned from:

1. age_i += 1.
2. f_i <- eta f_i + (1 - eta) mean_b h_i, and f^_i = f_i / (1 - eta^age_i).
3. u_i <- eta u_i + (1 - eta) y_i, and u^_i = u_i / (1 - eta^age_i), where y_i is
   contribution: mean_b |h_i| * mean_k |w_out_ki|; zero_contribution: |h_i - f^_i| in place of |h_i|;
   adaptable_contribution: zero_contribution / mean_j |w_in_ij|, the one of the supervised experiments.
4. Units with age_i > maturity are eligible; `replacement_rate` times their number goes to an exact account.
5. For each whole unit in the account the eligible one of lowest u^ starts anew: incoming weights as the layer draws
   them, bias 0, outgoing weights 0, their mean contribution W_out f^ given to the biases of the consumers.

Deviates from the paper's code: fresh weights come from the layer's own initialiser (theirs: Kaiming); Adam keeps its
step counts, and second moments of new weights start at the mean of the tensor, which stands in for their counts per
weight; the compensation happens (in their code it is always 0); convolutions count eligible units as linear layers do.
The rate is counted in gradient steps: 1e-5, since off-policy agents take many (PPO on Ant: 1e-4, maturity 10,000).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError, require
from rlkit.core.seeding import generator_state, load_generator_state
from rlkit.core.typing import State
from rlkit.plasticity.measurement import BoolArray, Measurement
from rlkit.plasticity.networks import is_due
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress, UnitLayer
from rlkit.plasticity.surgery import (
    SEE,
    OptimizerStep,
    SecondMoment,
    column_views,
    recycle,
    require_one_of,
    require_surgery_fits,
    row_views,
)

Utility = Literal["contribution", "zero_contribution", "adaptable_contribution"]


@dataclass(frozen=True)
class ContinualBackpropConfig:
    """Defaults for off-policy agents."""

    replacement_rate: float = 1e-5  # rho: share of the eligible units replaced by each gradient step
    maturity: int = 10_000  # m: gradient steps before a new unit is eligible
    decay: float = 0.99  # eta: of the running averages
    utility: Utility = "contribution"
    compensate: bool = True
    optimizer_step: OptimizerStep = "keep"
    second_moment: SecondMoment = "living_mean"
    report_every: int = 10_000  # gradient steps between lines of the ledger

    def __post_init__(self) -> None:
        key = "intervention.continual_backprop"
        require(0 <= self.replacement_rate <= 1, f"{key}.replacement_rate", self.replacement_rate, "0 to 1", SEE)
        require(self.maturity >= 0, f"{key}.maturity", self.maturity, "0 or more", SEE)
        require(0 <= self.decay < 1, f"{key}.decay", self.decay, "0 or more, below 1", SEE)
        require_one_of(f"{key}.utility", self.utility, Utility)
        require_one_of(f"{key}.optimizer_step", self.optimizer_step, OptimizerStep)
        require_one_of(f"{key}.second_moment", self.second_moment, SecondMoment)
        require(self.report_every >= 1, f"{key}.report_every", self.report_every, "1 or more", SEE)


@dataclass
class _Units:
    """What is remembered of a layer. Ages lie in main memory: who is eligible is known without asking the device."""

    age: np.ndarray[tuple[int, ...], np.dtype[np.int64]]  # [copies, units], gradient steps
    mean: Tensor  # f, [copies, halves * units]
    utility: Tensor  # u, [copies, units]
    account: list[Fraction]  # units owed, by copy
    replaced: int = 0  # since the last line of the ledger
    seen: list[Tensor] = field(default_factory=list)  # activations of the step being taken


class ContinualBackprop:
    """Sees the activations of every step, acts after it; `apply` only reports."""

    score: str | None = None

    def __init__(self, config: ContinualBackpropConfig) -> None:
        self.config = config
        self._rate = Fraction(str(config.replacement_rate))
        self._units: dict[str, _Units] = {}

    @property
    def observer(self) -> Observer | None:
        """Itself."""
        return self

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """ConfigError if a layer of the agent cannot be recycled."""
        require_surgery_fits(agent, compensate=self.config.compensate)
        self._agent, self._rng = agent, rng
        agent.after_step.append(self._after_step)

    def activation(self, layer: str, value: Tensor) -> None:
        """Kept until the step is taken."""
        self._of(layer).seen.append(value)

    def gradients(self, networks: nn.ModuleDict, loss: str) -> None:
        """Not used."""

    def due(self, progress: Progress) -> bool:
        """When a line of the ledger is."""
        return is_due(self.config.report_every, progress)

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """How many units of each layer were replaced since the last report."""
        replaced = {name: units.replaced for name, units in self._units.items()}
        for units in self._units.values():
            units.replaced = 0
        return [LedgerEvent("continual_backprop", {"replaced": replaced, "utility": self.config.utility})]

    @torch.no_grad()
    def _after_step(self, loss: str) -> None:
        layers = [layer for layer in self._agent.unit_graph().layers if layer.name.startswith(f"{loss}.")]
        masks = {layer.name: self._track(layer) for layer in layers}
        if not any(mask.any() for mask in masks.values()):
            return
        means = {layer.name: self._corrected_mean(layer).cpu().numpy() for layer in layers}
        recycle(
            self._agent,
            masks,
            self._rng,
            kind="continual_backprop",
            bias="zero",
            optimizer_step=self.config.optimizer_step,
            second_moment=self.config.second_moment,
            mean_activation=means if self.config.compensate else None,
        )
        for layer in layers:
            units, mask = self._units[layer.name], masks[layer.name]
            new = torch.as_tensor(mask, device=units.mean.device)
            units.age[mask] = 0
            units.utility.masked_fill_(new, 0)
            units.mean.masked_fill_(new.repeat(1, layer.halves), 0)
            units.replaced += int(mask.sum())

    def _track(self, layer: UnitLayer) -> BoolArray:
        """Steps 1 to 5 of the method up to the choice of the units to replace, bool [copies, units]."""
        units, eta = self._of(layer.name), self.config.decay
        if not units.seen:
            raise ConfigError(
                f"continual backprop saw no activations of {layer.name!r}",
                why="a gradient step was taken without its observer",
                fix="agent.update(batch, observe=intervention.observer)",
                see="docs/plasticity.md",
            )
        h = torch.cat([_by_column(value, layer) for value in units.seen], dim=-1)  # [copies, halves * units, samples]
        units.seen.clear()
        units.age += 1
        units.mean.lerp_(h.mean(-1), 1 - eta)
        units.utility.lerp_(self._instantaneous(layer, h), 1 - eta)
        eligible = units.age > self.config.maturity
        chosen = np.zeros_like(eligible)
        for copy, account in enumerate(units.account):
            account += self._rate * int(eligible[copy].sum())
            whole = math.floor(account)
            units.account[copy] = account - whole
            if whole:
                utility = (units.utility[copy] / self._correction(units)[copy]).cpu().numpy()
                order = np.argsort(np.where(eligible[copy], utility, np.inf), kind="stable")
                chosen[copy, order[:whole]] = True
        return chosen

    def _instantaneous(self, layer: UnitLayer, h: Tensor) -> Tensor:
        """y, [copies, units]."""
        networks, kind = self._agent.networks, self.config.utility
        if kind != "contribution":
            h = h - self._corrected_mean(layer).unsqueeze(-1)
        size = h.abs().mean(-1).view(layer.ensemble, layer.halves, layer.units).sum(1)
        y: Tensor = size * _outgoing_size(networks, layer)
        if kind == "adaptable_contribution":
            views = row_views(networks.get_submodule(layer.name), layer)
            y = y / torch.cat([view.flatten(2) for _, _, view in views if view.dim() > 2], dim=2).abs().mean(2)
        return y

    def _corrected_mean(self, layer: UnitLayer) -> Tensor:
        """f^, [copies, halves * units]."""
        units = self._units[layer.name]
        return units.mean / self._correction(units).repeat(1, layer.halves)

    def _correction(self, units: _Units) -> Tensor:
        """1 - eta^age; 1 for a unit that has not been seen."""
        correction = np.where(units.age > 0, 1 - self.config.decay ** np.maximum(units.age, 1), 1.0)
        return torch.as_tensor(correction, dtype=units.mean.dtype, device=units.mean.device)

    def _of(self, name: str) -> _Units:
        if name not in self._units:
            layer = next(layer for layer in self._agent.unit_graph().layers if layer.name == name)
            like = next(self._agent.networks.get_submodule(name).parameters()).detach()
            self._units[name] = _Units(
                age=np.zeros((layer.ensemble, layer.units), np.int64),
                mean=like.new_zeros(layer.ensemble, layer.halves * layer.units),
                utility=like.new_zeros(layer.ensemble, layer.units),
                account=[Fraction(0)] * layer.ensemble,
            )
        return self._units[name]

    def state_dict(self) -> State:
        """Ages, averages and accounts of each layer, and the generator."""
        return {
            "units": {
                name: {
                    "age": units.age.copy(),
                    "mean": units.mean.clone(),
                    "utility": units.utility.clone(),
                    "account": [str(owed) for owed in units.account],
                    "replaced": units.replaced,
                }
                for name, units in self._units.items()
            },
            "rng": generator_state(self._rng),
        }

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Continue a stored one."""
        for name, stored in state["units"].items():
            units = self._of(name)
            units.age[:] = stored["age"]
            units.mean.copy_(stored["mean"])
            units.utility.copy_(stored["utility"])
            units.account = [Fraction(owed) for owed in stored["account"]]
            units.replaced = int(stored["replaced"])
        load_generator_state(self._rng, state["rng"])


def _by_column(h: Tensor, layer: UnitLayer) -> Tensor:
    """h [B, units, ...], of batched copies [copies, B, units] -> [copies, halves * units, samples and positions]."""
    return h.mT if layer.ensemble > 1 else h.transpose(0, 1).flatten(1).unsqueeze(0)


def _outgoing_size(networks: nn.ModuleDict, layer: UnitLayer) -> Tensor:
    """Mean |w| over all weights that read a unit, in all consumers and positions, [copies or 1, units]."""
    total: Tensor | float = 0.0
    weights = 0
    for consumer in layer.consumers:
        for _, _, view in column_views(networks.get_submodule(consumer.layer), layer, consumer):
            columns = view.abs().sum([axis for axis in range(1, view.dim()) if axis != 2])  # [copies, in]
            mine = columns[:, consumer.first : consumer.first + layer.units * consumer.per_unit]
            total = total + mine.reshape(len(mine), layer.units, consumer.per_unit).sum(2)
            weights += view[0].numel() // view.shape[2] * consumer.per_unit
    assert isinstance(total, Tensor)
    return (total if layer.ensemble == len(total) else total.mean(0, keepdim=True)) / weights
