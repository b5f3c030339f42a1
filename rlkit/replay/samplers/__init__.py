"""Samplers: index-only, seedable, with state. One file each, one line here."""

from __future__ import annotations

from collections.abc import Callable

from rlkit.core.errors import ConfigError, nearest
from rlkit.replay.samplers.sampler import Sampler
from rlkit.replay.samplers.uniform import UniformSampler

SAMPLERS: dict[str, Callable[[int, int], Sampler]] = {"uniform": UniformSampler}


def make(name: str, capacity: int, seed: int) -> Sampler:
    """The sampler called `name` over `capacity` slots. Raises ConfigError with the nearest and all names."""
    if name not in SAMPLERS:
        raise ConfigError(
            f"unknown sampler {name!r}",
            why=f"there are: {', '.join(SAMPLERS)}.{nearest(name, SAMPLERS)}",
            fix="--replay.sampler uniform",
            see="docs/replay.md",
        )
    return SAMPLERS[name](capacity, seed)
