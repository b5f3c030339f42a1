"""Episodes to Minari and back: bit for bit, with what cannot be kept said."""

import dataclasses
import warnings

import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from rlkit.core.errors import ReplayError
from rlkit.core.timestep import TimeStep
from rlkit.replay import ReplayBuffer, UniformSampler, Window
from rlkit.replay.adapters.minari import export_episodes, import_episodes

PIXELS = spaces.Box(0, 255, (84, 84), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
CHOICE = spaces.Discrete(4)
TORQUE = spaces.Box(-1, 1, (2,), np.float32)
COLUMNS = ("frames", "action", "reward", "terminated", "truncated", "first", "final")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def make(observation, action, num_envs=1, rows=40, has_lives=False):
    return ReplayBuffer(
        capacity=rows * num_envs,
        num_envs=num_envs,
        observation_shape=observation.shape,
        observation_dtype=observation.dtype,
        action_shape=action.shape,
        action_dtype=action.dtype,
        sampler=UniformSampler(rows * num_envs, 0),
        has_lives=has_lives,
    )


class World:
    """Feeds random experience; remembers the episodes of each environment as lists of steps."""

    def __init__(self, buffer, observation, action, has_lives=False, seed=0):
        self.buffer, self.rng, self.has_lives = buffer, np.random.default_rng(seed), has_lives
        self.observation_space, self.action_space = observation, action
        self.now = np.stack([self.frame() for _ in range(buffer.num_envs)])
        self.episodes = [[[]] for _ in range(buffer.num_envs)]

    def frame(self):
        if self.observation_space.dtype == np.uint8:
            return self.rng.integers(0, 256, self.observation_space.shape, np.uint8)
        return self.rng.normal(size=self.observation_space.shape).astype(np.float32)

    def step(self, kinds):
        """kinds[e]: go, terminate, truncate, or life (terminated without an end)."""
        count = self.buffer.num_envs
        if isinstance(self.action_space, spaces.Discrete):
            action = self.rng.integers(0, 4, count)
        else:
            action = self.rng.normal(size=(count, *self.action_space.shape)).astype(np.float32)
        reward = self.rng.normal(size=count).astype(np.float32)
        terminated = np.array([kind in ("terminate", "life") for kind in kinds])
        truncated = np.array([kind == "truncate" for kind in kinds])
        ended = np.array([kind in ("terminate", "truncate") for kind in kinds])
        final = np.stack([self.frame() for _ in kinds])
        following = np.stack([self.frame() if end else final[e] for e, end in enumerate(ended)])
        lives = self.rng.integers(0, 5, count).astype(np.uint8) if self.has_lives else None
        self.buffer.add(self.now, action, TimeStep(following, final, reward, terminated, truncated, ended, lives))
        for e in range(count):
            self.episodes[e][-1].append((self.now[e], action[e], reward[e], terminated[e], truncated[e], final[e]))
            if ended[e]:
                self.episodes[e].append([])
        self.now = following


def columns_of(buffer):
    written = int(buffer.rows_written[0])
    return buffer.export_rows(0, buffer.oldest_row(0), written)


@pytest.mark.parametrize(("observation", "action"), [(PIXELS, CHOICE), (VECTOR, TORQUE)])
@pytest.mark.parametrize("has_lives", [False, True])
def test_there_and_back_is_bit_for_bit(observation, action, has_lives):
    world = World(make(observation, action, has_lives=has_lives), observation, action, has_lives)
    for kind in ["go", "go", "terminate", "life", "go", "truncate", "terminate"]:
        world.step([kind])
    dataset = export_episodes(world.buffer, "test/there-v0", observation, action)
    assert dataset.total_episodes == 3
    again = make(observation, action, has_lives=has_lives)
    import_episodes(minari.load_dataset("test/there-v0"), again)
    expected, found = columns_of(world.buffer), columns_of(again)
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert found[name].dtype == column.dtype
        if name == "lives":  # of a final frame nobody reads it
            keep = ~expected["final"]
            np.testing.assert_array_equal(found[name][keep], column[keep])
        else:
            np.testing.assert_array_equal(found[name], column)


def test_image_like_frames_are_never_jpeg():
    """Minari's default would change most of these pixels."""
    world = World(make(PIXELS, CHOICE), PIXELS, CHOICE)
    for kind in ["go", "terminate"]:
        world.step([kind])
    dataset = export_episodes(world.buffer, "test/pixels-v0", PIXELS, CHOICE)
    assert not dataset.storage.jpeg_encoding
    stored = next(dataset.iterate_episodes()).observations
    np.testing.assert_array_equal(stored, columns_of(world.buffer)["frames"].reshape(-1, 84, 84))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        lossy = minari.create_dataset_from_buffers(
            "test/lossy-v0", [EpisodeBuffer(None, None, None, stored, np.zeros(2, int), [0.0, 0.0], [0, 1], [0, 0])],
            observation_space=PIXELS, action_space=CHOICE,
        )  # fmt: skip
    assert (next(lossy.iterate_episodes()).observations != stored).mean() > 0.2
    with pytest.warns(UserWarning, match="test/lossy-v0: its images were stored as JPEG"):
        import_episodes(lossy, make(PIXELS, CHOICE))


@given(
    kinds=st.lists(st.tuples(*[st.sampled_from(["go", "go", "terminate", "truncate", "life"])] * 2), max_size=14),
    rows=st.sampled_from([5, 9, 40]),
)
@settings(max_examples=15, deadline=None)
def test_episodes_equal_the_list_of_episodes(kinds, rows, tmp_path_factory):
    """Two environments, rings that lose beginnings, open episodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        world = World(make(VECTOR, CHOICE, 2, rows), VECTOR, CHOICE)
        for pair in kinds:
            world.step(pair)
        expected = []
        for env in range(2):
            oldest, number = world.buffer.oldest_row(env), 0
            for episode in world.episodes[env]:
                over = episode is not world.episodes[env][-1]
                steps = episode if over else episode[:-1]  # of the newest row the next frame is not stored
                if number >= oldest and steps:
                    expected.append((steps, over, episode))
                number += len(episode) + over
        if not expected:
            with pytest.raises(ReplayError, match="no episode to export"):
                export_episodes(world.buffer, "test/list-v0", VECTOR, CHOICE)
            return
        dataset = export_episodes(world.buffer, "test/list-v0", VECTOR, CHOICE)
        found = list(dataset.iterate_episodes())
        assert len(found) == len(expected)
        for episode, (steps, over, whole) in zip(found, expected, strict=True):
            last = steps[-1][5] if over else whole[len(steps)][0]
            np.testing.assert_array_equal(episode.observations, [step[0] for step in steps] + [last])
            np.testing.assert_array_equal(episode.actions, [step[1] for step in steps])
            np.testing.assert_array_equal(episode.rewards, [step[2] for step in steps])
            np.testing.assert_array_equal(episode.terminations, [step[3] for step in steps])
            np.testing.assert_array_equal(episode.truncations[:-1], [step[4] for step in steps[:-1]])
            assert episode.truncations[-1] == (steps[-1][4] or not over)


def test_an_episode_that_was_cut_is_truncated():
    world = World(make(VECTOR, CHOICE), VECTOR, CHOICE)
    world.step(["go"])
    world.buffer.cut(world.now)
    dataset = export_episodes(world.buffer, "test/cut-v0", VECTOR, CHOICE)
    episode = next(dataset.iterate_episodes())
    assert (episode.terminations.tolist(), episode.truncations.tolist()) == ([False], [True])
    np.testing.assert_array_equal(episode.observations[1], world.now[0])


def test_imported_rows_are_drawn_as_any_others():
    world = World(make(VECTOR, TORQUE), VECTOR, TORQUE)
    for kind in ["go", "terminate", "go", "truncate"]:
        world.step([kind])
    dataset = export_episodes(world.buffer, "test/drawn-v0", VECTOR, TORQUE)
    again = make(VECTOR, TORQUE)
    again_world = World(again, VECTOR, TORQUE, seed=1)
    again_world.step(["terminate"])
    import_episodes(dataset, again)
    assert len(again) == 2 + 6
    batch = again.sample(64, Window(n_step=2, gamma=0.5))
    assert sorted(set(batch["index"].tolist())) == [0, 2, 3, 5, 6]
    assert set(batch["discount"].tolist()) == {0.0, 0.25, 0.5}


def test_provenance_is_copied():
    world = World(make(VECTOR, CHOICE), VECTOR, CHOICE)
    world.step(["terminate"])
    export_episodes(
        world.buffer, "test/who-v0", VECTOR, CHOICE, algorithm_name="dqn", author="A", author_email="a@b.c",
        code_permalink="https://example.org/code", description="a test",
    )  # fmt: skip
    found = import_episodes(minari.load_dataset("test/who-v0"), make(VECTOR, CHOICE))
    assert found == {
        "dataset_id": "test/who-v0",
        "algorithm_name": "dqn",
        "code_permalink": "https://example.org/code",
        "author": ["A"],
        "author_email": ["a@b.c"],
        "minari_version": minari.__version__,
        "episodes": 1,
        "steps": 1,
    }


def stored(dataset_id, **more):
    """A dataset of one episode of two steps, by Minari's own means."""
    content = {
        "observations": np.zeros((3, 3), np.float32), "actions": np.zeros(2, int), "rewards": [0.0, 1.0],
        "terminations": [False, True], "truncations": [False, False], "infos": None, **more,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return minari.create_dataset_from_buffers(
            dataset_id, [EpisodeBuffer(**content)], observation_space=VECTOR, action_space=CHOICE, jpeg_encoding=False
        )


def test_what_does_not_fit_is_refused_and_nothing_stored():
    buffer = make(VECTOR, CHOICE)
    objects = stored("test/objects-v0", infos={"deep": {"name": ["a", "b", "c"]}, "x": np.zeros(3)})
    with pytest.raises(ReplayError, match="episode 0 has objects as info 'deep/name'"):
        import_episodes(objects, buffer)
    with pytest.raises(ReplayError, match="a reward that is not finite"):
        import_episodes(stored("test/nan-v0", rewards=[0.0, np.nan]), buffer)
    plain = stored("test/plain-v0", infos={"x": np.zeros(3)})
    with pytest.raises(ReplayError, match="a dataset of 3 rows for a buffer of 2 environments"):
        import_episodes(plain, make(VECTOR, CHOICE, num_envs=2))
    with pytest.raises(ReplayError, match="observation has shape"):
        import_episodes(plain, make(spaces.Box(0, 1, (4,), np.float32), CHOICE))
    assert len(buffer) == 0
    open_ = World(make(VECTOR, CHOICE), VECTOR, CHOICE)
    open_.step(["go"])
    with pytest.raises(ReplayError, match="last episode is still open"):
        import_episodes(plain, open_.buffer)
    import_episodes(plain, buffer)
    assert len(buffer) == 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"rewards": [0.0, 1e39]}, "reward has shape"),
        ({"actions": np.array([0, 2**40])}, "action has shape"),
        ({"infos": {"lives": np.array([3, 300, 0])}}, "lives has shape"),
        ({"infos": {"lives": np.array([3, 2], np.uint8)[:1]}}, "lives has shape"),
        ({"infos": None}, "lives is a NoneType"),
        ({"truncations": [True, False]}, "is truncated but has not ended"),
        ({"observations": np.full((3, 3), 1e39)}, "observation has shape"),
    ],
)
def test_a_later_episode_that_does_not_fit_keeps_all_out(bad, words):
    lives = {"lives": np.array([3, 2, 1], np.uint8)}
    first = stored("test/first-v0", infos=lives)
    (good,) = first.iterate_episodes()
    (wrong,) = stored("test/second-v0", infos=lives).iterate_episodes()
    wrong = dataclasses.replace(wrong, **bad)
    buffer = make(VECTOR, spaces.Discrete(4, dtype=np.int32) if "actions" in bad else CHOICE, has_lives=True)
    if "actions" in bad:
        good = dataclasses.replace(good, actions=np.asarray(good.actions, np.int32))
    dataset = Episodes(first, [good, wrong])
    before = repr(buffer.state_dict())
    with pytest.raises(ReplayError, match=words):
        import_episodes(dataset, buffer)
    assert len(buffer) == 0
    assert repr(buffer.state_dict()) == before


class Episodes:
    """A dataset with other episodes."""

    def __init__(self, dataset, episodes):
        self.storage, self.observation_space, self.episodes = dataset.storage, dataset.observation_space, episodes
        self.total_episodes, self.total_steps = len(episodes), sum(len(e.rewards) for e in episodes)

    def iterate_episodes(self):
        return iter(self.episodes)


def test_spaces_that_do_not_fit():
    world = World(make(VECTOR, CHOICE), VECTOR, CHOICE)
    world.step(["terminate"])
    with pytest.raises(ReplayError, match=r"observation_space is Box\(0, 255, \(84, 84\), uint8\)"):
        export_episodes(world.buffer, "test/no-v0", PIXELS, CHOICE)
    with pytest.raises(ReplayError, match="action_space is"):
        export_episodes(world.buffer, "test/no-v0", VECTOR, TORQUE)
    with pytest.raises(ReplayError, match="no episode to export"):
        export_episodes(make(VECTOR, CHOICE), "test/no-v0", VECTOR, CHOICE)
    assert not minari.list_local_datasets()
