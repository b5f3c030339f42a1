"""RR-C: random reshuffling on a ring (Fujita 2025, arXiv:2503.02269).

Deviates from the paper's code: the order is shuffled lazily by the sampler's own stream instead of at once by numpy's
global one, flat slots of all environments are reshuffled together, and order and cursor are part of the state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlkit.core.errors import ConfigError, ReplayError
from rlkit.core.kernels import below, kernel, word
from rlkit.core.seeding import CounterStream
from rlkit.core.typing import Array, BoolArray, FloatArray, IntArray, State
from rlkit.replay.samplers.sampler import (
    SampleInfo,
    check_batch_size,
    check_slots,
    check_state,
    no_usable_row,
    occupy,
    vacate,
)

FEISTEL_ROUNDS = 8  # with fewer, neighbours in the order are not independent: 4 fail a chi-squared test of adjacency
FEISTEL_MIN_CAPACITY = 4096  # below, halves of so few bits mix poorly, and there is no memory to save


@dataclass(frozen=True)
class ReshuffleConfig:
    """Settings of ReshuffleSampler."""

    # lazy: one swap of Fisher-Yates per visit. array: the same order, shuffled when the epoch begins (10 ms for a
    # million slots). feistel: a pseudo-random order that takes no memory, from 4,096 slots on.
    shuffle: Literal["lazy", "array", "feistel"] = "lazy"
    # A batch that spans two epochs meets a few slots twice. allow: they are in it twice. defer: the second visit waits
    # for the next batch and comes first there.
    epoch_border: Literal["allow", "defer"] = "allow"
    strict: bool = False  # True: a batch larger than the usable rows is an error, not a warning


class ReshuffleSampler:
    """Every slot once per epoch, in random order, while the ring moves under it.

    The order runs over all slots, not over the rows of one moment. A slot whose turn comes is drawn if a usable row
    lives in it then; if not, it has lost its visit. Writing never touches the order: a new row is drawn in this epoch
    if its slot is still ahead, else in the next one. So rows inherit the visits of their slot, and on a full ring with
    r draws per step a row is drawn r times, give or take one (a variance of 1/3; drawn with replacement it is r).

    A visit that `defer` holds back is taken when it is served: by the row that lives in the slot then, or by none.
    A draw that raises has spent the visits that it made.

    usable: a mask of one's own, bool [N] for slots [N], asked at each slot's turn (a held slot is asked again when it
    is served) after those that are not extended have been skipped; must not change within a call of `sample`.

    Raises ConfigError for `feistel` with fewer than 4,096 slots.
    """

    def __init__(
        self,
        capacity: int,
        seed: int,
        config: ReshuffleConfig = ReshuffleConfig(),
        usable: Callable[[IntArray], BoolArray] | None = None,
    ) -> None:
        feistel = config.shuffle == "feistel"
        if feistel and capacity < FEISTEL_MIN_CAPACITY:
            raise ConfigError(
                f"sampler.shuffle feistel with {capacity:,} slots",
                why=f"its orders are random enough from {FEISTEL_MIN_CAPACITY:,} slots on; fewer need no such saving",
                fix="--sampler.shuffle lazy",
                see="docs/replay.md",
            )
        self.capacity, self.config = capacity, config
        self._mask = usable
        self._draw = CounterStream(seed)
        self._uid = np.full(capacity, -1, np.int64)  # row living in each slot; -1 = not usable
        self._usable = 0
        # A permutation of all slots, at every moment; an epoch may start from any.
        self._order: Array = np.arange(0 if feistel else capacity, dtype=np.int32 if capacity < 2**31 else np.int64)
        self._keys = np.empty(FEISTEL_ROUNDS, np.uint64)
        self._epoch, self._cursor = 0, 0
        self._held = np.empty(0, np.int64)  # slots whose visit waits for the next batch, oldest first
        self._visits, self._skipped = 0, 0  # since the last `metrics`
        self._warned = False
        self._begin_epoch()

    def __len__(self) -> int:
        return self._usable

    @property
    def epoch(self) -> int:
        """Finished passes over the slots; one that has just been completed counts once the next begins."""
        return self._epoch

    @property
    def cursor(self) -> int:
        """Slots visited in this epoch, 0 to `capacity`."""
        return self._cursor

    def extend(self, slots: IntArray, uids: IntArray, priority: FloatArray | None = None) -> None:
        """These rows became usable. `priority` is ignored."""
        check_slots(slots, self.capacity, uids)
        self._usable += occupy(self._uid, slots, uids)

    def invalidate(self, slots: IntArray) -> None:
        """These slots stopped being usable."""
        self._usable -= vacate(self._uid, slots)

    def sample(self, batch_size: int) -> tuple[IntArray, SampleInfo]:
        """Slots int64 [B] in the order of their turns; the last ones may belong to the next epoch.

        Raises ReplayError if no row is usable, or if `strict` and the batch is larger than the usable rows.
        """
        check_batch_size(batch_size)
        if self._usable == 0:
            no_usable_row()
        if batch_size > self._usable:
            self._duplicates_unavoidable(batch_size, self._usable)
        slots = self.take(batch_size, self._uid, 0)
        return slots, SampleInfo(uid=self._uid[slots], epoch=self._epoch)

    def take(self, batch_size: int, born: IntArray, oldest: int) -> IntArray:
        """The next slots int64 [B] with born[slot] >= oldest; born: [C], of a caller that knows the rows by itself.

        Raises ReplayError if a whole epoch has none, or if `strict` and it has fewer than B.
        """
        slots = np.empty(batch_size, np.int64)
        filled = self._serve_held(slots, 0, born, oldest)
        begun, border = 0, 0  # epochs that began in this batch; how much of it the last one found
        while filled < batch_size:
            if self._cursor == self.capacity:
                if begun:  # a whole epoch lies in this batch, so all usable rows do
                    found = filled - border + len(self._held)
                    if found == 0:
                        no_usable_row()
                    self._duplicates_unavoidable(batch_size, found)
                    filled = self._serve_held(slots, filled, born, oldest)
                    if filled == batch_size:
                        break
                self._epoch, self._cursor = self._epoch + 1, 0
                self._begin_epoch()
                begun, border = begun + 1, filled
            hold = border if self.config.epoch_border == "defer" and begun == 1 else 0
            filled = self._visit(slots, filled, born, oldest, hold)
        return slots

    def update(self, slots: IntArray, uids: IntArray, priority: FloatArray) -> None:
        """Reshuffling has no priorities."""

    def metrics(self) -> dict[str, float]:
        """`rr/skipped_unusable`: share of the visits that found no usable row (none has been written yet, an episode's
        final frame, a window that is not complete). Nothing if there was no visit.
        """
        visits, skipped = self._visits, self._skipped
        self._visits = self._skipped = 0
        return {"rr/skipped_unusable": skipped / visits} if visits else {}

    def state_dict(self) -> State:
        """Who lives where, the order with the place in it, the visits held back, the stream."""
        return {
            "kind": self._kind(),
            "capacity": self.capacity,
            "uid": self._uid.copy(),
            "order": self._order.copy(),
            "epoch": self._epoch,
            "cursor": self._cursor,
            "held": self._held.copy(),
            "visits": self._visits,
            "skipped": self._skipped,
            "draw": self._draw.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Refuses another kind, capacity, seed or other settings."""
        check_state(state, self._kind(), self.capacity)
        self._draw.load_state_dict(state["draw"])
        self._uid[:], self._order[:] = state["uid"], state["order"]
        self._usable = int((self._uid >= 0).sum())
        self._epoch, self._cursor, self._held = state["epoch"], state["cursor"], state["held"].copy()
        self._visits, self._skipped = state["visits"], state["skipped"]
        feistel_keys(self._draw.key, self._epoch, self._keys)

    def _kind(self) -> str:
        return f"rr-c with {self.config}"

    def _begin_epoch(self) -> None:
        """Whatever has to be known about the order before its first slot."""
        if self.config.shuffle == "array":
            self._draw.counter = shuffle(
                self._order, 0, np.empty(self.capacity, np.int64), self._draw.key, self._draw.counter
            )
        feistel_keys(self._draw.key, self._epoch, self._keys)

    def _visit(self, slots: IntArray, filled: int, born: IntArray, oldest: int, hold: int) -> int:
        """Visit the slots whose turn it is until the batch is full or the epoch over; how much is filled then."""
        held = np.empty(hold, np.int64)
        before = self._cursor
        lazy = self.config.shuffle == "lazy"
        self._cursor, end, count = walk(
            self._order, lazy, self._draw.key, self._draw.counter, self._keys, born, oldest, before, slots, filled, held
        )
        visits = self._cursor - before
        if lazy:
            self._draw.counter += visits
        kept = filled + self._filter(slots[filled:end])
        self._held = np.append(self._held, held[:count]) if count else self._held
        self._visits += visits
        self._skipped += visits - count - (kept - filled)
        return kept

    def _serve_held(self, slots: IntArray, filled: int, born: IntArray, oldest: int) -> int:
        """Fill in the visits that were held back; how much is filled then."""
        while len(self._held) and filled < len(slots):
            served, self._held = np.split(self._held, [len(slots) - filled])
            served = served[born[served] >= oldest]
            slots[filled : filled + len(served)] = served
            filled += self._filter(slots[filled : filled + len(served)])
        return filled

    def _filter(self, slots: IntArray) -> int:
        """Move the slots that the user's mask lets through to the front; how many they are."""
        if self._mask is None:
            return len(slots)
        mask = self._mask(slots)
        if mask.shape != slots.shape or mask.dtype != np.bool_:
            raise ReplayError(
                f"the mask `usable` returned {mask.dtype} {list(mask.shape)} for {len(slots)} slots",
                why="it says for each slot whether it may be drawn",
                fix=f"return bool [{len(slots)}]",
                see="docs/replay.md",
            )
        kept = slots[mask]
        slots[: len(kept)] = kept
        return len(kept)

    def _duplicates_unavoidable(self, batch_size: int, usable: int) -> None:
        """Warn once, or raise if `strict`."""
        what, why = f"a batch of {batch_size} from {usable} usable rows", "some rows are in it more than once"
        if self.config.strict:
            raise ReplayError(
                what,
                why=f"{why}, which sampler.strict forbids",
                fix=f"collect more steps first, or a batch of at most {usable}",
                see="docs/replay.md",
            )
        if not self._warned:
            warnings.warn(f"{what}: {why}", stacklevel=3)
            self._warned = True


