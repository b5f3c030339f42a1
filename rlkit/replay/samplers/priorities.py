"""What the samplers by priority have in common: stored priorities, importance weights, and their settings."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from rlkit.core.errors import ReplayError, require
from rlkit.core.kernels import kernel
from rlkit.core.typing import FloatArray, IntArray, State
from rlkit.replay.samplers.sampler import check_priority, check_slots
from rlkit.replay.sum_tree import Float64Array, MinTree, SumTree

PriorityRule: TypeAlias = Literal["add", "clamp"]
NewRow: TypeAlias = Literal["running_max", "in_buffer_max", "constant"]

SMALLEST, LARGEST = 2.0**-960, 2.0**960  # of what is stored and not 0: neither sums nor reciprocals overflow
_NOTHING = {"batches": 0, "effective": 0.0, "updated": 0, "late": 0}
BY_NOTHING, BY_BATCH, BY_BUFFER = 0, 1, 2  # what `weigh` divides by


class Priorities:
    """Who lives in each slot and which p is stored there (0 if nobody): what samplers by priority have in common."""

    def __init__(self, capacity: int, exponent: float, rule: PriorityRule, epsilon: float, new_row: NewRow) -> None:
        self.capacity = capacity
        self.uid = np.full(capacity, -1, np.int64)  # row living in each slot; -1 = not usable
        self.sums = SumTree(capacity)  # p
        self._exponent, self._clamp, self._epsilon, self._new_row = exponent, rule == "clamp", epsilon, new_row
        self._seen = 1.0  # largest p so far; the paper's p_1 = 1 counts
        self._negative = MinTree(capacity) if new_row == "in_buffer_max" else None  # -p: its smallest is the largest p

    @property
    def arrays(self) -> tuple[Float64Array, IntArray, IntArray]:
        """Nodes and levels of the tree of p, and uids: what kernels take."""
        return self.sums.nodes, self.sums.starts, self.uid

    @property
    def new_row(self) -> float:
        """The p of a row whose priority is not known yet."""
        if self._negative:
            return -self._negative.smallest if self._negative.smallest < 0 else 1.0
        return self._seen if self._new_row == "running_max" else 1.0

    def prepare(
        self, slots: IntArray, uids: IntArray, priority: FloatArray | None
    ) -> tuple[IntArray, IntArray, Float64Array]:
        """`prepare` with the settings at hand."""
        return prepare(
            slots, uids, priority, self.capacity, self._clamp, self._epsilon, self._exponent, unknown=self.new_row
        )

    def notice(self, slots: IntArray, largest: float) -> None:
        """The p of `slots` have changed; `largest` of those that were given."""
        self._seen = max(self._seen, float(largest))
        if self._negative:
            self._negative.set(slots, -self.sums.leaves[slots])

    def metrics(self, usable: int) -> dict[str, float]:
        """Largest and mean p of the usable rows."""
        if not usable:
            return {}
        return {"priority_max": float(self.sums.leaves.max()), "priority_mean": self.sums.total / usable}

    def state_dict(self) -> State:
        """Rows, p, and the largest so far; a copy."""
        return {"uid": self.uid.copy(), "p": self.sums.leaves.copy(), "seen": self._seen}

    def load_state_dict(self, state: State) -> None:
        """Continue; trees are functions of their leaves."""
        self.uid[:], self.sums.leaves[:], self._seen = state["uid"], state["p"], state["seen"]
        self.sums.rebuild()
        self.notice(np.arange(self.capacity), 0.0)


class PriorityLog:
    """Since it was read: the mean effective share of weighted batches, (sum w)^2 / (B sum w^2), and late updates."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = dict(_NOTHING)

    def add_batch(self, effective: float) -> None:
        """Count a batch with weights; their effective share is 1 if all are equal."""
        self._counts["batches"] += 1
        self._counts["effective"] += effective

    def add_update(self, rows: int, late: int) -> None:
        """Count new priorities, and those of them whose row was gone."""
        self._counts["updated"] += rows
        self._counts["late"] += late

    def read(self) -> dict[str, float]:
        """What there is to tell; the counts start anew."""
        counts, found = self._counts, dict[str, float]()
        if counts["batches"]:
            found["weight_effective_share"] = counts["effective"] / counts["batches"]
        if counts["updated"]:
            found["late_updates"] = counts["late"] / counts["updated"]
        self._counts = dict(_NOTHING)
        return found

    def state_dict(self) -> State:
        """The counts; a copy."""
        return dict(self._counts)

    def load_state_dict(self, state: State) -> None:
        """Continue."""
        self._counts = dict(state)


def annealed(start: float, end: float, batches: int, anneal_batches: int | None) -> float:
    """beta after `batches` batches: on a line from start to end in `anneal_batches`. A start of 0 stays: no weights."""
    if anneal_batches is None or start == 0:
        return start
    return start + (end - start) * min(batches / anneal_batches, 1.0)


