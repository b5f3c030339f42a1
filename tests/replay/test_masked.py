"""RR-M: the specification's trace, equality with the O(C) algorithm, the statistics of counts, edges, resume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.replay.samplers.masked import MaskedReshuffleConfig, MaskedReshuffleSampler
from rlkit.replay.samplers.prioritized import PrioritizedConfig, PrioritizedSampler
from tests.replay.oracles.masked import MaskedReshuffleOracle
from tests.replay.oracles.priority_programs import operations, run

EXACT = {"priority_exponent": 1.0, "priority_rule": "add", "priority_epsilon": 0.0}  # p = d


def filled(priority, seed=0, **config):
    slots = np.arange(len(priority))
    sampler = MaskedReshuffleSampler(len(priority), seed, MaskedReshuffleConfig(**config))
    sampler.extend(slots, slots, np.asarray(priority, float))
    return sampler


def key_of_word(word):
    """The key with which draw 0 of a stream is `word`: splitmix64's mixing, backwards."""
    modulus = 2**64
    x = word ^ word >> 31 ^ word >> 62
    x = x * pow(0x94D049BB133111EB, -1, modulus) % modulus
    x ^= x >> 27 ^ x >> 54
    x = x * pow(0xBF58476D1CE4E5B9, -1, modulus) % modulus
    x ^= x >> 30 ^ x >> 60
    return (x - 0x9E3779B97F4A7C15) % modulus


def draw_the_middle(sampler):
    """One draw with U = 1/2."""
    sampler._draw.key, sampler._draw.counter = np.uint64(key_of_word(2**63)), 0
    return int(sampler.sample(1)[0][0])


def masks(sampler):
    """Which rows are masked in the next draw, as the specification writes it."""
    due = sampler._masked.leaves
    return "".join(str(int(sampler._clock < x < np.inf)) for x in due)


def test_golden_trace():
    sampler = filled([4.0, 2.0, 1.0, 1.0], **EXACT)
    seen, slots = [], []
    for _ in range(16):
        seen.append(masks(sampler))
        slots.append(draw_the_middle(sampler))
    assert slots == [1, 0, 0, 2, 0, 1, 0, 3] * 2
    assert seen[:8] == ["0000", "0100", "0100", "1100", "0010", "1010", "0110", "1110"]
    assert (sampler._due == sampler._clock).all()  # a = e for every row, after 16 draws as after 8


# --- equality with the O(C) algorithm


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["shift", "none literal", "none"]),
    st.sampled_from(["add", "clamp"]),
    st.integers(0, 99),
    operations(10),
    st.randoms(use_true_random=False),
)
def test_equals_the_oracle(rebalance, rule, seed, steps, random):
    """Priorities are such that a = e does not happen by chance: there rounding decides."""
    config = MaskedReshuffleConfig(
        priority_exponent=0.6, priority_rule=rule, priority_epsilon=0.0, rebalance=rebalance.split()[0]
    )
    oracle = MaskedReshuffleOracle(10, seed, config, mask_all="literal" in rebalance)
    steps = [(name, slots[0], True) if name == "extend" else (name, *slots) for name, *slots in steps]
    numbers = np.random.default_rng(random.randrange(2**32))

    def priority():
        return 0.0 if numbers.random() < 0.1 else float(numbers.lognormal(0, 2))

    def compare(expected, slots, uids, weight):
        assert (slots, uids) == expected
        assert len(set(slots)) == len(slots)
        assert weight is None

    sampler = run(lambda: MaskedReshuffleSampler(10, seed, config), oracle, steps, priority, compare)
    for slot, p in oracle.p.items():
        due = sampler._due[slot]
        surplus = p * (due - sampler._clock) if p else due
        assert surplus == pytest.approx(oracle.actual[slot] - oracle.expected[slot], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(
        st.one_of(
            st.tuples(st.just("sample"), st.sampled_from([1, 2, 4, 8])),
            st.tuples(st.just("swap"), st.integers(0, 15), st.integers(0, 15)),
            st.tuples(st.just("overwrite"), st.integers(0, 15)),
        ),
        min_size=20,
        max_size=150,
    ),
)
def test_equals_the_literal_algorithm_where_counts_are_often_equal(seed, steps):
    """Powers of two, also their sum: every count is exact, and a = e is frequent."""
    priority = np.array([16, 8, 8, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2.0])
    sampler = filled(priority, seed, rebalance="none", **EXACT)
    oracle = MaskedReshuffleOracle(16, seed, sampler.config, mask_all=True)
    slots = list(range(16))
    oracle.extend(slots, slots, priority.tolist())
    uids = np.arange(16)
    for number, (name, *arguments) in enumerate(steps):
        if name == "sample":
            drawn, info = sampler.sample(*arguments)
            assert (drawn.tolist(), info.uid.tolist()) == oracle.sample(*arguments)
        elif name == "swap":
            pair = np.array(arguments)
            values = [oracle.p[slot] for slot in reversed(arguments)]
            sampler.update(pair, uids[pair], np.array(values))
            oracle.update(arguments, uids[pair].tolist(), values)
        else:
            (slot,) = arguments
            uids[slot] = 100 + number
            sampler.extend(np.array([slot]), uids[[slot]], np.array([oracle.p[slot]]))
            oracle.extend([slot], [int(uids[slot])], [oracle.p[slot]])
    for slot in slots:
        surplus = oracle.p[slot] * (sampler._due[slot] - sampler._clock)
        assert surplus == oracle.actual[slot] - oracle.expected[slot]
    assert sampler.metrics()["rr/masked_share"] == sum(oracle.actual[s] > oracle.expected[s] for s in slots) / 16


