"""Exact fractions of gradient steps."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from rlkit.plasticity.replay_ratio import UpdateSchedule


def test_golden_three_tenths_and_four_environments():
    schedule = UpdateSchedule(0)
    calls = [schedule.due(4 * (i + 1), 4, Fraction(3, 10)) for i in range(10)]
    assert calls == [1, 1, 1, 1, 2, 1, 1, 1, 1, 2]


def test_one_quarter_of_a_thousand_is_250_and_warm_up_fills_nothing():
    schedule = UpdateSchedule(500)
    assert sum(schedule.due(step, 1, Fraction(1, 4)) for step in range(1, 501)) == 0
    assert sum(schedule.due(step, 1, Fraction(1, 4)) for step in range(501, 1501)) == 250


def test_warm_up_that_ends_inside_a_vector_step():
    schedule = UpdateSchedule(10)
    assert [schedule.due(step, 4, Fraction(1)) for step in (4, 8, 12, 16)] == [0, 0, 2, 4]


@given(
    ratio=st.fractions(min_value=0, max_value=8, max_denominator=64),
    num_envs=st.integers(1, 16),
    steps=st.integers(1, 60),
    cut=st.integers(0, 60),
)
def test_total_is_the_floor_also_across_a_resume(ratio, num_envs, steps, cut):
    schedule, total = UpdateSchedule(0), 0
    for i in range(steps):
        if i == cut:
            state, schedule = schedule.state_dict(), UpdateSchedule(0)
            schedule.load_state_dict(state)
        total += schedule.due((i + 1) * num_envs, num_envs, ratio)
    assert total == int(ratio * steps * num_envs)
