"""ReDo: recycle dormant units (Sokar et al. 2023, arXiv:2302.12902, algorithm 1).

Every `every` gradient steps, units with s_i <= threshold start anew: incoming weights as the layer draws them, outgoing
weights 0, moments 0. With s_i = 0 and no norm between, the answers to the measured states do not change by a bit; with
a norm before the activation all units of the layer move.

Settings of the paper and its code (their issue tracker: 0.025 is the default setting, 0.1 all others):
DQN at one gradient step in four env steps 1,000 and 0.025; at higher replay ratios and DrQ(eps) 1,000 and 0.1; SAC
200,000 and 0; states measured 64 (paper), 256 (code).

Deviates from the code: moments of biases are cleared too; biases restart as the layer draws them (theirs start at 0);
in a flattened convolution the columns zeroed are those of the dormant channel (theirs are mostly of other channels).
Period and replay ratio: gradient steps, so at four times the ratio it comes four times as often per env step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import is_due
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import (
    SEE,
    Bias,
    OptimizerStep,
    SecondMoment,
    Target,
    dormant_units,
    recycle,
    require_one_of,
    require_surgery_fits,
)


@dataclass(frozen=True)
class ReDoConfig:
    """The paper's DQN at its default replay ratio."""

    every: int = 1_000  # gradient steps
    threshold: float = 0.025  # tau, as a share of the layer's average activation
    bias: Bias = "init"  # zero: as the official code
    optimizer_step: OptimizerStep = "keep"  # zero_tensor: Adam's step count of the touched tensors restarts
    second_moment: SecondMoment = "zero"  # living_mean: no overshoot of recycled weights
    target: Target = "untouched"  # mirror: the target network gets the same weights at once
    compensate: bool = False  # give the mean activation of a recycled unit to the biases of its consumers

    def __post_init__(self) -> None:
        require(self.every >= 1, "intervention.redo.every", self.every, "1 or more", SEE)
        require(self.threshold >= 0, "intervention.redo.threshold", self.threshold, "0 or more", SEE)
        require_one_of("intervention.redo.bias", self.bias, Bias)
        require_one_of("intervention.redo.optimizer_step", self.optimizer_step, OptimizerStep)
        require_one_of("intervention.redo.second_moment", self.second_moment, SecondMoment)
        require_one_of("intervention.redo.target", self.target, Target)


class ReDo:
    """Recycles units by their activation. Nothing of it moves: the state is empty."""

    score: str | None = "redo"
    observer: Observer | None = None

    def __init__(self, config: ReDoConfig) -> None:
        self.config = config

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """ConfigError if a layer of the agent cannot be recycled."""
        compensate = self.config.compensate
        require_surgery_fits(agent, compensate=compensate)
        doubled = [layer.name for layer in agent.unit_graph().layers if layer.halves != 1]
        if compensate and doubled:
            raise ConfigError(
                f"mean activations of {', '.join(doubled)} cannot be compensated",
                why="crelu and fourier make two of each unit, and their sum is what is measured",
                fix="--intervention.redo.compensate false",
                see=SEE,
            )

    def due(self, progress: Progress) -> bool:
        """Every `every` gradient steps."""
        return is_due(self.config.every, progress)

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Recycle; a ledger line for each layer with a dormant unit."""
        config = self.config
        masks = dormant_units(agent, measurement, config.threshold, "redo")
        assert measurement is not None
        return recycle(
            agent,
            masks,
            rng,
            kind="redo",
            bias=config.bias,
            optimizer_step=config.optimizer_step,
            second_moment=config.second_moment,
            target=config.target,
            mean_activation={name: measurement.layers[name].scores["mean_activation"] for name in masks}
            if config.compensate
            else None,
            scores={name: measurement.layers[name].scores["redo"] for name in masks},
        )

    def state_dict(self) -> State:
        """Nothing."""
        return {}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Nothing."""
