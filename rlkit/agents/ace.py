"""ACE (Ji et al. 2024, arXiv:2402.14528): SAC whose entropy counts an action dimension by its effect on the reward.

With log pi_c(a|s) = sum_i w_i log pi(a_i|s), the losses are those of SAC (sac.py: `SAC._sample` weighs for all three):

    critics      mean (y - Q_k(s, a))^2,  y = r + D (min_k Q'_k(s', a') - temperature log pi_c(a'|s'))
    actor        mean (temperature log pi_c(a|s) - min_k Q_k(s, a))
    temperature  -mean log temperature (log pi_c(a|s) + target entropy)

so exploration goes where actions matter; acting knows nothing of it. The weights come from the last `causal_rows` env
steps: DirectLiNGAM on [observation | action | reward] gives the effect beta_i of each action dimension on the reward of
the same step, and w = A softmax(beta). Until the first search w = 1, and ACE is SAC, bit for bit.
The third part of ACE, the soft reset by gradient dormancy, is the intervention `ace_reset`, which the presets name.

Defaults are the authors' code, which deviates from their paper: there the weight is the effect itself; here a strongly
negative effect gets the smallest weight, and as the softmax knows no units, rewards of order 10 all but choose one
dimension. `causal_search=sink` with `causal_standardise` (preset ace-sink) does without both the units and the order.
Deviates from that code: the temperature is 1 from the first update on, where theirs is 0.2 in that one; updates are
counted from 1; mean and standard deviation are one layer of 2A units, for Xavier's bound and for the dormancy. Constant
observations are left out of the search, where a single one leaves theirs without an order; with a constant reward, or
a number that is not finite, the weights are 1.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rlkit.agents import losses, sac
from rlkit.agents.agent import AgentInputs, Update
from rlkit.agents.sac import SAC, SACConfig
from rlkit.causal import CausalModel, direct_lingam, regress_on_all
from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import Array, FloatArray, State
from rlkit.nn.actor_critic import LogStdBound
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.protocols import Observer, UnitGraph
from rlkit.replay.batch import Batch

CausalSearch = Literal["direct_lingam", "sink", "none"]

_CONSTANT_REWARD = 1e-12  # variance, reward units squared, below which there is no effect to be found


@dataclass(frozen=True)
class ACEConfig(SACConfig):
    """SAC's settings as the authors' code has them, and those of the causal search."""

    log_std_min: float = -20.0
    log_std_bound: LogStdBound = "clip"
    target_entropy_scale: float = 1.0
    temperature_factor: losses.TemperatureFactor = "log_temperature"
    actor_period: int = 2
    target_period: int = 2
    causal_search: CausalSearch = "direct_lingam"  # sink: the reward is known to act on nothing; none: all weights 1
    causal_period: int = 10_000  # env steps between searches
    causal_rows: int = 10_000  # env steps that a search reads, the latest; the first one waits for them
    causal_standardise: bool = False  # effects in standard deviations of the reward for one of the action
    causal_absolute: bool = False  # a negative effect counts as much as a positive one
    causal_temperature: float = 1.0  # of the softmax; the larger, the more alike the weights

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("causal_period", "causal_rows"):
            require(getattr(self, key) >= 1, f"agent.{key}", getattr(self, key), "1 or more")
        temperature = self.causal_temperature
        require(0 < temperature < math.inf, "agent.causal_temperature", temperature, "above 0")


class ACE:
    """A SAC whose `entropy_weight` follows the causal search; everything that SAC has is SAC's."""

    def __init__(self, agent: SAC, recent: RecentSteps, config: ACEConfig) -> None:
        self.sac, self.recent, self.config = agent, recent, config
        self.networks, self.optimizers = agent.networks, agent.optimizers
        self.penalties, self.after_step, self.readers = agent.penalties, agent.after_step, agent.readers
        self.weight = torch.ones_like(agent.scale)  # [A]
        agent.entropy_weight = self.weight
        self._found: dict[str, Tensor] = {}  # by the last search; the next update reports it

    def act(self, observation: Tensor, *, explore: bool) -> Tensor:
        """observation [E, O] -> actions float32 [E, A]: a draw, or the squashed mean without `explore`."""
        return self.sac.act(observation, explore=explore)

    def watch(self, observation: Array, action: FloatArray, reward: FloatArray) -> None:
        """An env step: observation [E, O] and the action [E, A] taken there, reward [E], raw units.

        Where the number of env steps comes to a multiple of `causal_period`, the weights are found anew.
        """
        if self.config.causal_search == "none":
            return
        searches = self.recent.count // self.config.causal_period
        self.recent.add(observation, action, reward)
        if self.recent.count // self.config.causal_period > searches and self.recent.is_full:
            self._search()

    def _search(self) -> None:
        started = time.perf_counter()
        rows, actions = self.recent.rows, len(self.weight)
        reward = rows.shape[1] - 1
        columns = slice(reward - actions, reward)
        find = direct_lingam if self.config.causal_search == "direct_lingam" else regress_on_all
        model = find(torch.from_numpy(rows).to(self.weight.device), target=reward)

        # From the effects to the weights.
        effect, weight = model.effects[reward, columns], torch.ones(actions, dtype=torch.float64)
        if not model.non_finite and (variance := rows.var(0, dtype=np.float64))[reward] >= _CONSTANT_REWARD:
            if self.config.causal_standardise:
                effect = effect * np.sqrt(variance[columns] / variance[reward])
            size = np.abs(effect) if self.config.causal_absolute else effect
            weight = losses.causal_weight(torch.from_numpy(size), self.config.causal_temperature)
        self.weight.copy_(weight)
        self._found = _metrics(model, effect, weight, time.perf_counter() - started)

    def update(self, batch: Batch, observe: Observer | None = None) -> Update:
        """SAC's update with the weighted entropy; the first one after a search tells what was found."""
        result = self.sac.update(batch, observe)
        found, self._found = self._found, {}
        return Update(result.metrics | found, result.priority)

    @property
    def updates(self) -> int:
        """Gradient steps taken."""
        return self.sac.updates

    def unit_graph(self) -> UnitGraph:
        """Hidden layers of the actor and of both critics."""
        return self.sac.unit_graph()

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Squashed mean actions [B, A], and values [2, B] of the actions in the batch."""
        return self.sac.outputs(batch)

    def losses(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The losses of `update` without penalties."""
        return self.sac.losses(batch, rng)

    def state_dict(self) -> State:
        """A copy of all that moves: SAC's, and the causal part."""
        found = dict(self._found)
        causal = {"weight": self.weight.clone(), "recent": self.recent.state_dict(), "found": found}
        return self.sac.state_dict() | {"causal": causal}

    def load_state_dict(self, state: State) -> None:
        """Continue a stored agent of the same networks and settings."""
        self.sac.load_state_dict(state)
        causal = state["causal"]
        self.weight.copy_(causal["weight"])
        self.recent.load_state_dict(causal["recent"])
        self._found = dict(causal["found"])


