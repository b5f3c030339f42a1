"""Shrink and perturb: theta <- shrink theta + perturb phi (Ash and Adams 2020, arXiv:1910.08475).

Two forms, which are not comparable. `event`: every so many gradient steps, phi a fresh draw of each layer's own
initialiser, as SR-SPR (0.8, 0.2) and BBF (Schwarzer et al. 2023, arXiv:2305.19452: 0.5, 0.5) do it to their encoders;
moments and step counts become 0, the target networks are blended with the same phi. `step`: after every gradient step,
phi ~ N(0, 1) for each entry, as Dohare et al. 2024 (arXiv:2306.13812) write it; moments and target networks stay.
Weights and biases are blended, normalisations and learned activations are not.

Deviates: all layers of all trained networks, the heads too, where SR-SPR and BBF draw the heads anew (layer_reset does
that).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlkit.core.errors import require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import forget, is_due, trained_networks, trained_parameters, without_norms
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import fresh_parameters, generator_hash, target_address


@dataclass(frozen=True)
class ShrinkAndPerturbConfig:
    """Which form, and how much."""

    form: Literal["event", "step"] = "event"
    every: int = 40_000  # gradient steps between events
    shrink: float | None = None  # lambda; null = 0.8 at each event, 1 - 1e-5 at each step
    perturb: float | None = None  # gamma; null = 0.2 at each event, 1e-5 at each step

    def __post_init__(self) -> None:
        require(self.form in ("event", "step"), "intervention.shrink_and_perturb.form", self.form, "event, step")
        require(self.every >= 1, "intervention.shrink_and_perturb.every", self.every, "1 or more")
        for key in ("shrink", "perturb"):
            value, allowed = getattr(self, key), "0 to 1, or null"
            require(value is None or 0 <= value <= 1, f"intervention.shrink_and_perturb.{key}", value, allowed)


@torch.no_grad()
def blend_(parameter: Tensor, shrink: float, perturb: float, phi: Tensor) -> float:
    """parameter <- shrink parameter + perturb phi, in place. Returns the norm of the change."""
    before = parameter.clone()
    parameter.mul_(shrink).add_(phi, alpha=perturb)
    return float((parameter - before).norm())


class ShrinkAndPerturb:
    """Blends the networks with fresh ones, or a little noise into every step."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: ShrinkAndPerturbConfig) -> None:
        self.config = config
        shrink, perturb = {"event": (0.8, 0.2), "step": (1 - 1e-5, 1e-5)}[config.form]
        self.shrink = shrink if config.shrink is None else config.shrink
        self.perturb = perturb if config.perturb is None else config.perturb
        self._parameters: dict[str, list[nn.Parameter]] = {}  # step form: by loss
        self._noise: torch.Generator | None = None

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Join the gradient steps. Raises ConfigError if a network cannot draw new weights (event form)."""
        for network in trained_networks(agent):
            if self.config.form == "event":
                fresh_parameters(agent.networks[network], np.random.default_rng(0))  # raises if it cannot
            else:
                self._parameters[network] = list(self._blended(agent, network).values())
        if self.config.form == "step":
            device = next(iter(self._parameters.values()))[0].device
            self._noise = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
            agent.after_step.append(self._after_step)

    def due(self, progress: Progress) -> bool:
        """Event form: at multiples of `every` gradient steps. The step form is never due: it comes with each step."""
        return self.config.form == "event" and is_due(self.config.every, progress)

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """One event for each network."""
        events = []
        for network in trained_networks(agent):
            start = generator_hash(rng)
            fresh = fresh_parameters(agent.networks[network], rng)
            parameters = self._blended(agent, network)
            moved = 0.0
            for address, parameter in parameters.items():
                phi = fresh[address.removeprefix(f"{network}.")]
                moved += blend_(parameter, self.shrink, self.perturb, phi) ** 2
                target = target_address(agent.networks, address)
                if target is not None:
                    blend_(agent.networks.get_parameter(target), self.shrink, self.perturb, phi)
            forget(agent, parameters.values())
            details = {"network": network, "parameters": list(parameters), "shrink": self.shrink}
            details |= {"perturb": self.perturb, "weight_change": moved**0.5, "rng": start}
            events.append(LedgerEvent("shrink_and_perturb", details))
        return events

    @torch.no_grad()
    def _after_step(self, loss: str) -> None:
        for parameter in self._parameters.get(loss, ()):
            phi = torch.randn(parameter.shape, generator=self._noise, device=parameter.device)
            parameter.mul_(self.shrink).add_(phi, alpha=self.perturb)

    def _blended(self, agent: MonitoredAgent, network: str) -> dict[str, nn.Parameter]:
        return without_norms(agent.unit_graph(), trained_parameters(agent, network))

    def state_dict(self) -> State:
        """The generator of the noise."""
        return {} if self._noise is None else {"noise": self._noise.get_state()}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Continue a stored one."""
        if self._noise is not None:
            self._noise.set_state(state["noise"])
