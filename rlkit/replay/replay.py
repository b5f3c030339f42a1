"""What a training loop and its checkpoints ask of a replay."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, IntArray, State
from rlkit.replay.batch import Batch, Window


class Replay(Protocol):
    """ReplayBuffer, several of them (MixtureReplay), or either with a thread that draws ahead (PrefetchReplay).

    One thread at a time. Every ReplayError leaves the content as it is.
    """

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

    def metrics(self) -> dict[str, float]:
        """Numbers about the draws since the last call, for the log."""

    def oldest_row(self, env: int) -> int:
        """Number of the oldest row of `env` that is still there."""

    def export_rows(self, env: int, start: int, stop: int) -> dict[str, Array]:
        """Columns of the rows numbered [start, stop) of `env`, for an append-only file."""

    def load_rows(self, env: int, start: int, columns: dict[str, Array]) -> None:
        """Put back rows that `export_rows` returned, oldest first; `load_state_dict` completes it."""

    def state_dict(self) -> State:
        """Everything but the rows, which `export_rows` gives out."""

    def load_state_dict(self, state: State) -> None:
        """Continue; the rows have been loaded. Refuses (ResumeError) what is not the same replay."""

    def close(self) -> None:
        """Free memory and threads; what is called after this raises ReplayError."""
