"""Files that cannot be written: rlkit's own words, an exit status, and a run that goes on from its last checkpoint."""

import errno
import os
import subprocess
import sys

import pytest

from rlkit.cli.main import run as rlkit
from rlkit.core.errors import ResourceError
from rlkit.plasticity.record import RecordWriter
from rlkit.training.experiment import resume, train
from rlkit.training.logging import RunLog
from rlkit.training.run_folder import RunFolder
from tests.training.runs import config, only_run


def now_full(path):
    """From now on nothing can be written to this file; what it held is in FILE.kept."""
    path.rename(f"{path}.kept")
    path.symlink_to("/dev/full")


def fills(monkeypatch, what):
    """Have the disk fill up for one kind of file after env step 250."""
    full = []
    append, write, measure = RunFolder.append, RunLog.write, RecordWriter.append

    def log(folder, name, line):
        if name == what and line["step"] > 250 and not full:
            full.append(folder.path / f"{name}.jsonl")
            now_full(full[0])
        append(folder, name, line)

    def tensorboard(run_log, name, line, *, prefix):
        if what == "tensorboard" and line["step"] > 250 and not full:
            full.extend((run_log._folder.path / "tensorboard").iterdir())
            now_full(full[0])
        write(run_log, name, line, prefix=prefix)

    def record(writer, measurement):
        if what == "record" and measurement.step > 250:
            os.dup2(os.open("/dev/full", os.O_WRONLY), writer._file.fileno())
        measure(writer, measurement)

    monkeypatch.setattr(RunFolder, "append", log)
    monkeypatch.setattr(RunLog, "write", tensorboard)
    monkeypatch.setattr(RecordWriter, "append", record)
    return full


@pytest.mark.parametrize("what", ["metrics", "ledger", "record", "tensorboard"])
def test_a_disk_that_fills_while_a_log_is_written(what, tmp_path, monkeypatch, capfd):
    settings = config(
        "dqn-gym", checkpoint__period=200, plasticity__period=50, logging__tensorboard=what == "tensorboard"
    )
    with monkeypatch.context() as patched:
        full = fills(patched, what)
        with pytest.raises(ResourceError) as caught:
            train(settings, tmp_path)
    run = only_run(tmp_path)
    last = 400 if what == "ledger" else 200  # the ledger's first line after step 250 is about checkpoint 400
    lines = str(caught.value).splitlines()
    assert lines[0] == "error[resources]: the disk is full"
    assert lines[1] == f"the run stopped; last good checkpoint: {last}"
    assert lines[2] == f"fix: free disk space, then rlkit resume {run}"
    assert "Traceback" not in "".join(capfd.readouterr())
    assert "No space left" in (run / "crash.txt").read_text()
    assert RunFolder(run).status() == "crashed"
    for path in full:
        os.replace(f"{path}.kept", path)
    assert resume(run, settings) == 0
    assert f"from checkpoints/{last}" in capfd.readouterr().out
    assert RunFolder(run).status() == "finished"


def test_a_file_where_the_runs_should_go(tmp_path, capsys):
    (tmp_path / "file").touch()
    words = ["train", "dqn", "--env", "gym/CartPole-v1", "--preset", "smoke", "--threads=1"]
    assert rlkit([*words, "--runs", str(tmp_path / "file")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error[config]: no run folder can be made in {tmp_path}/file"
    assert lines[1].startswith("Not a directory: ")
    assert lines[2].startswith("fix: --runs DIR")


def test_what_the_system_refuses_a_command(tmp_path, capsys, monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "here/there")

    monkeypatch.setattr("rlkit.cli.ls.main", refuse)
    assert rlkit(["ls"]) == 6
    assert capsys.readouterr().err.splitlines()[0] == "error[resources]: Permission denied: here/there"
    with pytest.raises(PermissionError):
        rlkit(["ls", "--debug"])


REALLY_FULL = """
mount -t tmpfs -o size=3m none {runs}
head -c {ballast} /dev/zero > {runs}/ballast
{rlkit} train dqn --env gym/CartPole-v1 --runs {runs} --env_steps 20000 --checkpoint.period 500 --checkpoint.keep 1 \
    --checkpoint.replay false --logging.period 10 --evaluation.episodes 0 --threads 1 --network.hidden '[16]'
echo status $?
rm {runs}/ballast
mount -o remount,size=100m {runs}
{rlkit} resume {runs}/*/*/* --logging.period 1000
echo status $?
"""


@pytest.mark.slow
@pytest.mark.parametrize("ballast", ["1000K", "2000K"])
def test_a_run_on_a_really_full_disk(ballast, tmp_path):
    """A file system of 3 MB of this test's own, in which the logs grow until nothing fits."""
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own (unshare -Urm)")
    script = REALLY_FULL.format(runs=tmp_path, ballast=ballast, rlkit=f"{sys.executable} -m rlkit.cli.main")
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "error[resources]: the disk is full" in done.stderr
    assert f"then rlkit resume {tmp_path}" in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("status")] == ["status 6", "status 0"]