@kernel
def shuffle(order: Array, start: int, picks: IntArray, key: np.uint64, counter: int) -> int:
    """Fisher-Yates from the front, for the next len(picks) places from `start` on: one draw each. The new counter.

    picks: scratch. Drawing all of them first takes half the time: the swaps then wait for memory together.
    """
    for k in range(len(picks)):
        here = start + k
        picks[k] = here + below(word(key, np.uint64(counter + k)), len(order) - here)
    for k in range(len(picks)):
        here, pick = start + k, picks[k]
        order[here], order[pick] = order[pick], order[here]
    return counter + len(picks)


@kernel
def walk(
    order: Array,
    lazy: bool,
    key: np.uint64,
    counter: int,
    keys: Array,
    born: IntArray,
    oldest: int,
    cursor: int,
    slots: IntArray,
    filled: int,
    held: IntArray,
) -> tuple[int, int, int]:
    """Visit slots from `cursor` on until `slots` is full or the epoch is over; those with born >= oldest are kept.

    order: the permutation, or empty: the Feistel one of `keys`. lazy: shuffle it here, with one draw per visit.
    held: a slot that is already among the first len(held) of the batch goes there instead.
    Returns the new cursor, how much of `slots` is filled, how many are held.
    """
    capacity, count = len(born), 0
    while filled < len(slots) and cursor < capacity:
        # As many at once as the batch may still take: their cache misses overlap.
        first, visits = filled, min(len(slots) - filled, capacity - cursor)
        if lazy:
            counter = shuffle(order, cursor, slots[first : first + visits], key, counter)
        if len(order):
            for k in range(visits):
                slots[first + k] = order[cursor + k]
        else:
            for k in range(visits):
                slots[first + k] = feistel_slot(cursor + k, keys, capacity)
        cursor += visits
        if len(held) == 0:
            for i in range(first, first + visits):
                slot = slots[i]
                slots[filled] = slot  # overwritten unless counted: no branch to mispredict
                filled += born[slot] >= oldest
            continue
        for i in range(first, first + visits):
            slot = slots[i]
            kept = born[slot] >= oldest
            for j in range(len(held)):
                if kept and slots[j] == slot:
                    held[count] = slot
                    count += 1
                    kept = False
            if kept:
                slots[filled] = slot
                filled += 1
    return cursor, filled, count


