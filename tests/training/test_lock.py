"""Only one process at a time in a run folder."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit.core.errors import ResumeError
from rlkit.training.run_folder import RunFolder

ROUNDS = 150


def take_each(number, barrier, folder):
    """Try to hold the folders 0, 1, ... at the very time that another process does."""
    held = []
    for place in range(ROUNDS):
        barrier.wait(20)
        try:
            with RunFolder(folder / str(place)).lock():
                held.append(place)
                barrier.wait(20)  # until the other one has tried
        except ResumeError:
            barrier.wait(20)
    (folder / f"held-{number}").write_text(json.dumps(held))


def test_a_dead_lock_that_two_processes_take_over_at_once(tmp_path):
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    for place in range(ROUNDS):
        (tmp_path / str(place)).mkdir()
        stale = {"host": socket.gethostname(), "pid": dead.pid, "since": "2026-01-01 00:00:00"}
        (tmp_path / str(place) / "lock").write_text(json.dumps(stale))
    forks = multiprocessing.get_context("fork")
    barrier = forks.Barrier(2)
    processes = [forks.Process(target=take_each, args=(number, barrier, tmp_path)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    held = [json.loads((tmp_path / f"held-{number}").read_text()) for number in range(2)]
    assert sorted(held[0] + held[1]) == list(range(ROUNDS))  # each folder by exactly one
    assert not list(tmp_path.glob("*/lock"))


def contend(turns, folder):
    """Hold the folder again and again; a second holder would find the mark of the first."""
    taken = 0
    while taken < turns:
        try:
            with RunFolder(folder).lock():
                os.mkdir(folder / "mark")
                os.rmdir(folder / "mark")
                taken += 1
        except ResumeError:
            continue


def test_a_lock_that_is_given_back_while_others_ask_for_it(tmp_path):
    forks = multiprocessing.get_context("fork")
    processes = [forks.Process(target=contend, args=(100, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_living_process_cannot_be_broken(tmp_path):
    folder = RunFolder(Path(tmp_path))
    with folder.lock():
        with pytest.raises(ResumeError, match="is in use") as caught, folder.lock(break_lock=True):
            pass
        assert f"process {os.getpid()}" in str(caught.value)
        assert "--break-lock" not in str(caught.value)


def test_a_lock_of_another_machine_can(tmp_path):
    folder = RunFolder(Path(tmp_path))
    elsewhere = {"host": "another", "pid": 1, "since": "2026-01-01 00:00:00"}
    (tmp_path / "lock").write_text(json.dumps(elsewhere))
    with pytest.raises(ResumeError, match="--break-lock"), folder.lock():
        pass
    assert folder.lock_holder() == elsewhere
    with folder.lock(break_lock=True):
        assert folder.lock_holder()["pid"] == os.getpid()
    assert folder.lock_holder() is None


def test_a_lock_that_was_never_written_is_nobodys(tmp_path):
    (tmp_path / "lock").touch()  # its process ended, or the disk was full, between two system calls
    with RunFolder(Path(tmp_path)).lock():
        pass