def require_setting(holds: bool, name: str, value: object, allowed: str) -> None:
    """ConfigError about sampler.`name` unless `holds`."""
    require(holds, f"sampler.{name}", value, allowed, see="docs/replay.md")


def check_priority_settings(exponent: float, epsilon: float) -> None:
    """ConfigError unless both are 0 or more."""
    require_setting(0 <= exponent < np.inf, "priority_exponent", exponent, "0 or more")
    require_setting(0 <= epsilon < np.inf, "priority_epsilon", epsilon, "0 or more")


def check_weight_settings(start: float, end: float, anneal_batches: int | None) -> None:
    """ConfigError unless the exponents are 0 or more and the annealing takes a batch at least."""
    require_setting(0 <= start < np.inf, "weight_exponent", start, "0 or more")
    require_setting(0 <= end < np.inf, "weight_exponent_end", end, "0 or more")
    require_setting(
        anneal_batches is None or anneal_batches >= 1, "anneal_batches", anneal_batches, "1 or more, or null"
    )


def prepare(
    slots: IntArray,
    uids: IntArray,
    priority: FloatArray | None,
    capacity: int,
    clamp: bool,
    epsilon: float,
    exponent: float,
    *,
    unknown: float,
) -> tuple[IntArray, IntArray, Float64Array]:
    """Arguments of `extend` and `update`, checked and as kernels take them, with p [N]; without priorities `unknown`.

    Raises ReplayError for a slot out of range or a priority that is negative or not finite.
    """
    slots, uids = np.ascontiguousarray(slots, np.int64), np.ascontiguousarray(uids, np.int64)
    if slots.ndim != 1 or uids.shape != slots.shape:
        raise ReplayError(
            f"slots of shape {list(slots.shape)} and uids of shape {list(uids.shape)}",
            why="every slot needs the number of its row; nothing has been changed",
            fix="slots and uids of shape [N]",
            see="docs/replay.md",
        )
    d = np.empty(0) if priority is None else np.ascontiguousarray(priority, np.float64)
    p = np.empty(len(slots))
    fits = priority is None or d.shape == p.shape
    if not fits or not raise_all(slots, d, capacity, clamp, epsilon, exponent, unknown, p):
        check_slots(slots, capacity)
        if priority is not None:
            check_priority(priority, slots)
    return slots, uids, p


@kernel
def raise_all(
    slots: IntArray,
    d: Float64Array,
    capacity: int,
    clamp: bool,
    epsilon: float,
    exponent: float,
    unknown: float,
    p: Float64Array,
) -> bool:
    """p [N] = (d + epsilon)^exponent, or max(d, epsilon)^exponent, with 0^0 = 0; `unknown` if d is [0] instead of [N].

    False, and p is of no use, for a slot out of range or a d that is negative or not finite.
    """
    for i in range(len(p)):
        if not 0 <= slots[i] < capacity:
            return False
        if len(d) == 0:
            p[i] = unknown
            continue
        if not 0 <= d[i] < np.inf:
            return False
        base = max(d[i], epsilon) if clamp else d[i] + epsilon
        raised = base**exponent if base > 0 else 0.0
        p[i] = min(raised, LARGEST) if raised >= SMALLEST else 0.0
    return True


@kernel
def living(uid: IntArray, slots: IntArray) -> IntArray:
    """Those of `slots`, which may be anything, that hold a usable row."""
    found, count = np.empty(len(slots), np.int64), 0
    for slot in slots:
        if 0 <= slot < len(uid) and uid[slot] >= 0:
            found[count] = slot
            count += 1
    return found[:count]


@kernel
def weigh(
    p: Float64Array,
    mass: float,
    usable: int,
    share: float,
    beta: float,
    normaliser: int,
    rarest: float,
    slots: IntArray,
    weight: FloatArray,
) -> float:
    """weight = (N P(slot))^-beta over 1, the largest of the batch, or that of a row with p = `rarest`.

    P = (1 - share) p / mass + share / N; mass: sum p; N: `usable`. Returns the effective share of the batch,
    (sum w)^2 / (B sum w^2).
    """
    by_priority = (1 - share) / mass if share < 1 else 0.0
    raw = np.empty(len(weight))
    for j in range(len(weight)):
        raw[j] = (usable * (by_priority * p[slots[j]] + share / usable)) ** -beta
    largest = 1.0
    if normaliser == BY_BATCH:
        largest = raw.max() if len(raw) else 1.0
    elif normaliser == BY_BUFFER:
        largest = (usable * (by_priority * rarest + share / usable)) ** -beta
    first, second = 0.0, 0.0
    for j in range(len(weight)):
        w = raw[j] / largest
        weight[j] = w
        first, second = first + w, second + w * w
    return first * first / (len(weight) * second) if second > 0 else 0.0
