"""The ring equals a list of episodes: usable rows, stacks, returns, ends of every kind, n-step changes, resume."""

import functools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, ReplayError, ResumeError
from rlkit.core.timestep import TimeStep
from rlkit.replay import (
    DeviceStorage,
    MemoryMapStorage,
    RamStorage,
    ReplayBuffer,
    UniformSampler,
    Window,
    replay_memory_bytes,
)
from rlkit.replay.samplers.reshuffle import ReshuffleSampler
from tests.replay.oracle import EpisodeListOracle


def make(length=8, num_envs=1, stack=1, padding="zero", clip=None, seed=0, shape=(2,), storage=None):
    capacity = length * num_envs
    return ReplayBuffer(
        capacity=capacity,
        num_envs=num_envs,
        observation_shape=shape,
        observation_dtype=np.uint8,
        action_shape=(),
        action_dtype=np.int64,
        sampler=UniformSampler(capacity, seed),
        stack=stack,
        stack_padding=padding,
        reward_clip=clip,
        has_lives=True,
        storage=storage,
    )


class World:
    """Feeds the same random experience to the buffer and to the oracle; every frame is different."""

    def __init__(self, length, num_envs, stack, padding, clip=None):
        self.buffer = make(length, num_envs, stack, padding, clip)
        self.oracle = EpisodeListOracle(length, num_envs, stack, padding)
        self.num_envs, self.clip, self.count = num_envs, clip, 0
        self.observation = np.stack([self.frame() for _ in range(num_envs)])

    def frame(self):
        self.count += 1
        return np.array([self.count % 256, self.count // 256], np.uint8)

    def add(self, kinds):
        """kinds[e]: 'go', 'terminate', 'truncate' or 'life' (terminated without an end)."""
        action = np.arange(self.num_envs) + 10 * self.count
        reward = np.array([(-1) ** e * (self.count % 7) for e in range(self.num_envs)], np.float32)
        terminated = np.array([kind in ("terminate", "life") for kind in kinds])
        truncated = np.array([kind == "truncate" for kind in kinds])
        ended = np.array([kind in ("terminate", "truncate") for kind in kinds])
        final = np.stack([self.frame() for _ in kinds])
        following = np.stack([self.frame() if end else final[e] for e, end in enumerate(ended)])
        lives = np.full(self.num_envs, 3, np.uint8)
        step = TimeStep(following, final, reward, terminated, truncated, ended, lives)
        self.buffer.add(self.observation, action, step)
        for e in range(self.num_envs):
            self.oracle.add(
                e,
                self.observation[e].copy(),
                int(action[e]),
                float(reward[e]),
                bool(terminated[e]),
                bool(ended[e]),
                final[e],
            )
        self.observation = following

    def cut(self):
        self.buffer.cut(self.observation)
        for e in range(self.num_envs):
            if self.oracle.episodes[e][-1]:
                self.oracle.end(e, self.observation[e].copy())
        self.observation = np.stack([self.frame() for _ in range(self.num_envs)])

    def check(self, n_step, gamma=0.9):
        window = Window(n_step, gamma)
        expected = self.oracle.usable(n_step, gamma, self.clip)
        if not expected:
            with pytest.raises(ReplayError, match="no usable row"):
                self.buffer.sample(4, window)
            return
        batch = self.buffer.sample(4, window)
        assert usable_rows(self.buffer) == set(expected)
        for i in range(4):
            number, env = divmod(int(batch["uid"][i]), self.num_envs)
            now, action, total, discount, terminated, then = expected[env, number]
            assert int(batch["index"][i]) == number % self.oracle.capacity * self.num_envs + env
            shape = batch["observation"][i].shape
            np.testing.assert_array_equal(batch["observation"][i].numpy(), now.reshape(shape))
            np.testing.assert_array_equal(batch["next", "observation"][i].numpy(), then.reshape(shape))
            assert int(batch["action"][i]) == action
            assert float(batch["next", "reward"][i]) == pytest.approx(total, abs=1e-5)
            assert float(batch["discount"][i]) == pytest.approx(discount, abs=1e-6)
            assert bool(batch["next", "terminated"][i]) == terminated


def usable_rows(buffer):
    uids = buffer.sampler._uid
    return {(int(u) % buffer.num_envs, int(u) // buffer.num_envs) for u in uids[uids >= 0]}


KINDS = st.sampled_from(["go", "go", "go", "go", "terminate", "truncate", "life"])


@st.composite
def programs(draw, minimum=0):
    num_envs = draw(st.integers(1, 4))
    stack = draw(st.integers(1, 4))
    setup = {
        "length": draw(st.integers(max(minimum, stack + 4), 16)),
        "num_envs": num_envs,
        "stack": stack,
        "padding": draw(st.sampled_from(["zero", "repeat"])),
        "clip": draw(st.sampled_from([None, 2.0])),
    }
    kinds = st.lists(KINDS, min_size=num_envs, max_size=num_envs)
    operations = st.one_of(
        st.tuples(st.just("add"), kinds),
        st.tuples(st.just("add"), kinds),
        st.tuples(st.just("check"), st.integers(1, 4)),
        st.tuples(st.just("save and load"), st.none()),
        st.tuples(st.just("cut"), st.none()),
    )
    return setup, draw(st.lists(operations, min_size=1, max_size=60))


def copy_through_rows(world):
    """A new buffer filled from exported rows in two pieces and the small state, as a checkpoint does."""
    old = world.buffer
    new = make(old._rows, old.num_envs, old._stack, old._padding, old._clip)
    for env in range(old.num_envs):
        start, stop = old.oldest_row(env), int(old.rows_written[env])
        middle = (start + stop) // 2
        new.load_rows(env, start, old.export_rows(env, start, middle))
        new.load_rows(env, middle, old.export_rows(env, middle, stop))
    new.load_state_dict(old.state_dict())
    return new


@settings(max_examples=300, deadline=None)
@given(programs())
def test_ring_equals_list_of_episodes(program):
    setup, operations = program
    world = World(**setup)
    for name, argument in operations:
        match name:
            case "add":
                world.add(argument)
            case "check":
                world.check(argument)
            case "cut":
                world.cut()
            case "save and load":
                world.buffer = copy_through_rows(world)
    world.check(1)
    world.check(3)


@settings(max_examples=50, deadline=None)
@given(programs())
def test_loaded_buffer_draws_the_same_batches(program):
    setup, operations = program
    world = World(**setup)
    for name, argument in operations:
        if name == "add":
            world.add(argument)
    if not world.oracle.usable(2, 0.9):
        return
    world.buffer.sample(3, Window(2, 0.9))
    copy = copy_through_rows(world)
    for _ in range(3):
        one, two = (buffer.sample(5, Window(2, 0.9), copy=True) for buffer in (world.buffer, copy))
        for key in one.keys(include_nested=True, leaves_only=True):
            assert torch.equal(one[key], two[key])


def check_sequences(world, window):
    expected = world.oracle.sequences(window)
    single = world.oracle.usable(window.n_step, window.gamma, world.clip)
    if not expected:
        with pytest.raises(ReplayError, match="no usable row"):
            world.buffer.sample(3, window)
        return
    batch = world.buffer.sample(3, window)
    assert usable_rows(world.buffer) == set(expected)
    assert batch.batch_size == (3, window.burn_in + window.length)
    for i in range(3):
        number, env = divmod(int(batch["uid"][i, window.burn_in]), world.num_envs)
        for k, (row, inside) in enumerate(expected[env, number]):
            assert int(batch["index"][i, k]) == row % world.oracle.capacity * world.num_envs + env
            assert bool(batch["mask"][i, k]) == inside
            assert int(batch["uid"][i, k]) == row * world.num_envs + env
            if not inside:
                continue
            now, action, total, discount, terminated, then = single[env, row]
            shape = batch["observation"][i, k].shape
            np.testing.assert_array_equal(batch["observation"][i, k].numpy(), now.reshape(shape))
            np.testing.assert_array_equal(batch["next", "observation"][i, k].numpy(), then.reshape(shape))
            assert int(batch["action"][i, k]) == action
            assert float(batch["next", "reward"][i, k]) == pytest.approx(total, abs=1e-5)
            assert float(batch["discount"][i, k]) == pytest.approx(discount, abs=1e-6)
            assert bool(batch["next", "terminated"][i, k]) == terminated


@st.composite
def sequence_windows(draw):
    length, burn_in = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    length += burn_in == 0 and length == 1  # something longer than a single row
    return Window(draw(st.integers(1, 3)), 0.9, length, burn_in, draw(st.integers(1, 3)))


@settings(max_examples=300, deadline=None)
@given(programs(minimum=12), st.lists(sequence_windows(), min_size=1, max_size=3))
def test_sequences_equal_list_of_episodes(program, windows):
    """Also when the shape of the windows, or the kind of sampling, changes while the ring moves."""
    setup, operations = program
    world = World(**setup)
    window, *others = windows
    for i, (name, argument) in enumerate(operations):
        match name:
            case "add":
                world.add(argument)
            case "check" if i % 3:
                check_sequences(world, window)
            case "check" if others:
                window = others.pop()
            case "cut":
                world.cut()
            case "save and load":
                world.buffer = copy_through_rows(world)
    check_sequences(world, window)
    check_sequences(world, Window(2, 0.9, 2, 0, 2))


def test_stride_as_long_as_the_sequence_reads_every_row_once_an_epoch():
    world = World(64, 2, 1, "zero")
    rng = np.random.default_rng(0)
    for _ in range(100):
        world.add(rng.choice(["go"] * 9 + ["truncate"], size=2).tolist())
    window = Window(1, 0.9, length=4, burn_in=2, stride=4)
    world.buffer.sampler = ReshuffleSampler(128, seed=0)
    starts = world.buffer.usable(window)  # tells the new sampler of every start
    batch = world.buffer.sample(starts, window)  # exactly one epoch
    learned = batch["uid"][:, 2:][batch["mask"][:, 2:]].tolist()
    assert len(learned) == len(set(learned)) > 90
    usable = {number * 2 + env for env, number in world.oracle.usable(1, 0.9)}
    for env in range(2):  # without a gap between the oldest start that has its burn-in and the newest complete one
        found = sorted(uid for uid in learned if uid % 2 == env)
        assert found == sorted(uid for uid in usable if uid % 2 == env and found[0] <= uid <= found[-1])


def test_n_step_golden():
    """n = 3, gamma = 0.9: terminated at 3, truncated at 6, transition 7 newest."""
    world = World(16, 1, 1, "zero")
    rewards, kinds = [1, 0, 2, -1, 3, 5, 7, 1], ["go"] * 8
    kinds[3], kinds[6] = "terminate", "truncate"
    for reward, kind in zip(rewards, kinds, strict=True):
        ended = np.array([kind != "go"])
        step = TimeStep(
            np.zeros((1, 2), np.uint8),
            np.full((1, 2), 9, np.uint8),
            np.array([reward], np.float32),
            np.array([kind == "terminate"]),
            np.array([kind == "truncate"]),
            ended,
            np.zeros(1, np.uint8),
        )
        world.buffer.add(np.zeros((1, 2), np.uint8), np.zeros(1, np.int64), step)
    batch = world.buffer.sample(512, Window(3, 0.9))
    found = {}
    for i in range(512):
        found[int(batch["uid"][i])] = (float(batch["next", "reward"][i]), float(batch["discount"][i]))
        if int(batch["uid"][i]) == 7:  # transition 6, one final-frame row later
            assert batch["next", "observation"][i].tolist() == [9, 9]
    expected = {0: (2.62, 0.729), 1: (0.99, 0.0), 2: (1.1, 0.0), 3: (-1.0, 0.0)}
    expected |= {5: (13.17, 0.729), 6: (11.3, 0.81), 7: (7.0, 0.9)}  # transitions 4 to 6: one final-frame row later
    assert found.keys() == expected.keys()
    for uid, values in expected.items():
        assert found[uid] == pytest.approx(values, rel=1e-6)


def test_truncation_bootstraps_and_three_rewards_golden():
    """Rewards 1, 0, -1, V = 10 at the end, gamma 0.99: 9.72289; truncated after two: 10.801; terminated: 1."""
    for kinds, expected in ((["go"] * 3, 9.72289), (["go", "truncate"], 10.801), (["go", "terminate"], 1.0)):
        world = World(8, 1, 1, "zero")
        for reward, kind in zip([1.0, 0.0, -1.0], [*kinds, "go"][:3], strict=False):
            world.count = 0
            ended = np.array([kind != "go"])
            zeros = np.zeros((1, 2), np.uint8)
            step = TimeStep(
                zeros, zeros, np.array([reward], np.float32), np.array([kind == "terminate"]),
                np.array([kind == "truncate"]), ended, np.zeros(1, np.uint8),
            )  # fmt: skip
            world.buffer.add(zeros, np.zeros(1, np.int64), step)
        world.add(["go"])
        batch = world.buffer.sample(64, Window(3, 0.99))
        (first,) = {
            round(float(batch["next", "reward"][i]) + 10 * float(batch["discount"][i]), 5)
            for i in range(64)
            if int(batch["uid"][i]) == 0
        }
        assert first == pytest.approx(expected, abs=1e-4)


def test_rows_never_change_once_written():
    world = World(32, 2, 2, "zero")
    rng = np.random.default_rng(0)
    stored = {}
    for _ in range(60):
        world.add(rng.choice(["go", "go", "go", "truncate", "life"], size=2).tolist())
        for env in range(2):
            for number in range(world.buffer.oldest_row(env), int(world.buffer.rows_written[env])):
                row = {k: v.tobytes() for k, v in world.buffer.export_rows(env, number, number + 1).items()}
                assert stored.setdefault((env, number), row) == row


def test_batches_are_reused_unless_copied():
    world = World(32, 1, 1, "zero")
    for _ in range(20):
        world.add(["go"])
    kept, lent = world.buffer.sample(8, Window(), copy=True), world.buffer.sample(8, Window())
    before = kept["observation"].clone()
    again = world.buffer.sample(8, Window())
    assert lent["observation"].data_ptr() == again["observation"].data_ptr()
    assert torch.equal(kept["observation"], before)


def test_uniform_is_uniform():
    sampler = UniformSampler(100, seed=3)
    sampler.extend(np.arange(60), np.arange(60))
    sampler.invalidate(np.arange(10))
    assert len(sampler) == 50
    slots, info = sampler.sample(50_000)
    counts = np.bincount(slots, minlength=100)
    assert counts[:10].sum() == counts[60:].sum() == 0
    chi_square = ((counts[10:60] - 1000) ** 2 / 1000).sum()
    assert 20 < chi_square < 90  # 49 degrees of freedom
    np.testing.assert_array_equal(info.uid, slots)


def test_bad_input_leaves_the_buffer_unchanged():
    world = World(16, 2, 1, "zero")
    world.add(["go", "go"])
    before = world.buffer.state_dict()
    good = TimeStep(
        *(np.zeros((2, 2), np.uint8),) * 2, np.zeros(2, np.float32), *(np.zeros(2, bool),) * 3, np.zeros(2, np.uint8)
    )
    with pytest.raises(ReplayError, match=r"observation has shape \[2, 3\]"):
        world.buffer.add(np.zeros((2, 3), np.uint8), np.zeros(2, np.int64), good)
    with pytest.raises(ReplayError, match="type float32"):
        world.buffer.add(np.zeros((2, 2), np.float32), np.zeros(2, np.int64), good)
    with pytest.raises(ReplayError, match=r"action has shape \[2, 1\]"):
        world.buffer.add(np.zeros((2, 2), np.uint8), np.zeros((2, 1), np.int64), good)
    good.reward[1] = np.nan
    with pytest.raises(ReplayError, match="not finite"):
        world.buffer.add(np.zeros((2, 2), np.uint8), np.zeros(2, np.int64), good)
    with pytest.raises(ReplayError, match="does not fit"):
        world.buffer.sample(2, Window(length=20))
    assert str(world.buffer.state_dict()) == str(before)


def test_a_second_thread_is_an_error_and_changes_nothing():
    world = World(16, 2, 1, "zero")
    world.add(["go", "go"])
    before, errors = world.buffer.state_dict(), []
    inside, leave = threading.Event(), threading.Event()

    def slow_extend(*arguments):
        inside.set()
        assert leave.wait(10)

    def call(operation):
        with pytest.raises(ReplayError, match="another thread is inside"):
            operation()
        errors.append(1)

    writer = threading.Thread(target=lambda: world.add(["go", "go"]))
    world.buffer.sampler.extend = slow_extend
    writer.start()
    assert inside.wait(10)
    step = TimeStep(*(np.zeros((2, 2), np.uint8),) * 2, np.zeros(2, np.float32), *(np.zeros(2, bool),) * 3, np.zeros(2))
    call(lambda: world.buffer.add(np.zeros((2, 2), np.uint8), np.zeros(2, np.int64), step))
    call(lambda: world.buffer.sample(1, Window()))
    call(world.buffer.close)
    leave.set()
    writer.join()
    assert len(errors) == 3
    del world.buffer.sampler.extend
    assert world.buffer.rows_written.tolist() == (before["rows_written"] + 1).tolist()
    world.add(["go", "go"])  # the lock is free again


def test_a_closed_buffer_says_so():
    world = World(16, 1, 1, "zero")
    world.add(["go"])
    world.add(["go"])
    batch = world.buffer.sample(1, Window(), copy=True)
    world.buffer.close()
    for call in (
        lambda: world.add(["go"]),
        lambda: world.cut(),
        lambda: world.buffer.sample(1, Window()),
        lambda: world.buffer.update_priority(batch, torch.ones(1)),
        world.buffer.close,
    ):
        with pytest.raises(ReplayError, match="this replay is closed"):
            call()


def test_every_storage_gives_the_same_batches(tmp_path):
    worlds = []
    for storage in (
        RamStorage,
        functools.partial(MemoryMapStorage, directory=tmp_path),
        functools.partial(DeviceStorage, device="cpu"),
    ):
        world = World(16, 2, 3, "zero")
        world.buffer = make(16, 2, 3, storage=storage)
        worlds.append(world)
    rng = np.random.default_rng(0)
    for _ in range(50):
        kinds = rng.choice(["go", "go", "go", "truncate", "terminate"], size=2).tolist()
        for world in worlds:
            world.add(kinds)
    batches = [world.buffer.sample(32, Window(2, 0.9)) for world in worlds]
    for key in batches[0].keys(include_nested=True, leaves_only=True):
        assert torch.equal(batches[0][key], batches[1][key])
        assert torch.equal(batches[0][key], batches[2][key])
    worlds[0].check(2)


def test_metrics_tell_ages_and_visits():
    world = World(16, 1, 1, "zero")
    for _ in range(10):
        world.add(["go"])
    world.buffer.sample(64, Window())
    metrics = world.buffer.metrics()
    assert metrics["replay/duplicates"] >= 64 - 9
    assert 1 <= metrics["replay/age_mean"] <= 9  # the newest row waits for its next frame
    assert "replay/visits_mean" not in metrics
    for _ in range(16):
        world.add(["go"])
    metrics = world.buffer.metrics()
    assert metrics["replay/visits_mean"] == pytest.approx(64 / 10)  # 10 of the 26 rows have been overwritten
    assert "replay/age_mean" not in metrics


def test_capacity_must_fit_the_environments():
    with pytest.raises(ConfigError, match=r"--replay\.capacity 9"):
        ReplayBuffer(
            capacity=10, num_envs=3, observation_shape=(2,), observation_dtype=np.uint8, action_shape=(),
            action_dtype=np.int64, sampler=UniformSampler(10, 0),
        )  # fmt: skip


def test_another_geometry_or_sampler_is_refused():
    with pytest.raises(ResumeError, match="capacity: stored 8, here 16"):
        make(length=16).load_state_dict(make(length=8).state_dict())
    with pytest.raises(ResumeError, match="uniform of 8 slots, this is uniform of 4"):
        UniformSampler(4, 0).load_state_dict(UniformSampler(8, 0).state_dict())
    with pytest.raises(ResumeError, match="another seed"):
        UniformSampler(8, 1).load_state_dict(UniformSampler(8, 0).state_dict())


def test_memory_of_atari_rows():
    buffer = make(length=1000, shape=(84, 84), stack=4)
    assert buffer.bytes_per_row + 8 <= 7_100
    planned = replay_memory_bytes(1_000_000, (84, 84), np.uint8, (), np.int64, has_lives=True)
    assert planned < 7.2e9
    assert planned / 1e6 == pytest.approx(buffer.bytes_per_row + 8, rel=0.002)
