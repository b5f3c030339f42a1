"""What every environment declares about itself, and the one protocol that they all speak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import gymnasium as gym

from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, State


@dataclass(frozen=True)
class EnvSpec:
    """Declared, not guessed: spaces of ONE environment and how its episodes begin and end."""

    env_id: str  # "ALE/Pong-v5", "dmc/walker-walk", "gym/CartPole-v1"
    family: Literal["atari", "dmc", "gym", "tiny"]
    observation_space: gym.spaces.Box  # of a single frame
    action_space: gym.Space[Any]  # Discrete or bounded Box
    num_envs: int
    action_repeat: int  # frames per agent decision
    stack: int  # frames that the agent sees at once; 1 = no stack
    stack_padding: Literal["zero", "repeat"]  # before the first frame of an episode
    episode_cap: int | None  # frames; None = the environment never truncates
    exact: bool  # state_dict restores the identical continuation
    protocol: dict[str, Any] = field(default_factory=dict)  # every setting, for the record: name, sticky, no-ops, ...

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """Shape of one observation as the network sees it: [stack, *frame] for stacked frames, else [*frame]."""
        shape = self.observation_space.shape
        return (self.stack, *shape) if self.stack > 1 else shape


class VectorEnv(Protocol):
    """E environments in lockstep with same-step semantics."""

    spec: EnvSpec

    def reset(self) -> TimeStep:
        """Start all episodes; only `observation` and `lives` are meaningful."""

    def step(self, action: Array) -> TimeStep:
        """Act with int64 [E] or float32 [E, A] actions; ended environments are reset inside."""

    def render(self) -> Array:
        """The picture of environment 0, uint8 [H, W, 3]."""

    def state_dict(self) -> State:
        """Everything that the continuation depends on; backends with `spec.exact` False raise with the reason."""

    def load_state_dict(self, state: State) -> None:
        """Continue a stored state."""

    def close(self) -> None:
        """Free processes and buffers."""
