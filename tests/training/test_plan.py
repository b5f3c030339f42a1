"""The plan: what it counts is what a run then takes."""

import os
from dataclasses import replace

import numpy as np
import psutil
import pytest

from rlkit.core.errors import ResourceError
from rlkit.core.seeding import SeedTree
from rlkit.core.timestep import TimeStep
from rlkit.envs.registry import make
from rlkit.replay import ReplayBuffer, UniformSampler
from rlkit.replay.buffer import row_bytes
from rlkit.training import plan as plans
from rlkit.training.build import make_replay
from rlkit.training.experiment import Experiment
from rlkit.training.memory import FreeMemory, free_memory, left_in_groups
from rlkit.training.plan import Disk, make_plan
from tests.training.runs import config, steps

PLENTY = FreeMemory(10**15, False)


@pytest.fixture
def plan_of(tmp_path):
    """The plan of a case of tests/training/runs.py, without measured time."""

    def plan(case, **overrides):
        return make_plan(config(case, replay__directory=str(tmp_path), **overrides), tmp_path, measure=False)

    return plan


@pytest.mark.parametrize("n_step", [1, 5])
def test_it_counts_what_the_run_then_does(n_step, tmp_path):
    settings = config("dqn-gym", replay_ratio="1/3", replay__n_step=n_step, env__num_envs=3, env_steps=400)
    plan = make_plan(settings, tmp_path, measure=True)
    experiment = Experiment(settings)
    while experiment.env_steps < settings.env_steps:
        experiment.step()
    assert plan.env_steps == experiment.env_steps == 402  # whole locksteps
    assert plan.updates == experiment.updates == (402 - 60) // 3
    assert plan.seconds is not None
    experiment.close()


@pytest.mark.parametrize("case", ["dqn-gym", "dqn-atari", "sac-dmc"])
def test_rows_are_planned_to_the_byte(case, plan_of):
    """The buffer has one empty frame more, the padding of stacks: a short one with its record."""
    replay = plan_of(case).replay
    experiment = Experiment(config(case))
    took = round(experiment.replay.bytes_per_row * replay.capacity)
    assert took == replay.capacity * (replay.frame + replay.record) + (replay.frame or replay.record)
    assert replay.slot == 8
    experiment.close()


def test_frames_are_counted_as_far_as_the_run_fills_them(plan_of):
    """Pictures take memory when they are written; records are all there from the start."""
    full, part = (plan_of("dqn-atari", replay__capacity=1000, env_steps=n).replay for n in (5000, 160))
    assert full.memory == 1000 * (84 * 84 + 16 + 8)
    assert part.memory == 160 * 84 * 84 + 1000 * (16 + 8)
    experiment = Experiment(config("dqn-atari", replay__capacity=1000, env_steps=160))
    steps(experiment, 160)
    assert len(experiment.replay) == part.rows
    experiment.close()


