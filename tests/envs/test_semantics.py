"""Same-step ends, stacks, DeepMind Control's rewards and limits, errors."""

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit.core.errors import ConfigError, EnvError
from rlkit.core.seeding import SeedTree
from rlkit.core.timestep import TimeStep
from rlkit.envs.registry import family_of, list_envs, make
from rlkit.envs.stacking import FrameStacker
from rlkit.envs.tiny import NAMES


def test_truncation_is_not_termination():
    env = make("tiny/forever", seeds=SeedTree(0))
    env.reset()
    for i in range(12):
        step = env.step(np.zeros(1, np.int64))
        assert step.truncated[0] == step.ended[0] == (i % 5 == 4)
        assert not step.terminated[0]


def test_final_observation_and_next_first_one():
    env = make("tiny/discount", seeds=SeedTree(0))
    assert env.reset().observation.tolist() == [[0.0]]
    assert env.step(np.zeros(1, np.int64)).observation.tolist() == [[1.0]]
    step = env.step(np.zeros(1, np.int64))
    assert step.terminated[0]
    assert step.final_observation.tolist() == [[2.0]]
    assert step.observation.tolist() == [[0.0]]
    assert [(end.episode_return, end.length) for end in step.episodes] == [(1.0, 2)]


def test_control_suite_episode_is_500_decisions_and_truncates():
    env = make("dmc/cartpole-balance", seeds=SeedTree(0))
    assert (env.spec.action_repeat, env.spec.episode_cap) == (2, 1000)
    env.reset()
    for i in range(500):
        step = env.step(np.zeros((1, 1), np.float32))
        assert step.ended[0] == (i == 499)
        assert 0 <= step.reward[0] <= 2
    assert step.truncated[0]
    assert not step.terminated[0]
    assert (step.episodes[0].length, step.episodes[0].frames) == (500, 1000)


def test_an_unstable_simulation_is_an_error_that_says_so():
    env = make("dmc/cartpole-balance", seeds=SeedTree(0))
    env.reset()
    physics = env._slots[0].env._env.physics
    physics.data.qvel[:] = np.nan
    with pytest.raises(EnvError, match="become unstable"):
        env.step(np.zeros((1, 1), np.float32))


def test_action_repeat_sums_rewards():
    once, twice = (make("dmc/walker-walk", seeds=SeedTree(0), action_repeat=k) for k in (1, 2))
    once.reset()
    twice.reset()
    action = np.full((1, 6), 0.3, np.float32)
    for _ in range(5):
        rewards = [once.step(action).reward[0] for _ in range(2)]
        step = twice.step(action)
        assert step.reward[0] == pytest.approx(sum(rewards), rel=1e-6)
    np.testing.assert_array_equal(once.step(action).observation.shape, step.observation.shape)


def test_cartpole_equals_gymnasium():
    env = make("gym/CartPole-v1", seeds=SeedTree(0))
    plain = gym.make("CartPole-v1")
    seed = int(SeedTree(0).sequence("env", 0).generate_state(1)[0] >> 1)
    observation, _ = plain.reset(seed=seed)
    np.testing.assert_array_equal(env.reset().observation[0], observation.astype(np.float32))
    for i in range(200):
        step = env.step(np.array([i % 2]))
        observation, _, terminated, truncated, _ = plain.step(i % 2)
        if terminated or truncated:
            np.testing.assert_array_equal(step.final_observation[0], observation.astype(np.float32))
            observation, _ = plain.reset()
        np.testing.assert_array_equal(step.observation[0], observation.astype(np.float32))
        assert step.terminated[0] == terminated
    plain.close()


