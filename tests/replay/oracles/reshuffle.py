"""RR-C with plain lists, one visit at a time: slow, obvious."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from rlkit.core.seeding import splitmix64

MASK = (1 << 64) - 1


def fisher_yates_orders(capacity: int, seed: int) -> Iterator[list[int]]:
    """The order of each epoch, shuffled from that of the one before; draw q is splitmix64(splitmix64(seed) ^ q)."""
    order, draws = list(range(capacity)), count()
    while True:
        for k in range(capacity):
            j = k + (splitmix64(splitmix64(seed) ^ next(draws)) * (capacity - k) >> 64)
            order[k], order[j] = order[j], order[k]
        yield list(order)


def feistel_orders(capacity: int, seed: int) -> Iterator[list[int]]:
    """The order of each epoch by the Feistel network with 8 rounds."""
    for epoch in count():
        base = splitmix64(splitmix64(seed) ^ epoch)
        keys = [splitmix64((base + j) & MASK) for j in range(8)]
        yield [feistel_slot(place, capacity, keys) for place in range(capacity)]


def feistel_slot(place: int, capacity: int, keys: list[int]) -> int:
    bits = max(2, (capacity - 1).bit_length())
    high_bits, low_bits = bits // 2, bits - bits // 2
    x = place
    while True:
        high, low = x >> low_bits, x % 2**low_bits
        for j, key in enumerate(keys):
            if j % 2 == 0:
                high ^= splitmix64(low ^ key) % 2**high_bits
            else:
                low ^= splitmix64(high ^ key) % 2**low_bits
        x = high * 2**low_bits + low
        if x < capacity:
            return x


class NoRowError(Exception):
    """Nothing to draw."""


class DuplicatesError(Exception):
    """Strict, and the batch is larger than the usable rows."""


class ReshuffleOracle:
    """`orders` are the permutations of the epochs; `masked` the slots that the user's mask forbids."""

    def __init__(self, capacity: int, orders: Iterable[list[int]], *, defer: bool = False, strict: bool = False):
        self.capacity, self.orders, self.defer, self.strict = capacity, iter(orders), defer, strict
        self.rows: dict[int, int] = {}  # slot -> uid
        self.masked: set[int] = set()
        self.order, self.cursor, self.epoch = next(self.orders), 0, 0
        self.held: list[int] = []
        self.found = False  # a row in this epoch
        self.visits = self.skipped = 0

    def extend(self, slots: list[int], uids: list[int]) -> None:
        self.rows.update(zip(slots, uids, strict=True))

    def invalidate(self, slots: list[int]) -> None:
        for slot in slots:
            self.rows.pop(slot, None)

    def usable(self, slot: int) -> bool:
        return slot in self.rows and slot not in self.masked

    def sample(self, batch_size: int) -> tuple[list[int], list[int]]:
        """Slots and uids."""
        if not self.rows:
            raise NoRowError
        if self.strict and batch_size > len(self.rows):
            raise DuplicatesError
        batch: list[int] = []
        begun = 0
        self.serve_held(batch, batch_size)
        while len(batch) < batch_size:
            if self.cursor == self.capacity:
                if begun:
                    if not self.found:
                        raise NoRowError
                    if self.strict:
                        raise DuplicatesError
                    self.serve_held(batch, batch_size)  # they will be in it twice in any case
                    if len(batch) == batch_size:
                        break
                self.order, self.cursor, self.epoch = next(self.orders), 0, self.epoch + 1
                self.found = False
                begun += 1
            slot = self.order[self.cursor]
            self.cursor += 1
            self.visits += 1
            if not self.usable(slot):
                self.skipped += 1
                continue
            self.found = True
            if self.defer and begun == 1 and slot in batch:
                self.held.append(slot)
            else:
                batch.append(slot)
        return batch, [self.rows[slot] for slot in batch]

    def serve_held(self, batch: list[int], batch_size: int) -> None:
        while self.held and len(batch) < batch_size:
            slot = self.held.pop(0)
            if self.usable(slot):
                batch.append(slot)
