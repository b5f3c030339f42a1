"""What agents, the monitor and the cures agree on. Data and protocols only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlkit.core.typing import State
from rlkit.plasticity.measurement import BoolArray, Measurement


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
    halves: int = 1  # 2 = h is a concatenation of two functions of each unit, CReLU or Fourier: [.., 2 * units, ..]
    function: Callable[[Tensor], Tensor] | None = None  # where `activation` is "": of norm's or producer's output
    call: int | None = None  # which call of the activation in one forward pass; None = all of them, as more samples


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
    optimizers: dict[str, Optimizer]  # by the name of the network that they train
    penalties: list[Penalty]
    after_step: list[AfterStep]
    readers: dict[str, tuple[Consumer, ...]]  # of a layer's units, by its name: what cures have added to the networks

    def unit_graph(self) -> UnitGraph:
        """Who feeds whom, of the networks as they are now: with `readers`."""

    def outputs(self, batch: Any) -> dict[str, Tensor]:
        """One forward pass of each trained network: "policy", the greedy actions, int64 [B] or float32 [B, A];

        "values", float32 [B, A] or, of the actions in the batch, [K, B].
        """

    def losses(self, batch: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """The losses of `update` by network, with their graphs, without penalties. Nothing moves; noise is `rng`'s."""


class Intervention(Protocol):
    """A cure: any agent, any preset. One object a run; its settings are a frozen dataclass in its file."""

    score: str | None  # which dormancy score `apply` reads; it then gets a measurement of this very step

    @property
    def observer(self) -> Observer | None:
        """Sees every gradient step, if it is not None."""

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Before training: check that it fits (ConfigError if not), join `penalties` and `after_step`."""

    def due(self, progress: Progress) -> bool:
        """Whether to apply it after the update that led to `progress`. A pure question."""

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Do it, in place, and say what was done."""

    def state_dict(self) -> State:
        """All that moves, but what lies in the agent."""

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Continue a stored one. Called after `attach` and before the agent's own state is loaded."""


@runtime_checkable
class WatchesRecycling(Protocol):
    """A cure that must know which units another one has started anew."""

    def recycled(self, agent: MonitoredAgent, masks: Mapping[str, BoolArray]) -> None:
        """masks: by layer, [copies, units]; the weights have been written."""


class ReplayRatio(Protocol):
    """Gradient steps per env step (before action repeat)."""

    @property
    def observer(self) -> Observer | None:
        """Sees every gradient step, if it is not None."""

    def ratio(self, progress: Progress) -> Fraction:
        """The ratio that holds now, as an exact fraction. Asked once after every step of the environments."""

    def measured(self, measurement: Measurement) -> None:
        """A probe was taken."""

    def events(self) -> list[LedgerEvent]:
        """What was decided since the last call."""

    def state_dict(self) -> State:
        """All that moves."""

    def load_state_dict(self, state: State) -> None:
        """Continue a stored one."""
