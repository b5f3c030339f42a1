"""E single environments in lockstep with same-step semantics: in this process, or in worker processes."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlkit.core.errors import EnvError
from rlkit.core.timestep import EpisodeEnd, TimeStep
from rlkit.core.typing import Array, State
from rlkit.envs.spec import EnvSpec


class Outcome(NamedTuple):
    """What one step of one environment returns."""

    observation: Array  # [*obs]
    reward: float  # raw
    terminated: bool
    truncated: bool
    ended: bool  # the episode is over; a life loss may set terminated without it
    lives: int = 0


class SingleEnv(Protocol):
    """One environment; knows nothing of vectors, stacks or automatic resets."""

    def reset(self) -> Array:
        """First observation of a new episode, [*obs]."""

    lives: int  # left now; 0 where the environment has none

    def step(self, action: Array) -> Outcome:
        """Act once."""

    def render(self) -> Array:
        """uint8 [H, W, 3]."""

    def state_dict(self) -> State:
        """Everything that the continuation depends on."""

    def load_state_dict(self, state: State) -> None:
        """Continue a stored state."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass
class Slot:
    """A single environment and the counters of its running episode."""

    env: SingleEnv
    episode_return: float = 0.0
    length: int = 0

    def begin(self) -> tuple[Array, int]:
        """Start an episode: first observation, lives."""
        self.episode_return, self.length = 0.0, 0
        first = self.env.reset()
        return first, self.env.lives

    def step(self, action: Array) -> tuple[Outcome, Array | None, tuple[float, int] | None]:
        """Act, and reset where the episode ends: outcome, next first observation, (return, length) of the episode."""
        outcome = self.env.step(action)
        self.episode_return += outcome.reward
        self.length += 1
        if not outcome.ended:
            return outcome, None, None
        end = (self.episode_return, self.length)
        final = outcome._replace(observation=np.array(outcome.observation))
        first, lives = self.begin()
        return final._replace(lives=lives), first, end

    def state_dict(self) -> State:
        """The environment's state and the counters."""
        return {"env": self.env.state_dict(), "episode_return": self.episode_return, "length": self.length}

    def load_state_dict(self, state: State) -> None:
        """Continue."""
        self.env.load_state_dict(state["env"])
        self.episode_return, self.length = state["episode_return"], state["length"]


