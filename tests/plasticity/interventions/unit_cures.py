"""What the tests of all unit-level cures share: real agents and measurements of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.monitor import PlasticityMonitor
from rlkit.plasticity.protocols import Intervention, Progress
from tests.agents.helpers import batch, make_dqn, make_sac

IMAGE = (1, 10, 10)


def make(name: str) -> Any:
    return make_dqn(shape=IMAGE, target_update_period=4) if name == "dqn" else make_sac()


def data(name: str, number: int) -> Any:
    return batch(number, discrete=name == "dqn", shape=IMAGE if name == "dqn" else (3,))


def measure(name: str, agent: Any, number: int = 1_000) -> Measurement:
    """Scores of activations and of gradients, of all hidden layers, on a batch of its own."""

    def forward(rows: Any) -> torch.Tensor:
        if name == "dqn":
            return agent.networks["online"](rows["observation"])
        mean, _ = agent.networks["actor"](rows["observation"])
        agent.networks["critic"](rows["observation"], rows["action"])
        return mean

    monitor = PlasticityMonitor(
        agent.networks,
        agent.unit_graph(),
        forward=forward,
        losses=lambda rows: agent.losses(rows, torch.Generator().manual_seed(0)),
    )
    return monitor.measure(data(name, number), full=False, gradients=True)


def silence(agent: Any, share: float = 0.3) -> None:
    """Some units of each layer never fire again."""
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for layer in agent.unit_graph().layers:
            producer = agent.networks.get_submodule(layer.name)
            quiet = torch.from_numpy(draw.random(tuple(producer.bias.shape)) < share)
            quiet[..., 0] = True
            producer.bias.masked_fill_(quiet, -100)


def progress(updates: int, env_steps: int | None = None, total: int = 1_000_000) -> Progress:
    steps = updates if env_steps is None else env_steps
    return Progress(env_steps=steps, updates=updates, frames=steps, total_env_steps=total)


def run(name: str, agent: Any, cure: Intervention, rng: np.random.Generator, first: int, updates: int) -> list[Any]:
    """Gradient steps `first` + 1 ... with the cure, as the training loop does them."""
    events = []
    for number in range(first, first + updates):
        agent.update(data(name, number), cure.observer)
        if cure.due(progress(number + 1)):
            measured = measure(name, agent, 1_000 + number) if cure.score is not None else None
            events += cure.apply(agent, measured, rng)
    return events


def everything(agent: Any, cure: Intervention) -> dict[str, Any]:
    return {"agent": agent.state_dict(), "cure": cure.state_dict()}


def equal(first: Any, second: Any) -> bool:
    """Nested states, bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return bool(np.array_equal(first, second))


def resumes(name: str, build: Any, *, half: int) -> None:
    """2N steps in one go = N, stored, loaded into fresh objects, N."""
    from rlkit.core.seeding import generator_state, load_generator_state

    def fresh() -> tuple[Any, Intervention, np.random.Generator]:
        agent, cure, rng = make(name), build(), np.random.default_rng(7)
        cure.attach(agent, rng)
        return agent, cure, rng

    agent, cure, rng = fresh()
    silence(agent)
    events = run(name, agent, cure, rng, 0, 2 * half)
    assert events
    whole = everything(agent, cure)

    agent, cure, rng = fresh()
    silence(agent)
    run(name, agent, cure, rng, 0, half)
    stored, stored_rng = everything(agent, cure), generator_state(rng)
    agent, cure, rng = fresh()
    load_generator_state(rng, stored_rng)
    cure.load_state_dict(agent, stored["cure"])
    agent.load_state_dict(stored["agent"])
    run(name, agent, cure, rng, half, half)
    assert equal(everything(agent, cure), whole)
