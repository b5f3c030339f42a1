"""CleanRL 2: its replay buffers, with the sampler of your choice. Changes one line of a script.

`ReplayBuffer` has constructor, methods and fields of `cleanrl_utils.buffers.ReplayBuffer`, `PrioritizedReplayBuffer`
those of the class in `rainbow_atari.py`; neither CleanRL nor Stable-Baselines3 is needed. docs/plugins/cleanrl.md
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.core.errors import ConfigError, ReplayError
from rlkit.core.typing import Array, IntArray
from rlkit.replay.adapters.slots import SlotSampler
from rlkit.replay.samplers.prioritized import PrioritizedConfig


class ReplayBufferSamples(NamedTuple):
    """A batch; every field [B, ...], scalars [B, 1]."""

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    dones: Tensor  # float32, 0 where the end was a time limit and the buffer knows of them
    rewards: Tensor


class ReplayBuffer:
    """Rows [buffer_size // n_envs, n_envs, ...]; flat slot = row * n_envs + environment.

    optimize_memory_usage: the next observations are the observations of the row after; the oldest row cannot be drawn
    then. handle_timeout_termination: a done with `TimeLimit.truncated` in its info counts as no done.
    seed, sampler, sampler_config: see SlotSampler; the object is the attribute `slots`. Scripts of several seeds give
    `seed=args.seed`. Pickles with the sampler as it is.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        seed: int = 0,
        sampler: str = "rr-c",
        sampler_config: object = None,
    ) -> None:
        if optimize_memory_usage and handle_timeout_termination:
            raise ConfigError(
                "optimize_memory_usage with handle_timeout_termination",
                why="the next observation of a row that ended is then the next episode's first",
                fix="handle_timeout_termination=False",
                see="docs/plugins/cleanrl.md",
            )
        self.buffer_size, self.n_envs = max(buffer_size // n_envs, 1), n_envs
        self.observation_space, self.action_space = observation_space, action_space
        self.obs_shape, (self.action_dim,) = _shape(observation_space), _shape(action_space, flat=True)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if device == "auto" else device)

        rows = (self.buffer_size, n_envs)
        self.observations = np.zeros((*rows, *self.obs_shape), observation_space.dtype)
        if not optimize_memory_usage:
            self.next_observations = np.zeros_like(self.observations)
        action_dtype = np.float32 if action_space.dtype == np.float64 else action_space.dtype
        self.actions = np.zeros((*rows, self.action_dim), action_dtype)
        self.rewards, self.dones, self.timeouts = (np.zeros(rows, np.float32) for _ in range(3))
        self.pos, self.full = 0, False
        self.slots = SlotSampler(self.buffer_size * n_envs, sampler, seed, sampler_config)

    def size(self) -> int:
        """Rows stored now, each of n_envs."""
        return self.buffer_size if self.full else self.pos

    def add(
        self, obs: Array, next_obs: Array, action: Array, reward: Array, done: Array, infos: list[dict[str, Any]]
    ) -> None:
        """One step of all environments; `next_obs` is the true last one where an episode ended.

        Raises ReplayError, and stores nothing, if a shape or the number of infos is another one, or a reward is not
        finite.
        """
        step = {
            "obs": self._fit("obs", obs, self.obs_shape),
            "next_obs": self._fit("next_obs", next_obs, self.obs_shape),
            "action": self._fit("action", action, (self.action_dim,)),
            "reward": self._fit("reward", reward, ()),
            "done": self._fit("done", done, ()),
        }
        timeouts = []
        if self.handle_timeout_termination:
            timeouts = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        if self.handle_timeout_termination and len(timeouts) != self.n_envs:
            raise ReplayError(
                f"{len(timeouts)} infos for {self.n_envs} environments",
                why="each tells whether its episode was cut; nothing has been stored",
                fix="hand in what env.step returned",
                see="docs/plugins/cleanrl.md",
            )
        _check_finite(step["reward"])
        row, after = self.pos, (self.pos + 1) % self.buffer_size
        self.observations[row] = step["obs"]
        if self.optimize_memory_usage:
            self.observations[after] = step["next_obs"]
        else:
            self.next_observations[row] = step["next_obs"]
        self.actions[row], self.rewards[row], self.dones[row] = step["action"], step["reward"], step["done"]
        if self.handle_timeout_termination:
            self.timeouts[row] = timeouts
        self.pos, self.full = after, self.full or after == 0
        envs = np.arange(self.n_envs)
        self.slots.written(row * self.n_envs + envs)
        if self.optimize_memory_usage:
            self.slots.forget(after * self.n_envs + envs)

    def extend(self, *columns: Any) -> None:
        """Several steps; one column per argument of `add`."""
        for step in zip(*columns, strict=True):
            self.add(*step)

    def reset(self) -> None:
        """Empty the buffer; the sampler starts anew."""
        self.pos, self.full = 0, False
        self.slots.clear()

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """A batch [B] on `device`. Raises ReplayError if nothing has been added."""
        rows, envs = np.divmod(self.slots.draw(batch_size), self.n_envs)
        if self.optimize_memory_usage:
            next_observations = self.observations[(rows + 1) % self.buffer_size, envs]
        else:
            next_observations = self.next_observations[rows, envs]
        dones = self.dones[rows, envs] * (1 - self.timeouts[rows, envs])
        return ReplayBufferSamples(
            observations=self.to_torch(self.observations[rows, envs]),
            actions=self.to_torch(self.actions[rows, envs]),
            next_observations=self.to_torch(next_observations),
            dones=self.to_torch(dones.reshape(-1, 1)),
            rewards=self.to_torch(self.rewards[rows, envs].reshape(-1, 1)),
        )

    def to_torch(self, array: Array, copy: bool = True) -> Tensor:
        """`array` as a tensor on `device`; without `copy` it may share memory."""
        return torch.tensor(array, device=self.device) if copy else torch.as_tensor(array, device=self.device)

    def _fit(self, name: str, array: Array, shape: tuple[int, ...]) -> Array:
        """`array` as [n_envs, *shape]."""
        array = np.asarray(array)
        if array.size != self.n_envs * int(np.prod(shape)):
            raise ReplayError(
                f"{name} has shape {list(array.shape)}",
                why=f"this buffer stores {[self.n_envs, *shape]}; nothing has been stored",
                fix="make the buffer with n_envs and the spaces of one environment",
                see="docs/plugins/cleanrl.md",
            )
        return array.reshape(self.n_envs, *shape)


