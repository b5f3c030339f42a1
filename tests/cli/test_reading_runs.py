"""`rlkit compare` and `rlkit dormancy` on run folders."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from rlkit.cli.main import run
from tests.report.runs import make_run


def test_compare_prints_a_table(tmp_path, capsys):
    for i in range(3):
        make_run(tmp_path / "runs" / f"a{i}", seed=i, returns=(float(i),))
        make_run(tmp_path / "runs" / f"b{i}", seed=i, returns=(float(i + 2),), interventions=("redo",))
    assert run(["compare", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split("  ")[0] == "agent"
    assert out[1].split()[:4] == ["dqn", "3", "1", "1.00"]
    assert out[2].startswith("dqn + redo  3")
    assert "0.94" in out[2]
    assert out[3] == "scores: mean return of the last evaluation"


def test_dormancy_prints_a_line_a_layer(tmp_path, capsys):
    path = make_run(tmp_path / "run", probes=8)
    assert run(["dormancy", str(path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "dqn gym/X s0, finished: 8 probes to env step 70, update 7"
    assert (
        out[1]
        == "dormant: |h| after the activation, mean over samples and positions, over layer mean + 1e-9, at most 0.025"
    )
    assert out[2].split()[0] == "net.a"
    assert out[2].endswith("0.0 %      0 of 4")
    assert out[3].startswith("net.b   ▁▂▃▄▅▆▇")
    assert out[3].endswith("87.5 %      7 of 8")
    assert out[4].split()[-5:] == ["58.3", "%", "7", "of", "12"]


def test_following_ends_with_the_run(tmp_path, capsys, monkeypatch):
    """It waits for the first probe, shows the probes as they come, and what came last."""
    path = make_run(tmp_path / "run", status="running")
    looks = []

    def another_look(_):
        looks.append(capsys.readouterr().out)
        make_run(tmp_path / f"{len(looks)}", probes=2 + len(looks), status="finished" if len(looks) == 3 else "running")
        for name in ("plasticity", "run.json"):
            if (path / name).is_dir():
                shutil.rmtree(path / name)
            (tmp_path / f"{len(looks)}" / name).rename(path / name)

    monkeypatch.setattr("time.sleep", another_look)
    assert run(["dormancy", str(path), "--follow"]) == 0
    looks.append(capsys.readouterr().out)
    assert [look.splitlines()[0] for look in looks] == [
        "dqn gym/X s0, running: no probe yet",
        "dqn gym/X s0, running: 3 probes to env step 20, update 2",
        "dqn gym/X s0, running: 4 probes to env step 30, update 3",
        "dqn gym/X s0, finished: 5 probes to env step 40, update 4",
    ]


def test_following_a_run_whose_process_is_gone_ends(tmp_path, capsys):
    path = make_run(tmp_path / "run", probes=3, status="running")
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    lock = {"host": socket.gethostname(), "pid": int(gone.stdout), "since": "yesterday"}
    (path / "lock").write_text(json.dumps(lock))
    assert run(["dormancy", str(path), "--follow"]) == 0
    assert capsys.readouterr().out.startswith("dqn gym/X s0, crashed: 3 probes")


def test_a_redrawn_screen_counts_lines_that_go_on_in_the_next_row(tmp_path, capsys, monkeypatch):
    path = make_run(tmp_path / "run", probes=3, status="running")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")

    def finish(_):
        shown = capsys.readouterr().out.splitlines()
        finish.rows = sum(-(-len(line) // 60) for line in shown)
        make_run(tmp_path / "other", probes=3)
        (tmp_path / "other" / "run.json").rename(path / "run.json")

    monkeypatch.setattr("time.sleep", finish)
    assert run(["dormancy", str(path), "--follow"]) == 0
    assert finish.rows == 6  # five lines, the second of them 108 characters long
    assert capsys.readouterr().out.startswith("\x1b[6F\x1b[J")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dormancy", "{record}", "--threshold", "-1"], "--threshold is '-1'"),
        (["dormancy", "{record}", "--threshold", "nan"], "--threshold is 'nan'"),
        (["dormancy", "{record}", "--score", "redu"], "Did you mean 'redo'"),
        (["dormancy", "{plain}"], "no plasticity record"),
        (["dormancy", "{all}"], "holds 2 runs"),
        (["dormancy"], "RUN is missing"),
        (["compare"], "RUN is missing"),
        (["compare", "{empty}"], "holds no run"),
        (["compare", "{record}", "--bye", "agent"], "--by"),
    ],
)
def test_mistakes(words, expected, tmp_path, capsys):
    places = {
        "record": make_run(tmp_path / "all" / "record", probes=3),
        "plain": make_run(tmp_path / "all" / "plain"),
        "all": tmp_path / "all",
        "empty": tmp_path / "empty",
    }
    places["empty"].mkdir()
    assert run([word.format(**places) for word in words]) == 2
    assert expected in capsys.readouterr().err
