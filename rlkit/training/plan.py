"""What a run will need, computed and checked before it starts."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from rlkit.configs.schema import RunConfig
from rlkit.core.errors import ResourceError
from rlkit.core.seeding import SeedTree
from rlkit.replay import samplers
from rlkit.replay.buffer import replay_memory_bytes
from rlkit.training.build import action_layout, make_env, planned_updates
from rlkit.training.experiment import Experiment
from rlkit.training.progress import duration

_BASE_BYTES = 600_000_000  # interpreter, torch, an environment, networks and their moments: measured at 0.4-0.6 GB


@dataclass(frozen=True)
class Plan:
    """The needs of a run."""

    env_steps: int
    frames: int
    updates: int
    replay_bytes: int  # RAM, allocated as it fills
    row_bytes: float
    disk_bytes: int  # at most: the ring and `keep` intervals of new rows
    seconds: float | None  # None = not measured
    free_ram: int
    free_disk: int
    capacity: int

    def check(self) -> None:
        """Raise ResourceError if memory or disk will not hold the run."""
        ram, disk = self.free_ram / 1e9, self.free_disk / 1e9
        if self.replay_bytes + _BASE_BYTES > self.free_ram:
            fits = max(0, int((self.free_ram - _BASE_BYTES) / self.row_bytes))
            raise ResourceError(
                f"the replay needs {self.replay_bytes / 1e9:.1f} GB of memory, {ram:.1f} GB are free",
                why=f"{self.capacity:,} rows of {self.row_bytes:,.0f} bytes; the rest takes {_BASE_BYTES / 1e9:.1f} GB",
                fix=f"--replay.capacity {fits} fits",
                see="docs/replay.md",
            )
        if self.disk_bytes > self.free_disk:
            raise ResourceError(
                f"checkpoints need up to {self.disk_bytes / 1e9:.1f} GB of disk, {disk:.1f} GB are free",
                why="they hold the replay, so that a resumed run continues bit for bit",
                fix="a smaller --replay.capacity, another --runs folder, or --checkpoint.replay false (not bit-exact)",
                see="docs/run_folder.md",
            )

    def lines(self) -> list[str]:
        """The plan for a person."""
        time_text = "not measured" if self.seconds is None else f"about {duration(self.seconds)}"
        return [
            f"env steps   {self.env_steps:,} ({self.frames:,} frames)",
            f"updates     {self.updates:,}",
            f"memory      {self.replay_bytes / 1e9:.2f} GB replay ({self.row_bytes:,.0f} bytes a row, "
            f"{self.capacity:,} rows), {self.free_ram / 1e9:.1f} GB free",
            f"disk        at most {self.disk_bytes / 1e9:.2f} GB of checkpoints, {self.free_disk / 1e9:.1f} GB free",
            f"time        {time_text}",
        ]


def make_plan(config: RunConfig, runs_dir: Path, *, measure: bool) -> Plan:
    """The plan of `config`; `measure` also runs a few real steps and updates to estimate the time (seconds)."""
    env = make_env(config.env, SeedTree(config.seed), "plan", num_envs=1)
    spec = env.spec
    env.close()
    action_shape, action_dtype = action_layout(spec.action_space)
    space = spec.observation_space
    capacity = config.replay.capacity
    replay_bytes = replay_memory_bytes(
        capacity,
        space.shape,
        space.dtype,
        action_shape,
        action_dtype,
        has_lives=spec.family == "atari",
        slot_bytes=samplers.find(config.replay.sampler).slot_bytes,
    )
    row_bytes = replay_bytes / capacity
    disk = 0.0
    if config.checkpoint.replay:
        # Rows are written once; a segment stays until a newer checkpoint no longer lists it.
        interval = config.checkpoint.period or config.env_steps
        disk = min(config.env_steps, capacity + (config.checkpoint.keep + 1) * interval) * row_bytes
    existing = next(path for path in [runs_dir.resolve(), *runs_dir.resolve().parents] if path.exists())
    return Plan(
        env_steps=config.env_steps,
        frames=config.env_steps * spec.action_repeat,
        updates=planned_updates(config),
        replay_bytes=replay_bytes,
        row_bytes=row_bytes,
        disk_bytes=int(disk),
        seconds=_measure_seconds(config) if measure else None,
        free_ram=psutil.virtual_memory().available,
        free_disk=shutil.disk_usage(existing).free,
        capacity=capacity,
    )


def _measure_seconds(config: RunConfig, budget_s: float = 1.0) -> float:
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
        acting, learning = (_seconds_per_step(each, window + 8, budget_s) for each in (idle, experiment))
    finally:
        experiment.close()
        idle.close()
    warm_up = min(config.learning_starts, config.env_steps)
    return warm_up * acting + (config.env_steps - warm_up) * learning


def _seconds_per_step(experiment: Experiment, warm_up: int, budget_s: float) -> float:
    num_envs = experiment.env.spec.num_envs
    for _ in range(warm_up):  # first calls allocate and compile
        experiment.step()
    before, start = experiment.env_steps, time.perf_counter()
    while time.perf_counter() - start < budget_s or experiment.env_steps - before < num_envs:
        experiment.step()
    return (time.perf_counter() - start) / (experiment.env_steps - before)