# --- what it is for


class Experiment:
    """A full ring of 128 rows, 2 new ones per batch of 8: lognormal base priorities, noisy updates, alpha 0.6.

    So a row is drawn 4 times in its life. Expected counts are kept here, without any shift.
    """

    def __init__(self, sampler):
        self.sampler, self.capacity = sampler, sampler.capacity
        self.rng = np.random.default_rng(3)
        self.base, self.p = np.zeros(self.capacity), np.zeros(self.capacity)
        self.actual, self.expected = np.zeros(self.capacity), np.zeros(self.capacity)
        self.uid, self.written = np.full(self.capacity, -1), 0
        self.differences, self.drift = [], []
        for _ in range(self.capacity):
            self.write()

    def write(self):
        slot = self.written % self.capacity
        if self.written >= 4 * self.capacity:
            self.differences.append(self.actual[slot] - self.expected[slot])
        self.actual[slot] = self.expected[slot] = 0.0
        self.base[slot] = self.rng.lognormal(0, 1)
        self.p[slot] = self.base[slot] ** 0.6
        self.uid[slot] = self.written
        self.sampler.invalidate(np.array([slot]))
        self.sampler.extend(np.array([slot]), self.uid[[slot]], self.base[[slot]])
        self.written += 1

    def run(self, batches):
        for _ in range(batches):
            slots, info = self.sampler.sample(8)
            np.testing.assert_array_equal(info.uid, self.uid[slots])
            self.expected += 8 * self.p / self.p.sum()
            np.add.at(self.actual, slots, 1)
            self.drift.append((self.actual - self.expected).sum())
            priority = self.base[slots] * self.rng.lognormal(0, 0.3, 8)
            self.sampler.update(slots, info.uid, priority)
            self.p[slots] = priority**0.6
            self.write()
            self.write()
        return np.array(self.differences)


NOISY = {"priority_exponent": 0.6, "priority_rule": "add", "priority_epsilon": 0.0}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(st.sampled_from(["same", "part", "reversed", "others", "none", "add", "reused"]), min_size=4, max_size=30),
)
def test_all_parents_are_right_whatever_follows_a_draw(seed, steps):
    """A sampler of the same state, whose trees are computed anew, draws the same rows; 600 rows are three levels."""
    numbers = np.random.default_rng(seed)
    sampler = filled(numbers.lognormal(0, 2, 600), seed, **EXACT)
    for turn, step in enumerate(steps):
        twin = MaskedReshuffleSampler(600, seed, sampler.config)
        twin.load_state_dict(sampler.state_dict())
        slots, info = sampler.sample(40)
        np.testing.assert_array_equal(slots, twin.sample(40)[0])
        uids, priority = info.uid, numbers.lognormal(0, 2, 40)
        if step == "same":
            sampler.update(slots, uids, priority)
        elif step == "part":
            sampler.update(slots[:30], uids[:30], priority[:30])
        elif step == "reversed":
            sampler.update(slots[::-1].copy(), uids[::-1].copy(), priority)
        elif step == "others":
            few = np.array([k for k in range(600) if k not in set(slots.tolist())][:40])
            sampler.update(few, sampler._priorities.uid[few], priority)
        elif step == "add":
            sampler.extend(slots[:3], 1000 + 10 * turn + np.arange(3))
        elif step == "reused":
            slots[:] = 0


