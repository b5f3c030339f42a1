"""RR-C: vectors worked by hand, equality with the oracle, exactly once per epoch, the statistics of visits."""

import itertools
import warnings
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.core.seeding import CounterStream
from rlkit.replay.samplers import UniformSampler, reshuffle
from rlkit.replay.samplers.reshuffle import ReshuffleConfig, ReshuffleSampler, feistel, feistel_keys, feistel_slots
from tests.replay.oracles.reshuffle import (
    DuplicatesError,
    NoRowError,
    ReshuffleOracle,
    feistel_orders,
    fisher_yates_orders,
)

SHUFFLES = ("lazy", "array", "feistel")


def make(capacity=8, seed=0, usable=None, **config):
    """Small Feistel orders are allowed here: the network itself works for all."""
    with patch.object(reshuffle, "FEISTEL_MIN_CAPACITY", 1):
        return ReshuffleSampler(capacity, seed, ReshuffleConfig(**config), usable)


def full(capacity=8, seed=0, usable=None, **config):
    sampler = make(capacity, seed, usable, **config)
    sampler.extend(np.arange(capacity), np.arange(capacity))
    return sampler


def force(sampler, orders):
    """Let the epochs of an `array` sampler have these orders."""
    orders = iter(orders)

    def next_order():
        sampler._order[:] = next(orders)

    sampler._begin_epoch = next_order
    next_order()


# --- vectors


@pytest.mark.parametrize("shuffle", ["lazy", "array"])
def test_fisher_yates_golden(shuffle):
    sampler = full(8, 7, shuffle=shuffle)
    expected = [5, 2, 3, 0, 6, 4, 7, 1], [2, 6, 5, 1, 3, 0, 4, 7], [6, 4, 1, 5, 0, 7, 2, 3]
    assert [sampler.sample(8)[0].tolist() for _ in range(3)] == list(expected)
    sampler = full(10, 0, shuffle=shuffle)
    expected = [6, 1, 8, 2, 4, 0, 7, 3, 9, 5], [3, 4, 7, 0, 9, 6, 2, 1, 8, 5]
    assert [sampler.sample(10)[0].tolist() for _ in range(2)] == list(expected)


def test_feistel_golden():
    assert feistel(np.arange(8), 8, 7, 0).tolist() == [3, 1, 6, 0, 4, 2, 5, 7]
    assert feistel(np.arange(8), 8, 7, 1).tolist() == [4, 7, 6, 2, 1, 5, 3, 0]
    assert feistel(np.arange(10), 10, 7, 0).tolist() == [2, 7, 1, 3, 4, 0, 8, 5, 6, 9]
    assert feistel(np.arange(10), 10, 7, 1).tolist() == [7, 2, 1, 9, 4, 0, 3, 5, 6, 8]
    assert feistel(np.arange(6), 10**6, 1, 0).tolist() == [124282, 73512, 31063, 89390, 775970, 977004]
    sampler = full(5000, 3, shuffle="feistel")
    for epoch in (0, 1):
        np.testing.assert_array_equal(sampler.sample(5000)[0], feistel(np.arange(5000), 5000, 3, epoch))


ORDERS = [
    [3, 0, 6, 1, 7, 4, 2, 5],
    [5, 2, 7, 0, 1, 6, 3, 4],
    [1, 4, 0, 2, 6, 5, 7, 3],
    [6, 3, 5, 7, 0, 4, 1, 2],
]
# rows added before it, slots, uids, epoch and cursor after it
TRACE = [
    (4, [3, 0, 1, 2], [3, 0, 1, 2], 0, 7),
    (2, [5, 5, 2, 0], [5, 5, 2, 0], 1, 4),  # 5 is the last of one epoch and the first of the next; 7 has no row yet
    (2, [1, 6, 3, 4], [1, 6, 3, 4], 1, 8),
    (3, [1, 4, 0, 2], [9, 4, 8, 10], 2, 4),
    (0, [6, 5, 7, 3], [6, 5, 7, 3], 2, 8),
    (1, [6, 3, 5, 7], [6, 11, 5, 7], 3, 4),
]