class RecentSteps:
    """The last `capacity` env steps as rows [observation | action | reward], the oldest overwritten first."""

    def __init__(self, capacity: int, observations: int, actions: int) -> None:
        self.rows = np.zeros((capacity, observations + actions + 1), np.float32)
        self.count = 0  # env steps seen

    @property
    def is_full(self) -> bool:
        """Whether every row has been written."""
        return self.count >= len(self.rows)

    def add(self, observation: Array, action: FloatArray, reward: FloatArray) -> None:
        """One row for each environment: observation [E, *obs], action [E, A], reward [E]."""
        envs = len(reward)
        slots = np.arange(self.count, self.count + envs) % len(self.rows)
        self.rows[slots] = np.concatenate([observation.reshape(envs, -1), action, reward[:, None]], axis=1)
        self.count += envs

    def state_dict(self) -> State:
        """A copy of the rows, and how many have been seen."""
        return {"rows": self.rows.copy(), "count": self.count}

    def load_state_dict(self, state: State) -> None:
        """Continue stored ones."""
        np.copyto(self.rows, state["rows"])
        self.count = state["count"]


def _metrics(model: CausalModel, effect: Array, weight: Tensor, seconds: float) -> dict[str, Tensor]:
    """What a search says about itself: by action dimension, and where in the order the reward came (0 = first)."""
    numbers: dict[str, float] = {f"causal/weight_{i}": float(value) for i, value in enumerate(weight)}
    numbers |= {f"causal/effect_{i}": float(value) for i, value in enumerate(effect)}
    if model.order:
        numbers["causal/reward_place"] = len(model.order) - 1
    numbers["causal/left_out"] = len(model.constant) + len(model.non_finite)
    numbers["causal/wall_s"] = seconds
    return {key: torch.tensor(value, dtype=torch.float32) for key, value in numbers.items()}


def build(inputs: AgentInputs, config: ACEConfig, network: NetworkConfig) -> ACE:
    """An ACE for these spaces."""
    agent = sac.build(inputs, config, network, name="ace")
    observations, actions = math.prod(inputs.observation_shape), len(agent.scale)
    searching = config.causal_search != "none"
    fewest = observations + actions + 2
    if searching and config.causal_rows < fewest:
        raise ConfigError(
            f"agent.causal_rows is {config.causal_rows}",
            why=f"the effects of {observations} observations and {actions} actions need at least {fewest} env steps",
            fix=f"--agent.causal_rows {10 * fewest} or more",
            see="docs/ace.md",
        )
    return ACE(agent, RecentSteps(config.causal_rows if searching else 0, observations, actions), config)
