"""Run 2N equals run N, checkpoint, new objects, run N: bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkit.core.errors import ResumeError
from rlkit.replay.samplers import SAMPLERS
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.experiment import Experiment, resume, train
from rlkit.training.run_folder import RunFolder, find_run, list_runs
from rlkit.training.sameness import differing_leaves, differing_runs
from tests.cli import commands
from tests.training.runs import SHORT, config, only_run, steps


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("case", SHORT)
def test_continuation_through_files_is_bit_exact(case, num_envs, tmp_path):
    check_continuation(case, num_envs, tmp_path)


def check_continuation(case, num_envs, tmp_path, **overrides):
    if overrides.get("replay__sampler") == "consume":
        overrides["sampler__max_visits"] = 1_000  # as many as the replay ratio asks for
    settings = config(case, env__num_envs=num_envs, **overrides)
    half = settings.env_steps // 2 // num_envs
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    whole = Experiment(settings)
    steps(whole, half // 2)
    store.save(1, whole.state_dict(), whole.replay)  # a second segment, and rows overwritten since
    steps(whole, half - half // 2)
    store.save(2, whole.state_dict(), whole.replay)
    steps(whole, half)

    torch.manual_seed(int(time.time()))  # nothing may depend on the global generators
    np.random.seed(1)  # noqa: NPY002
    again = Experiment(settings)
    _, state, segments, torn = CheckpointStore(tmp_path / "checkpoints", keep=2).load()
    CheckpointStore(tmp_path / "checkpoints", keep=2).load_replay(segments, again.replay, state["replay"])
    again.load_state_dict(state, with_replay=True)
    steps(again, half)

    assert torn == []
    assert whole.updates > 0
    assert again.updates == whole.updates
    assert again.replay.metrics() == whole.replay.metrics()
    assert differing_leaves(again.state_dict(), whole.state_dict()) == []
    batches = [experiment.replay.sample(32, experiment.window, copy=True) for experiment in (whole, again)]
    for key in batches[0].keys(include_nested=True, leaves_only=True):
        assert torch.equal(batches[0][key], batches[1][key]), key
    whole.close()
    again.close()


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_continuation_is_bit_exact_with_every_sampler(sampler, prefetch, tmp_path):
    check_continuation("dqn-tiny-pixels", 2, tmp_path, replay__sampler=sampler, replay__prefetch=prefetch)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.slow
@pytest.mark.parametrize("case", SHORT)
def test_continuation_is_bit_exact_for_every_agent_with_every_sampler(case, sampler, tmp_path):
    check_continuation(case, 1, tmp_path, replay__sampler=sampler)


@pytest.mark.parametrize("case", ["dqn-gym", "sac-gym"])
def test_one_seed_two_runs_are_identical_and_two_seeds_are_not(case):
    settings = config(case)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))
        experiment = Experiment(replace(settings, seed=seed))
        steps(experiment, settings.env_steps // 2)
        runs.append(experiment.state_dict())
        experiment.close()
    assert differing_leaves(runs[0]["agent"], runs[1]["agent"]) == []
    assert differing_leaves(runs[0]["agent"], runs[2]["agent"]) != []


# A step of the others costs more than CartPole's by far: fewer of them.
PROCESSES = [("dqn-gym", 2000, "uniform"), ("sac-dmc", 600, "uniform"), ("dqn-atari", 320, "uniform")]
PROCESSES += [
    pytest.param(case, env_steps, sampler, marks=pytest.mark.slow)
    for sampler in ("rr-c", "rr-m", "per")
    for case, env_steps in (("dqn-gym", 2000), ("sac-dmc", 600))
]
PROCESSES += [pytest.param("ace-gym", 1600, "uniform", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("case", "env_steps", "sampler"), PROCESSES)
def test_sigterm_and_resume_in_new_processes_equal_the_uninterrupted_run(case, env_steps, sampler, tmp_path):
    """Through the command line: kill -TERM in the middle, `rlkit resume`, compare files."""
    agent, env, own = SHORT[case]
    flags = {
        **own,
        "replay.sampler": sampler,
        "env_steps": env_steps,
        "learning_starts": 100,
        "random_steps": 50,
        "replay.batch_size": 16,
        "logging.tensorboard": "false",
        "plasticity.batch_size": 64,
    }
    flags |= {"logging.period": env_steps // 8, "evaluation.period": env_steps // 3, "evaluation.episodes": 2}
    flags |= {"checkpoint.period": env_steps // 4, "replay.capacity": env_steps // 4, "threads": 1}
    if agent == "dqn" and env.startswith("ALE"):
        flags |= {"env.episode_cap": 400, "network.hidden": "[32]"}
    arguments = ["train", agent, "--env", env, *(f"--{key}={value}" for key, value in flags.items())]
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    assert commands.rlkit(*arguments, "--runs", str(uninterrupted)).returncode == 0

    process = rlkit(*arguments, "--runs", str(interrupted))
    deadline = time.monotonic() + 120
    while not list(interrupted.glob(f"*/*/*/checkpoints/{env_steps // 4}")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    run = only_run(interrupted)
    assert f"rlkit resume {run}" in error
    stopped_at = CheckpointStore(run / "checkpoints", 2).steps()[-1]
    assert stopped_at < env_steps

    with rlkit("resume", str(run)) as resumed:
        output, error = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, error
    assert "bit-exact: yes" in output
    assert differing_runs(only_run(uninterrupted), run) == []
    assert [line["checkpoint"] for line in RunFolder(run).lines("ledger") if line["kind"] == "resume"] == [stopped_at]


def rlkit(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rlkit.cli.main", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
    )


def test_second_signal_stops_at_once(tmp_path):
    """After the first alone a checkpoint would be written."""
    arguments = ["train", "dqn", "--env", "gym/CartPole-v1", "--env_steps=1000000", "--runs", str(tmp_path)]
    with rlkit(*arguments) as process:
        while not list(tmp_path.glob("*/*/*/lock")):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert not list(tmp_path.glob("*/*/*/checkpoints/*/manifest.json"))


def test_torn_checkpoint_is_named_and_the_last_good_one_used(tmp_path, capsys):
    settings = config("dqn-gym", checkpoint__period=200, env_steps=600, checkpoint__keep=3)
    assert train(settings, tmp_path / "whole") == 0
    run = only_run(tmp_path / "whole")
    shutil.copytree(run, tmp_path / "torn")
    bad = tmp_path / "torn" / "checkpoints" / "600" / "state.safetensors"
    content = bytearray(bad.read_bytes())
    content[-1] ^= 1
    bad.write_bytes(bytes(content))

    assert resume(tmp_path / "torn", settings) == 0
    output = capsys.readouterr().out
    assert "checkpoint 600 is torn (state.safetensors has CRC" in output
    assert "resuming at step 400" in output
    assert differing_runs(run, tmp_path / "torn") == []

    for part in (tmp_path / "torn" / "checkpoints").glob("*/state.json"):
        part.write_text(part.read_text()[:-5])
    with pytest.raises(ResumeError, match=r"600: state\.json has \d+ bytes instead of \d+"):
        resume(tmp_path / "torn", settings)


def test_last_k_checkpoints_and_only_needed_segments_are_kept(tmp_path):
    settings = config("dqn-gym", checkpoint__period=50, checkpoint__keep=2, replay__capacity=100)
    assert train(settings, tmp_path) == 0
    checkpoints = only_run(tmp_path) / "checkpoints"
    store = CheckpointStore(checkpoints, 2)
    assert store.steps() == [550, 600]
    listed = set()
    for step in store.steps():
        listed |= {s["file"] for s in json.loads((checkpoints / str(step) / "manifest.json").read_text())["segments"]}
    assert {path.name for path in (checkpoints / "segments").iterdir()} == listed
    rows = sum(p["rows"] for s in store.load()[2] for p in s["parts"])
    assert (
        100 <= rows <= 100 + 2 * 60
    )  # the ring, and at most one interval (with final frames) hanging over at each end


def test_locked_folder_is_refused_and_a_dead_lock_is_not(tmp_path):
    settings = config("dqn-gym", env_steps=100)
    assert train(settings, tmp_path) == 0
    run = only_run(tmp_path)
    lock = run / "lock"
    import socket

    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getppid(), "since": "2026-01-01 00:00:00"}))
    with pytest.raises(ResumeError, match="is in use") as caught:
        resume(run, replace(settings, env_steps=120))
    assert "since 2026-01-01" in str(caught.value)
    assert "--break-lock" in str(caught.value)
    assert lock.exists()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": dead.pid, "since": "2026-01-01 00:00:00"}))
    assert resume(run, replace(settings, env_steps=120)) == 0
    assert not lock.exists()


def test_inexact_backend_says_so_and_ends_open_episodes(tmp_path, capsys):
    settings = config("dqn-atari", env__backend="fast", env__num_envs=2)
    assert train(settings, tmp_path) == 0
    run = only_run(tmp_path)
    assert resume(run, replace(settings, env_steps=240)) == 0
    assert "bit-exact: no (the fast backend of ALE/Pong-v5" in capsys.readouterr().out
    (event,) = [line for line in RunFolder(run).lines("ledger") if line["kind"] == "resume"]
    assert event["bit_exact"] is False


def test_paths_in_a_run_folder_are_relative(tmp_path):
    assert train(config("dqn-gym", env_steps=120), tmp_path) == 0
    for path in only_run(tmp_path).rglob("*"):
        if path.is_file() and path.suffix != ".bin":
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_unknown_run_folder_and_old_format(tmp_path):
    with pytest.raises(ResumeError, match="not a run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ResumeError, match="has format 0"):
        RunFolder.open(Path(tmp_path))


def test_a_run_whose_record_is_damaged_does_not_hide_the_others(tmp_path):
    assert train(config("dqn-gym", env_steps=120), tmp_path) == 0
    good = only_run(tmp_path)
    damaged = good.with_name("29991231-000000-s0")  # the newest by name
    shutil.copytree(good, damaged)
    (damaged / "run.json").write_text("{")
    assert [(run.path, run.status) for run in list_runs(tmp_path)] == [(good, "finished"), (damaged, "unreadable")]
    assert find_run(tmp_path, "last") == good
