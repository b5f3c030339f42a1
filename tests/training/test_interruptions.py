"""Terminals that go, pipes that close, disks that fill, evaluations that are abandoned: nothing is lost."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError

from rlkit.core.errors import NumericError, ResourceError
from rlkit.training import tree_files
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.experiment import Experiment, NonFiniteLossError, Trainer, resume, train
from rlkit.training.run_folder import RunFolder
from rlkit.training.signals import StopRequest
from tests.training.runs import config, only_run, steps

ARGUMENTS = [
    "train",
    "dqn",
    "--env",
    "gym/CartPole-v1",
    "--env_steps=1000000",
    "--evaluation.episodes=0",
    "--threads=1",
]


def start(tmp_path, program=("-m", "rlkit.cli.main"), **streams):
    command = [sys.executable, *program, *ARGUMENTS, "--runs", str(tmp_path)]
    # Whoever starts the tests under nohup hands an ignored SIGHUP on.
    heed = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(command, preexec_fn=heed, **streams)
    while not list(tmp_path.glob("*/*/*/lock")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    return process


def check_stopped_well(tmp_path, process):
    try:
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    run = only_run(tmp_path)
    assert RunFolder(run).run()["status"] == "interrupted"
    assert list(run.glob("checkpoints/*/manifest.json"))
    assert not (run / "crash.txt").exists()


def test_a_terminal_that_is_closed_stops_the_run_with_a_checkpoint(tmp_path):
    ours, theirs = os.openpty()
    process = start(tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)  # from now on every write to it is an error
    for _ in range(2):  # the kernel and the shell each say so
        process.send_signal(signal.SIGHUP)
    check_stopped_well(tmp_path, process)


def test_a_pipe_that_is_closed_does_not_stop_anything(tmp_path):
    often = "from rlkit.training.progress import ProgressLine; ProgressLine.PIPE_S = 0.2"
    program = ["-c", f"{often}; from rlkit.cli.main import main; main()"]
    process = start(tmp_path, program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    time.sleep(1.0)  # several lines
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    check_stopped_well(tmp_path, process)


def test_nohup_is_respected():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_disk_that_fills_while_weights_are_written(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    store.save(1, {"a": torch.ones(3)}, None)

    def full(*_):
        raise SafetensorError('Error while serializing: I/O error: Os { message: "No space left on device" }')

    (tmp_path / "checkpoints" / "tmp-7").mkdir()
    monkeypatch.setattr(tree_files, "save_file", full)
    with pytest.raises(ResourceError, match=r"the disk is full.*state\.safetensors\ncheckpoint 2 was not written"):
        store.save(2, {"a": torch.ones(3)}, None)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1"]


class StopAt:
    """A signal during the evaluation at a step."""

    def __init__(self, experiment, step):
        self.experiment, self.step = experiment, step

    def __bool__(self):
        return self.experiment.env_steps >= self.step


def test_an_abandoned_evaluation_is_taken_again_with_several_environments(tmp_path):
    changes = {"env__num_envs": 7, "env_steps": 245, "evaluation__period": 100, "evaluation__episodes": 2}
    settings = config("dqn-gym", **changes)
    assert train(settings, tmp_path / "whole") == 0
    expected = RunFolder(only_run(tmp_path / "whole")).lines("evaluations")
    folder = RunFolder.create(settings, tmp_path / "stopped")
    trainer = Trainer(Experiment(settings), folder)
    assert not trainer.run(StopAt(trainer._experiment, 105))
    trainer.close()
    assert [line["step"] for line in folder.lines("evaluations")] == [0]
    assert resume(folder.path, settings) == 0
    found = folder.lines("evaluations")
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [0, 105, 203, 245]
    assert [line["returns"] for line in found] == [line["returns"] for line in expected]


def test_losses_that_nobody_has_read_are_checked_before_a_checkpoint(tmp_path, monkeypatch):
    """As on a device, where a loss is not read in the step that it appears in."""
    settings = config("dqn-gym", plasticity__monitor=False)
    experiment = Experiment(settings)
    steps(experiment, 80)
    trainer = Trainer(experiment, RunFolder.create(settings, tmp_path))
    experiment.log.add_update({"loss": torch.tensor(float("nan"))})
    with pytest.raises(NonFiniteLossError, match="loss is nan"):
        trainer.checkpoint()
    with pytest.raises(NumericError):
        trainer._write_metrics()
    assert not list(only_run(tmp_path).glob("checkpoints/*"))
    trainer.close()


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append("ledger", {"step": 1})
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"step": 2, "ki')
    folder.append("ledger", {"step": 3})
    folder.append("ledger", {"step": 4})
    assert [line["step"] for line in folder.lines("ledger")] == [1, 3, 4]
    assert json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[-1]) == {"step": 4}


@pytest.mark.parametrize(
    ("changes", "words"), [({"env_steps": 700}, "env_steps 600 -> 700"), ({"threads": 2}, "2 threads instead of 1")]
)
def test_a_continuation_that_is_another_run_is_not_called_bit_exact(changes, words, tmp_path, capsys):
    settings = config("dqn-gym", evaluation__episodes=0)
    folder = RunFolder.create(settings, tmp_path)
    trainer = Trainer(Experiment(settings), folder)
    trainer.run(StopAt(trainer._experiment, 300))
    trainer.close()
    assert resume(folder.path, replace(settings, **changes)) == 0
    out = capsys.readouterr().out
    assert f"bit-exact: no ({words}" in out
