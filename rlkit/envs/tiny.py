"""Probe environments with known values: what an agent must learn from each can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from rlkit.core.seeding import generator_state, load_generator_state
from rlkit.core.typing import Array, State
from rlkit.envs.lockstep import Outcome

DISCRETE, BOX = gym.spaces.Discrete(2), gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


class Tiny:
    """A probe environment given by three functions of a small state; exact."""

    def __init__(
        self,
        rng: np.random.Generator,
        start: Callable[[np.random.Generator], int],
        observe: Callable[[int], Array],
        step: Callable[[int, Array], tuple[int, float, bool, bool]],
    ) -> None:
        self._rng, self._start, self._observe, self._step = rng, start, observe, step
        self._state = 0

    def reset(self) -> Array:
        """Start an episode."""
        self._state = self._start(self._rng)
        return self._observe(self._state)

    lives = 0

    def step(self, action: Array) -> Outcome:
        """Act."""
        self._state, reward, terminated, truncated = self._step(self._state, action)
        return Outcome(self._observe(self._state), reward, terminated, truncated, terminated or truncated)

    def render(self) -> Array:
        """A grey square whose brightness is the state."""
        return np.full((64, 64, 3), min(255, 40 * self._state), np.uint8)

    def state_dict(self) -> State:
        """State and random stream."""
        return {"state": self._state, "rng": generator_state(self._rng)}

    def load_state_dict(self, state: State) -> None:
        """Continue."""
        self._state = state["state"]
        load_generator_state(self._rng, state["rng"])

    def close(self) -> None:
        """Nothing is held."""


def _vector(*values: float) -> Array:
    return np.array(values, np.float32)


def _coin(rng: np.random.Generator) -> int:
    return int(rng.integers(2))


def _zero(rng: np.random.Generator) -> int:
    return 0


def _pixels(state: int) -> Array:
    picture = np.zeros((10, 10), np.uint8)
    picture[5, state % 10] = 255
    return picture


def _walk(state: int, action: Array) -> tuple[int, float, bool, bool]:
    """state = 10 * steps + column."""
    steps, column = state // 10 + 1, state % 10 + 2 * int(action) - 1
    at_border = column in (0, 9)
    return 10 * steps + column, float(column == 9), at_border, steps == 40 and not at_border


def _sign(state: int | np.bool_) -> float:
    return 1.0 if state else -1.0


# name: (observation space, action space, start, observe, step)
_VECTOR = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
_TABLE: dict[str, tuple[gym.spaces.Box, gym.Space[Any], Any, Any, Any]] = {
    # One step, reward 1: Q = 1 everywhere.
    "one": (_VECTOR, DISCRETE, _zero, lambda s: _vector(1.0), lambda s, a: (s, 1.0, True, False)),
    # Two steps, reward 1 at the end: Q = gamma, then 1.
    "discount": (_VECTOR, DISCRETE, _zero, lambda s: _vector(s), lambda s, a: (s + 1, float(s == 1), s == 1, False)),
    # One step, the reward is the observation: Q = +1 or -1.
    "observation": (_VECTOR, DISCRETE, _coin, lambda s: _vector(_sign(s)), lambda s, a: (s, _sign(s), True, False)),
    # One step, reward 1 if the action equals the coin, else -1.
    "action": (_VECTOR, DISCRETE, _coin, lambda s: _vector(_sign(s)), lambda s, a: (s, _sign(a == s), True, False)),
    # Reward 1 for ever, cut every 5 steps: Q = 1 / (1 - gamma), only if truncation bootstraps.
    "forever": (_VECTOR, DISCRETE, _zero, lambda s: _vector(1.0), lambda s, a: (s + 1, 1.0, False, s == 4)),
    # A dot on 10x10 pixels walks right (action 1) or left; 1 at the right border, 0 at the left; cut after 40 steps.
    "pixels": (
        gym.spaces.Box(0, 255, (10, 10), np.uint8),
        DISCRETE,
        lambda rng: int(rng.integers(3, 7)),
        _pixels,
        _walk,
    ),
    # One step, reward -(a - o/2)^2 for a continuous action: the best action is half the observation.
    "match": (
        _VECTOR,
        BOX,
        _coin,
        lambda s: _vector(_sign(s)),
        lambda s, a: (s, -float((a[0] - 0.5 * _sign(s)) ** 2), True, False),
    ),
}
NAMES = tuple(_TABLE)
EPISODE_CAPS = {"forever": 5, "pixels": 40}  # steps; the others never truncate


def spaces(name: str) -> tuple[gym.spaces.Box, gym.Space[Any]]:
    """Observation and action space of `tiny/name`."""
    return _TABLE[name][:2]


def make_tiny(name: str, sequence: np.random.SeedSequence) -> Tiny:
    """The probe `tiny/name`."""
    _, _, start, observe, step = _TABLE[name]
    return Tiny(np.random.default_rng(sequence), start, observe, step)
