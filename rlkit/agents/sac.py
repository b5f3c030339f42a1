"""SAC (Haarnoja et al. 2018, arXiv:1801.01290) with a learned temperature (arXiv:1812.05905).

One update, in this order: both critics on one target; every `actor_period`-th update `actor_steps` times an actor and
a temperature step, on the critics just stepped; every `target_period`-th update the target critics. The temperature of
the critic and actor losses is the one before its own step.

Defaults are SimBa's plain SAC (target entropy -A/2, log standard deviation squashed into [-10, 2]). Deviates from the
paper: no 1/2 in the critic loss; weights start fan-in uniform; the temperature step reuses the actor step's log-density
(CleanRL draws a fresh one).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from rlkit.agents import losses
from rlkit.agents.agent import AgentInputs, Update
from rlkit.agents.checks import action_range
from rlkit.agents.state import load_network_state, load_optimizer_state, network_state, optimizer_state
from rlkit.agents.steps import frozen, watching, with_penalties
from rlkit.agents.units import chain, hidden_layers, read_by
from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import State
from rlkit.nn.actor_critic import GaussianActor, LogStdBound, TwinCritic
from rlkit.nn.adam import adam_step, clear_gradients, make_adam
from rlkit.nn.config import NetworkConfig
from rlkit.nn.distributions import squashed_gaussian_log_prob
from rlkit.nn.rational import outside_range, rationals
from rlkit.plasticity.protocols import AfterStep, Consumer, Observer, Penalty, UnitGraph
from rlkit.replay.batch import Batch


@dataclass(frozen=True)
class SACConfig:
    """SimBa's plain SAC."""

    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    tau: float = 0.005  # share of the online critics that enters the target critics at each update
    log_std_min: float = -10.0
    log_std_max: float = 2.0
    log_std_bound: LogStdBound = "squash"  # into that range, by a tanh; or clip
    initial_temperature: float = 1.0
    target_entropy_scale: float = 0.5  # target entropy = -scale * A, nats
    temperature_factor: losses.TemperatureFactor = "temperature"  # of its loss; log_temperature: as many ports have it
    actor_period: int = 1  # updates between actor phases
    actor_steps: int = 1  # of a phase
    target_period: int = 1  # updates between steps of the target critics

    def __post_init__(self) -> None:
        for key in ("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate"):
            require(0 < getattr(self, key) < math.inf, f"agent.{key}", getattr(self, key), "above 0")
        require(0 < self.tau <= 1, "agent.tau", self.tau, "above 0, up to 1")
        require(self.log_std_min < self.log_std_max, "agent.log_std_min", self.log_std_min, "below agent.log_std_max")
        require(self.initial_temperature > 0, "agent.initial_temperature", self.initial_temperature, "above 0")
        for key in ("actor_period", "actor_steps", "target_period"):
            require(getattr(self, key) >= 1, f"agent.{key}", getattr(self, key), "1 or more")


