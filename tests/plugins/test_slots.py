"""The shared part: rows are numbered as they are written, late priorities ignored, a pickle goes on in mid-epoch."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.replay.adapters.slots import SlotSampler
from rlkit.replay.samplers.reshuffle import ReshuffleConfig
from rlkit.replay.samplers.uniform import UniformConfig
from tests.plugins.reference import SAMPLERS, Reference

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True)),
        st.tuples(st.just("draw"), st.integers(1, 5)),
        st.tuples(st.just("pickle"), st.none()),
    ),
    max_size=20,
)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(OPERATIONS)
@settings(max_examples=30, deadline=None)
def test_draws_are_the_samplers_own(sampler, operations):
    slots, reference = SlotSampler(7, sampler, 3), Reference(7, 3, sampler)
    for kind, value in operations:
        if kind == "write":
            slots.written(np.array(value))
            reference.write(value)
        elif kind == "pickle":
            high = slots.high
            slots = pickle.loads(pickle.dumps(slots))
            assert slots.high == high
        elif reference.count:
            batch_size = reference.fitting(value)
            drawn, info = reference.draw(batch_size)
            assert slots.draw(batch_size).tolist() == drawn.tolist()
            assert slots.info.uid.tolist() == info.uid.tolist()
            if info.weight is not None:
                assert slots.info.weight.tolist() == info.weight.tolist()


def test_of_more_rows_than_slots_the_last_ones_stay():
    slots = SlotSampler(3, "rr-c", 1)
    kept, uids = slots.written(np.array([0, 1, 2, 0, 1]))
    assert (kept.tolist(), uids.tolist()) == ([2, 0, 1], [0, 1, 2])
    drawn = slots.draw(3)
    assert dict(zip(drawn.tolist(), slots.info.uid.tolist(), strict=True)) == {2: 0, 0: 1, 1: 2}


def test_clear_starts_anew():
    slots = SlotSampler(4, "rr-c", 1)
    slots.written(np.arange(4))
    first = slots.draw(4).tolist()
    slots.draw(2)
    slots.clear()
    with pytest.raises(ReplayError, match="no usable row"):
        slots.draw(1)
    slots.written(np.arange(4))
    assert slots.draw(4).tolist() == first


class Told:
    """Stands for a sampler; remembers what it was told."""

    def __init__(self, inner):
        self.inner, self.capacity, self.told = inner, inner.capacity, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def invalidate(self, slots):
        self.told.append(("invalidate", slots.tolist()))
        self.inner.invalidate(slots)

    def extend(self, slots, uids):
        self.told.append(("extend", slots.tolist(), uids.tolist()))
        self.inner.extend(slots, uids)

    def update(self, slots, uids, priority):
        self.told.append(("update", slots.tolist(), uids.tolist(), priority.tolist()))


def test_priorities_are_meant_for_the_row_that_was_drawn():
    slots = SlotSampler(4, "rr-c", 1)
    slots.written(np.arange(4))  # uids 0 to 3
    slots.sampler = Told(slots.sampler)
    slots.draw(4)
    slots.written(np.array([2]))  # uid 4 lives in slot 2 now, and was not drawn
    slots.update(np.array([1, 2]), np.array([0.5, 0.25], np.float32))
    slots.draw(4)
    slots.update(np.array([2]), np.array([1.0], np.float32))
    assert slots.sampler.told == [
        ("invalidate", [2]),
        ("extend", [2], [4]),
        ("update", [1, 2], [1, 2], [0.5, 0.25]),
        ("update", [2], [4], [1.0]),
    ]
    with pytest.raises(ReplayError, match="slot -1 is out of range"):
        slots.update(np.array([-1]), np.array([1.0], np.float32))
    with pytest.raises(ReplayError, match="slot 4 is out of range"):
        slots.written(np.array([4]))


def test_settings_that_do_not_fit():
    with pytest.raises(ConfigError, match="unknown sampler 'rrc'"):
        SlotSampler(4, "rrc", 1)
    with pytest.raises(ConfigError, match="sampler_config is a UniformConfig") as caught:
        SlotSampler(4, "rr-c", 1, UniformConfig())
    assert "ReshuffleConfig(...), from rlkit.replay.samplers.reshuffle" in str(caught.value)
    with pytest.raises(ConfigError, match="seed is None"):
        SlotSampler(4, "rr-c", None)


def test_settings_reach_the_sampler():
    slots = SlotSampler(4, "rr-c", 1, ReshuffleConfig(strict=True))
    slots.written(np.arange(2))
    with pytest.raises(ReplayError, match="a batch of 3 from 2 usable rows"):
        slots.draw(3)


def test_a_state_of_another_seed_is_refused():
    with pytest.raises(ResumeError, match="another seed"):
        SlotSampler(4, "rr-c", 2).load_state_dict(SlotSampler(4, "rr-c", 1).state_dict())
    with pytest.raises(ResumeError, match="another one"):
        SlotSampler(5, "rr-c", 1).load_state_dict(SlotSampler(4, "rr-c", 1).state_dict())
