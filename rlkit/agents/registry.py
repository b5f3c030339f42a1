"""Which algorithms there are. A table of names: nothing heavy is imported until one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from rlkit.core.errors import ConfigError, nearest

if TYPE_CHECKING:  # at run time it would import torch, and `rlkit agents` only lists names
    from rlkit.agents.agent import Algorithm


@dataclass(frozen=True)
class Entry:
    """A line of the table; `module` has `build(inputs, agent config, network config)` and the dataclass `config`."""

    name: str
    summary: str
    actions: str  # "discrete" or "continuous"
    module: str
    config: str
    sources: tuple[str, ...]


ENTRIES = (
    Entry(
        name="dqn",
        summary="Deep Q-network, optionally double",
        actions="discrete",
        module="rlkit.agents.dqn",
        config="DQNConfig",
        sources=("Mnih et al. 2015, doi:10.1038/nature14236", "van Hasselt et al. 2016, arXiv:1509.06461"),
    ),
    Entry(
        name="ace",
        summary="SAC that explores where actions act on the reward",
        actions="continuous",
        module="rlkit.agents.ace",
        config="ACEConfig",
        sources=("Ji et al. 2024, arXiv:2402.14528", "Shimizu et al. 2011, arXiv:1101.2489"),
    ),
    Entry(
        name="sac",
        summary="Soft actor-critic with twin critics and a learned temperature",
        actions="continuous",
        module="rlkit.agents.sac",
        config="SACConfig",
        sources=("Haarnoja et al. 2018, arXiv:1801.01290", "Haarnoja et al. 2018, arXiv:1812.05905"),
    ),
)


def names(actions: str | None = None) -> tuple[str, ...]:
    """All algorithms, or those for "discrete" or "continuous" actions."""
    return tuple(entry.name for entry in ENTRIES if actions in (None, entry.actions))


def find(name: str) -> Algorithm:
    """The algorithm called `name`; ConfigError with the nearest name if there is none."""
    entry = next((entry for entry in ENTRIES if entry.name == name), None)
    if entry is None:
        raise ConfigError(
            f"unknown algorithm {name!r}.{nearest(name, names())}",
            why=f"known algorithms: {', '.join(names())}",
            fix="set algorithm to one of them",
        )
    from rlkit.agents.agent import Algorithm
    from rlkit.nn.config import NetworkConfig

    module = import_module(entry.module)
    return Algorithm(
        name=entry.name,
        summary=entry.summary,
        actions=entry.actions,
        config=getattr(module, entry.config),
        network=NetworkConfig,
        build=module.build,
        sources=entry.sources,
    )
