"""Rings of rows: one per environment, each frame once, read by index."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tensordict import TensorDict
from torch import Tensor

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, State
from rlkit.replay import ring, windows
from rlkit.replay.batch import Batch, Window
from rlkit.replay.samplers.sampler import SampleInfo, Sampler
from rlkit.replay.storage import SHORT_ROW_BYTES, FrameStorage, RamStorage, row_layout
from rlkit.replay.telemetry import DrawTelemetry


def replay_memory_bytes(
    capacity: int,
    observation_shape: tuple[int, ...],
    observation_dtype: npt.DTypeLike,
    action_shape: tuple[int, ...],
    action_dtype: npt.DTypeLike,
    *,
    has_lives: bool,
    slot_bytes: int = 8,
) -> int:
    """Memory of a ReplayBuffer of `capacity` rows whose sampler takes `slot_bytes` a row (the registry knows them)."""
    observation = int(np.prod(observation_shape)) * np.dtype(observation_dtype).itemsize
    scalars = _scalar_record(action_shape, action_dtype, has_lives=has_lives)
    row = row_layout(observation, scalars)[1] if observation <= SHORT_ROW_BYTES else observation + scalars.itemsize
    return capacity * (row + slot_bytes)


def _scalar_record(action_shape: tuple[int, ...], action_dtype: npt.DTypeLike, *, has_lives: bool) -> np.dtype[Any]:
    """What is stored of a row besides its frame."""
    action = ("action", action_dtype, (int(np.prod(action_shape)),))
    lives = [("lives", np.uint8)] if has_lives else []
    return np.dtype([action, ("reward", np.float32), ("visits", np.int16), ("flags", np.uint8), *lives], align=True)


_NO_WORDS = np.empty((0, 0), np.int64)


def _word(dtype: np.dtype[Any]) -> type[np.signedinteger[Any]]:
    """Whole numbers of the same size."""
    return np.int64 if dtype.itemsize == 8 else np.int32


class _Guard:
    """One thread at a time, and nobody after `closed`: whoever comes in otherwise gets a ReplayError."""

    def __init__(self) -> None:
        self.closed = False
        self._busy = threading.Lock()

    def __enter__(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise ReplayError(
                "another thread is inside this replay",
                why="rows and samplers change together, so one thread at a time may call in; nothing has been changed",
                fix="give each writer a buffer of its own, or put a lock around all calls",
                see="docs/replay.md",
            )
        if self.closed:
            self._busy.release()
            raise ReplayError(
                "this replay is closed", why="its memory has been freed", fix="make a new buffer", see="docs/replay.md"
            )

    def __exit__(self, *error: object) -> None:
        self._busy.release()


class ReplayBuffer:
    """One ring of rows per environment with its own write pointer; flat slot = row * E + environment.

    A row stores the observation before its action. An episode of L steps takes L + 1 rows: the last one holds only its
    true final frame. A row becomes usable (`sampler.extend`) once the row after its window has been written, and stops
    being so (`sampler.invalidate`) when it, or the history of its stack, is overwritten. Rows never change once
    written. uid = number of the row in its environment * E + environment.

    `storage` (rows, width, dtype) makes the place of the frames, None = memory; everything else is in memory.

    One thread at a time: a second one that calls in gets a ReplayError and changes nothing.
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
        storage: Callable[[int, int, np.dtype[Any]], FrameStorage] | None = None,
    ) -> None:
        rows, rest = divmod(capacity, num_envs)
        if rest or rows < stack + 2:
            fits = max(rows, stack + 2) * num_envs
            raise ConfigError(
                f"replay.capacity {capacity} does not fit {num_envs} environments",
                why=f"one ring per environment: a multiple of {num_envs}, at least {(stack + 2) * num_envs}",
                fix=f"--replay.capacity {fits}",
                see="docs/replay.md",
            )
        self.capacity, self.num_envs, self.sampler = capacity, num_envs, sampler
        self._rows, self._stack, self._padding, self._clip = rows, stack, stack_padding, reward_clip
        self._shape, self._dtype = observation_shape, np.dtype(observation_dtype)
        self.action_shape, self.action_dtype = action_shape, np.dtype(action_dtype)

        width = int(np.prod(observation_shape))
        # One record a row, and where rows are short the frame is part of it: a draw then waits for one place of the
        # memory instead of for one of each column. _action_words: the same memory as whole numbers.
        record = _scalar_record(action_shape, action_dtype, has_lives=has_lives)
        word = _word(self.action_dtype)
        self._frames: FrameStorage
        if storage in (None, RamStorage) and width * self._dtype.itemsize <= SHORT_ROW_BYTES:
            self._frames = frames = RamStorage(capacity, width, self._dtype, beside=record)
            assert frames.records is not None
            self._scalars = frames.records[:capacity]
            self._action_words, self._action_column = frames.row_words(word)
        else:
            self._frames = (storage or RamStorage)(capacity, width, self._dtype)
            self._scalars = np.zeros(capacity, record)
            self._action_words, self._action_column = self._scalars.view(word).reshape(capacity, -1), 0
        self._action: Array = self._scalars["action"]  # [C, A]
        self._reward: Array = self._scalars["reward"]
        self._flags: Array = self._scalars["flags"]  # bits of ring.py
        self._lives: Array = self._scalars["lives"] if has_lives else np.zeros(0, np.uint8)

        self.rows_written = np.zeros(num_envs, np.int64)  # rows that environment e has ever written
        self._considered = np.zeros(num_envs, np.int64)  # rows before this number have been considered for `extend`
        self._position = np.zeros(num_envs, np.int64)  # rows from the episode's beginning to that one
        self._begun = np.zeros(num_envs, np.int64)  # first row of the episode of the oldest row, if overwritten
        self._starts = np.ones(num_envs, bool)  # the next row of e is the first of an episode
        self._window = Window()
        self._places = np.empty(2 * num_envs, np.int64)
        self._new_slots, self._new_uids = np.empty((2, 4 * num_envs + 64), np.int64)
        self._lost = np.empty(2 * num_envs * (1 + self._history), np.int64)
        self._outputs: dict[tuple[int, bool, int], _Output] = {}  # of the window in force
        self.telemetry = DrawTelemetry(capacity, self._scalars["visits"])
        self._guard = _Guard()

    def __len__(self) -> int:
        """Rows stored now, final frames included."""
        return int(np.minimum(self.rows_written, self._rows).sum())

    @property
    def bytes_per_row(self) -> float:
        """Memory of one row without the sampler's."""
        beside = isinstance(self._frames, RamStorage) and self._frames.records is not None
        return (self._frames.nbytes + (0 if beside else self._scalars.nbytes)) / self.capacity

    def oldest_row(self, env: int) -> int:
        """Number of the oldest row of `env` that is still there."""
        return max(0, int(self.rows_written[env]) - self._rows)

    def close(self) -> None:
        """Free the memory; what is called after this raises ReplayError."""
        with self._guard:
            self._guard.closed = True
            self._outputs.clear()
            self._frames.close()

    @property
    def _history(self) -> int:
        """Rows before a start that its stack and burn-in need."""
        return self._stack - 1 + self._window.burn_in

    # --- writing

    def add(self, observation: Array, action: Array, step: TimeStep) -> None:
        """Store what E environments did: `observation` [E, *obs] that `action` [E, ...] answered, and the outcome.

        Raises ReplayError, and stores nothing, if a shape or type is another one or a reward is not finite.
        """
        with self._guard:
            self._check(observation, action, step)
            lives = self._lives if step.lives is None else step.lives  # without a column for them they are not read
            finals, lost, bad = ring.record_step(
                self._rows,
                self.num_envs,
                self._history,
                self.rows_written,
                self._begun,
                self._starts,
                self._flags,
                self._reward,
                self._action,
                self._lives,
                np.ascontiguousarray(action, self.action_dtype).reshape(self.num_envs, -1),
                np.ascontiguousarray(step.reward, np.float32),
                step.terminated,
                step.truncated,
                step.ended,
                lives,
                self._places,
                self._lost,
            )
            if bad >= 0:
                raise ReplayError(
                    f"a reward is not finite: {step.reward.tolist()}",
                    why="one NaN in replay spreads to every parameter",
                    fix="look at the environment; nothing has been stored",
                )
            if lost:
                self._withdraw(self._lost[:lost])
            self._write(self._places[: self.num_envs], observation)
            if finals:
                self._write(self._places[self.num_envs :][:finals], step.final_observation[step.ended])
            self._announce()

    def cut(self, observation: Array) -> None:
        """End all open episodes here, as if by a time limit; `observation` [E, *obs] are their last frames."""
        with self._guard:
            open_envs = np.flatnonzero(~self._starts & (self.rows_written > 0))
            slots, lost = np.empty(len(open_envs), np.int64), 0
            for i, env in enumerate(open_envs.tolist()):
                lost, slots[i] = ring.record_final(
                    env,
                    self._rows,
                    self.num_envs,
                    self._history,
                    self.rows_written,
                    self._begun,
                    self._flags,
                    self._reward,
                    self._action,
                    self._lost,
                    lost,
                )
            self._withdraw(self._lost[:lost])
            self._write(slots, observation[open_envs])
            self._starts[open_envs] = True
            self._announce()

    def _write(self, slots: Array, observation: Array) -> None:
        self._frames.write(slots, observation.reshape(len(slots), self._frames.width))

    def _announce(self) -> None:
        """Tell the sampler which rows have become usable starts: all that their windows need has been written."""
        window, slots, uids = self._window, self._new_slots, self._new_uids
        count = len(slots)
        while count == len(slots):
            count = ring.announce(
                self._rows,
                self.num_envs,
                window.n_step,
                window.length,
                window.stride,
                self._history,
                self.rows_written,
                self._begun,
                self._considered,
                self._position,
                self._flags,
                slots,
                uids,
            )
            if count:
                self.sampler.extend(slots[:count], uids[:count])
                self.telemetry.extended(slots[:count])

    def _withdraw(self, slots: Array) -> None:
        """Tell the sampler that these slots are no longer usable."""
        self.sampler.invalidate(slots)
        self.telemetry.invalidated(slots)

    def _check(self, observation: Array, action: Array, step: TimeStep) -> None:
        expected = [
            ("observation", observation, self._shape, self._dtype),
            ("action", action, self.action_shape, self.action_dtype),
            ("reward", step.reward, (), self._reward.dtype),
        ]
        if self._lives.size:
            expected.append(("lives", np.asarray(step.lives), (), self._lives.dtype))
        for name, array, shape, dtype in expected:
            fits = array.shape == (self.num_envs, *shape)
            if fits and (array.dtype == dtype or np.can_cast(array.dtype, dtype, "same_kind")):
                continue
            raise ReplayError(
                f"{name} has shape {list(array.shape)} and type {array.dtype}",
                why=f"this replay stores {[self.num_envs, *shape]} of {dtype}",
                fix="make the buffer for the environment's spaces, with single frames (no stack)",
                see="docs/replay.md",
            )

    # --- reading

    def usable(self, window: Window) -> int:
        """Rows that a batch of such windows may start at; `window` is from now on the one that rows are kept for."""
        with self._guard:
            self._use(window)
            return len(self.sampler)

    def sample(self, batch_size: int, window: Window, *, copy: bool = False, page: int = 0) -> Batch:
        """A batch [B], as described in replay/batch.py, or [B, burn_in + length] if the window is a sequence.

        Valid until the next `sample` of the same `page` (its tensors are reused) unless `copy`.
        Raises ReplayError if no row is usable, or fewer than the sampler needs for the batch.
        """
        with self._guard:
            self._use(window)
            slots, info = self.sampler.sample(batch_size)
            key = (batch_size, info.weight is not None, page)
            output = self._outputs.get(key)
            if output is None:
                output = self._outputs[key] = self._make_output(*key[:2])
            self._read(output, slots, info)
            self.telemetry.drawn(slots, output.age[self._window.burn_in :: output.index.shape[1]])
            return output.batch.clone() if copy else output.batch

    def metrics(self) -> dict[str, float]:
        """What has been drawn since the last call: ages, visits, duplicates, and what the sampler tells."""
        return self.telemetry.flush() | self.sampler.metrics()

    def update_priority(self, batch: Batch, priority: Tensor) -> None:
        """Hand the priorities [B] of a sampled batch to the sampler; rows overwritten since are ignored.

        Of sequences, one priority each. Raises ReplayError, and changes nothing, if one is negative or not finite.
        """
        index, uid = batch["index"], batch["uid"]
        if index.dim() == 2:
            index, uid = index[:, self._window.burn_in], uid[:, self._window.burn_in]
        values = priority.detach().to("cpu", torch.float32).numpy()
        with self._guard:
            self.sampler.update(index.cpu().contiguous().numpy(), uid.cpu().contiguous().numpy(), values)

    def _read(self, output: _Output, slots: Array, info: SampleInfo) -> None:
        """Fill `output` with the windows that start at `slots` [B]."""
        window, envs, flags = self._window, self.num_envs, self._flags
        if output.mask.size:
            steps = output.index, output.uid, output.mask
            windows.sequences(slots, info.uid, envs, window.length, window.burn_in, flags, *steps)
        else:
            output.index[:, 0], output.uid[:, 0] = slots, info.uid
        if info.weight is not None:
            output.weight[:] = info.weight[:, None]
        words = self._frames.words
        windows.read(
            output.index_flat,
            envs,
            window.n_step,
            window.gamma,
            math.inf if self._clip is None else self._clip,
            self._stack,
            self._padding == "repeat",
            flags,
            self._reward,
            self._action_words,
            self._action_column,
            self.rows_written,
            _NO_WORDS if words is None else words,
            output.action_words,
            output.reward,
            output.discount,
            output.terminated,
            output.after,
            output.age,
            output.places,
            output.frame_words,
        )
        if words is None:
            self._frames.gather(output.places_flat, output.frames)

    def _make_output(self, batch_size: int, weighted: bool) -> _Output:
        """Tensors that every batch of this shape is written into, and the Batch that shows them."""
        window = self._window
        steps = window.burn_in + window.length
        shape = [batch_size] if steps == 1 else [batch_size, steps]
        count = batch_size * steps
        stacks = (count, self._stack + 1) if window.n_step == 1 else (2 * count, self._stack)
        places = np.empty(stacks, np.int64)
        torch_type = getattr(torch, self._dtype.name)
        words = self._frames.words
        frames = torch.empty(places.size, self._frames.width, dtype=torch_type, device=self._frames.device)
        if window.n_step == 1:
            # The next stack shares all but one frame: stack + 1 frames are read once and looked at twice.
            rows = frames.view(*shape, self._stack + 1, *self._shape)
            now, then = rows.narrow(len(shape), 0, self._stack), rows.narrow(len(shape), 1, self._stack)
        else:
            now, then = frames.view(2, *shape, self._stack, *self._shape).unbind(0)
        if self._stack == 1:
            now, then = now.squeeze(len(shape)), then.squeeze(len(shape))
        index, uid = np.empty((batch_size, steps), np.int64), np.empty((batch_size, steps), np.int64)
        weight = np.empty((batch_size, steps), np.float32)
        mask = np.empty((batch_size, steps) if steps > 1 else (0, 0), bool)
        action = np.empty((count, self._action.shape[1]), self.action_dtype)
        reward, discount = np.empty(count, np.float32), np.empty(count, np.float32)
        terminated = np.empty(count, bool)

        def shown(array: Array, *more: int) -> Tensor:
            return torch.from_numpy(array).view(*shape, *more)

        following = {"observation": then, "reward": shown(reward), "terminated": shown(terminated)}
        content: dict[str, Any] = {
            "observation": now,
            "action": shown(action, *self.action_shape),
            "next": TensorDict(following, batch_size=shape),
            "discount": shown(discount),
            "index": shown(index),
            "uid": shown(uid),
        }
        content |= {"weight": shown(weight)} if weighted else {}
        content |= {"mask": shown(mask)} if steps > 1 else {}
        batch = TensorDict(content, batch_size=shape).lock_()
        return _Output(
            batch,
            places,
            places.reshape(-1),
            frames,
            _NO_WORDS if words is None else frames.numpy().view(words.dtype),
            index,
            index.reshape(-1),
            uid,
            weight,
            mask,
            action.view(_word(self.action_dtype)),
            reward,
            discount,
            terminated,
            after=np.empty(count, np.int64),
            age=np.empty(count, np.int64),
        )

    def _use(self, window: Window) -> None:
        """Other windows than before: rows near the write pointers become usable starts, or stop being so."""
        if window is self._window or window == self._window:
            return
        needs = self._stack - 1 + window.burn_in + window.length + window.n_step  # history, starts, and what follows
        if window.n_step < 1 or window.length < 1 or window.burn_in < 0 or window.stride < 1 or needs > self._rows:
            raise ReplayError(
                f"{window} does not fit",
                why=f"n_step, length and stride are 1 or more, burn_in 0 or more; with a stack of {self._stack} it "
                f"needs {needs} rows and each ring has {self._rows}",
                fix="a shorter window or a larger replay.capacity",
                see="docs/replay.md",
            )
        old, self._window = self._window, window
        self._outputs.clear()
        same_starts = (old.length, old.burn_in, old.stride) == (window.length, window.burn_in, window.stride)
        if same_starts and old.n_step == window.n_step:
            return  # gamma is applied at read
        count = int(np.minimum(self.rows_written, self._rows).sum())
        slots = np.empty(count, np.int64)
        if same_starts:
            count = ring.withdraw(
                self._rows,
                self.num_envs,
                window.n_step,
                window.length,
                self.rows_written,
                self._considered,
                self._position,
                self._flags,
                slots,
            )
            self._withdraw(slots[:count])
        else:
            self._lost = np.empty(2 * self.num_envs * (1 + self._history), np.int64)
            for env in range(self.num_envs):
                rows = np.arange(self.oldest_row(env), self.rows_written[env]) % self._rows
                self._withdraw(rows * self.num_envs + env)
                oldest = self.oldest_row(env)
                self._considered[env], self._position[env] = oldest, oldest - self._begun[env]
        self._announce()

    # --- storing

    def export_rows(self, env: int, start: int, stop: int) -> dict[str, Array]:
        """Columns of the rows numbered [start, stop) of `env`, for an append-only file."""
        slots = np.arange(start, stop) % self._rows * self.num_envs + env
        columns = {
            "frames": self._frames.read(slots),
            "action": self._action[slots].reshape(-1, *self.action_shape),
            "reward": self._reward[slots],
            **ring.as_columns(self._flags[slots]),
        }
        return {**columns, "lives": self._lives[slots]} if self._lives.size else columns

    def load_rows(self, env: int, start: int, columns: dict[str, Array]) -> None:
        """Put back rows that `export_rows` returned, oldest first; `load_state_dict` completes it."""
        keep = slice(max(0, len(columns["reward"]) - self._rows), None)
        numbers = np.arange(start, start + len(columns["reward"]))[keep]
        slots = numbers % self._rows * self.num_envs + env
        self._frames.write(slots, columns["frames"][keep])
        self._action[slots] = columns["action"][keep].reshape(len(slots), self._action.shape[1])
        self._reward[slots] = columns["reward"][keep]
        self._flags[slots] = ring.from_columns(columns)[keep]
        if self._lives.size:
            self._lives[slots] = columns["lives"][keep]

    def state_dict(self) -> State:
        """Everything but the rows."""
        return {
            "geometry": self._geometry(),
            "rows_written": self.rows_written.copy(),
            "begun": self._begun.copy(),
            "considered": self._considered.copy(),
            "position": self._position.copy(),
            "starts": self._starts.copy(),
            "window": dataclasses.asdict(self._window),
            "sampler": self.sampler.state_dict(),
            "telemetry": self.telemetry.state_dict(),
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
        self.telemetry.load_state_dict(state["telemetry"])
        self.rows_written[:], self._starts[:] = state["rows_written"], state["starts"]
        self._begun[:] = state["begun"]
        self._considered[:], self._position[:] = state["considered"], state["position"]
        self._window = Window(**state["window"])
        self._lost = np.empty(2 * self.num_envs * (1 + self._history), np.int64)

    def _geometry(self) -> dict[str, Any]:
        return {
            "capacity": self.capacity,
            "num_envs": self.num_envs,
            "observation": [list(self._shape), self._dtype.name],
            "action": [list(self.action_shape), self.action_dtype.name],
            "stack": [self._stack, self._padding],
            "lives": bool(self._lives.size),
        }


@dataclass(frozen=True)
class _Output:
    """A Batch and numpy views of the tensors that it shows; N = B, or B * (burn_in + length) for sequences."""

    batch: Batch
    places: Array  # [N, stack + 1] or [2 N, stack] storage rows of the frames
    places_flat: Array
    frames: Tensor  # [places, width]
    frame_words: Array  # the same as whole numbers where rows are short, else empty
    index: Array  # [B, steps]
    index_flat: Array  # [N]
    uid: Array  # [B, steps]
    weight: Array  # [B, steps], shown only if the sampler has weights
    mask: Array  # [B, steps], empty if the window is no sequence
    action_words: Array  # [N, A] whole numbers
    reward: Array  # [N]
    discount: Array  # [N]
    terminated: Array  # [N]
    after: Array  # [N] slot behind each window
    age: Array  # [N] rows that the environment has written since
