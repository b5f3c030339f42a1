"""Order of arrival as plain lists, and the samplers that go by it: slow, obvious."""

from __future__ import annotations

from rlkit.core.seeding import splitmix64


class ArrivalOracle:
    """(slot, uid) from the oldest to the newest; None where a row has left. None is never first or last."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.entries: list[tuple[int, int] | None] = []

    @property
    def rows(self) -> dict[int, int]:
        return dict(entry for entry in self.entries if entry)

    def extend(self, slots: list[int], uids: list[int]) -> None:
        for slot, uid in zip(slots, uids, strict=True):
            if len(self.entries) == 2 * self.capacity:
                self.entries = [entry for entry in self.entries if entry]
            self._remove(slot)
            self.entries.append((slot, uid))
        self._trim()

    def invalidate(self, slots: list[int]) -> None:
        for slot in slots:
            self._remove(slot)
        self._trim()

    def _remove(self, slot: int) -> None:
        self.entries = [None if entry and entry[0] == slot else entry for entry in self.entries]

    def _trim(self) -> None:
        while self.entries and self.entries[-1] is None:
            self.entries.pop()
        while self.entries and self.entries[0] is None:
            self.entries.pop(0)


class RecencyOracle(ArrivalOracle):
    """Draws from the newest entries, again where a row has left; draw q is splitmix64(splitmix64(seed) ^ q)."""

    def __init__(self, capacity: int, seed: int):
        super().__init__(capacity)
        self.key, self.draws = splitmix64(seed), 0

    def sample(self, batch_size: int, newest: int) -> tuple[list[int], list[int]]:
        window, batch = self.entries[-newest:], []
        while len(batch) < batch_size:
            back = splitmix64(self.key ^ self.draws) * len(window) >> 64
            self.draws += 1
            entry = window[-1 - back]
            if entry:
                batch.append(entry)
        return [slot for slot, _ in batch], [uid for _, uid in batch]


class ConsumeOracle:
    """A queue of (slot, uid); a row goes to its end until it has had all its visits."""

    def __init__(self, max_visits: int):
        self.max_visits = max_visits
        self.queue: list[tuple[int, int]] = []
        self.visits: dict[int, int] = {}  # uid -> visits

    def extend(self, slots: list[int], uids: list[int]) -> None:
        for slot, uid in zip(slots, uids, strict=True):
            self.invalidate([slot])
            if self.visits.get(uid, 0) < self.max_visits:
                self.queue.append((slot, uid))

    def invalidate(self, slots: list[int]) -> None:
        self.queue = [row for row in self.queue if row[0] not in slots]

    def sample(self, batch_size: int) -> tuple[list[int], list[int]]:
        assert batch_size <= len(self.queue)
        batch, self.queue = self.queue[:batch_size], self.queue[batch_size:]
        for slot, uid in batch:
            self.visits[uid] = self.visits.get(uid, 0) + 1
            if self.visits[uid] < self.max_visits:
                self.queue.append((slot, uid))
        return [slot for slot, _ in batch], [uid for _, uid in batch]
