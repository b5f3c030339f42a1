"""cpprb's buffer: n-step, shared next observations and stacks stay the library's, the rows are the sampler's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ReplayError
from rlkit.replay.adapters.cpprb import ReplayBuffer
from tests.plugins.reference import SAMPLERS, Reference

COLUMNS = {"obs": {"shape": 2}, "rew": {}, "next_obs": {"shape": 2}, "done": {}}


def rows(start, count):
    t = np.arange(start, start + count, dtype=float)
    obs = np.stack([t, -t], 1)
    return {"obs": obs, "rew": t, "next_obs": obs + np.array([1, -1]), "done": np.zeros(count)}


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5)), max_size=8))
@settings(max_examples=30, deadline=None)
def test_drawn_rows_are_the_samplers(sampler, counts):
    buffer, reference, t = ReplayBuffer(7, COLUMNS, seed=3, sampler=sampler), Reference(7, 3, sampler), 0
    for count, batch_size in counts:
        assert buffer.add(**rows(t, count)) == t % 7
        reference.write(np.arange(t, t + count) % 7)
        t += count
        batch_size = reference.fitting(batch_size)
        batch = buffer.sample(batch_size)
        drawn, info = reference.draw(batch_size)
        assert batch["indexes"].tolist() == drawn.tolist()
        assert (batch["obs"][:, 0] % 7 == drawn).all()
        assert (batch["obs"][:, 0] >= t - 7).all()
        assert ("weights" in batch) == (info.weight is not None)


def test_every_row_once_per_epoch():
    buffer = ReplayBuffer(10, COLUMNS, seed=1)
    buffer.add(**rows(0, 9))
    buffer.add(**rows(9, 4))
    drawn = np.concatenate([buffer.sample(4)["indexes"] for _ in range(5)])
    assert sorted(drawn) == sorted(2 * list(range(10)))
    assert sorted(drawn[:10]) == list(range(10))


def test_more_rows_at_once_than_slots():
    buffer = ReplayBuffer(4, COLUMNS, seed=1)
    buffer.add(**rows(0, 6))
    assert sorted(buffer.sample(4)["indexes"]) == [0, 1, 2, 3]


def test_n_step_rows_are_known_when_they_are_stored():
    n_step = {"size": 3, "gamma": 0.5, "rew": "rew", "next": "next_obs"}
    buffer = ReplayBuffer(8, COLUMNS, Nstep=n_step, seed=1)
    for t in range(2):
        assert buffer.add(**rows(t, 1)) is None
    with pytest.raises(ReplayError, match="no usable row"):
        buffer.sample(1)
    for t in range(2, 5):
        assert buffer.add(**rows(t, 1)) == t - 2
    assert sorted(buffer.sample(3)["obs"][:, 0]) == [0, 1, 2]
    buffer.on_episode_end()  # stores the starts that were waiting
    with pytest.warns(UserWarning, match="more than once"):
        batch = buffer.sample(7)  # what was left of the epoch, and the next
    found = dict(zip(batch["obs"][:, 0], batch["rew"][:, 0], strict=True))
    assert found[0] == 0 + 0.5 * 1 + 0.25 * 2
    assert set(found) == {0, 1, 2, 3, 4}
    assert found[4] == 4


def test_shared_next_observations_and_stacks():
    columns = {"obs": {"shape": (1, 2)}, "done": {}}
    buffer = ReplayBuffer(5, columns, next_of="obs", stack_compress="obs", seed=1)
    for t in range(12):
        ends = t % 4 == 3
        obs, next_obs = np.array([[t - 1.0, t]]), np.array([[t, t + 1.0]])
        buffer.add(obs=obs, next_obs=next_obs, done=ends)
        if ends:
            buffer.on_episode_end()
        batch = buffer.sample(min(t + 1, 5))
        newest = batch["obs"][:, 0, 1]
        assert (batch["obs"][:, 0, 0] == newest - 1).all()
        assert (batch["next_obs"][:, 0, 1] == newest + 1).all()


def test_the_samplers_state_beside_the_stored_rows(tmp_path):
    buffer = ReplayBuffer(6, COLUMNS, seed=1)
    for t in range(8):
        buffer.add(**rows(t, 1))
    buffer.sample(4)
    buffer.save_transitions(tmp_path / "rows.npz")
    other = ReplayBuffer(6, COLUMNS, seed=1)
    other.load_transitions(tmp_path / "rows.npz")
    other.slots.load_state_dict(buffer.slots.state_dict())
    for _ in range(5):
        mine, theirs = buffer.sample(4), other.sample(4)
        assert all((mine[name] == theirs[name]).all() for name in mine)


def test_clear_starts_anew():
    buffer = ReplayBuffer(4, COLUMNS, seed=1)
    buffer.add(**rows(0, 4))
    first = buffer.sample(4)["indexes"].tolist()
    buffer.clear()
    with pytest.raises(ReplayError, match="no usable row"):
        buffer.sample(1)
    buffer.add(**rows(0, 4))
    assert buffer.sample(4)["indexes"].tolist() == first


def test_priorities():
    buffer = ReplayBuffer(4, COLUMNS, seed=1, sampler="per")
    buffer.add(**rows(0, 4))
    assert buffer.sample(40)["weights"].tolist() == [1.0] * 40
    buffer.update_priorities(np.arange(4), np.array([0.0, 0.0, 1e6, 0.0]))
    assert set(buffer.sample(40)["indexes"]) == {2}
    buffer.add(**rows(4, 3))  # the row in slot 2 goes; what is said about it now is late
    buffer.update_priorities([2, 3], [1e-3, 1e6])
    assert buffer.sample(100)["indexes"].tolist().count(2) > 10
    with pytest.raises(ReplayError, match="a priority is -1"):
        buffer.update_priorities([0], [-1.0])
