"""Rings of rows: one per environment, each frame once, read by index."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

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
from rlkit.replay.replay import Guard, check_kind, guarded
from rlkit.replay.samplers import SAMPLERS
from rlkit.replay.samplers.sampler import SampleInfo, Sampler, check_batch_size, no_usable_row
from rlkit.replay.samplers.uniform import UniformSampler
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
    row = row_bytes(observation_shape, observation_dtype, action_shape, action_dtype, has_lives=has_lives)
    return capacity * (sum(row) + slot_bytes)


def row_bytes(
    observation_shape: tuple[int, ...],
    observation_dtype: npt.DTypeLike,
    action_shape: tuple[int, ...],
    action_dtype: npt.DTypeLike,
    *,
    has_lives: bool,
    in_memory: bool = True,
) -> tuple[int, int]:
    """Bytes of a row: of its frame where that lies apart (else 0), and of its record, which is always in memory.

    in_memory: where the storage is; there short frames are part of the record. Memory of records is taken when the
    buffer is made, that of frames apart as they are written.
    """
    observation = int(np.prod(observation_shape)) * np.dtype(observation_dtype).itemsize
    scalars = _scalar_record(action_shape, action_dtype, has_lives=has_lives)
    if in_memory and observation <= SHORT_ROW_BYTES:
        return 0, row_layout(observation, scalars)[1]
    return observation, scalars.itemsize


def _scalar_record(action_shape: tuple[int, ...], action_dtype: npt.DTypeLike, *, has_lives: bool) -> np.dtype[Any]:
    """What is stored of a row besides its frame."""
    action = ("action", action_dtype, (int(np.prod(action_shape)),))
    lives = [("lives", np.uint8)] if has_lives else []
    return np.dtype([action, ("reward", np.float32), ("visits", np.int16), ("flags", np.uint8), *lives], align=True)


_NO_WORDS = np.empty((0, 0), np.int64)


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether `array` may be stored as `dtype`: at most rounded, never wrapped around or made infinite."""
    if array.dtype == dtype or np.can_cast(array.dtype, dtype, "safe"):
        return True
    if array.dtype.kind not in "iuf" or dtype.kind != "f":
        return False
    with np.errstate(over="ignore"):
        return bool((np.isfinite(array.astype(dtype)) == np.isfinite(array)).all())


