"""Usable rows in the order in which they became so."""

from __future__ import annotations

import numpy as np

from rlkit.core.kernels import kernel
from rlkit.core.typing import Array, IntArray, State
from rlkit.replay.samplers.sampler import check_slots

HEAD, TAIL, COUNT = 0, 1, 2  # places in `ArrivalLog.ends`


class ArrivalLog:
    """A queue of slots that any row may leave. (The order of uids would not do: each environment has its own.)

    Arrival a stands at a % 2C of `slots`; it is stale once `number` of that slot is another one: the row has left or
    arrived again. The first and the last entry are never stale, so the newest row is known, and the entries between
    the two ends are few more than the usable rows. Stale ones in between go when the queue is full.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.uid = np.full(capacity, -1, np.int64)  # row living in each slot; -1 = not usable
        self.number = np.full(capacity, -1, np.int64)  # its arrival; -1 = not usable
        self.slots: Array = np.zeros(2 * capacity, np.int32 if capacity < 2**31 else np.int64)
        self.ends = np.zeros(3, np.int64)  # number of the oldest entry, of the next one, and usable rows

    def __len__(self) -> int:
        return int(self.ends[COUNT])

    @property
    def newest(self) -> int:
        """Slot of the row that arrived last, of those that are still usable; there must be one."""
        return int(self.slots[(self.ends[TAIL] - 1) % len(self.slots)])

    def extend(self, slots: IntArray, uids: IntArray) -> None:
        """Rows arrive, in this order. Raises ReplayError for a slot out of range."""
        check_slots(slots, self.capacity, uids)
        arrive(slots, uids, self.uid, self.number, self.slots, self.ends)

    def invalidate(self, slots: IntArray) -> None:
        """Rows leave; those that are not there are ignored."""
        leave(slots, self.uid, self.number, self.slots, self.ends)

    def state_dict(self) -> State:
        """The entries from the oldest to the newest, -1 where stale; a copy."""
        entries = np.arange(self.ends[HEAD], self.ends[TAIL])
        slots = self.slots[entries % len(self.slots)]
        return {"uid": self.uid.copy(), "slots": np.where(self.number[slots] == entries, slots, -1)}

    def load_state_dict(self, state: State) -> None:
        """Continue a stored log of the same capacity."""
        slots = state["slots"]
        usable = slots >= 0
        self.uid[:], self.number[:] = state["uid"], -1
        self.number[slots[usable]] = np.flatnonzero(usable)
        self.slots[: len(slots)] = np.maximum(slots, 0)  # a stale entry may name any slot: none has its number
        self.ends[:] = 0, len(slots), usable.sum()


@kernel
def arrive(slots: IntArray, uids: IntArray, uid: IntArray, number: IntArray, log: Array, ends: IntArray) -> None:
    """`ArrivalLog.extend`."""
    for i in range(len(slots)):
        slot = slots[i]
        if ends[TAIL] - ends[HEAD] == len(log):
            compact(number, log, ends)
        ends[COUNT] += number[slot] < 0
        uid[slot], number[slot] = uids[i], ends[TAIL]
        log[ends[TAIL] % len(log)] = slot
        ends[TAIL] += 1
    trim(number, log, ends)


@kernel
def leave(slots: IntArray, uid: IntArray, number: IntArray, log: Array, ends: IntArray) -> None:
    """`ArrivalLog.invalidate`."""
    for slot in slots:
        if 0 <= slot < len(number) and number[slot] >= 0:
            uid[slot] = number[slot] = -1
            ends[COUNT] -= 1
    trim(number, log, ends)


@kernel
def trim(number: IntArray, log: Array, ends: IntArray) -> None:
    """Let go of stale entries at both ends."""
    while ends[TAIL] > ends[HEAD] and number[log[(ends[TAIL] - 1) % len(log)]] != ends[TAIL] - 1:
        ends[TAIL] -= 1
    while ends[TAIL] > ends[HEAD] and number[log[ends[HEAD] % len(log)]] != ends[HEAD]:
        ends[HEAD] += 1


@kernel
def compact(number: IntArray, log: Array, ends: IntArray) -> None:
    """Let go of all stale entries; at least half are, since there are twice as many entries as slots."""
    kept = ends[HEAD]
    for entry in range(ends[HEAD], ends[TAIL]):
        slot = log[entry % len(log)]
        if number[slot] == entry:
            log[kept % len(log)], number[slot] = slot, kept
            kept += 1
    ends[TAIL] = kept
