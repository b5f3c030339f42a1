"""Rank-based PER: the specification's vector, equality with a plain list of ranks, what happens between two sorts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.replay.samplers.rank import RankConfig, RankSampler
from tests.replay.oracles.prioritized import RankOracle
from tests.replay.oracles.priority_programs import operations, run


def make(capacity=4, seed=0, **config):
    return RankSampler(capacity, seed, RankConfig(**config))


def filled(priority, capacity=None, **config):
    slots = np.arange(len(priority))
    sampler = make(capacity or len(priority), **{"sort_period": 1, **config})
    sampler.extend(slots, slots)
    sampler.update(slots, slots, np.array(priority, float))
    return sampler


def ranking(sampler, batch=2_000):
    """Slots from rank 1 on: by how often they are drawn."""
    count = np.bincount(sampler.sample(batch)[0], minlength=sampler.capacity)
    return [int(slot) for slot in np.argsort(-count, kind="stable") if count[slot]]


def test_golden_probabilities_and_weights():
    sampler = filled([1.0, 2.0, 0.0, 0.5], weight_exponent=0.4)  # ranks 2 1 4 3
    slots, info = sampler.sample(100_000)
    expected = np.array([0.25043984, 0.40684072, 0.1541638, 0.18855564])
    assert np.abs(np.bincount(slots, minlength=4) / 100_000 - expected).max() < 2e-5
    weights = (expected / expected.min()) ** -0.4
    assert [info.weight[slots == slot][0] for slot in range(4)] == pytest.approx(weights, rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([0.0, 0.7, 1.0]),
    st.integers(1, 4),
    st.integers(0, 99),
    operations(9),
    st.randoms(),
)
def test_equals_the_oracle(exponent, sort_period, seed, steps, random):
    config = RankConfig(priority_exponent=exponent, sort_period=sort_period)

    def compare(expected, slots, uids, weight):
        assert (slots, uids) == expected[:2]
        np.testing.assert_allclose(weight, expected[2], rtol=1e-6)

    run(
        lambda: RankSampler(9, seed, config),
        RankOracle(9, seed, config),
        steps,
        lambda: random.choice([0.0, 0.5, 0.5, 2.0, 7.0]),
        compare,
    )


def test_a_list_without_room_is_sorted():
    sampler, oracle = make(4, sort_period=1_000), RankOracle(4, 0, RankConfig(sort_period=1_000))
    for uid in range(400):  # room for 68 entries
        slots = np.array([uid % 4, (uid + 2) % 4])
        for each in (sampler, oracle):
            each.extend(slots, np.array([uid, uid + 1_000]))
        assert sampler.sample(3)[0].tolist() == oracle.sample(3)[0]
    assert sampler.metrics()["per-rank/gaps"] > 0


def test_what_happens_between_two_sorts():
    sampler = filled([3.0, 2.0, 1.0], capacity=6, sort_period=2)
    sampler.update(np.array([0]), np.array([0]), np.array([3.0]))
    assert ranking(sampler) == [0, 1, 2]  # sorted
    sampler.update(np.array([2]), np.array([2]), np.array([9.0]))
    assert ranking(sampler) == [0, 1, 2]  # noted for the next sort
    sampler.extend(np.array([3, 4]), np.array([3, 4]), np.array([0.1, 5.0]))
    assert ranking(sampler) == [4, 3, 0, 1, 2]  # the last one of them first, whatever their priority
    sampler.invalidate(np.array([3]))
    assert ranking(sampler) == [4, 0, 1, 2]
    sampler.extend(np.array([5]), np.array([5]))
    sampler.update(np.array([5]), np.array([77]), np.array([0.0]))  # too late, but an update: the second one
    assert ranking(sampler) == [5, 2, 4, 0, 1]  # not known yet, then 9 5 3 2
    assert sampler.metrics()["per-rank/late_updates"] == 1 / 6


def test_rows_of_the_same_priority_keep_their_order():
    """Enough of them that an unstable sort would mix them."""
    priority = np.random.default_rng(0).integers(0, 3, 600)
    sampler = filled(priority, sort_period=1)
    sampler.sample(1)
    order = sampler.state_dict()["list"]  # the last rank first; the newest row had rank 1
    assert order.tolist() == sorted(range(600), key=lambda slot: priority[slot])


def test_a_gap_keeps_its_rank():
    sampler = filled([4.0, 3.0, 2.0, 1.0], sort_period=50, priority_exponent=1.0)
    sampler._sort()
    sampler.invalidate(np.array([1]))
    counts = np.bincount(sampler.sample(60_000)[0], minlength=4)
    assert counts / counts.sum() == pytest.approx(np.array([1, 0, 1 / 3, 1 / 4]) / (19 / 12), abs=0.01)


def test_weights_are_annealed_and_can_be_left_out():
    sampler = filled([2.0, 1.0], priority_exponent=1.0, anneal_batches=2)
    weights = []
    for _ in range(4):
        slots, info = sampler.sample(60)
        weights.append(float(info.weight[slots == 0][0]))
    assert weights == pytest.approx([0.5**0.5, 0.5**0.75, 0.5, 0.5], rel=1e-6)
    assert filled([1.0], weight_exponent=0.0, anneal_batches=2).sample(3)[1].weight is None


def test_sort_period_by_default_is_a_hundredth_of_the_capacity():
    assert make(4)._period == 1
    assert make(500)._period == 5


def test_bad_input_and_settings():
    sampler = filled([1.0, 2.0])
    before = repr(sampler.state_dict())
    for method in (sampler.extend, sampler.update):
        with pytest.raises(ReplayError, match="slot 2 is out of range"):
            method(np.array([0, 2]), np.array([0, 1]), np.array([1.0, 1.0]))
        with pytest.raises(ReplayError, match="a priority is nan"):
            method(np.array([0, 1]), np.array([0, 1]), np.array([1.0, np.nan]))
    assert repr(sampler.state_dict()) == before
    with pytest.raises(ReplayError, match="no usable row"):
        make().sample(1)
    for key, value in {"priority_exponent": 1.1, "sort_period": 0, "weight_exponent": -1.0}.items():
        with pytest.raises(ConfigError, match=rf"sampler\.{key} is {value}"):
            RankConfig(**{key: value})


def test_state_is_refused_by_another_sampler():
    state = filled([1.0, 2.0], anneal_batches=5).state_dict()
    filled([3.0, 4.0], anneal_batches=9).load_state_dict(state)
    for other in (make(3, sort_period=1), make(2, sort_period=2)):
        with pytest.raises(ResumeError, match="the stored sampler is another one"):
            other.load_state_dict(state)
