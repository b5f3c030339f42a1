"""RR-M: reshuffling for prioritised replay by masking (Fujita 2025, arXiv:2503.02269), with LAP's priorities.

Deviates from the paper's code: a call costs O(B log C) instead of O(C); leaves that a draw sets to 0 are restored by
that draw; a row's counts begin when it becomes usable, not one row off; when a row is overwritten, all expected counts
are shifted in proportion to their priorities instead of scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkit.core.errors import ReplayError
from rlkit.core.kernels import kernel, unit, word
from rlkit.core.seeding import CounterStream
from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers.priorities import (
    BY_BATCH,
    NewRow,
    Priorities,
    PriorityLog,
    PriorityRule,
    check_priority_settings,
    living,
    require_setting,
    weigh,
)
from rlkit.replay.samplers.sampler import SampleInfo, batch_too_large, check_batch_size, check_state, no_usable_row
from rlkit.replay.sum_tree import (
    Float64Array,
    MinTree,
    SumTree,
    at_most,
    find,
    refresh_minima,
    refresh_sums,
    total,
)

SOFT = 1e-8  # of its priority is what a masked row keeps, so that a batch can be filled when all rows are masked
USABLE, DRAWABLE = 0, 1  # places in `MaskedReshuffleSampler._counts`


@dataclass(frozen=True)
class MaskedReshuffleConfig:
    """Settings of MaskedReshuffleSampler. p is what is stored for a row, d the priority that `update` is given."""

    priority_exponent: float = 0.6  # alpha
    # add: p = (d + epsilon)^alpha. clamp: p = max(d, epsilon)^alpha. A row with p = 0 is not drawn.
    priority_rule: PriorityRule = "clamp"
    priority_epsilon: float = 0.01
    # p of a new row: the largest so far, the largest of the rows that are usable now, or 1. The first two start at 1.
    new_row: NewRow = "running_max"
    # A row that goes was ahead of its expected count, or behind. shift: the expected counts of the others move by that
    # much, in proportion to their p, so that both counts have the same sum for ever. none: the sums drift apart a bit.
    rebalance: Literal["shift", "none"] = "shift"
    weight_exponent: float = 0.0  # beta of importance weights (N p / sum p)^-beta over the batch's largest; 0: none

    def __post_init__(self) -> None:
        check_priority_settings(self.priority_exponent, self.priority_epsilon)
        require_setting(0 <= self.weight_exponent < np.inf, "weight_exponent", self.weight_exponent, "0 or more")


class MaskedReshuffleSampler:
    """Draws by priority, but a row that has been drawn more often than its priorities warrant waits until it has not.

    Every batch of B adds B p_i / sum p to the expected count e_i of each row and 1 to the actual count a_i of those
    drawn. Rows with a_i > e_i are masked. No row is twice in a batch.

    Neither count is kept: all e_i grow with one clock, sum over batches of B / sum p, so it is enough to know for each
    row when the clock makes its counts equal, `due`: a draw puts it off by 1 / p_i, a change of p_i scales the time
    left. Only a draw or a new p_i can mask a row, and the masked ones wait in a minimum tree of `due`.

    On average rows are drawn in proportion to their p, but the next batch is not: weights take P(i) = p_i / sum p.
    Priorities that differ by more than twelve orders of magnitude blur the clock: keep `priority_epsilon` above 0.
    """

    def __init__(self, capacity: int, seed: int, config: MaskedReshuffleConfig = MaskedReshuffleConfig()) -> None:
        self.capacity, self.config = capacity, config
        self._draw = CounterStream(seed)
        self._priorities = Priorities(
            capacity, config.priority_exponent, config.priority_rule, config.priority_epsilon, config.new_row
        )
        self._open = SumTree(capacity)  # p, or SOFT p where masked; 0 while the batch is filled that the row is in
        self._masked = MinTree(capacity)  # due where masked, else inf
        self._due = np.zeros(capacity)  # clock at which a = e; where p = 0 no clock will do, and it is a - e
        self._counts = np.zeros(2, np.int64)  # rows that are usable, and those of them with p > 0
        self._clock = 0.0
        # Rows of the last batch: their parents in the trees of open and of masked rows are left to the next call, which
        # mostly is the `update` of the same rows and computes them anyway.
        self._stale = np.empty(0, np.int64)
        self._drawn, self._soft, self._log = 0, 0, PriorityLog()  # since the last `metrics`

    def __len__(self) -> int:
        return int(self._counts[USABLE])

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable, with counts of 0; without `priority` [N] they get what `new_row` says."""
        slots, uids, p = self._priorities.prepare(slots, uids, priority)
        self.invalidate(slots)
        self._settle()
        insert(*self._arrays, self._clock, slots, uids, p)
        self._priorities.notice(slots, p.max(initial=0.0))

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        slots = living(self._priorities.uid, np.ascontiguousarray(slots, np.int64))
        if slots.size:
            self._settle()
            self._clock = remove(*self._arrays, self._clock, slots, self.config.rebalance == "shift")
            self._priorities.notice(slots, 0.0)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B], all different.

        Raises ReplayError if there are fewer usable rows, or fewer with a priority above 0.
        """
        check_batch_size(batch_size)
        usable, drawable = self._counts.tolist()
        if usable == 0:
            no_usable_row()
        if batch_size > usable:
            batch_too_large(batch_size, usable, "rr-m")
        if drawable < max(batch_size, 1):
            raise ReplayError(
                f"a batch of {batch_size} from {drawable} rows with a priority above 0",
                why="rr-m draws no row twice in a batch, and none of priority 0",
                fix="a sampler.priority_epsilon above 0, or a smaller batch",
                see="docs/replay.md",
            )
        slots, uids = np.empty(batch_size, np.int64), np.empty(batch_size, np.int64)
        beta = self.config.weight_exponent
        weight = np.empty(batch_size if beta else 0, np.float32)
        self._settle()
        self._draw.counter, self._clock, soft, effective = draw(
            *self._arrays, self._clock, beta, self._draw.key, self._draw.counter, slots, uids, weight
        )
        self._stale = slots.copy()  # the caller may do with `slots` as it likes
        self._drawn, self._soft = self._drawn + batch_size, self._soft + soft
        if not beta:
            return slots, SampleInfo(uid=uids)
        self._log.add_batch(effective)
        return slots, SampleInfo(uid=uids, weight=weight)

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """New priorities d [N], not negative; the last one wins where a row is there twice."""
        slots, uids, p = self._priorities.prepare(slots, uids, priority)
        late, largest = assign(*self._arrays, self._clock, slots, uids, p, self._stale)
        self._stale = self._stale[:0]
        self._log.add_update(len(slots), late)
        self._priorities.notice(slots, largest)

    def metrics(self) -> dict[str, float]:
        """`rr/`: share of the rows that are masked, of the draws that took one; p, weights, late updates as in per."""
        found = self._priorities.metrics(len(self)) | self._log.read()
        if len(self):
            due = self._masked.leaves
            found["masked_share"] = float(((due > self._clock) & (due < np.inf)).sum()) / len(self)
        if self._drawn:
            found["soft_masked_draws"] = self._soft / self._drawn
        self._drawn = self._soft = 0
        return {f"rr/{name}": value for name, value in found.items()}

    def state_dict(self) -> State:
        """Who lives where with which priority, the clock and when each row is due, the stream."""
        return {
            "kind": self._kind(),
            "capacity": self.capacity,
            "priorities": self._priorities.state_dict(),
            "due": self._due.copy(),
            "masked": self._masked.leaves < np.inf,
            "clock": self._clock,
            "drawn": self._drawn,
            "soft": self._soft,
            "log": self._log.state_dict(),
            "draw": self._draw.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity, seed or other settings."""
        check_state(state, self._kind(), self.capacity)
        self._draw.load_state_dict(state["draw"])
        self._priorities.load_state_dict(state["priorities"])
        self._log.load_state_dict(state["log"])
        self._clock = state["clock"]
        self._drawn, self._soft = state["drawn"], state["soft"]
        p, masked = self._priorities.sums.leaves, state["masked"]
        self._due[:] = state["due"]
        self._counts[:] = (self._priorities.uid >= 0).sum(), np.count_nonzero(p)
        self._open.leaves[:] = np.where(masked, p * SOFT, p)
        self._masked.leaves[:] = np.where(masked, state["due"], np.inf)
        self._open.rebuild()
        self._masked.rebuild()
        self._stale = self._stale[:0]

    def _settle(self) -> None:
        """Compute what the last batch left stale."""
        if self._stale.size:
            refresh_masks(self._open.nodes, self._masked.nodes, self._priorities.sums.starts, self._stale)
            self._stale = self._stale[:0]

    @property
    def _arrays(self) -> tuple[Float64Array, Float64Array, Float64Array, IntArray, Float64Array, IntArray, IntArray]:
        """What the kernels take; the three trees have the same shape."""
        p, starts, uid = self._priorities.arrays
        return p, self._open.nodes, self._masked.nodes, starts, self._due, uid, self._counts

    def _kind(self) -> str:
        return f"rr-m with {self.config}"


