"""Runs of small real agents under one cure of whole networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlkit.agents.agent import Agent
from rlkit.core.seeding import generator_state, load_generator_state
from rlkit.nn.config import NetworkConfig
from rlkit.plasticity.monitor import PlasticityMonitor
from rlkit.plasticity.protocols import Intervention, LedgerEvent, Progress
from tests.agents.helpers import FEATURES, batch, make_dqn, make_sac

IMAGES = (4, 10, 10)
Make = Callable[..., Agent]
# name: (build, observation shape, network settings)
AGENTS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "dqn": (lambda **k: make_dqn(target_update_period=3, **k), (FEATURES,)),
    "dqn-images": (lambda **k: make_dqn(IMAGES, target_update_period=3, **k), IMAGES),
    "sac": (make_sac, (FEATURES,)),
}
NORMALISED = NetworkConfig(hidden=(8, 6), layer_norm=True)


def progress(updates: int, total: int = 10**9) -> Progress:
    return Progress(env_steps=updates, updates=updates, frames=updates, total_env_steps=total)


def rows(number: int, agent: Agent, shape: tuple[int, ...] = (FEATURES,)) -> Any:
    return batch(number, discrete="online" in agent.networks, shape=shape)


def measure(agent: Agent, number: int, shape: tuple[int, ...] = (FEATURES,)) -> Any:
    monitor = PlasticityMonitor(
        agent.networks,
        agent.unit_graph(),
        forward=agent.outputs,
        losses=lambda states: agent.losses(states, torch.Generator().manual_seed(number)),
    )
    return monitor.measure(rows(number, agent, shape), updates=number)


def learn(
    agent: Agent,
    cure: Intervention,
    rng: np.random.Generator,
    updates: int,
    first: int = 0,
    shape: tuple[int, ...] = (FEATURES,),
) -> list[LedgerEvent]:
    """Gradient steps number first + 1 to first + updates, with what is due after each."""
    events = []
    for number in range(first, first + updates):
        agent.update(rows(number, agent, shape), cure.observer)
        if cure.due(progress(number + 1)):
            measurement = measure(agent, number, shape) if cure.score else None
            events += cure.apply(agent, measurement, rng)
    return events


def everything(agent: Agent, cure: Intervention) -> dict[str, torch.Tensor]:
    """All tensors of an agent and a cure by a path."""
    found: dict[str, torch.Tensor] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(f"{path}/{key}", part)
        elif isinstance(value, list | tuple):
            for number, part in enumerate(value):
                walk(f"{path}/{number}", part)
        else:
            found[path] = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)

    walk("agent", agent.state_dict())
    walk("cure", cure.state_dict())
    return found


def through_a_file(state: Any) -> Any:
    """Files keep values, not memory layouts."""
    if isinstance(state, dict):
        return {key: through_a_file(value) for key, value in state.items()}
    if isinstance(state, list):
        return [through_a_file(value) for value in state]
    return state.contiguous().clone() if isinstance(state, torch.Tensor) else state


def check_resume(
    make: Make, shape: tuple[int, ...], build: Callable[[], Intervention], updates: int = 5
) -> list[LedgerEvent]:
    """2N = N, save, load into fresh objects of another seed, N: bit for bit. Returns the events of the second half."""
    whole, cure, rng = make(), build(), np.random.default_rng(3)
    cure.attach(whole, rng)
    learn(whole, cure, rng, updates, shape=shape)
    stored = through_a_file({"agent": whole.state_dict(), "cure": cure.state_dict(), "rng": generator_state(rng)})
    torch.manual_seed(1)
    events = learn(whole, cure, rng, updates, first=updates, shape=shape)

    torch.manual_seed(2)
    resumed, again, other = make(seed=7), build(), np.random.default_rng(4)
    again.attach(resumed, other)
    again.load_state_dict(resumed, stored["cure"])
    resumed.load_state_dict(stored["agent"])
    load_generator_state(other, stored["rng"])
    learn(resumed, again, other, updates, first=updates, shape=shape)
    first, second = everything(whole, cure), everything(resumed, again)
    assert first.keys() == second.keys()
    for path, value in first.items():
        assert torch.equal(value, second[path]), path
    assert whole.unit_graph() == resumed.unit_graph()
    return events
