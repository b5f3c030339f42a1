"""What a training loop and its checkpoints ask of a replay."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
from torch import Tensor

from rlkit.core.errors import ReplayError, ResumeError
from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, IntArray, State
from rlkit.replay.batch import Batch, Window

P = ParamSpec("P")
T = TypeVar("T")


class Guard:
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


def guarded(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """`method` inside the `_guard` of its object."""

    @functools.wraps(method)
    def inside(self: Any, /, *arguments: P.args, **options: P.kwargs) -> T:
        with self._guard:
            return method(self, *arguments, **options)

    return inside


def check_kind(state: State, key: str, mine: str) -> None:
    """Raise ResumeError unless `state` has `key`, which only the states of `mine` have."""
    if key not in state:
        stored = next((kind for mark, kind in _KINDS.items() if mark in state), "another replay")
        raise ResumeError(
            f"the stored replay is {stored}, this one is {mine}",
            why="what follows would not be the run that was stopped",
            fix="resume with the replay settings of the stored run",
            see="docs/replay.md",
        )


_KINDS = {"geometry": "a single buffer", "names": "a mixture", "prefetch": "one with a batch drawn ahead"}


class Replay(Protocol):
    """ReplayBuffer, several of them (MixtureReplay), or either with a thread that draws ahead (PrefetchReplay).

    One thread at a time. Every ReplayError leaves the content as it is.
    """

    def warm_up(self) -> None:
        """Compile all that will be called, if that has not been done."""

    @property
    def rows_written(self) -> IntArray:
        """Rows that each environment has ever written, [E]."""

    def __len__(self) -> int:
        """Rows stored now, final frames included."""

    def add(self, observation: Array, action: Array, step: TimeStep) -> None:
        """Store what E environments did: `observation` [E, *obs] that `action` [E, ...] answered, and the outcome."""

    def cut(self, observation: Array) -> None:
        """End all open episodes here, as if by a time limit; `observation` [E, *obs] are their last frames."""

    def usable(self, window: Window) -> int:
        """Rows that a batch of such windows may start at; `window` is from now on the one that rows are kept for."""

    def sample(self, batch_size: int, window: Window, *, copy: bool = False, page: int = 0) -> Batch:
        """A batch [B], or [B, burn_in + length] of sequences; valid until the next of the same `page` unless `copy`.

        Raises ReplayError if no row is usable, or fewer than a sampler needs for the batch.
        """

    def update_priority(self, batch: Batch, priority: Tensor) -> None:
        """Hand the priorities [B] of a batch that was sampled with the present window to the sampler."""

    def probe(self, batch_size: int, window: Window, rng: np.random.Generator) -> Batch:
        """A batch [B] of its own, uniform over usable rows, for measurements: no later draw depends on it.

        Of a mixture, from the source that is written to. Raises ReplayError if no row is usable.
        """

    def metrics(self) -> dict[str, float]:
        """Numbers about the draws since the last call, for the log."""

    def oldest_row(self, env: int) -> int:
        """Number of the oldest row of `env` that is still there."""

    def export_rows(self, env: int, start: int, stop: int) -> dict[str, Array]:
        """Columns of the rows numbered [start, stop) of `env`, for an append-only file."""

    def load_rows(self, env: int, start: int, columns: dict[str, Array]) -> None:
        """Put back rows that `export_rows` returned, oldest first; `load_state_dict` completes it.

        If that refuses, the rows stay: this replay is of no more use then.
        """

    def state_dict(self) -> State:
        """Everything but the rows, which `export_rows` gives out."""

    def load_state_dict(self, state: State) -> None:
        """Continue; the rows have been loaded. Refuses (ResumeError) what is not the same replay."""

    def close(self) -> None:
        """Free memory and threads; what is called after this raises ReplayError."""