@kernel
def lead(p: float, due: float, clock: float) -> float:
    """a - e of a row: by how much it is ahead."""
    return p * (due - clock) if p > 0 else due


@kernel
def mask(
    p: Float64Array, open_: Float64Array, masked: Float64Array, due: Float64Array, clock: float, slot: int
) -> None:
    """The leaves of a row in the trees that masking moves; their parents wait for a refresh."""
    waits = p[slot] > 0 and due[slot] > clock
    open_[slot] = p[slot] * SOFT if waits else p[slot]
    masked[slot] = due[slot] if waits else np.inf


@kernel
def refresh(p: Float64Array, open_: Float64Array, masked: Float64Array, starts: IntArray, slots: IntArray) -> None:
    """Compute the parents of `slots` in all three trees."""
    refresh_sums(p, starts, slots)
    refresh_masks(open_, masked, starts, slots)


@kernel
def refresh_masks(open_: Float64Array, masked: Float64Array, starts: IntArray, slots: IntArray) -> None:
    """Compute the parents of `slots` in the two trees that masking moves."""
    refresh_sums(open_, starts, slots)
    refresh_minima(masked, starts, slots)


@kernel
def insert(
    p: Float64Array,
    open_: Float64Array,
    masked: Float64Array,
    starts: IntArray,
    due: Float64Array,
    uid: IntArray,
    counts: IntArray,
    clock: float,
    slots: IntArray,
    uids: IntArray,
    new: Float64Array,
) -> None:
    """Rows `uids` move into the empty `slots` with p = new [N]."""
    for i in range(len(slots)):
        slot = slots[i]
        counts[USABLE] += uid[slot] < 0
        counts[DRAWABLE] += np.int64(new[i] > 0) - np.int64(p[slot] > 0)
        uid[slot], p[slot], due[slot] = uids[i], new[i], clock if new[i] > 0 else 0.0
        mask(p, open_, masked, due, clock, slot)
    refresh(p, open_, masked, starts, slots)


