"""A thread that draws the next batch while the agent learns from this one."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlkit.core.errors import ReplayError
from rlkit.core.timestep import TimeStep
from rlkit.core.typing import Array, IntArray, State
from rlkit.replay.batch import Batch, Window
from rlkit.replay.replay import Guard, Replay, check_kind, guarded
from rlkit.replay.samplers.sampler import check_batch_size

_SET_ASIDE = 4  # batches; a loop that goes round more batch sizes and windows than that plus one would need more


@dataclass(frozen=True)
class _Request:
    """What a batch was drawn for."""

    batch_size: int
    window: Window
    page: int


class PrefetchReplay:
    """`replay` with one batch drawn ahead; from now on everything goes through this object, one thread at a time.

    `sample` hands out the batch that waits and has a thread draw the next one, for the same batch size and window, into
    the other of two pages. Everything else first waits until that draw is over. So the order of what happens to
    `replay` does not depend on time, and a batch differs from one drawn without the thread by its lead alone: it was
    drawn when the batch before it was handed out, without the rows and priorities that came since.

    Another batch size or window than last time is drawn when it is asked for, and ahead from its second time in a row.
    The batch that waits is set aside meanwhile and handed out when its batch size and window are asked for again: no
    draw is lost, and an epoch stays exact. Of more than 4 set aside the oldest is discarded, and counted as
    `replay/prefetch_discarded`: a schedule that changes the window for good leaves one behind at each change.

    A draw ahead that fails with a ReplayError (too few rows yet) is made again when its batch is asked for, and raises
    then; any other error of the thread is raised by the next `sample`.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._thread = ThreadPoolExecutor(1, "replay-prefetch")  # ends with this object, with `close`, or at exit
        # A second team of OpenMP threads beside the learner's slows both down. torch keeps a number for each thread,
        # and one for threads to come, so that one is put back.
        threads = torch.get_num_threads()
        self._thread.submit(torch.get_num_threads)
        self._thread.submit(torch.set_num_threads, 1).result()
        torch.set_num_threads(threads)
        self._drawing: tuple[_Request, Future[Batch]] | None = None
        self._error: BaseException | None = None  # of the thread, for the next `sample`
        self._waiting: dict[_Request, Batch] = {}  # drawn and not handed out, oldest first
        self._lent: _Request | None = None  # whose waiting batch is in tensors of `replay`; the others have their own
        self._last: _Request | None = None
        self._half = 0  # of a page: draws go to the two in turn
        self._discarded = 0  # batches, since the last `metrics`
        self._guard = Guard()

    @guarded
    def __len__(self) -> int:
        """Rows stored now, final frames included."""
        return len(self._replay)

    @guarded
    def close(self) -> None:
        """End the thread and close the replay."""
        self._guard.closed = True
        self._thread.shutdown()
        self._settle()
        self._error = self._last = None
        self._waiting.clear()
        self._replay.close()

    def warm_up(self) -> None:
        """Compile what the replay runs."""
        self._replay.warm_up()

    # --- drawing

    @guarded
    def sample(self, batch_size: int, window: Window, *, copy: bool = False, page: int = 0) -> Batch:
        """The batch that waits, or else a new one.

        Valid until the next `sample` of the same `page` unless `copy`. Raises ReplayError as the replay does.
        """
        check_batch_size(batch_size)
        self._settle()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        request = _Request(batch_size, window, page)
        batch = self._waiting.pop(request, None)
        if self._lent in self._waiting:  # set aside: its tensors will be written again
            self._waiting[self._lent] = self._waiting[self._lent].clone().lock_()
        self._lent = None
        if len(self._waiting) > _SET_ASIDE:
            del self._waiting[next(iter(self._waiting))]
            self._discarded += 1
        if batch is None:
            batch = self._replay.sample(batch_size, window, page=self._next_page(page))
        else:
            self._replay.usable(window)  # rows are kept for the window that was asked for last
        if request == self._last:
            ahead = self._thread.submit(self._replay.sample, batch_size, window, page=self._next_page(page))
            self._drawing = request, ahead
        self._last = request
        return batch.clone() if copy else batch

    def _next_page(self, page: int) -> int:
        self._half = 1 - self._half
        return 2 * page + self._half

    def _settle(self) -> None:
        """Wait for the draw in progress."""
        if self._drawing is None:
            return
        (request, ahead), self._drawing = self._drawing, None
        error = ahead.exception()
        if error is None:
            self._waiting[request], self._lent = ahead.result(), request
        elif not isinstance(error, ReplayError):
            self._error = error

    # --- everything else, after the draw in progress

    @property
    @guarded
    def rows_written(self) -> IntArray:
        """Rows that each environment has ever written."""
        self._settle()
        return self._replay.rows_written

    @guarded
    def add(self, observation: Array, action: Array, step: TimeStep) -> None:
        """Store a step; the batch that waits was drawn without it."""
        self._settle()
        self._replay.add(observation, action, step)

    @guarded
    def cut(self, observation: Array) -> None:
        """End all open episodes."""
        self._settle()
        self._replay.cut(observation)

    @guarded
    def usable(self, window: Window) -> int:
        """Rows that a batch of such windows may start at."""
        self._settle()
        return self._replay.usable(window)

    @guarded
    def update_priority(self, batch: Batch, priority: Tensor) -> None:
        """Hand priorities to the sampler; the batch that waits was drawn without them."""
        self._settle()
        self._replay.update_priority(batch, priority)

    @guarded
    def probe(self, batch_size: int, window: Window, rng: np.random.Generator) -> Batch:
        """A batch for measurements; the batch that waits stays where it is."""
        self._settle()
        return self._replay.probe(batch_size, window, rng)

    @guarded
    def metrics(self) -> dict[str, float]:
        """What the replay tells, the batch that waits included, and how many batches were discarded, if any."""
        self._settle()
        discarded, self._discarded = self._discarded, 0
        own = {"replay/prefetch_discarded": float(discarded)} if discarded else {}
        return self._replay.metrics() | own

    @guarded
    def oldest_row(self, env: int) -> int:
        """Number of the oldest row of `env` that is still there."""
        self._settle()
        return self._replay.oldest_row(env)

    @guarded
    def export_rows(self, env: int, start: int, stop: int) -> dict[str, Array]:
        """Columns of the rows numbered [start, stop) of `env`, for an append-only file."""
        self._settle()
        return self._replay.export_rows(env, start, stop)

    @guarded
    def load_rows(self, env: int, start: int, columns: dict[str, Array]) -> None:
        """Put back rows that `export_rows` returned, oldest first; `load_state_dict` completes it.

        If that refuses, the rows stay: this replay is of no more use then.
        """
        self._settle()
        self._replay.load_rows(env, start, columns)

    @guarded
    def state_dict(self) -> State:
        """Everything but the rows, and the batches that wait: their rows may be gone when they are handed out."""
        self._settle()
        return {
            "prefetch": {
                "waiting": [
                    {
                        **dataclasses.asdict(request),
                        "shape": list(batch.batch_size),
                        "columns": _arrays(batch.to_dict()),
                    }
                    for request, batch in self._waiting.items()
                ],
                "last": None if self._last is None else dataclasses.asdict(self._last),
                "discarded": self._discarded,
            },
            "replay": self._replay.state_dict(),
        }

    @guarded
    def load_state_dict(self, state: State) -> None:
        """Continue; the rows have been loaded. Refuses (ResumeError) the state of a replay without prefetch.

        Batches that wait come back in memory, also those whose replay is on another device.
        """
        self._settle()
        check_kind(state, "prefetch", "one with a batch drawn ahead")
        own = state["prefetch"]
        self._replay.load_state_dict(state["replay"])
        self._waiting = {
            _request(entry): TensorDict(_tensors(entry["columns"]), batch_size=entry["shape"]).lock_()
            for entry in own["waiting"]
        }
        self._last = None if own["last"] is None else _request(own["last"])
        self._error, self._lent, self._discarded = None, None, own["discarded"]


def _request(stored: dict[str, Any]) -> _Request:
    return _Request(stored["batch_size"], Window(**stored["window"]), stored["page"])


def _arrays(columns: dict[str, Any]) -> State:
    """Nested tensors as arrays, copied."""
    return {k: _arrays(v) if isinstance(v, dict) else v.cpu().numpy().copy() for k, v in columns.items()}


def _tensors(columns: State) -> dict[str, Any]:
    """What `_arrays` took apart."""
    return {k: _tensors(v) if isinstance(v, dict) else torch.from_numpy(v.copy()) for k, v in columns.items()}