def _misfit(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ReplayError:
    if isinstance(array, np.ndarray):
        what = f"{name} has shape {list(array.shape)} and type {array.dtype}"
    else:
        what = f"{name} is a {type(array).__name__}"
    return ReplayError(
        what,
        why=f"this replay stores arrays {list(shape)} of {dtype}, or what rounding makes one; nothing was changed",
        fix="make the buffer for the environment's spaces, with single frames (no stack), and hand it numpy arrays",
        see="docs/replay.md",
    )


def _word(dtype: np.dtype[Any]) -> type[np.signedinteger[Any]]:
    """Whole numbers of the same size."""
    return np.int64 if dtype.itemsize == 8 else np.int32


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
        if sampler.capacity != capacity:
            raise ConfigError(
                f"the sampler has {sampler.capacity} slots, the buffer {capacity}",
                why="a sampler draws slots of the buffer, so both have the same number",
                fix=f"make the sampler with capacity {capacity}",
                see="docs/replay.md",
            )
        self.capacity, self.num_envs, self.sampler = capacity, num_envs, sampler
        self._rows, self._stack, self._padding, self._clip = rows, stack, stack_padding, reward_clip
        self._storage = storage
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

        frames_of_a_step = (num_envs, *observation_shape)
        flags = [(name, (num_envs,), np.dtype(bool)) for name in ("terminated", "truncated", "ended")]
        self._fields: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = [
            ("observation", frames_of_a_step, self._dtype),
            ("action", (num_envs, *action_shape), self.action_dtype),
            ("reward", (num_envs,), np.dtype(np.float32)),
            *flags,
            ("final_observation", frames_of_a_step, self._dtype),
            *([("lives", (num_envs,), np.dtype(np.uint8))] if has_lives else []),
        ]
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
        self._guard = Guard()

    @guarded
    def __len__(self) -> int:
        """Rows stored now, final frames included."""
        return int(np.minimum(self.rows_written, self._rows).sum())

    @property
    def bytes_per_row(self) -> float:
        """Memory of one row without the sampler's."""
        beside = isinstance(self._frames, RamStorage) and self._frames.records is not None
        return (self._frames.nbytes + (0 if beside else self._scalars.nbytes)) / self.capacity

    @guarded
    def oldest_row(self, env: int) -> int:
        """Number of the oldest row of `env` that is still there."""
        return self._oldest_row(env)

    def _oldest_row(self, env: int) -> int:
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

    def warm_up(self) -> None:
        """Compile all that this buffer runs, by means of a small one like it; this one is left alone.

        Otherwise that happens in the first calls, which take seconds if it has never been done on this machine and
        keep other threads out meanwhile. A sampler of one's own, outside the registry, is not compiled.
        """
        rows = max(-(-4_096 // self.num_envs), 4 * (self._stack + 4))
        capacity = rows * self.num_envs
        config = getattr(self.sampler, "config", None)
        builds = [kind.build for kind in SAMPLERS.values() if type(config) is kind.config]
        twin = ReplayBuffer(
            capacity=capacity,
            num_envs=self.num_envs,
            observation_shape=self._shape,
            observation_dtype=self._dtype,
            action_shape=self.action_shape,
            action_dtype=self.action_dtype,
            sampler=builds[0](capacity, 0, config) if builds else UniformSampler(capacity, 0),
            stack=self._stack,
            stack_padding=self._padding,
            reward_clip=self._clip,
            has_lives=bool(self._lives.size),
            storage=self._storage,
        )
        observation, action, *_ = (np.zeros(shape, dtype) for _, shape, dtype in self._fields)
        reward, lives = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.uint8)
        no, yes = np.zeros(self.num_envs, bool), np.ones(self.num_envs, bool)
        for ended in [no] * (self._stack + 3) + [yes] + [no] * (self._stack + 3):
            twin.add(observation, action, TimeStep(observation, observation, reward, ended, no, ended, lives))
        twin.check(observation, action, TimeStep(observation, observation, reward, no, no, no, lives))
        for window in (Window(), Window(2), Window(length=2, burn_in=1)):
            batch = twin.sample(2, window)
            twin.update_priority(batch, torch.ones(2))
        twin.probe(2, Window(), np.random.default_rng(0))
        twin.cut(observation)
        twin._withdraw(np.empty(0, np.int64))
        twin.metrics()
        twin.load_state_dict(twin.state_dict())
        twin.close()

    # --- writing

    def add(self, observation: Array, action: Array, step: TimeStep) -> None:
        """Store what E environments did: `observation` [E, *obs] that `action` [E, ...] answered, and the outcome.

        Raises ReplayError, and stores nothing, if a shape or type is another one, a reward is not finite, or an
        environment is cut short without ending.
        """
        with self._guard:
            self._check_fields(observation, action, step)
            lives: Any = step.lives if self._lives.size else self._lives  # without a column for them they are not read
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
                _refuse(step, bad)
            if lost:
                self._withdraw(self._lost[:lost])
            self._write(self._places[: self.num_envs], observation)
            if finals:
                self._write(self._places[self.num_envs :][:finals], step.final_observation[step.ended])
            self._announce()

    def cut(self, observation: Array) -> None:
        """End all open episodes here, as if by a time limit; `observation` [E, *obs] are their last frames."""
        with self._guard:
            name, shape, dtype = self._fields[0]
            if not (isinstance(observation, np.ndarray) and observation.shape == shape and _fits(observation, dtype)):
                raise _misfit(name, observation, shape, dtype)
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
        slots, uids = self._new_slots, self._new_uids
        count = len(slots)
        while count == len(slots):
            count = self._find_starts(slots, uids)
            if count:
                self._extend(slots[:count], uids[:count])

    def _find_starts(self, slots: Array, uids: Array) -> int:
        """`ring.announce` for the present window."""
        window = self._window
        return ring.announce(
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

    def _extend(self, slots: Array, uids: Array) -> None:
        """Tell the sampler that these rows have become usable starts."""
        self.sampler.extend(slots, uids)
        self.telemetry.extended(slots)

    def _withdraw(self, slots: Array) -> None:
        """Tell the sampler that these slots are no longer usable."""
        self.sampler.invalidate(slots)
        self.telemetry.invalidated(slots)

    def check(self, observation: Array, action: Array, step: TimeStep) -> None:
        """Raise ReplayError where `add` would; nothing is stored."""
        self._check_fields(observation, action, step)
        bad = ring.first_refused(np.ascontiguousarray(step.reward, np.float32), step.truncated, step.ended)
        if bad >= 0:
            _refuse(step, bad)

    def _check_fields(self, observation: Any, action: Any, step: TimeStep) -> None:
        """Raise ReplayError unless all shapes and types fit; nothing has been written yet."""
        given: tuple[Any, ...] = (
            observation,
            action,
            step.reward,
            step.terminated,
            step.truncated,
            step.ended,
            step.final_observation,
            step.lives,
        )
        for (name, shape, dtype), array in zip(self._fields, given, strict=False):  # without lives the last is not kept
            if isinstance(array, np.ndarray) and array.shape == shape and (array.dtype is dtype or _fits(array, dtype)):
                continue
            raise _misfit(name, array, shape, dtype)

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
            check_batch_size(batch_size)
            self._use(window)
            slots, info = self.sampler.sample(batch_size)
            key = (batch_size, info.weight is not None, page)
            output = self._outputs.get(key)
            if output is None:
                output = self._outputs[key] = self._make_output(*key[:2])
            self._read(output, slots, info)
            self.telemetry.drawn(slots, output.age[self._window.burn_in :: output.index.shape[1]])
            return output.batch.clone() if copy else output.batch

    def probe(self, batch_size: int, window: Window, rng: np.random.Generator) -> Batch:
        """A batch [B] of tensors of its own, uniform over the usable rows, that nobody learns from.

        Sampler, telemetry and lent batches do not notice. Raises ReplayError if no row is usable.
        """
        with self._guard:
            check_batch_size(batch_size)
            self._use(window)
            usable = self.telemetry.usable()
            if not len(usable):
                no_usable_row()
            slots = usable[rng.integers(len(usable), size=batch_size)]
            row, env = np.divmod(slots, self.num_envs)
            newest = self.rows_written[env] - 1
            uid = (newest - (newest - row) % self._rows) * self.num_envs + env
            output = self._make_output(batch_size, False)
            self._read(output, slots, SampleInfo(uid))
            return output.batch

    @guarded
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
            self._suspend(slots[:count])
            self._announce()
            return
        self._lost = np.empty(2 * self.num_envs * (1 + self._history), np.int64)
        for env in range(self.num_envs):
            oldest = self._oldest_row(env)
            self._considered[env], self._position[env] = oldest, oldest - self._begun[env]
        slots, uids = np.empty((2, count + 1), np.int64)  # one more, so that one call finds all
        found = self._find_starts(slots, uids)
        slots, uids = slots[:found], uids[:found]
        before, now = self.telemetry.usable(), np.zeros(self.capacity, bool)
        now[slots] = True
        self._suspend(before[~now[before]])
        now[before] = False  # what is left has become usable; the others keep their priorities and visits
        self._extend(slots[now[slots]], uids[now[slots]])

    def _suspend(self, slots: Array) -> None:
        """These rows are no starts for the present window, but may be for another one."""
        self.sampler.invalidate(slots)
        self.telemetry.suspended(slots)

    # --- storing

    @guarded
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

    @guarded
    def load_rows(self, env: int, start: int, columns: dict[str, Array]) -> None:
        """Put back rows that `export_rows` returned, oldest first; `load_state_dict` completes it.

        If that refuses, the rows stay: this replay is of no more use then.
        """
        keep = slice(max(0, len(columns["reward"]) - self._rows), None)
        numbers = np.arange(start, start + len(columns["reward"]))[keep]
        slots = numbers % self._rows * self.num_envs + env
        self._frames.write(slots, columns["frames"][keep])
        self._action[slots] = columns["action"][keep].reshape(len(slots), self._action.shape[1])
        self._reward[slots] = columns["reward"][keep]
        self._flags[slots] = ring.from_columns(columns)[keep]
        if self._lives.size:
            self._lives[slots] = columns["lives"][keep]

    @guarded
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

    @guarded
    def load_state_dict(self, state: State) -> None:
        """Continue; the rows have been loaded. Refuses another geometry with what differs."""
        check_kind(state, "geometry", "a single buffer")
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
        self._outputs.clear()  # they are of another window
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


def _refuse(step: TimeStep, env: int) -> NoReturn:
    """What `ring.first_refused` found."""
    if not np.isfinite(step.reward[env]):
        raise ReplayError(
            f"a reward is not finite: {step.reward.tolist()}",
            why="one NaN in replay spreads to every parameter; nothing has been stored",
            fix="look at the environment",
            see="docs/replay.md",
        )
    raise ReplayError(
        f"environment {env} is truncated but has not ended",
        why="a cut ends the episode: `final_observation` follows and the next row begins another; nothing was stored",
        fix="set TimeStep.ended wherever truncated is set",
        see="docs/replay.md",
    )


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
