"""Lists of operations that a sampler by priority and its oracle both go through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from rlkit.core.errors import ReplayError
from tests.replay.oracles.prioritized import NothingToDrawError


def operations(capacity):
    """Rows come, with a priority or without, go, are drawn, get priorities, sometimes late; the sampler is resumed."""
    slots = st.lists(st.integers(0, capacity - 1), max_size=5)
    operation = st.one_of(
        st.tuples(st.just("extend"), slots, st.booleans()),
        st.tuples(st.just("extend"), slots, st.booleans()),
        st.tuples(st.just("invalidate"), st.lists(st.integers(-2, capacity + 2), max_size=4)),
        st.tuples(st.just("sample"), st.integers(1, 7)),
        st.tuples(st.just("sample"), st.integers(1, 7)),
        st.tuples(st.just("update"), st.lists(st.tuples(st.integers(0, capacity - 1), st.booleans()), max_size=5)),
        st.tuples(st.just("update batch")),
        st.tuples(st.just("resume")),
    )
    return st.lists(operation, max_size=40)


def run(make_sampler, oracle, steps, priority, compare):
    """Do the same to both. `priority` gives one at a time; `compare` sees what oracle and sampler have drawn."""
    sampler, count, batch = make_sampler(), 0, ([], [])
    for name, *arguments in steps:
        if name == "extend":
            slots, known = arguments
            uids = [count + i for i in range(len(slots))]
            count += len(slots)
            both(sampler.extend, oracle.extend, slots, uids, [priority() for _ in slots] if known else None)
        elif name == "invalidate":
            sampler.invalidate(np.array(arguments[0], np.int64))
            oracle.invalidate(arguments[0])
        elif name == "sample":
            try:
                expected = oracle.sample(*arguments)
            except NothingToDrawError:
                with pytest.raises(ReplayError):
                    sampler.sample(*arguments)
                continue
            slots, info = sampler.sample(*arguments)
            batch = slots.tolist(), info.uid.tolist()
            compare(expected, *batch, info.weight)
        elif name == "update":
            slots = [slot for slot, _ in arguments[0]]
            uids = [oracle.uid.get(slot, -1) - late for slot, late in arguments[0]]
            both(sampler.update, oracle.update, slots, uids, [priority() for _ in slots])
        elif name == "update batch":
            both(sampler.update, oracle.update, *batch, [priority() for _ in batch[0]])
        else:
            state = sampler.state_dict()
            sampler = make_sampler()
            sampler.extend(np.arange(sampler.capacity), np.arange(sampler.capacity))  # nothing of it may be left
            sampler.load_state_dict(state)
        assert len(sampler) == len(oracle.uid)
    return sampler


def both(method, oracle_method, slots, uids, priority):
    given = None if priority is None else np.array(priority, float)
    method(np.array(slots, np.int64), np.array(uids, np.int64), given)
    oracle_method(slots, uids, priority)