class LockstepVector:
    """Steps E slots one after the other, or in W worker processes that each own every W-th slot; same results."""

    def __init__(self, spec: EnvSpec, makers: Sequence[Callable[[], SingleEnv]], workers: int = 0) -> None:
        self.spec = spec
        shape, dtype = spec.observation_space.shape, spec.observation_space.dtype
        self._observation: Array = np.zeros((len(makers), *shape), dtype)
        self._final = np.zeros_like(self._observation)
        self._lives = np.zeros(len(makers), np.uint8)
        self._workers: list[_Worker] = []
        self._slots: list[Slot] = []
        workers = min(workers, len(makers))
        if workers:
            self._workers = [_Worker(makers[w::workers]) for w in range(workers)]
        else:
            self._slots = [Slot(make()) for make in makers]

    def reset(self) -> TimeStep:
        """Start all episodes."""
        for env, (first, lives) in enumerate(self._call("begin", None)):
            self._observation[env], self._lives[env] = first, lives
        num_envs = self.spec.num_envs
        terminated, truncated, ended = (np.zeros(num_envs, bool) for _ in range(3))
        reward = np.zeros(num_envs, np.float32)
        return TimeStep(
            self._observation, self._final, reward, terminated, truncated, ended, self._lives_of_games(), []
        )

    def step(self, action: Array) -> TimeStep:
        """Act in all environments; where an episode ended the next one has begun."""
        num_envs = self.spec.num_envs
        reward = np.zeros(num_envs, np.float32)
        terminated, truncated, ended = (np.zeros(num_envs, bool) for _ in range(3))
        episodes = []
        for env, (outcome, first, end) in enumerate(self._call("step", list(action))):
            _, reward[env], terminated[env], truncated[env], ended[env], self._lives[env] = outcome
            if first is None:
                self._observation[env] = outcome.observation
            else:
                self._final[env], self._observation[env] = outcome.observation, first
                episodes.append(EpisodeEnd(env, end[0], end[1], end[1] * self.spec.action_repeat))
        lives = self._lives_of_games()
        return TimeStep(self._observation, self._final, reward, terminated, truncated, ended, lives, episodes)

    def _lives_of_games(self) -> Array | None:
        return self._lives if self.spec.family == "atari" else None

    def render(self) -> Array:
        """The picture of environment 0."""
        if self._slots:
            return self._slots[0].env.render()
        picture: Array = self._workers[0].ask("render", None)
        return picture

    def state_dict(self) -> State:
        """States of all environments."""
        if not self.spec.exact:
            raise EnvError(
                f"the state of {self.spec.env_id} cannot be stored",
                why=str(self.spec.protocol.get("not_exact", "the environment gives no access to it")),
                fix="a resumed run starts new episodes; nothing to do",
                see="docs/environments.md",
            )
        return {"slots": self._call("state_dict", None)}

    def load_state_dict(self, state: State) -> None:
        """Continue stored environments."""
        self._call("load_state_dict", state["slots"])

    def close(self) -> None:
        """Close environments and end the workers."""
        for slot in self._slots:
            slot.env.close()
        for worker in self._workers:
            worker.close()
        self._slots, self._workers = [], []

    def _call(self, method: str, arguments: list[Any] | None) -> list[Any]:
        """`method` of every slot, in order of the environments."""
        if self._slots:
            return [_apply(slot, method, arguments and arguments[i]) for i, slot in enumerate(self._slots)]
        count, results = len(self._workers), [None] * self.spec.num_envs
        for w, worker in enumerate(self._workers):
            worker.send(method, arguments and arguments[w::count])
        for w, worker in enumerate(self._workers):
            results[w::count] = worker.receive()
        return results


def _apply(slot: Slot, method: str, argument: Any) -> Any:
    return getattr(slot, method)() if argument is None else getattr(slot, method)(argument)


class _Worker:
    """A process that owns some slots. It ignores Ctrl-C: the main process decides when to stop."""

    def __init__(self, makers: Sequence[Callable[[], SingleEnv]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, makers), daemon=True)
        self._process.start()
        child.close()
        # Python waits for its children when it leaves, and a worker waits for orders: someone must end it first.
        atexit.register(self.close)

    def send(self, method: str, arguments: list[Any] | None) -> None:
        try:
            self._pipe.send((method, arguments))
        except (BrokenPipeError, OSError) as error:
            raise self._died() from error

    def receive(self) -> Any:
        try:
            ok, result = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if not ok:
            raise EnvError("an environment failed in its worker", why=result, fix="--env.workers 0 shows where")
        return result

    def ask(self, method: str, arguments: list[Any] | None) -> Any:
        self.send(method, arguments)
        return self.receive()

    def _died(self) -> EnvError:
        self._process.join(timeout=5)
        return EnvError(
            "an environment worker ended",
            why=f"process {self._process.pid} left with exit code {self._process.exitcode} (-9: killed for memory)",
            fix="rlkit resume the run; fewer --env.workers need less memory",
        )

    def close(self) -> None:
        atexit.unregister(self.close)
        with contextlib.suppress(OSError):  # it may be gone already
            self._pipe.send(("close", None))
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()  # it ignores a milder signal
            self._process.join()


def _serve(pipe: Connection, makers: Sequence[Callable[[], SingleEnv]]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    slots: list[Slot] = []
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, ConnectionResetError):  # the main process has died
            return
        if method == "close":
            for slot in slots:
                slot.env.close()
            return
        try:
            slots = slots or [Slot(make()) for make in makers]
            if method == "render":
                result: Any = slots[0].env.render()
            else:
                result = [_apply(slot, method, arguments and arguments[i]) for i, slot in enumerate(slots)]
            pipe.send((True, result))
        except (BrokenPipeError, ConnectionResetError):  # nobody waits for the answer
            return
        except Exception as error:  # whatever it is, the main process tells the person
            pipe.send((False, f"{type(error).__name__}: {error}"))
