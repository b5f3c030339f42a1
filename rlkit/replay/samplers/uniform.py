"""Uniform sampling with replacement: the default, and the oracle of the others."""

from __future__ import annotations

import numpy as np

from rlkit.core.errors import ReplayError, ResumeError
from rlkit.core.seeding import CounterStream
from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers.sampler import SampleInfo


class UniformSampler:
    """Every usable slot with the same probability, independently.

    Slots are drawn from the part of the ring that has been used so far and drawn again where they are not usable, so
    nothing has to be kept but who lives where.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._draw = CounterStream(seed)
        self._uid = np.full(capacity, -1, np.int64)  # row living in each slot; -1 = not usable
        self._usable = 0
        self._high = 0  # slots from here on were never usable

    def __len__(self) -> int:
        return self._usable

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable. `priority` is ignored."""
        self._usable += int((self._uid[slots] < 0).sum())
        self._uid[slots] = uids
        self._high = max(self._high, int(slots.max(initial=-1)) + 1)

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        self._usable -= int((self._uid[slots] >= 0).sum())
        self._uid[slots] = -1

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B]. Raises ReplayError if no row is usable."""
        if self._usable == 0:
            raise ReplayError(
                "replay holds no usable row",
                why="a row can be drawn once its n-step window is complete; 0 are",
                fix="collect more steps before the first update (learning_starts)",
                see="docs/replay.md",
            )
        slots = self._draw.integers(self._high, batch_size)
        uids = self._uid[slots]
        missing = np.flatnonzero(uids < 0)
        while missing.size:
            slots[missing] = self._draw.integers(self._high, missing.size)
            uids[missing] = self._uid[slots[missing]]
            missing = missing[uids[missing] < 0]
        return slots, SampleInfo(uid=uids)

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """Uniform sampling has no priorities."""

    def state_dict(self) -> State:
        """Who lives where, and the stream."""
        return {"kind": "uniform", "uid": self._uid.copy(), "high": self._high, "draw": self._draw.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity or seed."""
        if state["kind"] != "uniform" or len(state["uid"]) != len(self._uid):
            raise ResumeError(
                "the stored sampler is another one",
                why=f"stored {state['kind']} of {len(state['uid'])} slots, this is uniform of {len(self._uid)}",
                fix="resume with the replay settings of the stored run",
                see="docs/replay.md",
            )
        self._draw.load_state_dict(state["draw"])
        self._uid[:] = state["uid"]
        self._usable, self._high = int((self._uid >= 0).sum()), state["high"]
