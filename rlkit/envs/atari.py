"""Atari 2600 games on the Arcade Learning Environment: an exact backend that can be stored, and a fast one."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from rlkit.core.errors import ConfigError, EnvError, nearest
from rlkit.core.seeding import SeedTree, generator_state, load_generator_state
from rlkit.core.timestep import EpisodeEnd, TimeStep
from rlkit.core.typing import Array, State
from rlkit.envs.lockstep import LockstepVector, Outcome
from rlkit.envs.protocols import AtariProtocol
from rlkit.envs.spec import EnvSpec

FRAME = gym.spaces.Box(0, 255, (84, 84), np.uint8)


def import_ale() -> Any:
    """The ale_py package. Raises EnvError with what to install."""
    try:
        import ale_py
    except ImportError as error:
        raise EnvError(
            "Atari games need ale-py",
            why=f"it cannot be imported: {error}",
            fix="pip install 'ale-py>=0.11.2' (the ROMs come with it)",
            see="docs/environments.md",
        ) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


def games() -> dict[str, str]:
    """`ALE/Pong-v5`: `pong`, for every single-player ROM that ale-py brings."""
    import_ale()  # it registers its games with Gymnasium
    ids = ((env_id, spec.kwargs.get("game")) for env_id, spec in gym.registry.items() if env_id.startswith("ALE/"))
    return {env_id: rom for env_id, rom in ids if rom is not None and env_id.endswith("-v5")}


def rom_of(env_id: str) -> str:
    """The ROM of `ALE/Pong-v5`. Raises ConfigError with the nearest id."""
    ids = games()
    if env_id not in ids:
        raise ConfigError(
            f"unknown Atari game {env_id!r}",
            why=f"ids look like ALE/Pong-v5; there are {len(ids)}.{nearest(env_id, ids)}",
            fix="rlkit envs ALE lists them",
            see="docs/environments.md",
        )
    return ids[env_id]


class AtariGame:
    """One game on the emulator interface; its state and random streams can be stored."""

    def __init__(self, rom: str, protocol: AtariProtocol, sequence: np.random.SeedSequence) -> None:
        from rlkit.envs.resize import SIZE, area_weights, max_and_resize

        ale_py = import_ale()
        self._protocol = protocol
        self._rng = np.random.default_rng(sequence)
        self._ale_py, self._ale = ale_py, ale_py.ALEInterface()
        self._ale.setInt("random_seed", int(sequence.generate_state(1)[0] >> np.uint32(1)))
        # Sticky actions are drawn here: the emulator's state does not hold the action that it would repeat.
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt(
            "max_num_frames_per_episode", 0
        )  # counted here: the emulator would count no-ops of a reset, too
        self._ale.loadROM(ale_py.roms.get_rom_path(rom))
        legal = self._ale.getLegalActionSet() if protocol.full_action_space else self._ale.getMinimalActionSet()
        self._actions = list(legal)
        height, width = self._ale.getScreenDims()
        self._screens = np.zeros((2, height, width), np.uint8)
        self._out = np.zeros((SIZE, SIZE), np.uint8)
        self._weights = (*area_weights(height, SIZE), *area_weights(width, SIZE))
        self._resize = max_and_resize
        self._frames = 0  # of this episode, no-ops included
        self._acting = self._ale_py.Action.NOOP  # what the emulator was last given
        self.lives = 0

    @property
    def num_actions(self) -> int:
        """Size of the action set."""
        return len(self._actions)

    def reset(self) -> Array:
        """Start a game, with the protocol's no-ops."""
        protocol = self._protocol
        self._ale.reset_game()
        self._frames, self._acting = 0, self._ale_py.Action.NOOP
        for _ in range(int(self._rng.integers(protocol.noop_min, protocol.noop_max + 1))):
            self._ale.act(self._ale_py.Action.NOOP)
            self._frames += 1
            if self._ale.game_over():
                self._ale.reset_game()
        self.lives = self._ale.lives()
        self._ale.getScreenGrayscale(self._screens[0])
        self._screens[1] = 0
        return self._picture()

    def step(self, action: Array) -> Outcome:
        """Repeat the action for `frame_skip` frames, or until the game is over.

        Each frame keeps the action before it with probability `sticky` (Machado et al. 2018, arXiv:1709.06009).
        """
        protocol, reward, over = self._protocol, 0.0, False
        chosen = self._actions[int(action)]
        self._screens[1] = 0
        for frame in range(protocol.frame_skip):
            if protocol.sticky == 0 or self._rng.random() >= protocol.sticky:
                self._acting = chosen
            reward += self._ale.act(self._acting)
            self._frames += 1
            over = self._ale.game_over()
            if frame == protocol.frame_skip - 2 and not over:
                self._ale.getScreenGrayscale(self._screens[1])
            if over or self._frames >= protocol.episode_cap:
                break
        # The last picture is read wherever the loop ended, so a final frame is the true one.
        self._ale.getScreenGrayscale(self._screens[0])
        lives = self._ale.lives()
        lost_life = lives < self.lives and protocol.life_loss == "terminate"
        self.lives = lives
        capped = self._frames >= protocol.episode_cap and not over
        return Outcome(self._picture(), reward, over or lost_life, capped, over or capped, lives)

    def _picture(self) -> Array:
        """84x84 maximum of the last two screens; overwritten by the next one."""
        self._resize(self._screens[0], self._screens[1], *self._weights, self._out)
        return self._out

    def render(self) -> Array:
        """The screen in colour."""
        picture: Array = self._ale.getScreenRGB()
        return picture

    def state_dict(self) -> State:
        """Emulator with its random state, the stream of no-ops and sticky actions, and counters."""
        return {
            "emulator": self._ale.cloneState(include_rng=True).serialize(),
            "rng": generator_state(self._rng),
            "acting": int(self._acting.value),
            "frames": self._frames,
            "lives": self.lives,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue."""
        self._ale.restoreState(self._ale_py.ALEState(state["emulator"]))
        load_generator_state(self._rng, state["rng"])
        self._acting = self._ale_py.Action(state["acting"])
        self._frames, self.lives = state["frames"], state["lives"]

    def close(self) -> None:
        """The emulator frees itself."""


def make_exact(
    env_id: str, protocol: AtariProtocol, num_envs: int, seeds: SeedTree, name: str, workers: int
) -> LockstepVector:
    """E games on the emulator interface, in this process or in workers."""
    rom = rom_of(env_id)
    makers = [partial(AtariGame, rom, protocol, seeds.sequence(name, i)) for i in range(num_envs)]
    spec = _spec(env_id, protocol, num_envs, makers[0]().num_actions, exact=True)
    return LockstepVector(spec, makers, workers)


def _spec(
    env_id: str, protocol: AtariProtocol, num_envs: int, num_actions: int, *, exact: bool, **extra: str
) -> EnvSpec:
    return EnvSpec(
        env_id,
        "atari",
        FRAME,
        gym.spaces.Discrete(num_actions),
        num_envs,
        protocol.frame_skip,
        protocol.stack,
        protocol.stack_padding,
        protocol.episode_cap,
        exact,
        {**protocol.record(), "backend": "exact" if exact else "fast", **extra},
    )


class AtariFast:
    """ale-py's own vector environment on its own threads. Its state cannot be stored."""

    _NOT_EXACT = "ale-py's vector environment gives no access to its emulators' states"

    def __init__(
        self, env_id: str, protocol: AtariProtocol, num_envs: int, seeds: SeedTree, name: str, threads: int
    ) -> None:
        rom = rom_of(env_id)
        vector_env = import_ale().vector_env.AtariVectorEnv
        self._env = vector_env(
            rom,
            num_envs,
            batch_size=num_envs,
            num_threads=threads,
            thread_affinity_offset=-1,
            max_num_frames_per_episode=protocol.episode_cap,
            repeat_action_probability=protocol.sticky,
            full_action_space=protocol.full_action_space,
            continuous=False,
            continuous_action_threshold=0.5,
            autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
            img_height=84,
            img_width=84,
            grayscale=True,
            stack_num=1,
            frameskip=protocol.frame_skip,
            maxpool=True,
            noop_max=max(protocol.noop_max, 1),  # it draws 0 ... noop_max - 1
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        noops = f"uniform in 0..{max(protocol.noop_max, 1) - 1} instead of {protocol.noop_min}..{protocol.noop_max}"
        self.spec = _spec(
            env_id,
            protocol,
            num_envs,
            int(self._env.single_action_space.n),
            exact=False,
            noops=noops,
            not_exact=self._NOT_EXACT,
        )
        self._seeds: Array | None = np.array([seeds.integer(name, i) % 2**31 for i in range(num_envs)], np.int32)
        self._life_loss = protocol.life_loss == "terminate"
        self._lives = np.zeros(num_envs, np.uint8)
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def reset(self) -> TimeStep:
        """Start all games; the first time seeds them."""
        observation, info = self._env.reset(seed=self._seeds)
        self._seeds = None
        num_envs = self.spec.num_envs
        self._lives = np.array(info["lives"], np.uint8)
        self._returns[:], self._lengths[:] = 0.0, 0
        nothing = np.zeros(num_envs, bool)
        frames = np.array(observation[:, -1])
        return TimeStep(frames, frames, np.zeros(num_envs, np.float32), nothing, nothing, nothing, self._lives)

    def step(self, action: Array) -> TimeStep:
        """Act in all games."""
        observation, reward, over, truncated, info = self._env.step(np.asarray(action, np.int32))
        reward = np.asarray(reward, np.float32)
        over, truncated = np.asarray(over, bool), np.asarray(truncated, bool)
        truncated = truncated & ~over
        ended = over | truncated
        lives = np.array(info["lives"], np.uint8)
        terminated = over | ((lives < self._lives) & ~ended) if self._life_loss else over.copy()
        self._lives = lives
        self._returns += reward
        self._lengths += 1
        episodes = []
        final = observation[:, -1]
        if ended.any():
            final = np.asarray(info["final_obs"])[:, -1]
            for env in np.flatnonzero(ended):
                length = int(self._lengths[env])
                frames = length * self.spec.action_repeat
                episodes.append(EpisodeEnd(int(env), float(self._returns[env]), length, frames))
            self._returns[ended], self._lengths[ended] = 0.0, 0
        return TimeStep(observation[:, -1], final, reward, terminated, truncated, ended, lives, episodes)

    def render(self) -> Array:
        """Refused: the vector environment shows grey 84x84 frames only."""
        raise EnvError(
            "the fast Atari backend cannot render", why="it keeps no colour screen", fix="--env.backend exact"
        )

    def state_dict(self) -> State:
        """Refused with the reason."""
        raise EnvError(
            f"the state of {self.spec.env_id} cannot be stored",
            why=self._NOT_EXACT,
            fix="--env.backend exact resumes bit for bit",
            see="docs/environments.md",
        )

    def load_state_dict(self, state: State) -> None:
        """Refused with the reason."""
        self.state_dict()

    def close(self) -> None:
        """End its threads."""
        self._env.close()
