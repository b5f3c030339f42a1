"""CleanRL's two buffers: the same numbers as their own contracts say, drawn by the sampler."""

import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError
from rlkit.replay.adapters.cleanrl import PrioritizedReplayBuffer, ReplayBuffer
from tests.plugins.reference import SAMPLERS, Reference

PIXELS = spaces.Box(0, 255, (2,), np.uint8)
FOUR = spaces.Discrete(4)


def build(n_envs=1, rows=5, **more):
    settings_ = {"n_envs": n_envs, "handle_timeout_termination": False, "seed": 3, **more}
    return ReplayBuffer(rows * n_envs, PIXELS, FOUR, "cpu", **settings_)


def add(buffer, t, done=False, infos=None):
    """A step that says when and where it was; the next observation is 100 further."""
    envs = np.arange(buffer.n_envs)
    obs = np.stack([np.full(buffer.n_envs, t), envs], 1).astype(np.uint8)
    next_obs = obs + np.array([1 if buffer.optimize_memory_usage else 100, 0], np.uint8)
    buffer.add(obs, next_obs, (t + envs) % 4, t + envs / 10, np.full(buffer.n_envs, done), infos)


def drawn_slots(buffer, batch):
    step, env = batch.observations.numpy().astype(int).T
    return (step % buffer.buffer_size * buffer.n_envs + env).tolist()


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(
    n_envs=st.integers(1, 4),
    shared=st.booleans(),
    counts=st.lists(st.tuples(st.integers(2, 5), st.integers(1, 9)), max_size=6),
)
@settings(max_examples=15, deadline=None)
def test_drawn_rows_are_the_samplers(sampler, n_envs, shared, counts):
    buffer, reference, t = (
        build(n_envs, sampler=sampler, optimize_memory_usage=shared),
        Reference(5 * n_envs, 3, sampler),
        0,
    )
    for steps, batch_size in counts:
        for _ in range(steps):
            reference.write(t % 5 * n_envs + np.arange(n_envs))
            if shared:
                reference.core.invalidate((t + 1) % 5 * n_envs + np.arange(n_envs))
            add(buffer, t)
            t += 1
        batch_size = reference.fitting(batch_size)
        batch = buffer.sample(batch_size)
        assert drawn_slots(buffer, batch) == reference.draw(batch_size)[0].tolist()
        step, env = batch.observations.numpy().astype(int).T
        assert (step > t - 6).all()  # rows that are still there
        assert batch.next_observations.numpy().tolist() == np.stack([step + (1 if shared else 100), env], 1).tolist()
        assert batch.actions.numpy().tolist() == [[v] for v in (step + env) % 4]
        np.testing.assert_allclose(batch.rewards.numpy()[:, 0], step + env / 10, rtol=1e-6)


def test_fields_and_types_are_those_of_the_script():
    buffer = build(2)
    assert (buffer.size(), buffer.pos, buffer.full) == (0, 0, False)
    for t in range(6):
        add(buffer, t, done=t % 2 == 1)
    assert (buffer.size(), buffer.pos, buffer.full) == (5, 1, True)
    assert buffer.observations.shape == buffer.next_observations.shape == (5, 2, 2)
    assert (buffer.obs_shape, buffer.action_dim, buffer.n_envs, buffer.buffer_size) == ((2,), 1, 2, 5)
    batch = buffer.sample(4)
    kinds = {name: (value.dtype, tuple(value.shape)) for name, value in batch._asdict().items()}
    assert kinds == {
        "observations": (torch.uint8, (4, 2)),
        "actions": (torch.int64, (4, 1)),
        "next_observations": (torch.uint8, (4, 2)),
        "dones": (torch.float32, (4, 1)),
        "rewards": (torch.float32, (4, 1)),
    }
    assert (batch.dones[:, 0] == batch.observations[:, 0] % 2).all()


