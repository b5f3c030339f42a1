"""Small agents and hand-made batches."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDict

from rlkit.agents import ace, dqn, sac
from rlkit.agents.agent import Agent, AgentInputs, Update
from rlkit.core.seeding import SeedTree
from rlkit.nn.config import NetworkConfig
from rlkit.replay.batch import Batch

ROWS, FEATURES, ACTIONS = 16, 3, 2
DISCRETE, BOX = gym.spaces.Discrete(ACTIONS), gym.spaces.Box(-2.0, 4.0, (ACTIONS,))


def inputs(space: gym.Space[Any], shape: tuple[int, ...] = (FEATURES,), **changes: Any) -> AgentInputs:
    settings = {"env_steps": 1_000, "learning_starts": 0, "device": "cpu", "seeds": SeedTree(0)} | changes
    dtype = "uint8" if len(shape) == 3 else "float32"
    return AgentInputs(observation_shape=shape, observation_dtype=dtype, action_space=space, **settings)


def make_dqn(
    shape: tuple[int, ...] = (FEATURES,), network: NetworkConfig | None = None, seed: int = 0, **config: Any
) -> dqn.DQN:
    network = network or NetworkConfig(hidden=(8, 6))
    return dqn.build(inputs(DISCRETE, shape, seeds=SeedTree(seed)), dqn.DQNConfig(**config), network)


def make_sac(network: NetworkConfig | None = None, seed: int = 0, **config: Any) -> sac.SAC:
    network = network or NetworkConfig(hidden=(8, 6))
    return sac.build(inputs(BOX, seeds=SeedTree(seed)), sac.SACConfig(**config), network)


def make_ace(network: NetworkConfig | None = None, seed: int = 0, actions: int = ACTIONS, **config: Any) -> ace.ACE:
    network = network or NetworkConfig(hidden=(8, 6))
    space = gym.spaces.Box(-2.0, 4.0, (actions,))
    return ace.build(inputs(space, seeds=SeedTree(seed)), ace.ACEConfig(**config), network)


def batch(number: int, *, discrete: bool, shape: tuple[int, ...] = (FEATURES,), weighted: bool = False) -> Batch:
    rng = torch.Generator().manual_seed(number)

    def observation() -> torch.Tensor:
        if len(shape) == 3:
            return torch.randint(0, 256, (ROWS, *shape), generator=rng, dtype=torch.uint8)
        return torch.randn(ROWS, *shape, generator=rng)

    if discrete:
        action = torch.randint(0, ACTIONS, (ROWS,), generator=rng)
    else:
        action = torch.rand(ROWS, ACTIONS, generator=rng) * 6 - 2
    terminated = torch.rand(ROWS, generator=rng) < 0.2
    rows = {
        "observation": observation(),
        "action": action,
        "next": {
            "observation": observation(),
            "reward": 3 * torch.randn(ROWS, generator=rng),
            "terminated": terminated,
        },
        "discount": 0.99 * (~terminated).float(),
    }
    if weighted:
        rows["weight"] = torch.rand(ROWS, generator=rng)
    return TensorDict(rows, batch_size=[ROWS])


def learn(agent: Agent, updates: int, first: int = 0, shape: tuple[int, ...] = (FEATURES,)) -> Update:
    for number in range(first, first + updates):
        result = agent.update(batch(number, discrete="online" in agent.networks, shape=shape))
    return result


def weights(agent: Agent) -> dict[str, torch.Tensor]:
    found = {name: value.clone() for name, value in agent.networks.state_dict().items()}
    base = agent.sac if isinstance(agent, ace.ACE) else agent
    if isinstance(base, sac.SAC):
        found["log_temperature"] = base.log_temperature.detach().clone()
    return found


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
