"""Running telemetry of a replay buffer: ages, visits and duplicates, at two bytes a slot and microseconds a batch.

What to expect of the numbers: replay/visits.py.
"""

from __future__ import annotations

import numpy as np

from rlkit.core.errors import ResumeError
from rlkit.core.kernels import kernel
from rlkit.core.typing import Array, IntArray, State

_NOT_USABLE = -32_768  # in place of a counter; that of a suspended row is held as its complement, which is negative
_MOST_VISITS = 32_766  # where a counter stops; its complement is not _NOT_USABLE
# An age falls into the bin of (age + 1)'s leading bits: 16 bins an octave, so ages below 31 have one each.
_BINS_PER_OCTAVE, _BINS = 16, 16 * 48
# Places in the tally. Whole numbers, so that the order of additions cannot matter.
_BATCHES, _DRAWS, _DUPLICATES, _AGE, _FIRST_VISITS, _FIRST_AGE, _DEAD, _NEVER, _VISITS, _SQUARES, _PLACES = range(11)


class DrawTelemetry:
    """Counts the draws of each row and reads the counter out when the row is overwritten.

    Slots are trusted to lie in [0, capacity): they come from a sampler, which has checked them.
    """

    def __init__(self, capacity: int, visits: Array | None = None) -> None:
        """`visits`: int16 [C] to count in, where a row's other data lie; None = an array of its own."""
        self.capacity = capacity
        self._visits = np.empty(capacity, np.int16) if visits is None else visits  # of the row that lives in each slot
        self._visits[:] = _NOT_USABLE
        self._tally = np.zeros(_PLACES, np.int64)  # since the last flush, as are the ages
        self._ages = np.zeros(_BINS, np.int64)
        self._histogram = np.zeros(_MOST_VISITS + 2, np.int64)  # since the beginning
        self._told = self._histogram.copy()  # at the last flush

    def drawn(self, slots: IntArray, ages: IntArray) -> None:
        """A batch was drawn. slots: [B]; ages: [B] rows that the environment has written since, in env steps."""
        count_draws(slots, ages, self._visits, self._ages, self._tally)

    def extended(self, slots: IntArray) -> None:
        """The rows in these slots have become usable: their counters start, or go on if they were suspended."""
        start_counts(slots, self._visits)

    def suspended(self, slots: IntArray) -> None:
        """The rows in these slots cannot be drawn now, but live on: their counters wait."""
        suspend_counts(slots, self._visits)

    def invalidated(self, slots: IntArray) -> None:
        """The rows in these slots will not be drawn again; those that never could be do not count."""
        count_evictions(slots, self._visits, self._histogram, self._tally)

    def usable(self) -> IntArray:
        """Slots whose rows may be drawn now, in ascending order."""
        return np.flatnonzero(self._visits >= 0)

    def flush(self) -> dict[str, float]:
        """Metrics since the last flush; a key without data is left out.

        In env steps: `age_mean` and `age_p90` (within 4 %) of drawn rows, `first_visit_delay`, the mean age at a row's
        first draw. `duplicates`: draws in a batch whose row was already in it, mean over the batches. Of overwritten
        rows: `visits_mean`, `visits_var`, `never_drawn`, the share without a draw, and a coarse histogram: the shares
        `visits_0`, `visits_1`, `visits_2_3`, `visits_4_7` and so on, up to the last that is not 0. Counters stop at
        32,766 visits.
        """
        tally, metrics = [int(count) for count in self._tally], {}
        if tally[_DRAWS]:
            metrics["replay/age_mean"] = tally[_AGE] / tally[_DRAWS]
            metrics["replay/age_p90"] = age_quantile(self._ages, 0.9)
            metrics["replay/duplicates"] = tally[_DUPLICATES] / tally[_BATCHES]
        if tally[_FIRST_VISITS]:
            metrics["replay/first_visit_delay"] = tally[_FIRST_AGE] / tally[_FIRST_VISITS]
        if tally[_DEAD]:
            dead, visits = tally[_DEAD], tally[_VISITS]
            metrics["replay/visits_mean"] = visits / dead
            metrics["replay/visits_var"] = (dead * tally[_SQUARES] - visits * visits) / dead**2  # no cancellation
            metrics["replay/never_drawn"] = tally[_NEVER] / dead
            found = np.trim_zeros(self._histogram - self._told, "b")
            self._told[:] = self._histogram
            low = 0
            while low < len(found):
                high = max(1, 2 * low)
                name = f"{low}_{high - 1}" if high - low > 1 else f"{low}"
                metrics[f"replay/visits_{name}"] = int(found[low:high].sum()) / dead
                low = high
        self._tally[:], self._ages[:] = 0, 0
        return metrics

    def histogram(self) -> IntArray:
        """How many overwritten rows had 0, 1, 2 ... visits, up to the largest number found; since the beginning."""
        return np.trim_zeros(self._histogram, "b").copy()

    def state_dict(self) -> State:
        """All counters."""
        return {
            "capacity": self.capacity,
            "visits": self._visits.copy(),
            "tally": self._tally.copy(),
            "ages": self._ages.copy(),
            "histogram": self.histogram(),
            "told": np.trim_zeros(self._told, "b").copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue stored counters; refuses (ResumeError) another capacity."""
        if state["capacity"] != self.capacity:
            raise ResumeError(
                "the stored replay telemetry is of another buffer",
                why=f"stored {state['capacity']} slots, this buffer has {self.capacity}",
                fix="resume with the replay settings of the stored run",
                see="docs/replay.md",
            )
        self._visits[:], self._tally[:], self._ages[:] = state["visits"], state["tally"], state["ages"]
        for counts, name in ((self._histogram, "histogram"), (self._told, "told")):
            counts[:] = 0
            counts[: len(state[name])] = state[name]


def age_quantile(counts: IntArray, level: float) -> float:
    """The smallest age below or at which a share `level` of the ages lies: the middle of its bin. counts: [bins]."""
    place = int(np.searchsorted(np.cumsum(counts), level * counts.sum()))
    octave, part = divmod(place, _BINS_PER_OCTAVE)
    low, high = (np.ceil(2.0**octave * (1 + (part + k) / _BINS_PER_OCTAVE)) for k in (0, 1))
    return float((low + high - 1) / 2 - 1)


@kernel
def count_draws(slots: IntArray, ages: IntArray, visits: Array, age_bins: IntArray, tally: IntArray) -> None:
    """One batch. A counter whose slot is already in the batch is held as its complement, which is negative."""
    before = np.empty(len(slots), np.int16)
    for i in range(len(slots)):  # counters lie all over the memory: a loop of reads alone waits for many at once
        before[i] = visits[slots[i]]
    for i in range(len(slots)):
        slot, age = slots[i], ages[i]
        seen = visits[slot]
        if seen < 0:
            tally[_DUPLICATES] += 1
            seen = ~seen
        elif before[i] == 0:
            tally[_FIRST_VISITS] += 1
            tally[_FIRST_AGE] += age
        visits[slot] = ~(seen + (seen < _MOST_VISITS))
        tally[_AGE] += age
        # A double's exponent and upper mantissa are the bin: no logarithm.
        leading = np.float64(age + 1).view(np.int64) >> 48
        age_bins[max(0, min(int(leading) - (1023 << 4), _BINS - 1))] += 1
    for i in range(len(slots)):
        seen = visits[slots[i]]
        if seen < 0:
            visits[slots[i]] = ~seen
    tally[_DRAWS] += len(slots)
    tally[_BATCHES] += 1


@kernel
def start_counts(slots: IntArray, visits: Array) -> None:
    """From 0, or from where `suspend_counts` stopped them."""
    for i in range(len(slots)):
        seen = visits[slots[i]]
        visits[slots[i]] = ~seen if _NOT_USABLE < seen < 0 else 0


@kernel
def suspend_counts(slots: IntArray, visits: Array) -> None:
    """Stop the counters of those of `slots` that are usable."""
    for i in range(len(slots)):
        seen = visits[slots[i]]
        if seen >= 0:
            visits[slots[i]] = ~seen


@kernel
def count_evictions(slots: IntArray, visits: Array, histogram: IntArray, tally: IntArray) -> None:
    """Read the counters of `slots` out."""
    for i in range(len(slots)):
        seen = np.int64(visits[slots[i]])
        if seen == _NOT_USABLE:
            continue
        seen = max(seen, ~seen)
        visits[slots[i]] = _NOT_USABLE
        histogram[seen] += 1
        tally[_NEVER] += seen == 0
        tally[_VISITS] += seen
        tally[_SQUARES] += seen * seen
        tally[_DEAD] += 1