def test_memory_is_taken_as_planned():
    """The system's own count, while a tenth of a buffer of 282 MB is filled."""
    capacity, rows, envs = 40_000, 4_000, 40
    frame, record = row_bytes((84, 84), np.uint8, (), np.int64, has_lives=False)
    observation, process = np.ones((envs, 84, 84), np.uint8), psutil.Process()
    before = process.memory_info().rss
    buffer = ReplayBuffer(
        capacity=capacity, num_envs=envs, observation_shape=(84, 84), observation_dtype=np.uint8, action_shape=(),
        action_dtype=np.int64, sampler=UniformSampler(capacity, 0),
    )  # fmt: skip
    no, reward = np.zeros(envs, bool), np.zeros(envs, np.float32)
    for _ in range(rows // envs):
        buffer.add(observation, np.zeros(envs, np.int64), TimeStep(observation, observation, reward, no, no, no))
    taken = process.memory_info().rss - before
    assert taken == pytest.approx(rows * frame + capacity * (record + 8), abs=8e6)
    buffer.close()


def test_frames_on_disk_are_disk(plan_of, monkeypatch, tmp_path):
    plan = plan_of("dqn-atari", replay__storage="disk", replay__capacity=1000)
    allocated, real = [], os.posix_fallocate

    def watched(descriptor, offset, length):
        allocated.append(length)
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", watched)
    settings = config("dqn-atari", replay__storage="disk", replay__capacity=1000, replay__directory=str(tmp_path))
    env = make("ALE/Pong-v5", seeds=SeedTree(0))
    make_replay(settings, env.spec, SeedTree(0)).close()
    assert plan.replay.disk == allocated[0] == 1001 * 84 * 84
    assert plan.replay.memory == 1000 * (16 + 8)
    assert f"{1001 * 84 * 84 / 1e9:.2f} GB of frames" in plan.lines()[3]


def test_short_frames_on_disk_leave_their_record(plan_of):
    """In memory the two are one."""
    disk, memory = (plan_of("dqn-gym", replay__storage=storage).replay for storage in ("disk", "memory"))
    assert (disk.frame, memory.frame) == (16, 0)
    assert disk.memory < memory.memory
    assert disk.disk == 301 * 16


def test_frames_on_the_device_of_a_cpu_run_are_all_memory(plan_of):
    replay = plan_of("dqn-atari", replay__storage="device", replay__capacity=1000, env_steps=160).replay
    assert replay.memory == 1000 * (84 * 84 + 16 + 8)
    assert replay.disk == 0


def test_too_little_disk_for_the_frames(plan_of):
    plan = replace(plan_of("dqn-atari", replay__storage="disk", replay__capacity=100_000), memory=PLENTY)
    small, large = Disk(1, 600_000_000), Disk(2, 10**12)
    with pytest.raises(ResourceError, match=r"frames need 0\.7 GB of disk, 0\.6 GB are free") as caught:
        replace(plan, replay_disk=small, runs_disk=large).check()
    assert "--replay.directory" in caught.value.fix
    replace(plan, replay_disk=large, runs_disk=small).check()  # 160 steps: checkpoints are small
    both = Disk(1, plan.replay.disk + plan.checkpoint_bytes)
    replace(plan, replay_disk=both, runs_disk=both).check()
    short = Disk(1, both.free - 1)
    with pytest.raises(ResourceError, match=r"checkpoints need up to .* GB of disk beside 0\.7 GB"):
        replace(plan, replay_disk=short, runs_disk=short).check()


def test_too_little_memory_names_what_helps(plan_of):
    plan = replace(plan_of("dqn-atari", replay__capacity=1_000_000, env_steps=1_000_000, env__num_envs=2))
    free = FreeMemory(plan.other_bytes + 100 * plan.replay.row, True)
    with pytest.raises(ResourceError, match=r"0\.6 GB are free \(limit of the control group\)") as caught:
        replace(plan, memory=free).check()
    assert caught.value.fix == "--replay.capacity 100 fits, or --replay.storage disk"
    replace(plan, memory=FreeMemory(plan.other_bytes + plan.replay.memory, True)).check()
    nothing = replace(plan, memory=FreeMemory(1, False), workers=2)
    with pytest.raises(ResourceError) as caught:
        nothing.check()
    assert caught.value.fix == "close other programs, or --replay.storage disk, or fewer --env.workers"


@pytest.mark.parametrize(
    ("overrides", "workers"),
    [
        ({}, 0),
        ({"env__num_envs": 4, "env__workers": 2}, 2),
        ({"env__num_envs": 4, "env__workers": 9}, 4),  # one for each environment
        ({"env__num_envs": 4, "env__workers": 2, "env__backend": "fast"}, 0),  # threads
    ],
)
def test_worker_processes_are_counted(overrides, workers, plan_of):
    plan = plan_of("dqn-atari", **overrides)
    assert plan.workers == workers
    here = plan_of("dqn-atari", **overrides | {"env__workers": 0})
    assert plan.other_bytes - here.other_bytes == workers * plans._WORKER_BYTES["atari"]
    assert (f"with {workers} workers" in plan.lines()[2]) == bool(workers)


@pytest.mark.parametrize(("env_id", "family"), [("gym/CartPole-v1", "gym"), ("dmc/walker-walk", "dmc")])
def test_a_worker_takes_about_what_is_planned(env_id, family):
    """Its own pages: what it shares with other processes costs nothing more."""
    vector = make(env_id, seeds=SeedTree(0), num_envs=3, workers=1)
    vector.reset()
    took = psutil.Process(vector._workers[0]._process.pid).memory_full_info().uss
    vector.close()
    planned = plans._WORKER_BYTES[family] + 3 * plans._ENV_BYTES[family]
    assert planned / 3 < took < 1.2 * planned


def group(folder, names, limit, used, cache, key):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names, "memory.stat"), (limit, used, f"anon 5\n{key} {cache}\n"), strict=True):
        (folder / name).write_text(f"{text}\n" if name != "memory.stat" else text)


V1 = (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file")
V2 = (("memory.max", "memory.current"), "inactive_file")


@pytest.mark.parametrize(
    ("version", "line", "folders", "left"),
    [
        (V2, "0::/a/b", {"a/b": ("max", 9, 0)}, None),
        (V2, "0::/a/b", {"a/b": (1000, 300, 100)}, 800),
        (V2, "0::/a/b", {"a/b": (1000, 300, 0), "a": (600, 500, 0)}, 100),  # that of a group above is narrower
        (V2, "0::/", {"": (1000, 300, 0)}, 700),  # a container whose own group is shown as the root
        (V2, "0::/not/shown/here", {"": (1000, 300, 0)}, 700),
        (V1, "3:cpuset:/\n4:cpu,memory:/a", {"memory/a": (1000, 300, 100), "memory": (2**63 - 4096, 400, 0)}, 800),
        (V1, "4:memory:/docker/a", {"memory": (1000, 300, 0)}, 700),
        (V1, "4:cpu:/a", {"memory/a": (1000, 300, 0)}, None),
        (V2, "0::/a", {"a": (1000, 1200, 0)}, -200),
    ],
)
def test_limits_of_control_groups(version, line, folders, left, tmp_path):
    names, key = version
    for folder, (limit, used, cache) in folders.items():
        group(tmp_path / "fs" / folder, names, limit, used, cache, key)
    (tmp_path / "groups").write_text(line + "\n")
    assert left_in_groups(tmp_path / "groups", tmp_path / "fs") == left


def test_without_control_groups_the_machine_counts(tmp_path):
    assert left_in_groups(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("left", "limited"), [(None, False), (10**18, False), (1000, True), (-5, True)])
def test_the_smaller_of_both_is_free(left, limited, monkeypatch):
    monkeypatch.setattr("rlkit.training.memory.left_in_groups", lambda *_: left)
    found = free_memory()
    assert found.limited is limited
    assert found.amount == (max(0, left) if limited else pytest.approx(psutil.virtual_memory().available, rel=0.5))