class SAC:
    """Actions in a bounded Box: a = scale * tanh(u) + bias. `noise` draws for acting and for both losses."""

    def __init__(
        self,
        actor: GaussianActor,
        critic: TwinCritic,
        scale: Tensor,
        bias: Tensor,
        noise: torch.Generator,
        config: SACConfig,
    ) -> None:
        target = copy.deepcopy(critic).requires_grad_(False)
        self.networks = nn.ModuleDict({"actor": actor, "critic": critic, "target_critic": target})
        log_temperature = torch.tensor(math.log(config.initial_temperature), device=scale.device)
        self.log_temperature = nn.Parameter(log_temperature)
        self.optimizers: dict[str, Optimizer] = {
            "critic": make_adam(critic, config.critic_learning_rate),
            "actor": make_adam(actor, config.actor_learning_rate),
            "temperature": Adam([self.log_temperature], config.temperature_learning_rate, fused=True),
        }
        self._rationals = {"critic": rationals(critic), "actor": rationals(actor)}
        self.penalties: list[Penalty] = []
        self.after_step: list[AfterStep] = []
        self.readers: dict[str, tuple[Consumer, ...]] = {}
        self.scale, self.bias, self.noise, self.config, self.updates = scale, bias, noise, config, 0
        self.target_entropy = -config.target_entropy_scale * len(scale)
        self.entropy_weight: Tensor | None = None  # [A] of the action's dimensions, None = ones; ACE's are causal
        self._graph = UnitGraph(
            chain(self.networks, hidden_layers(actor.trunk, "actor.trunk"), "actor.head")
            + chain(self.networks, hidden_layers(critic.trunk, "critic.trunk"), "critic.head")
        )

    @torch.no_grad()
    def act(self, observation: Tensor, *, explore: bool) -> Tensor:
        """observation [E, O] -> actions float32 [E, A]: a draw, or the squashed mean without `explore`."""
        mean, log_std = self.networks["actor"](observation.flatten(1))
        u = mean
        if explore:
            u = mean + log_std.exp() * torch.randn(mean.shape, generator=self.noise, device=mean.device)
        action: Tensor = u.tanh() * self.scale + self.bias
        return action

    def update(self, batch: Batch, observe: Observer | None = None) -> Update:
        """One update on n-step windows [B]; the priority is |TD error|, averaged over the critics, before weighting.

        The actor's metrics are missing in updates without an actor phase.
        """
        observation = batch["observation"].flatten(1)
        metrics, td_size = self._critic_step(batch, observation, observe)
        self.updates += 1
        if self.updates % self.config.actor_period == 0:
            for _ in range(self.config.actor_steps):
                metrics |= self._actor_step(observation, observe)
        if self.updates % self.config.target_period == 0:
            losses.polyak_update(self.networks["target_critic"], self.networks["critic"], self.config.tau)
        return Update(metrics, priority=td_size)

    def _critic_step(
        self, batch: Batch, observation: Tensor, observe: Observer | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        loss, td_error, q = self._critic_loss(batch, observation, self.noise, observe)
        loss = with_penalties(loss, "critic", self.penalties, self.networks)
        self._step({"critic": loss}, observe)
        metrics = {"loss": loss.detach(), "q_mean": q.detach().mean()}  # stay on the device
        metrics |= outside_range(self._rationals["critic"])
        return metrics, td_error.detach().abs().mean(0)

    def _critic_loss(
        self, batch: Batch, observation: Tensor, rng: torch.Generator, observe: Observer | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, with the TD errors [2, B] and the values [2, B] that it comes from."""
        critic, target = self.networks["critic"], self.networks["target_critic"]
        with torch.no_grad():
            next_observation = batch["next", "observation"].flatten(1)
            next_action, next_log_prob = self._sample(next_observation, rng)
            next_q = target(next_observation, next_action)  # [2, B]
            temperature = self.log_temperature.exp()
            td_target = losses.sac_target(
                batch["next", "reward"], batch["discount"], next_q, next_log_prob, temperature
            )
        with watching(observe, self.networks, self._graph, "critic"):
            q = critic(observation, batch["action"])  # [2, B]
        td_error = td_target - q  # [2, B]
        return losses.sac_critic(td_error, batch.get("weight", None)), td_error, q

    def _actor_step(self, observation: Tensor, observe: Observer | None) -> dict[str, Tensor]:
        """A step of the actor and one of the temperature."""
        temperature = self.log_temperature.detach().exp()
        loss, log_prob = self._actor_loss(observation, temperature, self.noise, observe)
        loss = with_penalties(loss, "actor", self.penalties, self.networks)
        temperature_loss = losses.sac_temperature(
            self.log_temperature, log_prob, self.target_entropy, factor=self.config.temperature_factor
        )
        temperature_loss = with_penalties(temperature_loss, "temperature", self.penalties, self.networks)
        self._step({"actor": loss, "temperature": temperature_loss}, observe)
        metrics = {"actor_loss": loss.detach(), "entropy": -log_prob.detach().mean(), "temperature": temperature}
        found = outside_range(self._rationals["actor"])
        return metrics | {f"actor_{name}": share for name, share in found.items()}

    def _actor_loss(
        self, observation: Tensor, temperature: Tensor, rng: torch.Generator, observe: Observer | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the log-densities [B] of the actions drawn for it."""
        critic = self.networks["critic"]
        with watching(observe, self.networks, self._graph, "actor"):
            action, log_prob = self._sample(observation, rng)
        with frozen(critic):
            q = critic(observation, action)  # [2, B]
        return losses.sac_actor(log_prob, q, temperature), log_prob

    def _step(self, named: dict[str, Tensor], observe: Observer | None) -> None:
        """Gradients of all `named` losses in one pass, as none reads another's parameters; then a step for each."""
        for name in named:
            clear_gradients(self.optimizers[name])
        torch.autograd.backward(list(named.values()))
        for name in named:
            if observe is not None:
                observe.gradients(self.networks, name)
            adam_step(self.optimizers[name])
            for hook in self.after_step:
                hook(name)

    def _sample(self, observation: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """observation [B, O] -> reparameterised action [B, A] and its log-density [B], weighted by dimension."""
        mean, log_std = self.networks["actor"](observation)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        u = torch.addcmul(mean, log_std.exp(), noise)  # mean + std * noise
        log_prob = squashed_gaussian_log_prob(noise, log_std, u, self.scale)  # [B, A]
        return torch.addcmul(self.bias, u.tanh(), self.scale), losses.action_log_prob(log_prob, self.entropy_weight)

    def unit_graph(self) -> UnitGraph:
        """Hidden layers of the actor and of both critics; a critic's activations are [2, B, units]."""
        return read_by(self._graph, self.readers)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Squashed mean actions [B, A], and values [2, B] of the actions in the batch."""
        observation = batch["observation"].flatten(1)
        return {
            "policy": self.act(observation, explore=False),
            "values": self.networks["critic"](observation, batch["action"]),
        }

    def losses(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """The losses of `update` without penalties; the temperature has no units."""
        observation = batch["observation"].flatten(1)
        return {
            "critic": self._critic_loss(batch, observation, rng)[0],
            "actor": self._actor_loss(observation, self.log_temperature.detach().exp(), rng)[0],
        }

    def state_dict(self) -> State:
        """A copy of all that moves."""
        return {
            "networks": network_state(self.networks),
            "log_temperature": self.log_temperature.detach().clone(),
            "optimizers": {name: optimizer_state(optimizer) for name, optimizer in self.optimizers.items()},
            "noise": self.noise.get_state(),
            "updates": self.updates,
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Continue a stored agent of the same networks and settings."""
        load_network_state(self.networks, state["networks"])
        self.log_temperature.copy_(state["log_temperature"])
        for name, optimizer in self.optimizers.items():
            load_optimizer_state(optimizer, state["optimizers"][name])
        self.noise.set_state(state["noise"])
        self.updates = state["updates"]


def build(inputs: AgentInputs, config: SACConfig, network: NetworkConfig, *, name: str = "sac") -> SAC:
    """A SAC for these spaces; `name`: of the agent in messages."""
    scale, bias = action_range(inputs.action_space, name)
    if inputs.observation_dtype != "float32":
        raise ConfigError(
            f"{name} cannot read {inputs.observation_dtype} observations of shape {list(inputs.observation_shape)}",
            why="its networks are fully connected: they need a vector of floats, not images",
            fix="use --env.observation state",
        )
    observations, actions = math.prod(inputs.observation_shape), len(scale)
    rng = inputs.seeds.torch_generator("agent.weights")  # on the CPU: the same weights on every device
    log_std_range = (config.log_std_min, config.log_std_max)
    actor = GaussianActor(observations, actions, network, log_std_range, rng, log_std_bound=config.log_std_bound)
    critic = TwinCritic(observations, actions, network, rng)
    noise = inputs.seeds.torch_generator("agent.noise", device=inputs.device)
    device = inputs.device
    return SAC(actor.to(device), critic.to(device), scale.to(device), bias.to(device), noise, config)