@given(
    stack=st.integers(1, 4),
    padding=st.sampled_from(["zero", "repeat"]),
    ends=st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=20),
)
def test_stacker_equals_a_list_of_frames(stack, padding, ends):
    stacker = FrameStacker(2, (1,), np.uint8, stack, padding)
    count = iter(range(1, 200))
    frames = [[np.array([next(count)], np.uint8)] for _ in range(2)]
    stacker.reset(np.stack([episode[-1] for episode in frames]))
    for flags in [[False, False], *ends]:
        observation = np.stack([np.array([next(count)], np.uint8) for _ in range(2)])
        nothing = np.zeros(2, bool)
        step = TimeStep(observation, observation, np.zeros(2, np.float32), nothing, nothing, np.array(flags))
        got = stacker.push(step)
        for env in range(2):
            frames[env] = [observation[env]] if flags[env] else [*frames[env], observation[env]]
            pad = np.zeros(1, np.uint8) if padding == "zero" else frames[env][0]
            expected = ([pad] * stack + frames[env])[-stack:]
            np.testing.assert_array_equal(got[env].reshape(stack, 1), np.stack(expected))
    copy = FrameStacker(2, (1,), np.uint8, stack, padding)
    copy.load_state_dict(stacker.state_dict())
    np.testing.assert_array_equal(copy.observation, stacker.observation)


@pytest.mark.parametrize(
    ("env_id", "options", "parts"),
    [
        ("ALE/Pnog-v5", {}, ["ALE/Pong-v5", "rlkit envs ALE"]),
        ("Pong", {}, ["unknown environment 'Pong'", "ALE/Pong-v5", "rlkit envs WORD"]),
        ("dmc/walker-wlak", {}, ["dmc/walker-walk", "rlkit envs dmc"]),
        ("gym/CartPol-v1", {}, ["CartPole-v1", "rlkit envs gym"]),
        ("tiny/pixel", {}, ["'pixels'"]),
        ("", {}, ["no environment is given", "--env ID"]),
        ("dmc/walker-walk", {"protocol": "nature"}, ["env.protocol", "option of Atari"]),
        ("dmc/walker-walk", {"backend": "fast"}, ["env.backend", "option of Atari"]),
        ("gym/CartPole-v1", {"sticky": 0.1}, ["env.sticky"]),
        ("gym/CartPole-v1", {"episode_cap": 5}, ["env.episode_cap"]),
        ("gym/CartPole-v1", {"full_action_space": True}, ["env.full_action_space"]),
        ("gym/CartPole-v1", {"observation": "pixels"}, ["env.observation"]),
        ("dmc/walker-walk", {"observation": "pixels"}, ["--env.observation state"]),
        ("dmc/walker-walk", {"stack": 3}, ["env.stack"]),
        ("tiny/pixels", {"action_repeat": 2}, ["env.action_repeat"]),
        ("tiny/pixels", {"num_envs": 0}, ["env.num_envs is 0", "1 or more"]),
        ("tiny/pixels", {"workers": -1}, ["env.workers is -1", "0 or more"]),
        ("dmc/walker-walk", {"action_repeat": 0}, ["env.action_repeat is 0", "1 or more"]),
        ("ALE/Pong-v5", {"stack": 0}, ["env.stack is 0", "1 or more"]),
        ("ALE/Pong-v5", {"episode_cap": 0}, ["env.episode_cap is 0", "1 or more"]),
        ("ALE/Pong-v5", {"sticky": 1.5}, ["env.sticky is 1.5", "0 to 1"]),
        ("ALE/Pong-v5", {"backend": "quick"}, ["env.backend is quick", "exact, fast"]),
        ("gym/CartPole-v1", {"observation": "pixel"}, ["env.observation is pixel", "state, pixels"]),
        ("dmc/lqr-lqr_2_1", {}, ["without bounds", "rlkit envs dmc"]),
        ("ALE/Pong-v5", {"protocol": "natur"}, ["Did you mean 'nature'"]),
        ("gym/Blackjack-v1", {}, ["Tuple observation"]),
    ],
)
def test_bad_input(env_id, options, parts):
    with pytest.raises(ConfigError) as caught:
        make(env_id, seeds=SeedTree(0), **options)
    for part in parts:
        assert part in str(caught.value)