@kernel
def remove(
    p: Float64Array,
    open_: Float64Array,
    masked: Float64Array,
    starts: IntArray,
    due: Float64Array,
    uid: IntArray,
    counts: IntArray,
    clock: float,
    slots: IntArray,
    shift: bool,
) -> float:
    """Empty `slots`. The new clock."""
    gone = 0.0
    for slot in slots:
        if uid[slot] >= 0:
            counts[USABLE] -= 1
            counts[DRAWABLE] -= np.int64(p[slot] > 0)
            gone += lead(p[slot], due[slot], clock)
            uid[slot], p[slot], due[slot] = -1, 0.0, 0.0
            mask(p, open_, masked, due, clock, slot)
    refresh(p, open_, masked, starts, slots)
    return clock - gone / total(p, starts) if shift and counts[DRAWABLE] else clock


@kernel
def assign(
    p: Float64Array,
    open_: Float64Array,
    masked: Float64Array,
    starts: IntArray,
    due: Float64Array,
    uid: IntArray,
    counts: IntArray,
    clock: float,
    slots: IntArray,
    uids: IntArray,
    new: Float64Array,
    stale: IntArray,
) -> tuple[int, float]:
    """p = new [N] where the row still lives. How many rows do not, and the largest of those that do.

    The parents of `stale` have not been computed since the draw.
    """
    late, largest = 0, 0.0
    for i in range(len(slots)):
        slot = slots[i]
        if uid[slot] < 0 or uid[slot] != uids[i]:
            late += 1
            continue
        ahead = lead(p[slot], due[slot], clock)
        counts[DRAWABLE] += np.int64(new[i] > 0) - np.int64(p[slot] > 0)
        due[slot] = clock + ahead / new[i] if new[i] > 0 else ahead
        p[slot] = new[i]
        mask(p, open_, masked, due, clock, slot)
        largest = max(largest, new[i])
    if not np.array_equal(slots, stale):
        refresh_masks(open_, masked, starts, stale)
    refresh(p, open_, masked, starts, slots)
    return late, largest