def test_a_time_limit_is_no_done_if_the_buffer_handles_it():
    buffer = build(1, handle_timeout_termination=True)
    for t, limit in enumerate([False, True, False]):
        add(buffer, t, done=t > 0, infos=[{"TimeLimit.truncated": limit}])
    batch = buffer.sample(3)
    assert dict(zip(batch.observations[:, 0].tolist(), batch.dones[:, 0].tolist(), strict=True)) == {0: 0, 1: 0, 2: 1}


def test_continuous_actions_are_float32():
    buffer = ReplayBuffer(4, PIXELS, spaces.Box(-1, 1, (3,), np.float64), "cpu", seed=1)
    obs = np.zeros((1, 2), np.uint8)
    buffer.add(obs, obs, np.full((1, 3), 0.5), np.ones(1), np.zeros(1), [{}])
    assert buffer.sample(1).actions.tolist() == [[0.5, 0.5, 0.5]]
    assert buffer.actions.dtype == np.float32


def test_pickle_and_reset():
    buffer = build(2)
    for t in range(7):
        add(buffer, t)
    buffer.sample(3)
    other = pickle.loads(pickle.dumps(buffer))
    for _ in range(6):
        assert drawn_slots(buffer, buffer.sample(4)) == drawn_slots(other, other.sample(4))
    buffer.reset()
    assert buffer.size() == 0
    with pytest.raises(ReplayError, match="no usable row"):
        buffer.sample(1)


def test_bad_input():
    buffer = build(2)
    with pytest.raises(ReplayError, match=r"obs has shape \[3, 2\]") as caught:
        buffer.add(np.zeros((3, 2)), np.zeros((2, 2)), np.zeros(2), np.zeros(2), np.zeros(2), [{}, {}])
    assert "stores [2, 2]" in str(caught.value)
    with pytest.raises(ReplayError, match="reward has shape"):
        buffer.add(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(2), np.zeros(1), np.zeros(2), [{}, {}])
    assert buffer.size() == 0
    with pytest.raises(ConfigError, match="optimize_memory_usage"):
        ReplayBuffer(4, PIXELS, FOUR, "cpu", optimize_memory_usage=True)
    with pytest.raises(ConfigError, match="a Dict space"):
        ReplayBuffer(4, spaces.Dict({"a": PIXELS}), FOUR, "cpu")


class WindowOracle:
    """What each start of an episode's list of steps is worth: (observation, action, return, next observation, done)."""

    def __init__(self, n_step, gamma):
        self.n_step, self.gamma, self.found = n_step, gamma, []

    def episode(self, steps, terminated, over):
        """steps: (observation, action, reward, next observation); over: it ended, else it is still open."""
        for start in range(len(steps)):
            window = steps[start : start + self.n_step]
            whole = len(window) == self.n_step
            if whole or (over and terminated):
                value = sum(self.gamma**k * step[2] for k, step in enumerate(window))
                done = terminated and over and start + self.n_step >= len(steps)
                self.found.append((window[0][0], window[0][1], value, window[-1][3], done))


@given(
    episodes=st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["terminated", "limit"])), min_size=1, max_size=6),
    open_steps=st.integers(0, 5),
    n_step=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_windows_equal_a_list_of_episodes(episodes, open_steps, n_step):
    buffer = PrioritizedReplayBuffer(64, (1,), "cpu", n_step, 0.5, seed=1)
    oracle, t = WindowOracle(n_step, 0.5), 0
    for length, end in [*episodes, (open_steps, "open")]:
        steps = []
        for i in range(length):
            steps.append((t, t % 3, float(t % 5), t + 1))
            done = end == "terminated" and i == length - 1
            observation, following = np.array([[t]], np.uint8), np.array([[t + 1]], np.uint8)
            buffer.add(observation, np.array([t % 3]), np.array([t % 5]), following, np.array([done]))
            t += 1
        t += 1  # an observation of its own for the last frame
        oracle.episode(steps, end == "terminated", end != "open")
    found = list(
        zip(
            buffer.buffer_obs[: buffer.size, 0].tolist(),
            buffer.buffer_actions.tolist(),
            buffer.buffer_rewards.tolist(),
            buffer.buffer_next_obs[:, 0].tolist(),
            buffer.buffer_dones.tolist(),
            strict=False,
        )
    )
    assert found == oracle.found


