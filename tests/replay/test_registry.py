"""The registry of samplers: what each line promises."""

import gc
import tracemalloc

import numpy as np
import pytest

from rlkit.core.errors import ConfigError
from rlkit.replay.samplers import SAMPLERS, make
from rlkit.replay.samplers.combined import CombinedConfig
from rlkit.replay.samplers.masked import MaskedReshuffleConfig
from rlkit.replay.samplers.prioritized import PrioritizedConfig
from rlkit.replay.samplers.recency import RecencyConfig

LARGEST = {
    "ere": RecencyConfig(reshuffle=True),
    "cer": CombinedConfig(inner="rr-c"),
    "per": PrioritizedConfig(new_row="in_buffer_max", weight_normaliser="buffer"),
    "rr-m": MaskedReshuffleConfig(new_row="in_buffer_max"),
}


def fill(name, capacity):
    sampler = make(name, capacity, seed=0, config=LARGEST.get(name))
    for start in range(0, capacity, 1000):
        rows = np.arange(start, start + 1000)
        sampler.extend(rows, rows)
    slots, info = sampler.sample(8)
    sampler.update(slots, info.uid, np.ones(8, np.float32))
    return sampler


@pytest.mark.parametrize("name", SAMPLERS)
def test_memory_of_a_slot(name):
    fill(name, 1000)  # compiles
    gc.collect()
    tracemalloc.start()
    sampler = fill(name, 200_000)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] / sampler.capacity
    tracemalloc.stop()
    assert 0.9 * SAMPLERS[name].slot_bytes <= used <= 1.02 * SAMPLERS[name].slot_bytes


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean 'rr-c'\?"):
        make("rrc", 8, 0)