def feistel(index: IntArray, capacity: int, seed: int, epoch: int, *, inverse: bool = False) -> IntArray:
    """The slots at places `index` [N] of the order of `epoch`; inverse: the places of slots `index`.

    A Feistel network over bit_length(capacity - 1) bits, at least 2, in two halves (the lower one has the odd bit);
    round j mixes splitmix64(half ^ K_j), K_j = splitmix64(splitmix64(splitmix64(seed) ^ epoch) + j), into the other
    half. Numbers from `capacity` on are mapped again until they are below it (Black and Rogaway 2002, "cycle walking").
    """
    keys = np.empty(FEISTEL_ROUNDS, np.uint64)
    feistel_keys(CounterStream(seed).key, epoch, keys)
    found = np.empty(len(index), np.int64)
    (feistel_places if inverse else feistel_slots)(index, keys, capacity, found)
    return found


@kernel
def feistel_keys(key: np.uint64, epoch: int, keys: Array) -> None:
    """The keys of an epoch's rounds."""
    base = word(key, np.uint64(epoch))
    for j in range(len(keys)):
        keys[j] = word(np.uint64(0), base + np.uint64(j))


@kernel
def feistel_slots(places: IntArray, keys: Array, capacity: int, slots: IntArray) -> None:
    """`feistel` with the keys of its rounds."""
    for i in range(len(places)):
        slots[i] = feistel_slot(places[i], keys, capacity)


