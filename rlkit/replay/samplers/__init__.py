"""Samplers: index-only, seedable, with state. One file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlkit.core.errors import look_up
from rlkit.replay.samplers.combined import CombinedConfig, CombinedSampler
from rlkit.replay.samplers.consume import ConsumeConfig, ConsumeSampler
from rlkit.replay.samplers.masked import MaskedReshuffleConfig, MaskedReshuffleSampler
from rlkit.replay.samplers.prioritized import PrioritizedConfig, PrioritizedSampler
from rlkit.replay.samplers.rank import RankConfig, RankSampler
from rlkit.replay.samplers.recency import RecencyConfig, RecencySampler
from rlkit.replay.samplers.reshuffle import ReshuffleConfig, ReshuffleSampler
from rlkit.replay.samplers.sampler import Sampler
from rlkit.replay.samplers.uniform import UniformConfig, UniformSampler


@dataclass(frozen=True)
class SamplerKind:
    """A line of the registry."""

    summary: str
    build: Callable[[int, int, Any], Sampler]  # (capacity, seed, config)
    config: type[Any]  # dataclass of its settings
    slot_bytes: int  # memory of a slot, with the settings that take most


SAMPLERS: dict[str, SamplerKind] = {
    "uniform": SamplerKind("every usable row with the same probability", UniformSampler, UniformConfig, 8),
    "rr-c": SamplerKind("every row once per pass, in random order", ReshuffleSampler, ReshuffleConfig, 12),
    "ere": SamplerKind("the newest rows, fewer and fewer over a cycle", RecencySampler, RecencyConfig, 36),
    "cer": SamplerKind("uniform or rr-c, and the newest row in every batch", CombinedSampler, CombinedConfig, 36),
    "per": SamplerKind("prioritised replay, proportional to the TD error", PrioritizedSampler, PrioritizedConfig, 34),
    "per-rank": SamplerKind("prioritised replay, by rank of the TD error", RankSampler, RankConfig, 45),
    "rr-m": SamplerKind(
        "priorities without luck: who is ahead of its share waits",
        MaskedReshuffleSampler,
        MaskedReshuffleConfig,
        51,
    ),
    "consume": SamplerKind("a queue: every row a fixed number of times", ConsumeSampler, ConsumeConfig, 41),
}


def find(name: str) -> SamplerKind:
    """The line of sampler `name`. Raises ConfigError with the nearest and all names."""
    return look_up(SAMPLERS, name, "sampler", fix="--replay.sampler uniform", see="docs/replay.md")


def make(name: str, capacity: int, seed: int, config: Any = None) -> Sampler:
    """Sampler `name` over `capacity` slots; `config` of its own dataclass, None = its defaults."""
    kind = find(name)
    return kind.build(capacity, seed, kind.config() if config is None else config)
