"""The buffers of Stable-Baselines3: which rows are drawn is the sampler's business, what they hold the library's."""

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN
from stable_baselines3.common import buffers
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlkit.core.errors import ConfigError, ReplayError
from rlkit.replay.adapters.sb3 import DictReplayBuffer, NStepReplayBuffer, PrioritizedDQN, ReplayBuffer
from tests.plugins.reference import SAMPLERS, Reference

VECTOR = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION = spaces.Box(-1, 1, (1,), np.float32)


class Feed:
    """Experience in which every number says which step and environment it is from; the same to any buffer."""

    def __init__(self, n_envs, nested=False):
        self.n_envs, self.nested, self.steps = n_envs, nested, 0
        self.rng = np.random.default_rng(0)

    def step(self, *targets):
        """One step to each (buffer, its environments)."""
        t, envs = self.steps, np.arange(self.n_envs)
        obs = np.stack([np.full(self.n_envs, t), envs], 1).astype(np.float32)
        next_obs = obs + np.array([0.5, 0], np.float32)  # told apart from the next step's observation
        done, timeout = self.rng.random(self.n_envs) < 0.3, self.rng.random(self.n_envs) < 0.5
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in done & timeout]
        for buffer, keep in targets:
            seen = [{"v": o[keep], "t": o[keep][:, :1]} if self.nested else o[keep] for o in (obs, next_obs)]
            reward = (10.0 * t + envs)[keep]
            action = np.full((len(envs), 1), t / 1000, np.float32)[keep]
            buffer.add(*seen, action, reward, done[keep], [infos[e] for e in envs[keep]])
        self.steps += 1


def build(kind, n_envs, rows, **more):
    space = spaces.Dict({"v": VECTOR, "t": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    observation = space if issubclass(kind, buffers.DictReplayBuffer) else VECTOR
    return kind(rows * n_envs, observation, ACTION, device="cpu", n_envs=n_envs, **more)


def drawn_slots(buffer, batch):
    """Slots, read from what the rows hold."""
    observations = batch.observations["v"] if isinstance(batch.observations, dict) else batch.observations
    step, env = observations.numpy().astype(int).T
    return (step % buffer.buffer_size * buffer.n_envs + env).tolist()


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [(DictReplayBuffer, "rr-c"), (NStepReplayBuffer, "rr-c"), *((ReplayBuffer, sampler) for sampler in SAMPLERS)],
)
@given(n_envs=st.integers(1, 4), counts=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), max_size=6))
@settings(max_examples=10, deadline=None)
def test_drawn_rows_are_the_samplers(kind, sampler, n_envs, counts):
    """Growing and going round, many environments."""
    buffer, feed = build(kind, n_envs, 6, seed=3, sampler=sampler), Feed(n_envs, kind is DictReplayBuffer)
    reference = Reference(6 * n_envs, 3, sampler)
    for steps, batch_size in counts:
        for _ in range(steps):
            reference.write(feed.steps % 6 * n_envs + np.arange(n_envs))
            feed.step((buffer, slice(None)))
        batch_size = reference.fitting(batch_size)
        assert drawn_slots(buffer, buffer.sample(batch_size)) == reference.draw(batch_size)[0].tolist()


def test_every_row_of_every_environment_once_per_epoch():
    buffer, feed = build(ReplayBuffer, 3, 5, seed=1), Feed(3)
    for _ in range(8):  # beyond the end of the ring
        feed.step((buffer, slice(None)))
    drawn = [slot for _ in range(6) for slot in drawn_slots(buffer, buffer.sample(5))]
    assert sorted(drawn) == sorted(2 * list(range(15)))
    assert sorted(drawn[:15]) == list(range(15))