@pytest.mark.parametrize("border", ["allow", "defer"])
def test_a_ring_worked_by_hand(border):
    sampler = make(8, shuffle="array", epoch_border=border)
    force(sampler, ORDERS)
    written, visits = 0, np.zeros(12, int)
    for i, (added, slots, uids, epoch, cursor) in enumerate(TRACE):
        rows = np.arange(written, written + added)
        sampler.invalidate(rows % 8)
        sampler.extend(rows % 8, rows)
        written += added
        if border == "defer" and i == 1:  # the second 5 waits for the next batch
            slots, uids, cursor = [5, 2, 0, 1], [5, 2, 0, 1], 5
        if border == "defer" and i == 2:
            slots, uids = [5, 6, 3, 4], [5, 6, 3, 4]
        found, info = sampler.sample(4)
        assert found.tolist() == slots
        assert info.uid.tolist() == uids
        assert (info.epoch, sampler.epoch, sampler.cursor) == (epoch, epoch, cursor)
        np.add.at(visits, info.uid, 1)
    assert visits.tolist() == [2, 2, 2, 3, 2, 4, 3, 2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda sampler, masked: sampler.extend(np.array([5]), np.array([77])),
            [77, 6, 3, 4],
        ),  # inherited
        (lambda sampler, masked: sampler.invalidate(np.array([5])), [6, 3, 4, 1]),  # or lost
        (lambda sampler, masked: masked.add(5), [6, 3, 4, 1]),
    ],
)
def test_a_held_visit_is_taken_when_it_is_served(change, expected):
    masked = set()
    sampler = full(8, usable=lambda slots: ~np.isin(slots, list(masked)), shuffle="array", epoch_border="defer")
    force(sampler, ORDERS)
    sampler.invalidate(np.array([7]))
    sampler.sample(6)
    assert sampler.sample(4)[0].tolist() == [5, 2, 0, 1]
    change(sampler, masked)
    assert sampler.sample(4)[1].uid.tolist() == expected


# --- properties


