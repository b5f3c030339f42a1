"""Telemetry equals plain lists of everything that happened."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ResumeError
from rlkit.replay.telemetry import DrawTelemetry

CAPACITY = 6


class Lists:
    """Keeps every event and computes each metric from its definition."""

    def __init__(self):
        self.draws_of = {}  # slot -> ages at the draws of the row that lives there
        self.waiting = {}  # the same of suspended ones
        self.all_dead = []
        self.start_anew()

    def start_anew(self):
        self.ages, self.first_ages, self.duplicates, self.dead = [], [], [], []

    def extended(self, slots):
        for slot in slots:
            self.draws_of[slot] = self.waiting.pop(slot, [])

    def suspended(self, slots):
        for slot in slots:
            if slot in self.draws_of:
                self.waiting[slot] = self.draws_of.pop(slot)

    def drawn(self, slots, ages):
        self.duplicates.append(len(slots) - len(set(slots)))
        for slot, age in zip(slots, ages, strict=True):
            if not self.draws_of[slot]:
                self.first_ages.append(age)
            self.draws_of[slot].append(age)
            self.ages.append(age)

    def invalidated(self, slots):
        for slot in slots:
            if slot in self.draws_of or slot in self.waiting:
                visits = len((self.draws_of if slot in self.draws_of else self.waiting).pop(slot))
                self.dead.append(visits)
                self.all_dead.append(visits)

    def flush(self):
        metrics = {}
        if self.ages:
            metrics["replay/age_mean"] = np.mean(self.ages)
            metrics["replay/age_p90"] = sorted(self.ages)[math.ceil(0.9 * len(self.ages)) - 1]
            metrics["replay/duplicates"] = np.mean(self.duplicates)
        if self.first_ages:
            metrics["replay/first_visit_delay"] = np.mean(self.first_ages)
        if self.dead:
            metrics["replay/visits_mean"] = np.mean(self.dead)
            metrics["replay/visits_var"] = np.var(self.dead)
            metrics["replay/never_drawn"] = np.mean([visits == 0 for visits in self.dead])
            bins = ["0", "1", "2_3", "4_7", "8_15", "16_31", "32_63", "64_127", "128_255"]
            for name in bins[: max(self.dead).bit_length() + 1]:
                low, high = int(name.split("_")[0]), int(name.split("_")[-1])
                metrics[f"replay/visits_{name}"] = np.mean([low <= visits <= high for visits in self.dead])
        self.start_anew()
        return metrics


def check(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key == "replay/age_p90":  # exact below 31, then in bins of 1/16
            assert found[key] == value if value < 31 else abs(found[key] - value) <= (value + 1) / 32
        else:
            assert found[key] == pytest.approx(value, rel=1e-12, abs=1e-12)


slot = st.integers(0, CAPACITY - 1)
age = st.integers(0, 40) | st.integers(0, 2**45)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("drawn"), st.lists(st.tuples(slot, age), min_size=1, max_size=8)),
        st.tuples(st.just("extended"), st.lists(slot, unique=True, max_size=CAPACITY)),
        st.tuples(st.just("invalidated"), st.lists(slot, unique=True, max_size=CAPACITY)),
        st.tuples(st.just("suspended"), st.lists(slot, unique=True, max_size=CAPACITY)),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("resume"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(operations)
def test_equals_lists_and_resumes(ops):
    telemetry, lists = DrawTelemetry(CAPACITY), Lists()
    for kind, content in ops:
        if kind == "drawn":
            content = [(slot, age) for slot, age in content if slot in lists.draws_of]
            if content:
                slots, ages = zip(*content, strict=True)
                telemetry.drawn(np.array(slots), np.array(ages))
                assert telemetry.usable().tolist() == sorted(lists.draws_of)
                lists.drawn(slots, ages)
        elif kind in ("extended", "invalidated", "suspended"):
            if kind == "extended":
                content = [slot for slot in content if slot not in lists.draws_of]
            for counter in (telemetry, lists):
                getattr(counter, kind)(np.array(content, np.int64))
        elif kind == "flush":
            check(telemetry.flush(), lists.flush())
        else:
            state = telemetry.state_dict()
            telemetry.extended(np.arange(CAPACITY))
            telemetry.drawn(np.arange(CAPACITY), np.full(CAPACITY, 7))  # a state is a copy
            telemetry.invalidated(np.arange(CAPACITY))
            telemetry = DrawTelemetry(CAPACITY)
            telemetry.extended(np.arange(1))
            telemetry.drawn(np.zeros(9, np.int64), np.arange(9))  # what a loaded state must replace
            telemetry.invalidated(np.zeros(1, np.int64))
            telemetry.load_state_dict(state)
    check(telemetry.flush(), lists.flush())
    counts = Counter(lists.all_dead)
    assert telemetry.histogram().tolist() == [counts[n] for n in range(max(counts, default=-1) + 1)]


def test_by_hand():
    telemetry = DrawTelemetry(5)
    telemetry.extended(np.arange(4))
    telemetry.drawn(np.array([2, 0, 2, 2]), np.array([5, 1, 5, 5]))  # row in slot 2 three times: two duplicates
    telemetry.drawn(np.array([0, 1]), np.array([3, 10]))
    telemetry.invalidated(np.array([0, 2, 3, 4]))  # 4 could never be drawn: it does not count
    assert telemetry.flush() == {
        "replay/age_mean": 29 / 6,
        "replay/age_p90": 10.0,
        "replay/duplicates": 1.0,
        "replay/first_visit_delay": 16 / 3,
        "replay/visits_mean": 5 / 3,
        "replay/visits_var": 14 / 9,
        "replay/never_drawn": 1 / 3,
        "replay/visits_0": 1 / 3,
        "replay/visits_1": 0.0,
        "replay/visits_2_3": 2 / 3,
    }
    assert telemetry.flush() == {}
    assert telemetry.histogram().tolist() == [1, 0, 1, 1]
    telemetry.drawn(np.array([1]), np.array([12]))  # not its first draw; that was before the flush
    assert "replay/first_visit_delay" not in telemetry.flush()


def test_counters_stop_where_an_int16_does():
    telemetry = DrawTelemetry(1)
    telemetry.extended(np.arange(1))
    telemetry.drawn(np.zeros(32_766, np.int64), np.zeros(32_766, np.int64))
    telemetry.drawn(np.zeros(40, np.int64), np.zeros(40, np.int64))
    telemetry.invalidated(np.zeros(1, np.int64))
    metrics = telemetry.flush()
    assert metrics["replay/visits_mean"] == 32_766
    assert metrics["replay/duplicates"] == (32_765 + 39) / 2
    assert len(telemetry.histogram()) == 32_767
    assert metrics["replay/visits_16384_32767"] == 1


def test_ages_spread_over_many_orders_of_magnitude():
    ages = np.random.default_rng(0).lognormal(8, 3, 10_000).astype(np.int64)
    telemetry = DrawTelemetry(10_000)
    telemetry.extended(np.arange(10_000))
    telemetry.drawn(np.arange(10_000), ages)
    exact = np.quantile(ages, 0.9, method="inverted_cdf")
    assert telemetry.flush()["replay/age_p90"] == pytest.approx(exact, rel=1 / 32)


def test_a_state_of_another_capacity_is_refused():
    telemetry = DrawTelemetry(4)
    telemetry.extended(np.array([3]))
    telemetry.drawn(np.array([3]), np.array([2]))
    with pytest.raises(ResumeError, match="stored 5 slots, this buffer has 4"):
        telemetry.load_state_dict(DrawTelemetry(5).state_dict())
    assert telemetry.flush()["replay/age_mean"] == 2