class PrioritizedBatch(NamedTuple):
    """A batch of PrioritizedReplayBuffer; scalars [B, 1], indices [B]."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor  # n-step returns
    next_observations: Tensor  # after the window
    dones: Tensor  # bool: the window ended in a true end
    indices: Array
    weights: Tensor


class PrioritizedReplayBuffer:
    """Proportional prioritised replay of n-step windows for one environment, as the script of Rainbow uses it.

    The script bootstraps with gamma^n_step and reports no time limits. So that every target is right, a window that a
    true end cuts short is kept (it does not bootstrap; the script's class drops it), and one that a time limit cuts
    short is dropped (the script's class lets it run on into the next episode). A time limit shows as an observation
    that is not the next observation of the step before.

    alpha, beta, eps: priority (|d| + eps)^alpha, weight (N P)^-beta over the largest of the batch; `beta` may be set
    at any time. seed: of the sampler's stream. The sampler is `slots`; priorities of overwritten rows are ignored.
    """

    def __init__(
        self,
        capacity: int,
        obs_shape: tuple[int, ...],
        device: torch.device | str,
        n_step: int,
        gamma: float,
        alpha: float = 0.6,
        beta: float = 0.4,
        eps: float = 1e-6,
        *,
        seed: int = 0,
    ) -> None:
        self.capacity, self.device, self.n_step, self.gamma = capacity, device, n_step, gamma
        self.alpha, self.beta, self.eps = alpha, beta, eps
        self.buffer_obs = np.zeros((capacity, *obs_shape), np.uint8)
        self.buffer_next_obs = np.zeros_like(self.buffer_obs)
        self.buffer_actions = np.zeros(capacity, np.int64)
        self.buffer_rewards = np.zeros(capacity, np.float32)
        self.buffer_dones = np.zeros(capacity, np.bool_)
        self.pos, self.size = 0, 0
        self._window: deque[tuple[Array, int, float]] = deque()  # observation, action, reward of steps that wait
        self._expected: Array | None = None  # observation of the next step if the episode goes on
        # Weights with exponent 1, as they are: any other exponent is a power of them.
        config = PrioritizedConfig(alpha, priority_epsilon=eps, weight_exponent=1.0, weight_normaliser="none")
        self.slots = SlotSampler(capacity, "per", seed, config)

    def add(self, obs: Array, action: Array, reward: Array, next_obs: Array, done: Array) -> None:
        """One step of the one environment, each with a first dimension of 1; `done`: a true end.

        Raises ReplayError, and stores nothing, for several environments, other shapes, or a reward that is not finite.
        """
        if len(obs) != 1:
            raise ReplayError(
                f"a step of {len(obs)} environments",
                why="the windows of this buffer are those of one environment",
                fix="--num-envs 1",
                see="docs/plugins/cleanrl.md",
            )
        frame = (1, *self.buffer_obs.shape[1:])
        columns = {"obs": obs, "action": action, "reward": reward, "next_obs": next_obs, "done": done}
        found = {name: list(np.shape(column)) for name, column in columns.items()}
        expected = {name: list(frame) if "obs" in name else [1] for name in columns}
        if found != expected:
            different = {name: shape for name, shape in found.items() if shape != expected[name]}
            raise ReplayError(
                f"shapes {different}",
                why=f"this buffer takes { ({name: expected[name] for name in different}) }; nothing has been stored",
                fix="make the buffer with the shape of one observation",
                see="docs/plugins/cleanrl.md",
            )
        _check_finite(np.asarray(reward))
        if self._expected is not None and not np.array_equal(obs[0], self._expected):
            self._window.clear()
        self._window.append((obs[0].copy(), int(action[0]), float(reward[0])))
        self._expected = next_obs[0].copy()
        while self._window and (done[0] or len(self._window) == self.n_step):
            self._write(next_obs[0], bool(done[0]))

    def sample(self, batch_size: int) -> PrioritizedBatch:
        """A batch [B] on `device`. Raises ReplayError if no window is complete."""
        rows = self.slots.draw(batch_size)
        assert self.slots.info is not None
        assert self.slots.info.weight is not None
        weights = self.slots.info.weight**self.beta

        def column(array: Array) -> Tensor:
            return torch.from_numpy(array[rows]).to(self.device)

        return PrioritizedBatch(
            observations=column(self.buffer_obs),
            actions=column(self.buffer_actions).unsqueeze(1),
            rewards=column(self.buffer_rewards).unsqueeze(1),
            next_observations=column(self.buffer_next_obs),
            dones=column(self.buffer_dones).unsqueeze(1),
            indices=rows,
            weights=torch.from_numpy(weights / weights.max()).to(self.device).unsqueeze(1),
        )

    def update_priorities(self, indices: IntArray, priorities: Array) -> None:
        """Losses or TD errors [B] of the rows drawn from `indices`."""
        self.slots.update(np.asarray(indices), np.abs(np.asarray(priorities, np.float32)).reshape(-1))

    def _write(self, next_obs: Array, done: bool) -> None:
        """Store the window that begins at the oldest step that waits."""
        row = self.pos
        self.buffer_obs[row], self.buffer_actions[row], _ = self._window[0]
        self.buffer_rewards[row] = sum(self.gamma**k * step[2] for k, step in enumerate(self._window))
        self.buffer_next_obs[row], self.buffer_dones[row] = next_obs, done
        self._window.popleft()
        self.pos, self.size = (row + 1) % self.capacity, min(self.size + 1, self.capacity)
        self.slots.written(np.array([row]))


def _check_finite(reward: Array) -> None:
    """Raise ReplayError unless all of `reward` is finite."""
    if not np.isfinite(reward).all():
        raise ReplayError(
            f"a reward is not finite: {reward.tolist()}",
            why="one NaN in replay spreads to every parameter; nothing has been stored",
            fix="look at the environment",
            see="docs/plugins/cleanrl.md",
        )


def _shape(space: spaces.Space[Any], *, flat: bool = False) -> tuple[int, ...]:
    """The shape of one stored row of `space`; a discrete one has one number. Raises ConfigError for nested spaces."""
    match space:
        case spaces.Discrete():
            shape: tuple[int, ...] = (1,)
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            shape = space.shape
        case _:
            raise ConfigError(
                f"a {type(space).__name__} space",
                why="rows are single arrays: Box, Discrete, MultiDiscrete or MultiBinary",
                fix="flatten it with gymnasium.wrappers.FlattenObservation",
                see="docs/plugins/cleanrl.md",
            )
    return (int(np.prod(shape)),) if flat else shape
