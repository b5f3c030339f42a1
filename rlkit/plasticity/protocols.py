"""What agents, the monitor and the cures agree on. Data and protocols only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Time is counted in env steps; frames are env steps x action repeat."""

    env_steps: int
    updates: int
    frames: int
    total_env_steps: int


@dataclass(frozen=True)
class Consumer:
    """A layer that reads the units of another one.

    `column` maps unit i of the producer to the consumer's input columns:
    columns first + i * per_unit ... first + (i + 1) * per_unit - 1
    (per_unit = positions after pooling for convolution -> flatten -> linear; first = offset in a concatenation).
    """

    layer: str  # "critic.trunk.2"
    per_unit: int = 1
    first: int = 0


@dataclass(frozen=True)
class UnitLayer:
    """One hidden layer: who produces its units, which activation ends it, who reads it."""

    name: str  # address of the producer, "online.torso.conv1"; its weight's rows are the units
    activation: str  # address of the module whose output is h, or "" if the activation is a function
    units: int
    consumers: tuple[Consumer, ...]
    norm: str | None = None  # address of a normalisation between producer and activation
    ensemble: int = 1  # batched copies: weights [ensemble, ...], scores [ensemble, units]


@dataclass(frozen=True)
class UnitGraph:
    """Who feeds whom, declared by the agent (never guessed from registration order)."""

    layers: tuple[UnitLayer, ...]


@dataclass(frozen=True)
class LedgerEvent:
    """One line of ledger.jsonl: what was done to a run, when, and to what."""

    kind: str  # "resume", "checkpoint", "reset", "replay_ratio", ...
    details: dict[str, Any] = field(default_factory=dict)


class Observer(Protocol):
    """Receives activations and gradients of the very step that an agent takes; None costs nothing."""

    def activation(self, layer: str, value: Tensor) -> None:
        """`value` is h of the layer (address: unit graph), [B, units, ...]; of batched copies [K, B, units]."""

    def gradients(self, networks: nn.ModuleDict, loss: str) -> None:
        """Called after `loss.backward()` and before the optimiser step, once per named loss."""


@dataclass(frozen=True)
class Penalty:
    """A tensor added to the loss called `loss` ("online", "critic", "actor"): L2, L2-init, Parseval."""

    loss: str
    value: Callable[[nn.ModuleDict], Tensor]


# Called after each optimiser step with the name of the loss: continual backprop, masks, projections.
AfterStep = Callable[[str], None]


class MonitoredAgent(Protocol):
    """The part of an agent that the monitor and the cures touch."""

    networks: nn.ModuleDict
    optimizers: dict[str, Optimizer]

    def unit_graph(self) -> UnitGraph:
        """Who feeds whom."""


class Measurement(Protocol):
    """One probe of the plasticity monitor."""

    progress: Progress


class Intervention(Protocol):
    """A cure: any agent, any preset."""

    def due(self, progress: Progress, measurement: Measurement | None) -> bool:
        """A pure question."""

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Do it, and say what was done."""


class ReplayRatio(Protocol):
    """Gradient steps per env step (before action repeat)."""

    def ratio(self, progress: Progress, measurement: Measurement | None) -> Fraction:
        """The ratio that holds now, as an exact fraction."""
