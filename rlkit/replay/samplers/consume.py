"""Every row a fixed number of times, in order of arrival: for data that are used up.

With one visit it is Reverb's queue (arXiv:2102.04736: first in, first out, `max_times_sampled` 1); TorchRL's
`ConsumingSampler` draws at random instead. With more visits a queue would repeat its oldest row until that is used up;
here a row that has been drawn goes to the end for its next visit, so that rows come in rounds and none is in a batch
twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkit.core.errors import require
from rlkit.core.kernels import kernel
from rlkit.core.typing import Array, FloatArray, IntArray, State
from rlkit.replay.samplers.arrival import HEAD, ArrivalLog, arrive, leave
from rlkit.replay.samplers.sampler import (
    SampleInfo,
    batch_too_large,
    check_batch_size,
    check_slots,
    check_state,
    no_usable_row,
)


@dataclass(frozen=True)
class ConsumeConfig:
    """Settings of ConsumeSampler."""

    max_visits: int = 1  # of a row; at least batch size times replay ratio, or the queue runs dry

    def __post_init__(self) -> None:
        require(self.max_visits >= 1, "sampler.max_visits", self.max_visits, "1 or more", see="docs/replay.md")


class ConsumeSampler:
    """A queue of rows with visits left: the oldest first, behind the others after each visit, gone after the last.

    A row that stops being usable loses its place and keeps its count: should it become usable again, it joins at the
    end with the visits that are left to it. A new row in its slot starts from 0.

    seed: for the signature that samplers share; nothing is drawn at random.
    """

    def __init__(self, capacity: int, seed: int, config: ConsumeConfig = ConsumeConfig()) -> None:
        self.capacity, self.config = capacity, config
        self._log = ArrivalLog(capacity)
        self._known = np.full(capacity, -1, np.int64)  # row whose visits are counted for each slot
        self._visits = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        """Rows with visits left."""
        return len(self._log)

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable. `priority` is ignored."""
        check_slots(slots, self.capacity, uids)
        self._visits[slots] *= self._known[slots] == uids
        self._known[slots] = uids
        fresh = self._visits[slots] < self.config.max_visits
        self._log.extend(slots[fresh], uids[fresh])

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        self._log.invalidate(slots)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B], all different. Raises ReplayError, and consumes nothing, if fewer rows have visits left."""
        check_batch_size(batch_size)
        log, most = self._log, self.config.max_visits
        if len(log) == 0:
            no_usable_row()
        if batch_size > len(log):
            batch_too_large(batch_size, len(log), f"consume gives every row out at most {most} times and")
        slots = np.empty(batch_size, np.int64)
        give(slots, self._known, self._visits, most, log.uid, log.number, log.slots, log.ends)
        return slots, SampleInfo(uid=self._known[slots])

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """A queue has no priorities."""

    def metrics(self) -> dict[str, float]:
        """Nothing of its own."""
        return {}

    def state_dict(self) -> State:
        """The queue and the visits."""
        return {
            "kind": self._kind(),
            "capacity": self.capacity,
            "log": self._log.state_dict(),
            "known": self._known.copy(),
            "visits": self._visits.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity or other settings."""
        check_state(state, self._kind(), self.capacity)
        self._log.load_state_dict(state["log"])
        self._known[:], self._visits[:] = state["known"], state["visits"]

    def _kind(self) -> str:
        return f"consume with {self.config}"


@kernel
def give(
    slots: IntArray,
    known: IntArray,
    visits: IntArray,
    max_visits: int,
    uid: IntArray,
    number: IntArray,
    log: Array,
    ends: IntArray,
) -> None:
    """Fill `slots` from the front of the queue; those with visits left go to its end."""
    for i in range(len(slots)):
        slots[i] = log[ends[HEAD] % len(log)]
        slot = slots[i : i + 1]
        visits[slots[i]] += 1
        if visits[slots[i]] < max_visits:
            arrive(slot, known[slots[i] : slots[i] + 1], uid, number, log, ends)
        else:
            leave(slot, uid, number, log, ends)
