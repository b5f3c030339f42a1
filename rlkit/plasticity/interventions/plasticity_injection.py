"""Plasticity injection: a fresh head that starts by answering nothing (Nikishin et al. 2023, arXiv:2305.15555).

At one gradient step the head h_theta, all layers behind the encoder, becomes
    h_theta(x) [frozen] + h_theta1(x) [trained] - h_theta2(x) [frozen],    theta1 = theta2 freshly drawn.
The answer is what it was, as many parameters are trained as before, the encoder keeps its gradient. theta1 takes the
place of theta, so that its units are found where the old ones were, and its moments start anew; the frozen terms are
added to what the head answers. The target network gets the same theta1 and theta2 and keeps its own theta until its
next copy, so that its answer stays too. Each injection costs two more passes of the head; three are allowed.

The encoder is what stands before the trunk: the convolutions, nothing in a network of states. Its last units are now
read by the frozen terms too (`agent.readers`). In an actor the head is its mean and raw standard deviation before they
are squashed. The paper injects into Double DQN at 50 of 200 million frames, which is the default at replay ratio 1/4: a
diagnosis, done once. Deviates: every trained network of the agent.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rlkit.core.errors import ConfigError, require
from rlkit.core.typing import State
from rlkit.plasticity.measurement import Measurement
from rlkit.plasticity.networks import forget, overwrite, trained_networks
from rlkit.plasticity.protocols import LedgerEvent, MonitoredAgent, Observer, Progress
from rlkit.plasticity.surgery import fresh_parameters, generator_hash, target_address

LIMIT = 3  # injections in a run


@dataclass(frozen=True)
class PlasticityInjectionConfig:
    """When."""

    at: tuple[int, ...] = (3_125_000,)  # gradient steps: 50 million frames, 4 frames a step, a gradient step in 4

    def __post_init__(self) -> None:
        rising = all(first < second for first, second in itertools.pairwise(self.at))
        fits = 1 <= len(self.at) <= LIMIT and self.at[0] >= 1 and rising
        allowed = f"1 to {LIMIT} rising numbers of gradient steps"
        require(fits, "intervention.plasticity_injection.at", list(self.at), allowed)


class FrozenTerms(nn.Module):
    """Adds old(x) - copy(x) of every injection to what the head of a network answers to the features x."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = nn.ModuleList()
        self._features: Tensor | None = None

    def append(self, old: nn.Module, copy: nn.Module) -> None:
        """One more injection."""
        self.terms.append(nn.ModuleDict({"old": old, "copy": copy}).requires_grad_(False))

    def remember(self, _trunk: nn.Module, inputs: tuple[Tensor]) -> None:
        """Before the trunk: what it reads."""
        self._features = inputs[0]

    def add(self, _head: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        """After the head: the sum."""
        features, self._features = self._features, None
        for term in self.terms:
            assert isinstance(term, nn.ModuleDict)
            output = output + (term["old"](features) - term["copy"](features))
        return output


class PlasticityInjection:
    """Freezes what the heads know and trains fresh ones on top."""

    score: str | None = None
    observer: Observer | None = None

    def __init__(self, config: PlasticityInjectionConfig) -> None:
        self.config = config
        self._injections = 0
        self._hooks: list[RemovableHandle] = []

    def attach(self, agent: MonitoredAgent, rng: np.random.Generator) -> None:
        """Raises ConfigError if a network is not an encoder, a trunk and a head, or cannot draw new weights."""
        for network in trained_networks(agent):
            children = dict(agent.networks[network].named_children())
            if not {"trunk", "head"} <= set(children):
                raise ConfigError(
                    f"plasticity_injection does not find the head of {network!r}",
                    why=f"it freezes 'trunk' and 'head' of a network; this one has {', '.join(children)}",
                    fix="name the layers behind the encoder so, or leave plasticity_injection out",
                    see="docs/plasticity.md",
                )
            fresh_parameters(_head(agent.networks[network]), np.random.default_rng(0))  # raises if it cannot

    def due(self, progress: Progress) -> bool:
        """At the gradient steps of `at`."""
        return progress.updates in self.config.at

    def apply(
        self, agent: MonitoredAgent, measurement: Measurement | None, rng: np.random.Generator
    ) -> list[LedgerEvent]:
        """One event for each network."""
        self._unhook()
        events = []
        for network in trained_networks(agent):
            start = generator_hash(rng)
            module = agent.networks[network]
            twins = _with_target(agent, network)
            old = [copy.deepcopy(_head(twin)) for twin in twins]
            fresh = {f"{network}.{name}": value for name, value in fresh_parameters(_head(module), rng).items()}
            change = overwrite(agent.networks, fresh, target=True)
            for twin, before in zip(twins, old, strict=True):
                _frozen_terms(twin).append(before, copy.deepcopy(_head(twin)))
            _declare_readers(agent, network, self._injections)
            forget(agent, _head(module).parameters())
            details = {"network": network, "number": self._injections + 1, "parameters": list(fresh)}
            events.append(LedgerEvent("plasticity_injection", details | {"weight_change": change, "rng": start}))
        self._injections += 1
        self._hook(agent)
        return events

    def state_dict(self) -> State:
        """How many injections there are; their weights are the agent's."""
        return {"injections": self._injections}

    def load_state_dict(self, agent: MonitoredAgent, state: State) -> None:
        """Put frozen terms into the networks, for the agent's state to fill."""
        self._unhook()
        for number in range(self._injections, state["injections"]):
            for network in trained_networks(agent):
                for twin in _with_target(agent, network):
                    _frozen_terms(twin).append(copy.deepcopy(_head(twin)), copy.deepcopy(_head(twin)))
                _declare_readers(agent, network, number)
        self._injections = state["injections"]
        self._hook(agent)

    def _hook(self, agent: MonitoredAgent) -> None:
        for network in trained_networks(agent) if self._injections else ():
            for twin in _with_target(agent, network):
                frozen, trunk, head = (twin.get_submodule(name) for name in ("injected", "trunk", "head"))
                assert isinstance(frozen, FrozenTerms)
                # Bound methods: a deep copy of the network gets hooks of its own.
                self._hooks += [
                    trunk.register_forward_pre_hook(frozen.remember),
                    head.register_forward_hook(frozen.add),
                ]

    def _unhook(self) -> None:
        """So that copies of a head do not carry the terms of earlier injections."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _head(network: nn.Module) -> nn.Module:
    """All that stands behind the encoder."""
    return nn.Sequential(OrderedDict((name, network.get_submodule(name)) for name in ("trunk", "head")))


def _with_target(agent: MonitoredAgent, network: str) -> list[nn.Module]:
    """A network and, if there is one, its target."""
    target = target_address(agent.networks, f"{network}.head")
    names = [network] if target is None else [network, target.partition(".")[0]]
    return [agent.networks[name] for name in names]


def _declare_readers(agent: MonitoredAgent, network: str, number: int) -> None:
    """The frozen terms of an injection read the units of the encoder as the head does."""
    trunk = f"{network}.trunk."
    for layer in agent.unit_graph().layers:
        for consumer in layer.consumers:
            if consumer.layer.startswith(trunk) and not layer.name.startswith(trunk):
                own = consumer.layer.removeprefix(f"{network}.")
                terms = [f"{network}.injected.terms.{number}.{term}.{own}" for term in ("old", "copy")]
                readers = tuple(replace(consumer, layer=term) for term in terms)
                agent.readers[layer.name] = agent.readers.get(layer.name, ()) + readers


def _frozen_terms(network: nn.Module) -> FrozenTerms:
    if not hasattr(network, "injected"):
        network.add_module("injected", FrozenTerms())
    frozen = network.get_submodule("injected")
    assert isinstance(frozen, FrozenTerms)
    return frozen
