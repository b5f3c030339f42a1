"""What a run will need, computed and checked before it starts."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rlkit.configs.schema import EnvConfig, RunConfig
from rlkit.core.errors import ResourceError
from rlkit.core.seeding import SeedTree
from rlkit.envs.spec import EnvSpec
from rlkit.replay import samplers
from rlkit.replay.buffer import row_bytes
from rlkit.training.build import action_layout, make_env, planned_updates, whole_locksteps
from rlkit.training.experiment import Experiment
from rlkit.training.memory import FreeMemory, free_memory
from rlkit.training.progress import duration

_BASE_BYTES = 600_000_000  # interpreter, torch, an environment, networks and their moments: measured at 0.4-0.6 GB
# Measured: pages of its own of a process of --env.workers (interpreter, packages), and of an environment in it or here.
_WORKER_BYTES = {"atari": 80_000_000, "dmc": 70_000_000, "gym": 45_000_000, "tiny": 30_000_000}
_ENV_BYTES = {"atari": 1_500_000, "dmc": 26_000_000, "gym": 2_000_000, "tiny": 100_000}
_MEASURE_S = 1.0  # of steps without learning, and of steps with it


@dataclass(frozen=True)
class ReplayBytes:
    """What a replay takes, in bytes; the frames of `rows` rows, everything else of `capacity` rows."""

    capacity: int
    rows: int  # that the run writes, one final frame per episode not counted; at most the capacity
    frame: int  # of a row, apart from its record; 0 = part of it
    record: int  # of a row: action, reward, flags
    slot: int  # of the sampler, a row
    storage: str

    @property
    def row(self) -> int:
        """All of a row, wherever it lies."""
        return self.frame + self.record + self.slot

    @property
    def memory(self) -> int:
        """RAM, once the run has ended: frames are paid for as they are written, the rest at the start."""
        frames = self.rows * self.frame if self.storage == "memory" else 0
        return frames + self.capacity * (self.record + self.slot)

    @property
    def disk(self) -> int:
        """The file of storage=disk, all of it taken at the start; with the empty frame that pads stacks."""
        return (self.capacity + 1) * self.frame if self.storage == "disk" else 0


@dataclass(frozen=True)
class Disk:
    """A place for files."""

    device: int  # places of one device share what is free
    free: int  # bytes

    @staticmethod
    def of(path: Path) -> Disk:
        """Of `path`, which need not exist yet."""
        path = path.resolve()
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        return Disk(existing.stat().st_dev, shutil.disk_usage(existing).free)


@dataclass(frozen=True)
class Plan:
    """The needs of a run."""

    env_steps: int  # whole locksteps of all environments
    frames: int
    updates: int
    replay: ReplayBytes
    other_bytes: int  # RAM of everything else
    workers: int  # processes that step environments, counted in other_bytes
    checkpoint_bytes: int  # at most: the ring and `keep` intervals of new rows, and the state beside them
    seconds: float | None  # None = not measured
    memory: FreeMemory
    runs_disk: Disk
    replay_disk: Disk

    def check(self) -> None:
        """Raise ResourceError if memory or disk will not hold the run."""
        replay, free = self.replay, self.memory.amount
        if replay.memory + self.other_bytes > free:
            in_memory = replay.row - (replay.frame if replay.storage != "memory" else 0)
            fits = max(0, (free - self.other_bytes) // in_memory)
            fixes = [f"--replay.capacity {fits} fits"] if fits else ["close other programs"]
            fixes += ["--replay.storage disk"] if replay.frame and replay.storage == "memory" else []
            fixes += ["fewer --env.workers"] if self.workers else []
            raise ResourceError(
                f"the replay needs {replay.memory / 1e9:.1f} GB of memory, {self.memory}",
                why=f"{self._rows()} of {in_memory:,} bytes; the rest takes {self._rest()}",
                fix=", or ".join(fixes),
                see="docs/replay.md",
            )
        shared = self.runs_disk.device == self.replay_disk.device
        if replay.disk > self.replay_disk.free:
            raise ResourceError(
                f"the replay's frames need {replay.disk / 1e9:.1f} GB of disk, {_free(self.replay_disk)}",
                why=f"{replay.capacity:,} rows of {replay.frame:,} bytes, taken at the start",
                fix="a smaller --replay.capacity, or another --replay.directory",
                see="docs/replay.md",
            )
        if self.checkpoint_bytes + (replay.disk if shared else 0) > self.runs_disk.free:
            beside = f" beside {replay.disk / 1e9:.1f} GB of the replay's frames" if shared and replay.disk else ""
            raise ResourceError(
                f"checkpoints need up to {self.checkpoint_bytes / 1e9:.1f} GB of disk{beside}, {_free(self.runs_disk)}",
                why="they hold the replay, so that a resumed run continues bit for bit",
                fix="a smaller --replay.capacity, another --runs folder, or --checkpoint.replay false (not bit-exact)",
                see="docs/run_folder.md",
            )

    def lines(self) -> list[str]:
        """The plan for a person."""
        time_text = "not measured" if self.seconds is None else f"about {duration(self.seconds)}"
        replay = self.replay
        frames = f"; {replay.disk / 1e9:.2f} GB of frames, {_free(self.replay_disk)}" if replay.disk else ""
        return [
            f"env steps   {self.env_steps:,} ({self.frames:,} frames)",
            f"updates     {self.updates:,}",
            f"memory      {replay.memory / 1e9:.2f} GB replay ({self._rows()}, {replay.row:,} bytes a row), "
            f"{self._rest()} the rest, {self.memory}",
            f"disk        at most {self.checkpoint_bytes / 1e9:.2f} GB of checkpoints, {_free(self.runs_disk)}{frames}",
            f"time        {time_text}",
        ]

    def _rows(self) -> str:
        replay = self.replay
        lazy = replay.frame and replay.storage == "memory" and replay.rows < replay.capacity
        return f"{replay.rows:,} of {replay.capacity:,} rows" if lazy else f"{replay.capacity:,} rows"

    def _rest(self) -> str:
        workers = f" with {self.workers} workers" if self.workers else ""
        return f"{self.other_bytes / 1e9:.1f} GB{workers}"


def make_plan(config: RunConfig, runs_dir: Path, *, measure: bool) -> Plan:
    """The plan of `config`; `measure` also runs a few real steps and updates to estimate the time (seconds)."""
    env = make_env(config.env, SeedTree(config.seed), "plan", num_envs=1)
    spec = env.spec
    env.close()
    num_envs = config.env.num_envs
    env_steps = whole_locksteps(config.env_steps, num_envs)
    replay = _replay_bytes(config, spec, env_steps)
    checkpoint = config.checkpoint
    stored = (checkpoint.keep + 1) * replay.capacity * (replay.slot + 2)  # the sampler's state, and visits of the rows
    if checkpoint.replay:
        # Rows are written once; a segment stays until a newer checkpoint no longer lists it.
        interval = checkpoint.period or env_steps
        stored += min(env_steps, replay.capacity + (checkpoint.keep + 1) * interval) * replay.row
    workers = _worker_processes(config.env)
    return Plan(
        env_steps=env_steps,
        frames=env_steps * spec.action_repeat,
        updates=planned_updates(config),
        replay=replay,
        other_bytes=_BASE_BYTES + workers * _WORKER_BYTES[spec.family] + num_envs * _ENV_BYTES[spec.family],
        workers=workers,
        checkpoint_bytes=stored,
        seconds=_measure_seconds(config) if measure else None,
        memory=free_memory(),
        runs_disk=Disk.of(runs_dir),
        replay_disk=Disk.of(Path(config.replay.directory)),
    )


def _replay_bytes(config: RunConfig, spec: EnvSpec, env_steps: int) -> ReplayBytes:
    settings, num_envs = config.replay, config.env.num_envs
    # `device` on the CPU is memory, but torch takes all of it at the start; on a GPU it is not this machine's.
    on_cpu = settings.storage == "device" and config.device == "cpu"
    frame, record = row_bytes(
        spec.observation_space.shape,
        spec.observation_space.dtype,
        *action_layout(spec.action_space),
        has_lives=spec.family == "atari",
        in_memory=settings.storage == "memory",
    )
    capacity = settings.capacity // num_envs * num_envs
    return ReplayBytes(
        capacity=capacity,
        rows=capacity if on_cpu else min(capacity, env_steps),
        frame=frame,
        record=record,
        slot=samplers.find(settings.sampler).slot_bytes,
        storage="memory" if on_cpu else settings.storage,
    )


def _worker_processes(config: EnvConfig) -> int:
    """Processes beside this one; the fast Atari backend has threads."""
    return 0 if config.backend == "fast" else min(config.workers, config.num_envs)


def _free(disk: Disk) -> str:
    return f"{disk.free / 1e9:.1f} GB are free"


def _measure_seconds(config: RunConfig) -> float:
    """Wall time of the whole run, extrapolated from real steps before and after learning starts."""
    window = config.replay.n_step + 2  # locksteps until the first row is usable
    small = replace(
        config,
        learning_starts=window * config.env.num_envs,
        random_steps=0,
        replay=replace(config.replay, capacity=min(config.replay.capacity, (window + 64) * config.env.num_envs)),
    )
    experiment = Experiment(small)
    idle = Experiment(replace(small, learning_starts=config.env_steps))
    try:
        acting, learning = (_seconds_per_step(each, window + 8) for each in (idle, experiment))
    finally:
        experiment.close()
        idle.close()
    warm_up = min(config.learning_starts, config.env_steps)
    return warm_up * acting + (config.env_steps - warm_up) * learning


def _seconds_per_step(experiment: Experiment, warm_up: int) -> float:
    num_envs = experiment.env.spec.num_envs
    for _ in range(warm_up):  # first calls allocate and compile
        experiment.step()
    before, start = experiment.env_steps, time.perf_counter()
    while time.perf_counter() - start < _MEASURE_S or experiment.env_steps - before < num_envs:
        experiment.step()
    return (time.perf_counter() - start) / (experiment.env_steps - before)
