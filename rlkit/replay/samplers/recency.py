"""ERE: emphasising recent experience (Wang and Ross 2019, arXiv:1906.04009).

Deviates from the paper, which makes K updates after an episode of K steps: K is a fixed number of batches here, so that
it does not matter when episodes end or how many environments there are. The default is the episode length of MuJoCo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkit.core.errors import require
from rlkit.core.kernels import below, kernel, word
from rlkit.core.seeding import CounterStream
from rlkit.core.typing import Array, FloatArray, IntArray, State
from rlkit.replay.samplers.arrival import HEAD, TAIL, ArrivalLog
from rlkit.replay.samplers.reshuffle import ReshuffleSampler
from rlkit.replay.samplers.sampler import SampleInfo, check_batch_size, check_state, no_usable_row


@dataclass(frozen=True)
class RecencyConfig:
    """Settings of RecencySampler."""

    eta_start: float = 0.996  # eta at the first batch; 1 is uniform sampling
    eta_end: float = 1.0
    eta_batches: int = 1_000_000  # batches over which eta goes from start to end, on a line
    cycle: int = 1_000  # K: batches over which the newest rows are narrowed down, before it starts anew
    rows_min: int = 5_000  # c_min: newest rows that are never narrowed further
    reshuffle: bool = False  # True: every slot once per epoch; slots of older rows lose their turn. Not exactly once.

    def __post_init__(self) -> None:
        for name in ("eta_start", "eta_end"):
            value = getattr(self, name)
            require(0 < value <= 1, f"sampler.{name}", value, "above 0, at most 1", see="docs/replay.md")
        for name in ("eta_batches", "cycle", "rows_min"):
            value = getattr(self, name)
            require(value >= 1, f"sampler.{name}", value, "1 or more", see="docs/replay.md")


class RecencySampler:
    """Batch k of a cycle of K comes from the newest c_k = max(C eta^(1000 k / K), c_min) rows, k = 1 to K.

    Newest by the order of `extend`. Rows that arrived and have stopped being usable count among the c_k, but are not
    drawn; if there are fewer than c_k rows, all are eligible. C is the capacity, also of a ring that is not yet full.
    """

    def __init__(self, capacity: int, seed: int, config: RecencyConfig = RecencyConfig()) -> None:
        self.capacity, self.config = capacity, config
        self._log = ArrivalLog(capacity)
        self._draw = CounterStream(seed)
        self._order = ReshuffleSampler(capacity, seed) if config.reshuffle else None
        self._batches = 0

    def __len__(self) -> int:
        return len(self._log)

    @property
    def rows(self) -> int:
        """c_k of the next batch."""
        config = self.config
        passed = min(self._batches / config.eta_batches, 1.0)
        eta = config.eta_start + (config.eta_end - config.eta_start) * passed
        k = self._batches % config.cycle + 1
        return max(int(self.capacity * eta ** (1_000 * k / config.cycle)), config.rows_min)

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable. `priority` is ignored."""
        self._log.extend(slots, uids)

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        self._log.invalidate(slots)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B]. Raises ReplayError if no row is usable."""
        check_batch_size(batch_size)
        log = self._log
        if len(log) == 0:
            no_usable_row()
        tail = int(log.ends[TAIL])
        oldest = max(tail - self.rows, int(log.ends[HEAD]))
        if self._order is None:
            slots = np.empty(batch_size, np.int64)
            self._draw.counter = draw(log.number, log.slots, oldest, tail, self._draw.key, self._draw.counter, slots)
            epoch = None
        else:
            slots = self._order.take(batch_size, log.number, oldest)
            epoch = self._order.epoch
        self._batches += 1
        return slots, SampleInfo(uid=log.uid[slots], epoch=epoch)

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """Recency sampling has no priorities."""

    def metrics(self) -> dict[str, float]:
        """Those of the reshuffling, if there is one."""
        return {} if self._order is None else self._order.metrics()

    def state_dict(self) -> State:
        """Who arrived when, the place in the cycle, the stream or the order."""
        state = {
            "kind": self._kind(),
            "capacity": self.capacity,
            "log": self._log.state_dict(),
            "batches": self._batches,
            "draw": self._draw.state_dict(),
        }
        return state if self._order is None else {**state, "order": self._order.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity, seed or other settings."""
        check_state(state, self._kind(), self.capacity)
        self._draw.load_state_dict(state["draw"])
        if self._order is not None:
            self._order.load_state_dict(state["order"])
        self._log.load_state_dict(state["log"])
        self._batches = state["batches"]

    def _kind(self) -> str:
        return f"ere with {self.config}"


@kernel
def draw(number: IntArray, log: Array, oldest: int, tail: int, key: np.uint64, counter: int, slots: IntArray) -> int:
    """Fill `slots` from the entries [oldest, tail) of the log; stale ones are drawn again. The new counter."""
    for i in range(len(slots)):
        while True:
            entry = tail - 1 - below(word(key, np.uint64(counter)), tail - oldest)
            counter += 1
            slot = log[entry % len(log)]
            if number[slot] == entry:
                slots[i] = slot
                break
    return counter
