"""Prune and regrow: small weights start anew, or make room for others (GraNet, Liu et al. 2021, arXiv:2106.10404).

`regrow` (dense): every `every` gradient steps the share r of smallest |w| of each layer becomes 0, with its moments,
and learns again at once. There is no mask, and no paper.

`granet` (sparse): every `every` gradient steps
1. all layers of a network together lose their smallest |w| until the share d(t) of weights is left,
   d(t) = d_f + (1 - d_f) (1 - t/T)^3;
2. each layer drops the ceil(r n) smallest |w| of its n weights and grows as many where the gradient is largest among
   those that it does not have.
The mask holds after every step, for weights, moments and the target network. r falls from `share_start` to `share_end`
as half a cosine over T = `duration` gradient steps, after which weights are only exchanged.

Deviates from GraNet's code: a weight that is dropped and grown in the same call starts from 0, as all grown weights do
(there it keeps its value); exactly as many are dropped as said, whatever the ties; moments are masked (there Adam's are
not); starts dense; the gradient is a mean over the last 8 steps; twin critics are pruned apart. First layers and heads
are left alone with `layers=inner`. r is GraNet's; for `regrow` no value is known to be good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import is_due
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import SEE, parameter_views, require_one_of, reset_moments, target_address

Mode = Literal["regrow", "granet"]
Layers = Literal["inner", "all"]
BATCHES = 8  # gradients averaged before a growth


@dataclass(frozen=True)
class PruneAndRegrowConfig:
    """GraNet's schedule with half of the weights at the end."""

    mode: Mode = "regrow"
    every: int = 1_000  # gradient steps
    share_start: float = 0.5  # r: of a layer's weights, at first ...
    share_end: float = 0.005  # ... and from `duration` on
    duration: int = 100_000  # T, gradient steps; GraNet: 75 % of the run
    final_density: float = 0.5  # d_f, granet: share of the weights that are left from `duration` on
    layers: Layers = "inner"  # all: also each network's first layer and its heads

    def __post_init__(self) -> None:
        key = "intervention.prune_and_regrow"
        require_one_of(f"{key}.mode", self.mode, Mode)
        require(self.every >= 1, f"{key}.every", self.every, "1 or more", SEE)
        for name in ("share_start", "share_end"):
            require(0 <= getattr(self, name) <= 1, f"{key}.{name}", getattr(self, name), "0 to 1", SEE)
        require(self.duration >= 1, f"{key}.duration", self.duration, "1 or more", SEE)
        require(0 < self.final_density <= 1, f"{key}.final_density", self.final_density, "above 0, up to 1", SEE)
        require_one_of(f"{key}.layers", self.layers, Layers)


def density_at(step: int, duration: int, final: float, initial: float = 1.0) -> float:
    """d_f + (d_i - d_f) (1 - t/T)^3, GraNet's equation 1 (Zhu & Gupta 2017, arXiv:1710.01878)."""
    return final + (initial - final) * (1 - min(step / duration, 1)) ** 3


def share_at(step: int, duration: int, start: float, end: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step / duration, 1))) / 2


def smallest(size: Tensor, count: int) -> Tensor:
    """The `count` smallest entries of a flat tensor, first ones first among equals, as bool."""
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[size.argsort(stable=True)[:count]] = True
    return mask