@pytest.mark.parametrize("kind", [ReplayBuffer, DictReplayBuffer, NStepReplayBuffer])
@pytest.mark.parametrize("steps", [4, 9])
def test_rows_hold_what_the_library_gives(kind, steps):
    """One buffer of the library per environment, asked for the very rows."""
    n_envs, feed = 3, Feed(3, kind is DictReplayBuffer)
    mine = build(kind, n_envs, 6, seed=1)
    theirs = [build(getattr(buffers, kind.__name__), 1, 6) for _ in range(n_envs)]
    for _ in range(steps):
        feed.step((mine, slice(None)), *((buffer, slice(env, env + 1)) for env, buffer in enumerate(theirs)))
    batch = mine.sample(min(steps, 6) * n_envs)
    for i, slot in enumerate(drawn_slots(mine, batch)):
        row, env = divmod(slot, n_envs)
        expected = theirs[env]._get_samples(np.array([row]))
        for name, value in expected._asdict().items():
            found = getattr(batch, name)
            if isinstance(value, dict):
                for key in value:
                    torch.testing.assert_close(found[key][i], value[key][0], rtol=0, atol=0)
            elif value is None:
                assert found is None
            else:
                torch.testing.assert_close(found[i], value[0], rtol=0, atol=0)
    assert len(batch.dones.unique()) == 2  # else nothing above has shown ends
    timeouts = mine.timeouts.copy()
    mine.sample(3)
    assert (mine.timeouts == timeouts).all()


def test_shared_next_observations_leave_out_the_oldest_row():
    buffer = build(ReplayBuffer, 2, 5, seed=1, optimize_memory_usage=True, handle_timeout_termination=False)
    reference = Reference(10, 1)
    for t in range(8):
        obs = np.array([[t, 0], [t, 1]], np.float32)
        buffer.add(obs, obs + np.array([1, 0], np.float32), np.zeros((2, 1)), np.zeros(2), np.zeros(2), [{}, {}])
        reference.write(t % 5 * 2 + np.arange(2))
        reference.core.invalidate((t + 1) % 5 * 2 + np.arange(2))
        batch = buffer.sample(6) if t > 2 else buffer.sample(1)
        assert drawn_slots(buffer, batch) == reference.draw(len(batch.rewards))[0].tolist()
        assert (batch.next_observations[:, 0] == batch.observations[:, 0] + 1).all()


def test_normalisation_by_the_environment():
    env = VecNormalize(DummyVecEnv([lambda: Counter(), lambda: Counter()]))
    env.reset()
    for _ in range(5):
        env.step(np.zeros((2, 1)))
    buffer, feed = build(ReplayBuffer, 2, 5, seed=1), Feed(2)
    plain, again = build(ReplayBuffer, 2, 5, seed=1), Feed(2)
    for _ in range(5):
        feed.step((buffer, slice(None)))
        again.step((plain, slice(None)))
    normalised, raw = buffer.sample(10, env=env), plain.sample(10)
    np.testing.assert_array_equal(normalised.observations.numpy(), env.normalize_obs(raw.observations.numpy()))
    np.testing.assert_array_equal(normalised.rewards.numpy(), env.normalize_reward(raw.rewards.numpy()))
    assert not torch.equal(normalised.rewards, raw.rewards)


def test_the_global_generator_is_neither_read_nor_moved():
    batches = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        buffer, feed = build(NStepReplayBuffer, 3, 6, seed=7), Feed(3)
        for _ in range(6):
            feed.step((buffer, slice(None)))
        batches.append(buffer.sample(12).rewards)
        after = np.random.get_state()  # noqa: NPY002
        assert (before[1] == after[1]).all()
        assert before[2] == after[2]
    assert torch.equal(*batches)


def test_reset_empties():
    buffer, feed = build(ReplayBuffer, 2, 4, seed=1), Feed(2)
    for _ in range(3):
        feed.step((buffer, slice(None)))
    first = drawn_slots(buffer, buffer.sample(6))
    buffer.reset()
    with pytest.raises(ReplayError, match="no usable row"):
        buffer.sample(1)
    again = Feed(2)
    for _ in range(3):
        again.step((buffer, slice(None)))
    assert drawn_slots(buffer, buffer.sample(6)) == first


class Counter(gymnasium.Env):
    """Counts its steps and ends after 10, truly and by a time limit in turns."""

    observation_space, action_space = VECTOR, ACTION

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.steps, self.episodes = 0, self.episodes + 1
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        end, true = self.steps == 10, self.episodes % 2 == 1
        return np.full(2, self.steps, np.float32), self.steps / 10 - 0.4, end and true, end and not true, {}


class Choice(Counter):
    action_space = spaces.Discrete(2)


def dqn(algorithm=DQN, buffer=ReplayBuffer, **more):
    return algorithm(
        "MlpPolicy", DummyVecEnv([Choice, Choice, Choice]), buffer_size=60, learning_starts=20, batch_size=8, seed=0,
        replay_buffer_class=buffer, replay_buffer_kwargs={"seed": 5, **more}, device="cpu",
        policy_kwargs={"net_arch": [8]}, max_grad_norm=0.01,
    )  # fmt: skip