@st.composite
def programs(draw):
    capacity = draw(st.integers(1, 24))
    slots = st.lists(st.integers(0, capacity - 1), max_size=capacity)
    operations = st.one_of(
        st.tuples(st.just("extend"), slots),
        st.tuples(st.just("invalidate"), st.lists(st.integers(-3, capacity + 3), max_size=5)),
        st.tuples(st.just("mask"), slots),
        st.tuples(st.just("sample"), st.integers(1, 2 * capacity)),
        st.tuples(st.just("sample"), st.integers(1, capacity // 2 + 1)),
        st.tuples(st.just("save and load"), st.none()),
    )
    return capacity, draw(st.integers(0, 2**64 - 1)), draw(st.lists(operations, max_size=40))


def drawn(sampler, batch_size):
    try:
        slots, info = sampler.sample(batch_size)
    except ReplayError as error:
        return "no row" if error.what == "replay holds no usable row" else "duplicates"
    assert slots.dtype == info.uid.dtype == np.int64
    assert info.epoch == sampler.epoch
    return slots.tolist(), info.uid.tolist()


def expected(oracle, batch_size):
    try:
        return oracle.sample(batch_size)
    except NoRowError:
        return "no row"
    except DuplicatesError:
        return "duplicates"


@pytest.mark.filterwarnings("ignore:a batch of")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("border", ["allow", "defer"])
@pytest.mark.parametrize("shuffle", SHUFFLES)
@settings(max_examples=40, deadline=None)
@given(program=programs())
def test_equals_the_oracle(shuffle, border, strict, program):
    capacity, seed, operations = program
    orders = feistel_orders if shuffle == "feistel" else fisher_yates_orders
    oracle = ReshuffleOracle(capacity, orders(capacity, seed), defer=border == "defer", strict=strict)

    def usable(slots):
        assert all(slot in oracle.rows for slot in slots.tolist())  # only extended slots are asked for
        return ~np.isin(slots, list(oracle.masked))

    config = {"shuffle": shuffle, "epoch_border": border, "strict": strict}
    sampler, uid = make(capacity, seed, usable, **config), itertools.count()
    for name, argument in operations:
        match name:
            case "extend":
                uids = [next(uid) for _ in argument]
                sampler.extend(np.array(argument, np.int64), np.array(uids, np.int64))
                oracle.extend(argument, uids)
            case "invalidate":
                sampler.invalidate(np.array(argument, np.int64))
                oracle.invalidate(argument)
            case "mask":
                oracle.masked = set(argument)
            case "sample":
                assert drawn(sampler, argument) == expected(oracle, argument)
            case "save and load":
                state, again = sampler.state_dict(), make(capacity, seed, usable, **config)
                drawn(sampler, capacity)  # the state is a copy
                sampler.invalidate(np.arange(capacity))
                again.load_state_dict(state)
                sampler = again
        assert (len(sampler), sampler.epoch, sampler.cursor) == (len(oracle.rows), oracle.epoch, oracle.cursor)
    share = {"rr/skipped_unusable": oracle.skipped / oracle.visits} if oracle.visits else {}
    assert sampler.metrics() == share
    assert sampler.metrics() == {}


@pytest.mark.parametrize("shuffle", SHUFFLES)
@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_every_slot_once_per_epoch_and_every_row_once_per_epoch_of_its_life(shuffle, program):
    """Without an oracle: which rows were there all the time is known, so is when they have to be drawn."""
    capacity, seed, operations = program
    sampler, uid = make(capacity, seed, shuffle=shuffle), itertools.count()
    rows, births, visits = {}, {}, {}  # slot -> uid; uid -> visits of the sampler before it; uid -> its own
    epochs = {}  # epoch -> slots drawn in it

    def now():
        return sampler.epoch * capacity + sampler.cursor

    def died(number):
        birth, death = births[number], now()
        within = death // capacity - -(-birth // capacity)  # whole epochs in its life
        touching = (death - 1) // capacity - birth // capacity + 1 if death > birth else 0
        assert within <= visits[number] <= touching

    for name, argument in operations:
        match name:
            case "extend":
                for slot in argument:
                    if slot in rows:
                        died(rows[slot])
                    rows[slot] = next(uid)
                    births[rows[slot]], visits[rows[slot]] = now(), 0
                    sampler.extend(np.array([slot]), np.array([rows[slot]]))
            case "invalidate":
                for slot in argument:
                    if slot in rows:
                        died(rows.pop(slot))
                sampler.invalidate(np.array(argument, np.int64))
            case "sample" if rows:
                for _ in range(argument):
                    (slot,), info = sampler.sample(1)
                    assert rows[slot] == info.uid[0]
                    visits[rows[slot]] += 1
                    epochs.setdefault(info.epoch, []).append(slot)
    for slots in epochs.values():
        assert len(set(slots)) == len(slots)
    for number in rows.values():
        died(number)


@pytest.mark.parametrize("border", ["allow", "defer"])
def test_lazy_is_the_array_at_another_time(border):
    rng = np.random.default_rng(0)
    lazy, array = (make(1000, 5, shuffle=shuffle, epoch_border=border) for shuffle in ("lazy", "array"))
    for step in range(300):
        written = np.arange(10 * step, 10 * step + 10)
        batch_size = int(rng.integers(1, 11 if step == 0 else 64))
        if batch_size <= len(written) * (step + 1):
            for sampler in (lazy, array):
                sampler.extend(written % 1000, written)
            one, other = lazy.sample(batch_size), array.sample(batch_size)
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1].uid, other[1].uid)
            assert (lazy.epoch, lazy.cursor) == (array.epoch, array.cursor)
    assert lazy.epoch >= 3


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_defer_puts_no_row_twice_into_a_batch_and_keeps_every_visit(shuffle):
    sampler = full(100, 1, shuffle=shuffle, epoch_border="defer")
    drawn = [sampler.sample(70)[0] for _ in range(200)]
    assert all(len(set(batch.tolist())) == 70 for batch in drawn)
    visits = np.bincount(np.concatenate(drawn), minlength=100)
    assert visits.sum() == 14_000
    assert set(visits.tolist()) == {140}  # 140 epochs to the last visit: none is lost and none is held


