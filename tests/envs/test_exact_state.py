"""Run k steps, save, go on; a new object that loads the state goes on identically."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from rlkit.core.errors import EnvError
from rlkit.core.seeding import SeedTree
from rlkit.envs.lockstep import LockstepVector
from rlkit.envs.registry import make
from rlkit.envs.spec import EnvSpec
from rlkit.training.tree_files import load_tree, save_tree

DMC = ["walker-walk", "cheetah-run", "reacher-hard", "finger-turn_hard", "fish-swim", "point_mass-hard", "humanoid-run"]
CONTROL = ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1", "MountainCarContinuous-v0"]
MUJOCO = ["HalfCheetah-v5", "Hopper-v5", "Reacher-v4", "Ant-v5", "Humanoid-v5"]  # the last three read old positions
CASES = [(f"dmc/{task}", {}) for task in DMC]
CASES += [(f"gym/{name}", {"num_envs": 2}) for name in CONTROL + MUJOCO]
CASES += [("tiny/pixels", {"num_envs": 2}), ("tiny/match", {}), ("dmc/cartpole-swingup", {"num_envs": 3, "workers": 2})]
CASES += [("ALE/Breakout-v5", {"num_envs": 2}), ("ALE/Pong-v5", {"protocol": "nature", "workers": 1})]


def actions(env, count, seed=0):
    rng, space, num_envs = np.random.default_rng(seed), env.spec.action_space, env.spec.num_envs
    if hasattr(space, "n"):
        return rng.integers(space.n, size=(count, num_envs))
    return rng.uniform(space.low, space.high, (count, num_envs, *space.shape)).astype(np.float32)


def trace(env, script):
    found = []
    for action in script:
        step = env.step(action)
        found += [step.observation.tobytes(), step.reward.tobytes(), step.final_observation[step.ended].tobytes()]
        found += [step.terminated.tobytes(), step.truncated.tobytes(), step.ended.tobytes(), str(step.episodes)]
    return found


def test_sticky_actions_continue_from_the_action_before_the_state():
    """The emulator's own state does not hold it: one loaded state in five went on with another frame."""
    env, other = (make("ALE/Pong-v5", seeds=SeedTree(seed)) for seed in (1, 2))
    assert env.spec.protocol["sticky"] == 0.25
    env.reset()
    trace(env, np.full((20, 1), 2))  # to the right, at the time that the ball comes
    for prefix in range(25):
        trace(env, np.full((1, 1), 2 + prefix % 2))
        state = env.state_dict()
        script = actions(env, 3, seed=prefix)
        tail = trace(env, script)
        other.load_state_dict(state)
        assert trace(other, script) == tail, prefix
    env.close()
    other.close()


@pytest.mark.parametrize(("env_id", "options"), CASES, ids=[f"{case[0]}-{len(case[1])}" for case in CASES])
def test_a_loaded_state_continues_identically(env_id, options, tmp_path):
    env, other = (make(env_id, seeds=SeedTree(seed), **options) for seed in (1, 2))
    assert env.spec.exact
    env.reset()
    before = trace(env, actions(env, 40))
    save_tree(tmp_path, "env", env.state_dict())
    script = actions(env, 300, seed=1)
    tail = trace(env, script)
    other.load_state_dict(load_tree(tmp_path, "env"))
    assert trace(other, script) == tail
    env.close()
    other.close()
    again = make(env_id, seeds=SeedTree(1), **options)
    np.random.seed(5)  # noqa: NPY002 - a disturbed global generator must not matter
    again.reset()
    assert trace(again, actions(again, 40)) == before
    again.close()


@pytest.mark.parametrize("env_id", ["dmc/walker-walk", "gym/CartPole-v1", "tiny/pixels", "ALE/Pong-v5"])
def test_workers_give_the_same_steps(env_id):
    here, workers = (make(env_id, seeds=SeedTree(3), num_envs=3, workers=w) for w in (0, 2))
    np.testing.assert_array_equal(here.reset().observation, workers.reset().observation)
    script = actions(here, 120)
    assert trace(here, script) == trace(workers, script)
    workers.close()


def test_a_dead_worker_is_an_error_that_says_so():
    env = make("tiny/pixels", seeds=SeedTree(0), num_envs=2, workers=1)
    env.reset()
    env._workers[0]._process.kill()
    env._workers[0]._process.join()
    with pytest.raises(EnvError, match="worker ended"):
        env.step(np.zeros(2, np.int64))
    env.close()


class UnknownBox(gym.Env):
    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float64)
    action_space = gym.spaces.Discrete(2)
    render_mode = None

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2), {}

    def step(self, action):
        return np.ones(2), 1.0, False, False, {}


def test_leaving_without_close_ends_the_workers():
    """Python joins its children at exit; a worker that ignores signals and waits for orders would hold it for ever."""
    code = """
from rlkit.core.seeding import SeedTree
from rlkit.envs.registry import make
if __name__ == "__main__":
    env = make("tiny/pixels", seeds=SeedTree(0), num_envs=2, workers=1)
    env.reset()
    1 / 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "ZeroDivisionError" in done.stderr


class Failing:
    lives = 0

    def reset(self):
        raise ValueError("no such level")

    def close(self):
        pass


def test_an_error_in_a_worker_is_told():
    space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    spec = EnvSpec("tiny/failing", "tiny", space, gym.spaces.Discrete(2), 1, 1, 1, "zero", None, True)
    env = LockstepVector(spec, [Failing], workers=1)
    with pytest.raises(EnvError, match="ValueError: no such level"):
        env.reset()
    env.close()


def test_workers_import_no_torch():
    """Each would cost a second and 190 MB."""
    modules = "rlkit.envs.registry, rlkit.envs.atari, rlkit.envs.dmc, rlkit.envs.gym, rlkit.envs.tiny"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules and 'dm_control' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class Counting(gym.Wrapper):
    """A wrapper with a state of its own."""


def test_an_unknown_wrapper_is_not_called_exact():
    classic = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    gym.register("Wrapped-v0", classic, additional_wrappers=(Counting.wrapper_spec(),))
    env = make("gym/Wrapped-v0", seeds=SeedTree(0))
    assert env.spec.exact is False
    assert env.spec.protocol["not_exact"].startswith("wrapper Counting")


def test_an_unknown_family_is_not_called_exact():
    gym.register("UnknownBox-v0", entry_point=UnknownBox)
    env = make("gym/UnknownBox-v0", seeds=SeedTree(0))
    assert env.spec.exact is False
    assert env.reset().observation.dtype == np.float32
    with pytest.raises(EnvError, match="not one of those"):
        env.state_dict()
