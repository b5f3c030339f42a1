"""Samplers: index-only, seedable, with state. One file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlkit.core.errors import ConfigError, nearest
from rlkit.replay.samplers.sampler import Sampler
from rlkit.replay.samplers.uniform import UniformConfig, UniformSampler


@dataclass(frozen=True)
class SamplerKind:
    """A line of the registry."""

    summary: str
    build: Callable[[int, int, Any], Sampler]  # (capacity, seed, config)
    config: type[Any]  # dataclass of its settings


SAMPLERS: dict[str, SamplerKind] = {
    "uniform": SamplerKind("every usable row with the same probability", UniformSampler, UniformConfig),
}


def find(name: str) -> SamplerKind:
    """The line of sampler `name`. Raises ConfigError with the nearest and all names."""
    if name not in SAMPLERS:
        raise ConfigError(
            f"unknown sampler {name!r}",
            why=f"there are: {', '.join(SAMPLERS)}.{nearest(name, SAMPLERS)}",
            fix="--replay.sampler uniform",
            see="docs/replay.md",
        )
    return SAMPLERS[name]


def make(name: str, capacity: int, seed: int, config: Any = None) -> Sampler:
    """Sampler `name` over `capacity` slots; `config` of its own dataclass, None = its defaults."""
    kind = find(name)
    return kind.build(capacity, seed, kind.config() if config is None else config)