# At 4 draws per life, published for 512 rows and batches of 16: 3.90, shift 0.369, none 0.302.
def test_counts_of_independent_draws_vary_with_their_mean():
    per = PrioritizedSampler(128, 0, PrioritizedConfig(draw="independent", weight_exponent=0.0, **NOISY))
    differences = Experiment(per).run(3_000)
    assert 3.4 < differences.var() < 4.4


@pytest.mark.parametrize(("rebalance", "variance"), [("shift", 0.335), ("none", 0.293)])
def test_counts_stay_with_their_expectation(rebalance, variance):
    sampler = MaskedReshuffleSampler(128, 0, MaskedReshuffleConfig(rebalance=rebalance, **NOISY))
    experiment = Experiment(sampler)
    differences = experiment.run(3_000)
    assert differences.var() == pytest.approx(variance, rel=0.1)
    assert abs(differences.mean()) < 0.01  # no bias
    assert np.abs(experiment.drift).max() < 25  # of 24,000 draws
    surplus = (experiment.p * (sampler._due - sampler._clock)).sum()
    assert (abs(surplus) < 1e-6) == (rebalance == "shift")  # what the sampler itself believes
    metrics = sampler.metrics()
    assert 0.4 < metrics["rr/masked_share"] < 0.65
    assert metrics["rr/soft_masked_draws"] < 0.01


def test_constant_priorities_are_reshuffled():
    """Whatever the priorities with alpha = 0: every row is drawn equally often, give or take one, at any time."""
    sampler = filled(np.random.default_rng(0).exponential(1, 50), priority_exponent=0.0)
    counts = np.zeros(50, int)
    for _ in range(400):
        counts[sampler.sample(7)[0]] += 1
        assert counts.max() - counts.min() <= 1


def test_no_row_twice_in_a_batch():
    sampler = filled([1e6, 1e3, 1.0, 1e-3, 1e-6], **EXACT)
    for _ in range(50):
        assert sorted(sampler.sample(5)[0].tolist()) == [0, 1, 2, 3, 4]
    first = [int(filled([8.0, 4.0, 2.0, 1.0], seed, **EXACT).sample(3)[0][0]) for seed in range(3_000)]
    assert np.bincount(first) / 3_000 == pytest.approx(np.array([8, 4, 2, 1]) / 15, abs=0.03)


def test_masked_rows_fill_a_batch_that_needs_them():
    sampler = filled([1.0] * 8, **EXACT)
    assert len(set(sampler.sample(6)[0].tolist())) == 6  # a = 1 > e = 6/8
    assert sampler.metrics()["rr/masked_share"] == 6 / 8
    sampler.sample(4)  # two that are open, two that are masked
    assert sampler.metrics()["rr/soft_masked_draws"] == 2 / 4


def test_a_batch_that_cannot_be_filled():
    sampler = filled([1.0, 2.0, 0.0, 0.0], **EXACT)
    with pytest.raises(ReplayError, match="a batch of 5 from 4 usable rows"):
        sampler.sample(5)
    with pytest.raises(ReplayError, match="a batch of 3 from 2 rows with a priority above 0"):
        sampler.sample(3)
    assert sorted(sampler.sample(2)[0].tolist()) == [0, 1]
    sampler.invalidate(np.arange(4))
    with pytest.raises(ReplayError, match="no usable row"):
        sampler.sample(1)
    assert sampler.metrics()["rr/soft_masked_draws"] == 0