def test_defer_keeps_every_visit_where_duplicates_cannot_be_avoided():
    sampler = full(10, 1, epoch_border="defer")
    with pytest.warns(UserWarning, match="a batch of 35 from 10 usable rows: some rows are in it more than once"):
        drawn = [sampler.sample(size)[0] for size in (7, 7, 35, 8, 3)]
    assert np.bincount(np.concatenate(drawn)).tolist() == [6] * 10


def test_a_million_slots_need_four_bytes_each_and_more_would_need_eight():
    sampler, wide = full(64, 3), full(64, 3)
    assert sampler._order.dtype == np.int32
    wide._order = wide._order.astype(np.int64)
    for _ in range(5):
        np.testing.assert_array_equal(sampler.sample(50)[0], wide.sample(50)[0])


# --- Feistel


def test_feistel_is_a_permutation_with_its_inverse():
    for capacity in (*range(1, 70), 127, 128, 129, 1000, 2047, 2048, 2049, 4095, 4096):
        check_feistel(capacity, seed=capacity, epoch=capacity % 3)


@pytest.mark.slow
def test_feistel_is_a_permutation_for_every_capacity():
    for capacity in range(1, 4097):
        check_feistel(capacity, seed=1, epoch=2)


def check_feistel(capacity, seed, epoch):
    places = np.arange(capacity)
    slots = feistel(places, capacity, seed, epoch)
    np.testing.assert_array_equal(np.sort(slots), places)
    np.testing.assert_array_equal(feistel(slots, capacity, seed, epoch, inverse=True), places)


def adjacency(rounds, epochs=20_000, capacity=16):
    """Chi-squared of ordered pairs of neighbours in the order, 239 degrees of freedom."""
    pairs, keys, slots = np.zeros((capacity, capacity)), np.empty(rounds, np.uint64), np.empty(capacity, np.int64)
    key = CounterStream(0).key
    for epoch in range(epochs):
        feistel_keys(key, epoch, keys)
        feistel_slots(np.arange(capacity), keys, capacity, slots)
        pairs[slots[:-1], slots[1:]] += 1
    assert pairs.trace() == 0
    mean = epochs * (capacity - 1) / (capacity * (capacity - 1))
    return ((pairs - mean) ** 2)[~np.eye(capacity, dtype=bool)].sum() / mean


@pytest.mark.slow
def test_feistel_neighbours_are_independent_with_eight_rounds_and_not_with_four():
    assert adjacency(8) < 239 + 4 * np.sqrt(2 * 239)
    assert adjacency(4) > 1000


# --- statistics on a full ring (replay specification 1.3)


def simulate(sampler, visits_per_row, cycles=20):
    """A full ring with one write per step and r draws per step. Visits and first visits of rows that have died.

    Returns visits [N], draws from the write to the first visit in epochs [N] (NaN if none), ages of the drawn rows in
    steps [D].
    """
    capacity = sampler.capacity
    size, period = Fraction(visits_per_row).as_integer_ratio()
    sampler.extend(np.arange(capacity), np.arange(capacity))
    uids, ages, steps = [], [], (cycles + 1) * capacity
    for step in range(steps):
        row = np.array([capacity + step])
        sampler.extend(row % capacity, row)
        if step % period == period - 1:
            uids.append(sampler.sample(size)[1].uid)
            ages.append(row[0] - uids[-1])
    sequence = np.concatenate(uids)
    lives = np.arange(capacity, capacity + cycles * capacity)  # born and died while we watched
    visits = np.bincount(sequence, minlength=steps + capacity)[lives]
    first = np.full(steps + capacity, np.nan)
    numbers, places = np.unique(sequence, return_index=True)
    first[numbers] = places + 1
    before = (lives - capacity) // period * size  # draws when it was written
    return visits, (first[lives] - before) / capacity, np.concatenate(ages)


# r: variance, share never drawn
TABLE = {
    0.25: (0.1927, 0.753),
    0.5: (0.2917, 0.521),
    1: (1 / 3, 0.167),
    1.5: (1 / 3, 0.021),
    2: (1 / 3, 0),
    4: (1 / 3, 0),
    8: (1 / 3, 0),
}


