"""Counting visits: closed forms against the phase model and the published table, the simulation against plain lists."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ReplayError
from rlkit.replay import samplers
from rlkit.replay.samplers.masked import MaskedReshuffleConfig, MaskedReshuffleSampler
from rlkit.replay.samplers.prioritized import PrioritizedConfig, PrioritizedSampler
from rlkit.replay.samplers.uniform import UniformConfig, UniformSampler
from rlkit.replay.visits import CLOSED_FORMS, simulate

WITH_REPLACEMENT, RESHUFFLED = CLOSED_FORMS["uniform"], CLOSED_FORMS["rr-c"]


# --- closed forms


@pytest.mark.parametrize(
    ("r", "variance", "never", "never_wr"),
    [
        (0.25, 0.1927, 0.753, 0.779), (0.5, 0.2917, 0.521, 0.607), (1, 0.3333, 0.167, 0.368),
        (1.5, 0.3333, 0.021, 0.223), (2, 0.3333, 0, 0.135), (4, 0.3333, 0, 0.018), (8, 0.3333, 0, 3e-4),
        (128, 0.3333, 0, 0), (256, 0.3333, 0, 0),
    ],
)  # fmt: skip
def test_golden_table(r, variance, never, never_wr):
    assert RESHUFFLED.variance(r) == pytest.approx(variance, abs=5e-5)
    assert RESHUFFLED.never(r) == pytest.approx(never, abs=5e-4)
    assert WITH_REPLACEMENT.variance(r) == r
    assert WITH_REPLACEMENT.never(r) == pytest.approx(never_wr, abs=5e-4)


def met_parts(r, phase):
    """The part of each epoch that a life of r epochs meets when it begins at `phase` of one."""
    parts, start, end = [], phase, phase + r
    while start < end:
        border = math.floor(start) + 1
        parts.append(min(border, end) - start)
        start = border
    return parts


def phase_model(r, phases=2000):
    """Mean, variance and P(0) of the visits: an epoch visits with the probability of the part that is met."""
    mean, variance, never = [], [], []
    for phase in (np.arange(phases) + 0.5) / phases:
        parts = np.array(met_parts(r, phase))
        mean.append(parts.sum())
        variance.append((parts * (1 - parts)).sum())
        never.append((1 - parts).prod())
    return np.mean(mean), np.mean(variance), np.mean(never)


@pytest.mark.parametrize("r", [0.1, 0.5, 0.9, 1.0, 1.3, 1.9, 2.0, 3.7])
def test_reshuffled_is_the_phase_model(r):
    mean, variance, never = phase_model(r)
    assert mean == pytest.approx(r)
    assert RESHUFFLED.variance(r) == pytest.approx(variance, abs=1e-5)
    assert RESHUFFLED.never(r) == pytest.approx(never, abs=1e-5)


@pytest.mark.parametrize("r", [0.1, 0.5, 1.0, 1.3, 2.0, 8.0])
@pytest.mark.parametrize("form", [WITH_REPLACEMENT, RESHUFFLED])
def test_delay_is_the_mean_of_the_first_visit_that_comes_in_time(form, r):
    edges = np.linspace(0, r, 20_001)  # P(first visit before t) = 1 - P(0) of a life of t
    before = 1 - np.array([form.never(t) for t in edges])
    mean = ((edges[1:] + edges[:-1]) / 2 * np.diff(before)).sum() / before[-1]
    assert form.delay(r) == pytest.approx(mean, abs=1e-6)


def test_delay_golden():
    assert RESHUFFLED.delay(8) == RESHUFFLED.delay(2) == pytest.approx(7 / 12)
    assert WITH_REPLACEMENT.delay(50) == pytest.approx(1)


@pytest.mark.parametrize(("r", "low", "high"), [(0.5, 0, 2), (1, 0, 2), (1.5, 0, 3), (2, 1, 3), (2.5, 1, 4), (8, 7, 9)])
def test_bounds_golden(r, low, high):
    assert RESHUFFLED.bounds(r) == (low, high)
    assert WITH_REPLACEMENT.bounds(r) == (0, math.inf)
    possible = [len(met_parts(r, phase)) for phase in (np.arange(100) + 0.5) / 100]
    assert max(possible) <= high


# --- the simulation


def simulate_with_lists(sampler, batch_size, writes_per_batch, warm_up, rings, priority):
    """Every row as a dict, every draw looked at by itself."""
    capacity, rows, alive, visits_of_slot, draws = sampler.capacity, [], [], {}, 0
    to_write = warm_up
    while len(rows) + to_write <= (rings + 2) * capacity:
        for _ in range(to_write):
            uid = len(rows)
            row = {"slot": uid % capacity, "born": draws, "draws": [], "expected": 0.0, "priority": priority[uid]}
            if len(alive) == capacity:
                sampler.invalidate(np.array([alive.pop(0)["slot"]]))
            rows.append(row)
            alive.append(row)
            sampler.extend(np.array([row["slot"]]), np.array([uid]))
        to_write = writes_per_batch
        total = sum(row["priority"] for row in alive)
        for row in alive:
            row["expected"] += batch_size * row["priority"] / total
        for slot in sampler.sample(batch_size)[0].tolist():
            (row,) = (row for row in alive if row["slot"] == slot)
            row["draws"].append(draws)
            visits_of_slot.setdefault(slot, []).append(draws)
            draws += 1
    gaps = [b - a for visits in visits_of_slot.values() for a, b in itertools.pairwise(visits)]
    return rows[: len(rows) - capacity], np.array(gaps) / capacity


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["uniform", "rr-c"]),
    capacity=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    writes_per_batch=st.integers(1, 9),
    warm_up=st.integers(1, 9),
    rings=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore:a batch of")  # one larger than the ring
def test_simulation_equals_lists(name, capacity, batch_size, writes_per_batch, warm_up, rings, seed):
    writes_per_batch, warm_up = min(writes_per_batch, capacity), min(warm_up, capacity)
    priority = np.random.default_rng(seed).random((rings + 2) * capacity) + 0.1
    setting = {"batch_size": batch_size, "writes_per_batch": writes_per_batch, "warm_up": warm_up, "rings": rings}
    found = simulate(samplers.make(name, capacity, seed), priority=priority, **setting)
    rows, gaps = simulate_with_lists(samplers.make(name, capacity, seed), priority=priority, **setting)
    assert found.count.tolist() == [len(row["draws"]) for row in rows]
    np.testing.assert_allclose(found.expected, [row["expected"] for row in rows], rtol=1e-10)
    delay = [(row["draws"][0] - row["born"]) / capacity if row["draws"] else math.nan for row in rows]
    np.testing.assert_allclose(found.first_visit_delay, delay, rtol=1e-12)
    spread = [gaps.mean(), gaps.std(), gaps.max()] if gaps.size else [math.nan, math.nan, 0.0]
    np.testing.assert_allclose([found.gap_mean, found.gap_sd, found.gap_max], spread, rtol=1e-6, atol=1e-6)


def test_a_row_is_taken_back_before_the_next_one_moves_in():
    class Strict(UniformSampler):
        def extend(self, slots, uids, priority=None):
            before = len(self)
            super().extend(slots, uids, priority)
            assert len(self) == before + len(slots)

    visits = simulate(Strict(9, 0), batch_size=2, writes_per_batch=4, warm_up=5)
    assert len(visits.count) == 21 * 9 - 1  # 189 of the 198 rows of 22 rings, but for the one that no batch followed


@pytest.mark.parametrize(("writes_per_batch", "warm_up"), [(5, 1), (1, 5)])
def test_more_writes_than_the_ring_holds_are_refused(writes_per_batch, warm_up):
    with pytest.raises(ReplayError, match="do not fit a ring of 4"):
        simulate(samplers.make("uniform", 4, 0), batch_size=1, writes_per_batch=writes_per_batch, warm_up=warm_up)


# --- the samplers against the closed forms (20 rings of 1,000 slots)


@pytest.mark.parametrize(
    ("batch_size", "writes_per_batch"), [(5, 20), (5, 10), (8, 8), (6, 4), (8, 4), (8, 1), (32, 4)]
)
@pytest.mark.parametrize("name", ["uniform", "rr-c"])
def test_counts_are_those_of_the_closed_form(name, batch_size, writes_per_batch):
    r, form = batch_size / writes_per_batch, CLOSED_FORMS[name]
    visits = simulate(
        samplers.make(name, 1000, 3), batch_size=batch_size, writes_per_batch=writes_per_batch, warm_up=1000
    )
    count, delay = visits.count[1000:], visits.first_visit_delay[1000:]
    assert len(count) >= 20_000
    assert count.mean() == pytest.approx(r, rel=0.01)
    assert count.var() == pytest.approx(form.variance(r), rel=0.1)
    assert (count == 0).mean() == pytest.approx(form.never(r), abs=0.01)
    low, high = form.bounds(r)
    assert low <= count.min()
    assert count.max() <= high
    assert np.nanmean(delay) == pytest.approx(form.delay(r), rel=0.04)


def test_gaps_of_reshuffling_are_triangular_and_below_two_epochs():
    reshuffled, uniform = (
        simulate(samplers.make(name, 1000, 0), batch_size=8, writes_per_batch=1, warm_up=1000)
        for name in ("rr-c", "uniform")
    )
    assert reshuffled.gap_mean == pytest.approx(1, abs=0.01)
    assert reshuffled.gap_sd == pytest.approx(1 / math.sqrt(6), rel=0.01)
    assert reshuffled.gap_max < 2
    assert uniform.gap_sd == pytest.approx(1, rel=0.02)
    assert uniform.gap_max > 5


@pytest.mark.parametrize(("name", "variance"), [("uniform", 13.4), ("rr-c", 3.3)])
def test_rows_of_a_growing_ring_inherit_more_visits(name, variance):
    rings = [
        simulate(samplers.make(name, 1000, seed), batch_size=8, writes_per_batch=1, warm_up=200, rings=1)
        for seed in range(5)
    ]
    count = np.concatenate([visits.count[200:1000] for visits in rings])
    assert count.mean() == pytest.approx(9.6, rel=0.03)
    assert count.var() == pytest.approx(variance, rel=0.1)


def test_no_row_twice_in_a_batch_changes_next_to_nothing():
    sampler = samplers.make("uniform", 1000, 0, UniformConfig(replacement=False))
    count = simulate(sampler, batch_size=32, writes_per_batch=4, warm_up=1000).count[1000:]
    assert count.var() == pytest.approx(8 * (1 - 32 / 1000), rel=0.05)


@pytest.mark.parametrize(
    ("sampler", "variance"),
    [
        (PrioritizedSampler(1000, 0, PrioritizedConfig(priority_exponent=1.0, draw="independent")), 8.0),
        (MaskedReshuffleSampler(1000, 0, MaskedReshuffleConfig(priority_exponent=1.0)), 0.34),
    ],
)
def test_draws_by_priority_follow_their_expectation(sampler, variance):
    priority = np.exp(0.6 * np.random.default_rng(0).standard_normal(22_000))
    visits = simulate(sampler, batch_size=32, writes_per_batch=4, warm_up=1000, priority=priority)
    count, expected = visits.count[1000:], visits.expected[1000:]
    assert expected.var() > 20  # some rows are expected far more often than others
    assert (count - expected).mean() == pytest.approx(0, abs=0.01)
    assert (count - expected).var() == pytest.approx(variance, rel=0.1)
    if variance == 8.0:  # Poisson with these means
        assert (count == 0).mean() == pytest.approx(np.exp(-expected).mean(), rel=0.1)
