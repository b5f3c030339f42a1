"""Rings of rows: one per environment, each frame once, read by index."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDict
from torch import Tensor

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, State
from rlkit.replay.batch import Batch, Window
from rlkit.replay.samplers.sampler import Sampler
from rlkit.replay.windows import n_step_returns, stack_rows

_TORCH_TYPES = {"uint8": torch.uint8, "float32": torch.float32, "int64": torch.int64}


def replay_memory_bytes(
    capacity: int,
    observation_shape: tuple[int, ...],
    observation_dtype: npt.DTypeLike,
    action_shape: tuple[int, ...],
    action_dtype: npt.DTypeLike,
    *,
    has_lives: bool,
) -> int:
    """Memory of a ReplayBuffer of `capacity` rows with a sampler of 8 bytes a row."""
    observation = int(np.prod(observation_shape)) * np.dtype(observation_dtype).itemsize
    action = int(np.prod(action_shape)) * np.dtype(action_dtype).itemsize
    return capacity * (observation + action + 4 + 4 + has_lives + 8)


class ReplayBuffer:
    """One ring of rows per environment with its own write pointer; flat slot = row * E + environment.

    A row stores the observation before its action. An episode of L steps takes L + 1 rows: the last one holds only its
    true final frame. A row becomes usable (`sampler.extend`) once the row after its n-step window has been written, and
    stops being so (`sampler.invalidate`) when it, or the history of its stack, is overwritten. Rows never change once
    written. uid = number of the row in its environment * E + environment.

    Not locked: one thread at a time.
    """

    def __init__(
        self,
        *,
        capacity: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        observation_dtype: npt.DTypeLike,
        action_shape: tuple[int, ...],
        action_dtype: npt.DTypeLike,
        sampler: Sampler,
        stack: int = 1,
        stack_padding: Literal["zero", "repeat"] = "zero",
        reward_clip: float | None = None,
        has_lives: bool = False,
    ) -> None:
        length, rest = divmod(capacity, num_envs)
        if rest or length < stack + 2:
            fits = max(length, stack + 2) * num_envs
            raise ConfigError(
                f"replay.capacity {capacity} does not fit {num_envs} environments",
                why=f"one ring per environment: a multiple of {num_envs}, at least {(stack + 2) * num_envs}",
                fix=f"--replay.capacity {fits}",
                see="docs/replay.md",
            )
        self.capacity, self.num_envs, self.sampler = capacity, num_envs, sampler
        self._length, self._stack, self._padding, self._clip = length, stack, stack_padding, reward_clip
        self._shape, self._dtype = observation_shape, np.dtype(observation_dtype)
        self._action_shape, self._action_dtype = action_shape, np.dtype(action_dtype)

        width = int(np.prod(observation_shape))
        # One more row that stays zero: zero padding of a stack is an index like any other.
        self._frames = torch.zeros(capacity + 1, width, dtype=_TORCH_TYPES[self._dtype.name])
        self._frames_np = self._frames.numpy()
        self._action = torch.zeros(capacity, *action_shape, dtype=_TORCH_TYPES[self._action_dtype.name])
        self._action_np = self._action.numpy().reshape(length, num_envs, *action_shape)
        self._reward = np.zeros((length, num_envs), np.float32)
        self._flags = {
            name: np.zeros((length, num_envs), bool) for name in ("terminated", "truncated", "first", "final")
        }
        self._lives = np.zeros((length, num_envs), np.uint8) if has_lives else None

        self.rows_written = np.zeros(num_envs, np.int64)  # W_e: rows that environment e has ever written
        self._extended = np.zeros(num_envs, np.int64)  # rows before this number have been considered for `extend`
        self._starts = np.ones(num_envs, bool)  # the next row of e is the first of an episode
        self._n_step = 1
        self._envs = np.arange(num_envs)
        self._out: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        """Rows stored now, final frames included."""
        return int(np.minimum(self.rows_written, self._length).sum())

    @property
    def bytes_per_row(self) -> float:
        """Memory of one row without the sampler's."""
        arrays = [self._reward, *self._flags.values()] + ([] if self._lives is None else [self._lives])
        tensors = self._frames.nbytes + self._action.nbytes
        return (tensors + sum(array.nbytes for array in arrays)) / self.capacity

    def oldest_row(self, env: int) -> int:
        """Number of the oldest row of `env` that is still there."""
        return max(0, int(self.rows_written[env]) - self._length)

    # --- writing

    def add(self, observation: Array, action: Array, step: TimeStep) -> None:
        """Store what E environments did: `observation` [E, *obs] that `action` [E, ...] answered, and the outcome.

        Raises ReplayError, and stores nothing, if a shape or type is another one or a reward is not finite.
        """
        self._check(observation, action, step)
        row = self.rows_written % self._length
        self._make_room(self._envs, row)
        self._frames_np[row * self.num_envs + self._envs] = observation.reshape(self.num_envs, -1)
        self._action_np[row, self._envs] = action
        self._reward[row, self._envs] = step.reward
        flags = {"terminated": step.terminated, "truncated": step.truncated, "first": self._starts, "final": False}
        for name, value in flags.items():
            self._flags[name][row, self._envs] = value
        if self._lives is not None:
            assert step.lives is not None
            self._lives[row, self._envs] = step.lives
        self.rows_written += 1
        self._starts = step.ended.copy()
        if step.ended.any():
            self._write_final(np.flatnonzero(step.ended), step.final_observation)
        self._announce()

    def cut(self, observation: Array) -> None:
        """End all open episodes here, as if by a time limit; `observation` [E, *obs] are their last frames."""
        open_envs = np.flatnonzero(~self._starts & (self.rows_written > 0))
        self._write_final(open_envs, observation)
        self._starts[open_envs] = True
        self._announce()

    def _write_final(self, envs: Array, observation: Array) -> None:
        """Rows that hold only the true last frame of an episode."""
        if not envs.size:
            return
        row = self.rows_written[envs] % self._length
        self._make_room(envs, row)
        self._frames_np[row * self.num_envs + envs] = observation[envs].reshape(len(envs), -1)
        self._action_np[row, envs] = 0
        self._reward[row, envs] = 0.0
        for name in self._flags:
            self._flags[name][row, envs] = name == "final"
        self.rows_written[envs] += 1

    def _make_room(self, envs: Array, row: Array) -> None:
        """Take back the slots that are overwritten, and the rows whose stack loses its history."""
        full = self.rows_written[envs] >= self._length
        if not full.any():
            return
        envs, row = envs[full], row[full]
        self.sampler.invalidate(row * self.num_envs + envs)
        began = np.zeros(len(envs), bool)
        for k in range(1, self._stack):
            newer = (row + k) % self._length
            began |= self._flags["first"][newer, envs]
            lost = ~began
            if lost.any():
                self.sampler.invalidate(newer[lost] * self.num_envs + envs[lost])

    def _announce(self) -> None:
        """Tell the sampler which rows have become usable: the row after their window has been written."""
        slots, uids = [], []
        for env in range(self.num_envs):
            written = int(self.rows_written[env])
            number = max(int(self._extended[env]), self.oldest_row(env))
            while number < written:
                place = number % self._length
                if not self._flags["final"][place, env]:
                    if number + self._window_length(number, env, written) >= written:
                        break
                    if self._has_history(number, env):
                        slots.append(place * self.num_envs + env)
                        uids.append(number * self.num_envs + env)
                number += 1
            self._extended[env] = number
        if slots:
            self.sampler.extend(np.array(slots), np.array(uids))

    def _window_length(self, number: int, env: int, written: int) -> int:
        """K of the window that starts at row `number`, as far as it has been written."""
        terminated, final = self._flags["terminated"], self._flags["final"]
        for k in range(1, self._n_step):
            if terminated[(number + k - 1) % self._length, env]:
                return k
            if number + k < written and final[(number + k) % self._length, env]:
                return k
        return self._n_step

    def _has_history(self, number: int, env: int) -> bool:
        """Whether the rows of the stack that ends at `number` are there, or begin an episode."""
        oldest = self.oldest_row(env)
        for k in range(self._stack - 1):
            if self._flags["first"][(number - k) % self._length, env]:
                return True
            if number - k - 1 < oldest:
                return False
        return True

    def _check(self, observation: Array, action: Array, step: TimeStep) -> None:
        expected = {
            "observation": (observation, (self.num_envs, *self._shape), self._dtype),
            "action": (action, (self.num_envs, *self._action_shape), self._action_dtype),
            "reward": (step.reward, (self.num_envs,), np.dtype(np.float32)),
        }
        for name, (array, shape, dtype) in expected.items():
            if array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
                raise ReplayError(
                    f"{name} has shape {list(array.shape)} and type {array.dtype}",
                    why=f"this replay stores {list(shape)} of {dtype}",
                    fix="make the buffer for the environment's spaces, with single frames (no stack)",
                    see="docs/replay.md",
                )
        if not np.isfinite(step.reward).all():
            raise ReplayError(
                f"a reward is not finite: {step.reward.tolist()}",
                why="one NaN in replay spreads to every parameter",
                fix="look at the environment; nothing has been stored",
            )

    # --- reading

    def sample(self, batch_size: int, window: Window, *, copy: bool = False) -> Batch:
        """A batch [B], as described in replay/batch.py; valid until the next `sample` unless `copy`.

        Raises ReplayError if no row is usable.
        """
        if window.length != 1:
            raise ReplayError(
                f"windows of length {window.length} need a sequence sampler",
                why="this buffer draws single start rows",
                fix="Window(length=1)",
                see="docs/replay.md",
            )
        if window.n_step != self._n_step:
            self._change_n_step(window.n_step)
        slots, info = self.sampler.sample(batch_size)
        row, env = np.divmod(slots, self.num_envs)
        terminated, final = self._flags["terminated"], self._flags["final"]
        returns = n_step_returns(row, env, self._reward, terminated, final, window.n_step, window.gamma, self._clip)
        observation, next_observation = self._observations(row, env, returns.length, window.n_step)
        slots_tensor = torch.from_numpy(slots)
        content: dict[str, Any] = {
            "observation": observation,
            "action": self._action.index_select(0, slots_tensor),
            "next": TensorDict(
                {
                    "observation": next_observation,
                    "reward": torch.from_numpy(returns.reward),
                    "terminated": torch.from_numpy(returns.terminated),
                },
                batch_size=[batch_size],
            ),
            "discount": torch.from_numpy(returns.discount),
            "index": slots_tensor,
            "uid": torch.from_numpy(info.uid),
        }
        if info.weight is not None:
            content["weight"] = torch.from_numpy(info.weight)
        batch = TensorDict(content, batch_size=[batch_size])
        return batch.clone() if copy else batch

    def update_priority(self, batch: Batch, priority: Tensor) -> None:
        """Hand the priorities [B] of a sampled batch to the sampler; rows overwritten since are ignored."""
        values = priority.detach().to("cpu", torch.float32).numpy()
        self.sampler.update(batch["index"].cpu().numpy(), batch["uid"].cpu().numpy(), values)

    def _observations(self, row: Array, env: Array, used: Array, n_step: int) -> tuple[Tensor, Tensor]:
        """Stacks at the start rows and after their windows."""
        first, batch = self._flags["first"], len(row)
        if n_step == 1:
            # The next stack shares all but one frame: read stack + 1 frames once and look at them twice.
            places = stack_rows(row, env, first, self._stack, self._padding, self.capacity, extra=1)
            frames = self._gather(places).view(batch, self._stack + 1, *self._shape)
            if self._stack == 1:
                return frames[:, 0], frames[:, 1]
            return frames[:, :-1], frames[:, 1:]
        after = (row + used) % self._length
        now = stack_rows(row, env, first, self._stack, self._padding, self.capacity, extra=0)
        then = stack_rows(after, env, first, self._stack, self._padding, self.capacity, extra=0)
        frames = self._gather(np.concatenate([now, then])).view(2, batch, self._stack, *self._shape)
        if self._stack == 1:
            return frames[0, :, 0], frames[1, :, 0]
        return frames[0], frames[1]

    def _gather(self, places: Array) -> Tensor:
        """Storage rows [N, K] into a buffer that the next call of the same size reuses."""
        out = self._out.get(places.shape)
        if out is None:
            out = self._out[places.shape] = torch.empty(places.size, self._frames.shape[1], dtype=self._frames.dtype)
        return torch.index_select(self._frames, 0, torch.from_numpy(places.reshape(-1)), out=out)

    def _change_n_step(self, n_step: int) -> None:
        """Windows have another length now: rows near the write pointer become usable, or stop being so."""
        self._n_step = n_step
        for env in range(self.num_envs):
            written, number = int(self.rows_written[env]), int(self._extended[env])
            while number > self.oldest_row(env):
                previous = number - 1
                place = previous % self._length
                complete = previous + self._window_length(previous, env, written) < written
                if complete or self._flags["final"][place, env]:
                    break
                self.sampler.invalidate(np.array([place * self.num_envs + env]))
                number = previous
            self._extended[env] = number
        self._announce()

    # --- storing

    def export_rows(self, env: int, start: int, stop: int) -> dict[str, Array]:
        """Columns of the rows numbered [start, stop) of `env`, for an append-only file."""
        row = np.arange(start, stop) % self._length
        columns = {"frames": self._frames_np[row * self.num_envs + env], "action": self._action_np[row, env]}
        columns |= {"reward": self._reward[row, env]}
        columns |= {name: flag[row, env] for name, flag in self._flags.items()}
        return columns if self._lives is None else {**columns, "lives": self._lives[row, env]}

    def load_rows(self, env: int, start: int, columns: dict[str, Array]) -> None:
        """Put back rows that `export_rows` returned, oldest first; `load_state_dict` completes it."""
        keep = slice(max(0, len(columns["reward"]) - self._length), None)
        row = np.arange(start, start + len(columns["reward"]))[keep] % self._length
        self._frames_np[row * self.num_envs + env] = columns["frames"][keep]
        self._action_np[row, env] = columns["action"][keep]
        self._reward[row, env] = columns["reward"][keep]
        for name, flag in self._flags.items():
            flag[row, env] = columns[name][keep]
        if self._lives is not None:
            self._lives[row, env] = columns["lives"][keep]

    def state_dict(self) -> State:
        """Everything but the rows."""
        return {
            "geometry": self._geometry(),
            "rows_written": self.rows_written.copy(),
            "extended": self._extended.copy(),
            "starts": self._starts.copy(),
            "n_step": self._n_step,
            "sampler": self.sampler.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue; the rows have been loaded. Refuses another geometry with what differs."""
        stored, mine = state["geometry"], self._geometry()
        different = [f"{key}: stored {stored[key]}, here {mine[key]}" for key in mine if stored[key] != mine[key]]
        if different:
            raise ResumeError(
                "the stored replay has another shape",
                why="; ".join(different),
                fix="resume with the environment and replay settings of the stored run",
                see="docs/replay.md",
            )
        self.sampler.load_state_dict(state["sampler"])
        self.rows_written[:], self._extended[:] = state["rows_written"], state["extended"]
        self._starts[:] = state["starts"]
        self._n_step = state["n_step"]

    def _geometry(self) -> dict[str, Any]:
        return {
            "capacity": self.capacity,
            "num_envs": self.num_envs,
            "observation": [list(self._shape), self._dtype.name],
            "action": [list(self._action_shape), self._action_dtype.name],
            "stack": [self._stack, self._padding],
            "lives": self._lives is not None,
        }