def test_a_new_row_begins_with_equal_counts():
    sampler = filled([1.0, 1.0, 1.0, 1.0], **EXACT)
    sampler.sample(2)
    (slot,) = np.flatnonzero(sampler._masked.leaves < np.inf)[:1]
    sampler.extend(np.array([slot]), np.array([77]))  # overwrites a masked row
    assert sampler._due[slot] == sampler._clock
    assert int(slot) in {int(s) for _ in range(2) for s in sampler.sample(2)[0]}


@pytest.mark.parametrize(("rule", "expected"), [("running_max", 9.0), ("in_buffer_max", 4.0), ("constant", 1.0)])
def test_new_row_rules(rule, expected):
    sampler = filled([9.0, 4.0, 1.0], new_row=rule, **EXACT)
    sampler.invalidate(np.array([0]))
    sampler.extend(np.array([2]), np.array([7]))
    assert sampler.state_dict()["priorities"]["p"].tolist() == [0, 4, expected]


def test_lap_priorities_by_default():
    sampler = filled([0.0, 0.001, 2.0])
    assert sampler.state_dict()["priorities"]["p"] == pytest.approx([0.01**0.6, 0.01**0.6, 2**0.6])


def test_weights_come_from_the_unmasked_priorities():
    assert filled([1.0, 4.0]).sample(2)[1].weight is None
    sampler = filled([1.0, 4.0], weight_exponent=0.5, **EXACT)
    for _ in range(3):
        slots, info = sampler.sample(2)
        assert info.weight[slots == 0] == 1.0
        assert info.weight[slots == 1] == 0.5  # (4 / 1)^-0.5
    assert sampler.metrics()["rr/weight_effective_share"] == pytest.approx(1.5**2 / (2 * 1.25))


def test_late_updates_and_bad_input_change_nothing():
    sampler = filled([1.0, 2.0, 3.0])
    sampler.sample(2)
    before = repr(sampler.state_dict())
    for method in (sampler.extend, sampler.update):
        with pytest.raises(ReplayError, match="slot 3 is out of range"):
            method(np.array([0, 3]), np.array([7, 8]), np.array([1.0, 1.0]))
        with pytest.raises(ReplayError, match="a priority is -1"):
            method(np.array([0, 1]), np.array([7, 8]), np.array([1.0, -1.0]))
    assert repr(sampler.state_dict()) == before
    sampler.update(np.array([0, 1]), np.array([1, 0]), np.array([50.0, 50.0]))
    assert sampler.metrics()["rr/late_updates"] == 1
    assert sampler.state_dict()["priorities"]["p"] == pytest.approx([1, 2**0.6, 3**0.6])


@pytest.mark.parametrize(
    ("key", "value"), [("priority_exponent", -1.0), ("priority_epsilon", -0.1), ("weight_exponent", -1.0)]
)
def test_settings_out_of_range(key, value):
    with pytest.raises(ConfigError, match=f"sampler.{key} is {value}"):
        MaskedReshuffleConfig(**{key: value})


def test_state_is_refused_by_another_sampler():
    state = filled([1.0, 2.0]).state_dict()
    for other in (filled([1.0]), filled([1.0, 2.0], rebalance="none"), PrioritizedSampler(2, 0)):
        with pytest.raises(ResumeError, match="the stored sampler is another one"):
            other.load_state_dict(state)
    with pytest.raises(ResumeError, match="another seed"):
        filled([1.0, 2.0], seed=1).load_state_dict(state)


def test_state_is_a_copy_and_complete():
    sampler = filled(np.linspace(1, 9, 20), weight_exponent=0.4)
    for _ in range(5):
        slots, info = sampler.sample(6)
        sampler.update(slots, info.uid + (slots == slots[0]), slots + 1.0)
    state = sampler.state_dict()
    kept = repr(state)
    again = MaskedReshuffleSampler(20, 0, sampler.config)
    again.load_state_dict(state)
    again.sample(4)
    again.invalidate(np.arange(5))
    assert repr(state) == kept
    again.load_state_dict(state)
    found = []
    for each in (sampler, again):
        each.extend(np.array([3]), np.array([99]))
        slots, info = each.sample(7)
        found.append((slots.tolist(), info.uid.tolist(), info.weight.tolist(), each.metrics(), repr(each.state_dict())))
    assert found[0] == found[1]
