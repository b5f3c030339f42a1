"""RR-M as the paper's code has it, with its bugs mended: both counts of every row, looked at in every call. O(C)."""

from __future__ import annotations

from rlkit.core.seeding import CounterStream
from rlkit.replay.samplers.masked import MaskedReshuffleConfig
from tests.replay.oracles.prioritized import NothingToDrawError, PriorityOracle


class MaskedReshuffleOracle(PriorityOracle):
    """`mask_all`: every row with a > e is masked at the next call; else only one that was drawn or given a new p."""

    def __init__(self, capacity: int, seed: int, config: MaskedReshuffleConfig, *, mask_all: bool) -> None:
        super().__init__(
            capacity, config.priority_exponent, config.priority_rule, config.priority_epsilon, config.new_row
        )
        self.config, self.stream, self.mask_all = config, CounterStream(seed), mask_all
        self.expected: dict[int, float] = {}
        self.actual: dict[int, int] = {}
        self.masked: set[int] = set()
        self.soft = 0

    def extend(self, slots, uids, priority=None):
        values = [self.of_new_row()] * len(slots) if priority is None else [self.raised(d) for d in priority]
        self.invalidate(slots)
        for slot, uid, p in zip(slots, uids, values, strict=True):
            self.uid[slot], self.p[slot], self.expected[slot], self.actual[slot] = uid, p, 0.0, 0
        self.seen += values

    def invalidate(self, slots):
        gone = 0.0
        for slot in dict.fromkeys(slots):
            if slot in self.uid:
                gone += self.expected.pop(slot) - self.actual.pop(slot)
                del self.uid[slot], self.p[slot]
                self.masked.discard(slot)
        left = sum(self.p.values())
        if self.config.rebalance == "shift" and left > 0:
            for slot, p in self.p.items():
                self.expected[slot] += p * gone / left

    def update(self, slots, uids, priority):
        for slot, uid, d in zip(slots, uids, priority, strict=True):
            if self.uid.get(slot) == uid:
                self.p[slot] = self.raised(d)
                self.seen.append(self.p[slot])
                self.remask([slot])

    def remask(self, slots):
        for slot in slots:
            self.masked.discard(slot)
            if self.actual[slot] > self.expected[slot]:
                self.masked.add(slot)

    def sample(self, batch_size):
        """Slots and uids."""
        if batch_size > sum(p > 0 for p in self.p.values()) or not self.p:
            raise NothingToDrawError
        self.remask(list(self.p) if self.mask_all else list(self.masked))
        drawn: dict[int, int] = {}  # place in the batch -> slot
        while len(drawn) < batch_size:
            taken = set(drawn.values())
            tree = self.tree(
                lambda slot: 0.0 if slot in taken else self.p[slot] * (1e-8 if slot in self.masked else 1.0)  # noqa: B023
            )
            places = [place for place in range(batch_size) if place not in drawn]
            for place, slot in zip(places, tree.find(self.stream.units(len(places)) * tree.total), strict=True):
                if int(slot) not in drawn.values():
                    drawn[place] = int(slot)
        slots = [drawn[place] for place in range(batch_size)]
        self.soft += len(self.masked & set(slots))
        total = self.tree(self.p.__getitem__).total
        for slot, p in self.p.items():
            self.expected[slot] += batch_size * p / total
        for slot in slots:
            self.actual[slot] += 1
        self.remask(slots)
        return slots, [self.uid[slot] for slot in slots]
