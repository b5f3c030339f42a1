"""Layer reset: the last layers of every trained network start anew (Nikishin et al. 2022, arXiv:2205.07802).

The paper's agent for Atari resets its last layer or layers, its agent for pixels of the control suite everything
behind the encoder. Layers are counted from the output: 1 = the heads, 2 = also the hidden layers that feed them, ...; a
layer's normalisation is part of it. Their moments and step counts become 0. `target` is `keep` for the Atari agent
(the target network learns of the new layers at its next copy) and `copy` for the other one.

Deviates: the interval counts gradient steps (the paper's Atari agent: 20,000 env steps), and no reset is done within
the last 10 % of the env steps. Priorities in replay stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import (
    forget,
    in_last_tenth,
    is_due,
    layers_from_output,
    overwrite,
    trained_networks,
)
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import fresh_parameters, generator_hash


@dataclass(frozen=True)
class LayerResetConfig:
    """How much, and when."""

    layers: int = 1  # of each network, counted from the output, the heads included
    every: int = 20_000  # gradient steps
    target: Literal["keep", "copy"] = "keep"  # target networks: as they are, or the same new layers

    def __post_init__(self) -> None:
        require(self.layers >= 1, "intervention.layer_reset.layers", self.layers, "1 or more")
        require(self.every >= 1, "intervention.layer_reset.every", self.every, "1 or more")
        require(self.target in ("keep", "copy"), "intervention.layer_reset.target", self.target, "keep, copy")


class LayerReset:
    """Draws the last layers anew."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: LayerResetConfig) -> None:
        self.config = config

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Raises ConfigError if a network has fewer layers, or a layer that cannot draw new weights."""
        for network in trained_networks(agent):
            layers = layers_from_output(agent, network)
            if len(layers) < self.config.layers:
                raise ConfigError(
                    f"intervention.layer_reset.layers is {self.config.layers}",
                    why=f"{network!r} has {len(layers)} layers with its head",
                    fix=f"--intervention.layer_reset.layers {len(layers)}, or full_reset",
                    see="docs/plasticity.md",
                )
            for address in self._parts(agent, network):
                fresh_parameters(agent.networks.get_submodule(address), np.random.default_rng(0))  # raises if it cannot

    def due(self, progress: Progress) -> bool:
        """At multiples of `every` gradient steps, but not within the last 10 % of the run."""
        return is_due(self.config.every, progress) and not in_last_tenth(progress)

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """One event for each network."""
        events = []
        for network in trained_networks(agent):
            start = generator_hash(rng)
            parts = self._parts(agent, network)
            fresh = {
                f"{address}.{name}": value
                for address in parts
                for name, value in fresh_parameters(agent.networks.get_submodule(address), rng).items()
            }
            change = overwrite(agent.networks, fresh, target=self.config.target == "copy")
            forget(agent, [agent.networks.get_parameter(address) for address in fresh])
            details = {"network": network, "layers": parts, "target": self.config.target}
            events.append(LedgerEvent("layer_reset", details | {"weight_change": change, "rng": start}))
        return events

    def _parts(self, agent: MonitoredAgent, network: str) -> list[str]:
        """Addresses of the layers to reset and of their normalisations."""
        graph = agent.unit_graph()
        norms = {layer.name: layer.norm for layer in graph.layers}
        layers = [name for level in layers_from_output(agent, network)[: self.config.layers] for name in level]
        return layers + [norm for name in layers if (norm := norms.get(name)) is not None]

    def state_dict(self) -> State:
        """Nothing moves."""
        return {}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Nothing to continue."""