@kernel
def unmask(
    p: Float64Array, open_: Float64Array, masked: Float64Array, starts: IntArray, clock: float, at_once: int
) -> None:
    """Rows that are due by now wait no longer."""
    found = np.empty(at_once, np.int64)
    count = len(found)
    while count == len(found):
        count = at_most(masked, starts, clock, found)
        slots = found[:count]
        for slot in slots:
            open_[slot], masked[slot] = p[slot], np.inf
        refresh_masks(open_, masked, starts, slots)


@kernel
def draw(
    p: Float64Array,
    open_: Float64Array,
    masked: Float64Array,
    starts: IntArray,
    due: Float64Array,
    uid: IntArray,
    counts: IntArray,
    clock: float,
    beta: float,
    key: np.uint64,
    counter: int,
    slots: IntArray,
    uids: IntArray,
    weight: FloatArray,
) -> tuple[int, float, int, float]:
    """Fill `slots`, `uids` and `weight` [B], or [0] if there are no weights. There must be B rows with p > 0.

    The parents of `slots` in `open_` and `masked` are left to `refresh_masks`.
    Returns the new counter and clock, how many of the rows were masked, and the effective share of the weights.
    """
    batch, soft = len(slots), 0
    unmask(p, open_, masked, starts, clock, 2 * batch)  # about as many are due as are drawn
    places, u, found = np.arange(batch), np.empty(batch), np.empty(batch, np.int64)
    missing = batch
    while missing:
        mass = total(open_, starts)
        for j in range(missing):
            u[j] = unit(word(key, np.uint64(counter + j))) * mass
        counter += missing
        find(open_, starts, u[:missing], found[:missing])
        left = 0
        for j in range(missing):
            slot, here = found[j], places[j]
            if open_[slot] > 0:
                slots[here], open_[slot] = slot, 0.0
                soft += masked[slot] < np.inf
            else:  # drawn before in this batch
                places[left] = here
                left += 1
        if left:
            refresh_sums(open_, starts, found[:missing])
        missing = left

    mass = total(p, starts)
    clock += batch / mass
    for j in range(batch):
        slot = slots[j]
        uids[j] = uid[slot]
        due[slot] += 1 / p[slot]
    for slot in slots:  # a loop of its own: more of the divisions overlap
        mask(p, open_, masked, due, clock, slot)
    return counter, clock, soft, weigh(p, mass, counts[USABLE], 0.0, beta, BY_BATCH, 0.0, slots, weight)
