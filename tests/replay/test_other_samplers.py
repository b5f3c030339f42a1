"""Recency, combined and consume: vectors worked by hand, equality with plain lists, state, errors."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.replay.samplers import UniformSampler, make
from rlkit.replay.samplers.arrival import ArrivalLog
from rlkit.replay.samplers.combined import CombinedConfig, CombinedSampler
from rlkit.replay.samplers.consume import ConsumeConfig, ConsumeSampler
from rlkit.replay.samplers.recency import RecencyConfig, RecencySampler
from rlkit.replay.samplers.reshuffle import ReshuffleSampler
from tests.replay.oracles.arrival import ArrivalOracle, ConsumeOracle, RecencyOracle
from tests.replay.oracles.reshuffle import ReshuffleOracle, fisher_yates_orders


def array(values):
    return np.array(values, np.int64)


@st.composite
def programs(draw, most_slots=12):
    capacity = draw(st.integers(1, most_slots))
    slots = st.lists(st.integers(0, capacity - 1), max_size=6)
    operations = st.one_of(
        st.tuples(st.just("extend"), slots),
        st.tuples(st.just("extend"), slots),
        st.tuples(st.just("extend again"), slots),  # the uids that these slots had before
        st.tuples(st.just("invalidate"), st.lists(st.integers(-3, capacity + 3), max_size=5)),
        st.tuples(st.just("sample"), st.integers(1, capacity + 1)),
        st.tuples(st.just("sample"), st.integers(1, 3)),
        st.tuples(st.just("sample"), st.integers(1, 3)),
        st.tuples(st.just("save and load"), st.none()),
    )
    return capacity, draw(st.integers(0, 2**64 - 1)), draw(st.lists(operations, max_size=60))


class Pair:
    """A sampler and its oracles under the same operations."""

    def __init__(self, build, *oracles):
        self.build, self.sampler, self.oracles = build, build(), oracles
        self.uid, self.last = itertools.count(100, -1), {}  # uids do not tell the order of arrival

    def change(self, name, argument):
        match name:
            case "extend" | "extend again":
                for slot in argument:
                    if name == "extend" or slot not in self.last:
                        self.last[slot] = next(self.uid)
                uids = [self.last[slot] for slot in argument]
                self.sampler.extend(array(argument), array(uids))
                for oracle in self.oracles:
                    oracle.extend(argument, uids)
            case "invalidate":
                self.sampler.invalidate(array(argument))
                for oracle in self.oracles:
                    oracle.invalidate(argument)
            case "save and load":
                state, again = self.sampler.state_dict(), self.build()
                if len(self.sampler):
                    self.sampler.sample(1)  # the state is a copy
                self.sampler.invalidate(np.arange(self.sampler.capacity))
                again.extend(array([0]), array([7]))
                again.load_state_dict(state)
                self.sampler = again

    def draw(self, batch_size):
        slots, info = self.sampler.sample(batch_size)
        assert slots.dtype == info.uid.dtype == np.int64
        return slots.tolist(), info.uid.tolist()


@pytest.mark.parametrize("name", ["ere", "cer", "consume"])
def test_empty_and_out_of_range(name):
    sampler = make(name, 4, 0)
    with pytest.raises(ReplayError, match="no usable row"):
        sampler.sample(1)
    with pytest.raises(ReplayError, match="slot 4 is out of range"):
        sampler.extend(array([1, 4]), array([1, 4]))
    assert len(sampler) == 0
    sampler.extend(array([1, 3]), array([1, 3]))
    assert len(sampler) == 2
    sampler.update(array([1]), array([1]), np.ones(1, np.float32))
    sampler.sample(2)
    assert sampler.metrics() == {}


# --- order of arrival


@settings(max_examples=120, deadline=None)
@given(programs())
def test_arrival_log_equals_a_list(program):
    capacity, _, operations = program
    log, oracle, uid = ArrivalLog(capacity), ArrivalOracle(capacity), itertools.count(100, -1)
    for name, argument in operations:
        if name == "save and load":
            state, again = log.state_dict(), ArrivalLog(capacity)
            log.invalidate(np.arange(capacity))
            again.load_state_dict(state)
            log = again
        elif name == "invalidate":
            log.invalidate(array(argument))
            oracle.invalidate(argument)
        elif name != "sample":
            uids = [next(uid) for _ in argument]
            log.extend(array(argument), array(uids))
            oracle.extend(argument, uids)
        expected = [-1 if entry is None else entry[0] for entry in oracle.entries]
        assert log.state_dict()["slots"].tolist() == expected
        assert log.uid.tolist() == [oracle.rows.get(slot, -1) for slot in range(capacity)]
        assert len(log) == len(oracle.rows)
        if expected:
            assert log.newest == expected[-1]


# --- recency


def test_eligible_rows_golden():
    """C = 10,000, eta = 0.9, K = 1,000: 10,000 * 0.9^k, not below 5,000."""
    config = RecencyConfig(eta_start=0.9, eta_end=0.9)
    assert rows(config, 8) == [9000, 8100, 7290, 6561, 5904, 5314, 5000, 5000]
    # K = 500: the exponent grows by 2 a batch.
    assert rows(RecencyConfig(eta_start=0.9, eta_end=0.9, cycle=500), 4) == [8100, 6561, 5314, 5000]
    # eta 0.5, 0.625, 0.75, 0.875, 1, 1 to the powers 1 to 6
    config = RecencyConfig(eta_start=0.5, eta_end=1.0, eta_batches=4, rows_min=1)
    assert rows(config, 6) == [5000, 3906, 4218, 5861, 10_000, 10_000]
    config = RecencyConfig(eta_start=0.999, eta_end=0.999, cycle=2, rows_min=1)
    assert rows(config, 4) == [6063, 3676, 6063, 3676]  # 0.999^500, 0.999^1000, and again


def rows(config, batches):
    sampler, found = RecencySampler(10_000, 0, config), []
    sampler.extend(array([0]), array([0]))
    for _ in range(batches):
        found.append(sampler.rows)
        sampler.sample(1)
    return found


def test_recency_draws_every_one_of_the_newest_rows_and_no_other():
    config = RecencyConfig(eta_start=0.9, eta_end=0.9, cycle=1000, rows_min=10)
    sampler = RecencySampler(100, 3, config)
    sampler.extend(np.arange(99, -1, -1), np.arange(100))  # slot 0 is the newest
    for newest in (90, 81, 72, 65):
        assert sampler.rows == newest
        slots = sampler.sample(4000)[0]
        visits = np.bincount(slots, minlength=100)
        assert visits[newest:].sum() == 0
        mean = 4000 / newest
        assert ((visits[:newest] - mean) ** 2).sum() / mean < newest + 4 * np.sqrt(2 * newest)  # chi-squared


RECENCY = {"eta_start": 0.97, "eta_end": 0.99, "eta_batches": 5, "cycle": 70, "rows_min": 2}


def eligible(capacity, batches):
    """c_k after so many batches with these settings."""
    eta = min(0.97 + batches * 0.02 / 5, 0.99)
    return max(int(capacity * eta ** (1000 * (1 + batches % 70) / 70)), 2)


@settings(max_examples=120, deadline=None)
@given(programs())
def test_recency_equals_the_oracle(program):
    capacity, seed, operations = program
    oracle = RecencyOracle(capacity, seed)
    pair, batches = Pair(lambda: RecencySampler(capacity, seed, RecencyConfig(**RECENCY)), oracle), itertools.count()
    for name, argument in operations:
        if name == "sample" and oracle.rows:
            assert pair.draw(argument) == oracle.sample(argument, eligible(capacity, next(batches)))
        else:
            pair.change(name, argument)
        assert len(pair.sampler) == len(oracle.rows)


@pytest.mark.filterwarnings("ignore:a batch of")
@settings(max_examples=120, deadline=None)
@given(programs())
def test_recency_with_reshuffling_skips_older_slots(program):
    capacity, seed, operations = program
    log, oracle = ArrivalOracle(capacity), ReshuffleOracle(capacity, fisher_yates_orders(capacity, seed))
    config, batches = RecencyConfig(**RECENCY, reshuffle=True), itertools.count()
    pair = Pair(lambda: RecencySampler(capacity, seed, config), log, oracle)
    for name, argument in operations:
        if name == "sample" and log.rows:
            newest = {entry[0] for entry in log.entries[-eligible(capacity, next(batches)) :] if entry}
            oracle.masked = set(log.rows) - newest
            assert pair.draw(argument) == oracle.sample(argument)
        else:
            pair.change(name, argument)
    assert pair.sampler.metrics() == ({"rr/skipped_unusable": oracle.skipped / oracle.visits} if oracle.visits else {})


@pytest.mark.parametrize(
    ("name", "value"), [("eta_start", 0.0), ("eta_end", 1.5), ("eta_batches", 0), ("cycle", 0), ("rows_min", 0)]
)
def test_recency_settings_have_ranges(name, value):
    with pytest.raises(ConfigError, match=f"sampler.{name} is {value}\nallowed"):
        RecencySampler(10, 0, RecencyConfig(**{name: value}))


# --- combined


@pytest.mark.filterwarnings("ignore:a batch of")
@pytest.mark.parametrize("inner", ["uniform", "rr-c"])
@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_combined_adds_the_newest_row_and_leaves_the_inner_sampler_alone(inner, program):
    capacity, seed, operations = program
    log, alone = ArrivalOracle(capacity), {"uniform": UniformSampler, "rr-c": ReshuffleSampler}[inner](capacity, seed)
    pair = Pair(lambda: CombinedSampler(capacity, seed, CombinedConfig(inner)), log)
    for name, argument in operations:
        if name == "sample" and log.rows:
            slot, uid = log.entries[-1]
            others, others_uid = [], []
            if argument > 1:
                drawn, info = alone.sample(argument - 1)
                others, others_uid = drawn.tolist(), info.uid.tolist()
            assert pair.draw(argument) == ([*others, slot], [*others_uid, uid])
        elif name != "sample":
            pair.change(name, argument and sorted({slot % capacity for slot in argument}))
            alone.invalidate(np.arange(capacity))
            alone.extend(array(list(log.rows)), array(list(log.rows.values())))
    assert pair.sampler.metrics() == alone.metrics()


def test_combined_gives_every_row_a_visit_at_birth_on_top_of_its_epochs():
    sampler = CombinedSampler(100, 0, CombinedConfig("rr-c"))
    visits = np.zeros(2100, int)
    sampler.extend(np.arange(100), np.arange(100))
    for row in range(100, 2100):
        sampler.extend(array([row % 100]), array([row]))
        slots, info = sampler.sample(9)
        assert info.epoch == (8 * (row - 99) - 1) // 100
        assert slots[-1] == row % 100
        np.add.at(visits, info.uid, 1)
    assert visits[100:2000].min() >= 8  # 7 to 9 and one more
    assert visits[100:2000].max() <= 10


# --- consume


def test_consume_golden():
    sampler = ConsumeSampler(8, 0, ConsumeConfig(max_visits=2))
    sampler.extend(array([3, 1, 6]), array([30, 10, 60]))
    assert sampler.sample(2)[0].tolist() == [3, 1]  # queue 6 3' 1'
    sampler.extend(array([0]), array([5]))  # 6 3' 1' 0
    assert sampler.sample(3)[0].tolist() == [6, 3, 1]  # 0 6'
    assert len(sampler) == 2
    state, sampler = sampler.state_dict(), ConsumeSampler(8, 0, ConsumeConfig(max_visits=2))
    sampler.load_state_dict(state)
    sampler.extend(array([3]), array([30]))  # used up: it does not come back
    sampler.extend(array([3]), array([31]))  # a new row in a slot that was used up: 0 6' 3
    slots, info = sampler.sample(3)
    assert (slots.tolist(), info.uid.tolist()) == ([0, 6, 3], [5, 60, 31])  # 0' 3'
    assert len(sampler) == 2


@pytest.mark.parametrize("max_visits", [1, 3])
@settings(max_examples=100, deadline=None)
@given(program=programs())
def test_consume_equals_a_queue(max_visits, program):
    capacity, seed, operations = program
    oracle = ConsumeOracle(max_visits)
    pair = Pair(lambda: ConsumeSampler(capacity, seed, ConsumeConfig(max_visits)), oracle)
    for name, argument in operations:
        if name == "sample":
            fits = argument <= len(oracle.queue)
            with nullcontext() if fits else pytest.raises(ReplayError):
                assert pair.draw(argument) == oracle.sample(argument)
        else:
            pair.change(name, argument)
        assert len(pair.sampler) == len(oracle.queue)
    assert all(visits <= max_visits for visits in oracle.visits.values())


def test_a_batch_larger_than_what_is_left_consumes_nothing():
    sampler = ConsumeSampler(8, 0)
    sampler.extend(np.arange(5), np.arange(5))
    sampler.sample(2)
    with pytest.raises(ReplayError, match=r"a batch of 4 from 3 usable rows\nconsume .* at most 1 times"):
        sampler.sample(4)
    assert sampler.sample(3)[0].tolist() == [2, 3, 4]
    with pytest.raises(ReplayError, match="no usable row"):
        sampler.sample(1)


def test_max_visits_has_a_range():
    with pytest.raises(ConfigError, match=r"sampler.max_visits is 0\nallowed"):
        ConsumeSampler(8, 0, ConsumeConfig(0))


# --- state


def test_state_of_another_sampler_is_refused():
    reshuffle = RecencyConfig(reshuffle=True)
    mine = {
        "ere": [RecencySampler(8, 1), RecencySampler(8, 1, reshuffle)],
        "cer": [CombinedSampler(8, 1), CombinedSampler(8, 1, CombinedConfig("rr-c"))],
        "consume": [ConsumeSampler(8, 1), ConsumeSampler(8, 1, ConsumeConfig(2))],
    }
    everyone = [sampler for samplers in mine.values() for sampler in samplers]
    for sampler in everyone:
        sampler.extend(np.arange(8), np.arange(8))
    others = [make(name, 9, 1) for name in mine] + [make(name, 8, 2) for name in ("ere", "cer")]
    others += [RecencySampler(8, 2, reshuffle), CombinedSampler(8, 2, CombinedConfig("rr-c"))]
    for sampler, other in itertools.product(everyone, [*everyone, *others]):
        if sampler is not other:
            before = len(other)
            with pytest.raises(ResumeError):
                other.load_state_dict(sampler.state_dict())
            assert len(other) == before
