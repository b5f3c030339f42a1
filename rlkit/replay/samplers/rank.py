"""Rank-based prioritised replay (Schaul et al. 2016, arXiv:1511.05952, section 3.3).

Deviates from the paper: ranks come from a list that is sorted anew now and then, not from a heap; P is exact within a
segment instead of constant; the exponent of the weights stays at its start unless `anneal_batches` says when it ends.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rlkit.core.kernels import kernel, unit, word
from rlkit.core.seeding import CounterStream
from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers.priorities import (
    PriorityLog,
    annealed,
    check_weight_settings,
    living,
    prepare,
    require_setting,
)
from rlkit.replay.samplers.sampler import SampleInfo, check_batch_size, check_state, no_usable_row
from rlkit.replay.sum_tree import Float64Array


@dataclass(frozen=True)
class RankConfig:
    """Settings of RankSampler."""

    priority_exponent: float = 0.7  # alpha, 0 to 1
    sort_period: int | None = None  # updates between two sorts (0.12 s for a million rows); None: one per 100 slots
    weight_exponent: float = 0.5  # beta at the first batch; 0: no weights
    weight_exponent_end: float = 1.0  # beta from batch `anneal_batches` on, on a line until then
    anneal_batches: int | None = None  # None: beta stays

    def __post_init__(self) -> None:
        # Above 1 nearly all draws are of the first few ranks, and where those are gaps a draw would not end.
        require_setting(0 <= self.priority_exponent <= 1, "priority_exponent", self.priority_exponent, "0 to 1")
        require_setting(
            self.sort_period is None or self.sort_period >= 1, "sort_period", self.sort_period, "1 or more, or null"
        )
        check_weight_settings(self.weight_exponent, self.weight_exponent_end, self.anneal_batches)


class RankSampler:
    """The row of rank r is drawn with P proportional to r^-alpha, rank 1 being the largest priority.

    Row j of a batch comes from the j-th of B segments of equal probability. Its weight is (N P)^-beta over the largest
    of the batch: (r / r_max)^(alpha beta).

    The ranks in force are those of a list that is sorted after every `sort_period` updates, when the next batch is
    drawn, or when it has no room left. Between two sorts
    - a new row, also one that comes with a priority, goes to rank 1 and moves all others down by one;
    - a row that stops being usable leaves a gap, which keeps its rank; a draw that meets a gap is drawn again from all
      ranks;
    - new priorities are noted, and change no rank.
    A sort closes the gaps and puts rows whose priority is not known yet first, the newest at rank 1. Rows of the same
    priority keep their order.
    """

    def __init__(self, capacity: int, seed: int, config: RankConfig = RankConfig()) -> None:
        self.capacity, self.config = capacity, config
        self._period = max(capacity // 100, 1) if config.sort_period is None else config.sort_period
        self._draw = CounterStream(seed)
        self._uid = np.full(capacity, -1, np.int64)  # row living in each slot; -1 = not usable
        self._priority = np.zeros(capacity)  # inf = not known yet
        room = capacity + max(capacity // 4, 64)
        self._list = np.zeros(room, np.int64)  # slots from the last rank to the first, so that new rows are appended
        self._place = np.zeros(capacity, np.int64)  # where in the list a slot stands; other entries of it are gaps
        self._mass = np.cumsum(np.arange(1, room + 1) ** -config.priority_exponent)  # of ranks 1 to r
        self._listed, self._usable = 0, 0
        self._unsorted = 0  # updates since the last sort
        self._batches, self._log = 0, PriorityLog()

    def __len__(self) -> int:
        return self._usable

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable; the last of them gets rank 1."""
        slots, uids, d = self._prepare(slots, uids, priority)
        self.invalidate(slots)
        if self._listed + len(slots) > len(self._list):
            self._sort()
        self._listed, added = append(self._uid, self._priority, self._list, self._place, self._listed, slots, uids, d)
        self._usable += added

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        slots = np.unique(living(self._uid, np.ascontiguousarray(slots, np.int64)))
        self._uid[slots] = -1
        self._usable -= len(slots)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B] and their weights. Raises ReplayError if no row is usable."""
        check_batch_size(batch_size)
        if self._usable == 0:
            no_usable_row()
        # With more gaps than rows most draws would be in vain.
        if self._unsorted >= self._period or self._listed > 2 * self._usable + 64:
            self._sort()
        config = self.config
        beta = annealed(config.weight_exponent, config.weight_exponent_end, self._batches, config.anneal_batches)
        slots, uids = np.empty(batch_size, np.int64), np.empty(batch_size, np.int64)
        weight = np.empty(batch_size if beta else 0, np.float32)
        self._draw.counter, effective = draw(
            self._uid,
            self._list,
            self._place,
            self._mass,
            self._listed,
            config.priority_exponent * beta,
            self._draw.key,
            self._draw.counter,
            slots,
            uids,
            weight,
        )
        self._batches += 1
        if not beta:
            return slots, SampleInfo(uid=uids)
        self._log.add_batch(effective)
        return slots, SampleInfo(uid=uids, weight=weight)

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """New priorities [N], not negative, for the next sort; the last one wins where a row is there twice."""
        slots, uids, d = self._prepare(slots, uids, priority)
        here = (self._uid[slots] == uids) & (uids >= 0)
        self._priority[slots[here]] = d[here]
        self._unsorted += 1
        self._log.add_update(len(slots), len(slots) - int(here.sum()))

    def metrics(self) -> dict[str, float]:
        """`per-rank/`: share of gaps in the list now, effective share of weighted batches, share of late updates."""
        found = self._log.read()
        if self._listed:
            found["gaps"] = 1 - self._usable / self._listed
        return {f"per-rank/{name}": value for name, value in found.items()}

    def state_dict(self) -> State:
        """Who lives where, priorities, the list with its gaps, the place in the annealing, the stream."""
        return {
            "kind": self._kind(),
            "capacity": self.capacity,
            "uid": self._uid.copy(),
            "priority": self._priority.copy(),
            "list": self._list[: self._listed].copy(),
            "unsorted": self._unsorted,
            "batches": self._batches,
            "log": self._log.state_dict(),
            "draw": self._draw.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity, seed or other settings; another `anneal_batches` is the caller's affair."""
        check_state(state, self._kind(), self.capacity)
        self._draw.load_state_dict(state["draw"])
        self._log.load_state_dict(state["log"])
        self._uid[:], self._priority[:] = state["uid"], state["priority"]
        self._usable, self._listed = int((self._uid >= 0).sum()), len(state["list"])
        self._list[: self._listed] = state["list"]
        self._place[state["list"]] = np.arange(self._listed)  # the last entry of a slot counts
        self._unsorted, self._batches = state["unsorted"], state["batches"]

    def _kind(self) -> str:
        return f"per-rank with {dataclasses.replace(self.config, anneal_batches=None)}"

    def _prepare(
        self, slots: IntArray, uids: IntArray, priority: FloatArray | None
    ) -> tuple[IntArray, IntArray, Float64Array]:
        return prepare(slots, uids, priority, self.capacity, False, 0.0, 1.0, unknown=np.inf)

    def _sort(self) -> None:
        listed = self._list[: self._listed]
        listed = listed[(self._place[listed] == np.arange(self._listed)) & (self._uid[listed] >= 0)]
        # Stable: what an unstable sort does with ties depends on the processor.
        listed = listed[np.argsort(self._priority[listed], kind="stable")]
        self._listed, self._unsorted = len(listed), 0
        self._list[: self._listed] = listed
        self._place[listed] = np.arange(self._listed)


