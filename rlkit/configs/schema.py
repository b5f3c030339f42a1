"""The settings of a run. Field defaults are the agent-independent ones; YAML layers over them, flags over those."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from rlkit.core.errors import require


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and under which protocol."""

    id: str = ""  # "ALE/Pong-v5", "dmc/walker-walk", "gym/CartPole-v1"
    num_envs: int = 1
    protocol: str | None = None  # Atari: machado, atari100k, nature; None = the family's default
    backend: Literal["exact", "fast"] = "exact"
    observation: Literal["state", "pixels"] = "state"  # dmc
    action_repeat: int | None = None  # None = the protocol's (Atari 4, dmc 2, gym 1)
    workers: int = 0  # processes that step the environments; 0 = in this process (Atari: threads of the fast backend)
    stack: int | None = None  # None = the protocol's
    sticky: float | None = None  # Atari: probability that a frame repeats the previous action; None = the protocol's
    full_action_space: bool = False  # Atari: 18 actions instead of the game's minimal set
    episode_cap: int | None = None  # frames; None = the protocol's


@dataclass(frozen=True)
class ReplayConfig:
    """What is kept, and who draws from it."""

    capacity: int = 1_000_000  # rows of all environments together
    sampler: str = "uniform"  # rlkit/replay/samplers; its own settings are --sampler.NAME
    storage: Literal["memory", "disk", "device"] = "memory"  # where the frames are; device: on the run's device
    directory: str = "."  # of the unnamed file of storage=disk
    batch_size: int = 256
    n_step: int = 1
    gamma: float = 0.99
    prefetch: bool = False  # draw the next batch in a thread while the agent learns: it misses the rows of one step
    reward_clip: float | None = None  # read-time clip to [-x, x]; rewards are stored raw

    def __post_init__(self) -> None:
        for key in ("capacity", "batch_size", "n_step"):
            require(getattr(self, key) >= 1, f"replay.{key}", getattr(self, key), "1 or more")
        require(0 <= self.gamma <= 1, "replay.gamma", self.gamma, "0 to 1")
        require(
            self.reward_clip is None or self.reward_clip > 0, "replay.reward_clip", self.reward_clip, "above 0, or null"
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """Episodes in environments of their own."""

    period: int = 0  # env steps; 0 = only at the end
    episodes: int = 10
    epsilon: float = 0.0  # probability of a random action (discrete actions)

    def __post_init__(self) -> None:
        for key in ("period", "episodes"):
            require(getattr(self, key) >= 0, f"evaluation.{key}", getattr(self, key), "0 or more")
        require(0 <= self.epsilon <= 1, "evaluation.epsilon", self.epsilon, "0 to 1")


@dataclass(frozen=True)
class CheckpointConfig:
    """When to write a checkpoint, and how many to keep."""

    period: int = 0  # env steps; 0 = only at the end and when interrupted
    keep: int = 2
    replay: bool = True  # without it a resumed run starts with an empty replay and is not bit-exact

    def __post_init__(self) -> None:
        require(self.period >= 0, "checkpoint.period", self.period, "0 or more")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "1 or more")


@dataclass(frozen=True)
class LoggingConfig:
    """What goes to metrics.jsonl and TensorBoard, and how often."""

    period: int = 1_000  # env steps
    tensorboard: bool = True

    def __post_init__(self) -> None:
        require(self.period >= 1, "logging.period", self.period, "1 or more")


@dataclass(frozen=True)
class PlasticityConfig:
    """What is measured of the networks, and what is done to them."""

    monitor: bool = True
    period: int | None = (
        None  # gradient steps between probes; null = a 200th of the run's, at least 500, at most 10,000
    )
    full_every: int = 4  # probes between those with gradient scores, ranks, weights, overlap and churn
    batch_size: int = 256  # states of a probe; ranks are at most this
    interventions: tuple[str, ...] = ()  # rlkit/plasticity/interventions; settings are --intervention.NAME.KEY
    replay_ratio: str = "constant"  # rlkit/plasticity/replay_ratio.py; its own settings are --ratio.KEY

    def __post_init__(self) -> None:
        require(self.period is None or self.period >= 1, "plasticity.period", self.period, "1 or more, or null")
        for key in ("full_every", "batch_size"):
            require(getattr(self, key) >= 1, f"plasticity.{key}", getattr(self, key), "1 or more")
        twice = len(set(self.interventions)) < len(self.interventions)
        require(not twice, "plasticity.interventions", list(self.interventions), "each at most once")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    agent: Any  # the algorithm's own dataclass
    network: Any  # likewise
    sampler: Any  # the dataclass of the sampler that replay.sampler names
    intervention: Any  # a dataclass for each of plasticity.interventions
    ratio: Any  # the dataclass of plasticity.replay_ratio
    algorithm: str = "dqn"
    name: str = "dqn"  # what was typed: the YAML in configs/
    seed: int = 0
    threads: int = 0  # torch threads; 0 = all cores
    device: str = "cpu"
    env_steps: int = 100_000  # agent decisions of all environments together; rounded up to whole locksteps
    learning_starts: int = 1_000  # env steps before the first update
    random_steps: int = 0  # env steps with uniformly random actions at the start
    replay_ratio: Fraction = Fraction(1)  # gradient steps per env step, exact: "1/4"
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    plasticity: PlasticityConfig = field(default_factory=PlasticityConfig)

    def __post_init__(self) -> None:
        require(self.env_steps >= 1, "env_steps", self.env_steps, "1 or more")
        for key in ("seed", "threads", "learning_starts", "random_steps"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