def test_lists_hold_every_family():
    rows = list_envs()
    assert {family_of(row[0]) for row in rows} == {"atari", "dmc", "gym", "tiny"}
    assert [row[0] for row in list_envs("walker-w")] == ["dmc/walker-walk"]
    assert sum(row[0].startswith("ALE/") for row in rows) > 100
    assert "ALE/TicTacToe3D-v5" in [row[0] for row in rows]  # as ale-py spells it
    kinds = {row[0]: row[1] for row in rows if row[0].startswith("gym/")}
    for env_id in ("gym/CartPole-v1", "gym/Pendulum-v1", "gym/MountainCarContinuous-v0", "gym/HalfCheetah-v5"):
        space = make(env_id, seeds=SeedTree(0)).spec.action_space
        assert kinds[env_id] == ("discrete" if isinstance(space, gym.spaces.Discrete) else "continuous")


@pytest.mark.parametrize("probe", NAMES)
def test_declared_caps_of_probes_are_the_true_ones(probe):
    env = make(f"tiny/{probe}", seeds=SeedTree(0))
    env.reset()
    truncated = []
    for i in range(200):
        action = np.zeros((1, 1), np.float32) if probe == "match" else np.array([i % 2])  # to and fro: never a border
        step = env.step(action)
        truncated += [end.length for end in step.episodes if step.truncated[0]]
    assert set(truncated) == ({env.spec.episode_cap} if env.spec.episode_cap else set())


def in_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_missing_gl_names_what_was_tried_and_what_to_install():
    code = """
import rlkit.envs.rendering as rendering
from rlkit.core.errors import EnvError
rendering.BACKENDS = ("osmesa", "nonsense")  # neither is to be had
try:
    rendering.set_backend(render=True)
except EnvError as error:
    print(error, error.exit_code)
"""
    done = in_python(code, MUJOCO_GL="disabled", PYOPENGL_PLATFORM="")
    for part in ("osmesa: ", "nonsense: ", "libegl1", "export", "--env.observation state", " 3"):
        assert part in done.stdout, done.stdout + done.stderr


def test_the_task_that_cannot_begin_without_gl_says_what_to_install():
    code = """
import rlkit.envs.rendering as rendering
from rlkit.core.errors import EnvError
from rlkit.core.seeding import SeedTree
from rlkit.envs.registry import make
rendering.BACKENDS = ("nonsense",)
try:
    make("dmc/quadruped-escape", seeds=SeedTree(0))
except EnvError as error:
    print(error)
"""
    assert "install libegl1" in in_python(code, MUJOCO_GL="disabled").stdout


def test_gl_set_too_late_says_so():
    code = """
from rlkit.core.errors import EnvError
from rlkit.envs.rendering import set_backend
set_backend(render=False)
import dm_control
try:
    set_backend(render=True)
except EnvError as error:
    print(error)
"""
    assert "MUJOCO_GL is read once" in in_python(code, MUJOCO_GL="disabled").stdout


def test_a_pair_of_versions_that_does_not_work_is_named():
    code = """
import sys, types
suite = types.ModuleType("suite")
def load(*_):
    raise AttributeError("flex_vertedge")
suite.load = load
package = types.ModuleType("dm_control")
package.suite = suite
sys.modules["dm_control"], sys.modules["dm_control.suite"] = package, suite
from rlkit.core.errors import EnvError
from rlkit.envs.registry import make
from rlkit.core.seeding import SeedTree
try:
    make("dmc/walker-walk", seeds=SeedTree(0))
except EnvError as error:
    print(error)
"""
    done = in_python(code)
    for part in ("dm-control 1.", "mujoco 3.", "flex_vertedge", "pip install dm-control==1.0.50 'mujoco>=3.17,<4'"):
        assert part in done.stdout, done.stdout + done.stderr
