"""The DeepMind Control suite from states."""

from __future__ import annotations

import numbers
from functools import lru_cache, partial
from importlib import metadata
from typing import Any

import gymnasium as gym
import numpy as np

from rlkit.core.errors import ConfigError, EnvError, nearest
from rlkit.core.seeding import SeedTree
from rlkit.core.typing import Array, State
from rlkit.envs.lockstep import LockstepVector, Outcome
from rlkit.envs.mujoco_state import MujocoState
from rlkit.envs.rendering import set_backend
from rlkit.envs.spec import EnvSpec


@lru_cache(maxsize=1)
def _suite() -> Any:
    """dm_control.suite, loaded once and tried on one task. Raises EnvError if the pair of versions does not work."""
    set_backend(render=False)
    try:
        from dm_control import suite

        suite.load("cartpole", "balance").reset()
    except (ImportError, AttributeError, OSError, ValueError, TypeError) as error:
        found = []
        for package in ("dm-control", "mujoco"):
            try:
                found.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                found.append(f"no {package}")
        raise EnvError(
            "dm-control cannot load a task",
            why=f"found {' and '.join(found)}: {type(error).__name__}: {error}",
            fix="pip install dm-control==1.0.50 'mujoco>=3.17,<4' (a pair that is known to work)",
            see="docs/environments.md",
        ) from error
    return suite


def task_ids() -> list[str]:
    """All ids, `dmc/cartpole-swingup_sparse`."""
    return [f"dmc/{domain}-{task}" for domain, task in _suite().ALL_TASKS if domain != "lqr"]  # see make_dmc


class DmcTask:
    """One control task from states; exact."""

    lives = 0

    def __init__(
        self, domain: str, task: str, action_repeat: int, sequence: np.random.SeedSequence, *, render: bool
    ) -> None:
        if render:
            set_backend(render=True)
        rng = np.random.RandomState(sequence.generate_state(1)[0])
        self._env = _suite().load(domain, task, task_kwargs={"random": rng})
        self._repeat = action_repeat
        from dm_control.rl.control import PhysicsError

        self._physics_error = PhysicsError
        action = self._env.action_spec()
        # Written so that the usual [-1, 1] passes through unchanged.
        self._scale, self._shift = (action.maximum - action.minimum) / 2, (action.maximum + action.minimum) / 2
        self.action_size = int(np.prod(action.shape))
        self.observation_size = sum(int(np.prod(s.shape)) for s in self._env.observation_spec().values())
        self.time_limit = None if np.isinf(self._env._step_limit) else int(np.ceil(self._env._step_limit))
        self._simulation: MujocoState | None = None

    @property
    def _state(self) -> MujocoState:
        if self._simulation is None:
            physics = self._env.physics
            self._simulation = MujocoState(physics.model.ptr, physics.data.ptr)
        return self._simulation

    def reset(self) -> Array:
        """Start an episode."""
        _ = self._state  # looks at the model before the first episode writes into it
        return self._flat(self._env.reset().observation)

    def step(self, action: Array) -> Outcome:
        """Apply the action for `action_repeat` control steps, or to the end; rewards are summed."""
        control, reward = action * self._scale + self._shift, 0.0
        try:
            for _ in range(self._repeat):
                step = self._env.step(control)
                reward += step.reward
                if step.last():
                    break
        except self._physics_error as error:
            raise EnvError(
                "the simulation has become unstable",
                why=str(error),
                fix="resume from the last checkpoint; if it comes back, smaller actions or another seed",
            ) from error
        terminated = bool(step.last() and step.discount == 0.0)
        return Outcome(
            self._flat(step.observation), reward, terminated, bool(step.last()) and not terminated, bool(step.last())
        )

    @staticmethod
    def _flat(observation: dict[str, Any]) -> Array:
        return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)

    def render(self) -> Array:
        """480x480 picture of the first camera."""
        picture: Array = self._env.physics.render(480, 480, camera_id=0)
        return picture

    def state_dict(self) -> State:
        """Simulation, episode counter, random stream, and what the task has written down."""
        kind, keys, position, has_gauss, gauss = self._env.task.random.get_state()
        plain = (numbers.Number, np.ndarray, bool)
        return {
            "simulation": self._state.save(),
            "step_count": self._env._step_count,
            "reset_next_step": self._env._reset_next_step,
            "random": [kind, keys, position, has_gauss, gauss],
            "task": {key: value for key, value in vars(self._env.task).items() if isinstance(value, plain)},
        }

    def load_state_dict(self, state: State) -> None:
        """Continue."""
        self._state.load(state["simulation"])
        self._env._step_count, self._env._reset_next_step = state["step_count"], state["reset_next_step"]
        self._env.task.random.set_state(tuple(state["random"]))
        vars(self._env.task).update(state["task"])

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


def make_dmc(
    env_id: str, *, num_envs: int, seeds: SeedTree, name: str, action_repeat: int, workers: int, render: bool
) -> LockstepVector:
    """E tasks, `dmc/walker-walk`. Raises ConfigError for an unknown one."""
    # The escape task hands its terrain to the renderer whenever an episode begins.
    render = render or env_id == "dmc/quadruped-escape"
    set_backend(render=render)
    known = task_ids()
    if env_id.startswith("dmc/lqr-"):
        raise ConfigError(
            f"{env_id} has actions without bounds",
            why="actions are scaled from [-1, 1] to the task's range, and this task's is -1e10..1e10",
            fix="rlkit envs dmc lists the tasks that can be used",
            see="docs/environments.md",
        )
    if env_id not in known:
        raise ConfigError(
            f"unknown DeepMind Control task {env_id!r}",
            why=f"ids look like dmc/walker-walk; there are {len(known)}.{nearest(env_id, known)}",
            fix="rlkit envs dmc lists them",
            see="docs/environments.md",
        )
    domain, task = env_id.removeprefix("dmc/").split("-", 1)
    makers = [
        partial(DmcTask, domain, task, action_repeat, seeds.sequence(name, i), render=render) for i in range(num_envs)
    ]
    probe = DmcTask(domain, task, action_repeat, seeds.sequence(name, 0), render=False)
    spec = EnvSpec(
        env_id,
        "dmc",
        gym.spaces.Box(-np.inf, np.inf, (probe.observation_size,), np.float32),
        gym.spaces.Box(-1.0, 1.0, (probe.action_size,), np.float32),
        num_envs,
        action_repeat,
        1,
        "zero",
        probe.time_limit,
        True,
        {"name": "dmc", "observation": "state", "action_repeat": action_repeat, "time_limit": probe.time_limit},
    )
    probe.close()
    return LockstepVector(spec, makers, workers)