def test_priorities_and_weights_are_those_of_the_paper():
    buffer = PrioritizedReplayBuffer(4, (1,), "cpu", 1, 0.9, alpha=0.6, beta=0.4, eps=1e-6, seed=1)
    for t in range(4):
        buffer.add(np.array([[t]]), np.array([0]), np.array([0.0]), np.array([[t + 1]]), np.array([False]))
    assert buffer.sample(4).weights.unique().tolist() == [1.0]
    buffer.slots.draw(64)  # so that every row has been drawn
    buffer.update_priorities(np.arange(4), np.array([0.5, -2, 0, 1]))
    p = (np.array([0.5, 2, 0, 1]) + 1e-6) ** 0.6
    counts = np.zeros(4)
    for beta in (0.4, 1.0):
        buffer.beta = beta
        batch = buffer.sample(2_000)
        weight = (4 * p / p.sum()) ** -beta
        expected = weight[batch.indices] / weight[batch.indices].max()
        np.testing.assert_allclose(batch.weights[:, 0].numpy(), expected, rtol=1e-5)
        counts += np.bincount(batch.indices, minlength=4)
    np.testing.assert_allclose(counts / counts.sum(), p / p.sum(), atol=0.01)


def test_a_script_of_rainbow_keeps_its_batch():
    buffer = PrioritizedReplayBuffer(8, (2, 3), torch.device("cpu"), 3, 0.99, 0.5, 0.4, 1e-6)
    for t in range(6):
        frame = np.full((1, 2, 3), t, np.uint8)
        buffer.add(frame, np.array([1]), np.array([1.0]), frame + 1, np.array([t == 5]))
    batch = buffer.sample(5)
    assert batch.observations.shape == (5, 2, 3)
    assert batch.actions.shape == batch.rewards.shape == batch.dones.shape == batch.weights.shape == (5, 1)
    assert batch.dones.dtype == torch.bool
    with pytest.raises(ReplayError, match="a step of 2 environments"):
        buffer.add(np.zeros((2, 2, 3)), np.zeros(2), np.zeros(2), np.zeros((2, 2, 3)), np.zeros(2))


def test_what_does_not_fit_stores_nothing():
    box, discrete = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    buffer = ReplayBuffer(8, box, discrete, n_envs=2, handle_timeout_termination=True)
    ok = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), np.zeros(2, np.int64), np.ones(2), np.zeros(2)
    buffer.add(*ok, [{}, {}])
    before = [array.copy() for array in (buffer.observations, buffer.rewards, buffer.dones)]
    nan = (*ok[:3], np.array([1, np.nan]), ok[4])
    for columns, infos, words in ((ok, [{}] * 3, "3 infos for 2"), (nan, [{}] * 2, "not finite")):
        with pytest.raises(ReplayError, match=words):
            buffer.add(columns[0] + 9, *columns[1:], infos)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, (buffer.observations, buffer.rewards, buffer.dones), strict=True)
    )
    assert buffer.pos == 1

    rainbow = PrioritizedReplayBuffer(8, (2,), "cpu", n_step=2, gamma=0.9)
    good = np.zeros((1, 2), np.uint8), np.zeros(1, np.int64), np.zeros(1), np.zeros((1, 2), np.uint8), np.zeros(1, bool)
    rainbow.add(*good)
    for place, bad in ((0, np.zeros((1, 3), np.uint8)), (3, np.zeros((1, 3), np.uint8)), (2, np.array([np.inf]))):
        wrong = [*good]
        wrong[place] = bad
        with pytest.raises(ReplayError, match="nothing has been stored"):
            rainbow.add(*wrong)
    assert len(rainbow._window) == 1
