"""Uniform sampling: the default, and the oracle of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkit.core.kernels import below, kernel, word
from rlkit.core.seeding import CounterStream
from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers.sampler import (
    SampleInfo,
    batch_too_large,
    check_batch_size,
    check_slots,
    check_state,
    no_usable_row,
    occupy,
    vacate,
)


@dataclass(frozen=True)
class UniformConfig:
    """Settings of UniformSampler."""

    replacement: bool = True  # False: no row twice in a batch


class UniformSampler:
    """Every usable slot with the same probability, independently.

    Slots are drawn from the part of the ring that has been used so far and drawn again where they are not usable (or,
    without replacement, already in the batch), so nothing has to be kept but who lives where.
    """

    def __init__(self, capacity: int, seed: int, config: UniformConfig = UniformConfig()) -> None:
        self.capacity, self.config = capacity, config
        self._kind = f"uniform with {config}"
        self._draw = CounterStream(seed)
        self._uid = np.full(capacity, -1, np.int64)  # row living in each slot; -1 = not usable
        self._usable = 0
        self._high = 0  # slots from here on were never usable

    def __len__(self) -> int:
        return self._usable

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable. `priority` is ignored."""
        check_slots(slots, self.capacity, uids)
        self._usable += occupy(self._uid, slots, uids)
        self._high = max(self._high, int(slots.max(initial=-1)) + 1)

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        self._usable -= vacate(self._uid, slots)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B]. Raises ReplayError if no row is usable, or too few are for draws without replacement."""
        check_batch_size(batch_size)
        if self._usable == 0:
            no_usable_row()
        distinct = not self.config.replacement
        if distinct and batch_size > self._usable:
            batch_too_large(batch_size, self._usable, "uniform without replacement")
        slots, uids = np.empty(batch_size, np.int64), np.empty(batch_size, np.int64)
        self._draw.counter = draw(self._uid, self._high, distinct, self._draw.key, self._draw.counter, slots, uids)
        return slots, SampleInfo(uid=uids)

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """Uniform sampling has no priorities."""

    def metrics(self) -> dict[str, float]:
        """Nothing of its own."""
        return {}

    def state_dict(self) -> State:
        """Who lives where, and the stream."""
        return {
            "kind": self._kind,
            "capacity": self.capacity,
            "uid": self._uid.copy(),
            "high": self._high,
            "draw": self._draw.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity or seed."""
        check_state(state, self._kind, self.capacity)
        self._draw.load_state_dict(state["draw"])
        self._uid[:] = state["uid"]
        self._usable, self._high = int((self._uid >= 0).sum()), state["high"]


@kernel
def draw(
    uid: IntArray, high: int, distinct: bool, key: np.uint64, counter: int, slots: IntArray, uids: IntArray
) -> int:
    """Fill `slots` and `uids` [B] in rounds: every place that is still missing draws once a round. The new counter."""
    missing = len(slots)
    places = np.arange(missing)
    taken = {int(np.int64(-1))}  # numba knows the type of a set by an element; -1 is no slot
    while missing:
        for i in range(missing):  # apart from what follows: then many reads of uid are under way at once
            slots[places[i]] = below(word(key, np.uint64(counter)), high)
            counter += 1
        left = 0
        for i in range(missing):
            place = places[i]
            slot = slots[place]
            if uid[slot] >= 0 and not (distinct and slot in taken):
                uids[place] = uid[slot]
                if distinct:
                    taken.add(slot)
            else:
                places[left] = place
                left += 1
        missing = left
    return counter