@kernel
def append(
    uid: IntArray,
    priority: Float64Array,
    list_: IntArray,
    place: IntArray,
    listed: int,
    slots: IntArray,
    uids: IntArray,
    d: Float64Array,
) -> tuple[int, int]:
    """Rows `uids` move into the empty `slots` and to the end of the list. Its length, and how many rows they are."""
    before = listed
    for i in range(len(slots)):
        slot = slots[i]
        if uid[slot] < 0:
            list_[listed], place[slot] = slot, listed
            listed += 1
        uid[slot], priority[slot] = uids[i], d[i]
    return listed, listed - before


@kernel
def draw(
    uid: IntArray,
    list_: IntArray,
    place: IntArray,
    mass: Float64Array,
    listed: int,
    exponent: float,
    key: np.uint64,
    counter: int,
    slots: IntArray,
    uids: IntArray,
    weight: FloatArray,
) -> tuple[int, float]:
    """Fill `slots`, `uids` and `weight` [B], or [0] if there are no weights. The new counter and the effective share.

    exponent: alpha beta.
    """
    batch, whole = len(slots), mass[listed - 1]
    ranks, last = np.empty(batch), 1.0
    for j in range(batch):
        u = (j + unit(word(key, np.uint64(counter)))) * whole / batch
        counter += 1
        while True:
            low, high = 0, listed - 1  # the first rank, counted from 0, whose cumulated mass is above u
            while low < high:
                middle = (low + high) // 2
                if mass[middle] > u:
                    high = middle
                else:
                    low = middle + 1
            slot = list_[listed - 1 - low]
            if uid[slot] >= 0 and place[slot] == listed - 1 - low:
                break
            u = unit(word(key, np.uint64(counter))) * whole
            counter += 1
        slots[j], uids[j], ranks[j] = slot, uid[slot], low + 1.0
        last = max(last, low + 1.0)
    first, second = 0.0, 0.0
    for j in range(len(weight)):
        w = (ranks[j] / last) ** exponent
        weight[j] = w
        first, second = first + w, second + w * w
    return counter, first * first / (batch * second) if second > 0 else 0.0