def test_a_saved_buffer_goes_on_in_mid_epoch(tmp_path):
    model = dqn()
    model.learn(90)
    cursor = model.replay_buffer.slots.sampler.cursor
    assert 0 < cursor < 60
    model.save_replay_buffer(tmp_path / "replay")
    other = dqn()
    other.load_replay_buffer(tmp_path / "replay")
    assert other.replay_buffer.slots.sampler.cursor == cursor
    for _ in range(10):
        mine, theirs = model.replay_buffer.sample(8), other.replay_buffer.sample(8)
        assert all(torch.equal(a, b) for a, b in zip(mine[:5], theirs[:5], strict=True))


def test_n_step_arguments_reach_the_library():
    buffer = build(NStepReplayBuffer, 1, 6, seed=1, n_steps=2, gamma=0.5)
    feed = Feed(1)
    feed.rng = type("NoEnds", (), {"random": staticmethod(lambda n: np.ones(n))})
    for _ in range(4):
        feed.step((buffer, slice(None)))
    batch = buffer.sample(4)
    by_step = dict(zip(batch.observations[:, 0].tolist(), batch.rewards[:, 0].tolist(), strict=True))
    assert by_step == {0.0: 5.0, 1.0: 20.0, 2.0: 35.0, 3.0: 30.0}


@pytest.mark.parametrize("buffer", [ReplayBuffer, NStepReplayBuffer])
def test_dqn_with_priorities_is_dqn_where_there_are_none(buffer):
    # Each is made when it learns: making it seeds the global generators that the library explores with.
    theirs, mine = (dqn(algorithm, buffer).learn(120) for algorithm in (DQN, PrioritizedDQN))
    assert theirs._n_updates == mine._n_updates > 5
    for a, b in zip(theirs.policy.parameters(), mine.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dqn_weighs_its_loss_and_hands_back_td_errors():
    model = dqn(PrioritizedDQN, sampler="per")
    model.learn(30)
    slots, told = model.replay_buffer.slots, []
    slots.update = lambda drawn, priority: told.append((drawn, priority))
    slots.draw = lambda batch_size, draw=slots.draw: weighted(slots, draw(batch_size))
    before = [p.clone() for p in model.q_net.parameters()]
    expected = one_update(model)
    model.train(1, batch_size=8)
    ((drawn, priority),) = told
    np.testing.assert_allclose(priority, expected(drawn)[0], rtol=1e-5)
    for p, old, gradient in zip(model.q_net.parameters(), before, expected(drawn)[1], strict=True):
        torch.testing.assert_close(p.grad, gradient)
        assert not torch.equal(p, old)


def weighted(slots, drawn):
    """Weights that leave only the first row."""
    slots.info = dataclasses.replace(slots.info, weight=np.eye(1, len(drawn), dtype=np.float32)[0])
    return drawn


def one_update(model):
    """|TD error| [B] and clipped gradients of the first row's loss, as written in the paper."""
    network, target = copy.deepcopy(model.q_net), copy.deepcopy(model.q_net_target)

    def of(drawn):
        buffer = model.replay_buffer
        rows, envs = drawn // 3, drawn % 3
        q = network(torch.tensor(buffer.observations[rows, envs]))
        q = q[torch.arange(len(drawn)), torch.tensor(buffer.actions[rows, envs, 0])]
        done = torch.tensor(buffer.dones[rows, envs] * (1 - buffer.timeouts[rows, envs]))
        best = target(torch.tensor(buffer.next_observations[rows, envs])).max(1).values
        td_error = torch.tensor(buffer.rewards[rows, envs]) + model.gamma * (1 - done) * best.detach() - q
        network.zero_grad()
        loss = torch.where(td_error.abs() < 1, td_error**2 / 2, td_error.abs() - 0.5)[0] / len(drawn)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), model.max_grad_norm)
        return td_error.detach().abs().numpy(), [p.grad for p in network.parameters()]

    return of


def test_settings_that_do_not_fit():
    with pytest.raises(TypeError, match="seed"):
        build(ReplayBuffer, 1, 4)
    with pytest.raises(ConfigError, match="unknown sampler"):
        build(ReplayBuffer, 1, 4, seed=1, sampler="shuffle")
    with pytest.raises(ValueError, match="optimize_memory_usage"):  # the library's own
        build(ReplayBuffer, 1, 4, seed=1, optimize_memory_usage=True)
