"""Tianshou's buffers: the sampler draws over all rings, and the meaning of 0, None and negative sizes stays."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tianshou import data

from rlkit.core.errors import ReplayError
from rlkit.replay.adapters.tianshou import ReplayBuffer, VectorReplayBuffer
from tests.plugins.reference import SAMPLERS, Reference

pytestmark = pytest.mark.usefixtures("uncompiled_tianshou")


def step(t, envs, done=False):
    """A step that says when and where it was."""
    envs = np.asarray(envs)
    obs = np.stack([np.full(len(envs), float(t)), envs], 1)
    end = np.full(len(envs), done)
    return data.Batch(obs=obs, act=envs, rew=t + envs / 10, terminated=end, truncated=~end & False, obs_next=obs + 0.5)


def feed(buffer, t, envs, done=False):
    return buffer.add(step(t, envs, done), buffer_ids=np.asarray(envs))[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, unique=True), st.integers(1, 6)), max_size=12))
@settings(max_examples=8, deadline=None)
def test_drawn_rows_are_the_samplers(sampler, steps):
    """Three rings whose environments step at different times."""
    buffer, reference = VectorReplayBuffer(12, 3, seed=3, sampler=sampler), Reference(12, 3, sampler)
    counts = np.zeros(3, int)
    for t, (envs, batch_size) in enumerate(steps):
        envs = np.sort(envs)
        reference.write(envs * 4 + counts[envs] % 4)
        counts[envs] += 1
        feed(buffer, t, envs)
        batch_size = reference.fitting(batch_size)
        batch, slots = buffer.sample(batch_size)
        drawn, info = reference.draw(batch_size)
        assert slots.tolist() == drawn.tolist()
        assert (batch.obs[:, 1] == slots // 4).all()
        assert ("weight" in batch) == (info.weight is not None)
        if info.weight is not None:
            assert batch.weight.tolist() == info.weight.tolist()


@pytest.mark.parametrize("rings", [None, 3])
def test_sizes_that_are_no_draws(rings):
    if rings is None:
        mine, theirs = ReplayBuffer(4, seed=1), data.ReplayBuffer(4)
    else:
        mine, theirs = VectorReplayBuffer(12, rings, seed=1), data.VectorReplayBuffer(12, rings)
    envs = [0] if rings is None else [0, 1, 2]
    with pytest.raises(ReplayError, match="no usable row"):
        mine.sample(1)
    assert mine.sample_indices(0).size == mine.sample_indices(-1).size == mine.sample_indices(None).size == 0
    for t in range(6):
        feed(mine, t, envs)
        feed(theirs, t, envs)
    assert mine.sample_indices(0).tolist() == theirs.sample_indices(0).tolist()
    assert mine.sample_indices(-1).tolist() == []
    assert sorted(mine.sample_indices(None)) == list(range(len(mine)))  # as many as there are rows: here an epoch
    assert mine.sample_indices(None).tolist() != mine.sample_indices(0).tolist()
    np.testing.assert_array_equal(mine[:].obs, theirs[:].obs)
    np.testing.assert_array_equal(mine.sample(0)[0].obs, theirs.sample(0)[0].obs)


def test_every_row_once_per_epoch():
    buffer = VectorReplayBuffer(12, 3, seed=1)
    for t in range(7):
        feed(buffer, t, [0, 1, 2])
    drawn = np.concatenate([buffer.sample(5)[1] for _ in range(12)])
    assert sorted(drawn) == sorted(5 * list(range(12)))
    assert sorted(drawn[:12]) == list(range(12))


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, unique=True), st.booleans()), min_size=1, max_size=25),
    st.integers(2, 4),
)
@settings(max_examples=25, deadline=None)
def test_only_whole_stacks_if_the_library_says_so(steps, stack_num):
    """`sample_avail`: the rows that may be drawn are those that the library would choose from."""
    mine = VectorReplayBuffer(12, 2, stack_num=stack_num, sample_avail=True, seed=1, sampler="uniform")
    theirs = data.VectorReplayBuffer(12, 2, stack_num=stack_num, sample_avail=True)
    for t, (envs, done) in enumerate(steps):
        for buffer in (mine, theirs):
            feed(buffer, t, np.sort(envs), done)
        usable = np.flatnonzero(mine.slots.sampler.state_dict()["uid"] >= 0)
        assert usable.tolist() == sorted(theirs.sample_indices(0))


def test_rows_of_another_buffer():
    other = data.ReplayBuffer(5)
    for t in range(5):
        feed(other, t, [0])
    buffer = ReplayBuffer(4, seed=1)
    feed(buffer, 9, [0])
    buffer.update(other)
    batch, slots = buffer.sample(4)
    assert sorted(slots) == [0, 1, 2, 3]
    assert sorted(batch.obs[:, 0]) == [1, 2, 3, 4]
    with pytest.raises(NotImplementedError):
        VectorReplayBuffer(4, 2, seed=1).update(other)


@pytest.mark.parametrize("how", ["pickle", "hdf5"])
def test_stored_buffers_go_on_in_mid_epoch(how, tmp_path):
    buffer = VectorReplayBuffer(12, 3, seed=1)
    for t in range(5):
        feed(buffer, t, [0, 1, 2])
    buffer.sample(7)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(buffer))
    else:
        buffer.save_hdf5(str(tmp_path / "replay.hdf5"))
        other = VectorReplayBuffer.load_hdf5(str(tmp_path / "replay.hdf5"))
    for t in range(5, 10):
        assert feed(buffer, t, [0, 2]).tolist() == feed(other, t, [0, 2]).tolist()
        assert buffer.sample(5)[1].tolist() == other.sample(5)[1].tolist()


def test_reset_starts_anew():
    buffer = ReplayBuffer(4, seed=1)
    feed(buffer, 0, [0])
    buffer.sample(1)
    buffer.reset()
    with pytest.raises(ReplayError, match="no usable row"):
        buffer.sample(1)
    for t in range(4):
        feed(buffer, t, [0])
    assert sorted(buffer.sample(4)[1]) == [0, 1, 2, 3]


def test_priorities_from_the_algorithms():
    """They hand back TD errors of either sign."""
    buffer = VectorReplayBuffer(4, 2, seed=1, sampler="per")
    for t in range(2):
        feed(buffer, t, [0, 1])
    batch, slots = buffer.sample(40)
    assert batch.weight.tolist() == [1.0] * 40
    assert "weight" not in buffer.sample(0)[0]  # no draw
    assert set(slots) == {0, 1, 2, 3}
    buffer.update_weight(np.arange(4), torch.tensor([0.0, 0.0, -1e6, 0.0]))
    assert set(buffer.sample(40)[1]) == {2}
    feed(buffer, 2, [1])  # the row in slot 2 goes; what is said about it now is late
    buffer.update_weight(np.array([2, 3]), np.array([1e6, 1e6]))
    assert buffer.sample(100)[1].tolist().count(2) > 10
    with pytest.raises(ReplayError, match="a priority is nan"):
        buffer.update_weight(np.array([0]), np.array([np.nan]))
