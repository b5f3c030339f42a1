"""Proportional prioritised replay (Schaul et al. 2016, arXiv:1511.05952), and LAP's priorities (arXiv:2007.06049).

Deviates from the paper at its default: weights are normalised by the largest of the batch, and the exponent of the
weights stays at its start unless `anneal_batches` says when it reaches its end.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkit.core.errors import ReplayError
from rlkit.core.kernels import below, kernel, unit, word
from rlkit.core.seeding import CounterStream
from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers.priorities import (
    BY_BATCH,
    BY_BUFFER,
    BY_NOTHING,
    NewRow,
    Priorities,
    PriorityLog,
    PriorityRule,
    annealed,
    check_priority_settings,
    check_weight_settings,
    living,
    require_setting,
    weigh,
)
from rlkit.replay.samplers.sampler import SampleInfo, check_batch_size, check_state, no_usable_row
from rlkit.replay.sum_tree import Float64Array, MinTree, find, refresh_sums, total

_NORMALISERS = {"none": BY_NOTHING, "batch": BY_BATCH, "buffer": BY_BUFFER}


@dataclass(frozen=True)
class PrioritizedConfig:
    """Settings of PrioritizedSampler. p is what is stored for a row, d the priority that `update` is given."""

    priority_exponent: float = 0.6  # alpha
    # add: p = (d + epsilon)^alpha. clamp: p = max(d, epsilon)^alpha, LAP with epsilon 1. A row with p = 0 is not drawn.
    priority_rule: PriorityRule = "add"
    priority_epsilon: float = 1e-6
    # p of a new row: the largest so far, the largest of the rows that are usable now, or 1. The first two start at 1.
    new_row: NewRow = "running_max"
    draw: Literal["stratified", "independent"] = "stratified"  # row j of B from part j of sum p, cut in B
    uniform_share: float = 0.0  # of the draws, with the same probability for every usable row
    weight_exponent: float = 0.4  # beta at the first batch; 0: no weights, as in LAP
    weight_exponent_end: float = 1.0  # beta from batch `anneal_batches` on, on a line until then
    anneal_batches: int | None = None  # None: beta stays
    weight_normaliser: Literal["batch", "buffer", "none"] = "batch"  # divide by the largest weight of either
    duplicates: Literal["last", "max"] = "last"  # of several priorities for one row in an update

    def __post_init__(self) -> None:
        check_priority_settings(self.priority_exponent, self.priority_epsilon)
        check_weight_settings(self.weight_exponent, self.weight_exponent_end, self.anneal_batches)
        require_setting(0 <= self.uniform_share <= 1, "uniform_share", self.uniform_share, "0 to 1")


class PrioritizedSampler:
    """A usable row i is drawn with P(i) = (1 - s) p_i / sum p + s / N: section 3.3; s = `uniform_share` of N rows.

    Its weight is (N P(i))^-beta, section 3.4, normalised. A row may be in a batch several times. Rows of a stratified
    batch are in the order of their slots: shuffle it before cutting it into pieces.
    """

    def __init__(self, capacity: int, seed: int, config: PrioritizedConfig = PrioritizedConfig()) -> None:
        self.capacity, self.config = capacity, config
        self._draw = CounterStream(seed)
        self._rows = Priorities(
            capacity, config.priority_exponent, config.priority_rule, config.priority_epsilon, config.new_row
        )
        # The p of every row that can be drawn; inf elsewhere.
        self._rarest = MinTree(capacity) if config.weight_normaliser == "buffer" else None
        self._usable, self._batches = 0, 0
        self._log = PriorityLog()

    def __len__(self) -> int:
        return self._usable

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable; without `priority` [N] they get what `new_row` says."""
        slots, uids, p = self._rows.prepare(slots, uids, priority)
        self._usable += place(*self._rows.arrays, slots, uids, p)
        self._rows.notice(slots, p.max(initial=0.0))
        self._follow(slots)

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        slots = living(self._rows.uid, np.ascontiguousarray(slots, np.int64))
        self._usable -= vacate(*self._rows.arrays, slots)
        self._rows.notice(slots, 0.0)
        self._follow(slots)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B] and their weights.

        Raises ReplayError if no row is usable, or if all have priority 0 and none is drawn uniformly.
        """
        check_batch_size(batch_size)
        if self._usable == 0:
            no_usable_row()
        config, rows = self.config, self._rows
        beta = annealed(config.weight_exponent, config.weight_exponent_end, self._batches, config.anneal_batches)
        slots, uids = np.empty(batch_size, np.int64), np.empty(batch_size, np.int64)
        weight = np.empty(batch_size if beta else 0, np.float32)
        counter, effective = draw(
            *rows.arrays,
            self._usable,
            config.uniform_share,
            config.draw == "stratified",
            beta,
            _NORMALISERS[config.weight_normaliser],
            self._rarest.smallest if self._rarest else 0.0,
            self._draw.key,
            self._draw.counter,
            slots,
            uids,
            weight,
        )
        if counter < 0:
            raise ReplayError(
                f"all {self._usable} usable rows have priority 0",
                why="a row with priority 0 is never drawn by priority",
                fix="a sampler.priority_epsilon or sampler.uniform_share above 0",
                see="docs/replay.md",
            )
        self._draw.counter = counter
        self._batches += 1
        if not beta:
            return slots, SampleInfo(uid=uids)
        self._log.add_batch(effective)
        return slots, SampleInfo(uid=uids, weight=weight)

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """New priorities d [N], not negative: |TD error| before weighting."""
        slots, uids, p = self._rows.prepare(slots, uids, priority)
        late, largest = assign(*self._rows.arrays, slots, uids, p, self.config.duplicates == "max")
        self._log.add_update(len(slots), late)
        self._rows.notice(slots, largest)
        self._follow(slots)

    def metrics(self) -> dict[str, float]:
        """`per/`: largest and mean p now, effective share of the weighted batches, share of updates that came late."""
        found = self._rows.metrics(self._usable) | self._log.read()
        return {f"per/{name}": value for name, value in found.items()}

    def state_dict(self) -> State:
        """Who lives where with which priority, the place in the annealing, the stream."""
        return {
            "kind": self._kind(),
            "capacity": self.capacity,
            "rows": self._rows.state_dict(),
            "batches": self._batches,
            "log": self._log.state_dict(),
            "draw": self._draw.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity, seed or other settings; another `anneal_batches` is the caller's affair."""
        check_state(state, self._kind(), self.capacity)
        self._draw.load_state_dict(state["draw"])
        self._rows.load_state_dict(state["rows"])
        self._log.load_state_dict(state["log"])
        self._usable = int((self._rows.uid >= 0).sum())
        self._batches = state["batches"]
        self._follow(np.arange(self.capacity))

    def _kind(self) -> str:
        # A run that goes on for longer than planned has another end of the annealing, and is the same run.
        return f"per with {dataclasses.replace(self.config, anneal_batches=None)}"

    def _follow(self, slots: IntArray) -> None:
        """Tell the tree of the rarest row what has become of `slots`."""
        if self._rarest:
            p = self._rows.sums.leaves[slots]
            drawable = p > 0 if self.config.uniform_share == 0 else self._rows.uid[slots] >= 0
            self._rarest.set(slots, np.where(drawable, p, np.inf))


