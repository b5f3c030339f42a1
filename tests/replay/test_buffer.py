"""The ring equals a list of episodes: usable rows, stacks, returns, ends of every kind, n-step changes, resume."""

import functools
import subprocess
import sys
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
    MixtureReplay,
    PrefetchReplay,
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
        self.compare(batch, expected)

    def compare(self, batch, expected):
        for i in range(len(batch)):
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


@settings(max_examples=100, deadline=None)
@given(programs())
def test_a_probe_is_a_batch_of_usable_rows_that_nobody_notices(program):
    setup, operations = program
    world = World(**setup)
    for name, argument in operations:
        if name == "add":
            world.add(argument)
    window = Window(2)
    if world.buffer.usable(window) == 0:
        with pytest.raises(ReplayError, match="no usable row"):
            world.buffer.probe(8, window, np.random.default_rng(0))
        return
    twin = copy_through_rows(world)
    lent = twin.sample(8, window)
    before = lent.clone()
    probe = twin.probe(64, window, np.random.default_rng(0))
    assert {(u % setup["num_envs"], u // setup["num_envs"]) for u in probe["uid"].tolist()} <= usable_rows(twin)
    world.compare(probe, world.oracle.usable(2, window.gamma, setup["clip"]))
    assert (lent == before).all()
    assert torch.equal(world.buffer.sample(8, window)["uid"], before["uid"])
    assert torch.equal(world.buffer.sample(8, window)["uid"], twin.sample(8, window)["uid"])
    world.buffer.metrics()
    again = twin.probe(64, window, np.random.default_rng(0))
    assert torch.equal(again["uid"], probe["uid"])


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
    world.buffer.sampler = ReshuffleSampler(128, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(100):
        world.add(rng.choice(["go"] * 9 + ["truncate"], size=2).tolist())
    window = Window(1, 0.9, length=4, burn_in=2, stride=4)
    starts = world.buffer.usable(window)
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
    before = snapshot(world.buffer)
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
    assert snapshot(world.buffer) == before


def calls_of(replay):
    """Every public method, called as it would be."""
    batch, none, window = replay.sample(1, Window(), copy=True), np.zeros((2, 2), np.uint8), Window()
    columns, state = replay.export_rows(0, 0, 1), replay.state_dict()
    step = TimeStep(none, none, np.zeros(2, np.float32), *(np.zeros(2, bool),) * 3, np.zeros(2, np.uint8))
    return {
        "add": lambda: replay.add(none, np.zeros(2, np.int64), step),
        "cut": lambda: replay.cut(none),
        "usable": lambda: replay.usable(window),
        "sample": lambda: replay.sample(1, window),
        "probe": lambda: replay.probe(1, window, np.random.default_rng(0)),
        "update_priority": lambda: replay.update_priority(batch, torch.ones(1)),
        "metrics": replay.metrics,
        "len": lambda: len(replay),
        "oldest_row": lambda: replay.oldest_row(0),
        "export_rows": lambda: replay.export_rows(0, 0, 1),
        "load_rows": lambda: replay.load_rows(0, 0, columns),
        "state_dict": replay.state_dict,
        "load_state_dict": lambda: replay.load_state_dict(state),
        "close": replay.close,
    }


KINDS_OF_REPLAY = {
    "buffer": lambda buffer: buffer,
    "mixture": lambda buffer: MixtureReplay({"one": buffer}, {"one": 1}),
    "prefetch": PrefetchReplay,
}


@pytest.mark.parametrize("kind", KINDS_OF_REPLAY)
def test_a_second_thread_is_an_error_and_changes_nothing(kind):
    world = World(16, 2, 1, "zero")
    for _ in range(3):
        world.add(["go", "go"])
    replay = KINDS_OF_REPLAY[kind](world.buffer)
    calls, before = calls_of(replay), snapshot(world.buffer)
    inside, leave = threading.Event(), threading.Event()

    def slow_extend(*arguments):
        inside.set()
        assert leave.wait(10)

    writer = threading.Thread(target=calls["add"])
    world.buffer.sampler.extend = slow_extend
    writer.start()
    assert inside.wait(10)
    for call in calls.values():
        with pytest.raises(ReplayError, match="another thread is inside"):
            call()
    leave.set()
    writer.join()
    del world.buffer.sampler.extend
    assert world.buffer.rows_written.tolist() == [4, 4]
    assert before != snapshot(world.buffer)
    calls["add"]()  # the lock is free again
    replay.close()


@pytest.mark.parametrize("kind", KINDS_OF_REPLAY)
def test_a_closed_replay_says_so(kind):
    world = World(16, 2, 1, "zero")
    for _ in range(3):
        world.add(["go", "go"])
    replay = KINDS_OF_REPLAY[kind](world.buffer)
    calls = calls_of(replay)
    replay.close()
    for call in calls.values():
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
    with pytest.raises(ResumeError, match=r"uniform with .* of 8 slots, this is uniform with .* of 4"):
        UniformSampler(4, 0).load_state_dict(UniformSampler(8, 0).state_dict())
    with pytest.raises(ResumeError, match="another seed"):
        UniformSampler(8, 1).load_state_dict(UniformSampler(8, 0).state_dict())


def test_memory_of_atari_rows():
    buffer = make(length=1000, shape=(84, 84), stack=4)
    assert buffer.bytes_per_row + 8 <= 7_100
    planned = replay_memory_bytes(1_000_000, (84, 84), np.uint8, (), np.int64, has_lives=True)
    assert planned < 7.2e9
    assert planned / 1e6 == pytest.approx(buffer.bytes_per_row + 8, rel=0.002)


def test_a_loaded_window_does_not_use_the_batches_of_the_one_before():
    """Their tensors have other sizes: reading into them wrote past their ends."""
    source = World(16, 2, 2, "zero")
    for _ in range(30):
        source.add(["go", "go"])
    source.buffer.sample(8, Window(3))
    target = make(16, 2, 2)
    for env in range(2):
        start, stop = source.buffer.oldest_row(env), int(source.buffer.rows_written[env])
        target.load_rows(env, start, source.buffer.export_rows(env, start, stop))
    target.load_state_dict(source.buffer.state_dict())
    target.usable(Window())
    target.sample(8, Window())
    target.load_state_dict(source.buffer.state_dict())
    mine, theirs = target.sample(8, Window(3)), source.buffer.sample(8, Window(3))
    for key in mine.keys(include_nested=True, leaves_only=True):
        assert torch.equal(mine[key], theirs[key]), key


def snapshot(buffer):
    rows = [buffer.export_rows(e, buffer.oldest_row(e), int(buffer.rows_written[e])) for e in range(buffer.num_envs)]
    return repr((buffer.state_dict(), [{k: v.tolist() for k, v in columns.items()} for columns in rows]))


GOOD = {
    "observation": np.zeros((2, 2), np.uint8),
    "action": np.zeros(2, np.int64),
    "reward": np.zeros(2, np.float32),
    "terminated": np.zeros(2, bool),
    "truncated": np.zeros(2, bool),
    "ended": np.array([True, False]),
    "final_observation": np.zeros((2, 2), np.uint8),
    "lives": np.zeros(2, np.uint8),
}


@pytest.mark.parametrize("field", GOOD)
@pytest.mark.parametrize("kind", ["short", "wide", "list", "tensor", "narrowing"])
def test_a_field_that_does_not_fit_changes_nothing(field, kind):
    world = World(8, 2, 1, "zero")
    world.add(["go", "go"])
    good = GOOD[field]
    bad = {
        "short": good[:1],
        "wide": np.concatenate((good, good), axis=-1),
        "list": good.tolist(),
        "tensor": torch.from_numpy(good.copy()),
        "narrowing": good.astype(np.complex128),
    }[kind]
    given = {**GOOD, field: bad}
    before = snapshot(world.buffer)
    step = TimeStep(
        given["observation"], given["final_observation"], given["reward"], given["terminated"],
        given["truncated"], given["ended"], given["lives"],
    )  # fmt: skip
    with pytest.raises(ReplayError, match=f"^error.replay.: {field} "):
        world.buffer.add(given["observation"], given["action"], step)
    assert snapshot(world.buffer) == before
    if field == "observation":
        with pytest.raises(ReplayError, match="observation"):
            world.buffer.cut(bad)
        assert snapshot(world.buffer) == before


def test_types_that_lose_nothing_are_taken_and_overflow_is_not():
    buffer = ReplayBuffer(
        capacity=8, num_envs=1, observation_shape=(1,), observation_dtype=np.float32, action_shape=(),
        action_dtype=np.int64, sampler=UniformSampler(8, 0),
    )  # fmt: skip
    no = np.zeros(1, bool)

    def add(value, action=1):
        observation = np.array([[value]])
        step = TimeStep(observation, observation, np.ones(1), no, no, no, None)
        buffer.add(observation, np.array([action], np.float64 if action != 1 else np.int32), step)

    add(0.5)
    add(np.float16(0.5))
    add(np.nan)
    add(2**40 + 1)
    with pytest.raises(ReplayError, match="observation has shape"):
        add(1e300)
    with pytest.raises(ReplayError, match="action has shape"):
        add(0.5, action=1.5)
    assert buffer.rows_written.tolist() == [4]
    assert buffer.export_rows(0, 3, 4)["frames"].tolist() == [[2.0**40]]
    pixels = make(8, 1)
    wide = np.array([[300, 1]], np.uint16)
    with pytest.raises(ReplayError, match=r"observation has shape \[1, 2\] and type uint16"):
        pixels.add(wide, np.zeros(1, np.int64), TimeStep(wide, wide, np.zeros(1, np.float32), no, no, no, None))
    with pytest.raises(ReplayError, match="uint16"):
        pixels.cut(wide)
    assert len(pixels) == 0


def test_a_cut_without_an_end_is_refused():
    world = World(8, 2, 1, "zero")
    world.add(["go", "go"])
    before = snapshot(world.buffer)
    observation, action = GOOD["observation"], GOOD["action"]
    cut, no, yes = np.array([False, True]), np.zeros(2, bool), np.ones(2, bool)
    for call in (world.buffer.add, world.buffer.check):
        with pytest.raises(ReplayError, match="environment 1 is truncated but has not ended"):
            call(observation, action, TimeStep(observation, observation, GOOD["reward"], no, cut, no, GOOD["lives"]))
    assert snapshot(world.buffer) == before
    world.buffer.check(
        observation, action, TimeStep(observation, observation, GOOD["reward"], no, cut, yes, GOOD["lives"])
    )
    assert snapshot(world.buffer) == before


@settings(max_examples=60, deadline=None)
@given(programs(minimum=12), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_another_window_withdraws_no_start_that_both_have(program, order):
    """Priorities and visits of the others stay, and nothing counts as overwritten."""
    setup, operations = program
    windows = [Window(), Window(3), Window(length=3, burn_in=1, stride=2), Window(2, length=2)]
    world, fresh = World(**setup), World(**setup)
    calls = []
    for name, argument in operations:
        if name == "add":
            world.add(argument)
            fresh.add(argument)
    buffer, sampler = world.buffer, world.buffer.sampler
    extend, invalidate = sampler.extend, sampler.invalidate
    sampler.extend = lambda slots, uids: (calls.append(("extend", slots.tolist())), extend(slots, uids))
    sampler.invalidate = lambda slots: (calls.append(("invalidate", slots.tolist())), invalidate(slots))
    for k in order:
        before = usable_rows(buffer)
        calls.clear()
        buffer.usable(windows[k])
        twin = copy_through_rows(fresh)
        twin.usable(windows[k])
        assert usable_rows(buffer) == usable_rows(twin)
        gone, come = before - usable_rows(buffer), usable_rows(buffer) - before
        found = {"extend": set(), "invalidate": set()}
        for name, slots in calls:
            found[name] |= set(slots)

        def slots_of(rows):
            return {number % buffer._rows * buffer.num_envs + env for env, number in rows}

        assert found == {"extend": slots_of(come), "invalidate": slots_of(gone)}
    assert buffer.telemetry.histogram().tolist() == fresh.buffer.telemetry.histogram().tolist()


def test_visits_go_on_after_a_window_that_had_no_use_for_the_row():
    world = World(16, 1, 1, "zero")
    for _ in range(12):
        world.add(["go"])
    for _ in range(8):
        world.buffer.sample(4, Window())
        world.buffer.usable(Window(length=4, stride=4))
        world.buffer.usable(Window(3))
    world.buffer.usable(Window())
    assert "replay/visits_mean" not in world.buffer.metrics()
    for _ in range(16):
        world.add(["go"])
    assert world.buffer.metrics()["replay/visits_mean"] == pytest.approx(32 / 12)


def test_a_warm_buffer_compiles_nothing_more(tmp_path):
    """In a fresh process: whatever is called afterwards runs kernels that are there."""
    subprocess.run([sys.executable, "-c", WARM, str(tmp_path)], check=True, timeout=300)


WARM = """
import sys
from pathlib import Path
import functools
import numpy as np, torch
from numba.core.registry import CPUDispatcher
from rlkit.core.timestep import TimeStep
from rlkit.replay import MixtureReplay, PrefetchReplay, ReplayBuffer, Window
from rlkit.replay.samplers import SAMPLERS, make
from rlkit.replay.storage import MemoryMapStorage

def compiled():
    modules = [module for name, module in sys.modules.items() if name.startswith("rlkit.")]
    kernels = {id(k): k for module in modules for k in vars(module).values() if isinstance(k, CPUDispatcher)}
    return {(k.__module__, k.__name__): len(k.overloads) for k in kernels.values()}

disk = functools.partial(MemoryMapStorage, directory=Path(sys.argv[1]))
for name, pixels in [*((name, False) for name in SAMPLERS), ("rr-c", True)]:
    shape, dtype = ((84, 84), np.uint8) if pixels else ((3,), np.float32)
    action_shape, action_dtype = ((), np.int64) if pixels else ((2,), np.float32)
    buffers = [
        ReplayBuffer(
            capacity=300, num_envs=3, observation_shape=shape, observation_dtype=dtype, action_shape=action_shape,
            action_dtype=action_dtype, sampler=make(name, 300, 0), stack=2 if pixels else 1, has_lives=pixels,
            storage=disk if pixels else None,
        )
        for _ in range(2)
    ]
    replay = PrefetchReplay(MixtureReplay({"a": buffers[0], "b": buffers[1]}, {"a": 0.5, "b": 0.5}))
    replay.warm_up()
    assert len(replay) == 0
    before = compiled()
    o, a, no = np.zeros((3, *shape), dtype), np.zeros((3, *action_shape), action_dtype), np.zeros(3, bool)
    r, lives = np.zeros(3, np.float32), np.zeros(3, np.uint8) if pixels else None
    for t in range(110):
        end = np.array([t % 40 == 39, t % 13 == 12, False])
        for buffer in (replay, buffers[1]):
            buffer.add(o, a, TimeStep(o, o, r, end, no, end, lives))
        if t > 20 and t % 8 == 0:
            for window in (Window(), Window(3), Window(length=3, burn_in=1)):
                if name != "consume":
                    batch = replay.sample(2, window)
                    replay.update_priority(batch, torch.ones(2))
                    replay.probe(2, window, np.random.default_rng(0))
    replay.cut(o)
    replay.metrics()
    replay.load_state_dict(replay.state_dict())
    new = {key: n for key, n in compiled().items() if n != before.get(key, 0)}
    assert not new, (name, pixels, new)
    replay.close()
"""


def test_a_sampler_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="the sampler has 10 slots, the buffer 40"):
        ReplayBuffer(
            capacity=40, num_envs=1, observation_shape=(1,), observation_dtype=np.float32, action_shape=(),
            action_dtype=np.int64, sampler=UniformSampler(10, 0),
        )  # fmt: skip


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batches_have_at_least_one_row(batch_size):
    world = World(8, 1, 1, "zero")
    for _ in range(4):
        world.add(["go"])
    for draw in (world.buffer.sample, lambda n, w: world.buffer.probe(n, w, np.random.default_rng(0))):
        with pytest.raises(ReplayError, match=f"a batch of {batch_size} rows"):
            draw(batch_size, Window())


def test_states_of_other_kinds_are_refused_by_name():
    kinds = {
        "a single buffer": make(),
        "a mixture": MixtureReplay({"one": make()}, {"one": 1}),
        "one with a batch drawn ahead": PrefetchReplay(make()),
    }
    states = {name: replay.state_dict() for name, replay in kinds.items()}
    for name, replay in kinds.items():
        for other, state in states.items():
            if other != name:
                with pytest.raises(ResumeError):
                    replay.load_state_dict(state)
    with pytest.raises(ResumeError, match="the stored replay is a mixture, this one is a single buffer"):
        kinds["a single buffer"].load_state_dict(states["a mixture"])
    kinds["one with a batch drawn ahead"].close()