@kernel
def feistel_places(slots: IntArray, keys: Array, capacity: int, places: IntArray) -> None:
    """`feistel`, inverse, with the keys of its rounds."""
    low_bits, low_mask, high_mask = feistel_halves(capacity)
    for i in range(len(slots)):
        x = np.uint64(slots[i])
        while True:
            high, low = x >> low_bits, x & low_mask
            for j in range(len(keys) - 2, -1, -2):
                low ^= word(keys[j + 1], high) & low_mask
                high ^= word(keys[j], low) & high_mask
            x = (high << low_bits) | low
            if x < np.uint64(capacity):
                break
        places[i] = x


@kernel
def feistel_slot(place: int, keys: Array, capacity: int) -> int:
    """The slot at one place."""
    low_bits, low_mask, high_mask = feistel_halves(capacity)
    x = np.uint64(place)
    while True:
        high, low = x >> low_bits, x & low_mask
        for j in range(0, len(keys), 2):
            high ^= word(keys[j], low) & high_mask
            low ^= word(keys[j + 1], high) & low_mask
        x = (high << low_bits) | low
        if x < np.uint64(capacity):
            return np.int64(x)  # type: ignore[return-value]  # numba types it


@kernel
def feistel_halves(capacity: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Width of the lower half, masks of the lower and the upper one."""
    bits = 2
    while (capacity - 1) >> bits:
        bits += 1
    one, high_bits = np.uint64(1), np.uint64(bits // 2)
    low_bits = np.uint64(bits) - high_bits
    return low_bits, (one << low_bits) - one, (one << high_bits) - one