@kernel
def place(p: Float64Array, starts: IntArray, uid: IntArray, slots: IntArray, uids: IntArray, new: Float64Array) -> int:
    """Rows `uids` move into `slots` with p = new [N]; how many of the slots were empty."""
    count = 0
    for i in range(len(slots)):
        count += uid[slots[i]] < 0
        uid[slots[i]], p[slots[i]] = uids[i], new[i]
    refresh_sums(p, starts, slots)
    return count


@kernel
def vacate(p: Float64Array, starts: IntArray, uid: IntArray, slots: IntArray) -> int:
    """Empty `slots`; how many were not empty."""
    count = 0
    for slot in slots:
        count += uid[slot] >= 0
        uid[slot], p[slot] = -1, 0.0
    refresh_sums(p, starts, slots)
    return count


@kernel
def assign(
    p: Float64Array,
    starts: IntArray,
    uid: IntArray,
    slots: IntArray,
    uids: IntArray,
    new: Float64Array,
    keep_largest: bool,
) -> tuple[int, float]:
    """p = new [N] where the row still lives. How many rows do not, and the largest of those that do.

    keep_largest: of several for one slot the largest counts, else the last.
    """
    late, largest = 0, 0.0
    if keep_largest:
        for i in range(len(slots)):
            if 0 <= uid[slots[i]] == uids[i]:
                p[slots[i]] = 0.0
    for i in range(len(slots)):
        slot = slots[i]
        if uid[slot] < 0 or uid[slot] != uids[i]:
            late += 1
            continue
        p[slot] = max(p[slot], new[i]) if keep_largest else new[i]
        largest = max(largest, new[i])
    refresh_sums(p, starts, slots)
    return late, largest


@kernel
def draw(
    p: Float64Array,
    starts: IntArray,
    uid: IntArray,
    usable: int,
    share: float,
    stratified: bool,
    beta: float,
    normaliser: int,
    rarest: float,
    key: np.uint64,
    counter: int,
    slots: IntArray,
    uids: IntArray,
    weight: FloatArray,
) -> tuple[int, float]:
    """Fill `slots`, `uids` and `weight` [B], or [0] if there are no weights. The new counter and the effective share.

    The counter is -1, and nothing is filled, if nothing can be drawn.
    """
    batch, mass = len(slots), total(p, starts)
    if mass == 0:
        if share == 0:
            return -1, 0.0
        share = 1.0
    u = np.empty(batch)
    for j in range(batch):
        u[j] = unit(word(key, np.uint64(counter + j)))
        u[j] = (j + u[j]) * mass / batch if stratified else u[j] * mass
    counter += batch
    find(p, starts, u, slots)
    if share > 0:
        for j in range(batch):
            uniform = unit(word(key, np.uint64(counter))) < share
            counter += 1
            while uniform:
                slots[j] = below(word(key, np.uint64(counter)), len(uid))
                counter += 1
                uniform = uid[slots[j]] < 0
    for j in range(batch):
        uids[j] = uid[slots[j]]
    return counter, weigh(p, mass, usable, share, beta, normaliser, rarest, slots, weight)
