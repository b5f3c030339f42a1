"""PER: the specification's vector, every option against an oracle that goes row by row, bad input, resume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.replay.samplers.prioritized import PrioritizedConfig, PrioritizedSampler
from rlkit.replay.samplers.uniform import UniformSampler
from tests.replay.oracles.prioritized import PrioritizedOracle
from tests.replay.oracles.priority_programs import operations, run

GOLDEN = np.array([0.5, 2, 0, 1], np.float32)  # |TD error|; p^0.6 = .6598, 1.5157, .00025, 1


def make(capacity=4, seed=0, **config):
    return PrioritizedSampler(capacity, seed, PrioritizedConfig(**config))


def filled(priority=GOLDEN, **config):
    slots = np.arange(len(priority))
    sampler = make(len(priority), **config)
    sampler.extend(slots, slots + 100, np.asarray(priority, float))
    return sampler


def weight_of_each(sampler, rows, tries=50, batch=16):
    """The weights of a batch that holds just `rows`, by row; batch-dependent normalisers need the very set."""
    for _ in range(tries):
        slots, info = sampler.sample(batch)
        if set(slots.tolist()) == rows:
            return [float(info.weight[slots.tolist().index(row)]) for row in sorted(rows)]
    raise AssertionError("never drawn")


# --- the vector of the specification


def test_golden_priorities_and_raw_weights():
    sampler = filled(weight_normaliser="none", uniform_share=0.0)
    p = sampler.state_dict()["rows"]["p"]
    np.testing.assert_allclose(p, [0.659754747, 1.51571702, 2.51188643e-4, 1.0000006], rtol=1e-8)
    assert weight_of_each(sampler, {0, 1, 3}) == pytest.approx([1.07686205, 0.77208627, 0.91182811], rel=1e-6)
    slots, _ = sampler.sample(100_000)  # stratified: each count is within 2 of its expectation
    expected = np.array([0.207749426, 0.477282419, 7.90965e-5, 0.314889058]) * 100_000
    assert np.abs(np.bincount(slots, minlength=4) - expected).max() < 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weight_normaliser": "batch"}, [1, 0.71697788, 0.84674552]),
        ({"weight_normaliser": "buffer"}, [0.04287923, 0.03074346, 0.0363078]),
        ({"weight_normaliser": "batch", "weight_exponent": 1.0}, [1, 0.43527567, 0.65975435]),
    ],
)
def test_golden_normalised_weights(settings, expected):
    assert weight_of_each(filled(**settings), {0, 1, 3}) == pytest.approx(expected, rel=1e-6)


def test_golden_uniform_share():
    sampler = filled(weight_normaliser="none", uniform_share=1e-3)
    slots, info = sampler.sample(200_000)
    assert info.weight[slots == 2] == pytest.approx(14.2000, rel=1e-5)
    assert (slots == 2).mean() == pytest.approx(3.29017e-4, rel=0.2)


# --- every option against the oracle


@st.composite
def programs(draw, capacity=12):
    config = PrioritizedConfig(
        priority_exponent=draw(st.sampled_from([0.0, 0.5, 0.6, 1.0])),
        priority_rule=draw(st.sampled_from(["add", "clamp"])),
        priority_epsilon=draw(st.sampled_from([0.0, 1e-6, 0.01])),
        new_row=draw(st.sampled_from(["running_max", "in_buffer_max", "constant"])),
        draw=draw(st.sampled_from(["stratified", "independent"])),
        uniform_share=draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
        weight_exponent=draw(st.sampled_from([0.0, 0.4, 1.0])),
        weight_exponent_end=draw(st.sampled_from([0.7, 1.0])),
        anneal_batches=draw(st.sampled_from([None, 1, 3])),
        weight_normaliser=draw(st.sampled_from(["batch", "buffer", "none"])),
        duplicates=draw(st.sampled_from(["last", "max"])),
    )
    return config, draw(st.integers(0, 99)), draw(operations(capacity)), draw(st.randoms())


@settings(max_examples=250, deadline=None)
@given(programs())
def test_equals_the_oracle(program):
    config, seed, steps, random = program

    def compare(expected, slots, uids, weight):
        assert (slots, uids) == expected[:2]
        assert (weight is None) == (expected[2] is None)
        if weight is not None:
            np.testing.assert_allclose(weight, expected[2], rtol=1e-5)

    oracle = PrioritizedOracle(12, seed, config)
    priorities = [0.0, 1e-7, 0.01, 0.3, 1.0, 2.5, 2.5, 40.0]
    sampler = run(
        lambda: PrioritizedSampler(12, seed, config), oracle, steps, lambda: random.choice(priorities), compare
    )
    p = sampler.state_dict()["rows"]["p"]
    np.testing.assert_allclose(p, [oracle.p.get(slot, 0) for slot in range(12)], rtol=1e-14)


# --- single rules


def test_draws_follow_the_priorities():
    rng = np.random.default_rng(0)
    priority = rng.exponential(1, 50)
    for draw in ("stratified", "independent"):
        sampler = filled(priority, draw=draw, priority_exponent=1.0, priority_epsilon=0.0)
        slots = np.concatenate([sampler.sample(32)[0] for _ in range(3_000)])
        expected = priority / priority.sum() * len(slots)
        chi_squared = ((np.bincount(slots, minlength=50) - expected) ** 2 / expected).sum()
        assert chi_squared < 85.4  # 0.1 % of 49 degrees of freedom


def test_stratified_draws_vary_less():
    counts = {}
    for draw in ("stratified", "independent"):
        sampler = filled([1.0, 2.0, 3.0, 4.0], draw=draw, priority_exponent=1.0, priority_epsilon=0.0)
        counts[draw] = np.array([np.bincount(sampler.sample(10)[0], minlength=4) for _ in range(500)])
        assert counts[draw].mean(0) == pytest.approx([1, 2, 3, 4], abs=0.3)
    assert (counts["stratified"] == [1, 2, 3, 4]).all()
    assert counts["independent"].var(0).min() > 0.5


def test_lap_has_no_weights_and_clamps():
    sampler = filled([0.2, 3.0], priority_rule="clamp", priority_epsilon=1.0, weight_exponent=0.0, anneal_batches=2)
    for _ in range(3):
        assert sampler.sample(2)[1].weight is None
    assert sampler.state_dict()["rows"]["p"].tolist() == [1.0, 3.0**0.6]


def test_weight_exponent_is_annealed_per_batch():
    sampler = filled(
        [1.0, 16.0], priority_exponent=1.0, priority_epsilon=0.0, anneal_batches=4, weight_exponent=0.0 + 0.5
    )
    betas = []
    for _ in range(6):  # the rarer row has weight 1, the other one (1 / 16)^beta
        slots, info = sampler.sample(64)
        betas.append(float(-np.log(info.weight[slots == 1][0]) / np.log(16)))
    assert betas == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize(("rule", "expected"), [("running_max", 9.0), ("in_buffer_max", 4.0), ("constant", 1.0)])
def test_new_row_rules(rule, expected):
    sampler = make(new_row=rule, priority_exponent=1.0, priority_epsilon=0.0)
    sampler.extend(np.array([0, 1]), np.array([0, 1]))
    assert sampler.state_dict()["rows"]["p"].tolist() == [1, 1, 0, 0]  # nothing is known yet
    sampler.update(np.array([0, 1]), np.array([0, 1]), np.array([9.0, 4.0]))
    sampler.update(np.array([0]), np.array([7]), np.array([100.0]))  # of a row that is gone: not seen
    sampler.invalidate(np.array([0]))
    sampler.extend(np.array([2]), np.array([2]))
    assert sampler.state_dict()["rows"]["p"].tolist() == [0, 4, expected, 0]


def test_in_buffer_max_of_zeros_is_one():
    sampler = make(new_row="in_buffer_max", priority_epsilon=0.0)
    sampler.extend(np.array([0]), np.array([0]), np.array([0.0]))
    sampler.extend(np.array([1]), np.array([1]))
    assert sampler.state_dict()["rows"]["p"].tolist() == [0, 1, 0, 0]


def test_late_updates_change_nothing():
    sampler = filled()
    before = sampler.state_dict()["rows"]["p"].tolist()
    sampler.update(np.array([1, 2]), np.array([1, 2]), np.array([50.0, 60.0]))  # the rows are 101 and 102
    assert sampler.state_dict()["rows"]["p"].tolist() == before
    sampler.update(np.array([1, 2, 3]), np.array([101, 2, 3]), np.array([5.0, 6.0, 7.0]))
    assert sampler.metrics()["per/late_updates"] == 4 / 5
    assert "per/late_updates" not in sampler.metrics()


def test_duplicates():
    for rule, expected in (("last", 2.0), ("max", 5.0)):
        sampler = filled(duplicates=rule, priority_exponent=1.0, priority_epsilon=0.0)
        slots = np.array([1, 0, 1, 1])
        sampler.update(slots, slots + 100, np.array([3.0, 1.0, 5.0, 2.0]))
        assert sampler.state_dict()["rows"]["p"].tolist() == [1, expected, 0, 1]


def test_rows_of_priority_zero_are_not_drawn():
    sampler = filled([0.0, 1.0, 0.0], priority_epsilon=0.0, priority_exponent=0.0)  # 0^0 is 0 here
    assert set(sampler.sample(50)[0].tolist()) == {1}
    sampler.update(np.array([1]), np.array([101]), np.array([0.0]))
    with pytest.raises(ReplayError, match="all 3 usable rows have priority 0"):
        sampler.sample(1)
    uniform = filled([0.0, 0.0, 0.0], priority_epsilon=0.0, uniform_share=0.01)
    assert set(uniform.sample(50)[0].tolist()) == {0, 1, 2}


def test_the_rarest_row_of_the_buffer_may_have_priority_zero():
    sampler = filled(
        [0.0, 1.0],
        priority_exponent=1.0,
        priority_epsilon=0.0,
        uniform_share=0.5,
        weight_exponent=1.0,
        weight_normaliser="buffer",
    )
    slots, info = sampler.sample(200)  # P = 1/4, 3/4
    assert info.weight[slots == 0] == pytest.approx(1.0)
    assert info.weight[slots == 1] == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", [1e-250, 3e38, 1e300])
def test_extreme_priorities_neither_overflow_nor_vanish(scale):
    sampler = filled(np.array([1.0, 2.0, 4.0]) * scale, priority_exponent=1.0, priority_epsilon=0.0)
    slots, info = sampler.sample(70)
    assert np.isfinite(info.weight).all()
    if scale < 1e300:
        assert np.bincount(slots).tolist() == [10, 20, 40]


def test_metrics():
    sampler = filled([1.0, 3.0], priority_exponent=1.0, priority_epsilon=0.0, weight_exponent=1.0)
    sampler.sample(4)  # weights 1, 1/3, 1/3, 1/3: (1 + 1)^2 / (4 (1 + 1/3))
    found = sampler.metrics()
    assert found == pytest.approx(
        {"per/priority_max": 3.0, "per/priority_mean": 2.0, "per/weight_effective_share": 0.75}
    )
    assert set(sampler.metrics()) == {"per/priority_max", "per/priority_mean"}
    assert make().metrics() == {}


# --- bad input


@pytest.mark.parametrize(
    ("slots", "priority", "text"),
    [
        ([0, 4], [1.0, 1.0], "slot 4 is out of range"),
        ([-1, 0], None, "slot -1 is out of range"),
        ([0, 1], [1.0, np.nan], "a priority is nan"),
        ([0, 1], [-1.0, 1.0], "a priority is -1"),
        ([0, 1], [np.inf, 1.0], "a priority is inf"),
        ([0, 1], [[1.0], [1.0]], r"2 priorities of shape \[2, 1\] for 2 slots"),
        ([0, 1], [1.0], r"1 priorities of shape \[1\] for 2 slots"),
        ([0], [1.0], r"slots of shape \[1\] and uids of shape \[2\]"),
    ],
)
@pytest.mark.parametrize("method", ["extend", "update"])
def test_bad_input_changes_nothing(method, slots, priority, text):
    if method == "update" and priority is None:
        priority = [1.0, 1.0]
    sampler = filled(new_row="in_buffer_max", weight_normaliser="buffer")
    before = repr(sampler.state_dict())
    with pytest.raises(ReplayError, match=text):
        getattr(sampler, method)(
            np.array(slots), np.array([100, 101]), None if priority is None else np.array(priority, np.float32)
        )
    assert repr(sampler.state_dict()) == before


def test_draw_from_an_empty_sampler():
    with pytest.raises(ReplayError, match="no usable row"):
        make().sample(1)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("priority_exponent", -0.1, "sampler.priority_exponent is -0.1"),
        ("priority_epsilon", np.inf, "sampler.priority_epsilon is inf"),
        ("uniform_share", 1.1, "allowed: 0 to 1"),
        ("weight_exponent", -1.0, "sampler.weight_exponent is -1"),
        ("weight_exponent_end", np.nan, "sampler.weight_exponent_end is nan"),
        ("anneal_batches", 0, "allowed: 1 or more, or null"),
    ],
)
def test_settings_out_of_range(key, value, text):
    with pytest.raises(ConfigError) as caught:
        PrioritizedConfig(**{key: value})
    assert text in str(caught.value)


# --- state


def test_state_is_refused_by_another_sampler():
    state = filled(anneal_batches=5).state_dict()
    filled(anneal_batches=9).load_state_dict(state)  # a longer run is the same run
    for other in (
        make(8, anneal_batches=5),
        make(priority_exponent=0.5),
        make(duplicates="max"),
        UniformSampler(4, 0),
    ):
        with pytest.raises(ResumeError, match="the stored sampler is another one"):
            other.load_state_dict(state)
    with pytest.raises(ResumeError, match="another seed"):
        make(seed=1).load_state_dict(state)


def test_state_is_a_copy_and_complete():
    sampler = filled(weight_normaliser="buffer", new_row="in_buffer_max", anneal_batches=10)
    sampler.sample(3)
    sampler.update(np.array([0]), np.array([0]), np.array([1.0]))
    state = sampler.state_dict()
    kept = repr(state)
    again = make(weight_normaliser="buffer", new_row="in_buffer_max", anneal_batches=10)
    again.load_state_dict(state)
    again.update(np.array([0]), np.array([100]), np.array([9.0]))
    again.sample(5)
    assert repr(state) == kept
    again.load_state_dict(state)
    drawn = []
    for each in (sampler, again):
        each.extend(np.array([2]), np.array([7]))
        each.update(np.array([1, 2]), np.array([101, 7]), np.array([3.0, 0.1]))
        slots, info = each.sample(8)
        drawn.append((slots.tolist(), info.uid.tolist(), info.weight.tolist(), each.metrics()))
    assert drawn[0] == drawn[1]
