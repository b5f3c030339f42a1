"""Atari: both backends frame by frame, ends of every kind, exact state."""

from dataclasses import replace

import ale_py
import cv2
import numpy as np
import pytest

from rlkit.core.errors import ConfigError, EnvError
from rlkit.core.seeding import SeedTree
from rlkit.envs.atari import AtariFast, make_exact
from rlkit.envs.protocols import PROTOCOLS, find_protocol
from rlkit.envs.registry import make
from rlkit.envs.resize import area_weights, max_and_resize

PLAIN = replace(PROTOCOLS["machado"], sticky=0.0)  # nothing random: both backends must play the same game


def resize(one, two):
    out = np.zeros((84, 84), np.uint8)
    max_and_resize(one, two, *area_weights(210, 84), *area_weights(160, 84), out)
    return out


def test_area_resize_golden():
    picture = (np.arange(210 * 160).reshape(210, 160) % 256).astype(np.uint8)
    out = resize(picture, np.zeros_like(picture))
    assert [out[0, 0], out[0, 1], out[10, 20], out[83, 83]] == [77, 79, 122, 139]


def test_area_resize_equals_opencv_bit_for_bit():
    rng = np.random.default_rng(0)
    for high in (2, 5, 256):  # few levels make many exact halves, where rounding shows
        for _ in range(40):
            one, two = rng.integers(0, high, (2, 210, 160)).astype(np.uint8)
            expected = cv2.resize(np.maximum(one, two), (84, 84), interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(resize(one, two), expected)


@pytest.mark.parametrize("game", ["Pong", "Breakout", "MsPacman", "Seaquest"])
def test_backends_agree_frame_by_frame(game):
    """Also across real ends; only the final frame of a game that ends inside the skip differs (stale in ale-py's)."""
    exact = make_exact(f"ALE/{game}-v5", PLAIN, 2, SeedTree(0), "env", 0)
    fast = AtariFast(f"ALE/{game}-v5", PLAIN, 2, SeedTree(0), "env", 2)
    assert exact.spec.action_space == fast.spec.action_space
    first, same = exact.reset(), fast.reset()
    np.testing.assert_array_equal(first.observation, same.observation)
    np.testing.assert_array_equal(first.lives, same.lives)
    rng, ends = np.random.default_rng(1), 0
    for _ in range(700):
        action = rng.integers(exact.spec.action_space.n, size=2)
        one, two = exact.step(action), fast.step(action)
        for name in ("observation", "reward", "terminated", "truncated", "ended", "lives"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
        assert one.episodes == two.episodes
        ends += len(one.episodes)
    assert ends > 0 or game == "Pong"
    fast.close()


def test_final_frame_of_a_game_that_ends_inside_the_skip():
    """Against the emulator alone; the loop looks for a game whose last skip is short."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path("breakout"))
    legal = ale.getMinimalActionSet()
    env = make_exact("ALE/Breakout-v5", PLAIN, 1, SeedTree(0), "env", 0)
    env.reset()
    rng, frames_of_last_skip = np.random.default_rng(2), set()
    while not frames_of_last_skip & {1, 2, 3}:
        action, screens = rng.integers(4), []
        for _ in range(4):
            ale.act(legal[action])
            screens.append(ale.getScreenGrayscale())
            if ale.game_over():
                break
        step = env.step(np.array([action]))
        assert step.ended[0] == ale.game_over()
        if step.ended[0]:
            before = screens[2] if len(screens) > 3 else np.zeros_like(screens[-1])
            np.testing.assert_array_equal(step.final_observation[0], resize(screens[-1], before))
            frames_of_last_skip.add(len(screens))
            ale.reset_game()


def test_final_frame_is_the_true_last_picture():
    env = make_exact("ALE/Breakout-v5", replace(PLAIN, episode_cap=42), 1, SeedTree(0), "env", 0)
    env.reset()
    for _ in range(10):
        step = env.step(np.array([1]))
        assert not step.ended.any()
    before = step.observation.copy()
    step = env.step(np.array([1]))
    assert (step.terminated[0], step.truncated[0], step.ended[0]) == (False, True, True)
    (end,) = step.episodes
    assert end.length == 11
    assert step.final_observation.any()
    first = env._slots[0].env.reset()
    np.testing.assert_array_equal(step.observation[0], first)
    assert (before[0] != step.observation[0]).any()


@pytest.mark.parametrize("backend", ["exact", "fast"])
def test_life_loss_terminates_without_an_end_and_returns_stay_whole(backend):
    env = make("ALE/Breakout-v5", seeds=SeedTree(3), protocol="atari100k", backend=backend)
    env.reset()
    rng, lost, total, lives = np.random.default_rng(0), 0, 0.0, 5
    for _ in range(3000):
        step = env.step(rng.integers(4, size=1))
        total += float(step.reward[0])
        if step.terminated[0] and not step.ended[0]:
            lost += 1
            assert step.lives[0] == lives - 1
        lives = int(step.lives[0])
        if step.ended[0]:
            break
    assert lost == 4
    assert step.terminated[0]
    assert step.episodes[0].episode_return == total
    env.close()


def test_no_ops_are_in_range_and_sticky_actions_stick():
    protocol = find_protocol("nature")
    env = make_exact("ALE/Pong-v5", protocol, 1, SeedTree(0), "env", 0)
    game = env._slots[0].env
    counts = []
    for _ in range(60):
        game.reset()
        counts.append(game._frames)
    assert set(counts) <= set(range(1, 31))
    assert len(set(counts)) > 10
    plain, sticky = (make_exact("ALE/Pong-v5", replace(PLAIN, sticky=p), 1, SeedTree(0), "env", 0) for p in (0.0, 0.9))
    observations = []
    for env in (plain, sticky):
        env.reset()
        observations.append(np.stack([env.step(np.array([2 + i % 2])).observation[0].copy() for i in range(60)]))
    assert (observations[0] != observations[1]).any()


def test_fast_backend_goes_on_with_its_random_numbers_after_a_reset():
    options = {"protocol": "nature", "backend": "fast", "workers": 1}
    env, again = (make("ALE/Freeway-v5", seeds=SeedTree(0), **options) for _ in "ab")  # cars move during no-ops
    starts = [env.reset().observation.copy() for _ in range(6)]
    assert len({start.tobytes() for start in starts}) > 1
    for start in starts:
        np.testing.assert_array_equal(start, again.reset().observation)
    env.close()
    again.close()


def test_fast_backend_refuses_to_be_stored():
    env = make("ALE/Pong-v5", seeds=SeedTree(0), backend="fast")
    with pytest.raises(EnvError, match="cannot be stored"):
        env.state_dict()
    assert env.spec.exact is False
    assert "0..0 instead of 0..0" in env.spec.protocol["noops"]
    env.close()


def test_protocol_records_every_setting_and_unknown_ones_are_refused():
    env = make("ALE/Pong-v5", seeds=SeedTree(0), protocol="nature", sticky=0.1, full_action_space=True, stack=2)
    assert env.spec.action_space.n == 18
    assert env.spec.stack == 2
    for key, value in {"sticky": 0.1, "noop_max": 30, "life_loss": "terminate", "fire_reset": False}.items():
        assert env.spec.protocol[key] == value
    with pytest.raises(ConfigError, match="Did you mean 'machado'"):
        find_protocol("machados")