def check_visits(sampler, r, cycles=20):
    visits, first, ages = simulate(sampler, r, cycles)
    variance, never = TABLE[r]
    assert visits.mean() == pytest.approx(r, abs=0.02)
    assert visits.var() == pytest.approx(variance, rel=0.1)
    assert (visits == 0).mean() == pytest.approx(never, abs=0.015)
    assert visits.min() >= max(0, int(np.floor(r)) - 1)
    assert visits.max() <= int(np.ceil(r)) + 1
    if r >= 2:
        assert first.mean() == pytest.approx(7 / 12, abs=0.01)
    bins = np.histogram(ages, bins=20, range=(0, sampler.capacity))[0]
    assert ((bins - bins.mean()) ** 2).sum() / bins.mean() < 43.8  # 19 degrees of freedom, one in a thousand


@pytest.mark.parametrize("r", [0.5, 1, 8])
def test_visits_on_a_full_ring(r):
    check_visits(make(1000, 11), r)


@pytest.mark.slow
@pytest.mark.parametrize("r", TABLE)
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_visits_on_a_full_ring_for_every_ratio(shuffle, r):
    check_visits(make(4096 if shuffle == "feistel" else 1000, 2, shuffle=shuffle), r)


@pytest.mark.slow
def test_the_simulation_tells_uniform_sampling_apart():
    visits, first, _ = simulate(UniformSampler(1000, 0), 8)
    assert visits.var() == pytest.approx(8, rel=0.1)
    assert np.nanmean(first) == pytest.approx(1, abs=0.02)


# --- errors


def test_an_empty_sampler_says_so():
    sampler = make(8)
    with pytest.raises(ReplayError, match="no usable row"):
        sampler.sample(1)
    assert (sampler.epoch, sampler.cursor) == (0, 0)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_an_epoch_without_a_row_raises_and_leaves_an_order(shuffle):
    mask = np.zeros(16, bool)
    sampler = full(16, usable=lambda slots: mask[slots], shuffle=shuffle)
    for _ in range(3):
        with pytest.raises(ReplayError, match="no usable row"):
            sampler.sample(4)
    mask[:] = True
    rest = [] if sampler.cursor == 16 else sampler.sample(16 - sampler.cursor)[0].tolist()
    assert sorted(sampler.sample(16)[0].tolist()) == list(range(16))
    assert len(set(rest)) == len(rest)


@pytest.mark.parametrize("answer", [np.array([1, 0, 1]), np.ones((3, 1), bool), np.ones(2, bool)])
def test_a_mask_is_one_bool_per_slot(answer):
    sampler = full(8, usable=lambda slots: answer)
    with pytest.raises(ReplayError, match=r"usable` returned .* for 3 slots"):
        sampler.sample(3)


def test_more_than_there_is_warns_once_or_is_an_error():
    sampler = full(4)
    with pytest.warns(UserWarning, match="a batch of 5 from 4 usable rows") as caught:
        sampler.sample(5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample(5)
    strict = full(4, strict=True)
    assert len(set(strict.sample(4)[0].tolist())) == 4
    with pytest.raises(ReplayError, match=r"a batch of 5 from 4 usable rows\n.*strict"):
        strict.sample(5)
    assert (strict.epoch, strict.cursor) == (0, 4)  # nothing has been spent


def test_feistel_is_for_many_slots():
    with pytest.raises(ConfigError, match=r"feistel with 4,095 slots\n.*4,096"):
        ReshuffleSampler(4095, 0, ReshuffleConfig(shuffle="feistel"))
    assert len(ReshuffleSampler(4096, 0, ReshuffleConfig(shuffle="feistel"))._order) == 0


def test_a_slot_out_of_range_changes_nothing():
    sampler = make(4)
    with pytest.raises(ReplayError, match="slot 4 is out of range"):
        sampler.extend(np.array([0, 4]), np.array([0, 4]))
    assert len(sampler) == 0


def test_state_of_another_sampler_is_refused():
    state = full(8, 1).state_dict()
    others = [
        make(9, 1),
        make(8, 2),
        make(8, 1, shuffle="array"),
        make(8, 1, epoch_border="defer"),
        make(8, 1, strict=True),
        UniformSampler(8, 1),
    ]
    for other in others:
        with pytest.raises(ResumeError):
            other.load_state_dict(state)
        assert len(other) == 0
