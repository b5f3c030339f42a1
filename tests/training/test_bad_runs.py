"""What goes wrong while a run trains: nothing is lost, and the message says what to do."""

import errno
import json
import os
from dataclasses import replace

import pytest

from rlkit.core.errors import NumericError, ResourceError, ResumeError
from rlkit.training.checkpoint import CheckpointStore
from rlkit.training.experiment import resume, train
from rlkit.training.run_folder import RunFolder, find_run, list_runs
from tests.training.runs import config, only_run


@pytest.mark.parametrize("case", ["dqn-gym", "sac-gym"])
def test_a_loss_that_is_not_finite_stops_before_any_checkpoint(case, tmp_path):
    rate = {"agent__learning_rate": 1e38} if case == "dqn-gym" else {"agent__critic_learning_rate": 1e38}
    settings = config(case, checkpoint__period=50, **rate)
    with pytest.raises(NumericError) as caught:
        train(settings, tmp_path)
    run = only_run(tmp_path)
    message = str(caught.value)
    for part in (
        "loss is",
        "at env step",
        "first tensor that is not finite: ",
        "last good checkpoint: 50",
        "fix: lower",
    ):
        assert part in message
    assert caught.value.exit_code == 5
    dump = json.loads((run / "crash.json").read_text())
    assert len(dump["batch_uid"]) == settings.replay.batch_size
    assert dump["gradient_norms"]
    assert "NonFiniteLossError" in (run / "crash.txt").read_text()
    assert RunFolder(run).status() == "crashed"
    step, state, _, torn = CheckpointStore(run / "checkpoints", 2).load()
    assert (step, torn) == (50, [])
    for tensor in state["agent"]["networks"].values():
        assert tensor.isfinite().all()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """The disk fills up between two checkpoints: the error comes from the preallocation, before a row is written."""
    settings = config("dqn-gym", checkpoint__period=200)
    real, calls = os.posix_fallocate, []

    def full(descriptor, offset, length):
        calls.append(length)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="the disk is full\ncheckpoint 400 was not written") as caught:
        train(settings, tmp_path)
    assert "rlkit resume" in str(caught.value)
    assert caught.value.exit_code == 6
    monkeypatch.undo()
    run = only_run(tmp_path)
    assert CheckpointStore(run / "checkpoints", 2).steps() == [200]
    assert resume(run, settings) == 0
    assert RunFolder(run).status() == "finished"


def test_a_checkpoint_that_was_never_written_is_said_so(tmp_path):
    assert train(config("dqn-gym", env_steps=60), tmp_path) == 0
    run = only_run(tmp_path)
    import shutil

    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ResumeError, match="holds no checkpoint"):
        resume(run, config("dqn-gym", env_steps=60))


def test_a_missing_segment_is_a_torn_checkpoint(tmp_path):
    assert train(config("dqn-gym", env_steps=100), tmp_path) == 0
    run = only_run(tmp_path)
    (segment,) = (run / "checkpoints" / "segments").iterdir()
    segment.unlink()
    with pytest.raises(ResumeError, match=r"\.bin is missing"):
        resume(run, config("dqn-gym", env_steps=120))


def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path):
    """Older versions stored less: here the schedule is not in the file, whose checksum is right."""
    settings = config("dqn-gym", env_steps=100)
    assert train(settings, tmp_path) == 0
    run = only_run(tmp_path)
    store = CheckpointStore(run / "checkpoints", 2)
    step, state, _, _ = store.load()
    del state["schedule"]
    store.save(step + 1, state, None)
    with pytest.raises(ResumeError, match="has no 'schedule'") as caught:
        resume(run, replace(settings, env_steps=200))
    assert "another version of rlkit" in str(caught.value)


def test_without_replay_the_run_says_that_it_is_not_bit_exact(tmp_path, capsys):
    settings = config("dqn-gym", env_steps=200, checkpoint__replay=False)
    assert train(settings, tmp_path) == 0
    run = only_run(tmp_path)
    assert not (run / "checkpoints" / "segments").exists()
    assert resume(run, replace(settings, env_steps=400)) == 0
    assert "bit-exact: no (checkpoint.replay is false" in capsys.readouterr().out
    lines = RunFolder(run).lines("metrics")
    assert lines[-1]["step"] == 400
    # Without rows there is nothing to learn from until learning_starts steps have been taken again.
    assert lines[-1]["updates"] == (200 - settings.learning_starts + 200 - settings.learning_starts) // 2


def test_a_crashed_process_shows_as_crashed(tmp_path):
    assert train(config("dqn-gym", env_steps=60), tmp_path) == 0
    folder = RunFolder(only_run(tmp_path))
    folder.set_status("running")  # as a killed process leaves it, without a lock
    (summary,) = list_runs(tmp_path)
    assert summary.status == "crashed"
    assert find_run(tmp_path, "last") == folder.path
    assert find_run(tmp_path, folder.path.name) == folder.path


def test_a_torn_last_line_of_a_log_is_ignored(tmp_path):
    assert train(config("dqn-gym", env_steps=120), tmp_path) == 0
    folder = RunFolder(only_run(tmp_path))
    whole = folder.lines("metrics")
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    assert folder.lines("metrics") == whole