def exchange(weight: Tensor, mask: Tensor, gradient: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """GraNet's neuroregeneration of one layer, all flat: the new mask, and which of its weights are grown.

    Drops the ceil(share * n) smallest of the n weights in `mask`, grows as many of largest |gradient| outside of it.
    """
    count = math.ceil(share * int(mask.sum()))
    kept = mask & ~smallest(weight.abs().where(mask, torch.inf), count)
    grown = smallest(-gradient.abs().where(~kept, -torch.inf), count)
    return kept | grown, grown


class PruneAndRegrow:
    """`regrow` keeps only its clock; `granet` masks and the gradients of the last steps before a growth."""

    score: str | None = None

    def __init__(self, config: PruneAndRegrowConfig) -> None:
        self.config = config
        self._weights: dict[str, list[str]] = {}  # addresses of parameters by network
        self._steps: dict[str, int] = {}  # of each network's optimiser
        self._masks: dict[str, Tensor] = {}  # by address, in the parameter's shape; True = is there
        self._gradients: dict[str, Tensor] = {}  # sums
        self._batches: dict[str, int] = {}  # in the sums, by network

    @property
    def observer(self) -> Observer | None:
        """`granet` sees gradients."""
        return self if self.config.mode == "granet" else None

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """ConfigError if there is nothing to prune."""
        self._weights = self._find(agent)
        if not any(self._weights.values()):
            raise ConfigError(
                "intervention.prune_and_regrow.layers is inner, and no network has an inner layer",
                why="a network's first layer and its heads are left alone",
                fix="--intervention.prune_and_regrow.layers all, or a deeper network",
                see="docs/plasticity.md",
            )
        self._steps = dict.fromkeys(self._weights, 0)
        self._batches = dict.fromkeys(self._weights, 0)
        if self.config.mode == "granet":
            for address in self._addresses():
                self._masks[address] = torch.ones_like(agent.networks.get_parameter(address), dtype=torch.bool)
                self._gradients[address] = torch.zeros_like(agent.networks.get_parameter(address), requires_grad=False)
        agent.after_step.append(lambda loss: self._after_step(agent, loss))

    def activation(self, layer: str, value: Tensor) -> None:
        """Not used."""

    @torch.no_grad()
    def gradients(self, networks: nn.ModuleDict, loss: str) -> None:
        """Sums up the last steps before a growth."""
        if self._steps.get(loss, 0) % self.config.every < self.config.every - BATCHES:
            return
        for address in self._weights.get(loss, []):
            gradient = networks.get_parameter(address).grad
            if gradient is not None:  # None: the network is not part of this loss now
                self._gradients[address] += gradient
        if loss in self._batches:
            self._batches[loss] += 1

    def due(self, progress: Progress) -> bool:
        """Every `every` gradient steps."""
        return is_due(self.config.every, progress)

    @torch.no_grad()
    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """One line of the ledger for each network."""
        act = self._regrow if self.config.mode == "regrow" else self._granet
        return [act(agent, network) for network, addresses in self._weights.items() if addresses]

    def _regrow(self, agent: MonitoredAgent, network: str) -> LedgerEvent:
        share = self._share(network)
        dropped = {}
        for address in self._weights[network]:
            parameter, view = _views(agent.networks, address)
            mask = torch.stack([smallest(copy.flatten().abs(), math.ceil(share * copy.numel())) for copy in view])
            mask = mask.view(view.shape)
            view.masked_fill_(mask, 0)
            reset_moments(agent.optimizers.values(), {parameter: mask})
            dropped[address] = int(mask.sum())
        here = {"network": network, "mode": "regrow", "share": share, "dropped": dropped}
        return LedgerEvent("prune_and_regrow", here)

    def _granet(self, agent: MonitoredAgent, network: str) -> LedgerEvent:
        share, step = self._share(network), self._steps[network]
        density = density_at(step, self.config.duration, self.config.final_density)
        addresses = self._weights[network]
        before = {address: self._masks[address].clone() for address in addresses}
        self._prune(agent.networks, addresses, density)
        grown_total = {}
        for address in addresses:
            parameter, view = _views(agent.networks, address)
            masks = self._masks[address].view(view.shape)
            gradient = self._gradients[address].view(view.shape)
            grown = torch.zeros_like(masks)
            if self._batches[network]:  # none right after a start in mid-run: nothing to grow by
                for copy in range(len(view)):
                    flat = (view[copy].flatten(), masks[copy].flatten(), gradient[copy].flatten())
                    new, fresh = exchange(*flat, share)
                    masks[copy].copy_(new.view(masks[copy].shape))
                    grown[copy].copy_(fresh.view(masks[copy].shape))
            view.masked_fill_(grown, 0)
            reset_moments(agent.optimizers.values(), {parameter: grown})
            self._gradients[address].zero_()
            grown_total[address] = int(grown.sum())
        self._batches[network] = 0
        self._hold(agent, network)
        dropped = {address: int((before[address] & ~self._masks[address]).sum()) for address in addresses}
        here = {"network": network, "mode": "granet", "share": share, "density": density, "dropped": dropped}
        return LedgerEvent("prune_and_regrow", here | {"grown": grown_total})

    def _prune(self, networks: nn.ModuleDict, addresses: list[str], density: float) -> None:
        """Magnitude pruning over all layers together, each copy (twin critic) on its own, down to `density`."""
        views = [_views(networks, address)[1] for address in addresses]
        masks = [self._masks[address].view(view.shape) for address, view in zip(addresses, views, strict=True)]
        for copy in range(len(views[0])):
            weight = torch.cat([view[copy].flatten() for view in views])
            mask = torch.cat([mask[copy].flatten() for mask in masks])
            count = int(mask.sum()) - round(density * len(mask))
            kept = mask & ~smallest(weight.abs().where(mask, torch.inf), max(count, 0))
            for part, new in zip(masks, torch.split(kept, [mask[copy].numel() for mask in masks]), strict=True):
                part[copy].copy_(new.view(part[copy].shape))

    def _after_step(self, agent: MonitoredAgent, loss: str) -> None:
        if loss in self._steps:
            self._steps[loss] += 1
            self._hold(agent, loss)

    @torch.no_grad()
    def _hold(self, agent: MonitoredAgent, network: str) -> None:
        """What the masks leave out is 0: weights, moments, and the target's weights."""
        if self.config.mode != "granet":
            return
        for address in self._weights[network]:
            parameter, absent = agent.networks.get_parameter(address), ~self._masks[address]
            parameter.masked_fill_(absent, 0)
            reset_moments(agent.optimizers.values(), {parameter: absent})
            mirrored = target_address(agent.networks, address)
            if mirrored is not None:
                agent.networks.get_parameter(mirrored).masked_fill_(absent, 0)

    def _share(self, network: str) -> float:
        config = self.config
        return share_at(self._steps[network], config.duration, config.share_start, config.share_end)

    def _find(self, agent: MonitoredAgent) -> dict[str, list[str]]:
        """Weights to prune, by the network that their optimiser trains."""
        graph = agent.unit_graph()
        found: dict[str, list[str]] = {}
        for network in agent.optimizers:
            hidden = [layer for layer in graph.layers if layer.name.startswith(f"{network}.")]
            producers = [layer.name for layer in hidden]
            read = dict.fromkeys(consumer.layer for layer in hidden for consumer in layer.consumers)
            inner = [name for name in producers if name in read]
            layers = list(dict.fromkeys([*producers, *read])) if self.config.layers == "all" else inner
            found[network] = [
                f"{layer}.{name}"
                for layer in layers
                for name, _, view in parameter_views(agent.networks.get_submodule(layer), layer)
                if view.dim() > 2
            ]
        return {network: addresses for network, addresses in found.items() if addresses}

    def _addresses(self) -> list[str]:
        return [address for addresses in self._weights.values() for address in addresses]

    def state_dict(self) -> State:
        """Clocks, masks and sums."""
        return {
            "steps": dict(self._steps),
            "batches": dict(self._batches),
            "masks": {address: mask.clone() for address, mask in self._masks.items()},
            "gradients": {address: total.clone() for address, total in self._gradients.items()},
        }

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Continue a stored one."""
        self._steps, self._batches = dict(state["steps"]), dict(state["batches"])
        for address, mask in self._masks.items():
            mask.copy_(state["masks"][address])
            self._gradients[address].copy_(state["gradients"][address])


def _views(networks: nn.ModuleDict, address: str) -> tuple[nn.Parameter, Tensor]:
    layer, _, name = address.rpartition(".")
    views = parameter_views(networks.get_submodule(layer), layer)
    return next((parameter, view) for found, parameter, view in views if found == name)
