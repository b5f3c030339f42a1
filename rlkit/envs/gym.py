"""Any Gymnasium environment with a vector or image observation."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from rlkit.core.errors import ConfigError, EnvError, nearest
from rlkit.core.seeding import SeedTree, generator_state, load_generator_state
from rlkit.core.typing import Array, State
from rlkit.envs.lockstep import LockstepVector, Outcome
from rlkit.envs.mujoco_state import MujocoState
from rlkit.envs.spec import EnvSpec

# Families and wrappers whose whole state is known; with others a resumed run starts new episodes.
_PLAIN_STATE, _MUJOCO_STATE = "gymnasium.envs.classic_control.", "gymnasium.envs.mujoco."
_KNOWN_LAYERS = (gym.wrappers.TimeLimit, gym.wrappers.OrderEnforcing)


class GymEnv:
    """One Gymnasium environment."""

    lives = 0

    def __init__(self, name: str, action_repeat: int, seed: int, *, render: bool) -> None:
        self._env = _make(name, render=render)
        self._repeat, self._seed = action_repeat, seed
        self._seeded = False
        space = self._env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self._dtype = np.uint8 if space.dtype == np.uint8 else np.float32
        self._simulation: MujocoState | None = None
        if _module(self._env).startswith(_MUJOCO_STATE):
            inner: Any = self._env.unwrapped
            self._simulation = MujocoState(inner.model, inner.data)

    def reset(self) -> Array:
        """Start an episode; the first one seeds the environment's own generator."""
        observation, _ = self._env.reset(seed=None if self._seeded else self._seed)
        self._seeded = True
        return np.asarray(observation, self._dtype)

    def step(self, action: Array) -> Outcome:
        """Act `action_repeat` times, or to the end; rewards are summed."""
        act = int(action) if isinstance(self._env.action_space, gym.spaces.Discrete) else action
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, _ = self._env.step(act)
            total += float(reward)
            if terminated or truncated:
                break
        truncated = bool(truncated) and not terminated
        return Outcome(
            np.asarray(observation, self._dtype), total, bool(terminated), truncated, bool(terminated) or truncated
        )

    def render(self) -> Array:
        """The picture that the environment draws."""
        try:
            picture: Any = self._env.render()
        except gym.error.DependencyNotInstalled as error:
            raise EnvError("this environment cannot be drawn", why=str(error), fix="install what it names") from error
        return np.asarray(picture)

    def state_dict(self) -> State:
        """Everything that a known family depends on."""
        inner = self._env.unwrapped
        plain = (bool, int, float, np.number, np.ndarray, tuple, type(None))
        attributes = {key: value for key, value in vars(inner).items() if isinstance(value, plain)}
        if self._simulation is not None:
            attributes = {}
        return {
            "attributes": attributes,
            "simulation": self._simulation and self._simulation.save(),
            "rng": generator_state(inner.np_random),
            "elapsed": [wrapper._elapsed_steps for wrapper in _layers(self._env, gym.wrappers.TimeLimit)],
            "seeded": self._seeded,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue."""
        self._env.reset()  # wrappers refuse to step before their first reset
        inner = self._env.unwrapped
        vars(inner).update(state["attributes"])
        if self._simulation is not None:
            self._simulation.load(state["simulation"])
        load_generator_state(inner.np_random, state["rng"])
        for wrapper, elapsed in zip(_layers(self._env, gym.wrappers.TimeLimit), state["elapsed"], strict=True):
            wrapper._elapsed_steps = elapsed
        self._seeded = state["seeded"]

    def close(self) -> None:
        """Close it."""
        self._env.close()


def _layers(env: gym.Env[Any, Any], kind: type[Any]) -> list[Any]:
    found, layer = [], env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, kind):
            found.append(layer)
        layer = layer.env
    return found


def _module(env: gym.Env[Any, Any]) -> str:
    return type(env.unwrapped).__module__


def _make(name: str, *, render: bool) -> gym.Env[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old versions of an environment are a person's choice
            return gym.make(name, render_mode="rgb_array" if render else None, disable_env_checker=True)
    except (gym.error.NameNotFound, gym.error.NamespaceNotFound, gym.error.VersionNotFound) as error:
        raise ConfigError(
            f"unknown Gymnasium environment {name!r}",
            why=f"{error}.{nearest(name, gym.registry)}".replace("..", "."),
            fix="rlkit envs gym lists them; your own needs gymnasium.register first",
            see="docs/environments.md",
        ) from error
    except (gym.error.DependencyNotInstalled, ImportError, AttributeError) as error:
        raise EnvError(
            f"{name} cannot be made",
            why=str(error),
            fix="pip install the extra that Gymnasium names: gymnasium[box2d], gymnasium[mujoco] ('mujoco>=3.17,<4')",
            see="docs/environments.md",
        ) from error


def make_gym(
    env_id: str,
    *,
    num_envs: int,
    seeds: SeedTree,
    name: str,
    action_repeat: int,
    stack: int,
    workers: int,
    render: bool,
) -> LockstepVector:
    """E environments of one Gymnasium id, `gym/CartPole-v1`."""
    gym_id = env_id.removeprefix("gym/")
    probe = _make(gym_id, render=False)
    space, action_space = probe.observation_space, probe.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ConfigError(
            f"{env_id} has a {type(space).__name__} observation",
            why=f"agents read arrays: Box observations; this one is {space}",
            fix="wrap it with gymnasium.wrappers.FlattenObservation and register the result",
            see="docs/environments.md",
        )
    module = _module(probe)
    unknown = [type(layer).__name__ for layer in _layers(probe, gym.Wrapper) if type(layer) not in _KNOWN_LAYERS]
    exact = module.startswith((_PLAIN_STATE, _MUJOCO_STATE)) and not unknown
    limits = [wrapper._max_episode_steps for wrapper in _layers(probe, gym.wrappers.TimeLimit)]
    probe.close()
    dtype = np.uint8 if space.dtype == np.uint8 else np.float32
    cap = min(limits, default=None)
    protocol = {"name": "gym", "action_repeat": action_repeat, "time_limit": cap}
    if not exact:
        what = f"wrapper {unknown[0]}" if unknown else module
        protocol["not_exact"] = f"{what} is not one of those whose whole state is known"
    spec = EnvSpec(
        env_id,
        "gym",
        gym.spaces.Box(space.low.astype(dtype), space.high.astype(dtype), space.shape, dtype),
        action_space,
        num_envs,
        action_repeat,
        stack,
        "zero",
        cap,
        exact,
        protocol,
    )
    makers = [
        partial(GymEnv, gym_id, action_repeat, int(seeds.sequence(name, i).generate_state(1)[0] >> 1), render=render)
        for i in range(num_envs)
    ]
    return LockstepVector(spec, makers, workers)
