"""What one lockstep of E environments returns. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlkit.core.typing import Array, BoolArray, FloatArray


@dataclass(frozen=True)
class EpisodeEnd:
    """A whole finished episode (a life loss does not finish one)."""

    env: int  # index of the environment
    episode_return: float  # sum of raw rewards
    length: int  # agent decisions
    frames: int  # emulator or control steps: decisions x action repeat


@dataclass
class TimeStep:
    """E environments in lockstep, always with same-step semantics, whatever the backend does inside.

    Arrays may be reused by the next `step`: copy what must last longer.
    """

    observation: Array  # [E, *obs] single frames (no stack); where `ended`, already the next episode's first
    final_observation: Array  # [E, *obs] the true last frame, valid where `ended`
    reward: FloatArray  # [E] raw, unclipped
    terminated: BoolArray  # [E] it alone stops bootstrapping (a life loss may set it, if the protocol says so)
    truncated: BoolArray  # [E] time limit
    ended: BoolArray  # [E] the environment was reset (a life loss sets terminated without ended)
    lives: Array | None = None  # [E] uint8, Atari: lives left after this step
    episodes: list[EpisodeEnd] = field(default_factory=list)  # finished by this step
