"""DQN (Mnih et al. 2015, doi:10.1038/nature14236); `double=True` adds van Hasselt et al. 2016 (arXiv:1509.06461).

Deviates from the paper: Adam instead of centred RMSProp, the target network counts gradient steps.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlkit.agents import losses
from rlkit.agents.agent import AgentInputs, Update
from rlkit.agents.checks import action_count
from rlkit.agents.state import load_network_state, load_optimizer_state, network_state, optimizer_state
from rlkit.agents.steps import watching, with_penalties
from rlkit.agents.units import chain, hidden_layers, read_by
from rlkit.core.errors import require
from rlkit.core.typing import State
from rlkit.nn.adam import adam_step, make_adam
from rlkit.nn.config import NetworkConfig
from rlkit.nn.rational import outside_range, rationals
from rlkit.nn.torsos import QNetwork, as_float
from rlkit.plasticity.protocols import AfterStep, Consumer, Observer, Penalty, UnitGraph
from rlkit.replay.batch import Batch


@dataclass(frozen=True)
class DQNConfig:
    """Defaults for vector observations; Atari settings live in the presets."""

    learning_rate: float = 5e-4
    adam_eps: float = 1e-8
    double: bool = False
    huber_threshold: float = 1.0  # kappa, in units of the clipped reward
    target_update_period: int = 500  # gradient steps
    max_grad_norm: float | None = None  # clip the gradient's norm; None = never
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_decay_share: float = 0.2  # of the run's env steps, counted from learning_starts on
    epsilon_decay_steps: int | None = None  # env steps instead of the share, where a paper fixes them

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "agent.learning_rate", self.learning_rate, "above 0")
        require(0 <= self.adam_eps < math.inf, "agent.adam_eps", self.adam_eps, "0 or more")
        require(self.huber_threshold > 0, "agent.huber_threshold", self.huber_threshold, "above 0; .inf for squares")
        require(self.target_update_period >= 1, "agent.target_update_period", self.target_update_period, "1 or more")
        clip, decay = self.max_grad_norm, self.epsilon_decay_steps
        require(clip is None or clip > 0, "agent.max_grad_norm", clip, "above 0, or null")
        require(decay is None or decay >= 0, "agent.epsilon_decay_steps", decay, "0 or more, or null")
        for key in ("epsilon_start", "epsilon_end", "epsilon_decay_share"):
            require(0 <= getattr(self, key) <= 1, f"agent.{key}", getattr(self, key), "0 to 1")


class EpsilonGreedy:
    """Random actions with probability epsilon: `start` until `warmup` env steps, then linearly to `end` in `decay`."""

    def __init__(self, actions: int, start: float, end: float, warmup: int, decay: int, rng: torch.Generator) -> None:
        self.actions, self.start, self.end, self.warmup, self.decay, self.rng = actions, start, end, warmup, decay, rng
        self.env_steps = 0  # decisions taken by all environments together

    @property
    def epsilon(self) -> float:
        """The probability that holds for the next decision."""
        left = 1 - (self.env_steps - self.warmup) / max(self.decay, 1)
        return self.end + (self.start - self.end) * min(max(left, 0.0), 1.0)

    def __call__(self, greedy: Tensor) -> Tensor:
        """greedy: int64 [E] -> actions int64 [E]; counts E env steps."""
        explore = torch.rand(greedy.shape, generator=self.rng, device=greedy.device) < self.epsilon
        uniform = torch.randint(self.actions, greedy.shape, generator=self.rng, device=greedy.device)
        self.env_steps += len(greedy)
        return torch.where(explore, uniform, greedy)

    def state_dict(self) -> State:
        """Counter and generator."""
        return {"env_steps": self.env_steps, "rng": self.rng.get_state()}

    def load_state_dict(self, state: State) -> None:
        """Continue a stored exploration."""
        self.env_steps = state["env_steps"]
        self.rng.set_state(state["rng"])


class DQN:
    """Discrete actions; `q_network` maps observations [B, *obs] to values [B, A]."""

    def __init__(self, q_network: QNetwork, exploration: EpsilonGreedy, config: DQNConfig) -> None:
        target = copy.deepcopy(q_network).requires_grad_(False)
        self.networks = nn.ModuleDict({"online": q_network, "target": target})
        self.optimizers: dict[str, Optimizer] = {
            "online": make_adam(q_network, config.learning_rate, eps=config.adam_eps)
        }
        self._rationals = rationals(q_network)
        self.penalties: list[Penalty] = []
        self.after_step: list[AfterStep] = []
        self.readers: dict[str, tuple[Consumer, ...]] = {}
        self.exploration, self.config, self.updates = exploration, config, 0
        self._graph = self._declare_units(q_network)

    @torch.no_grad()
    def act(self, observation: Tensor, *, explore: bool) -> Tensor:
        """observation [E, *obs] -> actions int64 [E]."""
        greedy: Tensor = self.networks["online"](observation).argmax(-1)
        return self.exploration(greedy) if explore else greedy

    def update(self, batch: Batch, observe: Observer | None = None) -> Update:
        """One gradient step on n-step windows [B]; the priority is |TD error| before weighting."""
        online, target = self.networks["online"], self.networks["target"]
        loss, td_error, q = self._loss(batch, observe)
        loss = with_penalties(loss, "online", self.penalties, self.networks)

        # Step.
        td_size = td_error.detach().abs()
        metrics = {  # stay on the device
            "loss": loss.detach(),
            "q_mean": q.detach().mean(),
            "td_error_abs": td_size.mean(),
            "epsilon": torch.tensor(self.exploration.epsilon),
        }
        self.optimizers["online"].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if observe is not None:
            observe.gradients(self.networks, "online")
        if self.config.max_grad_norm is not None:
            weights = self.optimizers["online"].param_groups[0][
                "params"
            ]  # learned activations have a clip of their own
            metrics["grad_norm"] = nn.utils.clip_grad_norm_(weights, self.config.max_grad_norm)
        adam_step(self.optimizers["online"])
        metrics |= outside_range(self._rationals)
        for hook in self.after_step:
            hook("online")
        self.updates += 1
        if self.updates % self.config.target_update_period == 0:
            target.load_state_dict(online.state_dict())
        return Update(metrics, priority=td_size)

    def _loss(self, batch: Batch, observe: Observer | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, with the TD errors [B] and the values [B, A] that it comes from."""
        online, target = self.networks["online"], self.networks["target"]
        observation, next_observation = as_float(batch["observation"]), as_float(batch["next", "observation"])

        # Target: in double DQN the online network picks the action, the target network judges it.
        with torch.no_grad():
            next_q = target(next_observation)  # [B, A]
            next_q_select = online(next_observation) if self.config.double else next_q
            td_target = losses.q_target(batch["next", "reward"], batch["discount"], next_q, next_q_select)

        with watching(observe, self.networks, self._graph, "online"):
            q = online(observation)  # [B, A]
        td_error = td_target - q.gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1)  # [B]
        loss = losses.weighted_mean(losses.huber(td_error, self.config.huber_threshold), batch.get("weight", None))
        return loss, td_error, q

    def unit_graph(self) -> UnitGraph:
        """Convolutions, then the fully connected layers, of the online network."""
        return read_by(self._graph, self.readers)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Values [B, A] of the online network and its greedy actions [B]."""
        q = self.networks["online"](batch["observation"])
        return {"values": q, "policy": q.argmax(-1)}

    def losses(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The loss of `update` without penalties."""
        return {"online": self._loss(batch)[0]}

    def _declare_units(self, q_network: QNetwork) -> UnitGraph:
        layers = hidden_layers(q_network.torso, "online.torso") + hidden_layers(q_network.trunk, "online.trunk")
        return UnitGraph(chain(self.networks, layers, "online.head"))

    def state_dict(self) -> State:
        """A copy of all that moves."""
        return {
            "networks": network_state(self.networks),
            "optimizers": {name: optimizer_state(optimizer) for name, optimizer in self.optimizers.items()},
            "exploration": self.exploration.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue a stored agent of the same networks and settings."""
        load_network_state(self.networks, state["networks"])
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, state["optimizers"][name])
        self.exploration.load_state_dict(state["exploration"])
        self.updates = state["updates"]


def build(inputs: AgentInputs, config: DQNConfig, network: NetworkConfig) -> DQN:
    """A DQN for these spaces."""
    actions = action_count(inputs.action_space, "dqn")
    rng = inputs.seeds.torch_generator("agent.weights")  # on the CPU: the same weights on every device
    q_network = QNetwork(inputs.observation_shape, actions, network, rng)
    decay = config.epsilon_decay_steps
    exploration = EpsilonGreedy(
        actions,
        config.epsilon_start,
        config.epsilon_end,
        warmup=inputs.learning_starts,
        decay=round(config.epsilon_decay_share * inputs.env_steps) if decay is None else decay,
        rng=inputs.seeds.torch_generator("agent.exploration", device=inputs.device),
    )
    return DQN(q_network.to(inputs.device), exploration, config)
