"""ReGraMa: recycle units whose weights get no gradient (2025, arXiv:2505.24061).

Every `every` gradient steps, units whose score mean_j |dL/dw_ij| / (mean of the layer + 1e-9) is at most `threshold`
start anew. `outgoing=keep`, as in the public copies of the method: what the network answers changes at once. A unit
whose outgoing weights are 0 has no gradient, so with `zero` it must learn for a step before the next measurement.

Deviates from those copies: hidden units only (they draw output rows anew as well, which forgets an action's value);
rows as the layer draws them (theirs are sqrt(6) larger); moments of exactly the written weights, step counts kept.
`max_share` is a cap that some of them have. The gradient is a mean over several batches, since the units that one
batch does not reach are not dormant: that is up to whoever measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkit.core.errors import require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import BoolArray, FloatArray, Measurement
from rlkit.plasticity.networks import is_due
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import (
    SEE,
    Bias,
    OptimizerStep,
    Outgoing,
    SecondMoment,
    Target,
    dormant_units,
    recycle,
    require_one_of,
    require_surgery_fits,
)


@dataclass(frozen=True)
class ReGraMaConfig:
    """Period and threshold of the public copies."""

    every: int = 1_000  # gradient steps
    threshold: float = 0.01  # tau, as a share of the layer's average gradient
    max_share: float = 1.0  # of a layer that is recycled at once, those of lowest score; 1 = no cap
    outgoing: Outgoing = "keep"  # zero: as ReDo; small: a hundredth of a fresh draw
    bias: Bias = "init"
    optimizer_step: OptimizerStep = "keep"
    second_moment: SecondMoment = "zero"
    target: Target = "untouched"

    def __post_init__(self) -> None:
        require(self.every >= 1, "intervention.regrama.every", self.every, "1 or more", SEE)
        require(self.threshold >= 0, "intervention.regrama.threshold", self.threshold, "0 or more", SEE)
        require(0 < self.max_share <= 1, "intervention.regrama.max_share", self.max_share, "above 0, up to 1", SEE)
        require_one_of("intervention.regrama.outgoing", self.outgoing, Outgoing)
        require_one_of("intervention.regrama.bias", self.bias, Bias)
        require_one_of("intervention.regrama.optimizer_step", self.optimizer_step, OptimizerStep)
        require_one_of("intervention.regrama.second_moment", self.second_moment, SecondMoment)
        require_one_of("intervention.regrama.target", self.target, Target)


def lowest(scores: FloatArray, mask: BoolArray, max_share: float) -> BoolArray:
    """At most floor(max_share * units) of the masked units of each copy: those of lowest score, first ones first."""
    kept = np.zeros_like(mask)
    most = int(max_share * mask.shape[1])
    for copy in range(len(mask)):
        order = np.argsort(np.where(mask[copy], scores[copy], np.inf), kind="stable")
        kept[copy, order[: min(most, int(mask[copy].sum()))]] = True
    return kept


class ReGraMa:
    """Recycles units by their gradient. Nothing of it moves: the state is empty."""

    score: str | None = "grama"
    observer: Observer | None = None

    def __init__(self, config: ReGraMaConfig) -> None:
        self.config = config

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """ConfigError if a layer of the agent cannot be recycled."""
        require_surgery_fits(agent)

    def due(self, progress: Progress) -> bool:
        """Every `every` gradient steps."""
        return is_due(self.config.every, progress)

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """Recycle; a ledger line for each layer with a unit that does not learn."""
        config = self.config
        masks = dormant_units(agent, measurement, config.threshold, "grama")
        assert measurement is not None
        scores = {name: measurement.layers[name].scores["grama"] for name in masks}
        return recycle(
            agent,
            {name: lowest(scores[name], mask, config.max_share) for name, mask in masks.items()},
            rng,
            kind="regrama",
            outgoing=config.outgoing,
            bias=config.bias,
            optimizer_step=config.optimizer_step,
            second_moment=config.second_moment,
            target=config.target,
            scores=scores,
        )

    def state_dict(self) -> State:
        """Nothing."""
        return {}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Nothing."""
