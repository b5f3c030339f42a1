"""Prioritised replay, one row at a time: slow, obvious."""

from __future__ import annotations

import numpy as np

from rlkit.core.seeding import CounterStream
from rlkit.replay.samplers.prioritized import PrioritizedConfig
from rlkit.replay.samplers.rank import RankConfig
from tests.replay.oracles.binary_tree import BinaryTree


class NothingToDrawError(Exception):
    """No usable row, or none with a priority above 0."""


class PriorityOracle:
    """slot -> (uid, p); p of a new row by `new_row`."""

    def __init__(self, capacity: int, exponent: float, rule: str, epsilon: float, new_row: str) -> None:
        self.capacity, self.exponent, self.rule, self.epsilon, self.new_row = capacity, exponent, rule, epsilon, new_row
        self.uid: dict[int, int] = {}
        self.p: dict[int, float] = {}
        self.seen = [1.0]

    def raised(self, priority: float) -> float:
        base = max(priority, self.epsilon) if self.rule == "clamp" else priority + self.epsilon
        return 0.0 if base == 0 else base**self.exponent

    def of_new_row(self) -> float:
        if self.new_row == "running_max":
            return max(self.seen)
        if self.new_row == "in_buffer_max":
            return max(self.p.values(), default=0) or 1.0
        return 1.0

    def tree(self, value) -> BinaryTree:
        tree = BinaryTree(self.capacity)
        slots = sorted(self.p)
        tree.set(np.array(slots, np.int64), np.array([value(slot) for slot in slots]))
        return tree


class PrioritizedOracle(PriorityOracle):
    def __init__(self, capacity: int, seed: int, config: PrioritizedConfig) -> None:
        super().__init__(
            capacity, config.priority_exponent, config.priority_rule, config.priority_epsilon, config.new_row
        )
        self.config, self.stream, self.batches = config, CounterStream(seed), 0

    def extend(self, slots, uids, priority=None):
        values = [self.of_new_row()] * len(slots) if priority is None else [self.raised(d) for d in priority]
        for slot, uid, p in zip(slots, uids, values, strict=True):
            self.uid[slot], self.p[slot] = uid, p
        self.seen += values

    def invalidate(self, slots):
        for slot in slots:
            self.uid.pop(slot, None)
            self.p.pop(slot, None)

    def update(self, slots, uids, priority):
        given = {}
        for slot, uid, d in zip(slots, uids, priority, strict=True):
            if self.uid.get(slot) == uid:
                given.setdefault(slot, []).append(self.raised(d))
        for slot, values in given.items():
            self.p[slot] = values[-1] if self.config.duplicates == "last" else max(values)
            self.seen += values

    def sample(self, batch_size):
        """Slots, uids, weights or None."""
        share, tree, rows = self.config.uniform_share, self.tree(self.p.__getitem__), len(self.p)
        if tree.total == 0 and (share == 0 or rows == 0):
            raise NothingToDrawError
        if tree.total == 0:
            share = 1.0
        u = self.stream.units(batch_size)
        mass = (
            (np.arange(batch_size) + u) * tree.total / batch_size
            if self.config.draw == "stratified"
            else u * tree.total
        )
        slots = tree.find(mass).tolist()
        for j in range(batch_size if share else 0):
            if self.stream.units(1)[0] < share:
                slots[j] = self.stream.integer(0, self.capacity)
                while slots[j] not in self.p:
                    slots[j] = self.stream.integer(0, self.capacity)
        probability = {slot: (1 - share) * p / (tree.total or 1.0) + share / rows for slot, p in self.p.items()}
        beta = self.beta()
        self.batches += 1
        uids = [self.uid[slot] for slot in slots]
        if beta == 0:
            return slots, uids, None
        raw = {slot: (rows * P) ** -beta for slot, P in probability.items() if P > 0}
        largest = {
            "none": 1.0,
            "batch": max(raw[slot] for slot in slots),
            "buffer": max(raw.values()),
        }[self.config.weight_normaliser]
        return slots, uids, [raw[slot] / largest for slot in slots]

    def beta(self):
        config = self.config
        if config.weight_exponent == 0 or config.anneal_batches is None:
            return config.weight_exponent
        passed = min(self.batches / config.anneal_batches, 1)
        return config.weight_exponent + (config.weight_exponent_end - config.weight_exponent) * passed


class RankOracle:
    """A list of (slot, uid), best first, with None for gaps; ranks are the places in it."""

    def __init__(self, capacity: int, seed: int, config: RankConfig) -> None:
        self.capacity, self.config, self.stream = capacity, config, CounterStream(seed)
        self.ranked: list[tuple[int, int] | None] = []
        self.priority: dict[int, float] = {}
        self.updates = 0

    def rows(self):
        return [row for row in self.ranked if row is not None]

    @property
    def uid(self):
        return dict(self.rows())

    def extend(self, slots, uids, priority=None):
        self.invalidate(slots)
        if len(self.ranked) + len(slots) > self.capacity + max(self.capacity // 4, 64):
            self.sort()
        for i, (slot, uid) in enumerate(zip(slots, uids, strict=True)):
            at = [k for k, row in enumerate(self.ranked) if row is not None and row[0] == slot]
            if at:  # twice in one call
                self.ranked[at[0]] = (slot, uid)
            else:
                self.ranked.insert(0, (slot, uid))
            self.priority[slot] = float("inf") if priority is None else priority[i]

    def invalidate(self, slots):
        self.ranked = [None if row is not None and row[0] in set(slots) else row for row in self.ranked]

    def update(self, slots, uids, priority):
        self.updates += 1
        for slot, uid, d in zip(slots, uids, priority, strict=True):
            if (slot, uid) in self.rows():
                self.priority[slot] = d

    def sort(self):
        # `sorted` keeps the order of equals; those that stand before stay before.
        self.ranked = sorted(self.rows(), key=lambda row: -self.priority[row[0]])
        self.updates = 0

    def sample(self, batch_size):
        if not self.rows():
            raise NothingToDrawError
        if self.updates >= self.config.sort_period or len(self.ranked) > 2 * len(self.rows()) + 64:
            self.sort()
        mass = np.cumsum(np.arange(1, len(self.ranked) + 1) ** -self.config.priority_exponent)
        drawn = []
        for j in range(batch_size):
            u = (j + self.stream.units(1)[0]) * mass[-1] / batch_size
            while True:
                place = min(int(np.searchsorted(mass, u, "right")), len(mass) - 1)
                if self.ranked[place] is not None:
                    break
                u = self.stream.units(1)[0] * mass[-1]
            drawn.append(place)
        exponent = self.config.priority_exponent * self.config.weight_exponent
        weights = [((place + 1) / (max(drawn) + 1)) ** exponent for place in drawn]
        rows = [self.ranked[place] for place in drawn]
        return [slot for slot, _ in rows], [uid for _, uid in rows], weights
